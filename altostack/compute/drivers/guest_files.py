"""The files of one guest on a node, and the disk tools that work on them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from altostack.compute.drivers.base import (
    DeviceNotFound,
    GuestSpec,
    HypervisorError,
    ImageMissing,
    InvalidSpec,
    Unsupported,
    VolumeDisk,
)

GIB = 1024**3
MIB = 1024**2

# The console log is cut to the second figure when it passes the first: a guest may write for ever.
CONSOLE_MAX = 8 * MIB
CONSOLE_KEEP = 1 * MIB


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The folder of one guest. Files appear under their names only when complete."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def old_root(self) -> Path:
        return self.folder / "disk.old.qcow2"

    @property
    def swap(self) -> Path:
        return self.folder / "swap.raw"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def scratch(self) -> Path:
        """Target of a copy while a snapshot is taken."""
        return self.folder / "snapshot.part"

    def ephemeral(self, index: int) -> Path:
        return self.folder / f"ephemeral{index}.raw"

    def prepare(self, spec: GuestSpec) -> None:
        """Make what is missing. Raises ImageMissing, InvalidSpec, HypervisorError (a tool failed)."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        if spec.root is not None and not self.root.exists():
            image, size = spec.root, _virtual_size(spec.root.base, spec.root.format)
            if image.size_gib and image.size_gib * GIB < size:
                raise InvalidSpec(
                    f"the root disk of {image.size_gib} GiB is smaller than its image ({size / GIB:.2f} GiB)"
                )
            size = image.size_gib * GIB or size
            backing = ["-b", str(image.base), "-F", image.format]
            _appear(
                self.root,
                lambda new: run("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(new), str(size)),
            )
        for index, gib in enumerate(spec.ephemerals_gib):
            label = f"ephemeral{index}"
            _appear(self.ephemeral(index), lambda new, gib=gib, label=label: _ext4(new, gib * GIB, label))  # type: ignore[misc]  # mypy infers no type for defaults of a lambda
        if spec.swap_mib:
            _appear(self.swap, lambda new: _swap(new, spec.swap_mib * MIB))

    def require(self, spec: GuestSpec) -> None:
        """Raises ImageMissing or DeviceNotFound unless every disk of the spec has its file."""
        wanted = [self.root] if spec.root else []
        wanted += [self.ephemeral(i) for i in range(len(spec.ephemerals_gib))]
        wanted += [self.swap] if spec.swap_mib else []
        for path in wanted:
            if not path.exists():
                raise ImageMissing(f"guest {spec.id} has no {path.name}: its disks are not prepared")
        for volume in spec.volumes:
            volume_file(volume)

    def remove(self) -> None:
        """Remove the folder with all in it. Gone under its name first, so that a half removed guest shows no disk."""
        gone = self.folder.with_name(f".{self.folder.name}.gone")
        if self.folder.exists() and not gone.exists():
            self.folder.rename(gone)
        for folder in (gone, self.folder):
            if folder.exists():
                shutil.rmtree(folder)

    def trim_console(self) -> None:
        """Cut the console log when it is too long. QEMU appends, so it goes on writing at the new end."""
        try:
            if self.console.stat().st_size <= CONSOLE_MAX:
                return
        except FileNotFoundError:
            return
        with self.console.open("r+b") as log:
            log.seek(-CONSOLE_KEEP, os.SEEK_END)
            tail = log.read()
            log.seek(0)
            log.truncate()
            log.write(tail)

    def console_tail(self, *, lines: int | None, max_bytes: int) -> str:
        try:
            with self.console.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - max_bytes))
                text = log.read(max_bytes).decode(errors="replace")
        except FileNotFoundError:
            return ""
        return (
            text if lines is None else "".join(text.splitlines(keepends=True)[-lines:] if lines > 0 else [])
        )


def volume_file(disk: VolumeDisk) -> tuple[Path, str]:
    """Path and format behind a local volume. Raises Unsupported, InvalidSpec, DeviceNotFound."""
    kind = disk.connection.get("driver_volume_type")
    if kind != "local":
        raise Unsupported(
            f"volume {disk.volume_id}: connections of type {kind!r} are not supported here, only 'local'"
        )
    data = disk.connection.get("data") or {}
    path, form = data.get("path"), data.get("format")
    if not path or form not in ("qcow2", "raw"):
        raise InvalidSpec(
            f"volume {disk.volume_id}: a local connection names a path and a format, qcow2 or raw"
        )
    if not Path(path).exists():
        raise DeviceNotFound(f"volume {disk.volume_id}: its file {path} does not exist on this node")
    return Path(path), form


def copy(source: Path, target: Path) -> None:
    """Copy a disk file, sharing blocks where the file system can."""
    _appear(target, lambda new: run("cp", "--reflink=auto", "--sparse=always", str(source), str(new)))


def grow(path: Path, form: str, size: int) -> None:
    """Make a disk that no process uses at least ``size`` bytes large."""
    if _virtual_size(path, form) < size:
        run("qemu-img", "resize", "-q", "-f", form, str(path), str(size))


def flatten(source: Path, target: Path) -> None:
    """Write a qcow2 disk with all its layers into one qcow2 file, which replaces ``target`` at the end."""
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    run("qemu-img", "convert", "-q", "-f", "qcow2", "-O", "qcow2", str(source), str(fresh), timeout_s=3600)
    fresh.replace(target)


def run(*command: str, timeout_s: float = 600) -> str:
    """Run a tool, return what it wrote. Raises HypervisorError with its own words."""
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HypervisorError(f"{command[0]}: {error}") from error
    if ended.returncode != 0:
        raise HypervisorError(f"{' '.join(command)}: {(ended.stderr or ended.stdout).strip()}")
    return ended.stdout


def _appear(path: Path, make: Callable[[Path], object]) -> None:
    """Make a file under another name, then rename: after a crash it is there whole or not at all."""
    if path.exists():
        return
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    make(fresh)
    fresh.replace(path)


def _virtual_size(path: Path, form: str) -> int:
    """Size in bytes that a guest sees. Raises ImageMissing, InvalidSpec."""
    try:
        if form == "raw":
            return path.stat().st_size
        if form != "qcow2":
            raise InvalidSpec(f"{path} is said to be {form!r}; only qcow2 and raw disks can be used")
        with path.open("rb") as disk:
            header = disk.read(32)
    except FileNotFoundError as error:
        raise ImageMissing(f"the image file {path} does not exist on this node") from error
    if len(header) < 32 or header[:4] != b"QFI\xfb":
        raise InvalidSpec(f"{path} is said to be qcow2 but does not start as one")
    return int(struct.unpack(">Q", header[24:32])[0])


def _ext4(path: Path, size: int, label: str) -> None:
    _sparse(path, size)
    run("mkfs.ext4", "-q", "-F", "-L", label, "-E", "lazy_itable_init=1,lazy_journal_init=1", str(path))


def _swap(path: Path, size: int) -> None:
    _sparse(path, size)
    run("mkswap", "-q", str(path))


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as disk:
        disk.truncate(size)
    path.chmod(0o600)
