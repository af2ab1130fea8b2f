"""What lines and listings cost: ``python -m tests.objectstore.ledger.bench [objects]``, in a folder of its own.

Prints rates by the wall clock and processor time of this process, by which runs on a busy machine can be compared.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from altostack.objectstore.config import Settings
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import Query, Row
from tests.objectstore.ledger.conftest import spot

C = spot("a/c")


class Bench:
    """One container on one device."""

    def __init__(self, folder: Path) -> None:
        (folder / "d1").mkdir()
        self.clock = Clock()
        self.ledgers = Ledgers(folder, Settings(), clock=self.clock)
        self.ledgers.create(C, "a", "c", self.clock.now())

    def row(self, number: int) -> Row:
        """The object of that number; names are spread over the whole list."""
        summed = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
        return Row(
            name=f"{summed[:2]}/{summed[2:16]}", timestamp=self.clock.now(), size=3000, etag=summed,
            content_type="application/octet-stream",
        )  # fmt: skip

    def record(self, start: int, stop: int, at_once: int) -> None:
        """Objects from ``start`` to ``stop``, so many a call."""
        for first in range(start, stop, at_once):
            rows = [self.row(number) for number in range(first, min(stop, first + at_once))]
            self.ledgers.record(C, "a", "c", rows)

    def threads(self, start: int, stop: int, count: int) -> None:
        """One by one from several threads."""
        step = (stop - start) // count
        parts = [(start + step * number, start + step * (number + 1), 1) for number in range(count)]
        running = [threading.Thread(target=self.record, args=part) for part in parts]
        for one in running:
            one.start()
        for one in running:
            one.join()

    def list(self, query: Query, times: int) -> int:
        """Names on the page."""
        for _ in range(times):
            found = self.ledgers.list(C, "a", "c", query)
        return len(found)


def measured(title: str, count: int, work: Callable[[], object]) -> None:
    """Run and print, per one of ``count``."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    each = f"{wall / count * 1e6:10.1f} us {processor / count * 1e6:10.1f} us of processor"
    print(f"{title:44} {each} {count / wall:10.0f} /s")


def main() -> None:
    """Fill a container up to the number of objects given (100,000)."""
    objects = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        measured("record one by one, empty", 3000, lambda: bench.record(0, 3000, 1))
        measured("record 100 at a time", 20_000, lambda: bench.record(3000, 23_000, 100))
        measured("record 5,000 at a time", objects - 23_000, lambda: bench.record(23_000, objects, 5000))
        last = objects + 3000
        measured(f"record one by one at {objects:,}", 3000, lambda: bench.record(objects, last, 1))
        measured("the same from 16 threads", 3200, lambda: bench.threads(last, last + 3200, 16))
        bench.list(Query(limit=1), 1)
        middle = Query(limit=1000, marker="80")
        measured("page of 1,000 names", 20, lambda: bench.list(middle, 20))
        measured("page of 1,000 names backwards", 20, lambda: bench.list(Query(limit=1000, reverse=True), 20))
        measured("page of 256 subdirs", 20, lambda: bench.list(Query(delimiter="/"), 20))
        measured("info", 500, lambda: [bench.ledgers.info(C, "a", "c") for _ in range(500)])
        bench.ledgers.close()


if __name__ == "__main__":
    main()
