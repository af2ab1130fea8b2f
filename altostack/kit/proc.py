"""Facts about Linux processes, and a few calls Python has no words for."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from functools import lru_cache
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # prctl(2)
PR_SET_NAME: Final = 15
M_ARENA_MAX: Final = -8  # mallopt(3)
_WRITE: Final = 2  # sync_file_range(2): SYNC_FILE_RANGE_WRITE
_WRITE_AND_WAIT: Final = 7  # and SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WAIT_AFTER


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot (proc(5), field 22 of stat); 0 if none lives.

    A pid alone may have been given to another process since; a pid with its start time names one process.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """A name for the time since the machine was last started: pids and start times are from it alone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def alive(pid: int, started: int) -> bool:
    """Whether that very process still runs."""
    return started != 0 and start_time(pid) == started


def pss(pid: int) -> int:
    """Proportional set size in bytes (proc(5), smaps_rollup): memory, shared pages divided by their sharers.

    Raises:
        OSError: the process is gone or not ours to look at.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """User and system time the process has used.

    Raises:
        OSError: the process is gone.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which forked it, ends in whatever way.

    Raises:
        SystemExit: the parent is gone already.
    """
    _libc().prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)


def set_name(name: str) -> None:
    """Show `name` (15 bytes) in ps and top."""
    _libc().prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def spare_memory() -> None:
    """Keep the allocator from reserving one arena a thread, and return what is free to the system."""
    libc = _libc()
    libc.mallopt(M_ARENA_MAX, 2)
    libc.malloc_trim(0)


def syncfs(descriptor: int) -> None:
    """Bring to the disk whatever is written to the file system that an open file is on (syncfs(2)). Raises OSError."""
    if _libc().syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write_out(descriptor: int, offset: int, length: int, *, wait: bool = False) -> None:
    """Have the disk begin to write a part of an open file, or ``wait`` until it has written it (sync_file_range(2)).

    That makes nothing durable: neither what says where the part lies nor the disk's own cache is written. Whoever wants
    that calls fsync in the end, and finds little left to do. Nothing happens where a file system does not have it.
    Raises OSError for what could not be written.
    """
    how = _WRITE_AND_WAIT if wait else _WRITE
    if _libc().sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), how):
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP):
            raise OSError(number, os.strerror(number))


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
