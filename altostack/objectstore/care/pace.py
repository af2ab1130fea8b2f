"""How fast a pass may go: so many things a second, so that requests have the disks."""

from __future__ import annotations

import threading
import time


class Pace:
    """``rate``: things a second, 0 for as fast as it goes. A second's worth may be caught up after a pause."""

    def __init__(self, rate: float, stopping: threading.Event | None = None) -> None:
        self.rate = rate
        self._stopping = stopping or threading.Event()
        self._due = time.monotonic()

    def take(self, number: float = 1.0) -> None:
        """Wait until ``number`` more may be done; returns at once when the pass is to end."""
        if self.rate <= 0:
            return
        now = time.monotonic()
        self._due = max(self._due, now - 1.0) + number / self.rate
        if self._due > now:
            self._stopping.wait(self._due - now)
