"""What has to wait for a disk is put off until everything that a thread does for a request is under way.

Copies that a thread writes one after the other would each wait for a sync. What comes after that wait is handed to
`put_off`; inside of `collected` it is done by whoever collects, else at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Work = Callable[[], None]
_here = threading.local()  # .works: the innermost list


def put_off(work: Work) -> None:
    """Do it later, or now when nobody collects. Raises what it raises, now or later."""
    works: list[Work] | None = getattr(_here, "works", None)
    if works is None:
        work()
    else:
        works.append(work)


@contextmanager
def collected() -> Iterator[list[Work]]:
    """What is put off inside. Whoever collects it does it, in that order, outside."""
    before: list[Work] | None = getattr(_here, "works", None)
    works: list[Work] = []
    _here.works = works
    try:
        yield works
    finally:
        _here.works = before
