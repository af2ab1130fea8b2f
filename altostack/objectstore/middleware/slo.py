"""Static large objects: an object that consists of other objects, listed in a manifest (object storage API).

The manifest is an object of its own that holds JSON; ``X-Static-Large-Object`` tells it from others. Its system
metadata knows the whole's ETag and size, so that HEAD, conditions and listings never read it. The listed ETag carries
both too: ``slo_etag`` and ``slo_size``.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlencode

from altostack.objectstore.http import Content, Handler, Refusal, Request, Response, Unsaid, ask
from altostack.objectstore.middleware import manifest
from altostack.objectstore.middleware.joined import open_pieces
from altostack.objectstore.middleware.options import Wrap, number, store_of
from altostack.objectstore.middleware.report import patient, report, status_line, wanted_format
from altostack.objectstore.middleware.shape import (
    ETAG_IS_AT,
    IS_SLO,
    LISTED_ETAG,
    SLO_ETAG,
    SLO_SIZE,
    WHOLE_IF,
    Cut,
    again,
    also,
    bare,
    drained,
    parameters,
    require,
    sliced,
    true,
    unconditional,
    with_parameters,
)
from altostack.objectstore.store import Store

HOOK: Final = "slo_manifest_hook"  # fact: (kept segments) -> problems, asked before a manifest is stored


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """max_manifest_segments (1000), max_manifest_size in bytes (8 MiB), yield_frequency in seconds (10): how long a
    client waits without a sign; concurrency (4): segments of a manifest that are looked at at a time."""
    store = store_of(conf)
    segments = number("max_manifest_segments", local.get("max_manifest_segments", "1000"))
    size = number("max_manifest_size", local.get("max_manifest_size", str(8 << 20)))
    beat = number("yield_frequency", local.get("yield_frequency", "10"))
    concurrency = number("concurrency", local.get("concurrency", "4"))
    store.facts["slo"] = {
        "max_manifest_segments": segments,
        "max_manifest_size": size,
        "yield_frequency": beat,
        "min_segment_size": 1,
        "allow_async_delete": False,
    }
    return lambda app: StaticLargeObjects(
        app, store, max_segments=segments, max_size=size, beat=beat, concurrency=concurrency
    )


class StaticLargeObjects:
    """The filter."""

    def __init__(
        self,
        app: Handler,
        store: Store,
        *,
        max_segments: int = 1000,
        max_size: int = 8 << 20,
        beat: float = 10.0,
        concurrency: int = 4,
    ) -> None:
        self._app, self._store = app, store
        self._max_segments, self._max_size, self._beat = max_segments, max_size, beat
        self._concurrency = max(1, concurrency)

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None or place.container is None:
            return self._app(request)
        method = request.method
        if place.object is None:
            return self._list(request) if method == "GET" else self._app(request)
        if method in ("GET", "HEAD"):
            return self._read(request)
        asked = request.query.get("multipart-manifest") if request.query_string else None
        if method == "PUT" and asked == "put":
            return self._put(request)
        if method == "DELETE" and asked == "delete":
            return self._delete(request)
        if method in ("PUT", "POST") and IS_SLO in request.headers and not request.facts.get("synced"):
            raise Refusal(
                400,
                "X-Static-Large-Object is a reserved header. To create a static large object add query param "
                "multipart-manifest=put.",
            )
        return self._app(request)

    # ---- listings

    def _list(self, request: Request) -> Response:
        response = self._app(request)
        for entry in response.entries or ():
            listed = entry.get("hash")
            if listed and ";" in listed:
                etag, found = parameters(listed)
                if (large := found.pop("slo_etag", None)) is not None:
                    entry["slo_etag"] = f'"{large}"'
                    size = found.pop("slo_size", "")
                    if size.isdecimal() and "symlink_path" not in entry:
                        entry["bytes"] = int(size)
                    entry["hash"] = with_parameters(etag, found)
        return response

    # ---- GET and HEAD

    def _read(self, request: Request) -> Response:
        headers = request.headers
        if request.query_string and request.query.get("multipart-manifest") == "get":
            response = self._app(request)
            return self._manifest(request, response) if true(response.headers.get(IS_SLO)) else response
        headers[ETAG_IS_AT] = also(headers.get(ETAG_IS_AT), SLO_ETAG)
        headers[WHOLE_IF] = also(headers.get(WHOLE_IF), IS_SLO)
        response = self._app(request)
        if IS_SLO not in response.headers or not true(response.headers[IS_SLO]):
            return response
        return self._large(request, response)

    def _manifest(self, request: Request, response: Response) -> Response:
        if not response.good:
            return response
        if request.query.get("format") == "raw":
            if request.method == "HEAD":
                response = self._app(again(request, method="GET", headers=unconditional(request.headers)))
            text = manifest.as_sent(manifest.load(response.read()))
            etag = hashlib.md5(text, usedforsecurity=False).hexdigest()
            response.headers |= {"content-length": str(len(text)), "etag": etag}
            response.body = b"" if request.method == "HEAD" else text
        else:
            response.headers["content-type"] = "application/json; charset=utf-8"
        return response

    def _large(self, request: Request, response: Response) -> Response:
        headers = response.headers
        etag, size = headers.get(SLO_ETAG, ""), int(headers.get(SLO_SIZE, "0"))
        headers["x-manifest-etag"] = bare(headers.get("etag", ""))
        headers["etag"] = f'"{etag}"'
        part = self._part_number(request, response)
        if response.status in (304, 412):
            return response
        if request.method == "HEAD" and part is None and response.good:
            response.close()
            headers["content-length"] = str(size)
            headers.pop("content-range", None)
            return Response(200, headers)
        if request.method == "HEAD" or response.status in (206, 416):
            response.close()
            response = self._app(again(request, method="GET", headers=unconditional(request.headers)))
            if response.headers.get(SLO_ETAG) != etag:
                response.close()
                raise Refusal(503)  # it is being replaced at this moment
        if not response.good:
            return response
        segments = manifest.load(response.read())
        if part is not None:
            answer = self._part(request, headers, segments, size, part)
            if answer is not None:
                return answer
            first = sum(manifest.length(one) for one in segments[: part - 1])
            last = first + manifest.length(segments[part - 1]) - 1
            request.headers["range"] = f"bytes={first}-{last}"
        open_range = self._opener(request, segments)
        return sliced(request, headers, size, open_range, etag=etag)

    def _part_number(self, request: Request, response: Response) -> int | None:
        said = request.query.get("part-number") if request.query_string else None
        if said is None:
            return None
        if not (said.isascii() and said.isdecimal() and len(said) < 10) or not 1 <= int(said) <= 10000:
            response.close()
            raise Refusal(400, "Part number must be an integer greater than 0")
        if "range" in request.headers:
            response.close()
            raise Refusal(400, "Range requests are not supported with part number queries")
        return int(said)

    def _part(
        self, request: Request, headers: dict[str, str], segments: list[manifest.Kept], size: int, part: int
    ) -> Response | None:
        """The answer about one segment, None when its bytes are to be sent."""
        headers["x-parts-count"] = str(len(segments))
        if part > len(segments):
            headers["content-range"] = f"bytes */{size}"
            text = b"" if request.method == "HEAD" else b"The requested part number is not satisfiable"
            headers["content-length"] = str(len(text))
            return Response(416, headers, text)
        if request.method != "HEAD":
            return None
        first = sum(manifest.length(one) for one in segments[: part - 1])
        count = manifest.length(segments[part - 1])
        headers["content-length"] = str(count)
        headers["content-range"] = f"bytes {first}-{first + count - 1}/{size}"
        return Response(206, headers)

    def _opener(self, request: Request, segments: list[manifest.Kept]) -> Callable[[int, int], Content]:
        place = request.place
        assert place is not None

        def fetch(path: str, etag: str) -> list[manifest.Kept]:
            sub = request.sub("GET", path, query_string="multipart-manifest=get", keep_authority=True)
            response = ask(self._app, sub)
            if not response.good or response.headers.get(SLO_ETAG) != etag:
                response.close()
                raise Cut(f"{request.path}: the large object {path} in it is not what it was")
            return manifest.load(response.read())

        tree = manifest.Tree(f"/{place.version}/{place.account}", fetch)
        return lambda first, last: open_pieces(
            self._app, request, tree.pieces(segments, first, last), request.path
        )

    # ---- PUT

    def _put(self, request: Request) -> Response:
        wishes = self._wishes(request)
        place = request.place
        assert place is not None and place.container is not None
        require(self._store, request, place.account, place.container, write=True)
        form = wanted_format(request) or "text/plain"
        heads: dict[str, Response] = {}
        work = self._look(request, list(dict.fromkeys(one.path for one in wishes if one.data is None)), heads)
        if not true(request.query.get("heartbeat")):
            for _ in work:
                pass
            return self._store_manifest(request, wishes, heads, form)

        def result() -> bytes:
            response = ask(lambda asked: self._store_manifest(asked, wishes, heads, None), request)
            said: dict[str, object] = {"Response Status": status_line(response.status)}
            problems = request.facts.pop("slo_problems", [])
            if response.good:
                said["Etag"] = response.headers["etag"]
                said["Last Modified"] = response.headers.get("last-modified", "")
                said["Response Body"] = response.read().decode()
            else:
                said["Response Body"] = response.read().decode("utf-8", "replace")
            return report(form, said, problems, "upload")

        return patient(202, form, work, result, beat=self._beat)

    def _wishes(self, request: Request) -> list[manifest.Wish]:
        if request.headers.get("x-copy-from"):
            raise Refusal(405, "Multipart Manifest PUTs cannot be COPY requests")
        too_large = f"Manifest File > {self._max_size} bytes"
        if isinstance(request.body, Unsaid):
            raise Refusal(411, "Missing Content-Length header.")
        if request.body.length is not None and request.body.length > self._max_size:
            raise Refusal(413, too_large)
        text = request.body.read(self._max_size + 1)
        if len(text) > self._max_size:
            raise Refusal(413, too_large)
        wishes = manifest.parse(text, request)
        if sum(one.data is None for one in wishes) > self._max_segments:
            raise Refusal(413, f"Number of object-backed segments must be <= {self._max_segments}")
        return wishes

    def _look(self, request: Request, paths: list[str], heads: dict[str, Response]) -> Iterator[None]:
        """HEAD every segment."""
        place = request.place
        assert place is not None
        root = f"/{place.version}/{place.account}/"

        def head(path: str) -> Response:
            return drained(ask(self, request.sub("HEAD", root + path, keep_authority=True)))

        if len(paths) <= self._concurrency or self._concurrency == 1 or self._near():
            for path in paths:
                heads[path] = head(path)
                yield
            return
        with ThreadPoolExecutor(self._concurrency) as pool:
            for path, response in zip(paths, pool.map(head, paths), strict=True):
                heads[path] = response
                yield

    def _near(self) -> bool:
        """Whether all objects lie on this machine: then there is no wait that threads could share."""
        devices = self._store.rings.container.devices
        return all(self._store.is_local(one.host, one.port) for one in devices)

    def _store_manifest(
        self, request: Request, wishes: list[manifest.Wish], heads: dict[str, Response], form: str | None
    ) -> Response:
        segments: list[manifest.Kept] = []
        problems: list[tuple[str, str]] = []
        for index, wish in enumerate(wishes):
            if wish.data is not None:
                segments.append(manifest.inline(wish.data))
                continue
            kept, wrong = manifest.checked(wish, heads[wish.path], last=index == len(wishes) - 1)
            problems += [(manifest.shown(f"/{wish.path}"), one) for one in wrong]
            if kept is not None:
                segments.append(kept)
        hook = request.facts.get(HOOK)
        if hook is not None and not problems:
            problems += hook(segments) or []
        if problems:
            if form is None:
                request.facts["slo_problems"] = problems
                raise Refusal(400)
            return Response(
                400, {"content-type": f"{form}; charset=utf-8"}, report(form, {}, problems, "upload")
            )
        etag = manifest.etag_of(segments)
        wanted = bare(request.headers.get("etag", ""))
        if wanted and wanted != etag:
            raise Refusal(422)
        text = manifest.dump(segments)
        own = hashlib.md5(text, usedforsecurity=False).hexdigest()
        size = sum(manifest.length(one) for one in segments)
        listed, found = parameters(request.headers.get(LISTED_ETAG, ""))
        headers = request.headers | {
            SLO_ETAG: etag,
            SLO_SIZE: str(size),
            IS_SLO: "True",
            "etag": own,
            "content-length": str(len(text)),
            LISTED_ETAG: with_parameters(listed or own, found | {"slo_etag": etag, "slo_size": str(size)}),
        }
        headers.pop("transfer-encoding", None)
        response = self._app(again(request, headers=headers, body=text))
        if response.good:
            response.headers["etag"] = f'"{etag}"'
        return response

    # ---- DELETE

    def _delete(self, request: Request) -> Response:
        form = wanted_format(request)
        said: dict[str, object] = {
            "Response Status": status_line(200), "Response Body": "", "Number Deleted": 0, "Number Not Found": 0,
        }  # fmt: skip
        errors: list[tuple[str, str]] = []
        counts = {"Number Deleted": 0, "Number Not Found": 0}

        def work() -> Iterator[None]:
            try:
                if form is None:
                    raise Refusal(406)
                for name, trouble, version in self._doomed(request):
                    status = trouble or self._delete_one(request, name, version)
                    if status == 404:
                        counts["Number Not Found"] += 1
                    elif 200 <= status < 300:
                        counts["Number Deleted"] += 1
                    else:
                        errors.append((manifest.shown(name), status_line(status)))
                    yield
            except Refusal as refusal:
                said["Response Status"], said["Response Body"] = status_line(refusal.status), refusal.message

        def result() -> bytes:
            said.update(counts)
            if errors:
                all_denied = all(status.startswith("401") for _, status in errors)
                said["Response Status"] = status_line(401 if all_denied else 400)
            elif not any(counts.values()) and said["Response Status"] == status_line(200):
                said["Response Status"], said["Response Body"] = status_line(400), "Invalid bulk delete."
            return report(form, said, errors, "delete")

        return patient(200, form, work(), result, beat=self._beat)

    def _delete_one(self, request: Request, name: str, version: str) -> int:
        place = request.place
        assert place is not None
        path = f"/{place.version}/{place.account}{name}"
        query = urlencode({"version-id": version}) if version else ""
        return drained(
            ask(self._app, request.sub("DELETE", path, query_string=query, keep_authority=True))
        ).status

    def _doomed(self, request: Request) -> Iterator[tuple[str, int, str]]:
        """(name, status of what went wrong or 0, version) of all that goes: segments before what consists of them."""
        place = request.place
        assert place is not None
        version = request.query.get("version-id", "")
        queue = deque([(f"/{place.container}/{place.object}", True, 0, version)])
        while queue:
            if len(queue) > 10 * self._max_segments:
                raise Refusal(400, "Too many buffered slo segments to delete.")
            name, large, trouble, version = queue.popleft()
            if not large:
                yield name, trouble, version
                continue
            inner = self._segments(request, name, version)
            if isinstance(inner, int):
                queue.append((name, False, inner, version))
                continue
            queue.extend(
                (manifest.quote_free(one["name"]), bool(one.get("sub_slo")), 0, "")
                for one in inner
                if "data" not in one
            )
            queue.append((name, False, 0, version))

    def _segments(self, request: Request, name: str, version: str) -> list[manifest.Kept] | int:
        """A large object's segments, or the status of what went wrong."""
        place = request.place
        assert place is not None
        query = {"multipart-manifest": "get"} | ({"version-id": version} if version else {})
        path = f"/{place.version}/{place.account}{name}"
        sub = request.sub("GET", path, query_string=urlencode(query), keep_authority=True)
        response = ask(self._app, sub)
        if not response.good:
            response.close()
            return response.status
        if not true(response.headers.get(IS_SLO)):
            response.close()
            return 400
        return manifest.load(response.read())
