"""Volumes as sparse raw files in one folder, for guests on the same machine.

Every volume and every snapshot is a file of its own that depends on no other: deleting a snapshot cannot harm the
volumes made from it, nor deleting a volume its snapshots, and nothing that a guest writes is ever taken for a file
format's header. Where the file system can (XFS, btrfs), a copy shares its blocks with the original and is atomic, also
while a guest writes (FICLONE, ioctl_ficlonerange(2)). Elsewhere the data is copied by qemu-img, which locks the file: a
volume that a guest has open is then VolumeBusy. A new file reads as zeros, so no volume shows what another left behind.

Files appear under their names only when complete and synced; what is half-made has a name of its own, and the next
call for the same id sweeps it away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from oslo_utils.imageutils import format_inspector

from altostack.volume.drivers.base import (
    BackendFull,
    DriverError,
    Existing,
    FromImage,
    FromSnapshot,
    FromVolume,
    Mode,
    SnapshotNotFound,
    Source,
    SourceUnusable,
    Stats,
    VolumeBusy,
    VolumeNotFound,
)

GIB = 1 << 30
_FICLONE = 0x40049409  # linux/fs.h
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
_SUFFIX = ".raw"

# The image service's name of a format -> QEMU's.
_QEMU_FORMATS = {
    "raw": "raw", "iso": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhd": "vpc", "vhdx": "vhdx",
}  # fmt: skip
_LOOKS_RAW = {"raw", "gpt", "iso"}


class LocalDriver:
    """A VolumeDriver in ``folder``, which it makes.

    ``timeout``: seconds that one copy may take; it may take as much processor time.
    """

    def __init__(self, folder: Path, *, timeout: float = 3600.0) -> None:
        self._volumes = folder / "volumes"
        self._snapshots = folder / "snapshots"
        self._timeout = timeout
        for each in (self._volumes, self._snapshots):
            each.mkdir(parents=True, exist_ok=True)

    def ensure(self, volume_id: str, *, gib: int, source: Source | None = None) -> None:
        """See `VolumeDriver.ensure`."""
        target = _file(self._volumes, volume_id)
        if not target.exists():
            _appear(target, lambda new: self._fill(new, gib * GIB, source))
        _grow(target, gib * GIB)

    def remove(self, volume_id: str) -> None:
        """See `VolumeDriver.remove`."""
        _vanish(_file(self._volumes, volume_id))

    def extend(self, volume_id: str, *, gib: int) -> None:
        """See `VolumeDriver.extend`."""
        _grow(self._volume(volume_id), gib * GIB)

    def snapshot(self, snapshot_id: str, *, volume_id: str) -> None:
        """See `VolumeDriver.snapshot`."""
        target = _file(self._snapshots, snapshot_id)
        if not target.exists():
            volume = self._volume(volume_id)
            _appear(target, lambda new: self._copy(volume, new))

    def remove_snapshot(self, snapshot_id: str) -> None:
        """See `VolumeDriver.remove_snapshot`."""
        _vanish(_file(self._snapshots, snapshot_id))

    def connection(self, volume_id: str, *, mode: Mode = "rw") -> dict[str, Any]:
        """See `VolumeDriver.connection`. The data: path, format, access_mode."""
        path = self._volume(volume_id)
        return {
            "driver_volume_type": "local",
            "data": {"path": str(path.absolute()), "format": "raw", "access_mode": mode},
        }

    def terminate(self, volume_id: str) -> None:
        """See `VolumeDriver.terminate`. A file needs no farewell."""
        _file(self._volumes, volume_id)

    def copy_to_image(self, volume_id: str, out: Path, *, format: str) -> None:
        """See `VolumeDriver.copy_to_image`."""
        if format not in _QEMU_FORMATS or format == "iso":
            raise DriverError(f"a volume cannot be written as {format!r}")
        volume = self._volume(volume_id)

        def convert(new: Path) -> None:
            with self._still(volume) as still:
                self._qemu_img("convert", "-f", "raw", "-O", _QEMU_FORMATS[format], str(still), str(new))

        _appear(out, convert)

    def stats(self) -> Stats:
        """See `VolumeDriver.stats`."""
        space = os.statvfs(self._volumes)
        sizes = [
            path.stat().st_size for folder in (self._volumes, self._snapshots) for path in _complete(folder)
        ]
        return Stats(
            total_gib=space.f_blocks * space.f_frsize / GIB,
            free_gib=space.f_bavail * space.f_frsize / GIB,
            provisioned_gib=sum(sizes) / GIB,
        )

    def list(self) -> Existing:
        """See `VolumeDriver.list`."""
        return Existing(
            volumes=frozenset(path.stem for path in _complete(self._volumes)),
            snapshots=frozenset(path.stem for path in _complete(self._snapshots)),
        )

    def _volume(self, volume_id: str) -> Path:
        path = _file(self._volumes, volume_id)
        if not path.exists():
            raise VolumeNotFound(f"there is no volume {volume_id}")
        return path

    def _fill(self, new: Path, size: int, source: Source | None) -> None:
        """Write the content of a new volume; the caller makes it ``size`` bytes large."""
        match source:
            case None:
                new.touch()
            case FromVolume(volume_id=volume_id):
                self._copy(self._volume(volume_id), new)
            case FromSnapshot(snapshot_id=snapshot_id):
                path = _file(self._snapshots, snapshot_id)
                if not path.exists():
                    raise SnapshotNotFound(f"there is no snapshot {snapshot_id}")
                self._copy(path, new)
            case FromImage(path=path, format=format):
                needed = _judge(path, format)
                if needed > size:
                    raise SourceUnusable(
                        f"the image needs {-(-needed // GIB)} GiB, the volume has {size // GIB} GiB"
                    )
                self._qemu_img("convert", "-f", _QEMU_FORMATS[format], "-O", "raw", str(path), str(new))
        if new.stat().st_size > size:
            raise SourceUnusable(
                f"the source needs {-(-new.stat().st_size // GIB)} GiB, the volume has {size // GIB} GiB"
            )
        _grow(new, size)

    def _copy(self, path: Path, new: Path) -> None:
        """Copy a raw file as it is at one moment. Raises VolumeBusy."""
        if not _clone(path, new):
            self._qemu_img("convert", "-f", "raw", "-O", "raw", str(path), str(new))

    @contextlib.contextmanager
    def _still(self, volume: Path) -> Iterator[Path]:
        """A file with the volume's content that nobody changes: a clone, or the volume itself, which qemu-img locks."""
        with tempfile.TemporaryDirectory(
            prefix=f".{volume.stem}.", suffix=".new", dir=volume.parent
        ) as folder:
            clone = Path(folder) / "clone"
            yield clone if _clone(volume, clone) else volume

    def _qemu_img(self, *arguments: str) -> None:
        """Run qemu-img within limits of memory and time; it ends with the thread that called it. Raises DriverError."""
        seconds = int(self._timeout)
        command = [
            *("prlimit", f"--as={4 * GIB}", f"--cpu={seconds}", "--core=0"),
            *("setpriv", "--no-new-privs", "--pdeathsig", "KILL"),
            *("qemu-img", *arguments),
        ]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self._timeout,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as trouble:
            raise DriverError(f"qemu-img {arguments[0]} did not end within {seconds} s") from trouble
        except FileNotFoundError as trouble:
            raise DriverError("prlimit (package util-linux) is not installed") from trouble
        if done.returncode == 0:
            return
        said = done.stderr.strip() or f"ended with {done.returncode}"
        if " lock" in said and "another process" in said:
            raise VolumeBusy(
                "a guest has the volume open, and this file system cannot clone files: detach it first, "
                "or keep volumes on XFS or btrfs"
            )
        if "No space left" in said or "File too large" in said:
            raise BackendFull(f"no space left: {said}")
        raise DriverError(f"qemu-img {arguments[0]}: {said}")


def _file(folder: Path, name: str) -> Path:
    if not _ID.fullmatch(name):  # ids become file names
        raise DriverError(f"{name!r} is not an id")
    return folder / f"{name}{_SUFFIX}"


def _complete(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.suffix == _SUFFIX and not path.name.startswith("."))


def _judge(path: Path, format: str) -> int:
    """Size in bytes of the disk in an image that is what it is said to be and names no other file.

    Raises SourceUnusable.
    """
    if format not in _QEMU_FORMATS:
        raise SourceUnusable(f"images of format {format!r} cannot become volumes")
    try:
        found = format_inspector.detect_file_format(str(path))
        if found is None:
            raise SourceUnusable("the image is of no known format")
        found.safety_check()
    except OSError as trouble:
        raise SourceUnusable(f"the image cannot be read: {trouble}") from trouble
    except format_inspector.SafetyCheckFailed as trouble:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in trouble.failures.items())
        raise SourceUnusable(f"the image is unsafe ({reasons})") from trouble
    except format_inspector.ImageFormatError as trouble:
        raise SourceUnusable(f"the image is damaged ({trouble})") from trouble
    raw = _QEMU_FORMATS[format] == "raw"
    if format != found.NAME and not (raw and found.NAME in _LOOKS_RAW):
        raise SourceUnusable(f"the image is said to be {format}, but it is {found.NAME}")
    return path.stat().st_size if raw else int(found.virtual_size)


def _clone(path: Path, new: Path) -> bool:
    """Share the blocks of a file; False where the file system cannot, and nothing is left then."""
    with path.open("rb") as old, new.open("xb") as fresh:
        try:
            fcntl.ioctl(fresh.fileno(), _FICLONE, old.fileno())
            return True
        except OSError as trouble:
            if trouble.errno not in _NO_CLONE:
                raise
    new.unlink()
    return False


def _grow(path: Path, size: int) -> None:
    """Have the file at least ``size`` bytes large. Raises BackendFull."""
    with path.open("r+b") as file:
        if os.fstat(file.fileno()).st_size >= size:
            return
        try:
            file.truncate(size)
            os.fsync(file.fileno())
        except (OSError, OverflowError) as trouble:
            if isinstance(trouble, OverflowError) or trouble.errno in _FULL:
                raise BackendFull(f"the file system holds no file of {size // GIB} GiB") from trouble
            raise


def _appear(target: Path, make: Callable[[Path], None]) -> None:
    """Have ``target`` whole or not at all: made under a name of its own, synced, renamed.

    A name for each call, so that two calls at once for one id cannot write into each other's file.
    """
    _sweep(target)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", suffix=".new", dir=target.parent) as folder:
        new = Path(folder) / target.name
        try:
            make(new)
            new.chmod(0o600)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(target)
        except FileNotFoundError as trouble:
            if target.exists():
                return  # another call for the same id has swept ours away, and was faster
            raise DriverError(f"{target.name} was removed while it was made") from trouble
        except OSError as trouble:
            if trouble.errno in _FULL:
                raise BackendFull(f"no space left for {target.name}") from trouble
            raise
    _sync(target.parent)


def _vanish(target: Path) -> None:
    _sweep(target)
    target.unlink(missing_ok=True)
    _sync(target.parent)


def _sweep(target: Path) -> None:
    """Remove what calls that were killed left half-made of this target."""
    for left in target.parent.glob(f".{glob.escape(target.stem)}.*.new"):
        shutil.rmtree(
            left, ignore_errors=True
        )  # another call may sweep too; what stays is swept by the next one


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
