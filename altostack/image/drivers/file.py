"""Images as files in a folder.

A stream goes to ``<id>.part``, is synced and renamed to ``<id>``, and the folder is synced: after a crash the image
is there whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from altostack.image.drivers.base import ImageTooLarge, NoBits, Stored, StoreError, StoreFull

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class FileStore:
    """An `ImageStore` in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, image_id: str) -> Path:
        if not _ID.fullmatch(image_id):  # ids become file names: nothing but a UUID may
            raise StoreError(f"{image_id!r} is not an image id")
        return self._folder / image_id

    def put(self, image_id: str, stream: Iterable[bytes], *, max_bytes: int) -> Stored:
        """See `ImageStore.put`."""
        target = self._file(image_id)
        part = target.with_suffix(".part")
        md5, sha512, size = hashlib.md5(usedforsecurity=False), hashlib.sha512(), 0
        try:
            with part.open("wb", buffering=0) as file:
                for chunk in stream:
                    size += len(chunk)
                    if size > max_bytes:
                        raise ImageTooLarge(f"the image is larger than {max_bytes} bytes")
                    md5.update(chunk)
                    sha512.update(chunk)
                    _write(file.fileno(), chunk)
                os.fsync(file.fileno())
            part.rename(target)
            self._sync()
        except BaseException as trouble:
            part.unlink(missing_ok=True)
            if isinstance(trouble, OSError) and trouble.errno in _FULL:
                raise StoreFull(f"no space left after {size} bytes") from trouble
            raise
        return Stored(size=size, md5=md5.hexdigest(), sha512=sha512.hexdigest())

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

        def chunks() -> Iterator[bytes]:
            left = length
            with file:
                file.seek(offset)
                while left is None or left > 0:
                    chunk = file.read(_CHUNK if left is None else min(_CHUNK, left))
                    if not chunk:
                        return
                    if left is not None:
                        left -= len(chunk)
                    yield chunk

        return chunks()

    def delete(self, image_id: str) -> None:
        """See `ImageStore.delete`."""
        target = self._file(image_id)
        target.unlink(missing_ok=True)
        target.with_suffix(".part").unlink(missing_ok=True)

    def list(self) -> list[str]:
        """See `ImageStore.list`."""
        return [entry.name for entry in os.scandir(self._folder) if _ID.fullmatch(entry.name)]

    def path(self, image_id: str) -> Path | None:
        """See `ImageStore.path`."""
        target = self._file(image_id)
        return target if target.exists() else None


def _write(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]
