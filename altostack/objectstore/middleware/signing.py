"""What temporary URLs and form posts share: the keys of accounts and containers, and the forms of signatures."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, Literal

from altostack.objectstore.http import Authorize, Place, Request
from altostack.objectstore.middleware.acl import denied
from altostack.objectstore.middleware.options import words
from altostack.objectstore.storage import Info
from altostack.objectstore.store import Store

DIGESTS: Final = "sha256 sha512"
_KNOWN: Final = {"sha1": 40, "sha256": 64, "sha512": 128}  # algorithm -> hex digits of a digest
Scope = Literal["account", "container"]


def allowed_digests(text: str) -> list[str]:
    """The algorithms an operator allows. Raises ValueError when none of them is known."""
    found = sorted(set(words(text, " ,")) & _KNOWN.keys())
    if not found:
        raise ValueError(f"allowed_digests = {text}: none of {', '.join(_KNOWN)}")
    return found


def take_apart(signature: str) -> tuple[str, str]:
    """(algorithm, hex digest) of hex digits, or of ``algorithm:`` and base64 in either alphabet. Raises ValueError."""
    algorithm, colon, rest = signature.partition(":")
    if colon:
        standard = rest.replace("-", "+").replace("_", "/").rstrip("=")
        padded = standard + "=" * (-len(standard) % 4)
        digest = base64.b64decode(padded, validate=True).hex()
    else:
        digest = signature
        if not digest.isascii():
            raise ValueError("a digest is made of ASCII characters")
        binascii.unhexlify(digest)
        algorithm = next((name for name, length in _KNOWN.items() if length == len(digest)), "")
    if _KNOWN.get(algorithm) != len(digest):
        raise ValueError("no known digest has this length")
    return algorithm, digest


def keys_of(store: Store, place: Place) -> list[tuple[str, Scope]]:
    """The keys for signatures over what is at ``place``, and how far each reaches."""
    account = store.known.account(place.account)
    container = store.known.container(place.account, place.container) if place.container else None
    scopes: tuple[tuple[Scope, Info | None], ...] = (("account", account), ("container", container))
    found: list[tuple[str, Scope]] = []
    for scope, info in scopes:
        for name in ("temp-url-key", "temp-url-key-2"):
            held = info.metadata.get(f"x-{scope}-meta-{name}") if info is not None else None
            if held is not None and held[0]:
                found.append((held[0], scope))
    return found


def matching(
    signature: str, algorithm: str, texts: Iterable[str], keys: list[tuple[str, Scope]]
) -> Scope | None:
    """The scope of the first key with which one of ``texts`` was signed. Always takes the time of trying all."""
    found: Scope | None = None
    for text in texts:
        for key, scope in keys:
            made = hmac.new(
                key.encode(), text.encode("utf-8", "surrogateescape"), getattr(hashlib, algorithm)
            )
            if hmac.compare_digest(made.hexdigest(), signature) and found is None:
                found = scope
    return found


def within(account: str, container: str | None = None) -> Authorize:
    """Lets requests through that stay in the account (and container), as nobody in particular."""

    def authorize(request: Request, acl: str | None) -> None:
        request.facts["owner"] = False
        place = request.place
        if place is None or place.account != account or container not in (None, place.container):
            raise denied(request)

    return authorize
