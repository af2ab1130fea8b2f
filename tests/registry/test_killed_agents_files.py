"""What an agent was writing when it was killed is nobody's any more: its successor removes it."""

from __future__ import annotations

from pathlib import Path

from altostack.inprocess import InProcessCloud
from tests.registry.crash import Bells


def test_half_written_files_go(tmp_path: Path) -> None:
    bells = Bells()
    cloud = InProcessCloud(tmp_path, bus=bells)
    root = cloud.nodes[0].root
    half = [
        root / "volume-work" / "v.image",
        root / "compute" / "snapshots" / "i.qcow2",
        root / "compute" / "images" / ".i.new",
        root / "compute" / "journal" / ".s.new",
    ]
    kept = root / "compute" / "images" / "i"
    for path in (*half, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    bells.forget()
    cloud.revive()
    assert [path for path in half if path.exists()] == []
    assert kept.exists()
    cloud.stop()
