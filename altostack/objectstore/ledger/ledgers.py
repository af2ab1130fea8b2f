"""The account and container databases of this machine's devices: the part of `storage.Node` that is about them."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from altostack.objectstore.config import Settings
from altostack.objectstore.files import sync_folder
from altostack.objectstore.ledger import lines, schema
from altostack.objectstore.ledger.database import Corrupt, Database, examine, translated
from altostack.objectstore.ledger.shards import KEPT
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import (
    Dated,
    DeviceGone,
    Info,
    Kind,
    Missing,
    NotEmpty,
    Query,
    Row,
    Spot,
    StorageError,
    Subdir,
    Superseded,
    Update,
)

log = logging.getLogger(__name__)

_OPEN: Final = 64  # databases that a process keeps open, four files each


class Ledgers:
    """Accounts and containers on the devices below a folder.

    What is said of `updates` in `storage.Node` is for whoever delivers them: here they are not looked at. Every method
    raises DeviceGone and, where it writes, DeviceFull.
    """

    def __init__(self, devices: Path, settings: Settings, *, clock: Clock) -> None:
        self.devices, self.settings, self.clock = devices, settings, clock
        self._top = str(devices)
        self._default_policy = next(one.index for one in settings.storage_policies() if one.default)
        self._open: OrderedDict[str, Database] = OrderedDict()
        self._unsynced: dict[Database, str] = {}  # to its path
        self._lock = threading.Lock()
        self._forgotten: list[Database] = []  # of the process that forked this one: not ours to close
        me = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(me()))

    # ---- the methods of storage.Node

    def create(
        self,
        spot: Spot,
        account: str,
        container: str | None,
        timestamp: str,
        *,
        policy: int | None = None,
        metadata: Dated | None = None,
        updates: Sequence[Update] = (),
    ) -> bool:
        """Make it, bring it back or touch it; True when it was not there. As `storage.Node.create`.

        Raises Superseded for another policy than that of the container, for a timestamp before its deletion, and for
        a deleted account that still has containers.
        """
        wanted = None
        if container is not None:
            wanted = self._default_policy if policy is None else policy
        if self._make(spot, account, container, timestamp, wanted, metadata):
            return True
        with self.database(spot, _kind(container)) as database, database.transaction():
            before = database.info()
            was_gone = before.gone
            if was_gone and (timestamp <= before.deleted or before.containers):
                raise Superseded(before.deleted)
            if was_gone:
                database.set_facts(changed=max(before.changed, timestamp))
            if was_gone and container is not None:
                database.set_facts(policy=wanted, policy_since=timestamp)
            elif policy is not None and container is not None and policy != before.policy:
                raise Superseded(before.put)
            if timestamp > before.put:
                database.set_facts(put=timestamp)
            if metadata:
                database.set_metadata(metadata)
            return was_gone

    def info(self, spot: Spot, account: str, container: str | None) -> Info:
        """As `storage.Node.info`. Raises Missing."""
        with self.database(spot, _kind(container)) as database:
            return _present(database.info())

    def change(
        self, spot: Spot, account: str, container: str | None, timestamp: str, metadata: Dated
    ) -> None:
        """As `storage.Node.change`. Raises Missing."""
        with self.database(spot, _kind(container)) as database, database.transaction():
            _present(database.info())
            database.set_metadata(metadata)

    def destroy(
        self,
        spot: Spot,
        account: str,
        container: str | None,
        timestamp: str,
        *,
        updates: Sequence[Update] = (),
    ) -> bool:
        """As `storage.Node.destroy`. Raises Missing, NotEmpty, Superseded.

        An account is marked as deleted whatever it holds: its containers go later (the reaper).
        """
        with self.database(spot, _kind(container)) as database, database.transaction():
            before = database.info()
            if container is not None and not database.empty():
                raise NotEmpty(f"{account}/{container}")
            if timestamp <= before.put:
                raise Superseded(before.put)
            there = not before.gone
            if timestamp > before.deleted:
                database.set_facts(deleted=timestamp, changed=max(before.changed, timestamp))
                database.set_metadata(_cleared(before, timestamp))
            return there

    def list(
        self, spot: Spot, account: str, container: str | None, query: Query, *, gone: bool = False
    ) -> Sequence[Row | Subdir]:
        """As `storage.Node.list`. ``gone``: also of a deleted account (the reaper's wish). Raises Missing."""
        with self.database(spot, _kind(container)) as database:
            if not gone:
                _present(database.info())
            return database.list(query)

    def record(
        self, spot: Spot, account: str, container: str | None, rows: Iterable[Row], *, sync: bool = True
    ) -> None:
        """As `storage.Node.record`. Raises Missing for a container that has no database here.

        A container's line should say in ``meta_timestamp`` when its counts were true (`account_row` does). sync: False
        if something else remembers the lines until `sync`.
        """
        given = [lines.of_row(row) for row in rows]
        if container is None and given:
            self._make(spot, account, None, min(line[1] for line in given), None)
        with self.database(spot, _kind(container)) as database:
            database.record(given, self.clock.now(), sync=sync)
            if not sync and database not in self._unsynced:
                with self._lock:
                    if database not in self._unsynced:
                        database.users += 1  # it stays open
                        self._unsynced[database] = self._path(spot, _kind(container))

    def sync(self) -> None:
        """Lines that were recorded without a sync are durable now, but on devices that fail."""
        with self._lock:
            unsynced, self._unsynced = self._unsynced, {}
        for database, path in unsynced.items():
            try:
                database.sync()
            except StorageError as trouble:
                log.error("lines of %s may be lost: %s", path, trouble)
            finally:
                self._give_back(path, database)

    # ---- and what the node itself needs

    def account_row(self, spot: Spot, account: str, container: str) -> Row:
        """The line of a container for its account's list, with its counts and the time of their being true.

        Raises Missing when there is no database.
        """
        with self.database(spot, "container") as database:
            found = database.info()
        gone = found.gone
        return Row(
            name=container, timestamp=found.deleted if gone else found.put, size=found.bytes, count=found.count,
            deleted=gone, policy=found.policy or 0, meta_timestamp=self.clock.now(),
        )  # fmt: skip

    def facts(self, spot: Spot, kind: Kind = "container") -> Info:
        """What the database of a spot is of, also of what is deleted. Raises Missing when there is none."""
        with self.database(spot, kind) as database:
            return database.info()

    def folder(self, spot: Spot, kind: Kind) -> Path:
        """Where the database of a spot lies."""
        return Path(self._path(spot, kind)).parent

    def _path(self, spot: Spot, kind: Kind) -> str:
        """The database's file; text, for this is on the way of every call."""
        digest = spot.digest
        return f"{self._top}/{spot.device}/{kind}s/{spot.part}/{digest[-3:]}/{digest}/{digest}.db"

    def close(self) -> None:
        """Close every database."""
        self.sync()
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def forget(self) -> None:
        """In a new process: what its parent opened is the parent's, and the lock may be held by a thread there."""
        self._lock = threading.Lock()
        self._forgotten += {*self._open.values(), *self._unsynced}
        self._unsynced = {}
        self._open = OrderedDict()

    def _check_device(self, device: str) -> None:
        path = f"{self._top}/{device}"
        if not (os.path.ismount(path) if self.settings.mount_check else os.path.isdir(path)):
            raise DeviceGone(f"{device} is not there")

    def _make(
        self,
        spot: Spot,
        account: str,
        container: str | None,
        timestamp: str,
        policy: int | None,
        metadata: Dated | None = None,
    ) -> bool:
        """A new database where there is none; whether there was none."""
        self._check_device(spot.device)
        path = self._path(spot, _kind(container))
        if os.path.exists(path):
            return False
        with translated():
            return write_new(
                Path(path),
                schema.image(account, container, timestamp, policy, metadata),
                self.devices / spot.device,
            )

    @contextmanager
    def database(self, spot: Spot, kind: Kind) -> Iterator[Database]:
        """The open database of a spot. Raises Missing, DeviceGone; a damaged one is put aside."""
        path = self._path(spot, kind)
        try:
            with self._examining(spot, kind):
                database = self._borrow(path)
        except FileNotFoundError:
            self._check_device(spot.device)
            raise Missing from None
        try:
            with self._examining(spot, kind, database.inode):
                yield database
        finally:
            self._give_back(path, database)

    @contextmanager
    def _examining(self, spot: Spot, kind: Kind, inode: tuple[int, int] | None = None) -> Iterator[None]:
        """Put a database aside that is found damaged, or proves to be when something goes wrong that nobody expects.

        Damage shows in many ways: a column has another name, or there is a number where there was a text.
        Raises DeviceGone.
        """
        try:
            yield
        except (StorageError, OSError):
            raise
        except Corrupt as trouble:
            self._quarantine(spot, kind, inode)
            raise DeviceGone(f"{spot.digest}: {trouble}") from trouble
        except Exception as trouble:
            said = examine(Path(self._path(spot, kind)))
            if not said:
                raise
            self._quarantine(spot, kind, inode)
            raise DeviceGone(f"{spot.digest}: {said}") from trouble

    def _borrow(self, path: str) -> Database:
        """Whoever gets it gives it back by `_give_back`. Raises FileNotFoundError, Corrupt, DeviceGone."""
        found = os.stat(path)
        inode = (found.st_dev, found.st_ino)
        idle: list[Database] = []
        try:
            with self._lock:
                database = self._open.get(path)
                if database is not None and database.inode != inode:
                    idle += self._let_go(path)
                    database = None
                if database is None:
                    database = self._open[path] = Database(Path(path))
                self._open.move_to_end(path)
                database.users += 1
                while len(self._open) > _OPEN:
                    idle += self._let_go(next(iter(self._open)))
                return database
        finally:
            for one in idle:
                one.close()

    def _give_back(self, path: str, database: Database) -> None:
        with self._lock:
            database.users -= 1
            idle = not database.users and self._open.get(path) is not database
        if idle:
            database.close()

    def _let_go(self, path: str) -> tuple[Database, ...]:
        """Keep it open no longer than somebody uses it; what can be closed now. With the lock held."""
        database = self._open.pop(path)
        return () if database.users else (database,)

    def _quarantine(self, spot: Spot, kind: Kind, inode: tuple[int, int] | None) -> None:
        """Put a damaged database aside, where the operator finds it; but not one that took its place meanwhile."""
        folder = self.folder(spot, kind)
        if inode is not None:
            try:
                found = os.stat(folder / f"{spot.digest}.db")
            except FileNotFoundError:
                return
            if (found.st_dev, found.st_ino) != inode:
                return
        aside = self.devices / spot.device / "quarantined" / f"{kind}s" / spot.digest
        with translated():
            aside.parent.mkdir(parents=True, exist_ok=True)
            if aside.exists():
                aside = aside.with_name(f"{spot.digest}-{schema.new_id()}")
            try:
                os.rename(folder, aside)
            except FileNotFoundError:
                return  # somebody else was first


def write_new(path: Path, content: bytes, top: Path) -> bool:
    """A file that appears whole and durably, or not because there is one. Folders are made below ``top``."""
    temporary = top / "tmp" / schema.new_id()
    temporary.parent.mkdir(exist_ok=True)
    try:
        temporary.write_bytes(content)
        return put_new(path, temporary, top)
    finally:
        temporary.unlink(missing_ok=True)


def put_new(path: Path, file: Path, top: Path) -> bool:
    """As `write_new`, with a file that is on the same device already, and stays."""
    missing = []
    folder = path.parent
    while not folder.exists() and folder != top:
        missing.append(folder)
        folder = folder.parent
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(file, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
    path.with_suffix(".pending").touch()
    try:
        os.link(file, path)
    except FileExistsError:
        return False
    for one in [path.parent, *(made.parent for made in missing)]:
        sync_folder(one)
    return True


def remove(folder: Path, top: Path) -> None:
    """Take a database's folder on the device ``top`` away, at once for everybody who looks."""
    aside = top / "tmp" / schema.new_id()
    aside.parent.mkdir(exist_ok=True)
    os.rename(folder, aside)
    sync_folder(folder.parent)
    shutil.rmtree(aside)


def _forked(ledgers: Ledgers | None) -> None:
    if ledgers is not None:
        ledgers.forget()


def _cleared(found: Info, timestamp: str) -> Dated:
    """A deleted container has no metadata, but remembers what it is a shard of."""
    return {
        name: ("", timestamp)
        for name, (value, _) in found.metadata.items()
        if value and not name.startswith(KEPT)
    }


def _kind(container: str | None) -> Kind:
    return "account" if container is None else "container"


def _present(found: Info) -> Info:
    if found.gone:
        raise Missing(found.deleted)
    return found
