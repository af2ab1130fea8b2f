"""Users named in the paste file, for a store without an identity service or beside one.

    [filter:tempauth]
    user_test_tester = testing .admin
    user64_dGVzdA_dGVzdGVyMg = testing2

``GET /auth/v1.0`` with X-Auth-User (``account:user``) and X-Auth-Key answers a token and the URL of the account. Tokens
are signed and need no memory: whoever is named with the same key is let in until the token ends. ``.admin`` owns the
account, ``.reseller_admin`` every account, ``.reseller_reader`` may read every account; other groups are for ACLs.
Without users the filter lets everything pass.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import msgspec

from altostack.kit.context import Context
from altostack.objectstore.http import Handler, Refusal, Request, Response
from altostack.objectstore.middleware import grants
from altostack.objectstore.middleware.acl import (
    account_level,
    allow_by_level,
    denied,
)
from altostack.objectstore.middleware.options import Wrap, number, store_of
from altostack.objectstore.middleware.token import token_in
from altostack.objectstore.store import Store

ADMIN: Final = ".admin"
RESELLER: Final = ".reseller_admin"
READER: Final = ".reseller_reader"
_LONGEST: Final = 2048  # characters of a token


@dataclass(frozen=True, slots=True)
class User:
    """name: ``account:user``. groups: as ACLs name them, the account's full name among them for its admins."""

    name: str
    key: str = field(repr=False)
    groups: tuple[str, ...]
    url: str  # with $HOST for scheme and host as the client used them
    account: str  # full name


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """user_ACCOUNT_NAME, user64_ACCOUNT_NAME (both parts in base64): ``KEY [GROUP ...] [URL]``.

    reseller_prefix (AUTH_): of accounts. token_life (86400): seconds. auth_prefix (/auth/). require_group: a group
    that an account's admins have to be of, too.
    """
    store = store_of(conf)
    prefix = local.get("reseller_prefix", store.settings.account_prefix)
    if prefix and not prefix.endswith("_"):
        prefix += "_"
    users = {one.name: one for one in users_of(local, prefix)}
    if not users:
        return lambda app: app
    at = "/" + local.get("auth_prefix", "/auth/").strip("/") + "/"
    if at == "//":
        raise ValueError("auth_prefix = /: a path is expected")
    life = number("token_life", local.get("token_life", "86400"))
    store.facts["tempauth"] = {"account_acls": True}
    return lambda app: TempAuth(
        app, store, users, prefix=prefix, at=at, life=life, require=local.get("require_group", "")
    )


def users_of(local: dict[str, str], prefix: str) -> list[User]:
    """The users that options name. Raises ValueError for a broken one, without its key."""
    found = []
    for option, value in local.items():
        kind, _, rest = option.partition("_")
        if kind not in ("user", "user64"):
            continue
        parts, words = rest.split("_"), value.split()
        if len(parts) != 2 or not all(parts) or not words:
            raise ValueError(f"{option}: user_ACCOUNT_NAME = KEY [GROUP ...] is expected")
        if kind == "user64":
            try:
                parts = [base64.b64decode(one + "=" * (-len(one) % 4)).decode() for one in parts]
            except (binascii.Error, UnicodeDecodeError):
                raise ValueError(f"{option}: account and name are to be in base64") from None
        key, *groups = words
        url = f"$HOST/v1/{prefix}{quote(parts[0])}"
        if groups and ("://" in groups[-1] or "$HOST" in groups[-1]):
            url = groups.pop()
        account = f"{prefix}{parts[0]}"
        names = [parts[0], ":".join(parts), *(one for one in groups if one != ADMIN)]
        if ADMIN in groups:
            names.append(account)
        found.append(User(":".join(parts), key, tuple(names), url, account))
    return found


class TempAuth:
    """Gives tokens, and says who may do what by them."""

    def __init__(
        self,
        app: Handler,
        store: Store,
        users: dict[str, User],
        *,
        prefix: str,
        at: str,
        life: int,
        require: str,
    ) -> None:
        self._app, self._store, self._users = app, store, users
        self._prefix, self._at, self._life, self._require = prefix, at, life, require

    def __call__(self, request: Request) -> Response:
        if request.path.startswith(self._at):
            return self._enter(request)
        token = token_in(request)
        if request.context is not None or request.authorize is not None or not token.startswith(self._start):
            return self._app(request)
        user = self._bearer(token)
        if user is None:
            return self._app(request)  # an anonymous request, like with any other token that is worth nothing
        # Projects and roles of the identity service are none of theirs.
        request.context = Context(
            user_id=user.name, user_name=user.name, project_id=f"tempauth:{user.account}"
        )
        request.facts["user"] = user.name
        if RESELLER in user.groups:
            request.facts["reseller"] = True

        def authorize(asked: Request, acl: str | None) -> None:
            self._authorize(user, asked, acl)

        request.authorize = authorize
        return self._app(request)

    # ---- tokens

    @property
    def _start(self) -> str:
        return f"{self._prefix}tk"

    def _enter(self, request: Request) -> Response:
        """Answer who asks for a token. Raises Refusal."""
        if request.method != "GET":
            raise Refusal(405, headers={"allow": "GET"})
        parts = request.path[len(self._at) :].split("/")
        headers = request.headers
        if len(parts) == 3 and parts[0] == "v1" and parts[2] == "auth":
            name = headers.get("x-storage-user") or ""
            name = f"{parts[1]}:{name}" if name else headers.get("x-auth-user", "")
            if name.partition(":")[0] != parts[1]:
                name = ""
            key = headers.get("x-storage-pass") or headers.get("x-auth-key", "")
        elif parts in (["v1.0"], ["auth"]):
            name = headers.get("x-auth-user") or headers.get("x-storage-user", "")
            key = headers.get("x-auth-key") or headers.get("x-storage-pass", "")
        else:
            raise Refusal(400)
        user = self._users.get(name)
        wanted = user.key if user is not None else ""
        good = hmac.compare_digest(wanted.encode(), key.encode("utf-8", "surrogateescape"))
        if user is None or not good or not key:
            realm = quote(name.partition(":")[0], errors="replace") or "unknown"
            raise Refusal(401, headers={"www-authenticate": f'Swift realm="{realm}"'})
        ends = int(self._store.clock.seconds()) + self._life
        token = self._make(user, ends)
        host = self._store.url.rstrip("/") or f"{request.scheme}://{request.header('host', 'localhost')}"
        url = user.url.replace("$HOST", host)
        told = {
            "content-type": "application/json; charset=UTF-8",
            "x-auth-token": token,
            "x-storage-token": token,
            "x-auth-token-expires": str(self._life),
            "x-storage-url": url,
        }
        services = {"storage": {"default": "local", "local": url}}
        return Response(200, told, msgspec.json.encode(services))

    def _make(self, user: User, ends: int) -> str:
        text = base64.urlsafe_b64encode(f"{ends}:{user.name}".encode()).decode().rstrip("=")
        return f"{self._start}{text}.{self._seal(user, text)}"

    def _seal(self, user: User, text: str) -> str:
        """Another key of the user's, or of the cluster's nodes, makes tokens worth nothing."""
        key = hmac.new(
            self._store.key, f"tempauth\0{user.name}\0{user.key}".encode(), hashlib.sha256
        ).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    def _bearer(self, token: str) -> User | None:
        text, dot, seal = token[len(self._start) :].partition(".")
        if not dot or len(token) > _LONGEST or not token.isascii():
            return None
        try:
            ends, _, name = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        user = self._users.get(name)
        if user is None or not hmac.compare_digest(self._seal(user, text), seal):
            return None
        return user if int(ends) > self._store.clock.seconds() else None

    # ---- who may do what

    def _authorize(self, user: User, request: Request, acl: str | None) -> None:
        """Raises Refusal."""
        request.facts["owner"] = False
        place = request.place
        if place is None:
            raise Refusal(404)
        account = place.account
        if not account.startswith(self._prefix):
            raise denied(request)
        reads = request.method in ("GET", "HEAD")
        known = account != self._prefix and not account[len(self._prefix) :].startswith(".")
        if RESELLER in user.groups and known:
            request.facts["owner"] = True
            return
        if READER in user.groups and known and reads:
            return
        whole = place.container is None and request.method in ("DELETE", "PUT")
        if account in user.groups and not whole and (not self._require or self._require in user.groups):
            request.facts["owner"] = True
            return
        if request.method == "OPTIONS":
            return
        given = grants.parse(acl)
        if given.admits(request.header("referer")) and (
            place.object is not None or grants.LISTINGS in given.names
        ):
            return
        names = frozenset(user.groups)
        if names & given.names:
            return
        held = self._store.known.account(account)
        kept = held.metadata.get(grants.ACCOUNT_STORED, ("", ""))[0] if held is not None else ""
        allow_by_level(request, place, account_level(kept, lambda people: bool(names & people)))
