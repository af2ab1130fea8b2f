"""Takes changes from other clusters that keep a container in step with one of ours (`altostack.objectstore.sync`)."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any
from urllib.parse import quote

from altostack.objectstore import sync
from altostack.objectstore.http import Handler, Place, Refusal, Request, Response
from altostack.objectstore.middleware.acl import challenge
from altostack.objectstore.middleware.options import Wrap, flag, store_of, words
from altostack.objectstore.middleware.signing import within
from altostack.objectstore.store import Store


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """realms: the file of realms (container-sync-realms.conf in the cloud's folder). current: ``//REALM/CLUSTER``.

    allow_full_urls (yes): containers may be copied to URLs of allowed_sync_hosts (none), not to realms alone.
    accept_keys (no): clusters without a realm may show the container's key alone (X-Container-Sync-Key).
    """
    store = store_of(conf)
    realms = sync.Realms(Path(local["realms"]) if "realms" in local else store.folder / sync.FILE)
    hosts = words(local.get("allowed_sync_hosts", "")) if flag(local.get("allow_full_urls", "yes")) else []
    current = tuple(one.upper() for one in local.get("current", "").strip("/").split("/"))
    store.facts["container_sync"] = {
        "realms": {
            realm.name: {
                "clusters": {
                    name: {"current": True} if (realm.name, name) == current else {}
                    for name in realm.clusters
                }
            }
            for realm in realms.all()
            if realm.clusters
        }
    }
    keys = flag(local.get("accept_keys", "no"))
    return lambda app: ContainerSync(app, store, realms, tuple(hosts), accept_keys=keys)


class ContainerSync:
    """Checks signatures of other clusters, and where owners want their containers copied to.

    Fact it leaves in a request: "synced": the change is another cluster's, made and checked there.
    """

    def __init__(
        self,
        app: Handler,
        store: Store,
        realms: sync.Realms,
        hosts: tuple[str, ...] = (),
        *,
        accept_keys: bool = False,
    ) -> None:
        self._app, self._store, self._realms, self._hosts = app, store, realms, hosts
        self._accept_keys = accept_keys

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None or place.container is None:
            return self._app(request)
        if place.object is None and request.method in ("PUT", "POST"):
            self._check_target(request, place)
        shown = self._accept_keys and place.object is not None and sync.SYNC_KEY in request.headers
        if (header := request.header(sync.AUTH)) or shown:
            self._let_in(request, place, header)
        return self._app(request)

    def _check_target(self, request: Request, place: Place) -> None:
        said = request.header(sync.SYNC_TO)
        if not said:
            return
        try:
            sync.target(said, self._realms, self._hosts)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        held = self._store.known.container(place.account, str(place.container))
        if held is not None and held.metadata.get("x-container-sysmeta-versions-container", ("", ""))[0]:
            raise Refusal(
                400, "Cannot configure container sync on a container with object versioning configured."
            )

    def _let_in(self, request: Request, place: Place, header: str) -> None:
        """Raises Refusal(401)."""
        held = self._store.known.container(place.account, str(place.container))
        key = held.metadata.get(sync.SYNC_KEY, ("", ""))[0] if held is not None else ""
        headers = request.headers
        timestamp = headers.get("x-backend-inbound-x-timestamp", headers.get("x-timestamp", "0"))
        path = quote(request.path, safe="/~")
        if header:
            good = sync.is_signed(header, request.method, path, timestamp, self._realms, key)
        else:
            said = headers[sync.SYNC_KEY].encode("utf-8", "surrogateescape")
            good = bool(key) and timestamp != "0" and hmac.compare_digest(said, key.encode())
        if not good:
            raise Refusal(
                401, "X-Container-Sync-Auth header not valid; contact cluster operator for support.",
                headers=challenge(request, "SwiftContainerSync"),
            )  # fmt: skip
        if headers.pop("x-backend-inbound-x-timestamp", None) is not None:
            headers["x-timestamp"] = timestamp
        request.facts["synced"] = True
        request.facts["user"] = "container-sync"
        request.authorize = within(place.account, place.container)
