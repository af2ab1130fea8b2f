"""Files of rings, builders and composites: a header and arrays of numbers with checksums, so that damage is found.

Layout, little-endian: ``ALTORING``, version of the format (u16), kind (u16), length (u32) and CRC-32 (u32) of the
header; the header in JSON; then the arrays one after another, each at a multiple of eight bytes and described in the
header. CRC-32 (as in zlib) finds every burst of up to 32 bits and is several times faster than a digest; it guards
against accidents, not against people who may write the file.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Generic, Literal, TypeVar

import msgspec

from altostack.objectstore.files import sync_folder

VERSION: Final = 1
Kind = Literal["ring", "builder", "composite"]
Form = Literal["B", "H", "I"]  # unsigned numbers of 1, 2 and 4 bytes

_MAGIC: Final = b"ALTORING"
_HEAD = struct.Struct("<8sHHII")
_KINDS: Final[Sequence[Kind]] = ("ring", "builder", "composite")
_WIDTH: Final = {"B": 1, "H": 2, "I": 4}

T = TypeVar("T")


class BadFile(ValueError):
    """The file is damaged, of another kind, or of a version that is not known here; the text names it."""


class Array(msgspec.Struct, frozen=True):
    """One array as the header describes it. count: numbers; crc: of its bytes."""

    form: Form
    count: int
    crc: int


class _Sealed(msgspec.Struct, Generic[T], frozen=True):
    facts: T
    arrays: list[Array]


def write(path: Path, kind: Kind, facts: object, arrays: Sequence[tuple[Form, memoryview]]) -> None:
    """Write all of it or nothing: readers see the old file or the new one, also after a loss of power.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    described = [
        Array(form, data.nbytes // _WIDTH[form], zlib.crc32(data)) for form, data in arrays
    ]  # lengths and sums of what follows
    header = msgspec.json.encode({"facts": facts, "arrays": described})
    head = _HEAD.pack(_MAGIC, VERSION, _KINDS.index(kind), len(header), zlib.crc32(header))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(head + header)
            for _, data in arrays:
                file.write(bytes(-file.tell() % 8))
                file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_folder(path.parent)


def read(path: Path, kind: Kind, facts: type[T]) -> tuple[T, list[memoryview]]:
    """The header's facts, and the arrays as memoryviews of their form.

    The file is read, not mapped: whoever overwrites it in place must not be able to pull it from under us.

    Raises:
        BadFile: see there.
        OSError: it is not there or cannot be read.
    """
    data = memoryview(path.read_bytes())
    if len(data) < _HEAD.size or bytes(data[:8]) != _MAGIC:
        raise BadFile(f"{path} is no file of a ring, builder or composite of ours")
    _, version, number, length, crc = _HEAD.unpack_from(data)
    if version != VERSION:
        raise BadFile(f"{path} is of version {version} of the format; this program reads version {VERSION}")
    header = data[_HEAD.size : _HEAD.size + length]
    if len(header) < length or zlib.crc32(header) != crc:
        raise BadFile(f"{path} is damaged: its header does not match its checksum")
    if number != _KINDS.index(kind):
        found = _KINDS[number] if number < len(_KINDS) else f"kind {number}"
        raise BadFile(f"{path} is the file of a {found}, not of a {kind}")
    try:
        sealed = msgspec.json.decode(header, type=_Sealed[facts])  # type: ignore[valid-type] # a type in a variable
    except ValueError as error:
        raise BadFile(f"{path}: its header is not understood: {error}") from None
    place = _HEAD.size + length
    arrays: list[memoryview] = []
    for array in sealed.arrays:
        gap = -place % 8
        if any(data[place : place + gap]):
            raise BadFile(f"{path} is damaged: there is something between its arrays")
        place += gap
        view = data[place : place + array.count * _WIDTH[array.form]]
        if zlib.crc32(view) != array.crc:
            raise BadFile(f"{path} is damaged: array {len(arrays) + 1} does not match its checksum")
        place += view.nbytes
        arrays.append(view.cast(array.form))
    if place != len(data):
        raise BadFile(f"{path} is damaged: it has {len(data)} bytes where {place} belong")
    return sealed.facts, arrays
