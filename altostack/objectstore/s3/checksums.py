"""Sums that clients send to find out what a network or a disk did to their data.

CRC-32C and CRC-64/NVME come from awscrt: in Python alone they would take a second for every few megabytes.
Source: Amazon S3 user guide, "Checking object integrity".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from altostack.objectstore.http import Request
from altostack.objectstore.s3.errors import S3Error, invalid

SIZES: Final[Mapping[str, int]] = {"crc32": 4, "crc32c": 4, "crc64nvme": 8, "sha1": 20, "sha256": 32}
PREFIX: Final = "x-amz-checksum-"
KEPT: Final = "x-object-sysmeta-s3api-checksum-"  # + algorithm: base 64
KEPT_TYPE: Final = "x-object-sysmeta-s3api-checksum-type"


class Sum(Protocol):
    """What hashlib's objects are."""

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A cyclic redundancy check as an object like hashlib's."""

    def __init__(self, step: Callable[[bytes, int], int], size: int) -> None:
        self._step, self._size, self._value = step, size, 0

    def update(self, data: bytes, /) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def new(algorithm: str) -> Sum:
    """One of `SIZES`."""
    if algorithm == "crc32":
        return _Crc(zlib.crc32, 4)
    if algorithm == "crc32c":
        from awscrt import checksums

        return _Crc(checksums.crc32c, 4)
    if algorithm == "crc64nvme":
        from awscrt import checksums

        return _Crc(checksums.crc64nvme, 8)
    return hashlib.new(algorithm)


def combined(algorithm: str, parts: list[tuple[bytes, int]]) -> bytes:
    """The CRC of parts put together, from each one's (CRC, length in bytes)."""
    from awscrt import checksums

    join: Callable[[int, int, int], int] = getattr(checksums, f"combine_{algorithm}")
    value = 0
    for crc, length in parts:
        value = join(value, int.from_bytes(crc, "big"), length)
    return value.to_bytes(SIZES[algorithm], "big")


def decoded(algorithm: str, value: str) -> bytes:
    """A sum in base 64. Raises S3Error."""
    try:
        found = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != SIZES[algorithm]:
        raise S3Error("InvalidRequest", f"Value for {PREFIX}{algorithm} header is invalid.")
    return found


def wanted(request: Request) -> tuple[str, str] | None:
    """The (algorithm, base 64) that a request's headers give; the value is "" if it comes in a trailer.

    Raises S3Error for several, for unknown ones and for malformed values.
    """
    found = {
        name.removeprefix(PREFIX): value
        for name, value in request.headers.items()
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) in SIZES
    }
    trailer = request.header("x-amz-trailer").strip().lower()
    if trailer:
        algorithm = trailer.removeprefix(PREFIX)
        if not trailer.startswith(PREFIX) or algorithm not in SIZES:
            raise S3Error(
                "InvalidRequest", "The value specified in the x-amz-trailer header is not supported"
            )
        if found:
            raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header or trailer")
        found[algorithm] = ""
    if len(found) > 1:
        raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header.")
    named = (
        request.header("x-amz-sdk-checksum-algorithm") or request.header("x-amz-checksum-algorithm")
    ).lower()
    if named and named not in SIZES and named != "md5":
        raise S3Error(
            "InvalidRequest", "The checksum algorithm is none of CRC32, CRC32C, CRC64NVME, SHA1, SHA256."
        )
    if not found:
        return None
    ((algorithm, value),) = found.items()
    if value:
        decoded(algorithm, value)
    return algorithm, value


def shown(sysmeta: Mapping[str, str]) -> dict[str, str]:
    """The x-amz-checksum headers of a stored object."""
    found = {
        PREFIX + algorithm: sysmeta[KEPT + algorithm] for algorithm in SIZES if sysmeta.get(KEPT + algorithm)
    }
    if found:
        found["x-amz-checksum-type"] = sysmeta.get(KEPT_TYPE) or "FULL_OBJECT"
    return found


def md5_of(request: Request) -> bytes | None:
    """The Content-MD5. Raises S3Error for what is none."""
    said = request.headers.get("content-md5")
    if said is None:
        return None
    try:
        found = base64.b64decode(said.strip(), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != 16:
        raise S3Error("InvalidDigest")
    return found


def algorithm_named(name: str) -> str:
    """One of `SIZES` from a client's word for it. Raises S3Error."""
    if name.lower() not in SIZES:
        raise invalid("x-amz-checksum-algorithm", name)
    return name.lower()
