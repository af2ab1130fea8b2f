"""Objects: written, read, described, deleted; what is the same for whole copies and for fragments."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from typing import Final

from altostack.objectstore.care import queue
from altostack.objectstore.http import Place, Refusal, Request, Response
from altostack.objectstore.proxy import backend
from altostack.objectstore.proxy.accounts import EMPTY, stamp_of
from altostack.objectstore.proxy.affinity import Affinity
from altostack.objectstore.proxy.answers import absent, answer, etag_of, told
from altostack.objectstore.proxy.coding import Coder
from altostack.objectstore.proxy.conditions import bare, unmet
from altostack.objectstore.proxy.containers import Containers, spread_updates, value
from altostack.objectstore.proxy.copies import Copies
from altostack.objectstore.proxy.counts import Counts
from altostack.objectstore.proxy.fragments import Fragments
from altostack.objectstore.proxy.keep import Keep, Upload
from altostack.objectstore.proxy.limits import (
    check_length,
    check_metadata,
    check_name,
    check_text,
    check_type,
)
from altostack.objectstore.proxy.spread import Crew, Site
from altostack.objectstore.proxy.turns import Turns
from altostack.objectstore.stamp import http_date, shown
from altostack.objectstore.storage import Exists, Info, Missing, Row, Superseded, Update
from altostack.objectstore.store import Store

ALLOWED: Final = frozenset(
    {
        "content-disposition",
        "content-encoding",
        "content-language",
        "cache-control",
        "expires",
        "x-delete-at",
        "x-object-manifest",
        "x-robots-tag",
        "x-static-large-object",
    }
)
"""Headers of a PUT or POST that are kept as they are, beside metadata."""

_KEPT: Final = ("x-object-meta-", "x-object-transient-sysmeta-", "x-object-sysmeta-")
_POSTED: Final = ("x-object-meta-", "x-object-transient-sysmeta-")


class Objects:
    """The object part of the API."""

    def __init__(self, store: Store, crew: Crew, containers: Containers, counts: Counts) -> None:
        self._store, self._containers, self._counts = store, containers, counts
        self._turns = Turns(store.folder)
        affinity = Affinity(store.settings)
        self._affinity = affinity if affinity.any else None
        self._keeps: dict[int, Keep] = {}
        for policy in store.policies:
            self._keeps[policy.index] = (
                Copies(store, crew)
                if policy.erasure is None
                else Fragments(store, crew, Coder(policy.erasure))
            )

    # ---- reading

    def get(self, request: Request, place: Place) -> Response:
        """GET and HEAD."""
        info = self._store.known.container(place.account, str(place.container))
        if request.authorize is not None:
            request.authorize(request, value(info, "x-container-read"))
        keep, site = self._site(request, place, info)
        headers = request.headers
        try:
            found = keep.find(site, newest=backend.true(headers.get("x-newest", "")))
        except Missing as missing:
            raise absent(request, missing.timestamp) from None
        try:
            if self._expired(found.metadata) and not backend.true(headers.get(backend.OPEN_EXPIRED, "")):
                raise absent(request, found.changed)
            response = answer(request, found)
        except BaseException:
            found.close()
            raise
        response.headers[backend.POLICY] = str(site.policy)
        return response

    # ---- changes

    def put(self, request: Request, place: Place) -> Response:
        """Write it."""
        store, headers = self._store, request.headers
        unwanted = headers.get("if-none-match")
        if unwanted is not None and unwanted.strip() != "*":
            raise Refusal(400, "If-None-Match only supports *")
        info = store.known.container(place.account, str(place.container))
        if request.authorize is not None:
            request.authorize(request, value(info, "x-container-write"))
        if info is None:
            raise Refusal(404)
        stamp = stamp_of(request, store)
        metadata = self._metadata_of(request, place, stamp)
        keep, site = self._site(request, place, info)
        wanted = headers.get("etag")
        upload = Upload(
            body=request.body,
            timestamp=stamp,
            metadata=metadata,
            most=store.settings.max_object_size,
            etag=bare(wanted).lower() if wanted else None,
            absent=unwanted is not None,
            footers=request.facts.get(backend.FOOTERS),
            updates=self._liner(request, place, info, site, stamp),
        )
        with closing(upload), ExitStack() as turn:
            if _matches(headers):
                self._check_held(request, keep, site)
            if _matches(headers) or (upload.absent and len(site.primaries) > 1):
                lines = upload.updates

                def checked(metadata: dict[str, str]) -> list[list[Update]]:
                    """All has come in and nothing is visible yet: look again, and let nobody between."""
                    upload.updates = lines  # of a second try: it is our turn already
                    turn.enter_context(self._turns.take(site.digest))
                    if _matches(headers):
                        self._check_held(request, keep, site)
                    if upload.absent and not self._gone(keep, site):
                        raise Refusal(412)
                    return lines(metadata)

                upload.updates = checked
            try:
                self._put(keep, site, upload)
            except Superseded as newer:
                if upload.absent or _matches(headers):
                    raise Refusal(412, headers={backend.TIMESTAMP: newer.timestamp}) from None
                return Response(202, {**EMPTY, backend.TIMESTAMP: newer.timestamp})
        self._counts.note(place.account, str(place.container))
        return Response(201, {**EMPTY, "etag": upload.stored_etag, "last-modified": http_date(stamp)})

    def _put(self, keep: Keep, site: Site, upload: Upload) -> None:
        try:
            keep.put(site, upload)
        except Exists:
            if upload.spent or not self._gone(keep, site):
                raise Refusal(412) from None
            upload.absent = False  # what is there has expired
            keep.put(site, upload)

    def post(self, request: Request, place: Place) -> Response:
        """Replace its metadata."""
        store, headers = self._store, request.headers
        info = store.known.container(place.account, str(place.container))
        if request.authorize is not None:
            request.authorize(request, value(info, "x-container-write"))
        if info is None:
            raise Refusal(404)
        stamp = stamp_of(request, store)
        check_metadata(headers, "object", store.settings)
        delete_at = _delete_at(headers, stamp)
        metadata = {
            name: text for name, text in headers.items() if name in ALLOWED or name.startswith(_POSTED)
        }
        metadata.pop("x-static-large-object", None)
        if delete_at is not None:
            metadata["x-delete-at"] = delete_at
        if headers.get("content-type"):
            check_type(headers["content-type"])
            metadata["content-type"] = headers["content-type"]
        check_text(metadata)
        keep, site = self._site(request, place, info)
        try:
            with closing(keep.find(site, newest=True)) as found:
                held, data_at, changed = found.metadata, found.timestamp, found.changed
            if self._expired(held) and not backend.true(headers.get(backend.OPEN_EXPIRED, "")):
                raise Refusal(404, headers={backend.TIMESTAMP: changed})
            kind = metadata.get("content-type")
            row = self._row(
                {**held, "content-type": kind or held["content-type"]}, headers, place, site.policy, data_at,
                type_timestamp=stamp if kind else "", meta_timestamp=stamp,
            )  # fmt: skip
            updates = self._updates(info, site, row)
            self._queue(updates, site, place, stamp, held.get("x-delete-at"), metadata.get("x-delete-at"))
            keep.post(site, stamp, metadata, updates)
        except Missing as missing:
            raise Refusal(404, headers=told(missing.timestamp)) from None
        except Superseded as newer:
            raise Refusal(409, headers={backend.TIMESTAMP: newer.timestamp}) from None
        kept = {name: text for name, text in held.items() if name.startswith("x-object-sysmeta-")}
        return Response(202, {**EMPTY, **kept, "x-timestamp": shown(stamp)})

    def delete(self, request: Request, place: Place) -> Response:
        """Delete it; that it is gone is written down in any case."""
        store, headers = self._store, request.headers
        info = store.known.container(place.account, str(place.container))
        if request.authorize is not None:
            request.authorize(request, value(info, "x-container-write"))
        if info is None:
            raise Refusal(404)
        stamp = stamp_of(request, store)
        expected = headers.get("x-if-delete-at")
        if expected is not None and _number(expected) is None:
            raise Refusal(400, "Bad X-If-Delete-At header value")
        keep, site = self._site(request, place, info)
        held = self._held(keep, site, newest=expected is not None)
        if expected is None and held is not None and "x-delete-at" in held:
            held = self._held(keep, site, newest=True)  # a POST may have changed that
        if expected is not None and (held is None or _number(held.get("x-delete-at")) != _number(expected)):
            raise Refusal(404 if held is None else 412)
        row = Row(name=str(place.object), timestamp=stamp, deleted=True, policy=site.policy)
        updates = self._updates(info, site, row)
        self._queue(updates, site, place, stamp, None if held is None else held.get("x-delete-at"), None)
        with self._turns.take(site.digest) if _matches(headers) else nullcontext():
            if _matches(headers):
                self._check_held(request, keep, site)
            try:
                there = keep.delete(site, stamp, updates, _path(place))
            except Superseded as newer:
                raise Refusal(409, headers={backend.TIMESTAMP: newer.timestamp}) from None
        self._counts.note(place.account, str(place.container))
        if not there or (held is not None and self._expired(held) and expected is None):
            raise Refusal(404, headers={backend.TIMESTAMP: stamp})
        return Response(204, dict(EMPTY))

    # ---- parts

    def _site(self, request: Request, place: Place, info: Info | None) -> tuple[Keep, Site]:
        said = request.headers.get(backend.POLICY)
        if said is not None:
            index = int(said)
        elif info is None:
            raise Refusal(404)
        else:
            index = info.policy or 0
        try:
            ring = self._store.rings.object(index)
            keep = self._keeps[index]
        except LookupError:
            raise Refusal(503, f"Storage policy {index} is not known here.") from None
        part, digest = ring.locate(place.account, place.container, place.object)
        return keep, Site(self._store, ring, part, digest, index, self._affinity)

    def _expired(self, metadata: dict[str, str]) -> bool:
        when = metadata.get("x-delete-at")
        return when is not None and int(when) <= self._store.clock.seconds()

    def _held(self, keep: Keep, site: Site, *, newest: bool) -> dict[str, str] | None:
        """The metadata of what is there now; ``newest``: of all copies."""
        try:
            with closing(keep.find(site, newest=newest)) as found:
                return found.metadata
        except (Missing, Refusal):  # what cannot be read cannot be known to be there
            return None

    def _gone(self, keep: Keep, site: Site) -> bool:
        """Whether what a device has is deleted or has expired. Raises Refusal(503)."""
        try:
            with closing(keep.find(site, newest=True)) as found:
                return self._expired(found.metadata)
        except Missing:
            return True

    def _check_held(self, request: Request, keep: Keep, site: Site) -> None:
        """If-Match and If-Unmodified-Since of a change. Raises Refusal(412)."""
        try:
            with closing(keep.find(site, newest=True)) as found:
                metadata, changed = found.metadata, found.changed
        except Missing:
            raise Refusal(412) from None
        wanted: dict[str, str] = {
            name: request.headers[name]
            for name in ("if-match", "if-unmodified-since")
            if name in request.headers
        }
        if self._expired(metadata) or unmet(wanted, etag_of(request, metadata), changed) is not None:
            raise Refusal(412)

    def _metadata_of(self, request: Request, place: Place, stamp: str) -> dict[str, str]:
        """The metadata that a PUT sets; sum and size are not known yet. Raises Refusal."""
        headers, settings = request.headers, self._store.settings
        check_length(request, settings.max_object_size)
        check_name(str(place.object), "Object", settings.max_object_name)
        check_metadata(headers, "object", settings)
        kind = headers.get("content-type")
        if not kind or backend.true(headers.get("x-detect-content-type", "")):
            kind = mimetypes.guess_type(str(place.object))[0] or "application/octet-stream"
            headers["content-type"] = kind
        check_type(kind)
        metadata = {"name": _path(place), "content-type": kind}
        for name, text in headers.items():
            if name in ALLOWED or name.startswith(_KEPT):
                metadata[name] = text
        check_text(metadata)
        delete_at = _delete_at(headers, stamp)
        if delete_at is not None:
            metadata["x-delete-at"] = delete_at
        return metadata

    def _row(
        self, metadata: dict[str, str], headers: dict[str, str], place: Place, policy: int, timestamp: str, *,
        type_timestamp: str = "", meta_timestamp: str = "",
    ) -> Row:  # fmt: skip
        """What the container's list says of an object."""
        said: dict[str, str] = {}
        for name in ("etag", "size", "content-type"):
            text = metadata.get(backend.KEPT_OVERRIDE + name) or headers.get(backend.OVERRIDE + name)
            if text:
                said[name] = text
        kind = said.get("content-type", metadata["content-type"])
        return Row(
            name=str(place.object),
            timestamp=timestamp,
            size=int(said.get("size", metadata["content-length"])),
            content_type=kind,
            etag=said.get("etag", metadata["etag"]),
            policy=policy,
            type_timestamp=type_timestamp,
            meta_timestamp=meta_timestamp,
        )

    def _liner(
        self, request: Request, place: Place, info: Info, site: Site, stamp: str
    ) -> Callable[[dict[str, str]], list[list[Update]]]:
        """Makes the container's lines once the metadata is complete."""

        def lines(metadata: dict[str, str]) -> list[list[Update]]:
            updates = self._updates(
                info, site, self._row(metadata, request.headers, place, site.policy, stamp)
            )
            self._queue(updates, site, place, stamp, None, metadata.get("x-delete-at"))
            return updates

        return lines

    def _updates(self, info: Info, site: Site, row: Row) -> list[list[Update]]:
        account, container = self._containers.maps.home(info, row.name)
        return spread_updates(
            self._containers.site(account, container), account, container, row, len(site.primaries)
        )

    def _queue(
        self,
        updates: list[list[Update]],
        site: Site,
        place: Place,
        stamp: str,
        old: str | None,
        new: str | None,
    ) -> None:
        """Lines of the queue of what expires: ``old`` and ``new`` X-Delete-At."""
        for when, deleted in ((old, True), (new, False)):
            if when is None or old == new:
                continue
            account, container = queue.ACCOUNT, queue.container_of(int(when), site.digest)
            row = queue.row_of(
                int(when), place.account, str(place.container), str(place.object), stamp, deleted=deleted
            )
            self._containers.ensure(account, container)
            lines = spread_updates(
                self._containers.site(account, container), account, container, row, len(updates)
            )
            for mine, more in zip(updates, lines, strict=True):
                mine.extend(more)


def _path(place: Place) -> str:
    return f"/{place.account}/{place.container}/{place.object}"


def _matches(headers: dict[str, str]) -> bool:
    """Whether a change is to happen only if the object is what was seen."""
    return "if-match" in headers or "if-unmodified-since" in headers


def _number(text: str | None) -> int | None:
    """A header's whole number; None for what is none."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _delete_at(headers: dict[str, str], stamp: str) -> str | None:
    """When the object is to expire, as stored. Raises Refusal(400)."""
    after = headers.get("x-delete-after")
    now = float(stamp)
    if after is not None:
        try:
            moment = int(now + int(after))
        except ValueError:
            raise Refusal(400, "Non-integer X-Delete-After") from None
        if moment <= now:
            raise Refusal(400, "X-Delete-After in past")
    else:
        said = headers.get("x-delete-at")
        if said is None:
            return None
        try:
            moment = int(said)
        except ValueError:
            raise Refusal(400, "Non-integer X-Delete-At") from None
        if moment <= now:
            raise Refusal(400, "X-Delete-At in past")
    return f"{min(moment, 9_999_999_999):010d}"
