"""Objects: to store, to read, to delete."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from altostack.objectstore.http import Response
from altostack.objectstore.middleware.shape import IS_SLO, true
from altostack.objectstore.middleware.versioned import CHANGE_VERSION, MARKER_TYPE, VERSION_ID
from altostack.objectstore.s3 import (
    acl,
    checksums,
    classes,
    configuration,
    headers,
    lock,
    notification,
    segments,
    tagging,
)
from altostack.objectstore.s3.body import Content
from altostack.objectstore.s3.call import Call
from altostack.objectstore.s3.errors import S3Error, invalid
from altostack.objectstore.s3.serial import alone
from altostack.objectstore.s3.versioning import enabled, kept_versions

MOST: Final = 5 << 30  # bytes of an object that is stored by one request
_KEPT_BY_POST: Final = (*headers.STORED, "x-delete-at", "x-robots-tag")
_ENCRYPTION: Final = ("x-amz-server-side-encryption", "x-amz-copy-source-server-side-encryption")


def version_query(call: Call) -> dict[str, str]:
    """The part of a Swift query that names the version. Raises S3Error NoSuchVersion."""
    if call.version is None:
        return {}
    if not kept_versions(call.info):
        if call.version != "null":
            raise S3Error("NoSuchVersion", Key=call.object, VersionId=call.version)
        return {}
    return {"version-id": call.version}


def check_encryption(call: Call) -> dict[str, str]:
    """The headers that confirm a wish for encryption at rest. Raises S3Error NotImplemented for what is not so.

    The operator has everything encrypted or nothing; nobody brings keys.
    """
    shown: dict[str, str] = {}
    for name, value in call.request.headers.items():
        if not name.startswith(_ENCRYPTION):
            continue
        if name != _ENCRYPTION[0] or value != "AES256" or not configuration.encrypts(call):
            raise S3Error("NotImplemented", f"Nothing here implements {name}: {value[:32]}")
        shown[name] = value
    return shown


# ---- reading


def head(call: Call) -> Response:
    """Swift's answer about the object, or its version. Raises S3Error."""
    response = call.swift("HEAD", call.name, call.object, query=version_query(call))
    response.close()
    if not response.good:
        raise absent(call, response)
    return response


def absent(call: Call, response: Response) -> S3Error:
    """What a read of an object that is not there says."""
    marker = response.headers.get("x-backend-content-type") == MARKER_TYPE
    if response.status in (400, 404) and call.version is not None:
        if marker:
            shown = {"x-amz-delete-marker": "true", "x-amz-version-id": call.version}
            return S3Error(
                "MethodNotAllowed", headers=shown | {"allow": "DELETE"}, Method=call.request.method
            )
        if response.status == 400:
            return invalid("versionId", call.version, "Invalid version id specified")
        return S3Error("NoSuchVersion", Key=call.object, VersionId=call.version)
    if response.status == 404:
        found = S3Error("NoSuchKey", Key=call.object)
        if kept_versions(call.info) and (version := _marker(call)):
            found.headers |= {"x-amz-delete-marker": "true", "x-amz-version-id": version}
        return found
    return call.trouble(response)


def _marker(call: Call) -> str:
    """The delete marker that is the object's newest version, "" if it has none."""
    query = {"versions": "true", "prefix": call.object, "limit": "1", "format": "json"}
    response = call.swift("GET", call.name, query=query)
    for entry in response.entries or []:
        if entry.get("name") == call.object and entry.get("content_type") == MARKER_TYPE:
            return str(entry["version_id"])
    return ""


def tell_version(call: Call, held: Response) -> None:
    """Say in the answer which version it is about."""
    if kept_versions(call.info):
        call.headers_out["x-amz-version-id"] = held.headers.get(VERSION_ID, "null")


def get(call: Call) -> Response:
    """GetObject and HeadObject."""
    request = call.request
    sent: dict[str, str] = {}
    query = version_query(call)
    part = call.query.get("partNumber")
    if part is not None:
        if not (part.isascii() and part.isdecimal()) or not 1 <= int(part or 0) <= call.gate.parts:
            raise invalid("partNumber", part, f"It must be between 1 and {call.gate.parts}.")
        if "range" in request.headers:
            raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
        query["part-number"] = part
    said = request.headers.get("range")
    if said is not None and "," not in said:  # S3 answers several ranges with the whole
        sent["range"] = said
    if "if-range" in request.headers:
        sent["if-range"] = request.headers["if-range"]
    changes: dict[str, str] = {}
    headers.override(request, changes, signed=call.signed is not None)
    response = call.swift(request.method, call.name, call.object, query=query, headers=sent)
    if response.status == 416:
        response.close()
        size = response.headers.get("content-range", "").rpartition("/")[2]
        if part is not None:
            raise S3Error("InvalidPartNumber", PartNumberRequested=part)
        raise S3Error("InvalidRange", RangeRequested=said or "", ActualObjectSize=size)
    if not response.good:
        error = absent(call, response)
        response.close()
        raise error
    found = response.headers
    etag = headers.etag_of(found)
    failed = headers.conditions(request.headers, etag, found.get("last-modified", ""))
    if failed is not None:
        response.close()
        if failed == 304:
            kept = {name: found[name] for name in ("last-modified", *headers.STORED) if name in found}
            raise S3Error("NotModified", headers=kept | {"etag": f'"{etag}"'})
        raise S3Error("PreconditionFailed", Condition=_condition(request.headers))
    whole = response.status == 200 and call.header("x-amz-checksum-mode").upper() == "ENABLED"
    shown = headers.shown(found, sums=whole)
    if part is not None:
        _one_part(call, response, shown, int(part))
    if kept_versions(call.info):
        shown["x-amz-version-id"] = found.get(VERSION_ID, "null")
    shown |= lock.shown(found) | classes.shown(call, found) | changes
    return Response(response.status, shown, response.body)


def _condition(given: Mapping[str, str]) -> str:
    return "If-Match" if "if-match" in given else "If-Unmodified-Since"


def _one_part(call: Call, response: Response, shown: dict[str, str], part: int) -> None:
    count = response.headers.get("x-parts-count")
    if count is not None:
        shown["x-amz-mp-parts-count"] = count
    elif part != 1:
        response.close()
        raise S3Error("InvalidPartNumber", PartNumberRequested=str(part))
    else:
        size = int(shown.get("content-length", "0"))
        response.status = 206 if size else 200
        if size:
            shown["content-range"] = f"bytes 0-{size - 1}/{size}"


# ---- storing


def put(call: Call) -> Response:
    """PutObject."""
    confirmed = check_encryption(call)
    content = call.content()
    if content.length is not None and content.length > MOST:
        raise S3Error("EntityTooLarge", ProposedSize=str(content.length), MaxSizeAllowed=str(MOST))
    given = headers.for_put(call.request)
    given |= tagging.for_put(call) | acl_for_put(call) | lock.for_put(call)
    response = store(call, given, content)
    shown = {"etag": f'"{headers.etag_of(response.headers)}"', **sums_shown(content), **confirmed}
    if kept_versions(call.info):
        shown["x-amz-version-id"] = response.headers.get(VERSION_ID, "null")
    notification.event(
        call, "s3:ObjectCreated:Put", size=content.length or 0, etag=headers.etag_of(response.headers),
        version=shown.get("x-amz-version-id", ""),
    )  # fmt: skip
    return Response(200, shown)


def acl_for_put(call: Call) -> dict[str, str]:
    """The header that keeps the ACL that a request wants for its object. Raises S3Error."""
    wish = acl.wanted(call)
    if wish is None:
        return {}
    acl.check_allowed(call, call.info, wish)
    acl.share(call, wish)
    return acl.kept(wish)


def sums_shown(content: Content) -> dict[str, str]:
    """The x-amz-checksum headers of what was just read."""
    found = {checksums.PREFIX + name: value for name, value in content.sums.items()}
    return found | ({"x-amz-checksum-type": "FULL_OBJECT"} if found else {})


def store(call: Call, given: dict[str, str], content: Content) -> Response:
    """Store a whole object under the call's conditions. Raises S3Error."""

    with Condition(call, given) as condition, replacing(call):

        def footers(metadata: dict[str, str]) -> None:
            condition.check_last()
            for name, value in content.sums.items():
                metadata[checksums.KEPT + name] = value

        container, links = classes.target(call, given)
        if links is not None:
            response = links.put(given, content, footers)
        else:
            response = call.swift("PUT", container, call.object, headers=given, body=content, footers=footers)
        return condition.must(response)


class Condition:
    """Around a write under If-None-Match: * or If-Match.

    Looked at before the body is read, and once more when all of it is here: from then on nobody else on this machine
    writes under a condition. Raises S3Error for other conditions.
    """

    def __init__(self, call: Call, given: dict[str, str]) -> None:
        self._call, self._given = call, given
        self._other, self._match = call.header("if-none-match").strip(), call.header("if-match").strip()
        self._alone = contextlib.ExitStack()
        self._last = False
        self._failed: S3Error | None = None
        if self._other and (self._other != "*" or self._match):
            raise S3Error("NotImplemented", "Writes take If-None-Match: * or If-Match, and not both.")

    def __enter__(self) -> Condition:
        if self._other or self._match:
            self._check()
            if self._other and not kept_versions(self._call.info):
                self._given["if-none-match"] = "*"
        return self

    def __exit__(self, *trouble: object) -> None:
        self._alone.close()

    def check_last(self) -> None:
        """All is read and nothing is visible yet. Raises S3Error."""
        if self._last or not (self._other or self._match):
            return
        self._last = True
        call = self._call
        self._alone.enter_context(alone(call.store.folder, f"{call.account}/{call.name}/{call.object}"))
        try:
            self._check()
        except S3Error as error:
            self._failed = error
            raise

    def _check(self) -> None:
        call = self._call
        held = call.swift("HEAD", call.name, call.object)
        held.close()
        if not held.good and held.status != 404:
            raise call.trouble(held)
        if self._other:
            if held.good:
                raise S3Error("PreconditionFailed", Condition="If-None-Match")
        elif not held.good:
            raise S3Error("NoSuchKey", Key=call.object)
        elif self._match != "*" and self._match.strip('"') != headers.etag_of(held.headers):
            raise S3Error("PreconditionFailed", Condition="If-Match")

    def must(self, response: Response) -> Response:
        """The response, if it is good. Raises S3Error."""
        if self._failed is not None:
            response.close()
            raise self._failed
        return self._call.must(response)


@contextlib.contextmanager
def replacing(call: Call) -> Iterator[None]:
    """Around what replaces an object: parts that only the earlier one had go afterwards."""
    doomed: list[tuple[str, str]] = []
    if not enabled(call.info) and segments.possible(call):
        doomed = segments.of(call)
    yield
    segments.remove(call, doomed)


# ---- changing


def change(
    call: Call, changes: Mapping[str, str | None], check: Callable[[Response], None] | None = None
) -> Response:
    """Change what can be changed of an object without its data: system metadata by name, None removes.

    ``check`` may raise S3Error once it sees the object as it is. Returns Swift's answer about it as it was.
    """
    with alone(call.store.folder, f"{call.account}/{call.name}/{call.object}"):
        held = head(call)
        if check is not None:
            check(held)
        sent = {
            name: value
            for name, value in held.headers.items()
            if name.startswith(("x-object-meta-", "x-object-transient-sysmeta-")) or name in _KEPT_BY_POST
        }
        for name, value in changes.items():
            if value is None:
                sent.pop(name, None)
            else:
                sent[name] = value
        query = version_query(call)
        response = call.swift(
            "POST", call.name, call.object, query=query, headers=sent, facts={CHANGE_VERSION: True}
        )
        if response.status == 307:
            response = classes.follow(call, response, sent)
        call.must(response)
        tell_version(call, held)
        return held


# ---- deleting


def delete(call: Call) -> Response:
    """DeleteObject."""
    shown = delete_one(call)
    return Response(204, shown)


def delete_one(call: Call) -> dict[str, str]:
    """Delete the object or its version; headers that tell what happened. Raises S3Error."""
    query = version_query(call)
    match = call.header("if-match") if call.request.method == "DELETE" else ""
    if match and match.strip() != "*":
        held = call.swift("HEAD", call.name, call.object, query=query)
        held.close()
        if held.good and match.strip().strip('"') != headers.etag_of(held.headers):
            raise S3Error("PreconditionFailed", Condition="If-Match")
    lock.check_delete(call)
    final = bool(query) or not enabled(call.info)  # nothing is kept of what is deleted
    doomed = segments.of(call) if final and segments.possible(call) else []
    marker = query and _is_marker(call)
    response = call.swift("DELETE", call.name, call.object, query=query)
    response.close()
    if response.status == 400 and query:
        raise invalid("versionId", call.version or "", "Invalid version id specified")
    if not response.good and response.status != 404:
        raise call.trouble(response)
    segments.remove(call, doomed)
    shown: dict[str, str] = {}
    if query:
        shown["x-amz-version-id"] = call.version or ""
        if marker:
            shown["x-amz-delete-marker"] = "true"
    elif enabled(call.info) and VERSION_ID in response.headers:
        shown |= {"x-amz-version-id": response.headers[VERSION_ID], "x-amz-delete-marker": "true"}
    if response.good or shown:
        made = "x-amz-delete-marker" in shown and not query
        notification.event(
            call, "s3:ObjectRemoved:DeleteMarkerCreated" if made else "s3:ObjectRemoved:Delete",
            version=shown.get("x-amz-version-id", ""),
        )  # fmt: skip
    return shown


def _is_marker(call: Call) -> bool:
    held = call.swift("HEAD", call.name, call.object, query=version_query(call))
    held.close()
    return held.headers.get("x-backend-content-type") == MARKER_TYPE


def is_large(found: Mapping[str, str]) -> bool:
    """Whether an object consists of others."""
    return true(found.get(IS_SLO))
