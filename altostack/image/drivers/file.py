"""Images as files in a folder.

A stream goes to ``parts/<id>.<random>``, is synced and renamed to ``<id>``, and the folder is synced: after a crash the
image is there whole or not at all, and two writers of one image do not mix.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

from altostack.image.drivers.base import NoBits, StoreError, StoreFull

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class FileStore:
    """An `ImageStore` in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = (
            folder / "parts"
        )  # apart, so that looking through them does not take long among many images
        self._parts.mkdir(parents=True, exist_ok=True)

    def _file(self, image_id: str) -> Path:
        if not _ID.fullmatch(image_id):  # ids become file names: nothing but a UUID may
            raise StoreError(f"{image_id!r} is not an image id")
        return self._folder / image_id

    def put(self, image_id: str, stream: Iterable[bytes]) -> int:
        """See `ImageStore.put`."""
        target = self._file(image_id)
        part = self._parts / f"{image_id}.{secrets.token_hex(4)}"
        size = 0
        try:
            with part.open("wb", buffering=0) as file:
                for chunk in stream:
                    _write(file.fileno(), chunk)
                    size += len(chunk)
                os.fsync(file.fileno())
            part.rename(target)
            self._sync()
        except BaseException as trouble:
            part.unlink(missing_ok=True)
            if isinstance(trouble, OSError) and trouble.errno in _FULL:
                raise StoreFull(f"no space left after {size} bytes") from trouble
            raise
        return size

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def get(self, image_id: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `ImageStore.get`."""
        try:
            file = self._file(image_id).open("rb", buffering=0)
        except FileNotFoundError:
            raise NoBits(f"the store holds no image {image_id}") from None

        file.seek(offset)
        return _Bits(file, length)

    def delete(self, image_id: str) -> None:
        """See `ImageStore.delete`."""
        target = self._file(image_id)
        target.unlink(missing_ok=True)
        for name in os.listdir(self._parts):
            if name.startswith(image_id):
                (self._parts / name).unlink(missing_ok=True)

    def list(self) -> list[str]:
        """See `ImageStore.list`."""
        return [entry.name for entry in os.scandir(self._folder) if _ID.fullmatch(entry.name)]

    def tidy(self, idle: float) -> int:
        """See `ImageStore.tidy`."""
        found = 0
        for part in self._parts.iterdir():
            try:
                if time.time() - part.stat().st_mtime > idle:
                    part.unlink()
                    found += 1
            except FileNotFoundError:
                continue  # its writer was quicker
        return found

    def size(self, image_id: str) -> int:
        """See `ImageStore.size`."""
        try:
            return self._file(image_id).stat().st_size
        except FileNotFoundError:
            raise NoBits(f"the store holds no image {image_id}") from None

    def path(self, image_id: str) -> Path | None:
        """See `ImageStore.path`."""
        target = self._file(image_id)
        return target if target.exists() else None


class _Bits(Iterator[bytes]):
    """A file's bytes from where it stands; closed at the end, or before by whoever has enough."""

    def __init__(self, file: FileIO, left: int | None) -> None:
        self._file, self._left = file, left

    def __next__(self) -> bytes:
        if self._file.closed:
            raise StopIteration
        chunk = self._file.read(_CHUNK if self._left is None else min(_CHUNK, self._left))
        if not chunk:
            self.close()
            raise StopIteration
        if self._left is not None:
            self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        """Close the file; a file that was removed meanwhile takes no room any more."""
        self._file.close()


def _write(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]
