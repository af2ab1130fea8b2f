"""Files and folders, as every part of the store opens, makes and syncs them."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

from altostack.kit import proc

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY


def open_unseen(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a file or folder without a trace of its being read. Raises OSError.

    Otherwise the first read after each change writes down its time (mount(8), relatime), and with a journal that waits
    for the transaction which a writer's sync has just begun to commit.
    """
    try:
        return os.open(path, flags | os.O_NOATIME | os.O_CLOEXEC)
    except PermissionError:  # it is another user's
        return os.open(path, flags | os.O_CLOEXEC)


def names(folder: str) -> list[str]:
    """What is in a folder. Raises FileNotFoundError, OSError."""
    descriptor = open_unseen(folder, _FOLDER)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def touch_above(folder: str) -> None:
    """Set the times of change of the two folders above one, if they are there. Raises OSError."""
    now = time.time_ns()
    above = os.path.dirname(folder)
    with contextlib.suppress(FileNotFoundError):  # emptied and swept away meanwhile
        os.utime(above, ns=(now, now))
        os.utime(os.path.dirname(above), ns=(now, now))


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder's entries last. Raises OSError."""
    descriptor = os.open(path, _FOLDER | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_disk(path: str) -> None:
    """Make everything last that was written to the file system of a folder. Raises OSError."""
    descriptor = os.open(path, _FOLDER | os.O_CLOEXEC)
    try:
        proc.syncfs(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: str, levels: int) -> list[str]:
    """Make a folder and at most ``levels`` - 1 missing ones above it; the folders whose entries changed.

    Raises FileNotFoundError when more is missing.
    """
    try:
        os.mkdir(path)
    except FileExistsError:
        return []
    except FileNotFoundError:
        if levels <= 1:
            raise
        above = os.path.dirname(path)
        changed = make_folders(above, levels - 1)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        return [*changed, above]
    return [os.path.dirname(path)]
