"""Versions of objects (object storage API, object versioning and versioned writes).

A container has one of two ways to keep what is overwritten or deleted. ``X-Versions-Enabled: true`` gives every
version an id, kept in a hidden container (`versioned`, `versionlist`). ``X-Versions-Location`` and
``X-History-Location`` are the older way: earlier versions go to another container of the account (`history`).
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote, urlencode

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response, ask
from altostack.objectstore.middleware import hidden, symlink
from altostack.objectstore.middleware.history import History
from altostack.objectstore.middleware.options import Wrap, flag, store_of
from altostack.objectstore.middleware.report import wanted_format
from altostack.objectstore.middleware.shape import again, drained, failed, setting, true, unquoted
from altostack.objectstore.middleware.versioned import OURS, Versioned, show_location
from altostack.objectstore.middleware.versionlist import Versions, show_current, show_markers
from altostack.objectstore.store import Store

ENABLED: Final = "x-versions-enabled"
STACK: Final = "x-versions-location"
HISTORY: Final = "x-history-location"
SYS_ENABLED: Final = "x-container-sysmeta-versions-enabled"
SYS_CONTAINER: Final = "x-container-sysmeta-versions-container"
SYS_LOCATION: Final = "x-container-sysmeta-versions-location"
SYS_MODE: Final = "x-container-sysmeta-versions-mode"
LISTING: Final = "x-backend-listing"  # the one format that a listing comes in


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """allow_object_versioning, allow_versioned_writes (yes): the newer and the older way."""
    store = store_of(conf)
    newer = flag(local.get("allow_object_versioning", "yes"))
    older = flag(local.get("allow_versioned_writes", "yes"))
    if newer:
        store.facts["object_versioning"] = {}
    if older:
        store.facts["versioned_writes"] = {"allowed_flags": [STACK, HISTORY]}
    return lambda app: KeptVersions(app, store, newer=newer, older=older)


class KeptVersions:
    """The filter."""

    def __init__(self, app: Handler, store: Store, *, newer: bool = True, older: bool = True) -> None:
        self._app, self._store, self._newer, self._older = app, store, newer, older

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None:
            return self._app(request)
        if place.container is None:
            return self._account(request, place) if request.method == "GET" else self._app(request)
        if place.container.startswith(hidden.MARK):
            raise Refusal(412, "Names that begin with U+10FFFF are reserved.")
        if place.object is None:
            return self._container(request, place)
        return self._object(request, place)

    # ---- objects

    def _object(self, request: Request, place: Place) -> Response:
        headers = request.headers
        if request.method == "PUT":
            for name in OURS:  # what a copy may have brought along
                headers.pop(name, None)
        target = headers.get(symlink.TARGET)
        if target is not None and unquote(target).lstrip("/").startswith(hidden.MARK):
            raise Refusal(412, "Names that begin with U+10FFFF are reserved.")
        info = self._store.known.container(place.account, str(place.container))
        metadata = {} if info is None else info.metadata
        if SYS_CONTAINER in metadata and metadata[SYS_CONTAINER][0]:
            enabled = true(metadata.get(SYS_ENABLED, ("",))[0])
            return Versioned(self._app, self._store, request, place, enabled=enabled).answer()
        if request.query_string and (said := request.query.get("version-id")):
            if said != "null":
                raise Refusal(400, "version-aware operations require that the container is versioned")
            if request.method == "POST":
                raise Refusal(400, "POST to a specific version is not allowed")
        location = unquote(metadata.get(SYS_LOCATION, ("",))[0]).partition("/")[0]
        if location and self._older and request.method in ("PUT", "DELETE"):
            mode = metadata.get(SYS_MODE, ("stack",))[0]
            return History(self._app, self._store, request, place, location).answer(mode)
        response = ask(self._app, request)
        if "content-location" in response.headers:
            show_location(response.headers)
        return response

    # ---- containers

    def _container(self, request: Request, place: Place) -> Response:
        method = request.method
        if method in ("PUT", "POST"):
            self._older_way(request)
            if ENABLED in request.headers:
                return self._enable(request, place)
        elif method == "DELETE":
            self._delete_hidden(request, place)
        response = self._app(request)
        if method in ("GET", "HEAD") and response.good:
            self._describe(request, place, response)
        return response

    def _describe(self, request: Request, place: Place, response: Response) -> None:
        headers = response.headers
        if location := headers.get(SYS_LOCATION):
            headers.pop(STACK, None)
            headers[HISTORY if headers.get(SYS_MODE) == "history" else STACK] = location
        if enabled := headers.get(SYS_ENABLED):
            headers[ENABLED] = enabled
        versioned = bool(headers.get(SYS_CONTAINER))
        if versioned:
            path = f"/{place.version}/{place.account}/{hidden.container_of(str(place.container))}"
            held = drained(ask(self._app, request.sub("HEAD", path)))
            if held.good:
                used = int(headers["x-container-bytes-used"]) + int(held.headers["x-container-bytes-used"])
                headers["x-container-bytes-used"] = str(used)
        entries = response.entries
        if entries is None:
            return
        show_markers(entries)
        if versioned:
            show_current(entries, place)
        if request.query_string and "versions" in request.query:
            if "accept" in request.headers and wanted_format(request, ("application/json",)) is None:
                raise Refusal(406)
            headers[LISTING] = "application/json"
            most = self._store.settings.listing_limit
            response.entries = Versions(self._app, request, place, most).entries(entries)

    def _enable(self, request: Request, place: Place) -> Response:
        if not self._newer:
            raise Refusal(412, "Object versioning is disabled")
        store, account, container = self._store, place.account, str(place.container)
        if setting(store, account, container, SYS_LOCATION) or request.headers.get(SYS_LOCATION):
            raise Refusal(
                400,
                "Cannot enable object versioning on a container that is already using the legacy versioned writes "
                "feature.",
            )
        if setting(store, account, container, "x-container-sync-to"):
            raise Refusal(
                400,
                "Cannot enable object versioning on a container configured as source of container syncing.",
            )
        if request.authorize is not None:
            request.authorize(request, None)
        enabled = true(request.headers[ENABLED])
        headers = request.headers | {SYS_ENABLED: str(enabled)}
        made = False
        path = f"/{place.version}/{account}/{hidden.container_of(container)}"
        info = store.known.container(account, container)
        if enabled:
            if info is None and request.method == "POST":
                raise Refusal(404)
            headers[SYS_CONTAINER] = "true"
            policy = {"x-storage-policy": request.headers.get("x-storage-policy", "")}
            if info is not None:
                found = store.policy(info.policy or 0)
                if found.deprecated:
                    raise Refusal(
                        400,
                        "Cannot enable object versioning on a container that uses a deprecated storage policy.",
                    )
                policy = {"x-storage-policy": found.name}
            response = drained(ask(self._app, request.sub("PUT", path, headers=policy)))
            if not response.good and response.status != 409:
                raise Refusal(500, "Error enabling object versioning")
            made = response.status == 201
        response = ask(self._app, again(request, headers=headers))
        if not response.good and made:
            drained(ask(self._app, request.sub("DELETE", path)))
        return response

    def _delete_hidden(self, request: Request, place: Place) -> None:
        """A container can be deleted only when all versions are gone; what is hidden goes with it."""
        if not setting(self._store, place.account, str(place.container), SYS_CONTAINER):
            return
        if request.authorize is not None:
            request.authorize(request, None)
        path = f"/{place.version}/{place.account}/{hidden.container_of(str(place.container))}"
        own = drained(ask(self._app, request.sub("HEAD", request.path)))
        if own.good and int(own.headers["x-container-object-count"]):
            raise Refusal(409)
        held = drained(ask(self._app, request.sub("HEAD", path)))
        if held.good and int(held.headers["x-container-object-count"]):
            raise Refusal(409, "Delete all versions before deleting container.")
        gone = drained(ask(self._app, request.sub("DELETE", path)))
        if gone.status == 409:
            raise Refusal(409, "Delete all versions before deleting container.")
        if not gone.good and gone.status != 404:
            raise Refusal(500, "Error deleting versioned container")

    def _older_way(self, request: Request) -> None:
        headers = request.headers
        stack, history = headers.pop(STACK, None), headers.pop(HISTORY, None)
        remove = [headers.pop(f"x-remove-{name[2:]}", "") for name in (STACK, HISTORY)]
        if stack and history:
            raise Refusal(400, f"Only one of {STACK} or {HISTORY} may be specified")
        location = stack or history
        if location:
            if not self._older:
                raise Refusal(412, "Versioned Writes is disabled")
            name = unquoted(location)
            if not name or "/" in name or name.startswith(hidden.MARK):
                raise Refusal(412, "Container name cannot contain slashes")
            headers[SYS_LOCATION] = location
            headers[SYS_MODE] = "history" if history else "stack"
        elif stack == "" or history == "" or any(remove):
            headers[SYS_LOCATION] = headers[SYS_MODE] = ""

    # ---- accounts

    def _account(self, request: Request, place: Place) -> Response:
        """Hidden containers are not listed, but what they hold counts."""
        query = dict(request.query) if request.query_string else {}
        edge = "marker" if true(query.get("reverse")) else "end_marker"
        if not query.get(edge) or query[edge] > hidden.MARK:
            query[edge] = hidden.MARK
        response = self._app(again(request, query=urlencode(query)))
        entries = response.entries
        if not response.good or not entries:
            return response
        for name in ("prefix", "marker", "end_marker"):
            if name in query and query[name] != hidden.MARK:
                query[name] = hidden.MARK + query[name]
            elif name != "prefix":
                query.pop(name, None)
        query.setdefault("prefix", hidden.MARK)
        query.pop("delimiter", None)
        inner = ask(self._app, request.sub("GET", request.path, query_string=urlencode(query)))
        if not inner.good:
            raise failed(inner)
        if inner.entries:
            used = {one["name"][1:]: one["bytes"] for one in inner.entries}
            for entry in entries:
                entry["bytes"] = entry.get("bytes", 0) + used.get(entry.get("name", ""), 0)
        return response
