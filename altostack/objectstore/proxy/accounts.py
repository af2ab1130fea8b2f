"""Accounts: made when they are first used, listed, described, deleted by a reseller."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

from altostack.objectstore.http import Place, Refusal, Request, Response
from altostack.objectstore.proxy import backend
from altostack.objectstore.proxy.counts import Counts
from altostack.objectstore.proxy.known import look_up, read_info, site_of
from altostack.objectstore.proxy.limits import (
    check_merged,
    check_metadata,
    check_name,
    check_text,
    listing_limit,
)
from altostack.objectstore.proxy.spread import Crew, Target, first, quorum, settle
from altostack.objectstore.stamp import ZERO, iso, normal, shown
from altostack.objectstore.storage import Dated, Info, Missing, Query, Row, StorageError, Subdir, Superseded
from altostack.objectstore.store import Store

EMPTY: Final[Mapping[str, str]] = {"content-type": "text/html; charset=UTF-8"}
_PREFIXES: Final = ("x-account-meta-", "x-account-sysmeta-")
_REMOVE: Final = "x-remove-account-meta-"


class Accounts:
    """The account part of the API."""

    def __init__(self, store: Store, crew: Crew, counts: Counts) -> None:
        self._store, self._crew, self._counts = store, crew, counts

    def get(self, request: Request, place: Place) -> Response:
        """GET and HEAD."""
        store = self._store
        if request.authorize is not None:
            request.authorize(request, None)
        account = place.account
        check_name(account, "Account", store.settings.max_account_name)
        query = None
        if request.method == "GET":
            query = query_of(request, listing_limit(request, store.settings.listing_limit))
        self._counts.flush(account)
        info: Info | None
        try:
            info = read_info(store, account)
        except Missing as missing:
            if missing.timestamp is not None:
                raise Refusal(410, headers=_deleted(missing.timestamp)) from None
            info = None
        shown_info = info if info is not None else _nothing(account, store.clock.now())
        headers = describe(shown_info, store)
        if info is None:
            headers[backend.FAKE_ACCOUNT] = "yes"
        if not backend.owner(request):
            for name in backend.OWNERS_HEADERS & headers.keys():
                del headers[name]
        if query is None:
            return Response(204, headers)
        entries = [] if info is None else self._list(account, query)
        return Response(200, headers, entries=entries)

    def _list(self, account: str, query: Query) -> list[dict[str, Any]]:
        def ask(target: Target) -> list[dict[str, Any]]:
            return [self._entry(row) for row in target.node.list(target.spot, account, None, query)]

        try:
            return first(site_of(self._store, account), ask)
        except Missing:
            return []

    def _entry(self, row: Row | Subdir) -> dict[str, Any]:
        if isinstance(row, Subdir):
            return {"subdir": row.name}
        entry: dict[str, Any] = {
            "name": row.name,
            "count": row.count,
            "bytes": row.size,
            "last_modified": iso(row.timestamp),
        }
        with contextlib.suppress(LookupError):  # of a policy that this process is not told of
            entry["storage_policy"] = self._store.policy(row.policy).name
        return entry

    def put(self, request: Request, place: Place) -> Response:
        """Make it, or set its metadata."""
        self._check(request, place)
        stamp = stamp_of(request, self._store)
        made = self._create(place.account, stamp, dated(request, stamp, _PREFIXES, _REMOVE))
        return Response(201 if made else 202, dict(EMPTY))

    def post(self, request: Request, place: Place) -> Response:
        """Set its metadata; it is made when it is not there."""
        self._check(request, place)
        stamp = stamp_of(request, self._store)
        metadata = dated(request, stamp, _PREFIXES, _REMOVE)
        account = place.account
        try:
            held = self.ensure(account)
        except Refusal as refusal:
            if refusal.status == 403:
                raise Refusal(404, headers=refusal.headers) from None
            raise
        check_merged(held.metadata, metadata, "account", self._store.settings)

        def change(target: Target) -> None:
            target.node.change(target.spot, account, None, stamp, metadata)

        site = site_of(self._store, account)
        needed = quorum(len(site.primaries))
        results = self._crew.write(site, change, needed)
        self._store.known.forget(account)
        try:
            settle(results, needed)
        except Missing:
            raise Refusal(404) from None
        return Response(204, dict(EMPTY))

    def delete(self, request: Request, place: Place) -> Response:
        """Mark it as deleted; what it holds is removed later."""
        if request.query_string:
            raise Refusal(400)
        if request.authorize is not None:
            request.authorize(request, None)
        account, stamp = place.account, stamp_of(request, self._store)

        def destroy(target: Target) -> bool:
            if not target.node.destroy(target.spot, account, None, stamp):
                raise Missing
            return True

        site = site_of(self._store, account)
        needed = quorum(len(site.primaries))
        results = self._crew.write(site, destroy, needed)
        self._store.known.forget(account)
        try:
            settle(results, needed)
        except Missing:
            raise Refusal(404) from None
        except Superseded as newer:
            raise Refusal(409, headers={backend.TIMESTAMP: newer.timestamp}) from None
        except StorageError as error:
            raise Refusal(409, str(error)) from None
        return Response(204, dict(EMPTY))

    def ensure(self, account: str, metadata: Dated | None = None) -> Info:
        """The account; it is made, with ``metadata``, when it is not there. Raises Refusal(409) for one that was
        deleted, 503."""
        held = self._store.known.account(account)
        if held is not None:
            return held
        self._create(account, self._store.clock.now(), metadata or {})
        made = look_up(self._store, account)
        if made is None:
            raise Refusal(503)
        return made

    def _create(self, account: str, stamp: str, metadata: Dated) -> bool:
        check_name(account, "Account", self._store.settings.max_account_name)
        try:
            held = read_info(self._store, account)
            check_merged(held.metadata, metadata, "account", self._store.settings)
        except Missing as missing:
            if missing.timestamp is not None:  # what it held is still being removed
                raise Refusal(403, "Recently deleted", headers=_deleted(missing.timestamp)) from None

        def create(target: Target) -> bool:
            return target.node.create(target.spot, account, None, stamp, metadata=metadata)

        site = site_of(self._store, account)
        needed = quorum(len(site.primaries))
        results = self._crew.write(site, create, needed)
        self._store.known.forget(account)
        try:
            return any(settle(results, needed))
        except Superseded as newer:
            raise Refusal(409, headers={backend.TIMESTAMP: newer.timestamp}) from None

    def _check(self, request: Request, place: Place) -> None:
        if request.authorize is not None:
            request.authorize(request, None)
        check_name(place.account, "Account", self._store.settings.max_account_name)
        check_metadata(request.headers, "account", self._store.settings)


def describe(info: Info, store: Store) -> dict[str, str]:
    """The headers of an account's GET and HEAD."""
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "accept-ranges": "bytes",
        "x-account-container-count": str(info.containers),
        "x-account-object-count": str(info.count),
        "x-account-bytes-used": str(info.bytes),
        "x-timestamp": shown(info.created),
        "x-put-timestamp": shown(info.put),
        backend.TIMESTAMP: info.created,
    }
    for index, (containers, objects, used) in info.per_policy.items():
        try:
            name = store.policy(index).name.lower()
        except LookupError:
            continue  # of a policy that this process is not told of
        headers[f"x-account-storage-policy-{name}-container-count"] = str(containers)
        headers[f"x-account-storage-policy-{name}-object-count"] = str(objects)
        headers[f"x-account-storage-policy-{name}-bytes-used"] = str(used)
    for name, (value, _) in info.metadata.items():
        if value:
            headers[name] = value
    return headers


def _deleted(timestamp: str) -> dict[str, str]:
    return {backend.TIMESTAMP: timestamp, "x-account-status": "Deleted"}


def _nothing(account: str, now: str) -> Info:
    """An account that nobody has used yet looks like an empty one."""
    return Info(account=account, created=now, put=now, deleted=ZERO, changed=now)


def dated(
    request: Request, stamp: str, prefixes: tuple[str, ...], remove: str, named: frozenset[str] = frozenset()
) -> dict[str, tuple[str, str]]:
    """The metadata that a request sets and takes away.

    prefixes: of names that are kept; remove: prefix of names to take away ("x-remove-account-meta-"); named: further
    names that are kept. Raises Refusal(400) for text that is not UTF-8.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, value in request.headers.items():
        if not name.startswith("x-"):
            continue
        if name.startswith("x-remove-"):
            kept = f"x-{name[9:]}"
            if (name.startswith(remove) or kept in named) and kept not in request.headers:
                found[kept] = ("", stamp)
        elif name in named or name.startswith(prefixes):
            found[name] = (value, stamp)
    check_text({name: value for name, (value, _) in found.items()})
    return found


def stamp_of(request: Request, store: Store) -> str:
    """When a change is to have happened: what a request of ours says, else now. Raises Refusal(400)."""
    said = request.headers.get("x-timestamp")
    if said is None:
        return store.clock.now()
    try:
        return normal(said)
    except ValueError:
        raise Refusal(400, "X-Timestamp is not a timestamp.") from None


def query_of(request: Request, limit: int) -> Query:
    """What a listing asks for."""
    if not request.query_string:
        return Query(limit=limit)
    query = request.query
    return Query(
        limit=limit,
        marker=query.get("marker", ""),
        end_marker=query.get("end_marker", ""),
        prefix=query.get("prefix", ""),
        delimiter=query.get("delimiter", ""),
        path=query.get("path"),
        reverse=backend.true(query.get("reverse", "")),
    )
