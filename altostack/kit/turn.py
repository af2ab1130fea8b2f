"""Whose turn it is to write: one writer at a time, over the threads of all processes of this machine.

SQLite has one writer at a time too, but waiting for it is a lottery with pauses that grow to 100 ms. Here threads of
one process queue on a lock, and the one in front asks for the processes' turn often: a file lock (flock(2)), which
ends with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

_PAUSE = 0.0003  # seconds between two questions, growing to ten times that: a write takes about a millisecond


class Turn:
    """The turn to write to what stands at ``path``. Made before a fork, it must be `forget`-ten in the child."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._here = threading.Lock()
        self._file = -1

    def acquire(self, timeout: float) -> bool:
        """Wait for the turn, at most so many seconds; whether it came. Raises OSError when the file cannot be made."""
        until = time.monotonic() + timeout
        if not self._here.acquire(timeout=timeout):
            return False
        try:
            if self._file < 0:
                self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            pause = _PAUSE
            while not self._taken():
                if time.monotonic() > until:
                    self._here.release()
                    return False
                time.sleep(pause)
                pause = min(pause * 1.3, 10 * _PAUSE)
        except BaseException:
            self._here.release()
            raise
        return True

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give the turn back."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._here.release()

    def forget(self) -> None:
        """After a fork, in the child: leave the parent's turns to the parent."""
        self._here = threading.Lock()
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
