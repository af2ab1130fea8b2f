"""Lines on their way into the tables, and out: totals, the mark and the numbers of changes follow at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from altostack.objectstore.ledger import lines
from altostack.objectstore.ledger.lines import Line

_GET: Final = (
    "SELECT name, timestamp, size, content_type, etag, {1}, policy, count, type_timestamp, meta_timestamp"
    " FROM {0} WHERE shelf = ? AND name = ?"
)
_PUT: Final = (
    "INSERT OR REPLACE INTO {0} (name, timestamp, size, content_type, etag, policy, count, type_timestamp,"
    " meta_timestamp, shelf, seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_DROP: Final = "DELETE FROM {0} WHERE shelf = ? AND name = ?"
_GET_LIVE: Final = _GET.format("live", 0)
_GET_GONE: Final = _GET.format("gone", 1)


def merge(sql: sqlite3.Connection, given: Iterable[tuple[str, Iterable[Line]]], objects: bool) -> None:
    """Join lines with those that are there, and keep totals, the mark and the numbers of changes right.

    given: lines, each lot with the time that they are true at if they do not say it. objects: of a container, not of
    an account.
    """
    seq, sum_ = sql.execute("SELECT seq, mark FROM facts").fetchone()
    total = int.from_bytes(sum_)
    joined: dict[tuple[int, str], Line] = {}  # what is to be written
    before: dict[tuple[int, str], Line | None] = {}
    for now, line in ((now, line) for now, lot in given for line in lot):
        shelf = line[6] if objects else 0
        key = (shelf, line[0])
        known = joined.get(key)
        if known is None:
            if key in before:
                known = before[key]
            else:
                known = sql.execute(_GET_LIVE, key).fetchone() or sql.execute(_GET_GONE, key).fetchone()
                before[key] = known
        if known is None and objects and shelf >= 0 and not line[8] and not line[9]:
            new = line if not line[7] else (*line[:7], 0, "", "")
        else:
            join = lines.joining(shelf, objects)
            if join is not lines.join_objects:
                line = lines.told(line, known, now)
            new = join(line if known is None else known, line)
        if new != known:
            joined[key] = new
    if not joined:
        return
    puts: dict[str, list[tuple[Any, ...]]] = {"live": [], "gone": []}
    drops: dict[str, list[tuple[int, str]]] = {"live": [], "gone": []}
    changes: dict[int, list[int]] = {}
    for key, new in joined.items():
        seq += 1
        known = before[key]
        total ^= lines.mark(new)
        puts["gone" if new[5] else "live"].append((*new[:5], *new[6:], key[0], seq))
        if not new[5]:
            _count(changes, new, 1)
        if known is not None:
            total ^= lines.mark(known)
            if not known[5]:
                _count(changes, known, -1)
            if bool(known[5]) != bool(new[5]):
                drops["gone" if known[5] else "live"].append(key)
    for table in ("live", "gone"):
        if drops[table]:
            sql.executemany(_DROP.format(table), drops[table])
        if puts[table]:
            sql.executemany(_PUT.format(table), puts[table])
    _add(sql, changes)
    sql.execute("UPDATE facts SET seq = ?, mark = ?", (seq, total.to_bytes(16)))


def drop(sql: sqlite3.Connection, table: Literal["live", "gone"], keys: Sequence[tuple[int, str]]) -> None:
    """Forget lines (shelf, name), and keep totals and the mark right."""
    if not keys:
        return
    total = int.from_bytes(sql.execute("SELECT mark FROM facts").fetchone()[0])
    changes: dict[int, list[int]] = {}
    for key in keys:
        known = sql.execute(_GET.format(table, int(table == "gone")), key).fetchone()
        if known is not None:
            total ^= lines.mark(known)
            if table == "live":
                _count(changes, known, -1)
    sql.executemany(_DROP.format(table), keys)
    _add(sql, changes)
    sql.execute("UPDATE facts SET mark = ?", (total.to_bytes(16),))


def _add(sql: sqlite3.Connection, changes: dict[int, list[int]]) -> None:
    sql.executemany(
        "INSERT INTO totals (policy, lines, objects, bytes) VALUES (?, ?, ?, ?) ON CONFLICT (policy) DO UPDATE SET"
        " lines = lines + excluded.lines, objects = objects + excluded.objects, bytes = bytes + excluded.bytes",
        [(policy, *change) for policy, change in changes.items()],
    )


def _count(changes: dict[int, list[int]], line: Line, sign: int) -> None:
    change = changes.setdefault(line[6], [0, 0, 0])
    change[0] += sign
    change[1] += sign * line[7]
    change[2] += sign * line[2]
