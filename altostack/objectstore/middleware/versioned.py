"""Objects of containers whose versions are kept: what each request does to the object and to its versions.

The data of every version lies in the hidden container (`hidden`). The object that clients see is a static symbolic
link to one of them, or a plain object from before versions were kept: the version "null".
"""

from __future__ import annotations

import mimetypes
from typing import Final
from urllib.parse import quote, unquote

from altostack.objectstore.http import Body, Handler, Place, Refusal, Request, Response, Stream, ask
from altostack.objectstore.middleware import hidden, symlink
from altostack.objectstore.middleware.shape import (
    EMPTY_ETAG,
    ETAG_IS_AT,
    IS_SLO,
    LISTED_ETAG,
    SLO_ETAG,
    SLO_SIZE,
    again,
    also,
    bare,
    drained,
    failed,
    pieces,
    require,
    true,
    with_parameters,
)
from altostack.objectstore.proxy.backend import FOOTERS
from altostack.objectstore.proxy.limits import check_length
from altostack.objectstore.stamp import normal
from altostack.objectstore.store import Store

LINK: Final = "x-object-sysmeta-versions-symlink"
DELETED: Final = "x-object-sysmeta-versions-deleted"
OURS: Final = (LINK, symlink.EXTEND, symlink.TRUSTED)  # nobody outside may make such a link
MARKER_STORED: Final = "application/x-deleted"
MARKER_TYPE: Final = f"{MARKER_STORED};swift_versions_deleted=1"  # as clients see it
MARKER_LISTED: Final = with_parameters(EMPTY_ETAG, {"versions_deleted": "1"})
CHANGE_VERSION: Final = "change_version"  # fact: a request of our own, which may POST to a version
VERSION_ID: Final = "x-object-version-id"
CURRENT_ID: Final = "x-object-current-version-id"
_LATER: Final = frozenset(
    {"x-delete-at", "x-delete-after"}
)  # of the object that clients see, not of a version
_NOT_OF_LINKS: Final = (
    "etag", "if-match", "if-unmodified-since", "x-if-delete-at", symlink.TARGET_ACCOUNT, symlink.TARGET_ETAG,
    "x-object-manifest", IS_SLO, SLO_ETAG, SLO_SIZE, "transfer-encoding",
)  # fmt: skip
_NOT_COPIED: Final = frozenset(
    {
        "accept-ranges", "content-range", "content-location", "date", "last-modified", "x-timestamp", "x-trans-id",
        "x-openstack-request-id",
    }
)  # fmt: skip


def show_location(headers: dict[str, str]) -> None:
    """Let Content-Location name an object, not what is hidden behind it."""
    location = headers.get("content-location")
    if location is not None and (shown := hidden.shown(location)) is not None:
        headers["content-location"] = shown


class Versioned:
    """One request to an object of such a container. enabled: False when keeping versions is suspended."""

    def __init__(self, app: Handler, store: Store, request: Request, place: Place, *, enabled: bool) -> None:
        self._app, self._store, self._request, self._place = app, store, request, place
        self._enabled = enabled
        self._hidden = hidden.container_of(str(place.container))

    def answer(self) -> Response:
        """Raises Refusal."""
        request = self._request
        method = request.method
        version = request.query.get("version-id") if request.query_string else None
        if version:
            return self._of_version(method, version)
        if method == "PUT":
            return self._put() if self._enabled else self._app(request)
        if method == "DELETE":
            return self._delete() if self._enabled else self._app(request)
        if method == "POST":
            return self._post()
        return self._read()

    # ---- without a version id

    def _read(self) -> Response:
        response = ask(self._app, self._request)
        self._tell_version(response)
        return response

    def _tell_version(self, response: Response) -> None:
        headers = response.headers
        own = hidden.shown(headers.pop(symlink.OWN, ""))
        target = headers.get(symlink.TARGET, "")
        if true(headers.get(LINK)) and (linked := hidden.shown(target)) is not None:
            own = headers[symlink.TARGET] = linked
            for name in (*OURS, LISTED_ETAG):
                headers.pop(name, None)
        show_location(headers)
        headers[VERSION_ID] = "null" if own is None else own.rpartition("?version-id=")[2]

    def _put(self) -> Response:
        request = self._request
        self._require_write()
        check_length(request, self._store.settings.max_object_size)
        self._check_current()
        self._preserve()
        version = self._version_to_make()
        headers = request.headers
        if not headers.get("content-type") or true(headers.pop("x-detect-content-type", "")):
            guessed = mimetypes.guess_type(str(self._place.object))[0]
            if symlink.TARGET not in headers:
                headers["content-type"] = guessed or "application/octet-stream"
        body = _Counting(request.body)
        kept = {
            name: value
            for name, value in headers.items()
            if name not in _LATER and not name.startswith("if-")
        }
        kept["x-timestamp"] = version
        data = self._inner("PUT", version, kept, body)
        if FOOTERS in request.facts:
            data.facts[FOOTERS] = request.facts[FOOTERS]
        made = ask(self._app, data)
        if made.status == 404:
            raise _gone()
        if not made.good:
            raise failed(made)
        etag = bare(made.headers.get("etag", ""))
        size = headers.get(SLO_SIZE) or str(body.count)
        kind = headers.get("content-type") or "application/symlink"
        response = ask(self._app, self._link(version, etag, size, kind))
        if not response.good:
            drained(ask(self._app, self._inner("DELETE", version)))  # nothing will ever lead to it
            raise failed(response)
        if response.status == 202:  # somebody made a newer version meanwhile; this one is kept all the same
            response.status = 201
        response.headers |= {"etag": made.headers.get("etag", etag), VERSION_ID: version}
        return response

    def _check_current(self) -> None:
        """If-Match and If-Unmodified-Since are about what the link leads to. Raises Refusal(412)."""
        headers = self._request.headers
        asked: dict[str, str] = {
            name: headers[name] for name in ("if-match", "if-unmodified-since", ETAG_IS_AT) if name in headers
        }
        if not asked.keys() - {ETAG_IS_AT}:
            return
        asked[ETAG_IS_AT] = also(asked.get(ETAG_IS_AT), SLO_ETAG)
        held = drained(ask(self._app, self._free("HEAD", self._request.path, asked)))
        if not held.good:
            raise Refusal(412 if held.status == 404 else held.status)
        for name in ("if-match", "if-unmodified-since"):
            headers.pop(name, None)

    def _version_to_make(self) -> str:
        said = self._request.headers.get("x-timestamp")
        if said is None:
            return self._store.clock.now()
        try:
            return normal(said)
        except ValueError:
            raise Refusal(400, "X-Timestamp is not a timestamp.") from None

    def _link(self, version: str, etag: str, size: str, kind: str) -> Request:
        """The request that makes the object that clients see a link to a version."""
        headers = {name: value for name, value in self._request.headers.items() if name not in _NOT_OF_LINKS}
        headers |= {
            "content-length": "0",
            "content-type": kind,
            "x-timestamp": version,
            symlink.TARGET: quote(f"{self._hidden}/{hidden.name_of(str(self._place.object), version)}"),
            symlink.SYS_ETAG: etag,
            symlink.SYS_BYTES: size,
            symlink.EXTEND: "true",
            symlink.TRUSTED: "true",
            LINK: "true",
        }
        link = again(self._request, method="PUT", query="", headers=headers, body=b"")
        link.facts = {name: fact for name, fact in link.facts.items() if name != FOOTERS}
        return link

    def _delete(self) -> Response:
        """A marker becomes the newest version, and there is no object to be seen."""
        if "x-if-delete-at" in self._request.headers:
            return self._app(self._request)  # it expires
        self._require_write()
        self._check_current()
        self._preserve()
        version = self._version_to_make()
        headers = {
            "content-type": MARKER_STORED, "content-length": "0", "x-timestamp": version,
            DELETED: "true", LISTED_ETAG: MARKER_LISTED,
        }  # fmt: skip
        made = drained(ask(self._app, self._inner("PUT", version, headers)))
        if made.status == 404:
            raise _gone()
        if not made.good:
            raise Refusal(made.status)
        headers = self._request.headers | {"x-timestamp": version}
        response = ask(self._app, again(self._request, headers=headers))
        if response.good or response.status == 404:
            response.headers[VERSION_ID] = version
            response.headers["x-backend-content-type"] = MARKER_TYPE
        return response

    def _post(self) -> Response:
        request = self._request
        headers = {name: value for name, value in request.headers.items() if name not in _LATER}
        response = ask(self._app, request)
        if response.status == 307 and true(response.headers.get(LINK)):
            location = unquote(response.headers["location"])
            prefix = f"/{self._place.version}/{self._place.account}/{self._hidden}/"
            if location.startswith(prefix):
                response.close()
                response = ask(self._app, self._free("POST", location, headers))
        return response

    def _preserve(self) -> None:
        """An object that is no version yet becomes one. Its time is its version id. Raises Refusal(412)."""
        request = self._request
        path = request.path
        held = drained(ask(self._app, self._free("HEAD", path, {"x-newest": "true"}, query="symlink=get")))
        if request.headers.get("if-none-match", "").strip() == "*" and held.good:
            raise Refusal(412)
        if held.status == 404:
            return
        if not held.good:
            raise Refusal(503)
        if true(held.headers.get(LINK)):
            return
        source = ask(self._app, self._free("GET", path, {"x-newest": "true"}, query="symlink=get"))
        if source.status == 404:
            return
        if not source.good:
            source.close()
            raise Refusal(503)
        version = source.headers.get("x-backend-data-timestamp", source.headers.get("x-timestamp", ""))
        copied = copy(self._app, self._free("PUT", self._path(normal(version)), {}), source)
        if copied.status == 404:
            raise _gone()
        if not copied.good:
            raise Refusal(503)

    # ---- with a version id

    def _of_version(self, method: str, said: str) -> Response:
        if method == "POST" and not self._request.facts.get(CHANGE_VERSION):
            raise Refusal(400, "POST to a specific version is not allowed")
        version = said if said == "null" else hidden.version_of(said)
        if version is None:
            raise Refusal(400, "Invalid version parameter")
        if method == "DELETE":
            return self._delete_version(version)
        if method == "POST":
            return self._change_version(version)
        if method == "PUT":
            return self._restore(version)
        if method in ("GET", "HEAD"):
            return self._read_null() if version == "null" else self._read_version(version)
        return self._app(self._request)

    def _change_version(self, version: str) -> Response:
        self._require_write()
        if version != "null":
            return ask(self._app, self._inner("POST", version, self._request.headers))
        if self._current() != "null":
            raise Refusal(404)
        return self._app(again(self._request, query=""))

    def _read_null(self) -> Response:
        response = ask(self._app, self._request)
        self._tell_version(response)
        if response.headers[VERSION_ID] != "null":
            response.close()
            raise Refusal(404)
        return response

    def _read_version(self, version: str) -> Response:
        request, place = self._request, self._place
        require(self._store, request, place.account, str(place.container), write=False)
        sub = again(request, path=self._path(version))
        original = request.authorize
        if original is not None:  # a link in the version leads where the client itself may go
            name, account = self._hidden, place.account

            def authorize(asked: Request, acl: str | None) -> None:
                if asked.place is None or (asked.place.account, asked.place.container) != (account, name):
                    original(asked, acl)

            sub.authorize = authorize
        response = ask(self._app, sub)
        show_location(response.headers)
        if true(response.headers.get(DELETED)):
            response.close()
            raise Refusal(404, headers={VERSION_ID: version, "x-backend-content-type": MARKER_TYPE})
        if response.status != 404:
            response.headers[VERSION_ID] = version
        return response

    def _delete_version(self, version: str) -> Response:
        request = self._request
        self._require_write()
        current = self._current()
        if version == "null":
            if current not in (None, "null"):
                raise Refusal(404)
            return self._app(again(request, query=""))
        if current == version:
            # The link goes first: it must never lead nowhere.
            unlinked = drained(ask(self._app, again(request, query="")))
            if not unlinked.good and unlinked.status != 404:
                raise Refusal(unlinked.status)
            current = None
        elif drained(ask(self._app, self._inner("HEAD", version))).status == 404:
            raise Refusal(404)  # no tombstone for what never was
        response = ask(self._app, self._inner("DELETE", version))
        response.headers |= {VERSION_ID: version, CURRENT_ID: current or "null"}
        return response

    def _restore(self, version: str) -> Response:
        """The object that clients see is made a link to a version."""
        request = self._request
        if version == "null":
            raise Refusal(400, "Invalid version parameter")
        check_length(request, self._store.settings.max_object_size)
        if request.body.length or (request.body.length is None and request.body.read(1)):
            raise Refusal(400, "PUT version-id requests require a zero byte body")
        self._require_write()
        held = drained(ask(self._app, self._inner("HEAD", version, {}, query="symlink=get")))
        if held.status == 404:
            known = self._store.known.container(self._place.account, self._hidden)
            if known is None or known.gone:
                raise _gone()
        if held.status == 404 or true(held.headers.get(DELETED)):
            raise Refusal(404, "The specified version does not exist")
        if not held.good:
            raise Refusal(503)
        found = held.headers
        sub = self._link(
            version,
            bare(found["etag"]),
            found.get(SLO_SIZE) or found["content-length"],
            found.get("content-type", "application/octet-stream"),
        )
        sub.headers["x-timestamp"] = self._version_to_make()
        if SLO_ETAG in found:
            large = {"slo_etag": found[SLO_ETAG], "slo_size": found.get(SLO_SIZE, "0")}
            sub.headers[LISTED_ETAG] = with_parameters(EMPTY_ETAG, large)
        response = ask(self._app, sub)
        if response.good:
            response.headers |= {"etag": found["etag"], VERSION_ID: version}
        return response

    # ---- parts

    def _require_write(self) -> None:
        require(self._store, self._request, self._place.account, str(self._place.container), write=True)

    def _path(self, version: str) -> str:
        place = self._place
        name = hidden.name_of(str(place.object), version)
        return f"/{place.version}/{place.account}/{self._hidden}/{name}"

    def _free(
        self, method: str, path: str, headers: dict[str, str], query: str = "", body: Body | None = None
    ) -> Request:
        """A request of our own: what the client may do has been made sure of."""
        made = self._request.sub(method, path, query_string=query, headers=headers, body=body)
        made.facts.pop(FOOTERS, None)  # they belong to what the client sends
        return made

    def _inner(
        self,
        method: str,
        version: str,
        headers: dict[str, str] | None = None,
        body: Body | None = None,
        query: str = "",
    ) -> Request:
        return self._free(method, self._path(version), headers or {}, query, body)

    def _current(self) -> str | None:
        """The version that clients see, "null" for an object that is none, None when there is nothing to be seen."""
        held = drained(
            ask(self._app, self._free("HEAD", self._request.path, {"x-newest": "true"}, query="symlink=get"))
        )
        if held.status == 404:
            return None
        if not held.good:
            raise Refusal(503)
        if true(held.headers.get(LINK)):
            name = unquote(held.headers.get(symlink.TARGET, "")).partition("/")[2]
            found = hidden.parse(name)
            if found is not None:
                return found[1]
        return "null"


class _Counting:
    """A body that counts what is read of it."""

    def __init__(self, body: Body) -> None:
        self._body, self.count = body, 0
        self.length = body.length

    def read(self, size: int = -1) -> bytes:
        part = self._body.read(size)
        self.count += len(part)
        return part


def copy(app: Handler, put: Request, source: Response) -> Response:
    """Store what a GET with ?symlink=get gave, under the name that ``put`` has. Closes ``source``."""
    headers = {
        name: value
        for name, value in source.headers.items()
        if name not in _NOT_COPIED and not name.startswith(("x-backend-", "access-control-"))
    }
    headers["etag"] = bare(headers.get("etag", ""))
    for shown, ours in ((symlink.TARGET_ETAG, symlink.SYS_ETAG), (symlink.TARGET_BYTES, symlink.SYS_BYTES)):
        if shown in headers:
            headers[ours] = headers.pop(shown)
    put.headers = headers | put.headers
    put.body = Stream(pieces(source.body), source.length)
    try:
        return drained(ask(app, put))
    finally:
        source.close()


def _gone() -> Refusal:
    return Refusal(500, "The versions container does not exist. You may want to re-enable object versioning.")
