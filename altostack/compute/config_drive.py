"""A small disk that carries a server's metadata, for guests that look for it there: vfat, label config-2.

Needs the commands mkfs.vfat (dosfstools) and mcopy (mtools); neither needs root.
"""

from __future__ import annotations

import base64
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from altostack.compute.drivers.base import HypervisorError

LABEL = "config-2"
_KIB = 65_536  # as large as the field's own, whatever little is in it; the file is sparse


def volume_id(server_id: str) -> str:
    """The name under which a guest has its config drive among its volumes."""
    return f"config-{server_id}"


def build(path: Path, files: Mapping[str, str]) -> None:
    """Write the drive, replacing ``path`` at the end. ``files``: path -> content in base64.

    Raises HypervisorError when a command fails or is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name, content in files.items():
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(base64.b64decode(content))
            _run("mkfs.vfat", "-C", "-n", LABEL, str(fresh), str(_KIB))
            _run("mcopy", "-s", "-o", "-i", str(fresh), *(str(one) for one in sorted(root.iterdir())), "::/")
        fresh.chmod(0o600)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _run(*command: str) -> None:
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"PATH": path, "MTOOLS_SKIP_CHECK": "1"}
        )
    except OSError as error:
        raise HypervisorError(f"config drive: {command[0]}: {error}") from error
    if done.returncode:
        raise HypervisorError(f"config drive: {command[0]}: {(done.stderr or done.stdout).strip()[:300]}")
