"""Headers of objects: S3's on the one side, Swift's on the other."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import parsedate_to_datetime
from typing import Final

from altostack.objectstore.http import Request
from altostack.objectstore.middleware.shape import IS_SLO, LISTED_ETAG, SLO_ETAG, bare, parameters, true
from altostack.objectstore.s3 import checksums
from altostack.objectstore.s3.errors import S3Error

ETAG: Final = "x-object-sysmeta-s3api-etag"  # of a multipart upload: "<hash of the parts' hashes>-<parts>"
REDIRECT: Final = "x-object-sysmeta-s3api-redirect"
TAGS: Final = "x-object-transient-sysmeta-s3api-tags"
LONG: Final = (
    "x-object-sysmeta-s3api-meta"  # the user's metadata whose values Swift's API does not take, as JSON
)
STORED: Final = ("cache-control", "content-disposition", "content-encoding", "content-language", "expires")
_META: Final = "x-amz-meta-"
_SWIFT_META: Final = "x-object-meta-"
_MAX_META: Final = 2048  # bytes
_MAX_VALUE: Final = 256  # bytes of a value, and
_MAX_NAME: Final = 128  # of a name in Swift's API
_PASSED: Final = frozenset({"content-type", "content-length", "content-range", "last-modified", *STORED})
_OVERRIDES: Final = {
    "response-content-type": "content-type",
    "response-content-language": "content-language",
    "response-expires": "expires",
    "response-cache-control": "cache-control",
    "response-content-disposition": "content-disposition",
    "response-content-encoding": "content-encoding",
}
_WORD = re.compile(r"=\?[^?\s]+\?[bBqQ]\?[^?]*\?=")


def for_put(request: Request) -> dict[str, str]:
    """The Swift headers of an object to be stored, from those of an S3 request. Raises S3Error."""
    found = {"content-type": request.header("content-type") or "binary/octet-stream"}
    for name in STORED:
        if name in request.headers:
            found[name] = request.headers[name]
    if "content-encoding" in found:
        codings = [part.strip() for part in found["content-encoding"].split(",")]
        codings = [part for part in codings if part and part.lower() != "aws-chunked"]
        found["content-encoding"] = ",".join(codings)
        if not codings:
            del found["content-encoding"]
    if "x-amz-website-redirect-location" in request.headers:
        found[REDIRECT] = request.headers["x-amz-website-redirect-location"]
    return found | metadata(request.headers)


def metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """The Swift headers of the user's metadata. Raises S3Error."""
    found: dict[str, str] = {}
    long: dict[str, str] = {}
    size = 0
    for name, value in headers.items():
        if name.startswith(_META) and len(name) > len(_META):
            value = _decoded(value)
            key, length = name[len(_META) :], len(value.encode("utf-8", "surrogateescape"))
            size += len(key) + length
            if length > _MAX_VALUE or len(key) > _MAX_NAME:
                long[key] = value
            else:
                found[_SWIFT_META + key] = value
    if size > _MAX_META:
        raise S3Error("MetadataTooLarge", MaxSizeAllowed=str(_MAX_META), Size=str(size))
    if long:
        found[LONG] = json.dumps(long, separators=(",", ":"))
    return found


def is_metadata(name: str) -> bool:
    """Whether a Swift header holds metadata of the user's."""
    return name.startswith(_SWIFT_META) or name == LONG


def _decoded(value: str) -> str:
    """A value without RFC 2047's encoding, in which clients send what is not ASCII."""
    if not _WORD.search(value):
        return value
    try:
        return str(make_header(decode_header(value))).replace("\r", "").replace("\n", "")
    except (HeaderParseError, LookupError, UnicodeError, ValueError):
        return value


def _encoded(value: str) -> str:
    if value.isascii():
        return value
    plain = value.encode("utf-8", "surrogateescape")
    return f"=?UTF-8?B?{base64.b64encode(plain).decode()}?="


def shown(headers: Mapping[str, str], *, sums: bool = False) -> dict[str, str]:
    """The S3 headers of an object, from those of Swift's answer. sums: with its checksums."""
    found = {"accept-ranges": "bytes", "etag": f'"{etag_of(headers)}"'}
    missing = 0
    told: dict[str, str] = {}
    if headers.get(LONG):
        told = {_SWIFT_META + name: value for name, value in json.loads(headers[LONG]).items()}
    for name, value in (*headers.items(), *told.items()):
        if name in _PASSED:
            found[name] = value
        elif name.startswith(_SWIFT_META):
            key = _META + name[len(_SWIFT_META) :]
            if key.isascii() and "\r" not in value and "\n" not in value:
                found[key] = _encoded(value)
            else:
                missing += 1
    if missing:
        found["x-amz-missing-meta"] = str(missing)
    if REDIRECT in headers:
        found["x-amz-website-redirect-location"] = headers[REDIRECT]
    if headers.get(TAGS):
        found["x-amz-tagging-count"] = str(headers[TAGS].count("=") if headers[TAGS] else 0)
    if sums:
        found |= checksums.shown(headers)
    return found


def etag_of(headers: Mapping[str, str]) -> str:
    """An object's ETag as S3 shows it, without quotation marks."""
    own = headers.get(ETAG)
    if own:
        return own
    etag = bare(headers.get("etag", ""))
    if true(headers.get(IS_SLO)) and "-" not in etag:
        return (
            f"{headers.get(SLO_ETAG) or etag}-N"  # made by Swift: no client may take it for the content's MD5
        )
    return etag


def listed_etag(entry: Mapping[str, str]) -> str:
    """The same of an entry in a listing."""
    etag, extra = parameters(entry.get("hash", ""))
    own = extra.get("s3_etag") or bare(entry.get("s3_etag", ""))
    if own:
        return own
    large = extra.get("slo_etag") or bare(entry.get("slo_etag", ""))
    return f"{large}-N" if large else etag


def list_as(etag: str, storage_class: str = "") -> dict[str, str]:
    """The headers that make a multipart upload's ETag (and class) known to it and to listings."""
    more = f"; s3_class={storage_class}" if storage_class else ""
    return {ETAG: etag, LISTED_ETAG: f"{etag.partition('-')[0]}; s3_etag={etag}{more}"}


def override(request: Request, headers: dict[str, str], *, signed: bool) -> None:
    """What the query wants instead in an answer's headers. Raises S3Error for anonymous requests and line ends."""
    for name, header in _OVERRIDES.items():
        value = request.query.get(name)
        if value is None:
            continue
        if not signed:
            raise S3Error("InvalidRequest", "Anonymous requests cannot choose the headers of answers.")
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            raise S3Error("InvalidArgument", ArgumentName=name, ArgumentValue="")
        headers[header] = value


def conditions(headers: Mapping[str, str], etag: str, modified: str, prefix: str = "") -> int | None:
    """304 or 412 when conditions fail, else None (RFC 9110, 13).

    prefix: of the conditions' names (x-amz-copy-source-).
    """
    match, unmodified = headers.get(f"{prefix}if-match"), headers.get(f"{prefix}if-unmodified-since")
    other, since = headers.get(f"{prefix}if-none-match"), headers.get(f"{prefix}if-modified-since")
    if match is not None:
        if not _lists(match, etag):
            return 412
    elif unmodified is not None and (_compared(modified, unmodified) or 0) > 0:
        return 412
    if other is not None:
        if _lists(other, etag):
            return 304
    elif since is not None and (_compared(modified, since) or 1) <= 0:
        return 304
    return None


def _lists(value: str, etag: str) -> bool:
    return value.strip() == "*" or etag in [bare(part) for part in value.split(",")]


def _compared(one: str, other: str) -> float | None:
    """Seconds between two HTTP dates, None if one is none."""
    try:
        seconds = (parsedate_to_datetime(one) - parsedate_to_datetime(other)).total_seconds()
    except (TypeError, ValueError):
        return None
    return seconds or -0.5  # the same second is not later
