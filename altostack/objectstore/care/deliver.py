"""Brings lists up to date: updates that could not be delivered at once, and containers' numbers for accounts."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from altostack.objectstore.care import queue
from altostack.objectstore.care.daemon import Care, Home
from altostack.objectstore.care.report import Tally
from altostack.objectstore.disk import pending
from altostack.objectstore.disk.device import guarded
from altostack.objectstore.stamp import ZERO, of_ns, seconds
from altostack.objectstore.storage import Missing, Query, Row, Spot, StorageError, Superseded, Update

log = logging.getLogger(__name__)


def deliver(care: Care, device: str) -> Tally:
    """A pass over the updates that wait on a device of this machine. Raises DeviceGone."""
    path = care.path(device)
    with care.reports.tally("deliver", device) as tally, guarded(path):
        for found in pending.waiting(path):
            if tally.stopped:
                break
            rest = [one for one in found.updates if not _delivered(care, tally, one)]
            tally.count("delivered", len(found.updates) - len(rest))
            tally.count("waiting", len(rest))
            pending.shrink(care.local.devices, path, found, rest)
    return tally


def _delivered(care: Care, tally: Tally, update: Update) -> bool:
    """Whether it is where it belongs, or belongs nowhere any longer."""
    homes = care.homes(update.account, update.container)
    same = [
        home
        for home in homes
        if (home.device.host, home.device.port, home.spot) == (update.host, update.port, update.spot)
    ]
    missing = 0
    for home in same or homes:  # a rebalance may have moved the list since
        try:
            record(care, home, update)
            return True
        except Missing:
            missing += 1
        except StorageError as error:
            tally.complain(f"{home.device.host}:{home.device.port}/{home.device.device}: {error}")
    age = care.store.clock.seconds() - seconds(update.row.timestamp)
    if missing and age > care.store.settings.reclaim_age:
        tally.count("dropped")  # the container has been gone for so long that nobody remembers it
        return True
    return False


def record(care: Care, home: Home, update: Update) -> None:
    """Hand a line over; lists of the queue are made when they are missing. Raises StorageError."""
    try:
        home.node.record(home.spot, update.account, update.container, (update.row,))
    except Missing:
        if update.account != queue.ACCOUNT or update.container is None:
            raise
        try:
            home.node.create(home.spot, update.account, update.container, update.row.timestamp)
        except Superseded:  # it was deleted after this line was true
            home.node.create(home.spot, update.account, update.container, care.store.clock.now())
        home.node.record(home.spot, update.account, update.container, (update.row,))


class Numbers:
    """Tells accounts what their containers count, whenever that changed.

    An account believes what was true last, by the clocks of those who told it: nodes and proxies. Since clocks differ,
    the next pass looks whether what was told is what the account says, and tells it once more otherwise. What was told
    and seen is remembered in a file a device; without it everything is looked at again.
    """

    def __init__(self, care: Care) -> None:
        self._care = care

    def run(self, device: str) -> Tally:
        """A pass over the containers of a device. Raises DeviceGone."""
        care = self._care
        with care.reports.tally("numbers", device) as tally:
            name = f".numbers-{device}"
            told: dict[str, str] = care.reports.kept(name) or {}
            now: dict[str, str] = {}
            for spot in care.near.books.copies.walk(device, "container"):
                if tally.stopped:
                    return tally
                tally.count("containers")
                try:
                    known = care.near.books.known(spot, "container")
                    if known is not None and (
                        told.get(spot.digest) == known.sum or self._agreed(tally, spot)
                    ):
                        now[spot.digest] = known.sum
                except StorageError as error:
                    tally.complain(f"{device}: {error}")
            if now != told:
                care.reports.keep(name, now)
        return tally

    def _agreed(self, tally: Tally, spot: Spot) -> bool:
        """Whether the account says what is true here, or need not; else it is told."""
        care = self._care
        info = care.local.ledgers.facts(spot)
        if info.container is None or info.account.startswith(".shards_"):
            return True
        homes = care.homes(info.account, info.container)
        if not any(care.is_mine(home.device) and home.spot == spot for home in homes):
            return False  # a handoff's numbers are not the container's
        row = care.local.ledgers.account_row(spot, info.account, info.container)
        agreed = True
        for home in care.homes(info.account):
            try:
                agreed = self._told(tally, home, info.account, row) and agreed
            except StorageError as error:
                agreed = False
                tally.complain(f"{home.device.host}:{home.device.port}/{home.device.device}: {error}")
        return agreed

    @staticmethod
    def _told(tally: Tally, home: Home, account: str, row: Row) -> bool:
        """Whether a copy of the account says so already."""
        try:
            found = home.node.list(home.spot, account, None, Query(prefix=row.name, limit=1))
        except Missing:  # it is made by this line, or deleted
            home.node.record(home.spot, account, None, (row,))
            return True
        held = next((one for one in found if isinstance(one, Row) and one.name == row.name), None)
        if held is None:
            if row.deleted:
                return True
        elif not row.deleted and (held.count, held.size, held.policy) == (row.count, row.size, row.policy):
            return True
        else:
            row = replace(row, meta_timestamp=max(row.meta_timestamp, after(held.meta_timestamp)))
        home.node.record(home.spot, account, None, (row,))
        tally.count("told")
        return False


def after(stamp: str) -> str:
    """The next moment."""
    whole, _, rest = (stamp or ZERO).partition(".")
    return of_ns(int(whole) * 1_000_000_000 + int(rest) + 1)
