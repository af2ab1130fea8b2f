"""Images as large objects in the object store, through its public API with the image service's own authority.

A stream goes in segments ``<id>/<upload>/<number>`` to the container ``<container>-segments``; when all are there, the
object ``<id>`` of ``container`` becomes their manifest (object storage API, static large objects). So an image is there
whole or not at all, two uploads of one image do not mix, and a part that was cut off can be told by its age.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from altostack.image.drivers.base import NoBits, StoreError, StoreFull
from altostack.kit.clients import Client, RemoteError, Response, segment

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FULL = (413, 507)


class ObjectStore:
    """An `ImageStore` in containers of one account.

    client: of the object store, with the service's own token. account: its path there ("/v1/AUTH_<project>"), known
    only when identity runs. segment_size: bytes an object at most; an image of more has several segments.
    """

    def __init__(
        self,
        client: Client,
        account: Callable[[], str],
        *,
        container: str = "images",
        segment_size: int = 200 << 20,
    ) -> None:
        self._client, self._account, self._container, self._size = client, account, container, segment_size

    # ---- ImageStore

    def put(self, image_id: str, stream: Iterable[bytes]) -> int:
        """See `ImageStore.put`. Raises StoreError when the object store does not take it."""
        self._check(image_id)
        self._container_there()
        upload = f"{image_id}/{secrets.token_hex(8)}"
        kept: list[dict[str, Any]] = []
        source = _Source(stream)
        try:
            for number, part in enumerate(_parts(source, self._size)):
                name = f"{upload}/{number:08d}"
                etag = (
                    self._want("PUT", self._segments(name), part.chunks(), (201,)).headers["etag"].strip('"')
                )
                if part.size or not kept:
                    kept.append(
                        {"path": f"/{self._container}-segments/{name}", "etag": etag, "size_bytes": part.size}
                    )
            manifest = msgspec.json.encode(kept if kept[0]["size_bytes"] else [])
            if kept[0]["size_bytes"]:
                self._want("PUT", self._path(image_id) + "?multipart-manifest=put", manifest, (201,))
            else:
                self._want("PUT", self._path(image_id), b"", (201,))
        except BaseException:
            self._forget(upload)
            if source.trouble is not None:
                raise source.trouble from None  # the request only broke off because of it
            raise
        return sum(one["size_bytes"] for one in kept)

    def get(self, image_id: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `ImageStore.get`."""
        self._check(image_id)
        last = "" if length is None else str(offset + length - 1)
        whole = offset == 0 and length is None
        if length == 0 or (not whole and offset >= self.size(image_id)):
            return iter(())
        headers = {} if whole else {"Range": f"bytes={offset}-{last}"}
        answer = self._send("GET", self._path(image_id), None, headers)
        if answer.status == 404:
            raise NoBits(f"the store holds no image {image_id}")
        self._judge(answer, (200, 206))
        return iter(answer.chunks)

    def delete(self, image_id: str) -> None:
        """See `ImageStore.delete`."""
        self._check(image_id)
        self._want("DELETE", self._path(image_id), None, (204, 404))
        self._forget(image_id)

    def list(self) -> list[str]:
        """See `ImageStore.list`."""
        return [one["name"] for one in self._names(self._container) if _ID.fullmatch(one["name"])]

    def tidy(self, idle: float) -> int:
        """See `ImageStore.tidy`."""
        whole, uploads = set(), dict[str, float]()
        for one in self._names(f"{self._container}-segments"):
            upload = one["name"].rpartition("/")[0]
            changed = datetime.fromisoformat(one["last_modified"]).replace(tzinfo=UTC).timestamp()
            uploads[upload] = max(changed, uploads.get(upload, 0.0))
        for image_id in {upload.partition("/")[0] for upload in uploads}:
            answer = self._send("GET", self._path(image_id) + "?multipart-manifest=get", None)
            raw = answer.read()
            if answer.status == 200:
                whole |= {
                    one["name"].partition("-segments/")[2].rpartition("/")[0]
                    for one in msgspec.json.decode(raw)
                }
        old = [one for one, changed in uploads.items() if one not in whole and time.time() - changed > idle]
        for upload in old:
            self._forget(upload)
        return len(old)

    def size(self, image_id: str) -> int:
        """See `ImageStore.size`."""
        self._check(image_id)
        answer = self._send("HEAD", self._path(image_id), None)
        answer.read()
        if answer.status == 404:
            raise NoBits(f"the store holds no image {image_id}")
        self._judge(answer, (200, 204))
        return int(answer.headers["content-length"])

    def path(self, image_id: str) -> Path | None:
        """None: the bits are in no file of ours."""
        return None

    # ---- requests

    def _check(self, image_id: str) -> None:
        if not _ID.fullmatch(image_id):  # ids become names: nothing but a UUID may
            raise StoreError(f"{image_id!r} is not an image id")

    def _path(self, name: str) -> str:
        return f"{self._account()}/{segment(self._container)}/{name}"

    def _segments(self, name: str) -> str:
        return f"{self._account()}/{segment(self._container)}-segments/{name}"

    def _container_there(self) -> None:
        for name in (self._container, f"{self._container}-segments"):
            self._want("PUT", f"{self._account()}/{segment(name)}", b"", (201, 202))

    def _forget(self, prefix: str) -> None:
        """Remove every segment whose name begins so."""
        for one in self._names(f"{self._container}-segments", prefix):
            self._want("DELETE", self._segments(one["name"]), None, (204, 404))

    def _names(self, container: str, prefix: str = "") -> Iterator[dict[str, Any]]:
        marker = ""
        while True:
            query = {"format": "json", "limit": 1000, "marker": marker, "prefix": prefix}
            answer = self._send("GET", f"{self._account()}/{segment(container)}", None, query=query)
            raw = answer.read()
            if answer.status == 404:
                return
            self._judge(answer, (200, 204), raw)
            page = msgspec.json.decode(raw) if raw else []
            yield from page
            if len(page) < 1000:
                return
            marker = page[-1]["name"]

    def _want(
        self, method: str, path: str, body: bytes | Iterable[bytes] | None, good: tuple[int, ...]
    ) -> Response:
        answer = self._send(method, path, body)
        self._judge(answer, good, answer.read())
        return answer

    def _send(
        self, method: str, path: str, body: bytes | Iterable[bytes] | None, headers: dict[str, str] | None = None,
        query: dict[str, Any] | None = None,
    ) -> Response:  # fmt: skip
        try:
            return self._client.send(method, path, body, headers=headers, query=query)
        except RemoteError as error:
            raise StoreError(str(error)) from error

    def _judge(self, answer: Response, good: tuple[int, ...], raw: bytes = b"") -> None:
        if answer.status in good:
            return
        if answer.status in _FULL:
            raise StoreFull(f"the object store has no room left: {answer.status}")
        raise StoreError(f"the object store answered {answer.status}: {raw[:200].decode(errors='replace')}")


class _Part:
    """The next ``most`` bytes of a stream; ``size``: how many were taken so far."""

    def __init__(self, source: _Source, most: int) -> None:
        self._source, self._most, self.size = source, most, 0

    def chunks(self) -> Iterator[bytes]:
        while self.size < self._most and (chunk := self._source.take(self._most - self.size)):
            self.size += len(chunk)
            yield chunk


class _Source:
    """A stream that can be taken from piece by piece."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream, self._rest = iter(stream), b""
        self.trouble: BaseException | None = None  # what the stream raised

    def take(self, most: int) -> bytes:
        """At most so many bytes; none at the end."""
        while not self._rest:
            try:
                self._rest = next(self._stream)
            except StopIteration:
                return b""
            except BaseException as error:
                self.trouble = error
                raise
        part, self._rest = self._rest[:most], self._rest[most:]
        return part

    @property
    def over(self) -> bool:
        """Whether nothing comes any more."""
        self._rest = self._rest or self.take(1 << 30)
        return not self._rest


def _parts(source: _Source, size: int) -> Iterator[_Part]:
    """The stream in parts of at most ``size`` bytes, at least one."""
    yield _Part(source, size)
    while not source.over:
        yield _Part(source, size)
