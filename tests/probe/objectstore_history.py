"""What clients asked of the store, and whether what they were told can be.

Each name has one writer, which goes through one proxy: so a name's changes have rising timestamps, in the order in
which they were asked for. What is promised, and checked of every answer:

- A read returns content that somebody began to write, whole: its length and sum are those of that content. (An answer
  that breaks off is an error, and errors are always allowed while there are faults.) Its metadata is what somebody
  began to set; while copies differ, what a POST set may come with older content.
- With X-Newest, while all nodes can be reached and the daemons have come to rest after the last fault: a read returns
  content and metadata of the newest acknowledged change that ended before the read began, or of one that began later.
- When all is healed and at rest, every read returns content and metadata of the last acknowledged change or of one that
  was begun after it and not acknowledged; a deletion is a change. It is the same on every copy, and what containers
  list.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import urllib3

from tests.probe.objectstore_stand import Stand

PATIENCE = 40.0  # seconds
META = "x-object-meta-n"
SIZES = (0, 1, 700, 5000, 16384, 70_000, 200_000)


Value = tuple[str, str] | None
"""What a name holds: (sum of the content, its metadata); None: nothing is there."""


@dataclass(slots=True)
class Change:
    """A PUT or POST, after which the name holds ``value``, or a DELETE. end: 0.0 while it is not acknowledged."""

    value: Value
    began: float
    end: float = 0.0


@dataclass
class Name:
    """A name's changes in the order in which they were asked for."""

    path: str
    proxy: str
    changes: list[Change] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def allowed(self, at: float, until: float) -> set[Value]:
        """What a fresh read between two moments may return."""
        with self.lock:
            last = -1
            for number, change in enumerate(self.changes):
                if change.end and change.end < at:
                    last = number
            found = {None if last < 0 else self.changes[last].value}
            return found | {change.value for change in self.changes[last + 1 :] if change.began < until}

    def knows(self, found: Value) -> bool:
        """Whether somebody began to write that content, and to set that metadata."""
        with self.lock:
            known = [change.value for change in self.changes if change.value is not None]
            return found is None or (
                found[0] in {content for content, _ in known} and found[1] in {meta for _, meta in known}
            )


def body_of(path: str, number: int, size: int) -> bytes:
    """A value like no other."""
    return Random(f"{path} {number}").randbytes(size)


class Writers:
    """Clients that write, delete and read until they are told to stop."""

    def __init__(self, stand: Stand, seed: int, *, threads: int = 4, names: int = 8) -> None:
        self.stand, self.stop, self.wrong = stand, threading.Event(), list[str]()
        self._going = threading.Event()
        self._busy = threading.Semaphore(threads)
        self._number = threads
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
        self._going.set()
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nobody asks for anything."""
        self._going.clear()
        for _ in range(self._number):
            assert self._busy.acquire(timeout=60), "a client hangs"
        try:
            yield
        finally:
            self._busy.release(self._number)
            self._going.set()

    def _run(self, mine: list[Name], chance: Random) -> None:
        while not self.stop.is_set():
            self._going.wait()
            with self._busy:
                what = chance.random()
                if what < 0.4:
                    self.put(chance.choice(mine), chance)
                elif what < 0.5:
                    self.post(chance.choice(mine))
                elif what < 0.63:
                    self.delete(chance.choice(mine))
                else:
                    self.read(chance.choice(self.every), chance)
            time.sleep(chance.uniform(0, 0.01))

    def put(self, name: Name, chance: Random) -> None:
        size, number = chance.choice(SIZES), len(name.changes)
        body = body_of(name.path, number, size)
        told = hashlib.md5(body, usedforsecurity=False).hexdigest()
        change = self._begin(name, (told, str(number)))
        status, _, _ = self.ask("PUT", name, body, {META: str(number)})
        self._count(change, status == 201)

    def post(self, name: Name) -> None:
        """Change the metadata, when it is known what the content is: else nobody could say what is right then."""
        number = len(name.changes)
        if not number or not name.changes[-1].end or name.changes[-1].value is None:
            return
        change = self._begin(name, (name.changes[-1].value[0], str(number)))
        status, _, _ = self.ask("POST", name, headers={META: str(number)})
        self._count(change, status == 202)

    def delete(self, name: Name) -> None:
        change = self._begin(name, None)
        status, _, _ = self.ask("DELETE", name)
        self._count(change, status in (204, 404))

    def _begin(self, name: Name, value: Value) -> Change:
        change = Change(value, time.monotonic())
        with name.lock:
            name.changes.append(change)
        return change

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
        ask = self.insist if fresh else self.ask
        status, content, headers = ask(
            "GET", name, headers={"x-newest": "true"} if fresh else {}, proxy=proxy
        )
        if status not in (200, 404):
            if fresh:
                self.wrong.append(f"{name.path}: {status} while nothing is wrong")
            return
        self.reads += 1
        found: Value = None
        if status == 200:
            found = (hashlib.md5(content, usedforsecurity=False).hexdigest(), headers.get(META, ""))
            if headers.get("etag", "").strip('"') != found[0]:
                if fresh:
                    self.wrong.append(f"{name.path}: damaged content")
                return  # the client sees by the sum that this is damaged, and asks again
        if not name.knows(found):
            self.wrong.append(f"{name.path}: {found}, which nobody wrote ({len(content)} bytes)")
        if fresh and found not in (allowed := name.allowed(at, time.monotonic())):
            self.wrong.append(f"{name.path}: {found}, older than what was acknowledged: {allowed}")

    def insist(self, *places: Any, **names: Any) -> tuple[int, bytes, Mapping[str, str]]:
        """As `ask`, again while a node that was gone may still count as gone: sixteen seconds (`disk.links`)."""
        end = time.monotonic() + PATIENCE
        while True:
            answer = self.ask(*places, **names)
            if answer[0] not in (0, 503) or time.monotonic() > end:
                return answer
            time.sleep(0.5)

    def ask(
        self,
        method: str,
        name: Name | str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        proxy: str = "",
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """(status, content, headers); status 0 when nobody answered, or not to the end."""
        through, path = (proxy or "p1", name) if isinstance(name, str) else (proxy or name.proxy, name.path)
        url = f"http://127.0.0.1:{self.stand.ports[through]}{path}"
        try:
            answer = self.stand.http.request(method, url, body=body or None, headers=headers or {})
        except (urllib3.exceptions.HTTPError, OSError):
            return 0, b"", {}
        return answer.status, answer.data, answer.headers
