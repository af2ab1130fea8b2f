"""Quotas: how much an account or a container may hold. Uploads beyond are answered 413 (object storage API).

An account's quotas (X-Account-Quota-Bytes, -Count, each also with ``-Policy-NAME`` for one storage policy) are set by
resellers and seen by everybody; a container's (X-Container-Meta-Quota-Bytes, -Count) are its owner's. Counts are those
of the databases, asked anew wherever a quota is set; uploads that run at the same time do not see each other.
"""

from __future__ import annotations

from typing import Any, Final

from altostack.objectstore.http import CHUNK, Body, Handler, Place, Refusal, Request, Response
from altostack.objectstore.middleware.options import Wrap, store_of
from altostack.objectstore.proxy.known import look_up
from altostack.objectstore.storage import Info
from altostack.objectstore.store import Store

_KINDS: Final = ("quota-bytes", "quota-count")
_SYSMETA: Final = "x-account-sysmeta-"
_OLD: Final = "x-account-meta-quota-bytes"  # as it was named before there were others
_ACCOUNT: Final = "Upload exceeds quota."
_POLICY: Final = "Upload exceeds policy quota."


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """No options."""
    store = store_of(conf)
    store.facts["account_quotas"] = {}
    store.facts["container_quotas"] = {}
    return lambda app: Quotas(app, store)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


class Quotas:
    """Sets, shows and keeps quotas."""

    def __init__(self, app: Handler, store: Store) -> None:
        self._app, self._store = app, store

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None:
            return self._app(request)
        if place.container is None:
            return self._account(request)
        writes = request.method in ("PUT", "POST")
        if place.object is None and writes:
            for kind in _KINDS:
                said = request.headers.get(f"x-container-meta-{kind}")
                if said and not _is_number(said):
                    raise Refusal(400, f"Invalid {kind.removeprefix('quota-')} quota.")
        elif place.object is not None and request.method == "PUT":
            self._check(request, place)
        return self._app(request)

    # ---- accounts

    def _account(self, request: Request) -> Response:
        headers = request.headers
        if request.method in ("PUT", "POST"):
            for name in (_OLD, _OLD.replace("x-", "x-remove-", 1)):
                if name in headers:
                    headers.setdefault(name.replace("-meta-", "-"), headers[name])
            wanted = self._wanted(headers)
            if wanted and not (request.facts.get("reseller") or request.authorize is None):
                raise Refusal(403)
            if any(value and not _is_number(value) for value in wanted.values()):
                raise Refusal(400, "A quota is a whole number.")
            headers.update(wanted)
        response = self._app(request)
        for name, kept in self._names():
            if value := response.headers.get(kept):
                response.headers[f"x-account-{name}"] = value
        return response

    def _names(self) -> list[tuple[str, str]]:
        """(name in the API, name of the metadata) of every quota of an account."""
        found = [(kind, f"{_SYSMETA}{kind}") for kind in _KINDS]
        for policy in self._store.policies:
            for kind in _KINDS:
                found.append(
                    (f"{kind}-policy-{policy.name.lower()}", f"{_SYSMETA}{kind}-policy-{policy.index}")
                )
        return found

    def _wanted(self, headers: dict[str, str]) -> dict[str, str]:
        """The metadata that the request sets; taking away is stronger than setting."""
        found = {}
        for name, kept in self._names():
            value = headers.pop(f"x-account-{name}", None)
            if headers.pop(f"x-remove-account-{name}", ""):
                value = ""
            if value is not None:
                found[kept] = value
        return found

    # ---- uploads

    def _check(self, request: Request, place: Place) -> None:
        """See that an upload has room; one of unknown size may take what is left, and not a byte more."""
        store = self._store
        container = store.known.container(place.account, str(place.container))
        if container is None:
            return
        left: list[tuple[int, str]] = []  # (bytes, what to say beyond)
        size = request.body.length or 0
        account = store.known.account(place.account)
        if account is not None and not request.facts.get("reseller") and _account_quotas(account):
            account = look_up(store, place.account) or account
            self._room(request, left, account, "", account.bytes, account.count, size, _ACCOUNT)
            index = container.policy or 0
            _, count, used = account.per_policy.get(index, (0, 0, 0))
            self._room(request, left, account, f"-policy-{index}", used, count, size, _POLICY)
        if _number(container, "x-container-meta-quota-bytes") >= 0 or (
            _number(container, "x-container-meta-quota-count") >= 0
        ):
            fresh = look_up(store, place.account, place.container) or container
            if 0 <= _number(fresh, "x-container-meta-quota-count") < fresh.count + 1:
                self._refuse(request, _ACCOUNT)
            most = _number(fresh, "x-container-meta-quota-bytes")
            if most >= 0:
                if most < fresh.bytes + size:
                    self._refuse(request, _ACCOUNT)
                left.append((most - fresh.bytes, _ACCOUNT))
        if left and request.body.length is None:
            request.body = _Capped(request.body, *min(left))

    def _room(
        self, request: Request, left: list[tuple[int, str]], account: Info, tail: str,
        used: int, count: int, size: int, words: str,
    ) -> None:  # fmt: skip
        most = _number(account, f"{_SYSMETA}quota-bytes{tail}")
        if most < 0 and not tail:
            most = _number(account, _OLD)
        if most >= 0:
            if most < used + size:
                self._refuse(request, words)
            left.append((most - used, words))
        if 0 <= _number(account, f"{_SYSMETA}quota-count{tail}") < count + 1:
            self._refuse(request, words)

    def _refuse(self, request: Request, words: str) -> None:
        """Once the proxy has found that the upload were allowed: strangers are not told of quotas."""
        before = request.authorize
        if before is None:
            raise Refusal(413, words)

        def authorize(asked: Request, acl: str | None) -> None:
            before(asked, acl)
            raise Refusal(413, words)

        request.authorize = authorize


def _account_quotas(account: Info) -> bool:
    return any(name.startswith(f"{_SYSMETA}quota-") or name == _OLD for name in account.metadata)


def _number(info: Info, name: str) -> int:
    value = info.metadata.get(name, ("", ""))[0]
    return int(value) if _is_number(value) else -1


class _Capped:
    """A body of unknown length that may be only so long. Raises Refusal(413) once it is longer."""

    length: int | None = None

    def __init__(self, body: Body, most: int, words: str) -> None:
        self._body, self._left, self._words = body, most, words

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        part = self._body.read(size)
        self._left -= len(part)
        if self._left < 0:
            raise Refusal(413, self._words)
        return part
