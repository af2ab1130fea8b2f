"""Deletes objects whose X-Delete-At has come, from the queue that `queue` describes.

A node works on the queue's containers of which it holds a copy; that several nodes do the same line does no harm. A
line is done when its object is deleted, or is there no longer, or expires at another time by now. The deletion is
dated to the moment of expiry: what was written after that stays.
"""

from __future__ import annotations

import random
from typing import Final
from urllib.parse import quote

from altostack.objectstore.care import queue
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.report import Tally
from altostack.objectstore.http import Handler, Request, ask
from altostack.objectstore.proxy.app import Proxy
from altostack.objectstore.proxy.backend import TIMESTAMP
from altostack.objectstore.stamp import seconds
from altostack.objectstore.storage import Missing, Query, Row, StorageError, Superseded

_PAGE: Final = 1000


class Expirer:
    """Keeps a proxy of its own: what happens here is nobody's request."""

    def __init__(self, care: Care) -> None:
        self._care = care
        self._proxy: Handler = Proxy(care.store)

    def run(self) -> Tally:
        """A pass over what has expired until now."""
        care = self._care
        with care.reports.tally("expire") as tally:
            containers = self._containers(tally)
            random.shuffle(containers)  # other nodes take others first
            for name in containers:
                if tally.stopped:
                    break
                self._container(tally, name)
        return tally

    def _containers(self, tally: Tally) -> list[str]:
        """Those that hold something due, of which a copy lies here."""
        care, now = self._care, f"{int(self._now()) + 1:010d}"
        found: set[str] = set()
        for home in care.homes(queue.ACCOUNT):
            try:
                rows = home.node.list(home.spot, queue.ACCOUNT, None, Query(end_marker=now))
                found |= {row.name for row in rows if isinstance(row, Row)}
            except Missing:
                continue
            except StorageError as error:
                tally.complain(f"{home.device.host}:{home.device.port}/{home.device.device}: {error}")
        return sorted(
            name
            for name in found
            if any(care.is_mine(home.device) for home in care.homes(queue.ACCOUNT, name))
        )

    def _container(self, tally: Tally, name: str) -> None:
        end = f"{int(self._now()) + 1:010d}"
        marker, seen = "", 0
        while not tally.stopped:
            rows = self._page(tally, name, Query(limit=_PAGE, marker=marker, end_marker=end))
            if not rows:
                break
            for row in rows:
                seen += 1
                if self._done(tally, row):
                    self._strike(tally, name, row)
            marker = rows[-1].name
        if not seen:
            self._remove(tally, name)

    def _page(self, tally: Tally, name: str, query: Query) -> list[Row]:
        """From the first copy that answers, this machine's own before others."""
        homes = self._care.homes(queue.ACCOUNT, name)
        for home in sorted(homes, key=lambda home: not self._care.is_mine(home.device)):
            try:
                rows = home.node.list(home.spot, queue.ACCOUNT, name, query)
                return [row for row in rows if isinstance(row, Row)]
            except Missing:
                continue
            except StorageError as error:
                tally.complain(f"{home.device.host}:{home.device.port}/{home.device.device}: {error}")
        return []

    def _done(self, tally: Tally, row: Row) -> bool:
        """Whether nothing is left to do for the line."""
        try:
            when, account, container, object = queue.read_row(row.name)
        except ValueError as error:
            tally.complain(error)
            return True
        if seconds(when) > self._now():
            return False
        path = quote(f"/v1/{account}/{container}/{object}", safe="/~")
        headers = {"x-timestamp": when, "x-if-delete-at": str(int(seconds(when)))}
        status = ask(self._proxy, Request("DELETE", path, headers=headers)).status
        if 200 <= status < 300:
            tally.count("deleted")
            return True
        if status in (409, 412):  # written anew, or to expire at another time: that has a line of its own
            tally.count("outdated")
            return True
        if status == 404:
            tally.count("absent")
            # A copy that is out of reach may still be to be deleted, unless a deletion is known that covers it.
            told = ask(self._proxy, Request("HEAD", path, headers={"x-newest": "true"}))
            told.close()
            known = told.headers.get(TIMESTAMP, "") if told.status == 404 else ""
            return (
                known >= row.timestamp or self._now() - seconds(when) > self._care.store.settings.reclaim_age
            )
        tally.complain(f"DELETE of {row.name}: {status}")
        return False

    def _now(self) -> float:
        return self._care.store.clock.seconds()

    def _strike(self, tally: Tally, container: str, row: Row) -> None:
        gone = queue.gone(row)
        for home in self._care.homes(queue.ACCOUNT, container):
            try:
                home.node.record(home.spot, queue.ACCOUNT, container, (gone,))
            except Missing:
                continue
            except StorageError as error:
                tally.complain(f"{home.device.host}:{home.device.port}/{home.device.device}: {error}")

    def _remove(self, tally: Tally, name: str) -> None:
        """An empty container whose day is over goes, and its line in the account with it."""
        care = self._care
        if int(name) + 2 * queue.DIVISION > self._now():
            return
        stamp = care.store.clock.now()
        for home in care.homes(queue.ACCOUNT, name):
            try:
                home.node.destroy(home.spot, queue.ACCOUNT, name, stamp)
            except (Missing, Superseded):
                continue
            except StorageError as error:  # not empty there: what it holds comes here by replication
                tally.complain(f"{home.device.host}:{home.device.port}/{home.device.device}: {error}")
                return
        row = Row(name=name, timestamp=stamp, deleted=True)
        for home in care.homes(queue.ACCOUNT):
            try:
                home.node.record(home.spot, queue.ACCOUNT, None, (row,))
            except StorageError as error:
                tally.complain(f"{home.device.host}:{home.device.port}/{home.device.device}: {error}")
        tally.count("emptied")
