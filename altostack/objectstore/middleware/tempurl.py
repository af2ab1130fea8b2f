"""Temporary URLs: a signature in the query lets anybody do one thing for a while (object storage API, TempURL).

Signed is ``METHOD\\nEXPIRES\\n/v1/account/container/object`` with a key that the owner has set on the account or the
container. With temp_url_prefix the path is ``prefix:/v1/account/container/PREFIX``; with temp_url_ip_range a line
``ip=RANGE`` stands before.
"""

from __future__ import annotations

import ipaddress
import time
from calendar import timegm
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import quote, urlencode

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response
from altostack.objectstore.middleware import signing
from altostack.objectstore.middleware.acl import challenge
from altostack.objectstore.middleware.listing import GENERATOR
from altostack.objectstore.middleware.options import Wrap, store_of, words
from altostack.objectstore.store import Store

# With these an upload could point at what the URL does not open; reading it back would then open that too.
_POINTERS: Final = ("x-object-manifest", "x-symlink-target", "x-symlink-target-account", "x-copy-from")
_LAST: Final = 253_402_300_799  # the end of the year 9999: HTTP's dates know none later


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """methods; allowed_digests; incoming_remove_headers, incoming_allow_headers, outgoing_remove_headers,
    outgoing_allow_headers: names, with a ``*`` at the end for all that begin so; allowed is stronger than removed."""
    store = store_of(conf)
    rules = Rules(
        methods=tuple(words(local.get("methods", "GET HEAD PUT POST DELETE"), " ,")),
        digests=tuple(signing.allowed_digests(local.get("allowed_digests", signing.DIGESTS))),
        incoming=Names.of(local, "incoming", "x-timestamp x-open-expired", ""),
        outgoing=Names.of(local, "outgoing", "x-object-meta-*", "x-object-meta-public-*"),
    )
    store.facts["tempurl"] = {
        "methods": list(rules.methods),
        "allowed_digests": list(rules.digests),
        "incoming_remove_headers": list(rules.incoming.removed),
        "incoming_allow_headers": list(rules.incoming.allowed),
        "outgoing_remove_headers": list(rules.outgoing.removed),
        "outgoing_allow_headers": list(rules.outgoing.allowed),
    }
    return lambda app: TempUrl(app, store, rules)


@dataclass(frozen=True, slots=True)
class Names:
    """Which headers are taken away."""

    removed: tuple[str, ...]
    allowed: tuple[str, ...]

    @classmethod
    def of(cls, local: dict[str, str], way: str, removed: str, allowed: str) -> Names:
        return cls(
            tuple(words(local.get(f"{way}_remove_headers", removed).lower(), " ,")),
            tuple(words(local.get(f"{way}_allow_headers", allowed).lower(), " ,")),
        )

    def clean(self, headers: dict[str, str]) -> None:
        for name in list(headers):
            if _among(name, self.removed) and not _among(name, self.allowed):
                del headers[name]


def _among(name: str, names: tuple[str, ...]) -> bool:
    return any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What an operator allows."""

    methods: tuple[str, ...]
    digests: tuple[str, ...]
    incoming: Names
    outgoing: Names


class TempUrl:
    """Lets signed requests through."""

    def __init__(self, app: Handler, store: Store, rules: Rules) -> None:
        self._app, self._store, self._rules = app, store, rules

    def __call__(self, request: Request) -> Response:
        if "temp_url_" not in request.query_string or request.method == "OPTIONS":
            return self._app(request)
        query = request.query
        if "temp_url_sig" not in query and "temp_url_expires" not in query:
            return self._app(request)
        expires = moment(query.get("temp_url_expires", ""))
        place = request.place
        if place is None or place.version != "v1" or expires is None or expires < self._store.clock.seconds():
            raise _invalid(request)
        scope = self._scope(request, place, query, expires)
        if request.method not in ("GET", "HEAD"):
            for name in _POINTERS:
                if name in request.headers:
                    raise Refusal(400, f"The header '{name.title()}' is not allowed in this tempurl")
        self._rules.incoming.clean(request.headers)
        request.authorize = signing.within(place.account, place.container if scope == "container" else None)
        request.facts["user"] = "tempurl"
        # What else the query says was not signed.
        kept = (
            "temp_url_sig",
            "temp_url_expires",
            "temp_url_prefix",
            "temp_url_ip_range",
            "filename",
            "inline",
        )
        request.rewrite(query_string=urlencode({name: query[name] for name in kept if name in query}))
        return self._dress(request, place, expires, self._app(request))

    def _scope(self, request: Request, place: Place, query: dict[str, str], expires: int) -> signing.Scope:
        """How far the key reaches with which this was signed. Raises Refusal(401)."""
        rules, method = self._rules, request.method
        prefix, addresses = query.get("temp_url_prefix"), query.get("temp_url_ip_range")
        name = place.object or ""
        # The container itself may be asked for to see it as a web page: `staticweb`.
        whole = prefix == "" and method in ("GET", "HEAD") and place.container is not None
        if method not in rules.methods or not (name.strip("/") or whole):
            raise _invalid(request)
        if addresses and not _is_from(request.remote, addresses):
            raise _invalid(request)
        if prefix is not None and not name.startswith(prefix):
            raise _invalid(request)
        try:
            algorithm, digest = signing.take_apart(query.get("temp_url_sig", ""))
        except ValueError:
            raise _invalid(request) from None
        keys = signing.keys_of(self._store, place)
        if algorithm not in rules.digests or not keys:
            raise _invalid(request)
        base = f"/v1/{place.account}/{place.container}/"
        path = f"{base}{name}" if prefix is None else f"prefix:{base}{prefix}"
        before = f"ip={addresses}\n" if addresses else ""
        methods = ("HEAD", "GET", "PUT", "POST") if method == "HEAD" else (method,)
        scope = signing.matching(
            digest, algorithm, [f"{before}{one}\n{expires}\n{path}" for one in methods], keys
        )
        if scope is None:
            raise _invalid(request)
        return scope

    def _dress(self, request: Request, place: Place, expires: int, response: Response) -> Response:
        """Give an answer the headers of a download, and take those away that are not for strangers."""
        headers = response.headers
        page = headers.get(GENERATOR) == "staticweb"
        if response.good and request.method in ("GET", "HEAD"):
            if place.object is None and not page:
                response.close()
                raise _invalid(request)
            headers["content-disposition"] = _disposition(request, place, headers, inline=page)
            headers["expires"] = formatdate(min(expires, _LAST), usegmt=True)
        self._rules.outgoing.clean(headers)
        return response


def moment(text: str) -> int | None:
    """Seconds since 1970 from a number or ``2026-01-31T12:00:00Z``; None for anything else."""
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text)
    try:
        return timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except (ValueError, OverflowError):
        return None


def _is_from(remote: str, addresses: str) -> bool:
    try:
        client = ipaddress.ip_address(remote)
        if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped is not None:
            client = client.ipv4_mapped
        return client in ipaddress.ip_network(addresses)
    except ValueError:
        return False


def _disposition(request: Request, place: Place, headers: dict[str, str], *, inline: bool) -> str:
    query = request.query
    name = query.get("filename", "")
    if inline or "inline" in query:
        return _named("inline", name) if name else "inline"
    if name:
        return _named("attachment", name)
    return headers.get("content-disposition") or _named(
        "attachment", (place.object or "").rstrip("/").rpartition("/")[2]
    )


def _named(kind: str, name: str) -> str:
    """Content-Disposition with a file's name: RFC 6266, RFC 8187."""
    return f"{kind}; filename=\"{quote(name, safe=' /')}\"; filename*=UTF-8''{quote(name)}"


def _invalid(request: Request) -> Refusal:
    return Refusal(401, "401 Unauthorized: Temp URL invalid\n", headers=challenge(request))
