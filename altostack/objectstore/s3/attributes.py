"""GetObjectAttributes: what there is to know of an object without its data."""

from __future__ import annotations

from typing import Final

from altostack.objectstore.http import Response
from altostack.objectstore.middleware.versioned import VERSION_ID
from altostack.objectstore.s3 import checksums, classes, headers, objects, segments, xml
from altostack.objectstore.s3.call import Call, document
from altostack.objectstore.s3.errors import S3Error, invalid
from altostack.objectstore.s3.versioning import kept_versions

_KNOWN: Final = ("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize")


def get(call: Call) -> Response:
    wanted = [one.strip() for one in call.header("x-amz-object-attributes").split(",") if one.strip()]
    if not wanted:
        raise invalid("x-amz-object-attributes", "", "Name the attributes that you want.")
    if any(one not in _KNOWN for one in wanted):
        raise invalid("x-amz-object-attributes", ",".join(wanted), "Invalid attribute name specified.")
    held = objects.head(call).headers
    failed = headers.conditions(call.request.headers, headers.etag_of(held), held.get("last-modified", ""))
    if failed is not None:
        raise S3Error("NotModified" if failed == 304 else "PreconditionFailed")
    body: list[xml.Child] = []
    if "ETag" in wanted:
        body.append(("ETag", headers.etag_of(held)))
    if "Checksum" in wanted and (sums := checksums.shown(held)):
        parts: list[xml.Child] = [
            (f"Checksum{name.upper()}", sums[checksums.PREFIX + name])
            for name in checksums.SIZES
            if checksums.PREFIX + name in sums
        ]
        body.append(("Checksum", [*parts, ("ChecksumType", sums["x-amz-checksum-type"])]))
    if "ObjectParts" in wanted and objects.is_large(held):
        body.append(("ObjectParts", _parts(call)))
    if "StorageClass" in wanted:
        body.append(("StorageClass", held.get(classes.CLASS) or classes.STANDARD))
    if "ObjectSize" in wanted:
        body.append(("ObjectSize", int(held.get("content-length", "0"))))
    shown = {"last-modified": held["last-modified"]}
    if kept_versions(call.info):
        shown["x-amz-version-id"] = held.get(VERSION_ID, "null")
    return document("GetObjectAttributesResponse", body, shown)


def _number(call: Call, name: str, default: int) -> int:
    said = call.header(name) or str(default)
    if not (said.isascii() and said.isdecimal()) or len(said) > 9:
        raise invalid(name, said)
    return int(said)


def _parts(call: Call) -> list[xml.Child]:
    limit = min(_number(call, "x-amz-max-parts", 1000), 1000)
    marker = _number(call, "x-amz-part-number-marker", 0)
    entries = segments.manifest(call, objects.version_query(call))
    shown = entries[marker : marker + limit]
    return [
        ("PartsCount", len(entries)),
        ("PartNumberMarker", marker),
        ("NextPartNumberMarker", marker + len(shown)),
        ("MaxParts", limit),
        ("IsTruncated", marker + len(shown) < len(entries)),
        *(
            ("Part", [("PartNumber", marker + index), ("Size", int(str(entry["bytes"])))])
            for index, entry in enumerate(shown, 1)
        ),
    ]
