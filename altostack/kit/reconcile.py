"""Level-triggered loops: look at what is wanted, look at what is, act on the difference, again.

A `Loop` runs its body when a bell rings and every ``interval`` seconds besides, one run at a time, and backs off
while the body fails. Agents and periodic work are loops.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from altostack.kit import context as contexts

if TYPE_CHECKING:
    from altostack.kit.bus import Bus

log = logging.getLogger(__name__)


class Loop:
    """``body(ids)`` gets the ids that bells named since its last run; an empty tuple means: look at everything.

    topics: bells that wake it. interval: seconds between full looks. settle: seconds to gather bells before a run.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[tuple[str, ...]], None],
        *,
        interval: float,
        topics: tuple[str, ...] = (),
        settle: float = 0.0,
    ) -> None:
        self.name = name
        self.interval = interval
        self.topics = topics
        self._body = body
        self._settle = settle
        self._ids: set[str] = set()
        self._everything = True
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.runs = 0
        self.failures = 0

    def nudge(self, ids: tuple[str, ...] = ()) -> None:
        """Run soon; without ids, look at everything."""
        with self._lock:
            if ids:
                self._ids.update(ids)
            else:
                self._everything = True
        self._wake.set()

    def start(self, bus: Bus | None) -> None:
        """Listen and run until `stop`. A loop without topics needs no bus."""
        for topic in self.topics:
            assert bus is not None, f"{self.name} waits for bells"
            bus.listen(topic, self.nudge)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    @property
    def started(self) -> bool:
        """Whether it runs in a thread of its own; else somebody calls `once`, and wants all done when it returns."""
        return self._thread is not None

    def stop(self, timeout: float = 10.0) -> None:
        """Let a running body end and start no other."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def once(self, ids: tuple[str, ...] = ()) -> None:
        """Run the body now, in this thread (tests, simulated time)."""
        self._body(ids)

    def catch_up(self) -> bool:
        """Run the body now, in this thread, if a nudge asks for it; whether it ran (tests, simulated time)."""
        ids = self._asked(everything=False)
        if ids is None:
            return False
        self.runs += 1
        try:
            self._body(ids)
        except Exception:
            self.failures += 1
            self.nudge()
            raise
        return True

    def _asked(self, *, everything: bool) -> tuple[str, ...] | None:
        """What nudges ask to be looked at, forgotten here; None when there is nothing to do."""
        with self._lock:
            everything = everything or self._everything
            if not everything and not self._ids:
                return None
            ids = () if everything else tuple(self._ids)
            self._ids.clear()
            self._everything = False
            return ids

    def _run(self) -> None:
        due = time.monotonic()
        failed = 0
        while not self._stop.is_set():
            now = time.monotonic()
            ids = self._asked(everything=now >= due)
            if ids is None:
                self._wake.wait(max(0.0, due - now))
                self._wake.clear()
                if self._settle:
                    self._stop.wait(self._settle)
                continue
            if not ids:
                due = now + self.interval
            token = contexts.set_request_id(contexts.new_request_id())
            try:
                self.runs += 1
                self._body(ids)
                failed = 0
            except Exception as error:
                failed += 1
                self.failures += 1
                quiet = bool(getattr(error, "expected", False))
                log.warning("%s failed (%d in a row): %s", self.name, failed, error, exc_info=not quiet)
                self.nudge()  # whatever was left undone is seen by looking at everything
                self._stop.wait(min(0.2 * 2 ** min(failed, 7), 15.0))
            finally:
                contexts.reset_request_id(token)
