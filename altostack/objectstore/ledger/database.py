"""One account's or container's database, opened: facts, metadata and lines in SQLite.

Lines are recorded in the log (`pending`) and merged before anybody reads; SQLite sees to it that one process at a time
merges and writes.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec

from altostack.objectstore.files import open_unseen, sync_folder
from altostack.objectstore.framelog import LOCK_WAIT, FrameLog
from altostack.objectstore.ledger import lines, listing, merging, schema
from altostack.objectstore.ledger.lines import Line
from altostack.objectstore.storage import (
    Dated,
    DeviceFull,
    DeviceGone,
    Info,
    Missing,
    Query,
    Row,
    Subdir,
)

log = logging.getLogger(__name__)
_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA wal_autocheckpoint = 2000",
)
_SMALL: Final = 256  # pages under which a file's free room does not matter
HALF: Final = 1 << 17  # bytes in a half of the log
_BATCH: Final = 5000  # lines of one transaction
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(tuple[str, list[Line]])


Direction = Literal["in", "out", "fill"]


class Corrupt(Exception):
    """The file is no database, or a damaged one."""


@contextmanager
def translated() -> Iterator[None]:
    """SQLite's and the system's troubles in the words of the storage seam.

    Raises Corrupt, DeviceFull, DeviceGone. A missing file (FileNotFoundError) passes as it is.
    """
    try:
        yield
    except sqlite3.Error as trouble:
        code = getattr(trouble, "sqlite_errorcode", None)
        primary = code & 0xFF if isinstance(code, int) else None
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "decode to UTF-8" in str(trouble):
            raise Corrupt(str(trouble)) from trouble
        if primary == sqlite3.SQLITE_FULL:
            raise DeviceFull(str(trouble)) from trouble
        if primary in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_PERM,
        ):
            raise DeviceGone(str(trouble)) from trouble
        raise
    except UnicodeDecodeError as trouble:  # what is meant to be text is not, even in what SQLite says of it
        raise Corrupt(str(trouble)) from trouble
    except FileNotFoundError:
        raise
    except OSError as trouble:
        if trouble.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DeviceFull(trouble.strerror) from trouble
        raise DeviceGone(f"{trouble.strerror}: {trouble.filename}") from trouble


def examine(path: Path) -> str:
    """What is wrong with the file, as `schema.damage` says; "" when nothing is. Raises DeviceGone."""
    try:
        with translated(), closing(connect(path)) as sql:
            return schema.damage(sql)
    except (Corrupt, sqlite3.Error) as trouble:
        return str(trouble)


class Database:
    """An open database. Use it from any thread of the process that opened it; not after a fork.

    path: of the file. inode: what was opened, to tell when another file took its place.
    """

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError, Corrupt, DeviceGone."""
        self.path, self._name = path, str(path)
        self.lock = threading.RLock()
        self.users = 0
        with translated():
            found = os.stat(path)
            self.inode = (found.st_dev, found.st_ino)
            self._file = _open_log(path.with_suffix(".pending"))
            try:
                self._sql = connect(path)
                for pragma in _PRAGMAS:
                    self._sql.execute(pragma)
                account, container = self._sql.execute("SELECT account, container FROM facts").fetchone()
            except BaseException:
                os.close(self._file)
                raise
        self.account: str = account
        self.container: str | None = container
        self._pending = FrameLog(self._file, self._check_in_place, half=HALF)

    def close(self) -> None:
        """Give back what is open."""
        with self.lock:
            self._sql.close()
            os.close(self._file)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes, records or merges, in any process. Raises DeviceGone when that takes too long."""
        with self.lock, translated():
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                with self._pending.alone():
                    yield
            finally:
                self._sql.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The only writer, all or nothing, on top of everything recorded until now. Meanwhile others may record."""
        with self.lock, translated():
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                recorded, generation = self._pending.take()
                if recorded:
                    merging.merge(self._sql, map(_DECODER.decode, recorded), self.container is not None)
                yield self._sql
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise
            if generation is not None:
                self._pending.merged(generation)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Everything recorded until now, as it was at one instant. On a full device: what was merged before."""
        with self.lock, translated():
            if self._sql.in_transaction:  # of this thread
                yield self._sql
                return
            if self._pending.filled():
                self._merge_if_there_is_room()
            self._sql.execute("BEGIN")
            try:
                yield self._sql
            finally:
                self._sql.execute("COMMIT")

    def record(self, given: Sequence[Line], now: str, *, sync: bool = True) -> None:
        """Take lines over, durably. ``now``: for lines that do not say when their counts were true.

        sync: False if they are to be durable only after `sync`.
        """
        for start in range(0, len(given), _BATCH):
            self._record(given[start : start + _BATCH], now, sync)

    def sync(self) -> None:
        """What was recorded is durable now. Raises DeviceGone."""
        with translated():
            self._pending.sync_all()

    def _record(self, given: Sequence[Line], now: str, sync: bool) -> None:
        frame = _ENCODER.encode((now, given))
        with translated():
            appended = self._pending.append(frame)
            if appended is None:
                with self.lock:
                    appended = self._pending.append(frame)  # somebody else may have begun to merge
                    if appended is None:
                        with self.transaction():
                            self.merge(given, now)
                        return
            if sync:
                self._pending.sync(appended.number)

    def info(self) -> Info:
        """Facts, metadata and counts; also of what is deleted."""
        with self.reading() as sql:
            facts = sql.execute(
                "SELECT account, container, id, created, put, deleted, changed, policy FROM facts"
            ).fetchone()
            metadata = {name: (value, at) for name, value, at in sql.execute("SELECT * FROM metadata")}
            totals = {
                row[0]: row[1:] for row in sql.execute("SELECT policy, lines, objects, bytes FROM totals")
            }
            planned: set[str] = set()
            if totals.get(lines.PLAN, (0, 0, 0))[0]:
                planned = {
                    one for (one,) in sql.execute("SELECT etag FROM live WHERE shelf = ?", (lines.PLAN,))
                }
        account, container, id, created, put, deleted, changed, policy = facts
        shared: dict[str, Any] = {
            "account": account, "container": container, "id": id, "created": created, "put": put,
            "deleted": deleted, "changed": changed, "metadata": metadata,
        }  # fmt: skip
        if container is None:
            sums = [sum(one[index] for one in totals.values()) for index in range(3)]
            return Info(containers=sums[0], count=sums[1], bytes=sums[2], per_policy=totals, **shared)
        count, _, size = totals.get(policy, (0, 0, 0))
        ranges, count_there, size_there = totals.get(lines.MAP, (0, 0, 0))
        if ranges:  # what is here is only on its way to the shards
            count, size = count_there, size_there
        return Info(
            count=count, bytes=size, policy=policy, shards=ranges, state=_phase(ranges, planned), **shared
        )

    def recorded(self) -> bool:
        """Whether something is recorded that is not merged."""
        return self._pending.filled()

    def empty(self) -> bool:
        """Whether there is nothing in it, of whatever policy, nor in its shards."""
        with self.reading() as sql:
            there = sql.execute("SELECT objects FROM totals WHERE policy = ?", (lines.MAP,)).fetchone()
            if there is not None and there[0]:
                return False
            return sql.execute("SELECT 1 FROM live WHERE shelf >= 0 LIMIT 1").fetchone() is None

    def point(self, id: str, direction: Direction) -> int:
        """How far the lines of the copy ``id`` are here ("in"), or how far it has those that are here ("out").

        "fill": how far a shard of that name has them (`ledger.sharder`).
        """
        with self.reading() as sql:
            found = sql.execute(
                "SELECT point FROM points WHERE id = ? AND direction = ?", (id, direction)
            ).fetchone()
        return found[0] if found else 0

    def set_point(self, id: str, direction: Direction, point: int, now: str) -> None:
        """A point never goes back; within a `transaction`."""
        self._sql.execute(
            "INSERT INTO points (id, direction, point, seen) VALUES (?, ?, ?, ?) ON CONFLICT (id, direction)"
            " DO UPDATE SET point = max(point, excluded.point), seen = excluded.seen",
            (id, direction, point, now),
        )

    def set_facts(self, **facts: str | int | None) -> None:
        """Change columns of the facts; within a `transaction`."""
        names = ", ".join(f"{name} = ?" for name in facts)
        self._sql.execute(f"UPDATE facts SET {names}", tuple(facts.values()))

    def set_metadata(self, given: Dated) -> None:
        """Merge; the newest value of a name wins, at a tie the greater one; within a `transaction`."""
        self._sql.executemany(
            "INSERT INTO metadata (name, value, timestamp) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET value = excluded.value, timestamp = excluded.timestamp"
            " WHERE (excluded.timestamp, excluded.value) > (timestamp, value)",
            [(name.lower(), value, at) for name, (value, at) in given.items()],
        )

    def list(self, query: Query) -> list[Row | Subdir]:
        """A page of the listing."""
        with self.reading() as sql:
            return listing.page(sql, query, container=self.container is not None)

    def merge(self, given: Iterable[Line], now: str) -> None:
        """Bring lines in; within a `transaction`. ``now``: for lines that do not say when their counts were true."""
        merging.merge(self._sql, [(now, given)], self.container is not None)

    def drop(self, table: Literal["live", "gone"], keys: Sequence[tuple[int, str]]) -> None:
        """Forget lines (shelf, name) without a trace; within a `transaction`."""
        merging.drop(self._sql, table, keys)

    def shrink(self) -> None:
        """Give back the room of the emptied log, and that of lines that are gone when it is more than half."""
        with self.lock, translated():
            self._pending.shrink()
            pages, free = (
                self._sql.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
            )
            if pages > _SMALL and free * 2 > pages:
                self._sql.execute("VACUUM")

    def _merge_if_there_is_room(self) -> None:
        try:
            with self.transaction():
                pass
        except DeviceFull as trouble:  # people have to see what they can delete
            log.warning("%s: what was recorded cannot be merged: %s", self._name, trouble)

    def _check_in_place(self) -> None:
        """Whoever takes a database away holds its lock, and moves its folder."""
        try:
            found = os.stat(self._name)
        except FileNotFoundError:
            raise Missing from None
        if (found.st_dev, found.st_ino) != self.inode:
            raise DeviceGone(f"{self.path.name} was replaced")


def connect(path: Path) -> sqlite3.Connection:
    """The file for reading and writing, if it is there. Raises sqlite3.Error."""
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None, check_same_thread=False,
        timeout=LOCK_WAIT, cached_statements=64,
    )  # fmt: skip


def _open_log(path: Path) -> int:
    try:
        return open_unseen(path, os.O_RDWR)
    except FileNotFoundError:
        found = open_unseen(path, os.O_RDWR | os.O_CREAT)
        sync_folder(path.parent)  # what is recorded there has to be found again
        return found


def _phase(ranges: int, planned: set[str]) -> str:
    """What a container is that has so many ranges, and plans for others (`ledger.shards`)."""
    if "shrinking" in planned:
        return "collapsing" if ranges == 1 else "shrinking"
    if ranges:
        return "sharded"
    return "sharding" if planned else "unsharded"
