"""One S3 request on its way through the operations, and what they have in common: requests to the Swift API inside."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from altostack.objectstore import stamp
from altostack.objectstore.http import Body, Handler, Refusal, Request, Response
from altostack.objectstore.middleware.acl import Acl
from altostack.objectstore.s3 import xml
from altostack.objectstore.s3.body import Content, content_of, small
from altostack.objectstore.s3.errors import S3Error, invalid
from altostack.objectstore.s3.keys import Caller, Keys
from altostack.objectstore.s3.signature import Signed
from altostack.objectstore.storage import Info
from altostack.objectstore.store import Store

if TYPE_CHECKING:
    from altostack.objectstore.s3.buckets import Buckets
    from altostack.objectstore.s3.delivery import Notices

MAX_DOCUMENT: Final = 4 << 20  # bytes of XML or JSON in a request
SEGMENTS: Final = "+segments"  # after a bucket's name: the container of its multipart uploads
EVENTS: Final = "+events"  # and that of events that are still to be delivered
SWIFT: Final = frozenset(
    {"v1", "v1.0", "info", "auth", "healthcheck", "recon", "crossdomain.xml", "endpoints"}
)  # what a path begins with that is not S3's
_IP = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OLD_NAME = re.compile(r"[A-Za-z0-9_.-]{3,255}")


@dataclass(kw_only=True)
class Gate:
    """What all requests share. app: the pipeline inside of the filter. regions: ours first, then others accepted.

    judge: says what Swift's own ACLs and the policy engine allow. options: of the paste file, by name.
    """

    app: Handler
    store: Store
    keys: Sequence[Keys]
    judge: Acl
    regions: Sequence[str] = ("us-east-1",)
    domains: Sequence[str] = ()
    strict_names: bool = True
    part_size: int = 5 << 20
    parts: int = 10_000
    listing: int = 1000
    buckets: Buckets = field(init=False)
    notices: Notices = field(init=False)


@dataclass(kw_only=True)
class Call:
    """bucket, key: None where the request names none. account: whose bucket it is; of the service itself, the
    caller's. caller: None for an anonymous request. signed: its signature. form: fields of a POST upload."""

    gate: Gate
    request: Request
    bucket: str | None = None
    key: str | None = None
    caller: Caller | None = None
    signed: Signed | None = None
    account: str = ""
    version: str | None = None
    headers_out: dict[str, str] = field(default_factory=dict)

    # ---- what was asked

    @property
    def store(self) -> Store:
        return self.gate.store

    @property
    def query(self) -> dict[str, str]:
        return self.request.query

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return self.store.clock.seconds()

    def header(self, name: str, default: str = "") -> str:
        return self.request.headers.get(name, default)

    def number(self, name: str, default: int, most: int, least: int = 0) -> int:
        """A number in the query, at most ``most``. Raises S3Error."""
        said = self.query.get(name)
        if said is None or said == "":
            return default
        if not (said.isascii() and said.isdecimal()) or len(said) > 10 or not least <= int(said) <= 2**31 - 1:
            raise invalid(name, said, f"Argument {name} must be an integer between {least} and 2147483647")
        return min(int(said), most)

    @property
    def name(self) -> str:
        """The bucket's name."""
        assert self.bucket is not None
        return self.bucket

    @property
    def object(self) -> str:
        """The key."""
        assert self.key is not None
        return self.key

    @cached_property
    def info(self) -> Info:
        """The bucket. Raises S3Error NoSuchBucket."""
        found = self.find(self.name)
        if found is None:
            raise S3Error("NoSuchBucket", BucketName=self.name)
        return found

    def find(self, container: str, account: str = "") -> Info | None:
        """A container of the account, None if there is none."""
        found = self.store.known.container(account or self.account, container)
        return None if found is None or found.gone else found

    def forget(self) -> None:
        """The bucket changed."""
        self.__dict__.pop("info", None)

    def content(self) -> Content:
        """The object that comes in the body. Raises S3Error."""
        return content_of(self.request, self.caller, self.signed)

    def raw(self, limit: int = MAX_DOCUMENT) -> bytes:
        """The document in the body. Raises S3Error."""
        return small(self.request, self.caller, self.signed, limit)

    def document(self, root: str, code: str = "MalformedXML") -> xml.Element:
        """The XML document in the body. Raises S3Error."""
        text = self.raw()
        if not text:
            raise S3Error("MissingRequestBodyError")
        return parsed(text, root, code)

    # ---- what Swift says

    def swift(
        self,
        method: str,
        container: str | None = None,
        key: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        account: str = "",
        footers: Callable[[dict[str, str]], None] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Response:
        """The Swift API's answer to a request that is allowed. Raises S3Error for what is wrong with a body."""
        path = "/".join(part for part in ("/v1", account or self.account, container, key) if part is not None)
        given = dict(headers or {})
        length = len(body) if isinstance(body, bytes) else body.length if body is not None else 0
        if length is None:
            given["transfer-encoding"] = "chunked"
        elif method in ("PUT", "POST"):
            given.setdefault("content-length", str(length))
        sub = self.request.sub(
            method, path, query_string=urlencode(query) if query else "", headers=given, body=body
        )
        sub.context = self.caller.context if self.caller is not None else None
        sub.facts = {"s3": True, **(facts or {})}
        if footers is not None:
            sub.facts["footers"] = footers
        sub.authorize = allowed
        try:
            response = self.gate.app(sub)
        except S3Error:
            raise
        except Refusal as refusal:
            response = refusal.response()
        if isinstance(body, Content) and body.trouble is not None:
            response.close()
            raise body.trouble
        return response

    def must(self, response: Response, *codes: int) -> Response:
        """The response, if it is good or of one of ``codes``. Raises S3Error for any other."""
        if response.good or response.status in codes:
            return response
        raise self.trouble(response)

    def trouble(self, response: Response) -> S3Error:
        """What Swift refused, in S3's words."""
        text = response.read().decode("utf-8", "replace")[:500]
        said = "" if text.startswith("<html>") else text.strip()
        status = response.status
        if status == 404:
            if self.key is not None:
                if self.version is not None:
                    return S3Error("NoSuchVersion", Key=self.key, VersionId=self.version)
                return S3Error("NoSuchKey", Key=self.key)
            return S3Error("NoSuchBucket", BucketName=self.bucket or "")
        if status == 416:
            return S3Error("InvalidRange")
        code = _CODES.get(status)
        if code is None:
            code = "InternalError" if status >= 500 else "InvalidRequest"
        return S3Error(code, said if 400 <= status < 500 and code == "InvalidRequest" else "")

    @property
    def owner(self) -> str:
        """The canonical user id of the bucket's owner."""
        return self.account.removeprefix(self.store.settings.account_prefix)


_CODES: Final[Mapping[int, str]] = {
    401: "AccessDenied",
    403: "AccessDenied",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    422: "BadDigest",
    498: "SlowDown",
    499: "RequestTimeout",
    503: "ServiceUnavailable",
    507: "ServiceUnavailable",
}


def allowed(request: Request, acl: str | None) -> None:
    """Lets through what S3's own rules let through."""
    request.facts["owner"] = True


def parsed(text: bytes, root: str, code: str = "MalformedXML") -> xml.Element:
    """A document. Raises S3Error."""
    try:
        return xml.parse(text, root)
    except xml.Malformed:
        raise S3Error(code) from None


def document(root: str, children: Sequence[xml.Child], headers: Mapping[str, str] | None = None) -> Response:
    """An XML answer."""
    return Response(200, {"content-type": "application/xml", **(headers or {})}, xml.write(root, children))


def check_bucket_name(name: str, *, strict: bool) -> None:
    """Raises S3Error for what cannot be a bucket's name (Amazon S3 user guide, "Bucket naming rules")."""
    good = _NAME.fullmatch(name) if strict else _OLD_NAME.fullmatch(name)
    if good and (
        name in SWIFT or ".." in name or (strict and (".-" in name or "-." in name)) or _IP.fullmatch(name)
    ):
        good = None
    if not good:
        raise S3Error("InvalidBucketName", BucketName=name)


def iso(timestamp: str) -> str:
    """A time as S3's documents show it; ``timestamp``: ours, or a listing's ISO form."""
    if "T" not in timestamp:
        timestamp = stamp.iso(timestamp)
    return timestamp[:19] + ".000Z"


def metadata(info: Info, name: str) -> str:
    """A container's metadata, "" when it is not set."""
    found = info.metadata.get(name)
    return found[0] if found is not None else ""
