"""Writes listings of accounts and containers in the format that the client asked for: text, JSON or XML.

The format comes from the parameter ``format``, else from Accept (RFC 9110, 12.5.1). Inside of this filter a listing is
`Response.entries`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

import msgspec

from altostack.objectstore.http import Handler, Refusal, Request, Response
from altostack.objectstore.middleware.options import Wrap

_FORMATS: Final = {"plain": "text/plain", "json": "application/json", "xml": "application/xml"}
_KINDS: Final = ("text/plain", "application/json", "application/xml", "text/xml")
_TOKEN: Final = r"[^()<>@,;:\"/\[\]?={}\x00-\x20\x7f]+"
_RANGE: Final = re.compile(
    rf"\s*({_TOKEN})/({_TOKEN})((?:\s*;\s*{_TOKEN}\s*=\s*(?:{_TOKEN}|\"(?:\\.|[^\"\\])*\"))*)\s*"
)
_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
GENERATOR: Final = "x-backend-content-generator"  # of an answer: the filter that made it a page of its own
_encode = msgspec.json.Encoder().encode


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """No options."""
    return Listing


class Listing:
    """Turns entries into bytes."""

    def __init__(self, app: Handler) -> None:
        self._app = app

    def __call__(self, request: Request) -> Response:
        place = request.place
        if request.method not in ("GET", "HEAD") or place is None or place.object is not None:
            return self._app(request)
        kind = wanted(request)
        response = self._app(request)
        if not response.good:
            return response
        headers = response.headers
        entries = response.entries
        bare = request.method == "HEAD" and headers.get(GENERATOR) != "staticweb"
        if entries is None and not bare:
            return response
        kind = headers.pop("x-backend-listing", kind)  # some listings come in one format only
        if "format" not in request.query:
            _vary(headers)
        headers["content-type"] = f"{kind}; charset=utf-8"
        if request.method == "HEAD":
            response.close()
            headers["content-length"] = "0"
            response.body, response.entries = b"", None
            return response
        response.body = write(kind, entries or [], place.account, place.container)
        response.entries = None
        if not response.body:
            response.status = 204
        headers["content-length"] = str(len(response.body))
        return response


def wanted(request: Request) -> str:
    """The media type for a listing. Raises Refusal: 406 for none of ours, 400 for an Accept that is no such header."""
    given = request.query.get("format")
    if given:
        return _FORMATS.get(given.lower(), "text/plain")
    accept = request.header("accept")
    if not accept or accept == "*/*":
        return "text/plain"
    kind = _best(accept)
    if kind is None:
        raise Refusal(406)
    return kind


@lru_cache(maxsize=1024)
def _best(accept: str) -> str | None:
    """Of our types the one that ``accept`` likes best, whole names before patterns where it likes both as much."""
    ranges = []
    for place, part in enumerate(accept.split(",")):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise Refusal(400, "Invalid Accept header")
        ranges.append((-_quality(found[3]), "*" in (found[1], found[2]), place, found[1], found[2]))
    for quality, _, _, kind, subkind in sorted(ranges):
        if quality == 0:
            continue  # "not acceptable" (RFC 9110, 12.4.2)
        for one in _KINDS:
            ours, _, sub = one.partition("/")
            if kind in ("*", ours) and subkind in ("*", sub):
                return one
    return None


def _quality(parameters: str) -> float:
    given = [
        value.strip()
        for name, _, value in (one.partition("=") for one in parameters.split(";"))
        if name.strip() == "q"
    ]
    if not given:
        return 1.0
    if len(given) > 1 or not re.fullmatch(r"[01](\.\d{0,3})?", given[0]):
        raise Refusal(400, "Invalid Accept header")
    return float(given[0])


def _vary(headers: dict[str, str]) -> None:
    held = headers.get("vary")
    if held is None:
        headers["vary"] = "Accept"
    elif "accept" not in (one.strip().lower() for one in held.split(",")):
        headers["vary"] = f"{held}, Accept"


def write(kind: str, entries: list[dict[str, Any]], account: str, container: str | None) -> bytes:
    """The listing as ``kind``, one of text/plain, application/json, application/xml, text/xml."""
    if kind == "text/plain":
        lines = [one["name"] if "name" in one else one["subdir"] for one in entries]
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape") if lines else b""
    if kind == "application/json":
        return _encode(entries)
    text = _container(entries, container) if container is not None else _account(entries, account)
    return text.encode("utf-8", "surrogateescape")


def _container(entries: list[dict[str, Any]], name: str) -> str:
    parts = [f"{_XML}<container name={quoteattr(name)}>"]
    for one in entries:
        if (subdir := one.get("subdir")) is not None:
            parts.append(f"<subdir name={quoteattr(subdir)}><name>{escape(subdir)}</name></subdir>")
            continue
        parts.append(
            f"<object><name>{escape(one['name'])}</name><hash>{one['hash']}</hash><bytes>{one['bytes']}</bytes>"
            f"<content_type>{escape(one['content_type'])}</content_type>"
            f"<last_modified>{one['last_modified']}</last_modified></object>"
        )
    parts.append("</container>")
    return "".join(parts)


def _account(entries: list[dict[str, Any]], name: str) -> str:
    parts = [f"{_XML}<account name={quoteattr(name)}>"]
    for one in entries:
        if (subdir := one.get("subdir")) is not None:
            parts.append(f"<subdir name={quoteattr(subdir)} />")
            continue
        policy = one.get("storage_policy")
        said = f"<storage_policy>{escape(policy)}</storage_policy>" if policy is not None else ""
        parts.append(
            f"<container><name>{escape(one['name'])}</name><count>{one['count']}</count><bytes>{one['bytes']}</bytes>"
            f"<last_modified>{one['last_modified']}</last_modified>{said}</container>"
        )
    parts.append("</account>")
    return "\n".join(parts)
