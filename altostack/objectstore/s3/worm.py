"""What S3 has locked is locked for everybody: for Swift's users, bulk deletion, manifests that name others' parts.

The filter stands near the proxy, inside of whatever makes requests of its own. It sees where things really lie: the
versions in the hidden container, the parts beside the bucket. Requests of the S3 filter have been judged by it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response, ask
from altostack.objectstore.middleware import hidden
from altostack.objectstore.middleware.options import Wrap, store_of
from altostack.objectstore.middleware.shape import true
from altostack.objectstore.middleware.versioned import LINK
from altostack.objectstore.middleware.versions import SYS_CONTAINER, SYS_ENABLED
from altostack.objectstore.s3 import settings
from altostack.objectstore.s3.call import allowed
from altostack.objectstore.s3.lock import KEPT, locked
from altostack.objectstore.store import Store


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """No options."""
    store = store_of(conf)
    store.handlers["lock"] = True
    return lambda app: Locks(app, store)


def check_early(app: Handler, store: Store, request: Request) -> None:
    """Refuse a version's deletion before any of it is done. Raises Refusal(403).

    app: what is inside of the S3 filter.
    """
    place = request.place
    if request.method != "DELETE" or "version-id" not in request.query_string or place is None:
        return
    if place.container is None or place.object is None:
        return
    info = store.known.container(place.account, place.container)
    if info is None or info.gone or not settings.read(info, "lock"):
        return
    query = urlencode({"version-id": request.query.get("version-id", "")})
    sub = request.sub("HEAD", request.path, query_string=query)
    sub.authorize = allowed
    response = ask(app, sub)
    response.close()
    if locked(response.headers, _now(store), bypass=False):
        raise Refusal(403, "The version is locked.")


def _now(store: Store) -> datetime:
    return datetime.fromtimestamp(store.clock.seconds(), UTC)


class Locks:
    """The filter."""

    def __init__(self, app: Handler, store: Store) -> None:
        self._app, self._store = app, store

    def __call__(self, request: Request) -> Response:
        if request.method in ("PUT", "POST", "DELETE") and not request.facts.get("s3"):
            place = request.place
            if place is not None and place.container is not None:
                self._judge(request, place, place.container)
        return self._app(request)

    def _judge(self, request: Request, place: Place, container: str) -> None:
        """Raises Refusal(403)."""
        versions = container.startswith(hidden.MARK)
        bucket = container.removeprefix(hidden.MARK).partition("+")[0]
        info = self._store.known.container(place.account, bucket) if bucket else None
        if info is None or info.gone or not settings.read(info, "lock"):
            return
        if not versions and bucket != container:
            raise Refusal(403, "The container holds parts of objects that are locked.")
        if place.object is None:
            stops = SYS_ENABLED in request.headers and not true(request.headers[SYS_ENABLED])
            if stops or request.headers.get(SYS_CONTAINER) == "":
                raise Refusal(403, "Objects of this container are locked: their versions are kept.")
        elif request.method == "DELETE":
            held = self._held(request)
            if not true(held.headers.get(LINK)) and locked(held.headers, _now(self._store), bypass=False):
                raise Refusal(403, "The version is locked.")
        elif request.method == "POST":
            held = self._held(request)
            for name in KEPT:  # a POST replaces all that it does not name
                if held.headers.get(name):
                    request.headers[name] = held.headers[name]

    def _held(self, request: Request) -> Response:
        response = ask(self._app, request.sub("HEAD", request.path, query_string="symlink=get"))
        response.close()
        if not response.good and response.status != 404:
            raise Refusal(503)  # nobody knows whether it is locked
        return response
