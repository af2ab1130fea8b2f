"""Hashing a stream while it is still coming: each hash in a thread of its own, since hashing needs no interpreter.

Python's hashes let other threads run while they work on more than two kilobytes. For large streams that makes the slow
part of an upload (MD5 and SHA-512 over every byte) go beside reading, inspecting and writing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Protocol

_SMALL = 4 << 20  # bytes up to which no thread is worth its start
_AHEAD = 4  # chunks that may wait for a hash


class Sink(Protocol):
    """Something that takes bytes in order: a hash, or the verifier of a signature."""

    def update(self, chunk: bytes, /) -> None: ...


class Hashing:
    """Feeds every chunk that passes to all sinks; they have had all of them when `watch` ends."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = tuple(sinks)
        self._lanes: list[_Lane] = []

    def watch(self, stream: Iterable[bytes]) -> Generator[bytes]:
        """The stream. An error of a sink is raised here."""
        seen = 0
        try:
            for chunk in stream:
                seen += len(chunk)
                if seen > _SMALL and not self._lanes:
                    self._lanes = [_Lane(sink) for sink in self._sinks]
                for taker in self._lanes or self._sinks:
                    taker.update(chunk)
                yield chunk
        finally:
            for lane in self._lanes:
                lane.end()
        for lane in self._lanes:
            lane.check()


class _Lane:
    """One sink and the thread that feeds it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="image-hash", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            if self._error is None:
                try:
                    self._sink.update(chunk)
                except BaseException as error:  # it is raised in the stream's own thread
                    self._error = error

    def update(self, chunk: bytes) -> None:
        self.check()
        self._waiting.put(chunk)

    def end(self) -> None:
        """Let it finish what it was given."""
        self._waiting.put(None)
        self._thread.join()

    def check(self) -> None:
        if self._error is not None:
            raise self._error
