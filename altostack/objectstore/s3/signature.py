"""Who says that they signed a request, and what exactly they must have signed.

Signature versions 2 and 4, in the Authorization header or in the query (presigned). Nothing is verified here: that
takes the secret (`keys`). Sources: Amazon S3 API reference, "Authenticating Requests" (AWS Signature Version 4 and 2).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from altostack.objectstore.http import Request
from altostack.objectstore.s3.errors import S3Error, denied

V4: Final = "AWS4-HMAC-SHA256"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
SIGNED_CHUNKS: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_CHUNKS_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_CHUNKS_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
CHUNKED: Final = frozenset({SIGNED_CHUNKS, SIGNED_CHUNKS_TRAILER, UNSIGNED_CHUNKS_TRAILER})
EMPTY: Final = hashlib.sha256(b"").hexdigest()

SKEW: Final = 15 * 60  # seconds by which clocks may differ
LONGEST: Final = 7 * 86400  # seconds that a presigned URL may last
_HEX = re.compile(r"[0-9a-f]{64}")
# What takes part in a version 2 signature of the query.
_SUBRESOURCES: Final = frozenset(
    {
        "accelerate", "acl", "analytics", "cors", "delete", "encryption", "intelligent-tiering",
        "inventory", "legal-hold", "lifecycle", "location", "logging", "metrics", "notification",
        "object-lock", "ownershipControls", "partNumber", "policy", "policyStatus", "publicAccessBlock",
        "replication", "requestPayment", "response-cache-control", "response-content-disposition",
        "response-content-encoding", "response-content-language", "response-content-type",
        "response-expires", "restore", "retention", "select", "select-type", "tagging", "torrent",
        "uploadId", "uploads", "versionId", "versioning", "versions", "website",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signed:
    """What a request's signature covers.

    text: the string to sign. scope: (day, region, service) of version 4, None for version 2. payload: what the
    request says of its body's hash; "" for version 2. date: when it was signed, in version 4's form. other: another
    string that counts as well, b"" if there is none: clients sign a bucket's path with a slash at its end, or without.
    """

    access: str
    signature: str
    text: bytes
    scope: tuple[str, str, str] | None = None
    payload: str = ""
    date: str = ""
    other: bytes = b""


def read(request: Request, now: float, regions: Sequence[str], bucket_prefix: str = "") -> Signed | None:
    """The request's signature, None for an anonymous request. Raises S3Error for a malformed or an expired one.

    now: seconds since 1970. regions: those that a version 4 scope may name. bucket_prefix: "/bucket" where the bucket
    is in the host's name, as version 2 wants it.
    """
    held = request.header("authorization")
    query = request.query
    ways = [
        bool(held),
        "X-Amz-Signature" in query or "X-Amz-Algorithm" in query or "X-Amz-Credential" in query,
        "AWSAccessKeyId" in query or ("Signature" in query and "Expires" in query),
    ]
    if sum(ways) > 1:
        raise S3Error("InvalidArgument", "Only one way to authenticate is allowed.")
    if ways[0]:
        if held.startswith(V4):
            return _v4_header(request, held, now, regions)
        if held.startswith("AWS "):
            return _v2_header(request, held, now, bucket_prefix)
        raise S3Error("InvalidArgument", "Unsupported Authorization Type", ArgumentName="Authorization")
    if ways[1]:
        return _v4_query(request, now, regions)
    if ways[2]:
        return _v2_query(request, now, bucket_prefix)
    return None


# ---- version 4


def signing_key(secret: str, scope: tuple[str, str, str]) -> bytes:
    """The key of one day, region and service."""
    key = f"AWS4{secret}".encode("utf-8", "surrogateescape")
    for part in (*scope, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def sign(key: bytes, text: bytes) -> str:
    """The signature of version 4 (hexadecimal)."""
    return hmac.digest(key, text, "sha256").hex()


def _v4_header(request: Request, held: str, now: float, regions: Sequence[str]) -> Signed:
    parts: dict[str, str] = {}
    for piece in held.removeprefix(V4).split(","):
        name, equals, value = piece.strip().partition("=")
        if not equals or name in parts:
            raise S3Error("AuthorizationHeaderMalformed")
        parts[name] = value.strip()
    if not {"Credential", "SignedHeaders", "Signature"} <= parts.keys():
        raise S3Error(
            "AuthorizationHeaderMalformed",
            "The authorization header needs three parts: Credential, SignedHeaders and Signature.",
        )
    date, when = _moment(request)
    if abs(now - when) > SKEW:
        raise S3Error("RequestTimeTooSkewed")
    payload = request.header("x-amz-content-sha256")
    if not payload:
        raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    if payload not in CHUNKED and payload != UNSIGNED and not _HEX.fullmatch(payload):
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a STREAMING word or a sha256 value.",
            ArgumentName="x-amz-content-sha256",
            ArgumentValue=payload,
        )
    return _v4(
        request, parts["Credential"], parts["SignedHeaders"], parts["Signature"], date, payload, regions,
        "AuthorizationHeaderMalformed",
    )  # fmt: skip


def _v4_query(request: Request, now: float, regions: Sequence[str]) -> Signed:
    query, wrong = request.query, "AuthorizationQueryParametersError"
    names = ("Algorithm", "Credential", "SignedHeaders", "Signature", "Date", "Expires")
    if any(f"X-Amz-{name}" not in query for name in names):
        raise S3Error(wrong, "Query-string authentication needs X-Amz-" + ", X-Amz-".join(names) + ".")
    if query["X-Amz-Algorithm"] != V4:
        raise S3Error(wrong, f"X-Amz-Algorithm only supports {V4}.")
    lasts = query["X-Amz-Expires"]
    if not (lasts.isascii() and lasts.isdecimal()) or len(lasts) > 9:
        raise S3Error(wrong, "X-Amz-Expires must be a number.")
    if not 1 <= int(lasts) <= LONGEST:
        raise S3Error(wrong, "X-Amz-Expires must be between 1 second and a week (604800 seconds).")
    when = _iso(query["X-Amz-Date"])
    if when is None:
        raise S3Error(wrong, "X-Amz-Date must be in the form yyyyMMdd'T'HHmmss'Z'.")
    if when > now + SKEW:
        raise denied("Request is not valid yet")
    if now > when + int(lasts):
        raise denied("Request has expired")
    payload = query.get("X-Amz-Content-Sha256") or request.header("x-amz-content-sha256") or UNSIGNED
    return _v4(
        request, query["X-Amz-Credential"], query["X-Amz-SignedHeaders"], query["X-Amz-Signature"],
        query["X-Amz-Date"], payload, regions, wrong,
    )  # fmt: skip


def _v4(
    request: Request,
    credential: str,
    signed_headers: str,
    signature: str,
    date: str,
    payload: str,
    regions: Sequence[str],
    wrong: str,
) -> Signed:
    access, scope = scope_of(credential, date, regions, wrong)
    names = signed_headers.split(";")
    if "host" not in names or names != sorted(names) or any(name != name.lower() for name in names):
        raise S3Error(wrong, "SignedHeaders must be in order, in lower case, and hold the host.")
    lines = [request.method, _canonical_path(request.path), _canonical_query(request.query_string)]
    for name in names:
        if name not in request.headers:
            raise denied("There were headers signed which are not present in the request")
        lines.append(f"{name}:{' '.join(request.headers[name].split())}")
    for name in request.headers:
        # What changes a request's meaning must be what the signer meant. The body's hash is signed in any case.
        if name.startswith("x-amz-") and name not in names and name != "x-amz-content-sha256":
            raise S3Error(
                "AccessDenied",
                "There were headers present in the request which were not signed",
                HeadersNotSigned=name,
            )
    lines += ["", signed_headers, payload]
    canonical = "\n".join(lines).encode("utf-8", "surrogateescape")
    text = "\n".join([V4, date, "/".join((*scope, "aws4_request")), hashlib.sha256(canonical).hexdigest()])
    return Signed(access, signature, text.encode(), scope, payload, date)


def scope_of(
    credential: str, date: str, regions: Sequence[str], wrong: str
) -> tuple[str, tuple[str, str, str]]:
    """(access key, scope) of a version 4 credential. Raises S3Error of the code ``wrong``."""
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or not parts[0]:
        raise S3Error(
            wrong, "The Credential is malformed; expecting ACCESS-KEY/YYYYMMDD/REGION/SERVICE/aws4_request."
        )
    access, day, region, service, end = parts
    if service != "s3":
        raise S3Error(wrong, f"The service in the Credential is wrong; expecting 's3', got {service[:64]!r}.")
    if end != "aws4_request":
        raise S3Error(wrong, "The Credential must end with 'aws4_request'.")
    if day != date[:8]:
        raise S3Error(wrong, f"The date in the Credential is not the request's: {date[:8]}.")
    if region not in regions:
        raise S3Error(
            wrong,
            f"The authorization header is malformed; the region '{region[:64]}' is wrong; expecting '{regions[0]}'",
            Region=regions[0],
        )
    return access, (day, region, service)


def _moment(request: Request) -> tuple[str, float]:
    """(the request's time in version 4's form, the same in seconds since 1970). Raises S3Error."""
    text = request.header("x-amz-date")
    if not text and (date := request.header("date")):
        when = _http_date(date)
        if when is not None:
            return f"{datetime.fromtimestamp(when, UTC):%Y%m%dT%H%M%SZ}", when
        text = date
    if not text:
        raise denied("AWS authentication requires a valid Date or x-amz-date header")
    found = _iso(text)
    if found is None:
        raise denied("AWS authentication requires a valid Date or x-amz-date header")
    return text, found


@lru_cache(maxsize=256)
def _iso(text: str) -> float | None:
    if len(text) != 16 or not text.isascii():
        return None
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _http_date(text: str) -> float | None:
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).timestamp()


def _canonical_path(path: str) -> str:
    """The path as every client encodes it for signing, whatever it sent."""
    return quote(path.encode("utf-8", "surrogateescape"), safe="/-_.~")


def _canonical_query(query_string: str) -> str:
    pairs = []
    for piece in query_string.split("&"):
        if not piece:
            continue
        name, _, value = piece.partition("=")
        if name != "X-Amz-Signature":
            pairs.append((_again(name), _again(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _again(text: str) -> str:
    return quote(unquote_to_bytes(text.replace("+", " ")), safe="-_.~")


# ---- version 2


def _v2_header(request: Request, held: str, now: float, bucket_prefix: str) -> Signed:
    access, colon, signature = held.removeprefix("AWS ").strip().rpartition(":")
    if not colon or not access:
        raise S3Error("InvalidArgument", "The AWS Authorization header needs an access key and a signature.")
    date = request.header("x-amz-date") or request.header("date")
    when = _http_date(date) if date else None
    if when is None and date:
        when = _iso(date)
    if when is None:
        raise denied("AWS authentication requires a valid Date or x-amz-date header")
    if abs(now - when) > SKEW:
        raise S3Error("RequestTimeTooSkewed")
    shown = "" if "x-amz-date" in request.headers else request.header("date")
    return _v2(request, access, signature, shown, bucket_prefix)


def _v2_query(request: Request, now: float, bucket_prefix: str) -> Signed:
    query = request.query
    if not {"AWSAccessKeyId", "Signature", "Expires"} <= query.keys():
        raise denied(
            "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters"
        )
    until = query["Expires"]
    if not (until.isascii() and until.isdecimal()) or len(until) > 12:
        raise denied(f"Invalid date (should be seconds since epoch): {until[:64]}")
    if now > int(until):
        raise denied("Request has expired")
    if int(until) > now + LONGEST + SKEW:
        raise denied("A presigned request may last for a week at most")
    return _v2(request, query["AWSAccessKeyId"], query["Signature"], until, bucket_prefix)


def _v2(request: Request, access: str, signature: str, date: str, bucket_prefix: str) -> Signed:
    path = bucket_prefix + request.target
    bare = path.count("/") == 1 and len(path) > 1
    other = _v2_text(request, date, path + "/") if bare else b""
    return Signed(access, signature, _v2_text(request, date, path), other=other)


def _v2_text(request: Request, date: str, path: str) -> bytes:
    query = request.query
    lines = [request.method, request.header("content-md5"), request.header("content-type"), date]
    lines += [
        f"{name}:{' '.join(request.headers[name].split())}"
        for name in sorted(request.headers)
        if name.startswith("x-amz-")
    ]
    # A parameter without "=" is signed without one too.
    bare = {piece for piece in request.query_string.split("&") if piece and "=" not in piece}
    parts = [
        name if name in bare else f"{name}={query[name]}" for name in sorted(query) if name in _SUBRESOURCES
    ]
    lines.append(path + ("?" + "&".join(parts) if parts else ""))
    return "\n".join(lines).encode("utf-8", "surrogateescape")
