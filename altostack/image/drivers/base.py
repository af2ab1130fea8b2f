"""The image store: one seam, keyed by the image's id, safe to be killed and called again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol


class StoreError(Exception):
    """The store could not do what it was asked."""

    expected = True


class StoreFull(StoreError):
    """No space is left."""


class ImageTooLarge(StoreError):
    """More bytes came than are allowed."""


class NoBits(StoreError):
    """The store holds nothing under this id."""


class ImageStore(Protocol):
    """Keeps image bits. Streams: memory does not grow with the image."""

    def put(self, image_id: str, stream: Iterable[bytes]) -> int:
        """Keep the stream's bytes; nothing is there under the id until all are. How many there were.

        Raises StoreFull, or whatever the stream raises; then nothing is left behind.
        """

    def get(self, image_id: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from ``offset`` on, ``length`` of them. Raises NoBits at once, not when iterated."""

    def delete(self, image_id: str) -> None:
        """Forget the id, and any half-made thing under it. Nothing there is no error."""

    def list(self) -> list[str]:
        """Every id that the store holds."""

    def tidy(self, idle: float) -> int:
        """Remove half-made things that nobody wrote to for ``idle`` seconds; how many."""

    def size(self, image_id: str) -> int:
        """How many bytes it holds under the id. Raises NoBits."""

    def path(self, image_id: str) -> Path | None:
        """A local file with the bits, where there is one."""
