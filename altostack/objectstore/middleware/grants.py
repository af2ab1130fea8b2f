"""The language of ACLs: who may read or write a container (X-Container-Read, X-Container-Write), or an account.

A container's ACL is a list with commas: ``.r:`` names web pages by the host of the Referer header (``.r:*``,
``.r:.example.com``, ``.r:-bad.example.com``: the last that fits decides), ``.rlistings`` adds the right to list, and
all else names people: ``project:user``, with ``*`` for any, or a role or a group. An account's is JSON:
``{"admin": [...], "read-write": [...], "read-only": [...]}``. (Object storage API, access control lists.)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, urlsplit

READ: Final = "x-container-read"
WRITE: Final = "x-container-write"
ACCOUNT: Final = "x-account-access-control"
ACCOUNT_STORED: Final = "x-account-sysmeta-core-access-control"
LEVELS: Final = ("admin", "read-write", "read-only")
LISTINGS: Final = ".rlistings"
_REFERRER: Final = (".r", ".ref", ".referer", ".referrer")


def clean(name: str, value: str) -> str:
    """A container's ACL in its shortest form. ``name``: the header's. Raises ValueError for what is no ACL."""
    parts = []
    for raw in value.split(","):
        part = raw.strip()
        first, colon, rest = (one.strip() for one in part.partition(":"))
        if not part:
            continue
        if not colon or not first.startswith("."):
            parts.append(part)
            continue
        if first not in _REFERRER:
            raise ValueError(f"Unknown designator {first!r} in ACL: {part!r}")
        if "write" in name.lower():
            raise ValueError(f"Referrers not allowed in write ACL: {part!r}")
        minus = "-" if rest.startswith("-") else ""
        host = rest.removeprefix("-").strip()
        if host != "*":
            host = host.removeprefix("*").strip()
        if host in ("", "."):
            raise ValueError(f"No host/domain value after referrer designation in ACL: {part!r}")
        parts.append(f".r:{minus}{host}")
    return ",".join(parts)


@dataclass(frozen=True, slots=True)
class Grants:
    """A container's ACL, taken apart."""

    referrers: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    def admits(self, referrer: str) -> bool:
        """Whether whoever comes from this page (the Referer header) may read."""
        if not self.referrers:
            return False
        try:
            host = urlsplit(referrer).hostname or "unknown"
        except ValueError:
            host = "unknown"
        allowed = False
        for one in self.referrers:
            wanted = one.removeprefix("-")
            if (
                wanted == host
                or (wanted.startswith(".") and host.endswith(wanted))
                or (wanted == "*" and one == "*")
            ):
                allowed = not one.startswith("-")
        return allowed


@lru_cache(maxsize=4096)
def parse(acl: str | None) -> Grants:
    """What an ACL says; nothing for an empty one."""
    if not acl:
        return Grants()
    parts = [part for part in acl.split(",") if part]
    return Grants(
        tuple(part[3:] for part in parts if part.startswith(".r:")),
        frozenset(unquote(part) for part in parts if not part.startswith(".r:")),
    )


def clean_account(value: str) -> str:
    """An account's ACL as it is kept: compact JSON in ASCII, "" for none. Raises ValueError that says what is wrong."""
    if not value.strip():
        return ""
    try:
        given = json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f"Syntax error in input ({_short(value)})") from None
    if not isinstance(given, dict):
        raise ValueError(f"Syntax error in input ({_short(value)})")
    for key, people in given.items():
        if key not in LEVELS:
            raise ValueError(f"Key {_short(key)!r} not recognized")
        if not isinstance(people, list):
            raise ValueError(f"Value for key {key!r} must be a list")
        if not all(isinstance(one, str) for one in people):
            raise ValueError(f"Elements of {key!r} list must be strings")
    return json.dumps(given, separators=(",", ":"), sort_keys=True)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


@lru_cache(maxsize=4096)
def parse_account(kept: str) -> dict[str, frozenset[str]]:
    """Level -> names, from an account's ACL as `clean_account` made it; empty for what is none."""
    try:
        given = json.loads(kept) if kept else {}
    except ValueError:
        return {}
    return {level: frozenset(filter(None, given[level])) for level in LEVELS if given.get(level)}
