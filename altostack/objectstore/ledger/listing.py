"""Pages of listings (object storage API: prefix, delimiter, path, marker, end_marker, reverse, limit).

Names are in byte order of their UTF-8 form, which is the order of code points, and that of SQLite's BINARY collation.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any, Final

from altostack.objectstore.storage import Query, Row, Subdir

_SKIPS: Final = 8  # lines of a subdir that are read past before its end is sought
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

    def _select(self, limit: int) -> sqlite3.Cursor:
        columns = _CONTAINER
        if self.container:
            columns = _OBJECT if self.shelf >= 0 else _RANGE
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
        found: list[Row | Subdir] = []
        limit, reverse, only_path = self.query.limit, self.query.reverse, self.query.path is not None
        start, width = len(self.prefix), len(self.delimiter)
        while len(found) < limit:
            cursor = self._select(-1)
            subdir, skipped, sought = "", 0, False
            for line in cursor:
                name: str = line[0]
                if subdir and name.startswith(subdir) and not (only_path and name == subdir):
                    skipped += 1
                    if skipped < _SKIPS:
                        continue
                    end = after(subdir)
                    if reverse:
                        self.high = (
                            subdir + "\0" if only_path else subdir
                        )  # a path lists the subdir's own object
                    elif end is None:
                        return found
                    else:
                        self.low = (end, True)
                    sought = True
                    break
                if len(found) >= limit:
                    break
                at = name.find(self.delimiter, start)
                if at < 0 or (only_path and at + width == len(name)):
                    if not only_path or name != self.prefix:
                        found.append(self.make(line))
                    continue
                subdir, skipped = name[: at + width], 0
                if not only_path and subdir != self.floor:
                    found.append(Subdir(subdir))
            cursor.close()
            if not sought:
                break
        return found
