"""Addresses outside that users name, judged before anything is sent to them.

Only public ones are allowed, and those that the operator lists; else a user's webhook were a way into the cloud's own
networks (server-side request forgery). A name is judged by all addresses that it has at this moment, and the
connection goes to just these.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = 0x64FF9B << 64  # 64:ff9b::/96 without its last 32 bits


class Refused(ValueError):
    """The address may not be used."""


class Unreachable(Exception):
    """It did not answer, or not well."""


@dataclass(frozen=True)
class Outward:
    """hosts: names, addresses or networks, each alone or with ``:port``, that are allowed though they are not public.
    timeout: seconds."""

    hosts: Sequence[str] = ()
    timeout: float = 10.0

    def check(self, url: str) -> None:
        """What can be judged without asking anybody. Raises Refused."""
        parts, port = _parts(url)
        host = str(parts.hostname)
        literal = _literal(host)
        if literal is not None:
            self._judge(host, port, [literal])
        elif port not in _PORTS.values() and not self._listed(host, port, []):
            raise Refused(f"port {port} is not allowed")

    def post(self, url: str, message: bytes, kind: str) -> None:
        """Send it. Redirects are not followed. Raises Refused, Unreachable."""
        parts, port = _parts(url)
        host = str(parts.hostname)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"the host {host} could not be found") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        self._judge(host, port, addresses)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        trouble = f"the host {host} has no address"
        for address in addresses:
            connection = _Pinned(host, port, address, parts.scheme == "https", self.timeout)
            try:
                connection.request("POST", path, message, {"Content-Type": kind, "User-Agent": "altostack"})
                answer = connection.getresponse()
                answer.read(1 << 16)
                if 200 <= answer.status < 300:
                    return
                raise Unreachable(f"{host} answered {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{host} did not answer: {type(error).__name__}"
            finally:
                connection.close()
        raise Unreachable(trouble)

    def _judge(self, host: str, port: int, addresses: Sequence[str]) -> None:
        for address in addresses:
            if self._listed(host, port, [address]):
                continue
            if port not in _PORTS.values():
                raise Refused(f"port {port} is not allowed")
            if not _public(address):
                raise Refused("the host has an address that is not public")

    def _listed(self, host: str, port: int, addresses: Sequence[str]) -> bool:
        plain = host.rstrip(".").lower()
        for entry in self.hosts:
            name, colon, number = entry.rpartition(":")
            if not colon or not number.isdecimal() or (":" in name and not name.startswith("[")):
                name, number = entry, ""
            if number and int(number) != port:
                continue
            name = name.strip("[]").lower()
            if name == plain:
                return True
            with contextlib.suppress(ValueError):  # the entry is a name
                network = ipaddress.ip_network(name, strict=False)
                if addresses and all(ipaddress.ip_address(one) in network for one in addresses):
                    return True
        return False


def _parts(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise Refused("it is not a URL") from None
    if any(ord(letter) < 33 or ord(letter) > 126 for letter in url) or "\\" in url or len(url) > 2048:
        raise Refused("it is not a URL")
    if parts.scheme not in _PORTS:
        raise Refused("its scheme is not allowed")
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise Refused("it must name a host and no user")
    return parts, port


def _literal(host: str) -> str | None:
    """The address that ``host`` spells in any form that a resolver takes (127.1, 0x7f.1), None for a name."""
    try:
        return str(socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)[0][4][0])
    except (OSError, UnicodeError):
        return None


def _public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour or (address.teredo or (None,))[0]
        if hidden is None and int(address) >> 32 in (0, _NAT64):
            hidden = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if hidden is not None:
            return _public(str(hidden))
    return address.is_global and not address.is_multicast and not address.is_reserved


class _Pinned(http.client.HTTPConnection):
    """A connection to one judged address, which speaks for the host that the URL names."""

    def __init__(self, host: str, port: int, address: str, secure: bool, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._address, self._secure = address, secure

    def connect(self) -> None:
        sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._secure:
            try:
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
            except BaseException:
                sock.close()
                raise
        self.sock = sock
