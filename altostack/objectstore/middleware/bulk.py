"""Many objects by one request: archives that are unpacked, lists of names that are deleted (object storage API, bulk).

``PUT /v1/account[/container[/prefix]]?extract-archive=tar|tar.gz|tar.bz2`` and ``POST /v1/account?bulk-delete``. Each
object is a request of its own with the token that came along, so all is checked as if the client had sent them singly.
The answer's status says nothing: what became of it all stands in its text (`report`).
"""

from __future__ import annotations

import contextvars
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response, ask
from altostack.objectstore.middleware.options import Wrap, number, store_of
from altostack.objectstore.middleware.report import FORMATS, patient, report, status_line, wanted_format
from altostack.objectstore.middleware.untar import Entry, Pump, entries
from altostack.objectstore.store import Store

_CREDENTIALS: Final = ("x-auth-token", "x-storage-token", "authorization", "x-service-token")
_KINDS: Final = {"tar": "", "tar.gz": "gz", "tar.bz2": "bz2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request may ask for."""

    containers: int = 10_000
    failed_extractions: int = 1_000
    deletes: int = 10_000
    failed_deletes: int = 1_000
    concurrency: int = 2
    beat: float = 10.0


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """max_containers_per_extraction, max_failed_extractions, max_deletes_per_request, max_failed_deletes.

    delete_concurrency: deletions at a time. yield_frequency: seconds between signs of life in a long answer.
    """

    def given(name: str, default: int) -> int:
        return number(name, local.get(name, str(default)))

    store = store_of(conf)
    limits = Limits(
        containers=given("max_containers_per_extraction", 10_000),
        failed_extractions=given("max_failed_extractions", 1_000),
        deletes=given("max_deletes_per_request", 10_000),
        failed_deletes=given("max_failed_deletes", 1_000),
        concurrency=min(1_000, max(1, given("delete_concurrency", 2))),
        beat=float(given("yield_frequency", 10)),
    )
    store.facts["bulk_upload"] = {
        "max_containers_per_extraction": limits.containers,
        "max_failed_extractions": limits.failed_extractions,
    }
    store.facts["bulk_delete"] = {
        "max_deletes_per_request": limits.deletes,
        "max_failed_deletes": limits.failed_deletes,
    }
    return lambda app: Bulk(app, store, limits)


class Bulk:
    """Unpacks and deletes."""

    def __init__(self, app: Handler, store: Store, limits: Limits) -> None:
        self._app, self._store, self._limits = app, store, limits

    def __call__(self, request: Request) -> Response:
        asked = request.query_string
        if "extract-archive" in asked and request.method == "PUT":
            kind = request.query.get("extract-archive")
            if kind is not None:
                compression = _KINDS.get(kind.lower().strip("."))
                if compression is None:
                    raise Refusal(400, "Unsupported archive format")
                extraction = _Extraction(self._app, self._store, self._limits, request, compression)
                return self._run(request, extraction, "extract")
        if "bulk-delete" in asked and request.method in ("POST", "DELETE") and "bulk-delete" in request.query:
            return self._run(request, _Deletion(self._app, self._store, self._limits, request), "delete")
        return self._app(request)

    def _run(self, request: Request, job: _Job, root: str) -> Response:
        form = wanted_format(request)
        if form is None:
            job.refuse(Refusal(406))

        def result() -> bytes:
            return report(form or FORMATS[0], job.said, job.errors, root)

        return patient(200, form, job.run(), result, beat=self._limits.beat)


class _Job:
    """What is done step by step. said: what the answer tells; errors: (quoted name, status)."""

    def __init__(self, app: Handler, store: Store, limits: Limits, request: Request) -> None:
        self._app, self._limits, self._request = app, limits, request
        settings = store.settings
        self._longest = settings.max_object_name + settings.max_container_name + 2
        self._largest = settings.max_object_size
        self.said: dict[str, Any] = {"Response Status": "", "Response Body": ""}
        self.errors: list[tuple[str, str]] = []
        self._refused: Refusal | None = None
        self._worst = 400
        self._headers = {
            name: request.headers[name] for name in (*_CREDENTIALS, "user-agent") if name in request.headers
        }

    def refuse(self, refusal: Refusal) -> None:
        """Do nothing, and say why."""
        self._refused = refusal

    def run(self) -> Iterator[None]:
        """Never raises: all that happens stands in ``said``."""
        try:
            if self._refused is not None:
                raise self._refused
            headers = self._request.headers
            if "content-length" not in headers and headers.get("transfer-encoding", "").lower() != "chunked":
                raise Refusal(411)
            place = self._request.place
            if place is None:
                raise Refusal(404)
            yield from self._work(place)
            if self.errors:
                self._end(self._worst)
        except Refusal as refusal:
            self._end(refusal.status, refusal.message)

    def _work(self, place: Place) -> Iterator[None]:
        raise NotImplementedError

    def _end(self, status: int, text: str = "") -> None:
        self.said["Response Status"], self.said["Response Body"] = status_line(status), text

    def _failed(self, name: str, status: int) -> None:
        if status >= 500:
            self._worst = 502
        self.errors.append(
            (quote(name[: self._longest], safe="/~", errors="surrogateescape"), status_line(status))
        )

    def _send(self, method: str, path: str, **more: Any) -> int:
        """The status of one of the requests that this one stands for."""
        sub = self._request.sub(
            method, path, headers=self._headers | more.get("headers", {}), body=more.get("body")
        )
        sub.context, sub.authorize = None, None  # the token is looked at anew
        response = ask(self._app, sub)
        response.close()
        return response.status


class _Deletion(_Job):
    """Objects first, then containers, which have to be empty by then."""

    def __init__(self, app: Handler, store: Store, limits: Limits, request: Request) -> None:
        super().__init__(app, store, limits, request)
        self.said |= {"Number Deleted": 0, "Number Not Found": 0}

    def _work(self, place: Place) -> Iterator[None]:
        kind = self._request.headers.get("content-type", "")
        if kind and not kind.startswith("text/plain"):
            raise Refusal(406)
        names = self._names()
        with ThreadPoolExecutor(self._limits.concurrency) as pool:
            for wanted in (True, False):
                some = [name for name in names if ("/" in name.strip("/")) is wanted]
                yield from self._delete(pool, f"/{place.version}/{place.account}/", some)
        if not self.errors:
            found = self.said["Number Deleted"] or self.said["Number Not Found"]
            self._end(200 if found else 400, "" if found else "Invalid bulk delete.")

    def _delete(self, pool: ThreadPoolExecutor, base: str, names: list[str]) -> Iterator[None]:
        step = self._limits.concurrency * 4
        for at in range(0, len(names), step):
            some = names[at : at + step]
            calls = [
                pool.submit(contextvars.copy_context().run, self._delete_one, base, name) for name in some
            ]
            for name, call in zip(some, calls, strict=True):
                status = call.result()
                if 200 <= status < 300:
                    self.said["Number Deleted"] += 1
                elif status == 404:
                    self.said["Number Not Found"] += 1
                else:
                    self._failed(name, status)
            if len(self.errors) >= self._limits.failed_deletes:
                raise Refusal(400, "Max delete failures exceeded")
            yield

    def _delete_one(self, base: str, name: str) -> int:
        try:
            name.encode()
            return self._send("DELETE", base + name.lstrip("/"), headers={"content-length": "0"})
        except UnicodeEncodeError:
            return 412
        except Refusal as refusal:  # a name that no path may hold
            return refusal.status

    def _names(self) -> list[str]:
        """The names in the body, decoded; what is not UTF-8 keeps its bytes as surrogates. Raises Refusal."""
        names: list[str] = []
        rest = b""
        while part := self._request.body.read(64 << 10):
            *lines, rest = (rest + part).split(b"\n")
            names += filter(None, map(_name, lines))
            if len(names) > self._limits.deletes:
                break
            if len(rest) > self._longest * 3:  # each byte may be quoted
                raise Refusal(400, "Invalid File Name")
        names += filter(None, [_name(rest)])
        if len(names) > self._limits.deletes:
            raise Refusal(413, f"Maximum Bulk Deletes: {self._limits.deletes} per request")
        return names


def _name(line: bytes) -> str:
    return unquote_to_bytes(line.strip()).decode("utf-8", "surrogateescape")


class _Extraction(_Job):
    """Each regular file of the archive becomes an object; containers are made as they are needed."""

    def __init__(
        self, app: Handler, store: Store, limits: Limits, request: Request, compression: str
    ) -> None:
        super().__init__(app, store, limits, request)
        self.said["Number Files Created"] = 0
        self._compression = compression
        self._seen: dict[str, int] = {}  # container -> 0, or the status with which it could not be made
        self._made = 0
        self._given = {
            name: value
            for name, value in request.headers.items()
            if name in ("x-delete-at", "x-delete-after") or name.startswith("x-object-meta-")
        }

    def _work(self, place: Place) -> Iterator[None]:
        base = "/".join(part for part in (place.container, place.object) if part).rstrip("/")
        created = 0
        try:
            for entry in entries(Pump(self._request.body), self._compression):
                name = entry.name.removeprefix("./").lstrip("/")
                name = f"{base}/{name}" if base else name
                if "/" in name:  # else it would be a container
                    created += self._put(place, name, entry)
                    self.said["Number Files Created"] = created
                    if len(self.errors) >= self._limits.failed_extractions:
                        return
                yield
        except ConnectionError:  # the client's
            raise
        except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
            raise Refusal(400, f"Invalid Tar File: {error}") from None
        self._end(201)
        if not created and not self.errors:
            self._end(400, "Invalid Tar File: No Valid Files")

    def _put(self, place: Place, name: str, entry: Entry) -> int:
        """How many objects it has become. Raises Refusal for what ends the whole extraction."""
        try:
            name.encode()
        except UnicodeEncodeError:
            self._failed(name, 412)
            return 0
        if "\0" in name:
            self._failed(name, 412)
            return 0
        if entry.broken:
            self._failed(name, 400)
            return 0
        if entry.size > self._largest:
            self._failed(name, 413)
            return 0
        root = f"/{place.version}/{place.account}"
        container = name.partition("/")[0]
        trouble = self._seen.get(container)
        if trouble is None:
            trouble = self._seen[container] = self._container(f"{root}/{container}")
        headers = self._given | entry.headers | {"content-length": str(entry.size)}
        status = self._send("PUT", f"{root}/{name}", headers=headers, body=entry)
        if 200 <= status < 300:
            return 1
        if trouble:  # without it the object may still have had a place, by an ACL
            self._failed(f"{root}/{container}", trouble)
        self._failed(name, status)
        if status == 401:
            raise Refusal(401)
        return 0

    def _container(self, path: str) -> int:
        """Make it if it is not there: 0, or the status that says why not. Raises Refusal."""
        status = self._send("HEAD", path)
        if 200 <= status < 300:
            return 0
        if status == 404:
            if self._made >= self._limits.containers:
                raise Refusal(400, f"More than {self._limits.containers} containers to create from tar.")
            status = self._send("PUT", path, headers={"content-length": "0"})
            if 200 <= status < 300:
                self._made += 1
                return 0
        if status == 401:
            raise Refusal(401)
        return status
