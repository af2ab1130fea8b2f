"""Requests that nobody should send: malformed, extreme, contradictory, and now and then a good one among them.

`wild(random)` makes one from a source of randomness: the same source makes the same request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from urllib.parse import quote, urlencode

from tests.objectstore.s3.signer import Signer, digest

ACCOUNT = "AUTH_test"
HOST = "127.0.0.1:8080"
TEMP_KEY = "temporary-key-of-the-fuzzer"
S3_SECRET = "secret-key-of-the-fuzzers-alice"
CONTAINERS = ("bucket-0", "bucket-1", "c2", "versions", "segments", "größe")
BUCKETS = ("bucket-0", "bucket-1", "bucket-0", "bucket-1", "bucket-2")
OBJECTS = ("o", "a/b", "a/c", "manifest", "dlo", "link", "ü/ 世界", "o?", "o%2F", "x" * 200)

WORDS = (
    "", " ", "0", "1", "-1", "true", "false", "on", "yes", "None", "null", "*", ".", "..", "../..", "/", "//",
    "a/b", "bucket-0/o", "/bucket-0/o", "bucket-0/", "bucket-1", "AUTH_test", "AUTH_other",
    "99999999999999999999", "1e999", "NaN", "inf", "0x10", "1.5", "+1", "\u0661", "%", "%%", "%2", "%zz", "%00",
    "%ff", "%C3%BC", "%0d%0aX: y", "ü", "世界", "🚀", "\x7f", "\t", "a" * 255, "a" * 257, "x" * 1025, "x" * 5000,
    "'", "\"", "\"x", "<a>&amp;", "{{7*7}}", "${x}", "a,b", "a;b=c", ";", ",", "=", "&", "bytes=0-5",
    "bytes=-1", "bytes=5-2", "bytes=0-0,2-3", "W/\"x\"", "\"d41d8cd98f00b204e9800998ecf8427e\"",
    "d41d8cd98f00b204e9800998ecf8427e", "application/json", "text/plain; charset=utf-8", "multipart/form-data",
    "Thu, 01 Jan 1970 00:00:00 GMT", "9999999999", "-5", "2038-01-19T03:14:07Z", "1700000000.12345",
    ".r:*,.rlistings", ".r:-a.b", "test:tester", "http://127.0.0.1:1/x", "//evil/", "0000000001.000000000",
    "v1", "\xa0", "\udcff", "[]", "{}", "[1,2", "\u2028", "à", "-", "--", "_", "~", "^", "|", "\\",
)  # fmt: skip
SWIFT_HEADERS = (
    "accept", "accept-encoding", "authorization", "cache-control", "connection", "content-disposition",
    "content-encoding", "content-length", "content-md5", "content-type", "cookie", "date", "destination",
    "destination-account", "etag", "expect", "expires", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "origin", "access-control-request-method",
    "access-control-request-headers", "range", "referer", "te", "trailer", "transfer-encoding", "upgrade",
    "user-agent", "x-account-access-control", "x-account-meta-a", "x-account-meta-quota-bytes",
    "x-account-meta-temp-url-key-2", "x-account-sysmeta-a", "x-auth-key", "x-auth-token", "x-auth-user",
    "x-backend-storage-policy-index", "x-backend-timestamp", "x-container-meta-a",
    "x-container-meta-access-control-allow-origin", "x-container-meta-quota-bytes",
    "x-container-meta-quota-count", "x-container-meta-web-index", "x-container-meta-web-listings",
    "x-container-meta-web-error", "x-container-read", "x-container-write", "x-container-sync-key",
    "x-container-sync-to", "x-container-sync-auth", "x-copied-from", "x-copy-from", "x-copy-from-account",
    "x-delete-after", "x-delete-at", "x-detect-content-type", "x-forwarded-for", "x-forwarded-proto",
    "x-fresh-metadata", "x-history-location", "x-newest", "x-object-manifest", "x-object-meta-",
    "x-object-meta-a", "x-object-sysmeta-a", "x-object-transient-sysmeta-a", "x-open-expired",
    "x-remove-container-meta-a", "x-remove-container-read", "x-remove-versions-location", "x-service-token",
    "x-sharding", "x-static-large-object", "x-storage-policy", "x-storage-token", "x-symlink-target",
    "x-symlink-target-account", "x-symlink-target-etag", "x-timestamp", "x-trans-id-extra",
    "x-undelete-enabled", "x-versions-enabled", "x-versions-location", "x-web-mode",
    "x-account-meta-web-listings", "x-object-version-id", "x-if-delete-at", "x-amz-date", "x-cors-a",
    "x-object-meta-nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
)  # fmt: skip
SWIFT_QUERIES = (
    "format", "limit", "marker", "end_marker", "prefix", "delimiter", "path", "reverse", "multipart-manifest",
    "heartbeat", "symlink", "version-id", "versions", "version_marker", "part-number", "extract-archive",
    "bulk-delete", "temp_url_sig", "temp_url_expires", "temp_url_prefix", "temp_url_ip_range", "filename",
    "inline", "states", "allow-reserved", "swiftinfo_sig", "swiftinfo_expires", "ignore_range", "policy",
    "X-Amz-Signature", "uploads", "",
)  # fmt: skip
S3_QUERIES = (
    "accelerate", "acl", "analytics", "attributes", "cors", "delete", "encryption", "intelligent-tiering",
    "inventory", "legal-hold", "lifecycle", "location", "logging", "metrics", "notification", "object-lock",
    "ownershipControls", "partNumber", "policy", "policyStatus", "publicAccessBlock", "replication",
    "requestPayment", "restore", "retention", "select", "tagging", "torrent", "uploadId", "uploads",
    "versionId", "versioning", "versions", "website", "list-type", "marker", "prefix", "delimiter", "max-keys",
    "encoding-type", "continuation-token", "start-after", "fetch-owner", "key-marker", "version-id-marker",
    "upload-id-marker", "max-uploads", "max-parts", "part-number-marker", "response-content-type",
    "response-expires", "response-content-disposition", "x-id", "select-type", "bypass",
)  # fmt: skip
S3_HEADERS = (
    "content-md5", "content-type", "content-encoding", "cache-control", "expires", "if-match", "if-none-match",
    "if-modified-since", "if-unmodified-since", "range", "x-amz-acl", "x-amz-grant-read",
    "x-amz-grant-full-control", "x-amz-copy-source", "x-amz-copy-source-range", "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-modified-since", "x-amz-metadata-directive", "x-amz-tagging-directive",
    "x-amz-tagging", "x-amz-meta-a", "x-amz-storage-class", "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-customer-algorithm", "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5", "x-amz-checksum-crc32", "x-amz-checksum-sha256",
    "x-amz-checksum-algorithm", "x-amz-sdk-checksum-algorithm", "x-amz-checksum-mode", "x-amz-trailer",
    "x-amz-decoded-content-length", "x-amz-security-token", "x-amz-bucket-object-lock-enabled",
    "x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold",
    "x-amz-bypass-governance-retention", "x-amz-expected-bucket-owner", "x-amz-request-payer",
    "x-amz-website-redirect-location", "x-amz-object-attributes", "x-amz-max-parts", "x-amz-mfa", "x-amz-date",
    "date", "origin", "access-control-request-method", "x-amz-write-offset-bytes", "x-amz-object-ownership",
    "x-amz-if-match-size", "x-amz-mp-object-size", "x-amz-rename-source", "x-amz-copy-source-version-id",
    "x-amz-meta-" + "m" * 2049,
)  # fmt: skip
METHODS = (
    "GET",
    "PUT",
    "POST",
    "DELETE",
    "HEAD",
    "COPY",
    "OPTIONS",
    "PATCH",
    "REPORT",
    "TRACE",
    "PROPFIND",
    "UPDATE",
)
XML = (
    "<{0}/>", "<{0}>", "<{0}></{0}>", "<{0}>\x00</{0}>", "<{0} xmlns='x'><Status>Enabled</Status></{0}>",
    "<{0}><A>1</A><A>2</A></{0}>",
    "<!DOCTYPE {0} [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><{0}><Key>&x;</Key></{0}>",
    "<!DOCTYPE {0} [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;'><!ENTITY c '&b;&b;&b;&b;'>]><{0}>&c;</{0}>",
    "<?xml version='1.0' encoding='utf-7'?><{0}/>", "<?xml version='1.0' encoding='x'?><{0}/>", "\ufeff<{0}/>",
    "<{0}>&#0;</{0}>",
)  # fmt: skip
XML_ROOTS = (
    "AccessControlPolicy", "CORSConfiguration", "CompleteMultipartUpload", "CreateBucketConfiguration",
    "Delete", "LegalHold", "LifecycleConfiguration", "NotificationConfiguration", "ObjectLockConfiguration",
    "Retention", "Tagging", "VersioningConfiguration", "WebsiteConfiguration", "BucketLoggingStatus",
    "PublicAccessBlockConfiguration", "OwnershipControls", "RestoreRequest",
    "ServerSideEncryptionConfiguration", "SelectObjectContentRequest", "x",
)  # fmt: skip
S3_ROOTS = {
    "acl": "AccessControlPolicy",
    "cors": "CORSConfiguration",
    "delete": "Delete",
    "legal-hold": "LegalHold",
    "lifecycle": "LifecycleConfiguration",
    "notification": "NotificationConfiguration",
    "object-lock": "ObjectLockConfiguration",
    "retention": "Retention",
    "tagging": "Tagging",
    "uploads": "",
    "versioning": "VersioningConfiguration",
    "versions": "",
    "policy": "",
}
XML_TAGS = (
    "Status", "Key", "Object", "VersionId", "Quiet", "Part", "PartNumber", "ETag", "Tag", "TagSet", "Value",
    "Rule", "ID", "Filter", "Prefix", "And", "Expiration", "Days", "Date", "NoncurrentVersionExpiration",
    "CORSRule", "AllowedOrigin", "AllowedMethod", "MaxAgeSeconds", "Owner", "AccessControlList", "Grant",
    "Grantee", "Permission", "DisplayName", "URI", "Mode", "RetainUntilDate", "DefaultRetention",
    "ObjectLockEnabled", "Years", "TopicConfiguration", "Topic", "QueueConfiguration", "Queue", "Event",
    "LocationConstraint", "MfaDelete", "Transition", "StorageClass", "AbortIncompleteMultipartUpload",
    "ChecksumCRC32", "BlockPublicAcls", "ObjectOwnership",
)  # fmt: skip
XML_VALUES = (
    "Enabled", "Suspended", "GOVERNANCE", "COMPLIANCE", "READ", "alice", "Disabled", "s3:ObjectCreated:*",
    "GET", "2030-01-01T00:00:00Z",
)  # fmt: skip


PATHS = (
    "/info", "/healthcheck", "/auth/v1.0", "/crossdomain.xml", "/v1", "/v1/", "/v2/x", "/v1.0/AUTH_test", "/recon/disk",
    "/endpoints/v1/a/c/o", "/v1//c/o", "/v1/AUTH_test//o", "/v1/AUTH_other/c/o", "/v1/.expiring_objects", "*",
    "/v1/AUTH_test/bucket-0/%FF", "/v1/AUTH_test/%00", "/v1/AUTH_test/bucket-0/..", "/v1/AUTH_test/../AUTH_other/c",
    "/v1/AUTH_test/%2E%2E/x", "/v1/AUTH_test/bucket-0//", "/v1/AUTH_test/bucket-0/a//b", "/v1/AUTH_test/%ED%A0%80",
    "/v1/AUTH_test/%00_versions", "/v1/AUTH_test/%00versions%00c0", "/v1/AUTH_test/.shards_x", "/auth/v1.0/x", "/sync",
)  # fmt: skip
AUTHORIZATIONS = (
    "AWS a:b", "AWS alice:", "AWS", "AWS :", "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256 x",
    "AWS4-HMAC-SHA256 Credential=,SignedHeaders=,Signature=",
    "AWS4-HMAC-SHA256 Credential=alice/x/y/s3/aws4_request, SignedHeaders=host, Signature=0",
)  # fmt: skip
HEAD_LINES = (
    b"X: a\0b", b"X: a\rb", b"X: a\nb", b" folded", b"X : y", b": y", b"\xff: y", b"X: \xff\xfe",
)  # fmt: skip
LENGTHS = (b"5", b"4", b"6", b"0", b"999", b"-1", b"x", b"5, 5", b"99999999999999999999")


@dataclass
class Wild:
    """One request. target: as it goes out. raw: what is sent instead of all else, over a socket."""

    kind: str
    method: str = "GET"
    target: str = "/"
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    raw: bytes | None = None
    framed: bool = False  # the body is sent as a chunk

    def bytes(self) -> bytes:
        """As it goes over the wire."""
        if self.raw is not None:
            return self.raw
        names = {name for name, _ in self.headers}
        lines = [f"{self.method} {wire(self.target)} HTTP/1.1"]
        lines += [f"{name}: {clean(value)}" for name, value in self.headers]
        if "host" not in names:
            lines.append(f"Host: {HOST}")
        lines.append("Connection: close")
        body = self.body
        if self.framed and not names & {"content-length", "transfer-encoding"}:
            lines.append("Transfer-Encoding: chunked")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif "content-length" not in names and "transfer-encoding" not in names:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def clean(value: str) -> str:
    return "".join(char for char in value if char == "\t" or (char >= " " and char != "\x7f"))


def wire(target: str) -> str:
    return quote(target, errors="surrogateescape", safe="/?&=%+~*;,:@!$'()[]|\\^`{}\"<>#-_.")


def word(r: Random) -> str:
    match r.randrange(12):
        case 0:
            return r.choice(WORDS) + r.choice(WORDS)
        case 1:
            return "".join(
                chr(r.choice((r.randrange(1, 128), r.randrange(128, 0x2FFF)))) for _ in range(r.randrange(20))
            )
        case 2:
            return str(r.choice((1, -1)) * r.randrange(1 << r.choice((1, 8, 31, 33, 63, 65, 200))))
        case 3:
            return str(int(time.time()) + r.randrange(-100, 100_000))
        case _:
            return r.choice(WORDS)


def text_of(value: str) -> str:
    """Without what is no Unicode text."""
    return value.encode("utf-8", "replace").decode()


def path(r: Random) -> str:
    """A Swift path, quoted, most of the time."""
    match r.randrange(14):
        case 0:
            return "/" + "/".join(wire(word(r)) for _ in range(r.randrange(6)))
        case 1:
            return r.choice(PATHS)
        case 2 | 3:
            return f"/v1/{ACCOUNT}"
        case 4 | 5 | 6:
            return f"/v1/{ACCOUNT}/" + quote(r.choice(CONTAINERS))
        case 7:
            return f"/v1/{ACCOUNT}/{r.choice(CONTAINERS[:3])}/{wire(word(r))}"
        case _:
            return f"/v1/{ACCOUNT}/" + quote(r.choice(CONTAINERS)) + "/" + quote(r.choice(OBJECTS))


def query(r: Random, names: tuple[str, ...], most: int = 3) -> str:
    parts = []
    for _ in range(r.randrange(most + 1)):
        name, value = r.choice(names), r.choice((word(r), "json", "xml", "get", "delete", "put", "1", "copy"))
        match r.randrange(5):
            case 0:
                parts.append(name)
            case 1:
                parts.append(f"{name}={wire(value)}")
            case _:
                parts.append(f"{quote(name)}={quote(value, safe='', errors='replace')}")
    return ("?" + "&".join(parts)) if parts else ""


def headers(r: Random, names: tuple[str, ...], most: int = 4) -> list[tuple[str, str]]:
    found = [(r.choice(names), word(r)) for _ in range(r.randrange(most + 1))]
    # What lies about the body's length belongs to the framing, not to every fourth request.
    return [
        one
        for one in found
        if one[0] not in ("content-length", "transfer-encoding", "connection", "upgrade") or r.random() < 0.1
    ]


def body(r: Random) -> bytes:
    match r.randrange(8):
        case 0:
            return r.randbytes(r.randrange(300))
        case 1:
            return b"x" * r.choice((1, 100, 65535, 65536, 65537, 300_000))
        case 2:
            return word(r).encode("utf-8", "replace")
        case _:
            return b""


def swift(r: Random, token: str) -> Wild:
    made = Wild(
        "swift",
        r.choice(METHODS[: r.choice((7, 12))]),
        path(r) + query(r, SWIFT_QUERIES),
        headers(r, SWIFT_HEADERS),
        body(r),
    )
    if r.random() < 0.85:
        made.headers.append(("x-auth-token", token))
    if r.random() < 0.3 and made.method == "PUT":
        made.headers.append(
            (
                r.choice(("x-copy-from", "x-symlink-target", "x-object-manifest")),
                f"{r.choice(CONTAINERS)}/{r.choice(OBJECTS)}",
            )
        )
    if r.random() < 0.05:
        made.headers.append((r.choice(SWIFT_HEADERS[-50:]), word(r)))
        made.headers.append(made.headers[-1])
    made.framed = r.random() < 0.2
    return made


def plain(r: Random, token: str) -> Wild:
    """What a good client does: so that there is something for the others to work on."""
    name = f"/v1/{ACCOUNT}/" + quote(r.choice(CONTAINERS))
    if r.random() < 0.8:
        name += "/" + quote(r.choice(OBJECTS))
    made = Wild(
        "plain", r.choice(("PUT", "PUT", "GET", "HEAD", "POST", "DELETE")), name, [("x-auth-token", token)]
    )
    if made.method == "PUT":
        made.body = r.randbytes(r.randrange(2000))
    return made


def json_value(r: Random, depth: int = 0) -> object:
    match r.randrange(9 if depth < 4 else 6):
        case 0:
            return r.choice((None, True, False))
        case 1:
            return r.choice((0, -1, 1, 1.5, 1 << 70, -(1 << 64), float("nan"), float("inf")))
        case 2 | 3 | 4 | 5:
            return word(r).encode("utf-8", "replace").decode()
        case 6:
            return [json_value(r, depth + 1) for _ in range(r.randrange(4))]
        case _:
            keys = ("path", "etag", "size_bytes", "range", "data", "name", "hash", "sub_slo", "bytes", "")
            return {r.choice(keys): json_value(r, depth + 1) for _ in range(r.randrange(4))}


def json_text(r: Random) -> bytes:
    match r.randrange(7):
        case 0:
            return r.choice(
                (
                    b"[",
                    b"[" * 100_000,
                    b'{"a":' * 5000,
                    b"[1,]",
                    b"\xff",
                    b"\xef\xbb\xbf[]",
                    b"[" + b"1" * 5000 + b"]",
                    b'"\\ud800"',
                    b"nul",
                )
            )
        case 1:
            return json.dumps(json_value(r)).encode()
        case 2:
            return json.dumps([{"path": "/bucket-0/o"}] * 1001).encode()
        case _:
            entries = []
            for _ in range(r.randrange(1, 5)):
                one: dict[str, object] = {"path": f"/{r.choice(CONTAINERS)}/{r.choice(OBJECTS)}"}
                for key in ("etag", "size_bytes", "range"):
                    if r.random() < 0.2:
                        one[key] = r.choice((None, json_value(r), "0-5", "-3", 5))
                if r.random() < 0.1:
                    one = {"data": r.choice((json_value(r), base64.b64encode(r.randbytes(9)).decode()))}
                entries.append(one)
            return json.dumps(entries).encode()


def slo(r: Random, token: str) -> Wild:
    target = f"/v1/{ACCOUNT}/{r.choice(CONTAINERS[:3])}/{quote(r.choice(OBJECTS[2:6]))}"
    how = r.choice(("put", "put", "put", "get", "delete", "PUT", ""))
    method = r.choice(("PUT", "PUT", "PUT", "GET", "DELETE", "HEAD"))
    more = query(r, SWIFT_QUERIES, 1).replace("?", "&")
    names = ("etag", "content-type", "range", "x-object-manifest", "x-static-large-object")
    content = json_text(r) if method == "PUT" else b""
    return Wild(
        "slo", method, f"{target}?multipart-manifest={how}{more}",
        [("x-auth-token", token), *headers(r, names, 1)], content, framed=r.random() < 0.1,
    )  # fmt: skip


def archive(r: Random) -> bytes:
    held = io.BytesIO()
    with tarfile.open(
        fileobj=held,
        mode=r.choice(("w", "w:gz", "w:bz2")),
        format=r.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)),
    ) as tar:
        for _ in range(r.randrange(4)):
            info = tarfile.TarInfo(
                r.choice(
                    (
                        "bucket-0/o",
                        "../../etc/passwd",
                        "/abs",
                        "bucket-1/" + word(r)[:300],
                        word(r)[:300],
                        "a",
                        "bucket-0/",
                    )
                ).replace("\0", "")
                or "x"
            )
            info.name = info.name.encode("utf-8", "replace").decode()
            content = r.randbytes(r.randrange(2000))
            info.size, info.type = (
                len(content),
                r.choice(
                    (
                        tarfile.REGTYPE,
                        tarfile.REGTYPE,
                        tarfile.SYMTYPE,
                        tarfile.DIRTYPE,
                        tarfile.LNKTYPE,
                        tarfile.CHRTYPE,
                    )
                ),
            )
            if info.type != tarfile.REGTYPE:
                info.size, info.linkname = 0, "/etc/passwd"
            if r.random() < 0.3:
                info.pax_headers = {
                    "SCHILY.xattr.user.meta." + r.choice(("a", "b:c", "ü")): r.choice(("1", "a b", "ü"))
                }
            tar.addfile(info, io.BytesIO(content))
    return mangled(r, held.getvalue())


def mangled(r: Random, content: bytes) -> bytes:
    match r.randrange(6):
        case 0:
            return content[: r.randrange(len(content) + 1)]
        case 1 if content:
            changed = bytearray(content)
            for _ in range(r.randrange(1, 5)):
                changed[r.randrange(min(len(changed), 2000))] = r.randrange(256)
            return bytes(changed)
        case 2:
            at = r.randrange(len(content) + 1)
            return content[:at] + r.randbytes(r.randrange(20)) + content[at:]
        case _:
            return content


def bulk(r: Random, token: str) -> Wild:
    headers_ = [
        ("x-auth-token", token),
        ("accept", r.choice(("application/json", "text/xml", "text/plain", "image/png", "*/*", ""))),
    ]
    if r.random() < 0.5:
        lines = [
            r.choice(
                (
                    f"/bucket-0/{quote(r.choice(OBJECTS))}",
                    "bucket-1",
                    "",
                    "%",
                    "%ff",
                    "/" * 9,
                    word(r),
                    "x" * 3000,
                )
            )
            for _ in range(r.randrange(6))
        ]
        text = r.choice(("\n", "\r\n", "\n\n")).join(lines).encode("utf-8", "replace")
        return Wild(
            "bulk delete",
            r.choice(("POST", "DELETE")),
            f"/v1/{ACCOUNT}?bulk-delete",
            [*headers_, ("content-type", r.choice(("text/plain", "", "x")))],
            text,
            framed=r.random() < 0.2,
        )
    target = r.choice(("", "/bucket-1", "/bucket-1/prefix", "/" + wire(word(r))))
    form = r.choice(("tar", "tar.gz", "tar.bz2", "zip", "", ".tar"))
    return Wild(
        "archive",
        "PUT",
        f"/v1/{ACCOUNT}{target}?extract-archive={form}",
        headers_,
        archive(r),
        framed=r.random() < 0.2,
    )


def multipart(r: Random, fields: dict[str, str], content: bytes, boundary: str = "----b") -> bytes:
    parts = []
    items = list(fields.items())
    if r.random() < 0.1:
        r.shuffle(items)
    for name, value in items:
        if r.random() < 0.05:
            value = word(r)
        parts.append(
            f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode("utf-8", "replace")
        )
    name = r.choice(("f", "../x", word(r), "a" * 2000)).encode("utf-8", "replace")
    parts.append(
        b'Content-Disposition: form-data; name="file"; filename="'
        + name
        + b'"\r\nContent-Type: text/plain\r\n\r\n'
        + content
    )
    line = f"--{boundary}\r\n".encode()
    return mangled(r, b"".join(line + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode())


def form(r: Random, token: str) -> Wild:
    base = f"/v1/{ACCOUNT}/{r.choice(CONTAINERS[:3])}/up_"
    fields = {
        "redirect": r.choice(("", "http://h/?a", word(r))), "max_file_size": r.choice(("100", "5000", word(r))),
        "max_file_count": r.choice(("2", word(r))), "expires": r.choice((str(int(time.time()) + 99), word(r))),
    }  # fmt: skip
    text = "\n".join([base, *fields.values()]).encode("utf-8", "replace")
    fields["signature"] = hmac.new(
        TEMP_KEY.encode(), text, r.choice(("sha256", "sha1", "sha512"))
    ).hexdigest()
    for _ in range(r.randrange(2)):
        fields[r.choice(("x_delete_at", "x_delete_after", "x", ""))] = word(r)
    kind = r.choice(
        (
            "multipart/form-data; boundary=----b",
            "multipart/form-data; boundary=----b",
            'multipart/form-data; boundary="',
            "multipart/form-data; boundary=" + word(r),
        )
    )
    return Wild(
        "form",
        "POST",
        base,
        [("content-type", kind)],
        multipart(r, fields, r.randbytes(r.randrange(200))),
        framed=r.random() < 0.2,
    )


def temp_url(r: Random, token: str) -> Wild:
    method = r.choice(METHODS[:7])
    where = f"/v1/{ACCOUNT}/{r.choice(CONTAINERS[:3])}/{r.choice(OBJECTS)}"
    expires = r.choice((str(int(time.time()) + 99), word(r), "1", "2030-01-01T00:00:00Z"))
    text = f"{r.choice((method, 'GET'))}\n{expires}\n{where}".encode("utf-8", "replace")
    made = {
        "temp_url_sig": r.choice((hmac.new(TEMP_KEY.encode(), text, hashlib.sha256).hexdigest(), word(r))),
        "temp_url_expires": expires,
    }
    for _ in range(r.randrange(3)):
        made[
            r.choice(("temp_url_prefix", "temp_url_ip_range", "filename", "inline", "x", "temp_url_sig"))
        ] = word(r)
    return Wild(
        "temp url",
        method,
        quote(where) + "?" + urlencode(made, errors="replace"),
        headers(r, SWIFT_HEADERS, 2),
        body(r),
    )


def xml(r: Random) -> str:
    match r.randrange(8):
        case 0:
            return r.choice(XML).format(r.choice(XML_ROOTS))
        case 1:
            many = ("<a" * 3000, "<a>" * 20_000, "x" * 100_000, "<x>" + "<Key/>" * 20_000 + "</x>")
            return r.choice(("", "<", word(r), json_text(r).decode("utf-8", "replace"), *many))
    return element(r, r.choice(XML_ROOTS), 0)


def element(r: Random, name: str, depth: int) -> str:
    if depth > 3 or (depth and r.random() < 0.4):
        inner = r.choice((*XML_VALUES, word(r).replace("&", "&amp;").replace("<", "&lt;")))
    else:
        inner = "".join(element(r, r.choice(XML_TAGS), depth + 1) for _ in range(r.randrange(4)))
    return f"<{name}>{inner}</{name}>"


def signer(r: Random) -> Signer:
    made = Signer(f"http://{HOST}", access="alice", secret=S3_SECRET)
    match r.randrange(60):
        case 0:
            made.secret = "wrong"
        case 1:
            made.access = text_of(word(r))
        case 2:
            made.when = datetime.now(UTC) + timedelta(seconds=r.choice((-90000, -1000, 1000, 10**8)))
        case 3:
            made.region = text_of(word(r))
        case 4:
            made.service = text_of(word(r))
    return made


def s3_path(r: Random) -> str:
    """Decoded."""
    match r.randrange(10):
        case 0:
            return "/"
        case 1:
            return "/" + r.choice((word(r), word(r) + "/" + word(r))).encode(
                "utf-8", "replace"
            ).decode().replace("\0", "")
        case 2 | 3 | 4 | 5:
            return "/" + r.choice(BUCKETS)
        case _:
            return f"/{r.choice(BUCKETS)}/{r.choice(OBJECTS)}"


def s3(r: Random, token: str) -> Wild:
    method, where = (
        r.choice(("GET", "GET", "PUT", "PUT", "POST", "POST", "DELETE", "HEAD", "OPTIONS")),
        s3_path(r),
    )
    asked, content, more = {}, b"", {}
    noisy = r.random() < 0.5
    if noisy:
        asked = {
            r.choice(S3_QUERIES): text_of(r.choice(("", "", "", word(r), "1", "2")))
            for _ in range(r.randrange(3))
        }
    elif r.random() < 0.6:
        asked = {r.choice(list(S3_ROOTS)): ""}
    if method in ("PUT", "POST"):
        root = S3_ROOTS.get(next(iter(asked), ""), "")
        kinds = (lambda: body(r), lambda: xml(r).encode("utf-8", "replace"), lambda: json_text(r))
        content = (
            element(r, root, 0).encode("utf-8", "replace") if root and r.random() < 0.7 else r.choice(kinds)()
        )
    for name, value in headers(r, S3_HEADERS, 3 if noisy else 1):
        value = text_of(clean(value).strip())
        more[name] = (
            r.choice((value, f"/{r.choice(BUCKETS)}/{quote(r.choice(OBJECTS))}"))
            if "source" in name
            else value
        )
    if "delete" in asked and r.random() < 0.8:
        more["content-md5"] = base64.b64encode(hashlib.md5(content).digest()).decode()
    wrong = (text_of(word(r).strip()), "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "UNSIGNED-PAYLOAD")
    payload = r.choice(wrong) if r.random() < 0.15 else digest(content)
    more.pop("host", None)
    signed = signer(r).headers(method, where, payload=clean(payload), query=asked, more=more)
    if r.random() < 0.1:
        name = r.choice(list(signed))
        signed[name] = r.choice((word(r), signed[name] + "x", signed[name][: len(signed[name]) // 2]))
    if r.random() < 0.05:
        signed["authorization"] = r.choice(AUTHORIZATIONS)
    target = quote(where, safe="/-_.~") + (
        "?" + "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in asked.items())
        if asked
        else ""
    )
    return Wild("s3", method, target, list(signed.items()), content)


def s3_stream(r: Random, token: str) -> Wild:
    """aws-chunked."""
    where = f"/{r.choice(BUCKETS)}/{r.choice(OBJECTS)}"
    parts = [r.randbytes(r.choice((1, 100, 8192, 20_000))) for _ in range(r.randrange(4))]
    trailers = (
        {
            r.choice(("x-amz-checksum-crc32", "x-amz-checksum-sha256", "x")): r.choice(
                ("AAAAAA==", word(r).strip())
            )
        }
        if r.random() < 0.4
        else None
    )
    trailers = (
        {k: clean(v).encode("utf-8", "replace").decode() for k, v in trailers.items()} if trailers else None
    )
    sent, content = signer(r).chunked(where, parts, trailers, break_at=r.choice((-1, -1, 0, 1)))
    if r.random() < 0.2:
        sent[
            r.choice(
                ("x-amz-decoded-content-length", "x-amz-trailer", "content-encoding", "x-amz-content-sha256")
            )
        ] = word(r)
    return Wild(
        "s3 stream", "PUT", quote(where), list(sent.items()), mangled(r, content), framed=r.random() < 0.2
    )


def s3_link(r: Random, token: str) -> Wild:
    method, where = r.choice(("GET", "PUT", "HEAD", "DELETE")), f"/{r.choice(BUCKETS)}/{r.choice(OBJECTS)}"
    target = signer(r).presigned(method, where, r.choice((300, 0, -1, 10**9)))
    if r.random() < 0.5:
        target = mangled(r, target.encode()).decode("latin-1")
        target = "/" + "".join(char for char in target if " " < char < "\x7f").lstrip("/")
    if r.random() < 0.1:
        signed = {"AWSAccessKeyId": "alice", "Expires": text_of(word(r)), "Signature": text_of(word(r))}
        target = f"{quote(where)}?{urlencode(signed)}"
    return Wild("s3 link", method, target, headers(r, S3_HEADERS, 2), body(r) if method == "PUT" else b"")


GOOD = [["starts-with", f"${name}", ""] for name in (
    "key", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "acl", "tagging", "success_action_status",
    "success_action_redirect", "x-amz-meta-a", "content-type", "bucket",
)]  # fmt: skip


def s3_form(r: Random, token: str) -> Wild:
    made = signer(r)
    policy = {"expiration": r.choice(("2030-01-01T00:00:00Z", word(r), None)), "conditions": r.choice(
        (GOOD, GOOD, [], json_value(r), [["content-length-range", 0, 10]], [{"key": 1}]))}  # fmt: skip
    text = base64.b64encode(json_text(r) if r.random() < 0.2 else json.dumps(policy).encode()).decode()
    some = r.choice(
        ("tagging", "success_action_status", "success_action_redirect", "x-amz-meta-a", "content-type")
    )
    fields = {
        "key": r.choice(("form", "${filename}", word(r))), "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{made.access}/{made.scope}", "x-amz-date": made.date, "policy": text,
        "x-amz-signature": made.sign(text), "acl": r.choice(("private", word(r))), some: word(r),
    }  # fmt: skip
    kind = r.choice(
        (
            "multipart/form-data; boundary=----b",
            "multipart/form-data; boundary=----b",
            "multipart/form-data; boundary=----b",
            "multipart/form-data; boundary=" + word(r),
        )
    )
    return Wild(
        "s3 form",
        "POST",
        f"/{r.choice(BUCKETS)}",
        [("content-type", kind)],
        multipart(r, fields, r.randbytes(r.randrange(200))),
    )


def framing(r: Random, token: str) -> Wild:
    """What is wrong below the requests: heads and chunks."""
    head = f"PUT /v1/{ACCOUNT}/bucket-0/o HTTP/1.1\r\nHost: {HOST}\r\nX-Auth-Token: {token}\r\n".encode()
    match r.randrange(6):
        case 0:
            sizes = (
                b"5",
                b"05",
                b"5;x=y",
                b"5 ",
                b"g",
                b"-5",
                b"",
                b"fffffffff",
                b"5\n",
                b"5;" + b"x" * 5000,
                b"0",
            )
            chunks = []
            for _ in range(r.randrange(1, 4)):
                chunks.append(r.choice(sizes) + b"\r\nhello" + r.choice((b"\r\n", b"\r\n", b"", b"\n", b"x")))
            raw = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"
        case 1:
            raw = head + b"Content-Length: " + r.choice(LENGTHS) + b"\r\n"
            raw += (
                r.choice(
                    (
                        b"",
                        b"",
                        b"Content-Length: 5\r\n",
                        b"Transfer-Encoding: chunked\r\n",
                        b"Expect: 100-continue\r\n",
                    )
                )
                + b"\r\nhello"
            )
        case 2:
            raw = mangled(r, head + b"Content-Length: 5\r\n\r\nhello")
        case 3:
            raw = r.randbytes(r.randrange(1, 200)) + r.choice((b"", b"\r\n\r\n"))
        case 4:
            many = b"".join(b"X-%d: y\r\n" % number for number in range(r.choice((400, 600))))
            raw = head + r.choice((b"X: " + b"x" * 70_000, many, *HEAD_LINES)) + b"\r\n\r\n"
        case _:
            raw = mangled(r, swift(r, token).bytes())
    return Wild("framing", raw=raw)


MAKERS: tuple[tuple[Callable[[Random, str], Wild], int], ...] = (
    (swift, 30), (plain, 12), (slo, 8), (bulk, 6), (form, 6), (temp_url, 6), (s3, 20), (s3_stream, 4), (s3_link, 4),
    (s3_form, 4), (framing, 10),
)  # fmt: skip


def wild(r: Random, token: str) -> Wild:
    """One request. token: of somebody who may work on `ACCOUNT`."""
    makers, weights = zip(*MAKERS, strict=True)
    return r.choices(makers, weights)[0](r, token)  # type: ignore[no-any-return]
