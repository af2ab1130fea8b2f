"""Dynamic large objects: an object that shows everything whose name begins with a prefix (object storage API).

``X-Object-Manifest: container/prefix`` names the segments. They are listed anew for each request, so the object is
whatever they are at that moment; its ETag is made of theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode

from altostack.objectstore.http import Content, Handler, Place, Refusal, Request, Response, ask
from altostack.objectstore.middleware.joined import Piece, open_pieces
from altostack.objectstore.middleware.options import Wrap, store_of
from altostack.objectstore.middleware.shape import (
    WHOLE_IF,
    Cut,
    also,
    bare,
    failed,
    parameters,
    sliced,
    unquoted,
)
from altostack.objectstore.proxy import conditions
from altostack.objectstore.store import Store

MANIFEST: Final = "x-object-manifest"
Entry = dict[str, Any]


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """No options."""
    store = store_of(conf)
    store.facts["dlo"] = {}
    return lambda app: DynamicLargeObjects(app, store)


class DynamicLargeObjects:
    """The filter."""

    def __init__(self, app: Handler, store: Store) -> None:
        self._app, self._store = app, store

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None or place.object is None:
            return self._app(request)
        method, headers = request.method, request.headers
        if method in ("GET", "HEAD"):
            if request.query_string and request.query.get("multipart-manifest") == "get":
                return self._app(request)
            headers[WHOLE_IF] = also(headers.get(WHOLE_IF), MANIFEST)
            response = self._app(request)
            said = response.headers.get(MANIFEST)
            if not said or response.status not in (200, 206, 304, 412, 416):
                return response
            response.close()
            return self._large(request, place, response.headers, unquoted(said))
        if method in ("PUT", "POST") and headers.get(MANIFEST):
            _check(headers[MANIFEST])
        return self._app(request)

    def _large(self, request: Request, place: Place, headers: dict[str, str], said: str) -> Response:
        container, _, prefix = said.partition("/")
        segments = Segments(self._app, request, place, container, prefix, self._store.settings.listing_limit)
        page = segments.page("")
        if segments.is_whole(page):
            size = sum(one["bytes"] for one in page)
            total = hashlib.md5(usedforsecurity=False)
            for one in page:
                total.update(_etag(one).encode())
            etag = total.hexdigest()
            headers["etag"] = f'"{etag}"'

            def opened(first: int, last: int) -> Content:
                return open_pieces(self._app, request, segments.pieces(page, first, last), request.path)

            return sliced(request, headers, size, opened, etag=etag)
        return self._endless(request, headers, segments, page)

    def _endless(
        self, request: Request, headers: dict[str, str], segments: Segments, page: list[Entry]
    ) -> Response:
        """The answer when there are more segments than one listing has: how long it is nobody knows beforehand."""
        known = sum(one["bytes"] for one in page)
        headers = {k: v for k, v in headers.items() if k not in ("content-length", "content-range", "etag")}
        headers["accept-ranges"] = "bytes"
        if request.method == "HEAD":
            return Response(200, headers)
        first, last = 0, None
        said = request.headers.get("range", "")
        if said and not said.rpartition("=")[2].startswith("-") and "," not in said:
            found = conditions.parse_ranges(said, known)
            if found and found[0][1] < known:
                first, last = found[0][0], found[0][1] - 1
                headers |= {
                    "content-range": f"bytes {first}-{last}/*",
                    "content-length": str(last - first + 1),
                }
        wanted = segments.pieces(page, first, last)
        content = open_pieces(self._app, request, wanted, request.path)
        return Response(200 if last is None else 206, headers, content)


class Segments:
    """What a manifest names. most: names that a listing has at most."""

    def __init__(
        self, app: Handler, request: Request, place: Place, container: str, prefix: str, most: int
    ) -> None:
        self._app, self._request, self._prefix, self._most = app, request, prefix, most
        self._root = f"/{place.version}/{place.account}/{container}"

    def page(self, marker: str) -> list[Entry]:
        """The segments behind ``marker``. Raises Refusal as the listing does."""
        query = {"prefix": self._prefix, "limit": str(self._most)} | ({"marker": marker} if marker else {})
        sub = self._request.sub("GET", self._root, query_string=urlencode(query), keep_authority=True)
        response = ask(self._app, sub)
        if not response.good:
            raise failed(response)
        return [one for one in response.entries or [] if "name" in one]

    def is_whole(self, page: list[Entry]) -> bool:
        """Whether nothing comes behind a page."""
        return len(page) < self._most

    def pieces(self, page: list[Entry], first: int, last: int | None) -> Iterator[Piece]:
        """What lies between two bytes, both included; ``last`` None: to the end, however far."""
        while True:
            for one in page:
                if last is not None and last < 0:
                    return
                size = int(one["bytes"])
                if first < size:
                    end = size - 1 if last is None else min(last, size - 1)
                    yield Piece(f"{self._root}/{one['name']}", max(0, first), end, size=size)
                first -= size
                last = None if last is None else last - size
            if self.is_whole(page):
                return
            try:
                page = self.page(page[-1]["name"])
            except Refusal as refusal:
                raise Cut(f"{self._root}: {refusal}") from None


def _etag(entry: Entry) -> str:
    return bare(entry.get("slo_etag") or parameters(entry["hash"])[0])


def _check(said: str) -> None:
    container, _, prefix = said.partition("/")
    if (
        not unquoted(said)
        or not container
        or not prefix
        or "?" in said
        or "&" in said
        or prefix.startswith("/")
    ):
        raise Refusal(400, "X-Object-Manifest must be in the format container/prefix")
