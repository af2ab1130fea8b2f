"""Account and container databases as the daemons compare them: one sum a database, remembered while its files rest."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from typing import Final

import msgspec

from altostack.objectstore.ledger import lines
from altostack.objectstore.ledger.database import Corrupt, translated
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.ledger.replicate import Replication, State
from altostack.objectstore.storage import Kind, Missing, Spot

_QUIET: Final = 2.0  # seconds that files must have rested: file times are not finer than a clock's tick
_LINE: Final = "name, timestamp, size, content_type, etag, {}, policy, count, type_timestamp, meta_timestamp"
_MOST: Final = 200_000  # databases that are remembered
_SHARED: Final = (
    "account", "container", "created", "put", "deleted", "changed", "policy", "policy_since", "metadata", "mark",
)  # fmt: skip


class Known(msgspec.Struct, frozen=True):
    """A copy's sum over what all copies should have in common, and the number of its newest line."""

    sum: str
    seq: int


class Books:
    """The databases of this machine's devices."""

    def __init__(self, ledgers: Ledgers) -> None:
        self.copies = Replication(ledgers)
        self._ledgers = ledgers
        self._known: dict[tuple[Spot, Kind], tuple[tuple[int, ...], Known]] = {}

    def known(self, spot: Spot, kind: Kind) -> Known | None:
        """None when there is no such database. Raises DeviceGone."""
        before = self._looks(spot, kind)
        if before is None:
            self._known.pop((spot, kind), None)
            return None
        held = self._known.get((spot, kind))
        if held is not None and held[0] == before:
            return held[1]
        try:
            state = self.copies.state(spot, kind)
        except Missing:
            return None
        known = Known(_sum(state), state.seq)
        after = self._looks(spot, kind)  # reading may have merged what was pending
        if after is not None and max(after[::2]) < time.time_ns() - _QUIET * 1e9:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[spot, kind] = (after, known)
        return known

    def check(self, spot: Spot, kind: Kind) -> None:
        """Compare the lines with the mark that stands for them; a database in which they differ is set aside.

        Raises Missing, DeviceGone when it is damaged.
        """
        path = f"{self._ledgers.folder(spot, kind)}/{spot.digest}.db"
        if not os.path.exists(path):
            raise Missing
        with self._ledgers.database(spot, kind), translated():
            sql = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
            try:
                sql.execute("BEGIN")  # one state of all tables, while others write
                wanted = sql.execute("SELECT mark FROM facts").fetchone()[0].hex()
                total = 0
                for table, flag in (("live", 0), ("gone", 1)):
                    for line in sql.execute(f"SELECT {_LINE.format(flag)} FROM {table}"):
                        total ^= lines.mark((*line[:5], bool(line[5]), *line[6:]))
            finally:
                sql.close()
            if wanted != total.to_bytes(16).hex():
                raise Corrupt("its lines are not what they were")

    def _looks(self, spot: Spot, kind: Kind) -> tuple[int, ...] | None:
        """Times and sizes of the database's files, None when there is none."""
        path = f"{self._ledgers.folder(spot, kind)}/{spot.digest}"
        found: list[int] = []
        for name in (".db", ".db-wal", ".pending"):
            try:
                stat = os.stat(path + name)
            except (FileNotFoundError, NotADirectoryError):
                if name == ".db":
                    return None
                found += [0, 0]
            else:
                found += [stat.st_mtime_ns, stat.st_size]
        return tuple(found)


def _sum(state: State) -> str:
    shared = [getattr(state, name) for name in _SHARED]
    return hashlib.md5(msgspec.json.encode(shared, order="sorted"), usedforsecurity=False).hexdigest()
