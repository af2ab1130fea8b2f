"""Timestamps: what orders everything in the object store, and names files on disk.

A timestamp is text: ten digits of seconds since 1970, a point, nine digits. Texts of equal form sort as the times do.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Final

ZERO: Final = "0000000000.000000000"
_FORM = re.compile(r"(\d{1,10})(?:\.(\d{1,9})\d*)?")


class Clock:
    """Gives timestamps, each later than the one before it."""

    def __init__(self, nanoseconds: Callable[[], int] = time.time_ns) -> None:
        self._nanoseconds = nanoseconds
        self._last = 0
        self._lock = threading.Lock()

    def now(self) -> str:
        """A timestamp that this clock has not given yet."""
        with self._lock:
            self._last = max(self._last + 1, self._nanoseconds())
            return of_ns(self._last)

    def seconds(self) -> float:
        """The time, seconds since 1970."""
        return self._nanoseconds() / 1e9


def of_ns(nanoseconds: int) -> str:
    """Nanoseconds since 1970 as a timestamp."""
    seconds, rest = divmod(max(0, nanoseconds), 1_000_000_000)
    return f"{seconds:010d}.{rest:09d}"


def normal(text: str) -> str:
    """What a client or another cluster sent (``1700000000``, ``1700000000.12345``) in our form. Raises ValueError."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a timestamp")
    return f"{int(found[1]):010d}.{(found[2] or ''):0<9}"


def seconds(stamp: str) -> float:
    """Seconds since 1970."""
    return float(stamp)


def shown(stamp: str) -> str:
    """As the Swift API shows it (X-Timestamp): five digits after the point."""
    return stamp[:16]


def iso(stamp: str) -> str:
    """As listings show it: ``2026-01-31T12:00:00.123450``, UTC."""
    return f"{_second(stamp[:10])}.{stamp[11:16]}0"


@functools.lru_cache(maxsize=16_384)
def _second(text: str) -> str:
    """A second of UTC. What is listed together was often written together."""
    return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%S")


def http_date(stamp: str) -> str:
    """As Last-Modified says it (RFC 9110, 5.6.7): whole seconds, rounded up, so that it is never before the change."""
    whole, _, rest = stamp.partition(".")
    return formatdate(int(whole) + (rest.strip("0") != ""), usegmt=True)
