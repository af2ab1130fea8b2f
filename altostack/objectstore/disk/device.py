"""The devices of this machine: folders, or mount points, below one folder."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import os
import secrets
import time
from collections.abc import Iterator
from typing import Final

from altostack.objectstore.disk import layout
from altostack.objectstore.disk.journal import Journals
from altostack.objectstore.storage import DeviceFull, DeviceGone, StorageError

log = logging.getLogger(__name__)

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_ORDERLY: Final = frozenset({"ext4", "xfs"})
_KNOWN: Final = 1.0  # seconds for which the free space of a device is remembered


class Devices:
    """Finds devices and makes sure that they can be used.

    root: the folder. mount_check: a device that is no mount point is not used. reserve: bytes to be left free.
    journals: what sees to it that small files last.
    """

    def __init__(self, root: str, *, journals: Journals, mount_check: bool = False, reserve: int = 0) -> None:
        self.root = root
        self.mount_check, self.reserve = mount_check, reserve
        self.journals = journals
        self._free: dict[str, tuple[float, int]] = {}
        self._token = secrets.token_hex(8)
        self._numbers = itertools.count()

    def path(self, device: str) -> str:
        """A device's folder. Raises DeviceGone when it is not mounted."""
        if not device or "/" in device or device.startswith("."):
            raise DeviceGone(f"{device!r} is no device's name")
        path = f"{self.root}/{device}"
        if self.mount_check and not os.path.ismount(path):
            raise DeviceGone(f"{device} is not mounted")
        return path

    def names(self) -> list[str]:
        """The devices that are here, by name."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root) as found:
            return sorted(one.name for one in found if one.is_dir() and not one.name.startswith("."))
        return []

    def recover(self) -> None:
        """Have every device's journal looked through: what a loss of power took is made again."""
        for name in self.names():
            try:
                self.journals.recover(self.path(name))
            except (OSError, StorageError) as error:
                log.error("the journal of %s cannot be looked through: %s", name, error)

    def ensure(self, path: str) -> None:
        """Raises DeviceGone when a device's folder is not there."""
        if not os.path.isdir(path):
            raise DeviceGone(f"{os.path.basename(path)} is not there")

    def room(self, path: str, size: int) -> None:
        """Raises DeviceFull when ``size`` bytes more would leave less than the reserve."""
        if not self.reserve:
            return
        now = time.monotonic()
        when, free = self._free.get(path, (0.0, 0))
        if now - when > _KNOWN or free - size < self.reserve:
            found = os.statvfs(path)
            free = found.f_bavail * found.f_frsize
            self._free[path] = (now, free)
        if free - size < self.reserve:
            raise DeviceFull(f"{os.path.basename(path)} keeps {self.reserve} bytes free")

    def temporary(self, path: str) -> tuple[int, str]:
        """A new file on the device, open for reading and writing, and its path. Raises DeviceGone, OSError."""
        name = f"{path}/{layout.TMP}/{os.getpid():x}-{self._token}-{next(self._numbers):x}"
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(name, flags, 0o600), name
        except FileNotFoundError:
            self.ensure(path)
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{path}/{layout.TMP}")
            return os.open(name, flags, 0o600), name


@contextlib.contextmanager
def guarded(path: str) -> Iterator[None]:
    """Errors of the operating system become StorageErrors that name the device at ``path``."""
    try:
        yield
    except OSError as error:
        raise trouble(path, error) from error


def trouble(path: str, error: OSError) -> StorageError:
    """What an error of the operating system means for whoever uses the device at ``path``."""
    said = f"{os.path.basename(path)}: {error.strerror or error}"
    return DeviceFull(said) if error.errno in _FULL else DeviceGone(said)


@functools.lru_cache(maxsize=256)
def names_last_with_files(number: int) -> bool:
    """Whether syncing a new file makes its name, and new folders above it, last too; ``number``: st_dev of its device.

    POSIX leaves that to a sync of each folder. ext4 and XFS do it: what a file's inode depends on is in the same or an
    earlier transaction, and ext4 without a journal syncs new parents (Mohan et al., OSDI 2018). What cannot be told of
    a device is not assumed.
    """
    wanted = f"{os.major(number)}:{os.minor(number)}"
    with contextlib.suppress(OSError), open("/proc/self/mountinfo") as table:
        for line in table:
            mount, _, kind = line.partition(" - ")
            if mount.split()[2] == wanted:
                return kind.split()[0] in _ORDERLY
    return False
