"""Removes what a deleted account holds: its objects, then its containers.

The copies of an account's database share the work: each takes the containers whose digests fall to it. Everything is
dated to now; an account cannot come back before its containers are gone (`storage.Node.create`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from altostack.objectstore.care.daemon import Care, Home
from altostack.objectstore.care.report import Tally
from altostack.objectstore.care.shard import Containers
from altostack.objectstore.ledger import shards
from altostack.objectstore.stamp import seconds
from altostack.objectstore.storage import Info, Missing, NotEmpty, Query, Row, Spot, StorageError

_PAGE: Final = 1000


def reap(care: Care, device: str) -> Tally:
    """A pass over the accounts of a device of this machine. Raises DeviceGone."""
    with care.reports.tally("reap", device) as tally:
        for spot in care.near.books.copies.walk(device, "account"):
            if tally.stopped:
                break
            try:
                info = care.local.ledgers.facts(spot, "account")
            except (Missing, StorageError) as error:
                tally.complain(f"{device}: {error}")
                continue
            age = care.store.clock.seconds() - seconds(info.deleted or info.changed)
            if info.gone and info.containers and age >= care.settings.reap_delay:
                _account(care, tally, spot, info)
    return tally


def _account(care: Care, tally: Tally, spot: Spot, info: Info) -> None:
    homes = care.homes(info.account)
    turn = next((at for at, one in enumerate(homes) if care.is_mine(one.device) and one.spot == spot), None)
    if turn is None:
        return  # a handoff: its lines go to the account's own devices first
    marker = ""
    while not tally.stopped:
        rows = care.local.ledgers.list(spot, info.account, None, Query(limit=_PAGE, marker=marker), gone=True)
        if not rows:
            break
        for row in rows:
            _, digest = care.store.rings.container.locate(info.account, row.name)
            if isinstance(row, Row) and int(digest, 16) % len(homes) == turn:
                _container(care, tally, info.account, row)
        marker = rows[-1].name
    tally.count("accounts")


def _container(care: Care, tally: Tally, account: str, line: Row) -> None:
    """Its objects, itself and its line; what fails stays for the next pass."""
    failed = False
    for place in _lists(care, tally, account, line.name):
        for row in _objects(care, tally, *place):
            if tally.stopped:
                return
            failed |= not _object(care, tally, account, line.name, row, place)
    if failed:
        return
    stamp = care.store.clock.now()
    for home in care.homes(account, line.name):
        try:
            home.node.destroy(home.spot, account, line.name, stamp)
        except Missing:
            continue
        except (
            NotEmpty
        ):  # objects that this copy alone knows of, or shards that did not tell yet that they are empty
            failed = True
        except StorageError as error:
            failed = True
            tally.complain(_said(home, error))
    if failed:
        return
    gone = Row(name=line.name, timestamp=stamp, deleted=True, policy=line.policy)
    for home in care.homes(account):
        try:
            home.node.record(home.spot, account, None, (gone,))
        except StorageError as error:
            tally.complain(_said(home, error))
    tally.count("containers")


def _lists(care: Care, tally: Tally, account: str, container: str) -> list[tuple[str, str]]:
    """The containers that have its objects' lines: itself, or its shards as well."""
    found = [(account, container)]
    try:
        rows = Containers(care).list(account, container, shards.map_query())
    except StorageError as error:
        tally.complain(error)
        return found
    return found + [(shards.hidden(account), one.container) for one in shards.ranges(rows or ())]


def _objects(care: Care, tally: Tally, account: str, container: str) -> Iterator[Row]:
    """The lines of the first copy that answers."""
    marker = ""
    while True:
        try:
            found = Containers(care).list(account, container, Query(limit=_PAGE, marker=marker))
        except StorageError as error:
            tally.complain(error)
            return
        rows = [row for row in found or () if isinstance(row, Row)]
        if not rows:
            return
        yield from rows
        marker = rows[-1].name


def _object(care: Care, tally: Tally, account: str, container: str, row: Row, place: tuple[str, str]) -> bool:
    """Delete it on its devices and strike its line in the list ``place``; whether enough devices did so."""
    stamp = care.store.clock.now()
    try:
        homes = care.homes(account, container, row.name, row.policy)
    except LookupError as error:
        tally.complain(error)
        return False
    good = 0
    for home in homes:
        try:
            home.node.delete(home.spot, stamp, name=f"/{account}/{container}/{row.name}")
            good += 1
        except StorageError as error:
            tally.complain(_said(home, error))
    if 2 * good < len(homes):
        return False
    line = Row(name=row.name, timestamp=stamp, deleted=True, policy=row.policy)
    for home in care.homes(*place):
        try:
            home.node.record(home.spot, *place, (line,))
        except Missing:
            continue
        except StorageError as error:
            tally.complain(_said(home, error))
    tally.count("objects")
    return True


def _said(home: Home, error: StorageError) -> str:
    return f"{home.device.host}:{home.device.port}/{home.device.device}: {error}"
