"""Turns: who changes an object only if it is what they saw (If-Match) does so one after the other.

Among the processes of one machine. Proxies of different machines do not wait for each other: of two that change the
same version at the same instant both may succeed, and the later timestamp stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Turns:
    """Locks by objects, in files below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "run" / "objectstore-turns"

    @contextlib.contextmanager
    def take(self, digest: str) -> Iterator[None]:
        """Wait for one's turn at the object of that digest (32 hex digits); some others share it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / digest[:2], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
