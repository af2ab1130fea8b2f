"""/info: what this store can do, for clients to find out (object storage API, discoverability)."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec

from altostack.objectstore.http import Refusal, Request, Response
from altostack.objectstore.httpd import MAX_HEAD
from altostack.objectstore.store import Store

_METHODS: Final[Mapping[str, tuple[str, ...]]] = {"GET": ("GET",), "HEAD": ("HEAD", "GET")}


class About:
    """Tells `Store.facts` and the limits of the store.

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._expose, self._hidden, self._clock = store, expose, hidden, clock
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
        if not (expires.isascii() and expires.isdecimal()) or int(expires) < self._clock():
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
        told: dict[str, dict[str, object]] = {"swift": self._limits()}
        for name, words in self._store.facts.items():
            told[name] = told.get(name, {}) | words
        if admin:
            return told | {"admin": {"disallowed_sections": list(self._hidden)}}
        for one in self._hidden:
            section, _, word = one.partition(".")
            if not word:
                told.pop(section, None)
            elif section in told:
                told[section] = {key: value for key, value in told[section].items() if key != word}
        return told

    def _limits(self) -> dict[str, object]:
        settings = self._store.settings
        return {
            "version": version("altostack"),
            "policies": [_policy(one) for one in self._store.policies if not one.deprecated],
            "account_autocreate": True,
            "allow_account_management": True,
            "max_file_size": settings.max_object_size,
            "max_meta_name_length": settings.max_meta_name,
            "max_meta_value_length": settings.max_meta_value,
            "max_meta_count": settings.max_meta_count,
            "max_meta_overall_size": settings.max_meta_overall,
            "max_header_size": MAX_HEAD,
            "max_object_name_length": settings.max_object_name,
            "max_container_name_length": settings.max_container_name,
            "max_account_name_length": settings.max_account_name,
            "account_listing_limit": settings.listing_limit,
            "container_listing_limit": settings.listing_limit,
            "extra_header_count": 0,
            "valid_api_versions": ["v1", "v1.0"],
        }


def _policy(one: Any) -> dict[str, object]:
    told: dict[str, object] = {"name": one.name, "aliases": ", ".join((one.name, *one.aliases))}
    if one.default:
        told["default"] = True
    return told
