"""Delays and faults that a test or an operator sets on a simulated driver."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping

from altostack.compute.drivers.base import DriverError, HypervisorError


class Faults:
    """Delays and faults of one node, to be set from any thread. Verbs are named as in ComputeDriver."""

    def __init__(self, *, delays: Mapping[str, float] | None = None, seed: int = 0) -> None:
        self.delays: dict[str, float] = dict(delays or {})
        self._chance: dict[str, float] = {}
        self._next: dict[str, list[DriverError]] = {}
        self._hanging: dict[str, threading.Event] = {}
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def fail_next(self, verb: str, *, times: int = 1, error: DriverError | None = None) -> None:
        """The next ``times`` calls of the verb raise ``error``."""
        fault = error or HypervisorError(f"simulated fault of {verb}")
        with self._lock:
            self._next.setdefault(verb, []).extend([fault] * times)

    def fail_sometimes(self, verb: str, probability: float) -> None:
        """Each call of the verb raises HypervisorError with this probability (0: never again)."""
        with self._lock:
            self._chance[verb] = probability

    def hang(self, verb: str) -> Callable[[], None]:
        """Calls of the verb block until the returned function is called."""
        gate = threading.Event()
        with self._lock:
            self._hanging[verb] = gate

        def release() -> None:
            with self._lock:
                if self._hanging.get(verb) is gate:
                    del self._hanging[verb]
            gate.set()

        return release

    def clear(self) -> None:
        """Nothing that is still set goes wrong; delays stay."""
        with self._lock:
            self._next.clear()
            self._chance.clear()

    def meet(self, verb: str) -> None:
        """Live through what is set for the verb. Raises DriverError."""
        if delay := self.delays.get(verb, 0.0):
            time.sleep(delay)
        if gate := self._hanging.get(verb):
            gate.wait()
        if not self._next and not self._chance:
            return
        with self._lock:
            if errors := self._next.get(verb):
                raise errors.pop(0)
            chance = self._chance.get(verb, 0.0)
            if chance and self._random.random() < chance:
                raise HypervisorError(f"simulated fault of {verb} (probability {chance:g})")
