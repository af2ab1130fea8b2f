"""How many threads work at a time: a few, as long as they get on, and another for each that has to wait.

Many threads that are all ready to run keep a Python process busy with handing on its interpreter: 32 of them answer
little more than half of what 4 do. But a request may wait for its client, a disk or another node, and then others must
not. So a thread takes one of a few seats before it looks for work. It leaves it while it waits for a disk (`standing`),
and whoever works for longer than a moment is taken off its seat, which another thread may have.

Who has work and no seat comes before those who look for work, and takes the seat of one of them if need be.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MOMENT: Final = 0.02  # seconds
_here = threading.local()  # .sitter: of a thread that has one


class Seats:
    """``count`` seats. `close` gives everybody one, at the end."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()  # for all of this and of the sitters
        self._sitters: list[Sitter] = []
        self._looking: set[Sitter] = set()  # on a seat, without work
        self._urgent: deque[Sitter] = deque()  # without a seat, with work
        self._waiting: deque[Sitter] = deque()  # without a seat, without work
        self._some = threading.Event()  # somebody may be at work
        self._closed = False

    def sitter(self) -> Sitter:
        """For the thread that calls."""
        made = _here.sitter = Sitter(self)
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

    def close(self) -> None:
        """Nobody waits for a seat any more."""
        with self._lock:
            self._closed = True
            self._free += len(self._sitters)
            for one in (*self._urgent, *self._waiting):
                one._seat()
            self._urgent.clear()
            self._waiting.clear()
        self._some.set()

    def _look(self) -> bool:
        """Whether anybody is at work."""
        late, working = time.monotonic() - MOMENT, False
        for one in self._sitters:
            since = one.since
            if since:
                working = True
                if since < late and not one.standing:
                    with self._lock:
                        if one.since == since and not one.standing:
                            self._rise(one)
        return working

    # ---- with the lock held

    def _rise(self, one: Sitter) -> None:
        """Take it off its seat, which goes to who has work, to who looks for it, or to nobody."""
        one.standing = True
        if self._urgent:
            self._urgent.popleft()._seat()
        elif self._waiting:
            self._waiting.popleft()._seat()
        else:
            self._free += 1

    def _find(self, one: Sitter, *, urgent: bool) -> bool:
        """Give it a seat, or note that it waits for one."""
        if self._free:
            self._free -= 1
        elif urgent and self._looking:
            self._looking.pop().standing = True
        else:
            (self._urgent if urgent else self._waiting).append(one)
            return False
        one.standing = False
        return True


class Sitter:
    """A thread's way to a seat: `sit`, look for work, then `begin` and `end` around it."""

    __slots__ = ("_bell", "_seats", "since", "standing")

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._bell = threading.Lock()  # open when somebody gave it a seat
        self._bell.acquire()
        self.since = 0.0  # monotonic time at which its work began, or went on; 0 while it has none
        self.standing = True  # it has no seat

    def sit(self) -> None:
        """Wait for a seat from which to look for work."""
        seats = self._seats
        while True:
            with seats._lock:
                if not self.standing and seats._urgent:
                    seats._rise(self)
                if not self.standing or seats._find(self, urgent=False):
                    seats._looking.add(self)
                    return
            self._bell.acquire()

    def begin(self) -> None:
        """There is work: wait for a seat if somebody has taken this one's."""
        seats = self._seats
        with seats._lock:
            seats._looking.discard(self)
        if self.standing:
            self._take()
        else:
            self.since = time.monotonic()
        if not seats._some.is_set():
            seats._some.set()

    def stand(self) -> None:
        """Leave the seat inside of work."""
        with self._seats._lock:
            if not self.standing:
                self._seats._rise(self)

    def go_on(self) -> None:
        """Take a seat again."""
        if self.standing:
            self._take()

    def end(self) -> None:
        """The work is done."""
        with self._seats._lock:  # whoever takes the seat does it before or not at all
            self.since = 0.0

    def _take(self) -> None:
        with self._seats._lock:
            self.since = 0.0  # nobody at work, while it waits
            here = self._seats._find(self, urgent=True)
        if not here:
            self._bell.acquire()
        self.since = time.monotonic()

    def _seat(self) -> None:
        """Here is one. With the lock held."""
        self.standing = False
        self._bell.release()


@contextmanager
def standing() -> Iterator[None]:
    """For what is known to wait: the thread leaves its seat, if it has one, and takes one again afterwards."""
    sitter: Sitter | None = getattr(_here, "sitter", None)
    if sitter is None or sitter.standing or not sitter.since:
        yield
        return
    sitter.stand()
    try:
        yield
    finally:
        sitter.go_on()
