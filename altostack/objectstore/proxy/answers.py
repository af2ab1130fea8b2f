"""Answers to a GET or HEAD of an object: headers, conditions, ranges."""

from __future__ import annotations

from typing import Final

from altostack.objectstore.http import Refusal, Request, Response
from altostack.objectstore.proxy import backend
from altostack.objectstore.proxy.conditions import applies, parse_ranges, unmet
from altostack.objectstore.proxy.keep import Found
from altostack.objectstore.proxy.multipart import many
from altostack.objectstore.stamp import http_date, shown

_CONDITIONS: Final = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
_INTERNAL: Final = ("name", "content-length")


def told(timestamp: str | None) -> dict[str, str]:
    """The header that tells when something was deleted."""
    return {} if timestamp is None else {backend.TIMESTAMP: timestamp}


def absent(request: Request, timestamp: str | None) -> Refusal:
    """The answer to a GET or HEAD of what is not there."""
    if request.headers.get("if-match", "").strip() == "*":
        return Refusal(412, headers=told(timestamp))
    return Refusal(404, headers=told(timestamp))


def etag_of(request: Request, metadata: dict[str, str]) -> str:
    """What the request's conditions are compared with."""
    said = request.headers.get(backend.ETAG_IS_AT)
    if said is not None:
        for name in said.split(","):
            held = metadata.get(name.strip().lower())
            if held is not None:
                return held
    return metadata["etag"]


def answer(request: Request, found: Found) -> Response:
    """The answer to a GET or HEAD of an object that is there; takes over what ``found`` holds."""
    metadata, asked = found.metadata, request.headers
    headers = {name: text for name, text in metadata.items() if name not in _INTERNAL}
    size = int(metadata["content-length"])
    headers["accept-ranges"] = "bytes"
    headers["last-modified"] = http_date(found.changed)
    headers["x-timestamp"] = shown(found.changed)
    headers[backend.TIMESTAMP] = found.changed
    headers[backend.DATA_TIMESTAMP] = found.timestamp
    etag = etag_of(request, metadata)
    if any(name in asked for name in _CONDITIONS):
        status = unmet(asked, etag, found.changed)
        if status is not None:
            found.close()
            if status == 412:
                del headers["accept-ranges"]
                headers["content-type"] = "text/html; charset=UTF-8"
            return Response(status, headers)
    if request.method == "HEAD":
        found.close()
        headers["content-length"] = metadata["content-length"]
        return Response(200, headers)
    said = asked.get("range")
    if said is not None and not _ignores_range(asked, metadata) and applies(asked, etag, found.changed):
        runs = parse_ranges(said, size)
        if runs is not None:
            return _partial(headers, found, size, runs)
    headers["content-length"] = metadata["content-length"]
    return Response(200, headers, found.content(0, size))


def _ignores_range(asked: dict[str, str], metadata: dict[str, str]) -> bool:
    said = asked.get(backend.IGNORE_RANGE)
    return said is not None and any(name.strip().lower() in metadata for name in said.split(","))


def _partial(headers: dict[str, str], found: Found, size: int, runs: list[tuple[int, int]]) -> Response:
    if not runs:
        found.close()
        kept = {k: headers[k] for k in ("etag", "last-modified", "x-timestamp", backend.TIMESTAMP)}
        kept |= {"content-range": f"bytes */{size}", "accept-ranges": "bytes"}
        return Refusal(416, headers=kept).response()
    if len(runs) == 1:
        start, stop = runs[0]
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
        headers["content-length"] = str(stop - start)
        return Response(206, headers, found.content(start, stop))
    return many(headers, found, size, runs)
