"""One flipped bit anywhere in a database: whatever is asked of it then, the answer is one of the seam's."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from altostack.objectstore.care.books import Books
from altostack.objectstore.config import Settings
from altostack.objectstore.ledger import database, schema
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.ledger.replicate import Replication
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import DeviceGone, Kind, Query, Row, Spot, StorageError
from tests.objectstore.ledger.conftest import at, row, spot

FLIPS = int(os.environ.get("ALTOSTACK_FLIPS", "300"))
pytestmark = pytest.mark.timeout(120 + FLIPS / 10)


def opened(folder: Path) -> Ledgers:
    return Ledgers(folder, Settings(), clock=Clock())


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """Two devices with a copy each of an account and a container."""
    folder = tmp_path / "devices"
    for device in ("d1", "d2"):
        (folder / device).mkdir(parents=True)
    ledgers = opened(folder)
    for device in ("d1", "d2"):
        container, account = spot("a/c", device), spot("a", device)
        ledgers.create(container, "a", "c", at(1), metadata={"x-container-meta-color": ("red", at(1))})
        ledgers.create(account, "a", None, at(1))
        ledgers.record(container, "a", "c", [row(f"o{number:03}", 2) for number in range(40)])
        ledgers.record(container, "a", "c", [row(f"o{number:03}", 3, deleted=True) for number in range(10)])
        ledgers.record(account, "a", None, [row("c", 2)])
        ledgers.list(container, "a", "c", Query())
        ledgers.list(account, "a", None, Query())
    ledgers.close()
    return folder


def everything(ledgers: Ledgers, kind: Kind) -> dict[str, Callable[[], object]]:
    """What can be asked of a database on d1, and what it and its copy on d2 say to each other."""
    name, container = ("a/c", "c") if kind == "container" else ("a", None)
    here, there = spot(name), spot(name, "d2")
    copies = Replication(ledgers)
    snapshot = ledgers.devices / "d1" / "tmp" / "snapshot"
    changes = [row("o999", 9), row("o001", 9), row("o039", 9, deleted=True)]

    def list(at: Spot, query: Query = Query(), *, gone: bool = False) -> object:  # noqa: B008 # it is not changed
        return ledgers.list(at, "a", container, query, gone=gone)

    def install() -> None:
        if snapshot.exists():
            copies.install(there, kind, snapshot)

    return {
        "info": lambda: ledgers.info(here, "a", container),
        "list": lambda: list(here),
        "list by parts": lambda: list(here, Query(prefix="o", delimiter="0", reverse=True)),
        "list what is gone": lambda: list(here, gone=True),
        "record": lambda: ledgers.record(here, "a", container, changes),
        "facts": lambda: ledgers.facts(here, kind),
        "create": lambda: ledgers.create(here, "a", container, at(0.5)),
        "destroy": lambda: ledgers.destroy(here, "a", container, at(50)),
        "state": lambda: copies.state(here, kind),
        "audit": lambda: copies.audit(here, kind),
        "check": lambda: Books(ledgers).check(here, kind),
        "reclaim": lambda: copies.reclaim(here, kind, before=at(100)),
        "misplaced": lambda: copies.misplaced(here) if container else None,
        "snapshot": lambda: copies.snapshot(here, kind, snapshot),
        "install": install,
        "offer": lambda: copies.offer(here, kind, copies.state(there, kind)),
        "accept": lambda: copies.accept(here, kind, copies.since(there, kind, 0).lines, "x" * 32, 5),
        "be offered": lambda: copies.offer(there, kind, copies.state(here, kind)),
        "be accepted": lambda: copies.accept(there, kind, copies.since(here, kind, 0).lines, "y" * 32, 5),
        "list the other": lambda: list(there),
    }


def flip(path: Path, chance: random.Random) -> int:
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    while not content[at] and chance.random() < 0.9:  # most of a small database is empty
        at = chance.randrange(len(content))
    content[at] ^= 1 << chance.randrange(8)
    with path.open("r+b") as file:  # the same file: it may be open
        file.write(content)
    return at


def test_no_flipped_bit_is_anything_but_a_trouble_of_the_device(devices: Path) -> None:
    chance = random.Random(FLIPS)
    for number in range(FLIPS):
        work = devices.with_name("work")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(devices, work)
        ledgers = opened(work)
        kind: Kind = chance.choice(("container", "account"))
        asked = everything(ledgers, kind)
        if chance.random() < 0.5:  # it is open already
            asked["list"]()
        here = spot("a/c" if kind == "container" else "a")
        where = flip(ledgers.folder(here, kind) / f"{here.digest}.db", chance)
        for name in chance.sample([*asked], len(asked)):
            try:
                asked[name]()
            except StorageError:
                pass
            except Exception as trouble:
                raise AssertionError(f"flip {number} of the {kind} at {where}: {name}") from trouble
        ledgers.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE live SET name = CAST(name AS BLOB) WHERE name = 'o020'",
        "UPDATE live SET size = 'large' WHERE name = 'o020'",
        "UPDATE facts SET created = x'31'",
        "DELETE FROM facts",
        "ALTER TABLE totals RENAME COLUMN bytes TO byTes",
        "ALTER TABLE gone RENAME TO done",
        "DROP INDEX live_seq",
    ],
)
def test_what_integrity_does_not_show(devices: Path, statement: str) -> None:
    ledgers, here = opened(devices), spot("a/c")
    path = ledgers.folder(here, "container") / f"{here.digest}.db"
    assert database.examine(path) == ""
    sql = sqlite3.connect(path)
    with sql:
        sql.execute("PRAGMA ignore_check_constraints = 1")
        sql.execute(statement)
    sql.close()
    assert database.examine(path)
    with pytest.raises(DeviceGone):
        Replication(ledgers).audit(here, "container")
    assert not path.exists()  # it is put aside
    ledgers.close()


def test_a_mistake_of_ours_is_no_damage(devices: Path) -> None:
    ledgers, here = opened(devices), spot("a/c")
    with (
        pytest.raises(sqlite3.OperationalError),
        ledgers.database(here, "container") as held,
        held.reading() as sql,
    ):
        sql.execute("SELECT nonsense FROM live")
    with pytest.raises(TypeError), ledgers.database(here, "container"):
        max("1", 1)  # type: ignore[type-var]
    found = [one.name for one in ledgers.list(here, "a", "c", Query()) if isinstance(one, Row)]
    assert len(found) == 30
    ledgers.close()


def test_a_damaged_file_is_not_taken_for_a_copy(devices: Path) -> None:
    ledgers, here, there = opened(devices), spot("a/c"), spot("a/c", "d2")
    copies, sent = Replication(ledgers), devices / "d2" / "sent"
    copies.snapshot(here, "container", sent)
    sql = sqlite3.connect(sent)
    with sql:
        sql.execute("UPDATE live SET etag = CAST(etag AS BLOB) WHERE name = 'o020'")
    sql.close()
    with pytest.raises(DeviceGone, match="is damaged"):
        copies.install(there, "container", sent)
    assert schema.damage(sqlite3.connect(ledgers.folder(there, "container") / f"{there.digest}.db")) == ""
    ledgers.close()
