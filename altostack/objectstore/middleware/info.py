"""/info: what this store can do, for clients to find out (object storage API, discoverability)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

import msgspec

from altostack.objectstore.http import Refusal, Request, Response
from altostack.objectstore.store import Store

_METHODS: Final[Mapping[str, tuple[str, ...]]] = {"GET": ("GET",), "HEAD": ("HEAD", "GET")}


class About:
    """Tells `Store.facts`.

    expose: False answers 403. admin_key: with it an operator may sign a request (swiftinfo_sig, swiftinfo_expires)
    and see the section "admin" and all that is ``hidden``: names of sections or of words in them ("swift.policies").
    """

    def __init__(
        self,
        store: Store,
        *,
        expose: bool = True,
        admin_key: str = "",
        hidden: tuple[str, ...] = (),
    ) -> None:
        self._store, self._expose, self._hidden = store, expose, hidden
        self._key = admin_key.encode()

    def __call__(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(200, {"allow": "GET, HEAD, OPTIONS"})
        if request.method not in _METHODS:
            raise Refusal(405, headers={"allow": "GET, HEAD, OPTIONS"})
        if not self._expose:
            raise Refusal(403)
        admin = self._is_admin(request)
        headers = {"content-type": "application/json; charset=UTF-8"}
        if origin := request.header("origin"):
            headers |= {"access-control-allow-origin": origin, "access-control-expose-headers": "x-trans-id"}
        return Response(200, headers, msgspec.json.encode(self.facts(admin=admin)))

    def _is_admin(self, request: Request) -> bool:
        signature = request.query.get("swiftinfo_sig", "")
        expires = request.query.get("swiftinfo_expires", "")
        if not signature and not expires:
            return False
        if not self._key:
            raise Refusal(403)
        if not (expires.isascii() and expires.isdecimal()) or int(expires) < self._store.clock.seconds():
            raise Refusal(401)
        good = False
        for method in _METHODS[request.method]:
            text = f"{method}\n{expires}\n/info".encode()
            for digest in (hashlib.sha256, hashlib.sha1):
                wanted = hmac.new(self._key, text, digest).hexdigest()
                good |= hmac.compare_digest(wanted.encode(), signature.encode())
        if not good:
            raise Refusal(401)
        return True

    def facts(self, *, admin: bool = False) -> dict[str, dict[str, object]]:
        """Section -> words."""
        told = {name: dict(words) for name, words in self._store.facts.items()}
        if admin:
            return told | {"admin": {"disallowed_sections": list(self._hidden)}}
        for one in self._hidden:
            section, _, word = one.partition(".")
            if not word:
                told.pop(section, None)
            elif section in told:
                told[section] = {key: value for key, value in told[section].items() if key != word}
        return told
