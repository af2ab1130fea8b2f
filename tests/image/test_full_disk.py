"""A full disk: the service's own error, and nothing left behind. Needs root, for a small disk of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real


def test_a_full_disk(tmp_path: Path) -> None:
    command = [
        "unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.image.full_disk", str(tmp_path)
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as it should be" in done.stdout
