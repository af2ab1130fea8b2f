"""Pages of listings (object storage API: prefix, delimiter, path, marker, end_marker, reverse, limit).

Names are in byte order of their UTF-8 form, which is the order of code points, and that of SQLite's BINARY collation.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any, Final

from altostack.objectstore.storage import Query, Row, Subdir

_LAST: Final = 0x10FFFF
_OBJECT: Final = "name, timestamp, size, content_type, etag, type_timestamp, meta_timestamp"
_RANGE: Final = "name, timestamp, size, content_type, etag, count, meta_timestamp"
_CONTAINER: Final = "name, timestamp, size, count, policy, meta_timestamp"


def after(prefix: str) -> str | None:
    """The least text greater than everything that begins with ``prefix``; None when there is no such text."""
    while prefix:
        last = ord(prefix[-1])
        if last < _LAST:
            following = 0xE000 if last == 0xD7FF else last + 1  # surrogates are no characters
            return prefix[:-1] + chr(following)
        prefix = prefix[:-1]
    return None


def effective(query: Query) -> tuple[str, str]:
    """Prefix and delimiter of a query; a path stands for both."""
    if query.path is None:
        return query.prefix, query.delimiter
    return query.path.rstrip("/") + "/" if query.path else "", "/"


def _object_row(policy: int, found: tuple[Any, ...]) -> Row:
    name, timestamp, size, content_type, etag, type_timestamp, meta_timestamp = found
    return Row(
        name=name, timestamp=timestamp, size=size, content_type=content_type, etag=etag, policy=policy,
        type_timestamp=type_timestamp, meta_timestamp=meta_timestamp,
    )  # fmt: skip


def _container_row(found: tuple[Any, ...]) -> Row:
    name, timestamp, size, count, policy, meta_timestamp = found
    return Row(
        name=name, timestamp=timestamp, size=size, count=count, policy=policy, meta_timestamp=meta_timestamp
    )


def _range_row(shelf: int, found: tuple[Any, ...]) -> Row:
    name, timestamp, size, content_type, etag, count, meta_timestamp = found
    return Row(
        name=name, timestamp=timestamp, size=size, content_type=content_type, etag=etag, policy=shelf,
        count=count, meta_timestamp=meta_timestamp,
    )  # fmt: skip


def page(sql: sqlite3.Connection, query: Query, *, container: bool) -> list[Row | Subdir]:
    """The names of one page. ``container``: a container's objects, not an account's containers.

    Without a policy in the query a container lists the objects of its own.
    """
    shelf = 0
    if container:
        shelf = (
            query.policy
            if query.policy is not None
            else sql.execute("SELECT policy FROM facts").fetchone()[0]
        )
    return _Page(sql, query, shelf, container).rows()


class _Page:
    def __init__(self, sql: sqlite3.Connection, query: Query, shelf: int, container: bool) -> None:
        self.sql, self.query, self.shelf, self.container = sql, query, shelf, container
        self.prefix, self.delimiter = effective(query)
        low, high = (query.end_marker, query.marker) if query.reverse else (query.marker, query.end_marker)
        self.floor = low  # a subdir of this name was on the page before
        # the bounds: (text, inclusive) below, exclusive text above; None: no bound
        self.low: tuple[str, bool] = (self.prefix, True) if not low or low < self.prefix else (low, False)
        self.high: str | None = after(self.prefix)
        if high and (self.high is None or high < self.high):
            self.high = high
        self.columns = (_OBJECT if shelf >= 0 else _RANGE) if container else _CONTAINER
        self.make = partial(_object_row, shelf) if container else _container_row

    def rows(self) -> list[Row | Subdir]:
        if self.query.limit <= 0:
            return []
        if not self.delimiter:
            return self._plain()
        return self._rolled_up()

    def _plain(self) -> list[Row | Subdir]:
        found, policy = self._select(self.query.limit), self.shelf
        if not self.container:
            return [_container_row(line) for line in found]
        if policy < 0:
            return [_range_row(policy, line) for line in found]
        return [  # without a function call for each line: this is what costs most of a page's time
            Row(
                name=name, timestamp=timestamp, size=size, content_type=content_type, etag=etag, policy=policy,
                type_timestamp=type_timestamp, meta_timestamp=meta_timestamp,
            )
            for name, timestamp, size, content_type, etag, type_timestamp, meta_timestamp in found
        ]  # fmt: skip

    def _select(self, limit: int, columns: str = "") -> sqlite3.Cursor:
        columns = columns or self.columns
        text, inclusive = self.low
        where, values = f"shelf = ? AND name {'>=' if inclusive else '>'} ?", [self.shelf, text]
        if self.high is not None:
            where += " AND name < ?"
            values.append(self.high)
        if not self.container and self.query.policy is not None:
            where += " AND policy = ?"
            values.append(self.query.policy)
        order = "DESC" if self.query.reverse else "ASC"
        return self.sql.execute(
            f"SELECT {columns} FROM live WHERE {where} ORDER BY shelf {order}, name {order} LIMIT ?",
            (*values, limit),
        )

    def _rolled_up(self) -> list[Row | Subdir]:
        """Subdirs are sought one by one by name alone; between them lines are read in a row."""
        found: list[Row | Subdir] = []
        while len(found) < self.query.limit:
            first = self._select(1, "name").fetchone()
            if first is None:
                break
            subdir = self._subdir(first[0])
            if subdir is None:
                subdir = self._names_until_a_subdir(found)
            if subdir is None:
                break
            if self.query.path is None and subdir != self.floor and len(found) < self.query.limit:
                found.append(Subdir(subdir))
            if not self._go_past(subdir):
                break
        return found

    def _subdir(self, name: str) -> str | None:
        """What a name is shown as, None for the name itself."""
        at, width = name.find(self.delimiter, len(self.prefix)), len(self.delimiter)
        if at < 0 or (self.query.path is not None and at + width == len(name)):
            return None
        return name[: at + width]

    def _names_until_a_subdir(self, found: list[Row | Subdir]) -> str | None:
        """Add lines; the first subdir behind them, None when the page or the list ends before one."""
        left = self.query.limit - len(found)
        for line in self._select(-1):
            if left <= 0:
                return None
            subdir = self._subdir(line[0])
            if subdir is not None:
                return subdir
            if self.query.path is None or line[0] != self.prefix:
                found.append(self.make(line))
                left -= 1
        return None

    def _go_past(self, subdir: str) -> bool:
        """Whether something may come after it."""
        if self.query.reverse:  # a path shows the object that is called like the subdir
            self.high = subdir if self.query.path is None else subdir + "\0"
            return True
        end = after(subdir)
        if end is not None:
            self.low = (end, True)
        return end is not None
