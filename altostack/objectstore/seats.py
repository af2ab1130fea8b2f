"""How many threads work at a time: a few, as long as they get on, and another for each that has to wait.

Many threads that are all ready to run keep a Python process busy with handing on its interpreter: 32 of them answer
little more than half of what 4 do. But a request may wait for its client, a disk or another node, and then others must
not. So a thread takes one of a few seats before it looks for work, and whoever works for longer than a moment is taken
off its seat, which another thread may have.
"""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import Final

MOMENT: Final = 0.02  # seconds


class Seats:
    """``count`` seats. `close` gives everybody one, at the end."""

    def __init__(self, count: int) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()
        self._sitters: list[Sitter] = []
        self._lock = threading.Lock()
        self._some = threading.Event()  # somebody may be at work
        self._closed = False
        for _ in range(count):
            self._free.put(None)

    def sitter(self) -> Sitter:
        """For one thread."""
        made = Sitter(self)
        with self._lock:
            self._sitters.append(made)
        return made

    def watch(self) -> None:
        """Take those off their seats that need long, until `close`. Runs in a thread of its own."""
        while not self._closed:
            self._some.wait()
            self._some.clear()
            while not self._closed and self._look():
                time.sleep(MOMENT)

    def _look(self) -> bool:
        """Whether anybody is at work."""
        late, working = time.monotonic() - MOMENT, False
        for one in self._sitters:
            since = one.since
            if since:
                working = True
                if since < late and not one.standing:
                    with self._lock:
                        if one.since == since:
                            one.standing = True
                            self._free.put(None)
        return working

    def close(self) -> None:
        """Nobody waits for a seat any more."""
        self._closed = True
        self._some.set()
        for _ in range(len(self._sitters) + 1):
            self._free.put(None)


class Sitter:
    """A thread's way to a seat: `sit`, then `begin` and `end` around each piece of work."""

    __slots__ = ("_seats", "since", "standing")

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self.since = 0.0  # monotonic time at which its work began, 0 while it has none
        self.standing = True  # it has no seat, or what it had is somebody else's now

    def sit(self) -> None:
        """Wait for a seat, unless it has one."""
        if self.standing:
            self._seats._free.get()
            self.standing = False

    def begin(self) -> None:
        """There is work."""
        self.since = time.monotonic()
        if not self._seats._some.is_set():
            self._seats._some.set()

    def end(self) -> None:
        """The work is done."""
        with self._seats._lock:  # whoever takes the seat does it before or not at all
            self.since = 0.0
