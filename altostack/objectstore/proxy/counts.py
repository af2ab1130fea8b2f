"""Accounts are told soon what their containers count.

A container's line in its account says how many objects it has. The node that holds the container tells the account
when the container is made or removed, and a daemon tells it what changed since; that is soon enough for a bill, not for
somebody who looks at an account after an upload. So the proxy that changed objects tells the accounts itself: before
it answers what an account is, and otherwise within a moment, many changes at once.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from altostack.objectstore.http import Refusal
from altostack.objectstore.proxy.known import read_info, site_of
from altostack.objectstore.proxy.spread import Crew, quorum
from altostack.objectstore.storage import Missing, Row
from altostack.objectstore.store import Store

log = logging.getLogger(__name__)

_PAUSE: Final = 0.5  # seconds between a change and its report
_SHARE: Final = 0.05  # of the time, at most, is spent on reports
_BEFORE_ANSWER: Final = 64  # containers that are reported before an account's answer
_MOST: Final = 100_000  # containers that are remembered; the daemon tells of the others


class Counts:
    """Which containers changed, and telling their accounts."""

    def __init__(self, store: Store, crew: Crew) -> None:
        self._store, self._crew = store, crew
        self._changed: dict[tuple[str, str], None] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def note(self, account: str, container: str) -> None:
        """Objects of this container changed."""
        key = (account, container)
        if key in self._changed or account.startswith(".") or len(self._changed) >= _MOST:
            return
        with self._lock:
            self._changed[key] = None
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True, name="object-counts")
                self._thread.start()

    def flush(self, account: str) -> None:
        """Tell the account now what is known to have changed."""
        if not self._changed:
            return
        with self._lock:
            mine = [key for key in self._changed if key[0] == account][:_BEFORE_ANSWER]
            for key in mine:
                del self._changed[key]
        self._tell(mine)

    def _run(self) -> None:
        pause = _PAUSE
        while True:
            time.sleep(pause)
            with self._lock:
                keys = list(self._changed)
                self._changed.clear()
                if not keys:
                    self._thread = None
                    return
            began = time.monotonic()
            self._tell(keys)
            pause = max(_PAUSE, (time.monotonic() - began) / _SHARE)

    def _tell(self, keys: list[tuple[str, str]]) -> None:
        rows: dict[str, list[Row]] = {}
        for account, container in keys:
            now = self._store.clock.now()
            try:
                info = read_info(self._store, account, container)
            except Missing:
                continue  # who removed it has told the account
            except Refusal as trouble:
                log.info("%s: its account hears later what it counts: %s", container, trouble)
                continue
            row = Row(
                name=container, timestamp=info.put, size=info.bytes, count=info.count, policy=info.policy or 0,
                meta_timestamp=now,
            )  # fmt: skip
            rows.setdefault(account, []).append(row)
        for account, lines in rows.items():
            self._record(account, lines)

    def _record(self, account: str, lines: list[Row]) -> None:
        site = site_of(self._store, account)
        try:
            results = self._crew.run(
                site.primaries,
                lambda target: target.node.record(target.spot, account, None, lines),
                quorum(len(site.primaries)),
            )
        except Exception:
            log.exception("an account could not be told what its containers count")
            return
        for trouble in results:
            if trouble is not None:
                log.info("an account hears later what its containers count: %s", trouble)
