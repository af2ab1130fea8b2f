"""Multipart uploads that are under way: where they and their parts lie, and lists of them.

An upload is an object ``key/upload-id`` in the container ``bucket+segments``, which keeps what the final object gets;
its parts are ``key/upload-id/number``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from altostack.objectstore.http import Response
from altostack.objectstore.middleware.shape import parameters
from altostack.objectstore.s3 import checksums, classes, xml
from altostack.objectstore.s3.call import SEGMENTS, Call, document, iso
from altostack.objectstore.s3.errors import S3Error
from altostack.objectstore.s3.listing import encoded, encoding

ALGORITHM: Final = "x-object-sysmeta-s3api-algorithm"  # of the checksums that an upload is to have
SUM_TYPE: Final = "x-object-sysmeta-s3api-checksum-kind"
TYPE: Final = "application/x-multipart-upload"
_PAGE: Final = 1000


def marker_of(call: Call, upload: str) -> str:
    return f"{call.object}/{upload}"


def part_name(call: Call, upload: str, number: int) -> str:
    return f"{call.object}/{upload}/{number:05d}"


def find(call: Call, upload: str) -> Response:
    """The upload, in the call's own bucket and of its own key. Raises S3Error NoSuchUpload."""
    if not upload or "/" in upload or len(upload) > 64 or not upload.isascii():
        raise S3Error("NoSuchUpload", UploadId=upload)
    response = call.swift("HEAD", call.name + SEGMENTS, marker_of(call, upload))
    response.close()
    if not response.good:
        if response.status == 404:
            raise S3Error("NoSuchUpload", UploadId=upload)
        raise call.trouble(response)
    return response


def home(call: Call, held: Response) -> str:
    """The container of the upload's parts."""
    return classes.parts_container(call, classes.policy_of(call, held.headers.get(classes.CLASS, "")))


def upload_id(call: Call) -> str:
    return call.query.get("uploadId", "")


def parts_of(
    call: Call, container: str, upload: str, marker: int = 0
) -> Iterator[tuple[int, dict[str, str]]]:
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
    upload = upload_id(call)
    held = find(call, upload)
    limit = call.number("max-parts", _PAGE, call.gate.listing)
    marker = call.number("part-number-marker", 0, 2**31)
    code = encoding(call)
    found: list[xml.Child] = []
    last, more = marker, False
    wanted = held.headers.get(ALGORITHM)
    container = home(call, held)
    if limit:
        for number, entry in parts_of(call, container, upload, marker):
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
                part = call.swift("HEAD", container, part_name(call, upload, number))
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
        ("ChecksumType", held.headers.get(SUM_TYPE)),
        *found,
    ]
    return document("ListPartsResult", body)


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
    for key, upload, entry in open_uploads(call, prefix, key_marker):
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


def open_uploads(call: Call, prefix: str = "", marker: str = "") -> Iterator[tuple[str, str, dict[str, str]]]:
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
            if len(upload) == 32 and key and entry.get("content_type") == TYPE:
                yield key, upload, entry
        if len(entries) < _PAGE:
            return
        last = entries[-1]["name"]
