"""The bus of a cloud that lives in one process."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Mapping

from altostack.kit.bus.desk import BusTimeout, Desk, plain

LOG = logging.getLogger(__name__)


class MemoryBus:
    """Everything stays in this process; values still take the form the wire would give them."""

    def __init__(self) -> None:
        self._desk = Desk()

    def ring(self, topic: str, *ids: str) -> None:
        self._desk.bell(topic, ids)

    def listen(self, topic: str, handler: Callable[[tuple[str, ...]], None]) -> None:
        self._desk.listen(topic, handler)

    def call(self, topic: str, method: str, args: Mapping[str, object], *, timeout: float = 5.0) -> object:
        future = self._desk.answer(topic, method, plain(args))
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise BusTimeout(f"{topic}.{method} gave no answer within {timeout:g} s") from None

    def serve(self, topic: str, methods: Mapping[str, Callable[[Mapping[str, object]], object]]) -> None:
        self._desk.serve(topic, methods)

    def emit(self, event: Mapping[str, object]) -> None:
        try:
            self._desk.event(plain(event))
        except Exception:  # best effort: an event nobody can encode must not fail what it reports on
            LOG.exception("an event was lost")

    def subscribe(self, handler: Callable[[Mapping[str, object]], None]) -> None:
        self._desk.subscribe(handler)

    def close(self) -> None:
        self._desk.close()
