"""Drives the splitting and joining of large containers: `ledger.sharder` knows how, this lends it the other copies.

The first device of a container leads; every copy brings its strays to where they belong. Hidden accounts are left
alone, but for that of the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from altostack.objectstore.care.daemon import Care, Home
from altostack.objectstore.care.report import Tally
from altostack.objectstore.ledger import shards
from altostack.objectstore.ledger.sharder import Done, Sharder
from altostack.objectstore.storage import (
    Dated,
    DeviceGone,
    Info,
    Missing,
    NotEmpty,
    Query,
    Row,
    Spot,
    StorageError,
    Subdir,
    Superseded,
)

_MOST: Final = 200_000  # containers that are remembered


class Containers:
    """`ledger.sharder.Others`: containers wherever their copies are."""

    def __init__(self, care: Care) -> None:
        self._care = care

    def create(self, account: str, container: str, policy: int, metadata: Dated) -> None:
        stamp = self._care.store.clock.now()

        def make(home: Home) -> None:
            try:
                home.node.create(home.spot, account, container, stamp, policy=policy, metadata=metadata)
            except Superseded:
                return  # it is there

        self._most(account, container, make)

    def record(self, account: str, container: str, rows: Sequence[Row]) -> None:
        self._most(account, container, lambda home: home.node.record(home.spot, account, container, rows))

    def list(self, account: str, container: str, query: Query) -> Sequence[Row | Subdir] | None:
        homes = self._care.homes(account, container)
        missing = 0
        trouble: StorageError = DeviceGone(f"no copy of {account}/{container} answers")
        for home in homes:
            try:
                return home.node.list(home.spot, account, container, query)
            except Missing:
                missing += 1
                if 2 * missing > len(homes):
                    return None
            except StorageError as error:
                trouble = error
        raise trouble

    def destroy(self, account: str, container: str) -> None:
        stamp = self._care.store.clock.now()
        for home in self._care.homes(account, container):
            try:
                home.node.destroy(home.spot, account, container, stamp)
            except (Missing, NotEmpty, Superseded, DeviceGone):
                continue

    def _most(self, account: str, container: str, call: Callable[[Home], None]) -> None:
        """Raises Missing when most copies say so, else DeviceGone when too few did it."""
        homes = self._care.homes(account, container)
        good = missing = 0
        trouble = ""
        for home in homes:
            try:
                call(home)
                good += 1
            except Missing:
                missing += 1
            except StorageError as error:
                trouble = str(error)
        if 2 * good > len(homes):
            return
        if 2 * missing > len(homes):
            raise Missing
        raise DeviceGone(f"{account}/{container}: {good} of {len(homes)} copies took it; {trouble}")


class Shards:
    """The daemon. What rests is remembered, so that a pass over many small containers costs little."""

    def __init__(self, care: Care) -> None:
        self._care = care
        self._sharder = Sharder(care.local.ledgers, Containers(care), split=care.settings.shard_rows)
        self._resting: dict[Spot, str] = {}

    def run(self, device: str) -> Tally:
        """A pass over the containers of a device of this machine. Raises DeviceGone."""
        care = self._care
        with care.reports.tally("shard", device) as tally:
            for spot in care.near.books.copies.walk(device, "container"):
                if tally.stopped:
                    break
                tally.count("containers")
                try:
                    known = care.near.books.known(spot, "container")
                    if known is None or self._resting.get(spot) == known.sum:
                        continue
                    info = care.local.ledgers.facts(spot)
                    done = self._one(tally, spot, info)
                except Missing:
                    continue
                except StorageError as error:
                    tally.complain(f"{device}: {error}")
                    continue
                plain = not info.shards and not info.account.startswith(shards.HIDDEN)
                if plain and (done is None or done == Done()):
                    if len(self._resting) >= _MOST:
                        self._resting.clear()
                    self._resting[spot] = known.sum
                else:
                    self._resting.pop(spot, None)
        return tally

    def _one(self, tally: Tally, spot: Spot, info: Info) -> Done | None:
        care = self._care
        hidden = info.account.startswith(shards.HIDDEN)
        if info.container is None or (info.account.startswith(".") and not hidden):
            return None
        first = next(iter(care.homes(info.account, info.container)), None)
        leads = first is not None and care.is_mine(first.device) and first.spot == spot
        done = self._sharder.tend(spot, leads=leads)
        for name in (
            "planned", "filled", "activated", "moved", "dropped", "shrunk", "destroyed", "reported",
        ):  # fmt: skip
            if number := getattr(done, name):
                tally.count(name, number)
        for text in done.trouble:
            tally.complain(text)
        if done.changed_map:
            care.store.epoch.bump()
        return done
