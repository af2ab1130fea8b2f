"""Copies inside the store: ``COPY`` with ``Destination``, or ``PUT`` with ``X-Copy-From`` (object storage API).

A copy is a GET of the source with the client's rights and a PUT of the destination with the client's rights: what the
filters inside make of both is what a client would get who read and wrote it by itself.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, urlencode

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response, ask
from altostack.objectstore.middleware.options import Wrap, number, store_of
from altostack.objectstore.middleware.report import meanwhile, patient, report, status_line, wanted_format
from altostack.objectstore.middleware.shape import (
    IS_SLO,
    LISTED_ETAG,
    SLO_ETAG,
    SLO_SIZE,
    account_name,
    again,
    as_body,
    bare,
    require,
    true,
    two_parts,
)
from altostack.objectstore.store import Store

MANIFEST: Final = "x-object-manifest"
_META: Final = ("x-object-meta-", "x-object-sysmeta-", "x-object-transient-sysmeta-")
_OVERRIDE: Final = LISTED_ETAG.removesuffix("etag")
_NOT_TAKEN: Final = frozenset(
    {
        IS_SLO, MANIFEST, SLO_ETAG, SLO_SIZE, "accept-ranges", "access-control-allow-origin", "content-length",
        "content-location", "content-range", "content-type", "date", "etag", "last-modified", "x-manifest-etag",
        "x-object-version-id", "x-openstack-request-id", "x-parts-count", "x-timestamp", "x-trans-id",
    }
)  # fmt: skip


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """yield_frequency in seconds (10): how long a client that asked for heartbeats waits for one."""
    store = store_of(conf)
    beat = number("yield_frequency", local.get("yield_frequency", "10"))
    return lambda app: Copies(app, store, beat=beat)


class Copies:
    """The filter."""

    def __init__(self, app: Handler, store: Store, *, beat: float = 10.0) -> None:
        self._app, self._store, self._beat = app, store, beat

    def __call__(self, request: Request) -> Response:
        method = request.method
        if method == "PUT":
            if not request.headers.get("x-copy-from"):
                return self._app(request)
        elif method not in ("COPY", "OPTIONS"):
            return self._app(request)
        place = request.place
        if place is None or place.object is None:
            return self._app(request)
        if method == "OPTIONS":
            return self._options(request)
        if method == "COPY":
            request, place = self._turned(request, place)
        return self._copy(request, place)

    def _options(self, request: Request) -> Response:
        response = self._app(request)
        for name in ("allow", "access-control-allow-methods"):
            said = response.headers.get(name)
            if said and response.good and "COPY" not in said:
                response.headers[name] = f"{said}, COPY"
        return response

    def _turned(self, request: Request, place: Place) -> tuple[Request, Place]:
        """A COPY as the PUT that says the same."""
        headers = dict(request.headers)
        destination = headers.pop("destination", "")
        if not destination:
            raise Refusal(412, "Destination header required")
        account = place.account
        if said := headers.pop("destination-account", ""):
            account = account_name(said)
        container, name = two_parts(destination, "Destination")
        headers["x-copy-from"] = quote(f"/{place.container}/{place.object}")
        headers["x-copy-from-account"] = quote(place.account)
        headers["content-length"] = "0"
        headers.pop("transfer-encoding", None)
        there = Place(account, container, name, place.version)
        turned = again(request, method="PUT", path=there.path, headers=headers)
        return turned, there

    def _copy(self, request: Request, place: Place) -> Response:
        headers = request.headers
        if request.body.length or (request.body.length is None and request.body.read(1)):
            raise Refusal(400, "Copy requests require a zero byte body")
        account = place.account
        if said := headers.get("x-copy-from-account"):
            account = account_name(said)
        container, name = two_parts(headers["x-copy-from"], "X-Copy-From")
        # A copy that may not be written is not to be read either: nothing is moved, nothing is told of the source.
        require(self._store, request, place.account, str(place.container), write=True)
        source_place = Place(account, container, name, place.version)
        source = self._source(request, source_place)
        if not source.good:
            return source
        length = source.length
        if length is None or length > self._store.settings.max_object_size:
            source.close()
            raise Refusal(413)
        put, told = self._put(request, source, source_place, length)
        if true(request.query.get("heartbeat")):
            return self._patient(request, put, source, told)
        try:
            response = self._app(put)
        finally:
            source.close()
        if response.good:
            response.headers |= told
        return response

    def _source(self, request: Request, place: Place) -> Response:
        query = dict(request.query)
        if query.get("multipart-manifest") == "get":
            query["format"] = "raw"
        query.pop("heartbeat", None)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name
            in ("range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range")
            or name in ("x-auth-token", "x-open-expired", "referer", "x-service-token")
        }
        headers["x-newest"] = "true"
        sub = again(request, method="GET", path=place.path, query=urlencode(query), headers=headers, body=b"")
        return ask(self._app, sub)

    def _put(
        self, request: Request, source: Response, place: Place, length: int
    ) -> tuple[Request, dict[str, str]]:
        """The PUT of the destination, and what its answer tells of the source."""
        asked, found = request.headers, source.headers
        query = dict(request.query)
        as_manifest = query.get("multipart-manifest") == "get"
        taken = {
            name: value
            for name, value in found.items()
            if name not in _NOT_TAKEN and not name.startswith("x-backend-")
        }
        if true(asked.get("x-fresh-metadata")):
            taken = {name: value for name, value in taken.items() if name.startswith("x-object-sysmeta-")}
        headers = taken | {
            name: value
            for name, value in asked.items()
            if name not in ("x-copy-from", "x-copy-from-account", "range", "transfer-encoding", "if-range")
            and not name.startswith("if-")
        }
        if (unwanted := asked.get("if-none-match")) is not None and unwanted.strip() == "*":
            headers["if-none-match"] = "*"
        if as_manifest:
            del query["multipart-manifest"]
            if IS_SLO in found:
                query["multipart-manifest"] = "put"
            elif MANIFEST in found:
                headers[MANIFEST] = found[MANIFEST]
        query.pop("version-id", None)
        query.pop("symlink", None)
        query.pop("heartbeat", None)
        if source.status == 200 and IS_SLO not in found and (as_manifest or MANIFEST not in found):
            headers["etag"] = bare(found["etag"])
        else:  # the ETag is not that of the bytes which are written, and what lists say is not either
            headers.pop("etag", None)
            headers = {name: value for name, value in headers.items() if not name.startswith(_OVERRIDE)}
        if not asked.get("content-type"):
            headers["content-type"] = found["content-type"]
        headers["content-length"] = str(length)
        told = {
            "x-copied-from-account": quote(place.account),
            "x-copied-from": quote(f"{place.container}/{place.object}"),
        }
        if "last-modified" in found:
            told["x-copied-from-last-modified"] = found["last-modified"]
        if "x-object-version-id" in found:
            told["x-copied-from-version-id"] = found["x-object-version-id"]
        told |= {
            name: value for name, value in headers.items() if name.startswith(_META) or name == "x-delete-at"
        }
        body = as_body(source.body, length)
        return again(request, query=urlencode(query), headers=headers, body=body), told

    def _patient(self, request: Request, put: Request, source: Response, told: dict[str, str]) -> Response:
        """Tell the client now and then that the copy is under way."""
        form = wanted_format(request, ("text/plain", "application/json")) or "text/plain"
        answers: list[Response] = []

        def work() -> None:
            try:
                answers.append(ask(self._app, put))
            finally:
                source.close()

        def result() -> bytes:
            response = answers[0]
            said: dict[str, object] = {
                "Response Status": status_line(response.status),
                "Response Body": response.read().decode("utf-8", "replace"),
            }
            errors = [] if response.good else [(told["x-copied-from"], status_line(response.status))]
            for name, value in (told | response.headers).items():
                if not name.startswith(("x-object-sysmeta-", "x-backend")):
                    said["-".join(part.capitalize() for part in name.split("-"))] = value
            return report(form, said, errors, "copy")

        return patient(202, form, meanwhile(work), result, beat=self._beat)
