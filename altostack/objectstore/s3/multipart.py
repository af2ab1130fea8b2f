"""Multipart uploads: parts that become one large object.

An upload is an object ``key/upload-id`` in the container ``bucket+segments``, which keeps what the final object gets;
its parts are ``key/upload-id/number``. To complete one is to store a static large object's manifest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator
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
    xml,
)
from altostack.objectstore.s3.call import SEGMENTS, Call, document, iso
from altostack.objectstore.s3.errors import S3Error, invalid
from altostack.objectstore.s3.listing import encoded, encoding
from altostack.objectstore.s3.versioning import kept_versions

_KIND: Final = "x-object-sysmeta-s3api-content-type"
_WISHES: Final = "x-object-sysmeta-s3api-"  # checksum algorithm and type of an upload
_ALGORITHM: Final = _WISHES + "algorithm"
_TYPE: Final = _WISHES + "checksum-kind"
UPLOAD: Final = "x-object-sysmeta-s3api-upload-id"
_PAGE: Final = 1000


def _marker(call: Call, upload: str) -> str:
    return f"{call.object}/{upload}"


def _part_name(call: Call, upload: str, number: int) -> str:
    return f"{call.object}/{upload}/{number:05d}"


def _held(call: Call, upload: str) -> Response:
    """The upload, in the call's own bucket and of its own key. Raises S3Error NoSuchUpload."""
    if not upload or "/" in upload or len(upload) > 64 or not upload.isascii():
        raise S3Error("NoSuchUpload", UploadId=upload)
    response = call.swift("HEAD", call.name + SEGMENTS, _marker(call, upload))
    response.close()
    if not response.good:
        if response.status == 404:
            raise S3Error("NoSuchUpload", UploadId=upload)
        raise call.trouble(response)
    return response


def _home(call: Call, held: Response) -> str:
    """The container of the upload's parts."""
    return classes.parts_container(call, classes.policy_of(call, held.headers.get(classes.CLASS, "")))


def _upload_id(call: Call) -> str:
    return call.query.get("uploadId", "")


# ---- begin


def create(call: Call) -> Response:
    """CreateMultipartUpload."""
    objects.refuse_encryption(call)
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
        given |= {_ALGORITHM: name, _TYPE: kind}
        shown = {"x-amz-checksum-algorithm": name.upper(), "x-amz-checksum-type": kind}
    chosen = call.header("x-amz-storage-class").upper()
    policy = classes.policy_of(call, chosen)
    if policy is not None:
        given[classes.CLASS] = classes.name_of(policy)
    classes.parts_container(call, None)
    classes.parts_container(call, policy)
    upload = uuid.uuid4().hex
    given["content-type"] = "application/x-multipart-upload"
    call.must(call.swift("PUT", call.name + SEGMENTS, _marker(call, upload), headers=given, body=b""))
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
    objects.refuse_encryption(call)
    number, upload = _number(call), _upload_id(call)
    held = _held(call, upload)
    content = call.content()
    if content.length is not None and content.length > objects.MOST:
        raise S3Error("EntityTooLarge", ProposedSize=str(content.length), MaxSizeAllowed=str(objects.MOST))
    wanted = held.headers.get(_ALGORITHM)
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
            "PUT", _home(call, held), _part_name(call, upload, number), body=content, footers=footers,
            headers={"content-type": "application/octet-stream"},
        )
    )  # fmt: skip
    _still_there(call, upload, held, number)
    shown = {checksums.PREFIX + name: value for name, value in content.sums.items()}
    return Response(200, {"etag": f'"{bare(response.headers["etag"])}"', **shown})


def _still_there(call: Call, upload: str, held: Response, number: int) -> None:
    """A part that came when its upload had just been aborted would stay for ever."""
    try:
        _held(call, upload)
    except S3Error:
        call.swift("DELETE", _home(call, held), _part_name(call, upload, number)).close()
        raise


def copy_part(call: Call) -> Response:
    """UploadPartCopy."""
    number, upload = _number(call), _upload_id(call)
    held = _held(call, upload)
    source = copying.source_of(call)
    opened = source.open(call.request.headers.get("x-amz-copy-source-range"))
    wanted = held.headers.get(_ALGORITHM)
    content = opened.content(wanted)

    def footers(metadata: dict[str, str]) -> None:
        for name, value in content.sums.items():
            metadata[checksums.KEPT + name] = value

    try:
        response = call.must(
            call.swift(
                "PUT", _home(call, held), _part_name(call, upload, number), body=content, footers=footers,
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


def _parts(call: Call, container: str, upload: str, marker: int = 0) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, entry) of the parts behind a number, in order."""
    prefix = f"{call.object}/{upload}/"
    last = f"{prefix}{marker:05d}" if marker else ""
    while True:
        query = {"prefix": prefix, "limit": str(_PAGE), "format": "json"} | ({"marker": last} if last else {})
        entries = call.must(call.swift("GET", container, query=query)).entries or []
        for entry in entries:
            number = entry["name"][len(prefix) :]
            if number.isdecimal():
                yield int(number), entry
        if len(entries) < _PAGE:
            return
        last = entries[-1]["name"]


def list_parts(call: Call) -> Response:
    upload = _upload_id(call)
    held = _held(call, upload)
    limit = call.number("max-parts", _PAGE, call.gate.listing)
    marker = call.number("part-number-marker", 0, 2**31)
    code = encoding(call)
    found: list[xml.Child] = []
    last, more = marker, False
    wanted = held.headers.get(_ALGORITHM)
    container = _home(call, held)
    if limit:
        for number, entry in _parts(call, container, upload, marker):
            if len(found) == limit:
                more = True
                break
            one: list[xml.Child] = [
                ("PartNumber", number),
                ("LastModified", iso(entry["last_modified"])),
                ("ETag", f'"{parameters(entry["hash"])[0]}"'),
                ("Size", int(entry["bytes"])),
            ]
            if wanted:
                part = call.swift("HEAD", container, _part_name(call, upload, number))
                part.close()
                one.append((f"Checksum{wanted.upper()}", part.headers.get(checksums.KEPT + wanted)))
            found.append(("Part", one))
            last = number
    owner: list[xml.Child] = [("ID", call.owner), ("DisplayName", call.owner)]
    body: list[xml.Child] = [
        ("Bucket", call.name),
        ("Key", encoded(call.object, code)),
        ("UploadId", upload),
        ("Initiator", owner),
        ("Owner", owner),
        ("StorageClass", held.headers.get(classes.CLASS) or classes.STANDARD),
        ("PartNumberMarker", marker),
        ("NextPartNumberMarker", last),
        ("MaxParts", limit),
        ("EncodingType", code),
        ("IsTruncated", more),
        ("ChecksumAlgorithm", wanted.upper() if wanted else None),
        ("ChecksumType", held.headers.get(_TYPE)),
        *found,
    ]
    return document("ListPartsResult", body)


# ---- the end


def abort(call: Call) -> Response:
    """AbortMultipartUpload."""
    upload = _upload_id(call)
    held = _held(call, upload)
    container = _home(call, held)
    call.must(call.swift("DELETE", call.name + SEGMENTS, _marker(call, upload)), 404)
    doomed = [(container, entry["name"]) for _, entry in _parts(call, container, upload)]
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
            raise S3Error("InvalidPartOrder", UploadId=_upload_id(call))
        sums = {name: part.get(f"Checksum{name.upper()}") for name in checksums.SIZES}
        found.append((int(number), etag, {name: value for name, value in sums.items() if value}))
    if not found:
        raise S3Error("MalformedXML")
    return found


def complete(call: Call) -> Response:
    """CompleteMultipartUpload. Once more after it was done it says the same again."""
    upload = _upload_id(call)
    wanted = _wanted_parts(call)
    etag = _etag(wanted)
    try:
        held = _held(call, upload)
    except S3Error:
        done = call.swift("HEAD", call.name, call.object)
        done.close()
        if done.good and done.headers.get(UPLOAD) == upload and headers.etag_of(done.headers) == etag:
            return _completed(call, etag, done)
        raise
    container = _home(call, held)
    known = dict(_parts(call, container, upload))
    entries = _checked(call, wanted, known)
    given = _final_headers(held, upload, etag)
    sums = _sums(call, held, container, upload, wanted, known)
    given |= {checksums.KEPT + name: value for name, value in sums.items()}
    if sums:
        given[checksums.KEPT_TYPE] = held.headers.get(_TYPE, "COMPOSITE")
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
    call.must(call.swift("DELETE", call.name + SEGMENTS, _marker(call, upload)), 404)
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
            raise S3Error("InvalidPart", UploadId=_upload_id(call), PartNumber=str(number), ETag=etag)
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
        if name.startswith(("x-object-meta-", "x-object-transient-sysmeta-")) or name in headers.STORED
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
    algorithm = held.headers.get(_ALGORITHM)
    if not algorithm:
        return {}
    parts: list[tuple[bytes, int]] = []
    for number, _, sums in wanted:
        part = call.swift("HEAD", container, _part_name(call, upload, number))
        part.close()
        value = part.headers.get(checksums.KEPT + algorithm, "")
        if not value or (algorithm in sums and sums[algorithm] != value):
            raise S3Error("InvalidPart", PartNumber=str(number))
        parts.append((base64.b64decode(value), int(known[number]["bytes"])))
    if held.headers.get(_TYPE) == "FULL_OBJECT":
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


# ---- lists


def list_uploads(call: Call) -> Response:
    """ListMultipartUploads."""
    query, code = call.query, encoding(call)
    limit = call.number("max-uploads", _PAGE, _PAGE)
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    key_marker, id_marker = query.get("key-marker", ""), query.get("upload-id-marker", "")
    if not key_marker:
        id_marker = ""
    found: list[xml.Child] = []
    prefixes: list[str] = []
    next_key = next_id = ""
    more = False
    for key, upload, entry in uploads(call, prefix, key_marker):
        if key_marker and not (key > key_marker or (key == key_marker and id_marker and upload > id_marker)):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        common = key[: cut + len(delimiter)] if cut >= 0 else ""
        if common and (common in prefixes or (key_marker and common <= key_marker)):
            continue
        if len(found) + len(prefixes) >= limit:
            more = bool(limit)
            break
        if common:
            prefixes.append(common)
            next_key, next_id = common, ""
            continue
        owner: list[xml.Child] = [("ID", call.owner), ("DisplayName", call.owner)]
        found.append(
            (
                "Upload",
                [
                    ("Key", encoded(key, code)),
                    ("UploadId", upload),
                    ("Initiator", owner),
                    ("Owner", owner),
                    ("StorageClass", classes.STANDARD),
                    ("Initiated", iso(entry["last_modified"])),
                ],
            )
        )
        next_key, next_id = key, upload
    body: list[xml.Child] = [
        ("Bucket", call.name),
        ("KeyMarker", encoded(key_marker, code)),
        ("UploadIdMarker", id_marker),
        ("NextKeyMarker", encoded(next_key, code) if more else None),
        ("NextUploadIdMarker", next_id if more else None),
        ("Prefix", encoded(prefix, code)),
        ("Delimiter", encoded(delimiter, code) if delimiter else None),
        ("EncodingType", code),
        ("MaxUploads", limit),
        ("IsTruncated", more),
        *found,
        *(("CommonPrefixes", [("Prefix", encoded(one, code))]) for one in prefixes),
    ]
    return document("ListMultipartUploadsResult", body)


def uploads(call: Call, prefix: str = "", marker: str = "") -> Iterator[tuple[str, str, dict[str, str]]]:
    """(key, upload id, entry) of the bucket's uploads that are not complete, in order of keys.

    marker: a key; those before it are left out.
    """
    last = marker
    container = call.name + SEGMENTS
    if call.find(container) is None:
        return
    while True:
        query = {"limit": str(_PAGE), "format": "json", "prefix": prefix} | ({"marker": last} if last else {})
        entries = call.must(call.swift("GET", container, query=query), 404).entries or []
        for entry in entries:
            key, _, upload = entry["name"].rpartition("/")
            if len(upload) == 32 and key and entry.get("content_type") == "application/x-multipart-upload":
                yield key, upload, entry
        if len(entries) < _PAGE:
            return
        last = entries[-1]["name"]
