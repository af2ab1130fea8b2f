"""The sending half that the networked buses share: what waits for the wire, merged and bounded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from altostack.kit.bus.desk import Pending

MOST_FRAMES: Final = 10_000
"""Events and answers that may wait for the wire; more are dropped and counted."""

T = TypeVar("T")


class Outbox(Generic[T]):
    """Bells merge by topic; other frames keep their order. Thread-safe; `wake` is called after each arrival."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.dropped = 0
        self._wake = wake
        self._lock = threading.Lock()
        self._bells: dict[str, Pending] = {}
        self._frames: deque[tuple[float | None, T]] = deque()

    def bell(self, topic: str, ids: tuple[str, ...]) -> None:
        with self._lock:
            self._bells.setdefault(topic, Pending()).add(ids)
        self._wake()

    def frame(self, frame: T, *, deadline: float | None = None) -> bool:
        """Queue a frame, of no use after the monotonic time `deadline`; False when it had to be dropped."""
        with self._lock:
            if len(self._frames) >= MOST_FRAMES:
                self.dropped += 1
                return False
            self._frames.append((deadline, frame))
        self._wake()
        return True

    def take(self) -> tuple[list[tuple[str, tuple[str, ...]]], list[T]]:
        """Everything that waits and is still of use: bells as (topic, ids), then frames."""
        with self._lock:
            bells = [(topic, pending.take()) for topic, pending in self._bells.items()]
            now = time.monotonic()
            frames = [frame for deadline, frame in self._frames if deadline is None or deadline > now]
            self._bells.clear()
            self._frames.clear()
        return bells, frames

    def __bool__(self) -> bool:
        return bool(self._bells or self._frames)
