"""What becomes of two versions of one line: a join, so that the order in which lines arrive does not matter.

A line is the tuple of a `storage.Row`'s fields. An object's line has three parts that age on their own: the data, the
content type (a POST may change it), and the time of the newest metadata. A container's line in its account has two:
when it was put or deleted, and what it counted at ``meta_timestamp``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import msgspec

from altostack.objectstore.stamp import ZERO
from altostack.objectstore.storage import Row

Line = tuple[str, str, int, str, str, bool, int, int, str, str]
Join = Callable[[Line, Line], Line]

NAME: Final = 0
TIMESTAMP: Final = 1
SIZE: Final = 2
TYPE: Final = 3
ETAG: Final = 4
DELETED: Final = 5
POLICY: Final = 6
COUNT: Final = 7
TYPE_TIME: Final = 8
META_TIME: Final = 9

MAP: Final = -1  # the shelf of a split container's ranges
PLAN: Final = -2  # the shelf of ranges that are being made or given up


def of_row(row: Row) -> Line:
    """The row as a line."""
    return msgspec.structs.astuple(row)


def to_row(line: Line) -> Row:
    """The line as a row."""
    name, timestamp, size, content_type, etag, deleted, policy, count, type_time, meta_time = line
    return Row(
        name=name, timestamp=timestamp, size=size, content_type=content_type, etag=etag, deleted=bool(deleted),
        policy=policy, count=count, type_timestamp=type_time, meta_timestamp=meta_time,
    )  # fmt: skip


def join_objects(one: Line, other: Line) -> Line:
    """Lines of one object: newest data, newest content type, newest metadata.

    At one instant a deletion beats data, so that a line can be taken back where it stands.
    """
    data = max((one[1], one[5], one[4], one[2]), (other[1], other[5], other[4], other[2]))
    one_typed, other_typed = max(one[8], one[1]), max(other[8], other[1])
    typed = max((one_typed, one[3]), (other_typed, other[3]))
    meta = max(one[9], one_typed, other[9], other_typed)
    return (
        one[0], data[0], data[3], typed[1], data[2], data[1], one[6], 0,
        "" if typed[0] == data[0] else typed[0], "" if meta == data[0] else meta,
    )  # fmt: skip


def join_containers(one: Line, other: Line) -> Line:
    """Lines of one container: newest put or delete (put at a tie), newest counts."""
    state = max((one[1], not one[5]), (other[1], not other[5]))
    told = max((one[9], one[7], one[2], one[6]), (other[9], other[7], other[2], other[6]))
    return (one[0], state[0], told[2], "", "", not state[1], told[3], told[1], "", told[0])


def join_ranges(one: Line, other: Line) -> Line:
    """Lines of one range of a split container (`ledger.shards`): newest place, newest counts."""
    state = max((one[1], one[5], one[3], one[4]), (other[1], other[5], other[3], other[4]))
    counts = max((one[9], one[7], one[2]), (other[9], other[7], other[2]))
    return (one[0], state[0], counts[2], state[2], state[3], state[1], one[6], counts[1], "", counts[0])


def joining(shelf: int, objects: bool) -> Join:
    """How lines of a shelf are joined; ``objects``: of a container's database."""
    if not objects:
        return join_containers
    return join_objects if shelf >= 0 else join_ranges


def told(line: Line, known: Line | None, now: str) -> Line:
    """A container's line that does not say when its counts were true: they are true now.

    But a newer put or delete that counts nothing leaves the counts that are known, and so does an older line.
    """
    if line[9]:
        return line
    if known is None:
        return (*line[:9], line[1])
    if line[1] < known[1] or (line[1] > known[1] and not line[7] and not line[2]):
        return (line[0], line[1], known[2], line[3], line[4], line[5], known[6], known[7], "", ZERO)
    return (*line[:9], now)


def mark(line: Line) -> int:
    """128 bits that stand for the line; the exclusive or of all lines' marks stands for a whole database."""
    text = "\0".join(map(str, (*line[:5], int(line[5]), *line[6:])))
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest())
