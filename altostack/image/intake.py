"""What every bit passes on its way in: counted, inspected, hashed and, where the image is signed, verified.

All of it while the bits stream: nothing is opened by qemu-img before it was judged here, and memory does not grow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from altostack.image import inspect
from altostack.image.digest import Hashing, Sink
from altostack.image.drivers.base import ImageTooLarge, NoBits, StoreFull
from altostack.image.fetch import FetchFailed, Refused
from altostack.image.signature import BadSignature, Verifier
from altostack.kit.errors import ApiError, BadGateway, BadRequest, TooLarge

# Wrapped in these a disk image is something else to look at, and nothing that a hypervisor may open.
_WRAPPED = ("ova", "docker", "compressed")


class StoreOutOfSpace(ApiError):
    """The store is full (the service answers 413 for it)."""

    code, title = 413, "Request Entity Too Large"


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What came in: size in bytes, MD5 and the chosen hash in hexadecimal, and the size of the disk inside."""

    size: int
    checksum: str
    hash_algo: str
    hash_value: str
    virtual_size: int | None

    def columns(self) -> dict[str, Any]:
        """As columns of an image."""
        return {
            "size": self.size, "checksum": self.checksum, "os_hash_algo": self.hash_algo,
            "os_hash_value": self.hash_value, "virtual_size": self.virtual_size,
        }  # fmt: skip


class Intake:
    """Judges one stream: iterate over `watch`, then ask `finish`.

    length: the announced size in bytes. max_bytes: the most there may be. verifier: of the image's signature.
    """

    def __init__(
        self,
        *,
        disk_format: str,
        container_format: str,
        algorithm: str,
        max_bytes: int,
        length: int | None = None,
        verifier: Verifier | None = None,
    ) -> None:
        if length is not None and length > max_bytes:
            raise ImageTooLarge(f"The image is larger than {max_bytes} bytes.")
        self._inspection = inspect.Inspection("raw" if container_format in _WRAPPED else disk_format)
        self._wrapped = container_format in _WRAPPED
        self._algorithm, self._max, self._length, self._verifier = algorithm, max_bytes, length, verifier
        self._md5, self._hash = hashlib.md5(usedforsecurity=False), hashlib.new(algorithm)
        self._size = 0

    def watch(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """The stream, refused as soon as something is wrong with it. Raises ImageTooLarge, UnsafeImage, BadRequest."""
        sinks: list[Sink] = [self._md5, self._hash]
        if self._verifier is not None:
            sinks.append(self._verifier)
        with closing(Hashing(sinks).watch(self._counted(stream))) as hashed:
            yield from self._inspection.watch(hashed)

    def _counted(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in stream:
            self._size += len(chunk)
            if self._size > self._max:
                raise ImageTooLarge(f"The image is larger than {self._max} bytes.")
            yield chunk
        if self._length is not None and self._size < self._length:
            raise BadRequest(
                f"The upload ended after {self._size} of {self._length} bytes.", field="Content-Length"
            )

    def finish(self) -> Taken:
        """The verdict once all have passed. Raises UnsafeImage or BadSignature."""
        found = self._inspection.finish()
        if self._verifier is not None:
            self._verifier.finish()
        return Taken(
            size=self._size,
            checksum=self._md5.hexdigest(),
            hash_algo=self._algorithm,
            hash_value=self._hash.hexdigest(),
            virtual_size=None if self._wrapped else found.virtual_size,
        )


def explained(trouble: BaseException) -> BaseException:
    """What the service answers when bits could not be had, kept or trusted."""
    if isinstance(trouble, StoreFull):
        return StoreOutOfSpace(f"There is not enough space on the image store: {trouble}")
    if isinstance(trouble, ImageTooLarge):
        return TooLarge(str(trouble))
    if isinstance(trouble, inspect.UnsafeImage):
        return BadRequest(f"The image is refused: {trouble}", field="disk_format")
    if isinstance(trouble, BadSignature):
        return BadRequest(f"The image is refused: {trouble}", field="img_signature")
    if isinstance(trouble, Refused):
        return BadRequest(str(trouble), field="uri")
    if isinstance(trouble, FetchFailed | NoBits):
        return BadGateway(f"The image's data cannot be reached: {trouble}")
    return trouble
