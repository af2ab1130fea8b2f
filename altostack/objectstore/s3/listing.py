"""Listings of a bucket's objects and of their versions."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from altostack.objectstore.http import Response
from altostack.objectstore.middleware.versioned import MARKER_TYPE
from altostack.objectstore.s3 import classes, xml
from altostack.objectstore.s3.call import Call, document, iso
from altostack.objectstore.s3.errors import invalid
from altostack.objectstore.s3.headers import listed_etag
from altostack.objectstore.s3.versioning import kept_versions

MOST: Final = 1000
_LAST: Final = "\U0010ffff"


def encoding(call: Call) -> str | None:
    """The encoding of keys that the request wants. Raises S3Error."""
    said = call.query.get("encoding-type")
    if said is not None and said != "url":
        raise invalid("encoding-type", said, "Invalid Encoding Method specified in Request")
    return said


def encoded(text: str, code: str | None) -> str:
    """A key as the answer has it."""
    return quote(text, safe="/*-._") if code else text


@dataclass
class Page:
    """A page of a listing. last: the last key or prefix in it."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    more: bool = False
    last: str = ""


def _is_common(marker: str, prefix: str, delimiter: str) -> bool:
    """Whether a marker is a common prefix, not a key."""
    at = marker.find(delimiter, len(prefix)) if delimiter and marker.startswith(prefix) else -1
    return at >= 0 and at + len(delimiter) == len(marker)


def _behind(common: str) -> str:
    """The marker behind all keys that begin so."""
    return common + _LAST


def _page(call: Call, marker: str, limit: int) -> Page:
    prefix, delimiter = call.query.get("prefix", ""), call.query.get("delimiter", "")
    page = Page()
    if limit == 0:
        return page
    query = {"limit": str(limit + 1), "format": "json"}
    if prefix:
        query["prefix"] = prefix
    if delimiter:
        query["delimiter"] = delimiter
    if marker:
        query["marker"] = _behind(marker) if _is_common(marker, prefix, delimiter) else marker
    response = call.must(call.swift("GET", call.name, query=query))
    entries = response.entries or []
    page.more = len(entries) > limit
    for entry in entries[:limit]:
        if "subdir" in entry:
            page.prefixes.append(entry["subdir"])
            page.last = entry["subdir"]
        else:
            page.entries.append(entry)
            page.last = entry["name"]
    return page


def size_of(entry: dict[str, Any]) -> int:
    """An object's bytes, those of what a link leads to."""
    return int(entry.get("symlink_bytes", entry.get("bytes", 0)))


def etag_of(entry: dict[str, Any]) -> str:
    """Its ETag, likewise."""
    if "symlink_etag" in entry and not entry.get("version_symlink"):
        return str(entry["symlink_etag"]).strip('"')
    return listed_etag(entry)


def _content(call: Call, entry: dict[str, Any], code: str | None, owner: bool) -> xml.Child:
    return (
        "Contents",
        [
            ("Key", encoded(entry["name"], code)),
            ("LastModified", iso(entry["last_modified"])),
            ("ETag", f'"{etag_of(entry)}"'),
            ("Size", size_of(entry)),
            ("Owner", [("ID", call.owner), ("DisplayName", call.owner)] if owner else None),
            ("StorageClass", classes.listed(call, entry)),
        ],
    )


def objects_v1(call: Call) -> Response:
    """ListObjects."""
    query, code = call.query, encoding(call)
    limit = call.number("max-keys", MOST, MOST)
    marker, delimiter = query.get("marker", ""), query.get("delimiter", "")
    page = _page(call, marker, limit)
    body: list[xml.Child] = [
        ("Name", call.name),
        ("Prefix", encoded(query.get("prefix", ""), code)),
        ("Marker", encoded(marker, code)),
        ("MaxKeys", limit),
        ("Delimiter", encoded(delimiter, code) if delimiter else None),
        ("EncodingType", code),
        ("IsTruncated", page.more),
        ("NextMarker", encoded(page.last, code) if page.more else None),
        *(_content(call, entry, code, True) for entry in page.entries),
        *(("CommonPrefixes", [("Prefix", encoded(one, code))]) for one in page.prefixes),
    ]
    return document("ListBucketResult", body, {"x-amz-bucket-region": call.gate.regions[0]})


def objects_v2(call: Call) -> Response:
    """ListObjectsV2."""
    query, code = call.query, encoding(call)
    if query.get("list-type") != "2":
        return objects_v1(call)
    limit = call.number("max-keys", MOST, MOST)
    after, delimiter = query.get("start-after", ""), query.get("delimiter", "")
    token = query.get("continuation-token")
    marker = after
    if token is not None:
        try:
            marker = base64.b64decode(token, altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            marker = ""
        if not marker:
            raise invalid("continuation-token", token, "The continuation token provided is incorrect")
    page = _page(call, marker, limit)
    owner = query.get("fetch-owner", "").lower() == "true"
    following = base64.urlsafe_b64encode(page.last.encode()).decode() if page.more else None
    body: list[xml.Child] = [
        ("Name", call.name),
        ("Prefix", encoded(query.get("prefix", ""), code)),
        ("MaxKeys", limit),
        ("Delimiter", encoded(delimiter, code) if delimiter else None),
        ("EncodingType", code),
        ("KeyCount", len(page.entries) + len(page.prefixes)),
        ("IsTruncated", page.more),
        ("ContinuationToken", token),
        ("NextContinuationToken", following),
        ("StartAfter", encoded(after, code) if after else None),
        *(_content(call, entry, code, owner) for entry in page.entries),
        *(("CommonPrefixes", [("Prefix", encoded(one, code))]) for one in page.prefixes),
    ]
    return document("ListBucketResult", body, {"x-amz-bucket-region": call.gate.regions[0]})


def versions(call: Call) -> Response:
    """ListObjectVersions."""
    query, code = call.query, encoding(call)
    limit = call.number("max-keys", MOST, MOST)
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    key, version = query.get("key-marker", ""), query.get("version-id-marker")
    if version is not None and not key:
        raise invalid(
            "version-id-marker", version, "A version-id marker cannot be specified without a key marker."
        )
    asked = {"limit": str(limit + 1), "format": "json"}
    kept = kept_versions(call.info)
    if kept:
        asked["versions"] = "true"
    for name, value in (("prefix", prefix), ("delimiter", delimiter), ("marker", key)):
        if value:
            asked[name] = value
    if key and not version and _is_common(key, prefix, delimiter):
        asked["marker"] = _behind(key)
    elif kept and version:
        asked["version_marker"] = version
    entries: list[dict[str, Any]] = []
    if limit:
        response = call.swift("GET", call.name, query=asked)
        if response.status == 400:
            raise invalid("version-id-marker", version or "", "Invalid version id specified")
        entries = call.must(response).entries or []
    shown = entries[:limit]
    more = len(entries) > limit > 0
    last = shown[-1] if shown else {}
    body: list[xml.Child] = [
        ("Name", call.name),
        ("Prefix", encoded(prefix, code)),
        ("KeyMarker", encoded(key, code)),
        ("VersionIdMarker", version or ""),
        ("NextKeyMarker", encoded(last.get("name") or last.get("subdir", ""), code) if more else None),
        ("NextVersionIdMarker", (last.get("version_id") or "null") if more and "name" in last else None),
        ("MaxKeys", limit),
        ("Delimiter", encoded(delimiter, code) if delimiter else None),
        ("EncodingType", code),
        ("IsTruncated", more),
        *(_version(call, entry, code) for entry in shown if "subdir" not in entry),
        *(("CommonPrefixes", [("Prefix", encoded(one["subdir"], code))]) for one in shown if "subdir" in one),
    ]
    return document("ListVersionsResult", body)


def _version(call: Call, entry: dict[str, Any], code: str | None) -> xml.Child:
    head: list[xml.Child] = [
        ("Key", encoded(entry["name"], code)),
        ("VersionId", entry.get("version_id") or "null"),
        ("IsLatest", bool(entry.get("is_latest", True))),
        ("LastModified", iso(entry["last_modified"])),
    ]
    owner: xml.Child = ("Owner", [("ID", call.owner), ("DisplayName", call.owner)])
    if entry.get("content_type") == MARKER_TYPE:
        return "DeleteMarker", [*head, owner]
    return "Version", [
        *head,
        ("ETag", f'"{etag_of(entry)}"'),
        ("Size", size_of(entry)),
        owner,
        ("StorageClass", classes.listed(call, entry)),
    ]
