"""An object's metadata in extended attributes of its file.

One attribute holds a check sum and a msgpack record. File systems limit what fits (ext4 without large inodes: 4 KiB for
all attributes of a file): a larger record stands at the end of the file, behind the content, and the attribute says so.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Mapping
from typing import Final

import msgspec

from altostack.objectstore.storage import DeviceGone

_NAME: Final = "user.altostack"
_INLINE: Final = 3 << 10  # bytes that every file system takes in one attribute
_encode = msgspec.msgpack.Encoder().encode


class Damaged(Exception):
    """What a file says of itself is not readable, or not what the file is."""


class Unsupported(DeviceGone):
    """The file system has no extended attributes."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a file.

    metadata: lower-case names. size: bytes of content. sum: their CRC-32, if it was taken.
    """

    metadata: dict[str, str]
    size: int = 0
    sum: int | None = None


class _Outside(msgspec.Struct, frozen=True, array_like=True):
    """The record lies in the file from ``start`` on, ``length`` bytes with the check sum ``sum``."""

    start: int
    length: int
    sum: int


_record = msgspec.msgpack.Decoder(Record)
_outside = msgspec.msgpack.Decoder(_Outside)


def packed(metadata: Mapping[str, str], size: int, checksum: int | None = None) -> bytes:
    """The record of a file with ``size`` bytes of content, as `store` takes it."""
    return _encode(Record(dict(metadata), size, checksum))


def unpacked(packed: bytes) -> Record:
    """What `packed` made. Raises ValueError: msgspec's, or that a text is none."""
    return _record.decode(packed)


def store(descriptor: int, packed: bytes, size: int) -> None:
    """Give a file with ``size`` bytes of content its record. Raises OSError, Unsupported."""
    if len(packed) <= _INLINE:
        value = b"I" + zlib.crc32(packed).to_bytes(4, "big") + packed
    else:
        os.pwrite(descriptor, packed, size)
        inner = _encode(_Outside(size, len(packed), zlib.crc32(packed)))
        value = b"O" + zlib.crc32(inner).to_bytes(4, "big") + inner
    _set(descriptor, _NAME, value)


def probe(device: str) -> None:
    """Make sure that files of the device at the path ``device`` can have records. Raises Unsupported, OSError."""
    _set(device, f"{_NAME}.device", os.path.basename(device).encode())


def _set(file: int | str, name: str, value: bytes) -> None:
    try:
        os.setxattr(file, name, value)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise Unsupported("the device's file system has no extended attributes") from error
        raise


def load(descriptor: int) -> Record:
    """The record of an open file, which fits the file. Raises Damaged, OSError."""
    try:
        value = os.getxattr(descriptor, _NAME)
    except OSError as error:
        if error.errno == errno.ENODATA:
            raise Damaged("it has no metadata") from error
        raise
    packed = value[5:]
    if zlib.crc32(packed) != int.from_bytes(value[1:5], "big"):
        raise Damaged("the metadata's check sum is wrong")
    length = os.fstat(descriptor).st_size
    try:
        if value[:1] == b"O":
            outside = _outside.decode(packed)
            if outside.start + outside.length != length:
                raise Damaged(f"it has {length} bytes, not {outside.start + outside.length}")
            packed = os.pread(descriptor, outside.length, outside.start)
            if zlib.crc32(packed) != outside.sum:
                raise Damaged("the metadata's check sum is wrong")
            length = outside.start
        found = _record.decode(packed)
    except ValueError as error:
        raise Damaged("the metadata is not readable") from error
    if found.size != length:
        raise Damaged(f"it has {length} bytes, not {found.size}")
    return found
