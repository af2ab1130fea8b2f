"""Multipart uploads: parts that become one large object.

An upload is an object ``key/upload-id`` in the container ``bucket+segments``, which keeps what the final object gets;
its parts are ``key/upload-id/number``. To complete one is to store a static large object's manifest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import Final

from altostack.objectstore.http import Response
from altostack.objectstore.middleware.shape import bare, parameters
from altostack.objectstore.middleware.versioned import VERSION_ID
from altostack.objectstore.s3 import (
    checksums,
    classes,
    copying,
    headers,
    lock,
    notification,
    objects,
    segments,
    tagging,
    uploads,
    xml,
)
from altostack.objectstore.s3.call import SEGMENTS, Call, document, iso
from altostack.objectstore.s3.errors import S3Error, invalid
from altostack.objectstore.s3.versioning import kept_versions

_KIND: Final = "x-object-sysmeta-s3api-content-type"
UPLOAD: Final = "x-object-sysmeta-s3api-upload-id"


# ---- begin


def create(call: Call) -> Response:
    """CreateMultipartUpload."""
    objects.check_encryption(call)
    given = headers.for_put(call.request)
    given |= tagging.for_put(call) | objects.acl_for_put(call) | lock.for_put(call)
    given[_KIND] = given.pop("content-type")
    algorithm = call.header("x-amz-checksum-algorithm")
    shown = {}
    if algorithm:
        name = checksums.algorithm_named(algorithm)
        kind = call.header("x-amz-checksum-type").upper() or (
            "FULL_OBJECT" if name == "crc64nvme" else "COMPOSITE"
        )
        if (
            kind not in ("FULL_OBJECT", "COMPOSITE")
            or (kind == "FULL_OBJECT" and name.startswith("sha"))
            or (kind == "COMPOSITE" and name == "crc64nvme")
        ):
            raise S3Error("InvalidRequest", f"{name} has no checksum of the type {kind}.")
        given |= {uploads.ALGORITHM: name, uploads.SUM_TYPE: kind}
        shown = {"x-amz-checksum-algorithm": name.upper(), "x-amz-checksum-type": kind}
    chosen = call.header("x-amz-storage-class").upper()
    policy = classes.policy_of(call, chosen)
    if policy is not None:
        given[classes.CLASS] = classes.name_of(policy)
    classes.parts_container(call, None)
    classes.parts_container(call, policy)
    upload = uuid.uuid4().hex
    given["content-type"] = uploads.TYPE
    call.must(
        call.swift("PUT", call.name + SEGMENTS, uploads.marker_of(call, upload), headers=given, body=b"")
    )
    body: list[xml.Child] = [("Bucket", call.name), ("Key", call.object), ("UploadId", upload)]
    return document("InitiateMultipartUploadResult", body, shown)


# ---- parts


def _number(call: Call) -> int:
    said = call.query.get("partNumber", "")
    if not (said.isascii() and said.isdecimal()) or not 1 <= int(said) <= call.gate.parts:
        raise invalid(
            "partNumber", said, f"Part number must be an integer between 1 and {call.gate.parts}, inclusive"
        )
    return int(said)


def put_part(call: Call) -> Response:
    """UploadPart."""
    objects.check_encryption(call)
    number, upload = _number(call), uploads.upload_id(call)
    held = uploads.find(call, upload)
    content = call.content()
    if content.length is not None and content.length > objects.MOST:
        raise S3Error("EntityTooLarge", ProposedSize=str(content.length), MaxSizeAllowed=str(objects.MOST))
    wanted = held.headers.get(uploads.ALGORITHM)
    if wanted and not content.counts(wanted):
        said = checksums.wanted(call.request)
        if said is not None:
            raise S3Error("InvalidRequest", f"Expected a checksum of type {wanted}, not {said[0]}.")
        content.count(wanted)

    def footers(metadata: dict[str, str]) -> None:
        for name, value in content.sums.items():
            metadata[checksums.KEPT + name] = value

    response = call.must(
        call.swift(
            "PUT", uploads.home(call, held), uploads.part_name(call, upload, number), body=content, footers=footers,
            headers={"content-type": "application/octet-stream"},
        )
    )  # fmt: skip
    _still_there(call, upload, held, number)
    shown = {checksums.PREFIX + name: value for name, value in content.sums.items()}
    return Response(200, {"etag": f'"{bare(response.headers["etag"])}"', **shown})


def _still_there(call: Call, upload: str, held: Response, number: int) -> None:
    """A part that came when its upload had just been aborted would stay for ever."""
    try:
        uploads.find(call, upload)
    except S3Error:
        call.swift("DELETE", uploads.home(call, held), uploads.part_name(call, upload, number)).close()
        raise


def copy_part(call: Call) -> Response:
    """UploadPartCopy."""
    number, upload = _number(call), uploads.upload_id(call)
    held = uploads.find(call, upload)
    source = copying.source_of(call)
    opened = source.open(call.request.headers.get("x-amz-copy-source-range"))
    wanted = held.headers.get(uploads.ALGORITHM)
    content = opened.content(wanted)

    def footers(metadata: dict[str, str]) -> None:
        for name, value in content.sums.items():
            metadata[checksums.KEPT + name] = value

    try:
        response = call.must(
            call.swift(
                "PUT", uploads.home(call, held), uploads.part_name(call, upload, number), body=content, footers=footers,
                headers={"content-type": "application/octet-stream"},
            )
        )  # fmt: skip
    finally:
        opened.close()
    _still_there(call, upload, held, number)
    return document(
        "CopyPartResult",
        [
            ("LastModified", iso(call.store.clock.now())),
            ("ETag", f'"{bare(response.headers["etag"])}"'),
            *((f"Checksum{name.upper()}", value) for name, value in content.sums.items()),
        ],
        opened.shown,
    )


# ---- the end


def abort(call: Call) -> Response:
    """AbortMultipartUpload."""
    upload = uploads.upload_id(call)
    held = uploads.find(call, upload)
    container = uploads.home(call, held)
    call.must(call.swift("DELETE", call.name + SEGMENTS, uploads.marker_of(call, upload)), 404)
    doomed = [(container, entry["name"]) for _, entry in uploads.parts_of(call, container, upload)]
    segments.remove(call, doomed)
    return Response(204)


def _wanted_parts(call: Call) -> list[tuple[int, str, dict[str, str]]]:
    """(number, ETag, checksums) of the parts that the request puts together. Raises S3Error."""
    root = call.document("CompleteMultipartUpload")
    found: list[tuple[int, str, dict[str, str]]] = []
    for part in root.all("Part"):
        number, etag = part.get("PartNumber"), bare(part.get("ETag"))
        if not (number.isascii() and number.isdecimal()) or len(number) > 9 or not etag:
            raise S3Error("MalformedXML")
        if not 1 <= int(number) <= call.gate.parts:
            raise S3Error("InvalidPart", PartNumber=number)
        if found and int(number) <= found[-1][0]:
            raise S3Error("InvalidPartOrder", UploadId=uploads.upload_id(call))
        sums = {name: part.get(f"Checksum{name.upper()}") for name in checksums.SIZES}
        found.append((int(number), etag, {name: value for name, value in sums.items() if value}))
    if not found:
        raise S3Error("MalformedXML")
    return found


def complete(call: Call) -> Response:
    """CompleteMultipartUpload. Once more after it was done it says the same again."""
    upload = uploads.upload_id(call)
    wanted = _wanted_parts(call)
    etag = _etag(wanted)
    try:
        held = uploads.find(call, upload)
    except S3Error:
        done = call.swift("HEAD", call.name, call.object)
        done.close()
        if done.good and done.headers.get(UPLOAD) == upload and headers.etag_of(done.headers) == etag:
            return _completed(call, etag, done)
        raise
    container = uploads.home(call, held)
    known = dict(uploads.parts_of(call, container, upload))
    entries = _checked(call, wanted, known)
    given = _final_headers(held, upload, etag)
    sums = _sums(call, held, container, upload, wanted, known)
    given |= {checksums.KEPT + name: value for name, value in sums.items()}
    if sums:
        given[checksums.KEPT_TYPE] = held.headers.get(uploads.SUM_TYPE, "COMPOSITE")
    query = {"multipart-manifest": "put"}
    manifest: list[dict[str, object]] = [
        {
            "path": f"/{container}/{one['name']}",
            "etag": parameters(one["hash"])[0],
            "size_bytes": int(one["bytes"]),
        }
        for one in entries
        if int(one["bytes"])
    ]
    size = sum(int(one["bytes"]) for one in entries)
    said = call.header("x-amz-mp-object-size")
    if said and said != str(size):
        raise S3Error("InvalidRequest", "The parts have another size than x-amz-mp-object-size.")
    with objects.Condition(call, given) as condition, objects.replacing(call):
        response = call.swift(
            "PUT", call.name, call.object, query=query if manifest else {}, headers=given,
            body=json.dumps(manifest).encode() if manifest else b"",  # one part without content is a plain object
            footers=lambda metadata: condition.check_last(),
        )  # fmt: skip
        if response.status == 400:
            raise S3Error("InvalidPart", response.read().decode("utf-8", "replace")[:300])
        condition.must(response)
    call.must(call.swift("DELETE", call.name + SEGMENTS, uploads.marker_of(call, upload)), 404)
    numbers = {number for number, _, _ in wanted}
    segments.remove(
        call,
        [
            (container, entry["name"])
            for number, entry in known.items()
            if number not in numbers or not int(entry["bytes"])
        ],
    )
    notification.event(
        call, "s3:ObjectCreated:CompleteMultipartUpload", size=size, etag=etag,
        version=response.headers.get(VERSION_ID, "") if kept_versions(call.info) else "",
    )  # fmt: skip
    return _completed(call, etag, response, sums, given.get(checksums.KEPT_TYPE))


def _etag(wanted: list[tuple[int, str, dict[str, str]]]) -> str:
    """The MD5 of the parts' MD5s and how many they are. Raises S3Error InvalidPart."""
    try:
        together = b"".join(bytes.fromhex(etag) for _, etag, _ in wanted)
    except ValueError:
        raise S3Error("InvalidPart") from None
    return f"{hashlib.md5(together, usedforsecurity=False).hexdigest()}-{len(wanted)}"


def _checked(
    call: Call, wanted: list[tuple[int, str, dict[str, str]]], known: dict[int, dict[str, str]]
) -> list[dict[str, str]]:
    entries = []
    for index, (number, etag, _) in enumerate(wanted):
        entry = known.get(number)
        if entry is None or parameters(entry["hash"])[0] != etag:
            raise S3Error("InvalidPart", UploadId=uploads.upload_id(call), PartNumber=str(number), ETag=etag)
        if int(entry["bytes"]) < call.gate.part_size and index < len(wanted) - 1:
            raise S3Error(
                "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size", ETag=etag,
                PartNumber=str(number), ProposedSize=str(entry["bytes"]), MinSizeAllowed=str(call.gate.part_size),
            )  # fmt: skip
        entries.append(entry)
    return entries


def _final_headers(held: Response, upload: str, etag: str) -> dict[str, str]:
    found = {
        name: value
        for name, value in held.headers.items()
        if headers.is_metadata(name)
        or name.startswith("x-object-transient-sysmeta-")
        or name in headers.STORED
    }
    for name in (headers.REDIRECT, classes.CLASS):
        if name in held.headers:
            found[name] = held.headers[name]
    found["content-type"] = held.headers.get(_KIND, "binary/octet-stream")
    found[UPLOAD] = upload
    return found | headers.list_as(etag, held.headers.get(classes.CLASS, ""))


def _sums(
    call: Call,
    held: Response,
    container: str,
    upload: str,
    wanted: list[tuple[int, str, dict[str, str]]],
    known: dict[int, dict[str, str]],
) -> dict[str, str]:
    """The checksum of the whole, if the upload has one. Raises S3Error for parts' or the whole's that are not so."""
    algorithm = held.headers.get(uploads.ALGORITHM)
    if not algorithm:
        return {}
    parts: list[tuple[bytes, int]] = []
    for number, _, sums in wanted:
        part = call.swift("HEAD", container, uploads.part_name(call, upload, number))
        part.close()
        value = part.headers.get(checksums.KEPT + algorithm, "")
        if not value or (algorithm in sums and sums[algorithm] != value):
            raise S3Error("InvalidPart", PartNumber=str(number))
        parts.append((base64.b64decode(value), int(known[number]["bytes"])))
    if held.headers.get(uploads.SUM_TYPE) == "FULL_OBJECT":
        value = base64.b64encode(checksums.combined(algorithm, parts)).decode()
    else:
        total = checksums.new(algorithm)
        for part_sum, _ in parts:
            total.update(part_sum)
        value = f"{base64.b64encode(total.digest()).decode()}-{len(parts)}"
    said = call.header(checksums.PREFIX + algorithm)
    if said and said != value and said != value.partition("-")[0]:
        raise S3Error("BadDigest", f"The {algorithm} you specified did not match the calculated checksum.")
    return {algorithm: value}


def _completed(
    call: Call, etag: str, response: Response, sums: dict[str, str] | None = None, kind: str | None = None
) -> Response:
    shown = {}
    if kept_versions(call.info):
        shown["x-amz-version-id"] = response.headers.get(VERSION_ID, "null")
    host = call.header("host")
    body: list[xml.Child] = [
        ("Location", f"{call.request.scheme}://{host}/{call.name}/{call.object}"),
        ("Bucket", call.name),
        ("Key", call.object),
        ("ETag", f'"{etag}"'),
        *((f"Checksum{name.upper()}", value) for name, value in (sums or {}).items()),
        ("ChecksumType", kind if sums else None),
    ]
    return document("CompleteMultipartUploadResult", body, shown)
