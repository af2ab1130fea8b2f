"""The images that a node keeps: fetched once, judged before use, never half there."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from pathlib import Path

from oslo_utils.imageutils import format_inspector

from altostack.compute.drivers.base import DriverError
from altostack.kit.clients import Client, RemoteError

log = logging.getLogger(__name__)
_FORMATS = ("qcow2", "raw")


class ImageRefused(DriverError):
    """The image cannot be used: its content is not what it claims to be, or nothing this node can boot."""


class ImageAway(DriverError):
    """The image service did not deliver."""

    retryable = True


class ImageCache:
    """Base images in ``folder``, one file each, named by the image's id."""

    def __init__(self, client: Client, host: str, token: str, folder: Path) -> None:
        self._client, self._host, self._token, self._folder = client, host, token, folder
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        for file in folder.glob(".*.new"):
            file.unlink()  # half an image, of an agent that was killed

    def path(self, image_id: str, disk_format: str, checksum: str | None) -> Path:
        """The file of the image; fetched first where the node has it not. Raises ImageRefused, ImageAway."""
        if disk_format not in _FORMATS:
            raise ImageRefused(f"image {image_id} is {disk_format}: this node boots {' and '.join(_FORMATS)}")
        path = self._folder / image_id
        with self._lock:
            lock = self._locks.setdefault(image_id, threading.Lock())
        with lock:
            if not path.exists():
                self._fetch(image_id, path, disk_format, checksum)
        return path

    def _fetch(self, image_id: str, path: Path, disk_format: str, checksum: str | None) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{image_id}.new")
        try:
            answer = self._client.send(
                "GET", f"/internal/nodes/{self._host}/images/{image_id}/file", node=self._token
            )
            if answer.status != 200:
                raise ImageAway(f"image {image_id}: the image service answered {answer.status}")
            digest = hashlib.md5(usedforsecurity=False)
            with fresh.open("wb") as file:
                for chunk in answer.chunks:
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if checksum and digest.hexdigest() != checksum:
                raise ImageAway(f"image {image_id} arrived damaged: its checksum is not {checksum}")
            judge(image_id, fresh, disk_format)
            fresh.replace(path)
        except (RemoteError, ConnectionError) as error:
            raise ImageAway(f"image {image_id}: {error}") from error
        finally:
            fresh.unlink(missing_ok=True)


def judge(image_id: str, path: Path, disk_format: str) -> None:
    """Raises ImageRefused unless the file is of its declared format and refers to nothing outside itself."""
    try:
        found = format_inspector.detect_file_format(str(path))
        if found is None:
            raise ImageRefused(f"image {image_id} is of no known format")
        if disk_format == "qcow2" or found.NAME not in ("raw", "gpt", "iso"):
            found.safety_check()
    except (format_inspector.ImageFormatError, format_inspector.SafetyCheckFailed) as error:
        raise ImageRefused(f"image {image_id} is not safe: {error}") from error
    kinds = {"raw": ("raw", "gpt", "iso"), "qcow2": ("qcow2",)}[disk_format]
    if found.NAME not in kinds:
        raise ImageRefused(f"image {image_id} claims to be {disk_format} and is {found.NAME}")
