"""Pieces of a container's lines, read and forgotten bit by bit, so that others get their turn meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

from altostack.objectstore.ledger import lines
from altostack.objectstore.ledger.database import Database
from altostack.objectstore.ledger.lines import Line

BATCH: Final = 1000  # lines read at a time
_FIELDS: Final = (
    "name, timestamp, size, content_type, etag, {}, policy, count, type_timestamp, meta_timestamp, seq"
)
Table = Literal["live", "gone"]
_TABLES: Final[tuple[tuple[Table, int], ...]] = (("live", 0), ("gone", 1))
Numbered = tuple[Line, int]  # a line and the number of its newest change


def _line(found: Sequence[Any]) -> Numbered:
    *fields, seq = found
    fields[lines.DELETED] = bool(fields[lines.DELETED])
    line: Any = tuple(fields)
    return line, seq


def measure(sql: sqlite3.Connection, policy: int, lower: str, upper: str | None) -> tuple[int, int]:
    """Objects and bytes of a range."""
    where, values = _range(policy, lower, upper)
    found: tuple[int, int] = sql.execute(
        f"SELECT COUNT(*), coalesce(SUM(size), 0) FROM live WHERE {where}", values
    ).fetchone()
    return found


def some(sql: sqlite3.Connection, policy: int, lower: str, upper: str | None) -> bool:
    """Whether there is an object in a range."""
    where, values = _range(policy, lower, upper)
    return sql.execute(f"SELECT 1 FROM live WHERE {where} LIMIT 1", values).fetchone() is not None


def _range(shelf: int, lower: str, upper: str | None) -> tuple[str, tuple[int | str, ...]]:
    """The condition of a range, such that the index is used for both ends."""
    if upper is None:
        return "shelf = ? AND name > ?", (shelf, lower)
    return "shelf = ? AND name > ? AND name <= ?", (shelf, lower, upper)


def batches(database: Database, lower: str, upper: str | None) -> Iterator[tuple[Table, list[Numbered]]]:
    """Lines and tombstones of a range, of every policy, by table, with the numbers of their changes."""
    for table, flag in _TABLES:
        shelf = -1
        while True:
            with database.reading() as sql:
                found = sql.execute(f"SELECT min(shelf) FROM {table} WHERE shelf > ?", (shelf,)).fetchone()[0]
            if found is None:
                break
            shelf, start = found, lower
            while True:
                where, values = _range(shelf, start, upper)
                text = f"SELECT {_FIELDS.format(flag)} FROM {table} WHERE {where} ORDER BY shelf, name LIMIT {BATCH}"
                with database.reading() as sql:
                    batch = [_line(one) for one in sql.execute(text, values)]
                if not batch:
                    break
                yield table, batch
                start = batch[-1][0][lines.NAME]


def changes(
    database: Database, point: int, lower: str, upper: str | None
) -> Iterator[tuple[Table, list[Numbered]]]:
    """As `batches`, but what changed after a point."""
    for table, flag in _TABLES:
        start = point
        while True:
            with database.reading() as sql:
                found = sql.execute(
                    f"SELECT {_FIELDS.format(flag)} FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?",
                    (start, BATCH),
                ).fetchall()
            if not found:
                break
            start = found[-1][-1]
            batch = [
                (line, seq)
                for line, seq in map(_line, found)
                if line[lines.POLICY] >= 0
                and line[lines.NAME] > lower
                and (upper is None or line[lines.NAME] <= upper)
            ]
            if batch:
                yield table, batch


def drop(database: Database, table: Table, batch: list[Numbered]) -> int:
    """Forget lines that are elsewhere, but for those that changed meanwhile; how many it were."""
    with database.transaction() as sql:
        keys = [
            (line[lines.POLICY], line[lines.NAME])
            for line, seq in batch
            if sql.execute(
                f"SELECT 1 FROM {table} WHERE shelf = ? AND name = ? AND seq = ?",
                (line[lines.POLICY], line[lines.NAME], seq),
            ).fetchone()
        ]
        database.drop(table, keys)
    return len(keys)
