"""The image store: one seam, keyed by the image's id, safe to be killed and called again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class StoreError(Exception):
    """The store could not do what it was asked."""


class StoreFull(StoreError):
    """No space is left."""


class ImageTooLarge(StoreError):
    """More bytes came than are allowed."""


class NoBits(StoreError):
    """The store holds nothing under this id."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What was kept: size in bytes, MD5 and SHA-512 as hexadecimal digits."""

    size: int
    md5: str
    sha512: str


class ImageStore(Protocol):
    """Keeps image bits. Streams: memory does not grow with the image."""

    def put(self, image_id: str, stream: Iterable[bytes], *, max_bytes: int) -> Stored:
        """Keep the stream's bytes; nothing is there under the id until all are.

        Raises StoreFull, ImageTooLarge, or whatever the stream raises; then nothing is left behind.
        """

    def get(self, image_id: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from ``offset`` on, ``length`` of them. Raises NoBits at once, not when iterated."""

    def delete(self, image_id: str) -> None:
        """Forget the id, and any half-made thing under it. Nothing there is no error."""

    def list(self) -> list[str]:
        """Every id that the store holds."""

    def path(self, image_id: str) -> Path | None:
        """A local file with the bits, where there is one."""
