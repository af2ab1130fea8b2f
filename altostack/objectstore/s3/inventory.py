"""Inventories: what is in a bucket, written to a bucket as a table every day or every week.

Source: Amazon S3 user guide, "Cataloging and analyzing your data with S3 Inventory". Tables are CSV, compressed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from altostack.objectstore.http import Response, Stream
from altostack.objectstore.middleware.versioned import MARKER_TYPE
from altostack.objectstore.s3 import classes, settings, xml
from altostack.objectstore.s3.call import Call, document, iso
from altostack.objectstore.s3.errors import S3Error, invalid
from altostack.objectstore.s3.listing import etag_of, size_of
from altostack.objectstore.s3.versioning import kept_versions

PERIODS: Final[Mapping[str, float]] = {"Daily": 86400.0, "Weekly": 7 * 86400.0}
FIELDS: Final = ("Size", "LastModifiedDate", "ETag", "StorageClass", "IsMultipartUploaded")
_ARN: Final = "arn:aws:s3:::"
_MOST: Final = 100
_PAGE: Final = 1000
Rule = dict[str, Any]


def _id(call: Call) -> str:
    found = call.query.get("id", "")
    if not 1 <= len(found) <= 64 or not all(letter.isalnum() or letter in "._-" for letter in found):
        raise invalid("id", found[:64])
    return found


def _all(call: Call) -> dict[str, Rule]:
    return dict(settings.read(call.info, "inventory") or {})


def get(call: Call) -> Response:
    """GetBucketInventoryConfiguration, and without an id ListBucketInventoryConfigurations."""
    rules = _all(call)
    if "id" not in call.query:
        entries: list[xml.Child] = [
            ("InventoryConfiguration", _shown(name, rules[name])) for name in sorted(rules)
        ]
        return document("ListInventoryConfigurationsResult", [*entries, ("IsTruncated", False)])
    name = _id(call)
    if name not in rules:
        raise S3Error("NoSuchConfiguration")
    return document("InventoryConfiguration", _shown(name, rules[name]))


def _shown(name: str, rule: Rule) -> list[xml.Child]:
    place: list[xml.Child] = [
        ("Format", "CSV"),
        ("Bucket", _ARN + rule["to"]),
        ("Prefix", rule["to_prefix"] or None),
    ]
    fields: list[xml.Child] = [("Field", one) for one in rule["fields"]]
    return [
        ("Id", name),
        ("IsEnabled", rule["enabled"]),
        ("Destination", [("S3BucketDestination", place)]),
        ("Filter", [("Prefix", rule["prefix"])] if rule["prefix"] else None),
        ("IncludedObjectVersions", rule["versions"]),
        ("OptionalFields", fields if fields else None),
        ("Schedule", [("Frequency", rule["every"])]),
    ]


def put(call: Call) -> Response:
    """PutBucketInventoryConfiguration."""
    name = _id(call)
    root = call.document("InventoryConfiguration")
    place = root.find("Destination", "S3BucketDestination")
    if root.get("Id") != name or place is None or root.get("IsEnabled") not in ("true", "false"):
        raise S3Error("MalformedXML")
    if (
        place.get("Format") not in ("CSV", "ORC", "Parquet")
        or root.get("Schedule", "Frequency") not in PERIODS
    ):
        raise S3Error("MalformedXML")
    fields = [one.text.strip() for one in root.all("OptionalFields", "Field")]
    unknown = [one for one in fields if one not in FIELDS]
    if place.get("Format") != "CSV" or unknown or place.has("Encryption"):
        raise S3Error(
            "NotImplemented", f"Inventories are CSV, not encrypted, with the fields {', '.join(FIELDS)}."
        )
    versions = root.get("IncludedObjectVersions")
    to = place.get("Bucket").removeprefix(_ARN)
    if versions not in ("All", "Current"):
        raise S3Error("MalformedXML")
    if not place.get("Bucket").startswith(_ARN) or "/" in to or "+" in to or call.find(to) is None:
        raise invalid("Destination", to[:128], "The destination is not a bucket of the same account.")
    rules = _all(call)
    rules[name] = {
        "enabled": root.get("IsEnabled") == "true",
        "to": to,
        "to_prefix": place.get("Prefix").strip("/"),
        "prefix": root.get("Filter", "Prefix"),
        "versions": versions,
        "fields": fields,
        "every": root.get("Schedule", "Frequency"),
    }
    if len(rules) > _MOST:
        raise S3Error("InvalidRequest", f"A bucket may have {_MOST} inventories.")
    settings.keep(call, "inventory", rules)
    return Response(204)


def delete(call: Call) -> Response:
    """DeleteBucketInventoryConfiguration."""
    name, rules = _id(call), _all(call)
    if name not in rules:
        raise S3Error("NoSuchConfiguration")
    del rules[name]
    settings.keep(call, "inventory", rules or None)
    return Response(204)


# ---- reports


def due(call: Call, now: float, day: float) -> list[str]:
    """The inventories of the call's bucket whose time has come. day: seconds of a day."""
    ran = settings.read(call.info, "inventory-ran") or {}
    return [
        name
        for name, rule in _all(call).items()
        if rule["enabled"] and now - ran.get(name, 0.0) >= PERIODS[rule["every"]] / 86400.0 * day
    ]


def write(call: Call, name: str, now: float) -> None:
    """Write one inventory: the table first, then the manifest that leads to it. Raises S3Error."""
    rule = _all(call)[name]
    if call.find(rule["to"]) is None:
        raise S3Error("NoSuchBucket", BucketName=rule["to"])
    base = "/".join(part for part in (rule["to_prefix"], call.name, name) if part)
    data = f"{base}/data/{uuid.uuid4()}.csv.gz"
    table = _Table(call, rule)
    headers = {"content-type": "application/gzip"}
    call.must(call.swift("PUT", rule["to"], data, headers=headers, body=Stream(table.compressed())))
    manifest = json.dumps(
        {
            "sourceBucket": call.name,
            "destinationBucket": _ARN + rule["to"],
            "version": "2016-11-30",
            "creationTimestamp": str(int(now * 1000)),
            "fileFormat": "CSV",
            "fileSchema": ", ".join(table.columns),
            "files": [{"key": data, "size": table.size, "MD5checksum": table.sum.hexdigest()}],
        },
        indent=1,
    ).encode()
    folder = f"{base}/{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H-%MZ}"
    plain = {"content-type": "application/json"}
    call.must(call.swift("PUT", rule["to"], f"{folder}/manifest.json", headers=plain, body=manifest))
    digest = hashlib.md5(manifest, usedforsecurity=False).hexdigest().encode()
    call.must(call.swift("PUT", rule["to"], f"{folder}/manifest.checksum", body=digest))
    ran = dict(settings.read(call.info, "inventory-ran") or {})
    settings.keep(
        call, "inventory-ran", {one: when for one, when in ran.items() if one in _all(call)} | {name: now}
    )


class _Table:
    """The rows of a bucket. size, sum: of the compressed bytes, once all are made."""

    def __init__(self, call: Call, rule: Rule) -> None:
        self._call, self._rule = call, rule
        self._every = rule["versions"] == "All"
        self.columns = [
            "Bucket",
            "Key",
            *(["VersionId", "IsLatest", "IsDeleteMarker"] if self._every else []),
        ]
        self.columns += rule["fields"]
        self.size = 0
        self.sum = hashlib.md5(usedforsecurity=False)

    def compressed(self) -> Iterator[bytes]:
        packer = zlib.compressobj(wbits=31)  # gzip
        for page in self._pages():
            yield self._counted(packer.compress(page))
        yield self._counted(packer.flush())

    def _counted(self, part: bytes) -> bytes:
        self.size += len(part)
        self.sum.update(part)
        return part

    def _pages(self) -> Iterator[bytes]:
        call = self._call
        query = {"limit": str(_PAGE), "format": "json"}
        if self._rule["prefix"]:
            query["prefix"] = self._rule["prefix"]
        if self._every and kept_versions(call.info):
            query["versions"] = "true"
        while True:
            entries = call.must(call.swift("GET", call.name, query=query)).entries or []
            text = io.StringIO()
            writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerows(self._row(entry) for entry in entries)
            if entries:
                yield text.getvalue().encode()
            if len(entries) < _PAGE:
                return
            query["marker"] = entries[-1]["name"]
            if "versions" in query:
                query["version_marker"] = entries[-1].get("version_id") or "null"

    def _row(self, entry: dict[str, Any]) -> list[str]:
        call = self._call
        row = [call.name, quote(entry["name"], safe="/")]
        marker = entry.get("content_type") == MARKER_TYPE
        if self._every:
            latest = bool(entry.get("is_latest", True))
            row += [entry.get("version_id") or "null", str(latest).lower(), str(marker).lower()]
        for name in self._rule["fields"]:
            if name == "LastModifiedDate":
                row.append(iso(entry["last_modified"]))
            elif marker:
                row.append("")
            elif name == "Size":
                row.append(str(size_of(entry)))
            elif name == "ETag":
                row.append(etag_of(entry))
            elif name == "StorageClass":
                row.append(classes.listed(call, entry))
            else:
                row.append(str("-" in etag_of(entry)).lower())
        return row
