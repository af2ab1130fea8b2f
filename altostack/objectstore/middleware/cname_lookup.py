"""Domains of the customers' own: a host that is a CNAME of one of ours is taken for that (`domain_remap` inside)."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from altostack.objectstore.http import Handler, Refusal, Request, Response
from altostack.objectstore.middleware import dns
from altostack.objectstore.middleware.domain_remap import domains_of, host_of
from altostack.objectstore.middleware.options import Wrap, number, store_of, words

Resolver = Callable[[str], tuple[str | None, int]]  # as `dns.cname`
_REMEMBERED: Final = 10_000
_LONGEST: Final = 3600  # seconds that an answer is believed


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """storage_domain: our own domains (none: the filter does nothing). lookup_depth (1): CNAMEs followed.

    nameservers: ``address[:port]``, instead of this machine's.
    """
    depth = number("lookup_depth", local.get("lookup_depth", "1"))
    store_of(conf).facts["cname_lookup"] = {"lookup_depth": depth}
    domains = domains_of(local.get("storage_domain", ""))
    servers = [_server(one) for one in words(local.get("nameservers", ""))] or dns.name_servers()

    def resolver(name: str) -> tuple[str | None, int]:
        return dns.cname(name, servers)

    return lambda app: CnameLookup(app, domains, resolver, depth=depth)


def _server(text: str) -> tuple[str, int]:
    """Raises ValueError."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError:
        raise ValueError(f"nameservers: {text} is no address[:port]") from None


class CnameLookup:
    """Replaces the Host header by the name of ours that it stands for."""

    def __init__(
        self,
        app: Handler,
        domains: Sequence[str],
        resolver: Resolver,
        *,
        depth: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._domains, self._resolver, self._depth = app, tuple(domains), resolver, depth
        self._clock = clock
        self._known: dict[str, tuple[float, str | None]] = {}
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        host, port = host_of(request)
        if not self._domains or not host or self._is_ours(host) or _is_address(host):
            return self._app(request)
        request.headers["host"] = self._find(host) + port
        return self._app(request)

    def _is_ours(self, host: str) -> bool:
        return f".{host}".endswith(self._domains)

    def _find(self, host: str) -> str:
        """Raises Refusal(400)."""
        for _ in range(self._depth):
            found = self._look_up(host)
            if found is None or found == host:
                raise Refusal(400, "CNAME lookup failed to resolve to a valid domain")
            if self._is_ours(found):
                return found
            host = found
        raise Refusal(400, f"CNAME lookup failed after {self._depth} tries")

    def _look_up(self, host: str) -> str | None:
        held = self._known.get(host)
        now = self._clock()
        if held is not None and now < held[0]:
            return held[1]
        try:
            found, ttl = self._resolver(host)
        except (dns.Unanswered, ValueError, UnicodeError):
            return None
        name = found.rstrip(".").lower() if found is not None else None
        with self._lock:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[host] = (now + min(ttl, _LONGEST), name)
        return name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
