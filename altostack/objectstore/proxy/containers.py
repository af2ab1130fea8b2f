"""Containers: made, listed, described, deleted."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from altostack.objectstore.http import Place, Refusal, Request, Response
from altostack.objectstore.proxy import backend
from altostack.objectstore.proxy.accounts import EMPTY, Accounts, dated, query_of, stamp_of
from altostack.objectstore.proxy.known import look_up, site_of
from altostack.objectstore.proxy.limits import check_merged, check_metadata, check_name, listing_limit
from altostack.objectstore.proxy.maps import Maps
from altostack.objectstore.proxy.spread import Crew, Site, Target, first, quorum, settle
from altostack.objectstore.stamp import http_date, iso, shown
from altostack.objectstore.storage import (
    Dated,
    Info,
    Kind,
    Missing,
    NotEmpty,
    Query,
    Row,
    StoragePolicy,
    Subdir,
    Superseded,
    Update,
)
from altostack.objectstore.store import Store

_PREFIXES: Final = ("x-container-meta-", "x-container-sysmeta-")
_REMOVE: Final = "x-remove-container-meta-"
_NAMED: Final = frozenset(
    {
        "x-container-read",
        "x-container-write",
        "x-container-sync-key",
        "x-container-sync-to",
    }
)
_SITES: Final = 10_000  # places of lists that are remembered
_SHARDING: Final = "x-container-sysmeta-sharding"


class Containers:
    """The container part of the API."""

    def __init__(self, store: Store, crew: Crew, accounts: Accounts) -> None:
        self._store, self._crew, self._accounts = store, crew, accounts
        self.maps = Maps(store)
        self._sites: dict[tuple[str, str], Site] = {}

    # ---- reading

    def get(self, request: Request, place: Place) -> Response:
        """GET and HEAD."""
        store, account, container = self._store, place.account, str(place.container)
        query = None
        if request.method == "GET":
            query = query_of(request, listing_limit(request, store.settings.listing_limit))
        info = self._present(account, container)
        if info is None:
            if request.authorize is not None:
                request.authorize(request, None)
            raise Refusal(404)
        if request.authorize is not None:
            request.authorize(request, value(info, "x-container-read"))
        headers = describe(info, store)
        if not backend.owner(request):
            for name in backend.OWNERS_HEADERS & headers.keys():
                del headers[name]
        if request.facts.get(backend.RESELLER):
            headers["x-container-sharding"] = str(backend.true(value(info, _SHARDING) or ""))
        if query is None:
            return Response(204, headers)
        return Response(200, headers, entries=[entry_of(row) for row in self._list(info, query)])

    def _list(self, info: Info, query: Query) -> Sequence[Row | Subdir]:
        if info.shards:
            return self.maps.page(info, query)
        account, container = info.account, info.container

        def ask(target: Target) -> Sequence[Row | Subdir]:
            return target.node.list(target.spot, account, container, query)

        try:
            return first(site_of(self._store, account, container), ask)
        except Missing:
            raise Refusal(404) from None

    # ---- changes

    def put(self, request: Request, place: Place) -> Response:
        """Make it, or change its metadata."""
        store, account, container = self._store, place.account, str(place.container)
        self._check(request)
        check_name(container, "Container", store.settings.max_container_name)
        wanted = self._wanted_policy(request)
        stamp = stamp_of(request, store)
        self._accounts.ensure(
            account, dated(request, stamp, ("x-account-sysmeta-",), "x-remove-account-sysmeta-")
        )
        metadata = self._metadata(request, stamp)
        held = look_up(store, account, container)
        policy = store.default_policy if wanted is None else wanted
        index = policy.index
        if held is not None:
            check_merged(held.metadata, metadata, "container", store.settings)
            if held.policy is not None:
                if wanted is not None and wanted.index != held.policy:
                    raise Refusal(409, headers={backend.POLICY: str(held.policy)})
                index = held.policy
        made = self._create(account, container, stamp, index, metadata)
        return Response(201 if made else 202, {**EMPTY, backend.POLICY: str(index)})

    def post(self, request: Request, place: Place) -> Response:
        """Change its metadata."""
        store, account, container = self._store, place.account, str(place.container)
        self._check(request)
        stamp = stamp_of(request, store)
        metadata = self._metadata(request, stamp)
        held = self._present(account, container)
        if held is None:
            raise Refusal(404)
        check_merged(held.metadata, metadata, "container", store.settings)

        def change(target: Target) -> None:
            target.node.change(target.spot, account, container, stamp, metadata)

        site = site_of(store, account, container)
        needed = quorum(len(site.primaries))
        results = self._crew.write(site, change, needed)
        store.known.forget(account, container)
        try:
            settle(results, needed)
        except Missing:
            raise Refusal(404) from None
        return Response(204, dict(EMPTY))

    def delete(self, request: Request, place: Place) -> Response:
        """Remove it when it is empty."""
        store, account, container = self._store, place.account, str(place.container)
        if request.authorize is not None:
            request.authorize(request, None)
        stamp = stamp_of(request, store)
        held = self._present(account, container)
        if held is None:
            raise Refusal(404)
        if held.shards and self.maps.page(held, Query(limit=1)):
            raise Refusal(409)
        site = site_of(store, account, container)
        updates = self._updates(
            account, len(site.primaries),
            Row(name=container, timestamp=stamp, deleted=True, policy=held.policy or 0),
        )  # fmt: skip

        def destroy(target: Target) -> bool:
            if not target.node.destroy(target.spot, account, container, stamp, updates=updates[target.index]):
                raise Missing
            return True

        needed = quorum(len(site.primaries))
        results = self._crew.write(site, destroy, needed)
        store.known.forget(account, container)
        try:
            settle(results, needed)
        except Missing:
            raise Refusal(404) from None
        except NotEmpty:
            raise Refusal(409) from None
        except Superseded as newer:
            raise Refusal(409, headers={backend.TIMESTAMP: newer.timestamp}) from None
        return Response(204, dict(EMPTY))

    def ensure(self, account: str, container: str) -> None:
        """A container of our own; it is made when it is not there. Raises Refusal(503)."""
        store = self._store
        if store.known.container(account, container) is not None:
            return
        self._accounts.ensure(account)
        self._create(account, container, store.clock.now(), store.default_policy.index, {})

    def site(self, account: str, container: str) -> Site:
        """Where the copies of a container's list lie; remembered, since every upload asks."""
        key, ring = (account, container), self._store.rings.container
        held = self._sites.get(key)
        if held is None or held.ring is not ring:
            if len(self._sites) >= _SITES:
                self._sites.clear()
            held = self._sites[key] = site_of(self._store, account, container)
        return held

    # ---- parts

    def _present(self, account: str, container: str) -> Info | None:
        """What it is now; None when it is not there, or its account is not."""
        if not account.startswith(".") and self._store.known.account(account) is None:
            return None
        return look_up(self._store, account, container)

    def _create(self, account: str, container: str, stamp: str, index: int, metadata: Dated) -> bool:
        """Whether it was not there."""
        store = self._store
        site = site_of(store, account, container)
        updates = self._updates(
            account, len(site.primaries), Row(name=container, timestamp=stamp, policy=index)
        )

        def create(target: Target) -> bool:
            return target.node.create(
                target.spot, account, container, stamp, policy=index, metadata=metadata,
                updates=updates[target.index],
            )  # fmt: skip

        needed = quorum(len(site.primaries))
        results = self._crew.write(site, create, needed)
        store.known.forget(account, container)
        try:
            return any(settle(results, needed))
        except Superseded as newer:
            raise Refusal(409, headers={backend.TIMESTAMP: newer.timestamp}) from None

    def _check(self, request: Request) -> None:
        if request.authorize is not None:
            request.authorize(request, None)
        check_metadata(request.headers, "container", self._store.settings)

    def _metadata(self, request: Request, stamp: str) -> dict[str, tuple[str, str]]:
        found = dated(request, stamp, _PREFIXES, _REMOVE, _NAMED)
        if not backend.owner(request):
            for name in backend.OWNERS_HEADERS & found.keys():
                del found[name]
        said = request.headers.get("x-container-sharding")
        if said is not None and request.facts.get(backend.RESELLER):
            found[_SHARDING] = (str(backend.true(said)), stamp)
        return found

    def _wanted_policy(self, request: Request) -> StoragePolicy | None:
        said = request.headers.get("x-storage-policy")
        if not said:
            return None
        policy = self._store.policy_named(said)
        if policy is None:
            raise Refusal(400, f"Invalid X-Storage-Policy '{said}'")
        if policy.deprecated:
            raise Refusal(400, f"Storage Policy {policy.name!r} is deprecated")
        return policy

    def _updates(self, account: str, copies: int, row: Row) -> list[list[Update]]:
        return spread_updates(site_of(self._store, account), account, None, row, copies)


def spread_updates(
    site: Site, account: str, container: str | None, row: Row, copies: int
) -> list[list[Update]]:
    """Which of ``copies`` nodes, that are about to make it true, are to tell the copies of a list of a line.

    Each copy of the list is told by one; and so many tell that one is left when as many fail as a write survives.
    """
    made: list[list[Update]] = [[] for _ in range(copies)]
    targets = site.primaries
    kind: Kind = "account" if container is None else "container"
    for at in range(max(copies - quorum(copies) + 1, len(targets))):
        target = targets[at % len(targets)]
        device = target.device
        made[at % copies].append(
            Update(
                host=device.host,
                port=device.port,
                spot=target.spot,
                kind=kind,
                account=account,
                container=container,
                row=row,
            )
        )
    return made


def value(info: Info | None, name: str) -> str | None:
    """A metadata's value; None when it is not set."""
    if info is None:
        return None
    found = info.metadata.get(name)
    return found[0] or None if found is not None else None


def describe(info: Info, store: Store) -> dict[str, str]:
    """The headers of a container's GET and HEAD."""
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "accept-ranges": "bytes",
        "x-container-object-count": str(info.count),
        "x-container-bytes-used": str(info.bytes),
        "x-timestamp": shown(info.created),
        "x-put-timestamp": shown(info.put),
        "last-modified": http_date(info.put),
        backend.TIMESTAMP: info.created,
        backend.POLICY: str(info.policy or 0),
        "x-backend-sharding-state": info.state,
    }
    with contextlib.suppress(LookupError):  # of a policy that this process is not told of
        headers["x-storage-policy"] = store.policy(info.policy or 0).name
    for name, (text, _) in info.metadata.items():
        if text:
            headers[name] = text
    return headers


def entry_of(row: Row | Subdir) -> dict[str, Any]:
    """A line as listings show it."""
    if isinstance(row, Subdir):
        return {"subdir": row.name}
    return {
        "bytes": row.size,
        "hash": row.etag,
        "name": row.name,
        "content_type": row.content_type,
        "last_modified": iso(max(row.timestamp, row.meta_timestamp)),
    }
