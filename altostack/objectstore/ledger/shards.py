"""Containers that are split into shards: the map, and what readers do with it.

A container with very many objects becomes a root: its objects' lines move to shards, which are containers of the hidden
account ``.shards_<account>``, each with a range of names. The root keeps the map, as lines on a shelf of its own
(`MAP`): so it is recorded, listed and replicated as objects' lines are. A line of the map::

    name             lower bound: the range holds the names after it, up to and with the next line's
    content_type     the shard's container
    count, size      objects and bytes in it, as reported at meta_timestamp

Ranges can neither overlap nor leave gaps, since a range ends where the next begins. A line with an empty name is always
there; a root without lines has its objects itself.

Lines that are where the map does not want them (a writer had an old map; a range was split) are strays: every holder
of a copy moves its strays to where they belong (`ledger.sharder`). Joining makes that safe in any order.

What is under way stands on another shelf of the root (`PLAN`): lines with ``etag`` "cleaving" name a shard that is
being filled, with "shrinking" one that is being given up. `storage.Info.state` tells what follows from both shelves:
"unsharded", "sharding" (planned, still served by the root), "sharded", "shrinking", "collapsing" (the last range goes
back to the root).

Readers and writers (the proxy): `Info.shards` is not 0 for a root that is split. `map_query` asks a copy of the root
(`Node.list`) for the map, `owner_query` for the one line that says where a name belongs; send the object's line to
that container of `hidden`. `page` makes a listing of the shards' listings. Before a split container is destroyed,
make sure by a `page` of one name that it is empty: the counts in the map are a little old.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from altostack.objectstore.ledger.lines import MAP, PLAN
from altostack.objectstore.ledger.listing import after, effective
from altostack.objectstore.storage import Query, Row, Subdir

HIDDEN: Final = ".shards_"
ROOT: Final = "x-container-sysmeta-shard-root"  # of a shard: account/container of its root
GIVEN_UP: Final = "x-container-sysmeta-shard-given-up"  # of a shard: it leaves the map, or has left it
KEPT: Final = "x-container-sysmeta-shard-"  # how metadata begins that stays when a container is deleted
CLEAVING: Final = "cleaving"
SHRINKING: Final = "shrinking"
_ALL: Final = 10_000_000

Ask = Callable[[str, Query], Sequence[Row | Subdir]]


@dataclass(frozen=True, slots=True)
class Range:
    """Names after ``lower`` up to and with ``upper`` (None: all) are in a container of the hidden account."""

    lower: str
    upper: str | None
    container: str
    row: Row

    def holds(self, name: str) -> bool:
        """Whether a name belongs there."""
        return name > self.lower and (self.upper is None or name <= self.upper)


def hidden(account: str) -> str:
    """The account of the shards of an account's containers."""
    return f"{HIDDEN}{account}"


def map_query() -> Query:
    """Asks a root for its map."""
    return Query(limit=_ALL, policy=MAP)


def plan_query() -> Query:
    """Asks a root for what is under way."""
    return Query(limit=_ALL, policy=PLAN)


def owner_query(name: str) -> Query:
    """Asks a root for the line of the map that ``name`` falls under; its ``content_type`` is the shard."""
    return Query(limit=1, policy=MAP, reverse=True, marker=name)


def ranges(rows: Sequence[Row | Subdir]) -> list[Range]:
    """The map out of its lines, in any order."""
    found = sorted(
        (row for row in rows if isinstance(row, Row) and not row.deleted), key=lambda row: row.name
    )
    uppers: list[str | None] = [row.name for row in found[1:]]
    return [
        Range(row.name, upper, row.content_type, row)
        for row, upper in zip(found, [*uppers, None] if found else [], strict=True)
    ]


def owner(known: Sequence[Range], name: str) -> Range | None:
    """Where a name belongs; None when the root itself has it."""
    at = bisect_left(known, name, key=lambda one: one.lower) - 1
    return known[at] if at >= 0 else None


def page(query: Query, known: Sequence[Range], ask: Ask) -> list[Row | Subdir]:
    """A page of a split container's listing. ask: lists a container of the hidden account.

    Asks no more shards than the page needs, one after the other. Whatever ``ask`` raises goes through.
    """
    prefix, delimiter = effective(query)
    end = after(prefix)
    low, high = (query.end_marker, query.marker) if query.reverse else (query.marker, query.end_marker)
    found: list[Row | Subdir] = []
    for one in reversed(known) if query.reverse else known:
        left = query.limit - len(found)
        if left <= 0:
            break
        if one.upper is not None and (one.upper <= low or one.upper < prefix):
            continue
        if (high and one.lower >= high) or (end is not None and one.lower >= end):
            continue
        last = found[-1] if found else None
        first = low
        if one.lower > low and not (one.lower.startswith(low) and _is_subdir(low, prefix, delimiter)):
            # A marker that is a subdir leaves that subdir out; the range's bound must not do so. No name that a
            # client may give an object lies between.
            first = one.lower + "\0" if _is_subdir(one.lower, prefix, delimiter) else one.lower
        beyond = high
        if one.upper is not None and (not high or one.upper < high):
            beyond = one.upper + "\0"
        if isinstance(last, Subdir):  # it may go on in this shard
            if query.reverse and one.upper is not None and one.upper.startswith(last.name):
                beyond = last.name
            elif not query.reverse and one.lower.startswith(last.name):
                first = last.name
        marker, end_marker = (beyond, first) if query.reverse else (first, beyond)
        asked = replace(query, limit=left, marker=marker, end_marker=end_marker, policy=None)
        found += ask(one.container, asked)
    return found


def _is_subdir(marker: str, prefix: str, delimiter: str) -> bool:
    """Whether a listing may show that as a subdir."""
    if not delimiter or not marker.startswith(prefix) or len(marker) < len(prefix) + len(delimiter):
        return False
    return marker.find(delimiter, len(prefix)) == len(marker) - len(delimiter)
