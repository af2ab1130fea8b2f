"""What a device holds of objects, in a form that nodes compare with each other, and what one of them lacks.

A `Holding` is an object's files by their timestamps. Two devices that hold the same have equal holdings, whatever
came first; so a sum over them (`sums.Sums`) says whether a partition is in step.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from altostack.objectstore.disk import layout, objects
from altostack.objectstore.files import names


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A file with content. frag: None for a whole copy."""

    timestamp: str
    frag: int | None = None
    durable: bool = True


class Holding(msgspec.Struct, frozen=True, array_like=True):
    """What is here of an object. meta: of the newest POST that counts; typed: since when it says the content type.

    tombstone: of the deletion that counts. data: committed pieces first.
    """

    data: tuple[Piece, ...] = ()
    meta: str = ""
    typed: str = ""
    tombstone: str = ""

    @property
    def version(self) -> str:
        """Of the data or deletion in force; "" when nothing committed is here."""
        return self.tombstone or max((piece.timestamp for piece in self.data if piece.durable), default="")

    def piece(self, frag: int | None) -> Piece | None:
        """The newest committed piece of that index."""
        found = [piece for piece in self.data if piece.frag == frag and piece.durable]
        return max(found, key=lambda piece: piece.timestamp, default=None)


class Wants(msgspec.Struct, frozen=True, array_like=True):
    """What somebody who was offered a holding has not got. frags: indexes of pieces; durable: it has the piece and
    was not told that it is committed."""

    data: bool = False
    durable: bool = False
    meta: bool = False
    tombstone: bool = False

    def __bool__(self) -> bool:
        return self.data or self.durable or self.meta or self.tombstone


NOTHING = Wants()


def of_files(names: list[str]) -> Holding:
    """The holding that a folder's files amount to."""
    files = layout.choose(names)
    pieces = [Piece(file.timestamp, file.frag, True) for file in files.data]
    pieces += [Piece(file.timestamp, file.frag, False) for file in files.loose if file.frag is not None]
    # The same fragment may lie there twice, committed and not, when a commit was cut off.
    seen = {(piece.timestamp, piece.frag): piece for piece in reversed(pieces)}
    meta = files.meta if files.data else None  # without content it says nothing
    return Holding(
        tuple(sorted(seen.values(), key=lambda piece: (piece.timestamp, piece.frag or 0, piece.durable))),
        meta.timestamp if meta is not None else "",
        meta.typed if meta is not None else "",
        files.tombstone,
    )


def lacking(mine: Holding, offered: Holding, frag: int | None) -> Wants:
    """What of ``offered`` would change ``mine`` if it came here; ``frag``: the index that belongs here."""
    version = mine.version
    if offered.tombstone:
        return Wants(tombstone=offered.tombstone > mine.tombstone and offered.tombstone >= version)
    committed = [piece for piece in offered.data if piece.durable]
    theirs = max(committed, key=lambda piece: piece.timestamp, default=None)
    if theirs is None:
        return NOTHING  # what was never committed may have been refused
    same = [piece for piece in mine.data if piece.frag == frag and piece.timestamp == theirs.timestamp]
    beyond = theirs.timestamp >= version and theirs.timestamp > mine.tombstone
    data = beyond and not same
    durable = beyond and bool(same) and not any(piece.durable for piece in same)
    content = data or durable or any(piece.durable for piece in mine.data)
    meta = content and (offered.meta, offered.typed) > (mine.meta, mine.typed) and offered.meta > version
    return Wants(data=data, durable=durable, meta=meta)


class Place(NamedTuple):
    """A folder of partitions: a device's path and a policy."""

    device: str
    policy: int

    @property
    def folder(self) -> str:
        return layout.parts_folder(self.device, self.policy)


def parts(place: Place) -> list[int]:
    """The partitions that have a folder. Raises OSError."""
    try:
        return sorted(int(name) for name in os.listdir(place.folder) if name.isdigit())
    except FileNotFoundError:
        return []


def suffixes(place: Place, part: int) -> list[str]:
    """Raises OSError."""
    return [name for name in listed(f"{place.folder}/{part}") if len(name) == 3]


def holdings(place: Place, part: int, suffix: str) -> Iterator[tuple[str, Holding]]:
    """What lies there, by digest; folders without anything that counts are left out. Raises OSError."""
    folder = f"{place.folder}/{part}/{suffix}"
    for digest in sorted(listed(folder)):
        if len(digest) == 32:
            found = of_files(listed(f"{folder}/{digest}"))
            if found.data or found.meta or found.tombstone:
                yield digest, found


def holding(place: Place, part: int, digest: str) -> Holding:
    """What lies there of one object. Raises OSError."""
    return of_files(listed(f"{place.folder}/{part}/{digest[-3:]}/{digest}"))


def part_of(digest: str, parts: int) -> int:
    """The partition of a digest when there are ``parts`` of them: its first bits."""
    return int(digest[:8], 16) >> (33 - parts.bit_length())


def remove(place: Place, part: int, digest: str, known: Holding, frag: int | None = None) -> bool:
    """Remove an object's files if they still are what is ``known``; whether they were. Raises OSError.

    ``frag``: only the fragments of this index; what else is there stays.
    """
    folder = f"{place.folder}/{part}/{digest[-3:]}/{digest}"
    names = listed(folder)
    if of_files(names) != known:
        return False
    for name in names:
        file = layout.parse(name)
        if file is not None and (frag is None or file.frag == frag):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{folder}/{name}")
    objects.touch(folder)
    return True


def sweep(place: Place, part: int) -> None:
    """Remove a partition's folders that are empty. Whoever writes there meanwhile makes them anew. Raises OSError."""
    top = f"{place.folder}/{part}"
    for suffix in listed(top):
        for digest in listed(f"{top}/{suffix}"):
            rmdir(f"{top}/{suffix}/{digest}")
        rmdir(f"{top}/{suffix}")
    rmdir(top)


def rmdir(folder: str) -> None:
    """Remove a folder if it is empty. Raises OSError."""
    try:
        os.rmdir(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise


def listed(folder: str) -> list[str]:
    """Names in a folder; none when it is not there. Raises OSError."""
    try:
        return names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
