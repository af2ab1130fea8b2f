"""Fetching from addresses that users name, without becoming their way into the cloud's own networks.

One client for every such fetch. A URL is judged before anything is sent: scheme, port, host, and every address that
its name has. The connection then goes to just these addresses, so a name that changes its mind gains nothing, and
each redirect is judged anew. Not public means refused: loopback, private, link-local (where metadata lives),
shared, multicast, and IPv6 forms that hide an IPv4 address. Nothing is decoded and no environment's proxy is used.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from altostack.image.config import Fetch

_CHUNK = 1 << 20
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(Exception):
    """The address may not be fetched from."""


class FetchFailed(Exception):
    """It could not be fetched."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A judged URL and where to connect to."""

    url: str
    scheme: str
    host: str
    port: int
    path: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found: its length in bytes, if it was told, and its bytes."""

    length: int | None
    chunks: Iterator[bytes]


def check(url: str, rules: Fetch) -> None:
    """What can be judged without asking anybody: the URL itself, and an address in it. Raises Refused."""
    parts, port = _parts(url, rules)
    host = str(parts.hostname)
    _judge_name(url, host, port, rules)
    literal = _literal(host)
    if literal is not None:
        _judge_addresses(url, host, port, (literal,), rules)


def judge(url: str, rules: Fetch) -> Target:
    """The URL with its addresses resolved. Raises Refused, or FetchFailed where the name has none."""
    parts, port = _parts(url, rules)
    host = str(parts.hostname)
    _judge_name(url, host, port, rules)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as trouble:
        raise FetchFailed(f"the host {host} could not be found") from trouble
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    _judge_addresses(url, host, port, addresses, rules)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(url=url, scheme=parts.scheme, host=host, port=port, path=path, addresses=addresses)


def _parts(url: str, rules: Fetch) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as trouble:
        raise _no(url, "it is not a URL") from trouble
    if any(ord(letter) < 33 or ord(letter) > 126 for letter in url) or "\\" in url:
        raise _no(url, "it is not a URL")
    if parts.scheme not in rules.allowed_schemes or parts.scheme not in _PORTS:
        raise _no(url, "its scheme is not allowed")
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise _no(url, "it must name a host and no user")
    return parts, port


def _judge_name(url: str, host: str, port: int, rules: Fetch) -> None:
    plain = host.rstrip(".").lower()
    if plain in {one.lower() for one in rules.disallowed_hosts}:
        raise _no(url, "its host is not allowed")
    if _listed(plain, (), port, rules.allowed_hosts, with_port=True):
        return
    if port not in rules.allowed_ports:
        raise _no(url, f"port {port} is not allowed")


def _judge_addresses(url: str, host: str, port: int, addresses: tuple[str, ...], rules: Fetch) -> None:
    if not addresses:
        raise FetchFailed(f"the host {host} has no address")
    for address in addresses:
        if _listed(host, (address,), port, rules.disallowed_hosts):
            raise _no(url, "its host is not allowed")
        if _listed(host.rstrip(".").lower(), (address,), port, rules.allowed_hosts):
            continue
        if rules.only_allowed_hosts:
            raise _no(url, "its host is not allowed")
        if not _public(address):
            raise _no(url, "its host has an address that is not public")


def _listed(
    host: str, addresses: tuple[str, ...], port: int, entries: tuple[str, ...], *, with_port: bool = False
) -> bool:
    """Whether an entry names the host, or the network of an address. ``with_port``: only entries that name ports."""
    for entry in entries:
        name, colon, number = entry.rpartition(":")
        if not colon or not number.isdigit() or (":" in name and not name.startswith("[")):
            name, number = entry, ""
        if (number and int(number) != port) or (with_port and not number):
            continue
        name = name.strip("[]").lower()
        if name == host:
            return True
        with contextlib.suppress(ValueError):  # the entry is a name
            network = ipaddress.ip_network(name, strict=False)
            literal = _literal(host)
            if any(
                ipaddress.ip_address(a) in network for a in (*addresses, *((literal,) if literal else ()))
            ):
                return True
    return False


def _literal(host: str) -> str | None:
    """The address that ``host`` spells, in any form that a resolver takes (127.1, 0x7f.1, 2130706433), else None."""
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])


def _public(text: str) -> bool:
    address: _Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour or (address.teredo or (None,))[0]
        if hidden is None and int(address) >> 32 in (0, 0x64FF9B << 64):  # ::a.b.c.d and 64:ff9b::a.b.c.d
            hidden = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if hidden is not None:
            return _public(str(hidden))
        if address in ipaddress.ip_network("64:ff9b:1::/48"):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _no(url: str, why: str) -> Refused:
    return Refused(f"The URI does not pass filtering: {url[:200]} ({why}).")


def fetch(url: str, rules: Fetch, *, offset: int = 0, length: int | None = None) -> Answer:
    """The bytes at ``url``, whole or from ``offset`` on. Raises Refused or FetchFailed, also while iterated."""
    until = time.monotonic() + rules.max_seconds
    for _ in range(rules.max_redirects + 1):
        target = judge(url, rules)
        connection, response = _ask(target, rules, offset, length)
        if response.status in _REDIRECTS and response.getheader("Location"):
            url = urljoin(url, str(response.getheader("Location")))
            connection.close()
            continue
        if response.status not in ((200, 206) if offset or length is not None else (200,)):
            connection.close()
            raise FetchFailed(f"{target.host} answered {response.status} {response.reason}")
        skip = offset if response.status == 200 else 0
        told = response.length
        return Answer(length=told, chunks=_read(connection, response, target, until, skip, length))
    raise FetchFailed("there are too many redirects")


def _ask(
    target: Target, rules: Fetch, offset: int, length: int | None
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    trouble: Exception | None = None
    for address in target.addresses:
        connection = _Pinned(target, address, rules.timeout)
        try:
            headers = {"User-Agent": "altostack-image", "Accept": "*/*", "Accept-Encoding": "identity"}
            if offset or length is not None:
                headers["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
            connection.request("GET", target.path, headers=headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            trouble = error
    raise FetchFailed(f"{target.host} did not answer: {type(trouble).__name__}") from trouble


class _Pinned(http.client.HTTPConnection):
    """A connection to one address, which speaks for the host that the URL names."""

    def __init__(self, target: Target, address: str, timeout: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout)
        self._target, self._address = target, address

    def connect(self) -> None:
        sock = socket.create_connection((self._address, self._target.port), self.timeout)
        if self._target.scheme == "https":
            try:
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self._target.host)
            except BaseException:
                sock.close()
                raise
        self.sock = sock


def _read(
    connection: http.client.HTTPConnection,
    response: http.client.HTTPResponse,
    target: Target,
    until: float,
    skip: int,
    length: int | None,
) -> Iterator[bytes]:
    left = length
    expected = response.length
    seen = 0
    try:
        while left is None or left > 0:
            chunk = response.read1(_CHUNK)
            if not chunk:
                break
            seen += len(chunk)
            if time.monotonic() > until:
                raise FetchFailed(f"{target.host} took too long")
            if skip:
                drop = min(skip, len(chunk))
                skip, chunk = skip - drop, chunk[drop:]
            if left is not None:
                chunk = chunk[:left]
                left -= len(chunk)
            if chunk:
                yield chunk
        if left is None and expected is not None and seen < expected:
            raise FetchFailed(f"{target.host} ended after {seen} of {expected} bytes")
        if left:
            raise FetchFailed(f"{target.host} ended {left} bytes early")
    except (OSError, http.client.HTTPException) as error:
        raise FetchFailed(f"{target.host} broke off: {type(error).__name__}") from error
    finally:
        connection.close()
