"""The older way of keeping versions: copies in another container (object storage API, versioned writes).

What is overwritten is copied to ``<length of its name, three hexadecimal digits><name>/<timestamp>``. "stack": a
delete brings the newest copy back. "history": a delete leaves a mark and keeps all copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response, ask
from altostack.objectstore.middleware.shape import LISTED_ETAG, drained, require, true
from altostack.objectstore.middleware.versioned import DELETED, MARKER_LISTED, MARKER_STORED, copy
from altostack.objectstore.proxy.backend import FOOTERS
from altostack.objectstore.store import Store

_PAGE = 1000


class History:
    """One PUT or DELETE in such a container. location: where earlier versions are kept."""

    def __init__(self, app: Handler, store: Store, request: Request, place: Place, location: str) -> None:
        self._app, self._store, self._request, self._place = app, store, request, place
        self._root = f"/{place.version}/{place.account}/{location}"
        name = str(place.object)
        self._prefix = f"{len(name.encode()):03x}{name}/"

    def answer(self, mode: str) -> Response:
        """Raises Refusal: 412 when the other container is not there or cannot be written."""
        place = self._place
        require(self._store, self._request, place.account, str(place.container), write=True)
        if self._request.method == "PUT":
            self._keep_current()
            return self._app(self._request)
        if mode == "history":
            return self._push()
        return self._pop()

    def _keep_current(self) -> None:
        source = self._get(self._request.path)
        if source.status == 404:
            source.close()
            return
        self._need(source)
        stamp = source.headers.get("x-backend-data-timestamp", source.headers.get("x-timestamp", ""))
        self._need(copy(self._app, self._sub("PUT", f"{self._root}/{self._prefix}{stamp}"), source))

    def _push(self) -> Response:
        self._keep_current()
        request = self._request
        stamp = request.headers.get("x-timestamp") or self._store.clock.now()
        marker = self._sub("PUT", f"{self._root}/{self._prefix}{stamp}")
        marker.headers |= {
            "content-type": MARKER_STORED, "content-length": "0", "x-timestamp": stamp,
            DELETED: "true", LISTED_ETAG: MARKER_LISTED,
        }  # fmt: skip
        self._need(drained(ask(self._app, marker)))
        request.headers["x-timestamp"] = stamp
        return self._app(request)

    def _pop(self) -> Response:
        request = self._request
        kept = self._kept()
        for path, marked in kept:
            if marked:
                there = drained(ask(self._app, self._sub("HEAD", request.path)))
                if there.status != 404:
                    self._need(there)
                    return self._app(request)  # back to the state that the mark stands for
                for older, also_marked in kept:
                    if also_marked:
                        break
                    if self._restore(older):
                        drained(ask(self._app, self._sub("DELETE", older)))
                        break
                return ask(self._app, self._sub("DELETE", path))
            if self._restore(path):
                return ask(self._app, self._sub("DELETE", path))
        return self._app(request)

    def _restore(self, path: str) -> bool:
        """Bring a copy back; False when it is gone."""
        source = self._get(path)
        if source.status == 404:
            source.close()
            return False
        self._need(source)
        self._need(copy(self._app, self._sub("PUT", self._request.path), source))
        return True

    def _kept(self) -> Iterator[tuple[str, bool]]:
        """(path, whether it is the mark of a delete) of what is kept, the newest first."""
        marker = ""
        while True:
            query = {"prefix": self._prefix, "reverse": "on", "limit": str(_PAGE)} | (
                {"marker": marker} if marker else {}
            )
            response = ask(self._app, self._sub("GET", self._root, urlencode(query)))
            if response.status == 404:
                return
            self._need(response)
            entries: list[dict[str, Any]] = response.entries or []
            for entry in entries:
                yield f"{self._root}/{entry['name']}", "versions_deleted=" in entry["hash"]
            if len(entries) < _PAGE:
                return
            marker = entries[-1]["name"]

    def _get(self, path: str) -> Response:
        sub = self._sub("GET", path, "symlink=get")
        sub.headers["x-newest"] = "true"
        response = ask(self._app, sub)
        if response.good and true(response.headers.get(DELETED)):
            response.close()
            return Response(404)
        return response

    def _sub(self, method: str, path: str, query: str = "") -> Request:
        made = self._request.sub(method, path, query_string=query)
        made.facts.pop(FOOTERS, None)  # they belong to what the client sends
        return made

    def _need(self, response: Response) -> None:
        """Raises Refusal: 412 for what the client can mend, 503 for other trouble."""
        if not response.good:
            response.close()
            raise Refusal(412 if 400 <= response.status < 500 else 503)
