"""Rates that all processes of a machine keep together: who may go on when.

Each name has a moment (nanoseconds since 1970) at which the next request under it may run; a request takes the moment
and moves it on. The moments lie in a file that the processes share in memory; a name's place in it comes from its hash.
Two names on one place share its rate: with 65,536 places that is rare, and errs on the slow side.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PLACES: Final = 1 << 16
_WIDTH: Final = 8


class TooFast(Exception):
    """The wait would be too long. ``seconds``: how long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"a wait of {seconds:.2f} s")


class Buckets:
    """burst: seconds of unused rate that may be caught up at once."""

    def __init__(self, path: Path, seconds: Callable[[], float], *, burst: float = 5.0) -> None:
        self._path, self._seconds, self._burst = path, seconds, burst
        self._memory: mmap.mmap | None = None  # opened by the first that is limited
        self._descriptor = -1
        self._lock = threading.Lock()

    def _open(self) -> mmap.mmap:
        if self._memory is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._descriptor, _PLACES * _WIDTH)
            self._memory = mmap.mmap(self._descriptor, _PLACES * _WIDTH)
        return self._memory

    def take(self, name: str, rate: float, most: float) -> float:
        """Take a turn under ``name``, which has ``rate`` a second: the seconds to wait before going on.

        Raises TooFast, and takes no turn, when they would be more than ``most``.
        """
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") % _PLACES
        at = number * _WIDTH
        with self._lock:
            memory = self._open()
            # Record locks are a process's: the threads of this one are kept apart by the lock above.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, _WIDTH, at)
            try:
                now = self._seconds()
                held = int.from_bytes(memory[at : at + _WIDTH], "little") / 1e9
                moment = max(held, now - self._burst) if held else now
                wait = moment - now
                if wait > most + 2 / rate + 1:  # nobody took such a turn: the clock was set back
                    moment, wait = now, 0.0
                if wait > most:
                    raise TooFast(wait)
                memory[at : at + _WIDTH] = int((moment + 1 / rate) * 1e9).to_bytes(_WIDTH, "little")
                return max(0.0, wait)
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _WIDTH, at)
