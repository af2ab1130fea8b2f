"""The tables of an account's or a container's database.

``live`` and ``gone`` hold the lines and the tombstones: apart, so that a listing never walks over what was deleted,
and clustered by name, so that a page of a listing is a piece of the table. ``shelf`` is an object line's policy and 0
for containers' lines: one name may have a line on each shelf. ``seq`` rises with every change of a line; replication
asks for what came after a number.
"""

from __future__ import annotations

import secrets
import sqlite3
from functools import lru_cache
from typing import Final

from altostack.objectstore.storage import Dated

_LINES: Final = """
CREATE TABLE {0} (
  shelf INTEGER NOT NULL, name TEXT NOT NULL, timestamp TEXT NOT NULL, size INTEGER NOT NULL,
  content_type TEXT NOT NULL, etag TEXT NOT NULL, policy INTEGER NOT NULL, count INTEGER NOT NULL,
  type_timestamp TEXT NOT NULL, meta_timestamp TEXT NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY (shelf, name)) WITHOUT ROWID;
CREATE INDEX {0}_seq ON {0} (seq);
"""
_TABLES: Final = f"""
CREATE TABLE facts (
  account TEXT NOT NULL, container TEXT, id TEXT NOT NULL, created TEXT NOT NULL, put TEXT NOT NULL,
  deleted TEXT NOT NULL, changed TEXT NOT NULL, policy INTEGER, policy_since TEXT NOT NULL, seq INTEGER NOT NULL,
  mark BLOB NOT NULL);
CREATE TABLE metadata (name TEXT PRIMARY KEY, value TEXT NOT NULL, timestamp TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE totals (
  policy INTEGER PRIMARY KEY, lines INTEGER NOT NULL, objects INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE points (id TEXT NOT NULL, direction TEXT NOT NULL, point INTEGER NOT NULL, seen TEXT NOT NULL,
  PRIMARY KEY (id, direction)) WITHOUT ROWID;
{_LINES.format("live")}{_LINES.format("gone")}
"""
_WAL: Final = (
    b"\x02\x02"  # bytes 18 and 19 of the file: written and read by way of a log (SQLite file format, 1.3)
)


def image(
    account: str, container: str | None, timestamp: str, policy: int | None, metadata: Dated | None = None
) -> bytes:
    """The file of a new database without lines."""
    made = sqlite3.connect(":memory:", isolation_level=None)
    try:
        made.execute("BEGIN")
        _make(made)
        made.execute(
            "INSERT INTO facts VALUES (?, ?, ?, ?, ?, '', ?, ?, ?, 0, ?)",
            (account, container, new_id(), timestamp, timestamp, timestamp, policy, timestamp, bytes(16)),
        )
        made.executemany(
            "INSERT INTO metadata (name, value, timestamp) VALUES (?, ?, ?)",
            [(name.lower(), value, at) for name, (value, at) in (metadata or {}).items()],
        )
        made.execute("COMMIT")
        content = made.serialize()
    finally:
        made.close()
    return content[:18] + _WAL + content[20:]


def _make(sql: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):
        sql.execute(statement)


def damage(sql: sqlite3.Connection) -> str:
    """What is wrong with a database, "" when nothing is: with its structure, its tables, and the types of its values.

    Reads everything. A changed value of the right type is not seen. Raises sqlite3.Error, UnicodeDecodeError: that is
    damage as well, unless it is the disk's trouble.
    """
    said = sql.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if said != "ok":
        return str(said)
    tables, wrong = _shape()
    if sql.execute(_SHAPE).fetchall() != tables:
        return "its tables are not those of such a database"
    for table, statement in wrong.items():
        if sql.execute(statement).fetchone() is not None:
            return f"a value of {table} has another type"
    if sql.execute("SELECT COUNT(*) FROM facts").fetchone()[0] != 1:
        return "it does not say whose it is"
    return ""


_SHAPE: Final = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT GLOB 'sqlite_*' ORDER BY type, name"
)
_TYPES: Final = {"INTEGER": "integer", "TEXT": "text", "BLOB": "blob"}


@lru_cache(maxsize=1)
def _shape() -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """The tables and indexes, and for each table a statement that finds a value of a wrong type."""
    made = sqlite3.connect(":memory:")
    try:
        _make(made)
        shape = made.execute(_SHAPE).fetchall()
        wrong = {}
        for _, name, *_ in (one for one in shape if one[0] == "table"):
            columns = made.execute(f"PRAGMA table_info({name})").fetchall()
            tests = [
                f"typeof({column}) NOT IN ('{_TYPES[kind]}'" + ("" if needed or key else ", 'null'") + ")"
                for _, column, kind, needed, _, key in columns
            ]
            wrong[name] = f"SELECT 1 FROM {name} WHERE {' OR '.join(tests)} LIMIT 1"
        return shape, wrong
    finally:
        made.close()


def new_id() -> str:
    """What a copy of a database is known by: 32 hex digits."""
    return secrets.token_hex(16)
