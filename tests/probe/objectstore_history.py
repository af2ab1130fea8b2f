"""What clients asked of the store, and whether what they were told can be.

Each name has one writer, which goes through one proxy: so a name's changes have rising timestamps, in the order in
which they were asked for. What is promised, and checked of every answer:

- A read returns a value that somebody began to write, whole: its length and sum are those of that value. (An answer
  that breaks off is an error, and errors are always allowed while there are faults.)
- With X-Newest, while all nodes can be reached and the daemons have come to rest after the last fault: a read returns
  the value of the newest acknowledged change that ended before the read began, or of one that began later.
- When all is healed and at rest, every read returns the value of the last acknowledged change or of one that was begun
  after it and not acknowledged; a deletion is a change. It is the same on every copy, and what containers list.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from random import Random

import urllib3

from tests.probe.objectstore_stand import Stand

SIZES = (0, 1, 700, 5000, 16384, 70_000, 200_000)


@dataclass(slots=True)
class Change:
    """A PUT (its value's sum) or a DELETE (None). end: 0.0 while it is under way or was not acknowledged."""

    sum: str | None
    size: int
    began: float
    end: float = 0.0


@dataclass
class Name:
    """A name's changes in the order in which they were asked for."""

    path: str
    proxy: str
    changes: list[Change] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def allowed(self, at: float, until: float) -> set[str | None]:
        """The values that a fresh read between two moments may return; None: it is not there."""
        with self.lock:
            last = -1
            for number, change in enumerate(self.changes):
                if change.end and change.end < at:
                    last = number
            found = {None if last < 0 else self.changes[last].sum}
            return found | {change.sum for change in self.changes[last + 1 :] if change.began < until}

    def known(self) -> set[str | None]:
        """Every value that somebody began to write."""
        with self.lock:
            return {None} | {change.sum for change in self.changes}


def body_of(path: str, number: int, size: int) -> bytes:
    """A value like no other."""
    return Random(f"{path} {number}").randbytes(size)


class Writers:
    """Clients that write, delete and read until they are told to stop."""

    def __init__(self, stand: Stand, seed: int, *, threads: int = 4, names: int = 8) -> None:
        self.stand, self.stop, self.wrong = stand, threading.Event(), list[str]()
        proxies = sorted(name for name in stand.ports if name.startswith("p"))
        containers = ("std", "ec")
        self.names = [
            [
                Name(f"/v1/a/{containers[n % 2]}/w{thread}-{n}", proxies[(thread + n // 2) % len(proxies)])
                for n in range(names)
            ]
            for thread in range(threads)
        ]
        self.acknowledged = self.refused = self.reads = 0
        self._threads = [
            threading.Thread(target=self._run, args=(mine, Random(seed + number)), daemon=True)
            for number, mine in enumerate(self.names)
        ]

    @property
    def every(self) -> list[Name]:
        return [one for mine in self.names for one in mine]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"

    def _run(self, mine: list[Name], chance: Random) -> None:
        while not self.stop.is_set():
            what = chance.random()
            if what < 0.45:
                self.put(chance.choice(mine), chance)
            elif what < 0.6:
                self.delete(chance.choice(mine))
            else:
                self.read(chance.choice(self.every), chance)
            time.sleep(chance.uniform(0, 0.01))

    def put(self, name: Name, chance: Random) -> None:
        size = chance.choice(SIZES)
        body = body_of(name.path, len(name.changes), size)
        told = hashlib.md5(body, usedforsecurity=False).hexdigest()
        change = Change(told, size, time.monotonic())
        with name.lock:
            name.changes.append(change)
        status, _, _ = self.ask("PUT", name.proxy, name.path, body)
        self._count(change, status == 201)

    def delete(self, name: Name) -> None:
        change = Change(None, 0, time.monotonic())
        with name.lock:
            name.changes.append(change)
        status, _, _ = self.ask("DELETE", name.proxy, name.path)
        self._count(change, status in (204, 404))

    def _count(self, change: Change, good: bool) -> None:
        if good:
            change.end = time.monotonic()
            self.acknowledged += 1
        else:
            self.refused += 1

    def read(self, name: Name, chance: Random, *, fresh: bool = False) -> None:
        """Read, and see whether the answer can be. ``fresh``: nothing older than what was acknowledged may come."""
        at = time.monotonic()
        proxy = chance.choice(sorted(one for one in self.stand.ports if one.startswith("p")))
        status, content, etag = self.ask(
            "GET", proxy, name.path, headers={"x-newest": "true"} if fresh else {}
        )
        if status not in (200, 404):
            if fresh:
                self.wrong.append(f"{name.path}: {status} while nothing is wrong")
            return
        self.reads += 1
        found = hashlib.md5(content, usedforsecurity=False).hexdigest() if status == 200 else None
        if status == 200 and etag != found:
            return  # the client sees by the sum that this is damaged, and asks again
        if found not in name.known():
            self.wrong.append(f"{name.path}: a value that nobody wrote ({len(content)} bytes)")
        if fresh and found not in name.allowed(at, time.monotonic()):
            self.wrong.append(f"{name.path}: {status}, older than what was acknowledged")

    def ask(
        self, method: str, proxy: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, str]:
        """(status, content, ETag); status 0 when nobody answered, or not to the end."""
        url = f"http://127.0.0.1:{self.stand.ports[proxy]}{path}"
        try:
            answer = self.stand.http.request(method, url, body=body or None, headers=headers or {})
        except (urllib3.exceptions.HTTPError, OSError):
            return 0, b"", ""
        return answer.status, answer.data, answer.headers.get("etag", "").strip('"')
