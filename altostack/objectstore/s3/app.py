"""S3 at the object store's door: requests in S3's language become requests of the Swift API inside.

The filter answers what is signed as S3 requests are, what is posted as a form to a bucket, and every path whose first
segment is no word of Swift's. All else passes through. Source: Amazon S3 API reference (2006-03-01).
"""

from __future__ import annotations

import logging
from typing import Any

from altostack.objectstore.http import Handler, Refusal, Request, Response
from altostack.objectstore.middleware.acl import Acl
from altostack.objectstore.middleware.options import Wrap, flag, number, store_of, words
from altostack.objectstore.middleware.shape import parameters, with_parameters
from altostack.objectstore.s3 import cors, form, keys, operations, signature, worm
from altostack.objectstore.s3.buckets import Buckets
from altostack.objectstore.s3.call import SWIFT, Call, Gate
from altostack.objectstore.s3.delivery import Notices
from altostack.objectstore.s3.errors import S3Error, denied, render
from altostack.objectstore.s3.outward import Outward
from altostack.objectstore.s3.users import file_keys

log = logging.getLogger(__name__)


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """Options of the paste file:

    location: the region that clients sign for, and further ones (us-east-1 and the cloud's). domain: names under which
    buckets are reached as hosts (BUCKET.s3.example.com). dns_compliant_bucket_names (yes). min_segment_size: bytes of
    a part that is not the last (5 MiB). max_upload_part_num (10000). max_parts_listing (1000).
    key_ACCESS = SECRET ACCOUNT: an access key beside those of the identity service.
    notify_hosts: host or network[:port] to which events may be sent, beside public addresses.
    """
    store = store_of(conf)
    region = words(local.get("location", f"us-east-1, {store.region}"))
    found: list[keys.Keys] = [file_keys(conf, local, store.settings.account_prefix)]
    identity = store.clients.get("identity")
    if identity is not None and store.tokens is not None:
        found.append(keys.IdentityKeys(identity, store.tokens.epoch, store.settings.account_prefix))
    parts = number("max_upload_part_num", local.get("max_upload_part_num", "10000"))
    store.facts["s3api"] = {
        "s3_acl": True,
        "max_bucket_listing": 1000,
        "max_upload_part_num": parts,
        "max_multi_delete_objects": 1000,
    }
    smallest = number("min_segment_size", local.get("min_segment_size", str(5 << 20)))

    def wrap(app: Handler) -> Handler:
        gate = Gate(
            app=app,
            store=store,
            keys=found,
            judge=Acl(lambda request: Response(200), store),
            regions=region or ("us-east-1",),
            domains=[one.lower().strip(".") for one in words(local.get("domain", ""))],
            strict_names=flag(local.get("dns_compliant_bucket_names", "yes")),
            part_size=smallest,
            parts=min(parts, 10_000),
            listing=number("max_parts_listing", local.get("max_parts_listing", "1000")),
        )
        store.handlers["s3"] = gate
        gate.buckets = Buckets(gate)
        gate.notices = Notices(app, Outward(words(local.get("notify_hosts", ""))))
        return S3(gate)

    return wrap


class S3:
    """The filter."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __call__(self, request: Request) -> Response:
        if not self._mine(request):
            worm.check_early(self._gate.app, self._gate.store, request)
            response = self._gate.app(request)
            if response.entries:
                _tell_etags(response.entries)
            return response
        resource, head = request.path, request.method == "HEAD"
        call: Call | None = None
        try:
            bucket, key = self._place(request)
            call = Call(gate=self._gate, request=request, bucket=bucket, key=key)
            response = cors.preflight(call) if request.method == "OPTIONS" else self._answer(call)
        except S3Error as error:
            response = render(error, resource, request.trans_id, head=head)
        except Refusal as refusal:
            response = render(_translated(refusal), resource, request.trans_id, head=head)
        response.headers.setdefault("x-amz-request-id", request.trans_id)
        response.headers.setdefault("x-amz-id-2", request.trans_id)
        if call is not None:
            response.headers.update(call.headers_out)
            if "origin" in request.headers and call.bucket is not None and request.method != "OPTIONS":
                cors.decorate(call, response)
        return response

    def _mine(self, request: Request) -> bool:
        held = request.header("authorization")
        if held.startswith(("AWS ", signature.V4)):
            return True
        if request.facts.get("s3") or request.context is not None or request.authorize is not None:
            return False  # a request that another filter makes or has judged
        if self._bucket_of_host(request) is not None:
            return True
        if request.query_string and (
            "X-Amz-Signature=" in request.query_string
            or "X-Amz-Credential=" in request.query_string
            or "AWSAccessKeyId=" in request.query_string
        ):
            return True
        first = request.path.split("/", 2)[1] if request.path.startswith("/") else ""
        return bool(first) and first not in SWIFT

    def _bucket_of_host(self, request: Request) -> str | None:
        if not self._gate.domains:
            return None
        host = request.header("host").rpartition("@")[2]
        if ":" in host and not host.endswith("]"):
            host = host.rpartition(":")[0]
        host = host.lower().rstrip(".")
        for domain in self._gate.domains:
            if host.endswith("." + domain):
                return host[: -len(domain) - 1] or None
        return None

    def _place(self, request: Request) -> tuple[str | None, str | None]:
        bucket = self._bucket_of_host(request)
        path = request.path.removeprefix("/")
        if bucket is not None:
            return bucket, path or None
        name, _, key = path.partition("/")
        return name or None, key or None

    def _answer(self, call: Call) -> Response:
        gate, request = self._gate, call.request
        prefix = "/" + call.bucket if self._bucket_of_host(request) is not None and call.bucket else ""
        if operations.is_form(call):
            return form.upload(call)
        if request.header("x-amz-security-token") or "X-Amz-Security-Token" in request.query:
            raise S3Error("InvalidToken", "Temporary credentials are not given out here.")
        call.signed = signature.read(request, call.now, gate.regions, prefix)
        if call.signed is not None:
            call.caller = keys.find(gate.keys, call.signed)
        return operations.perform(call)


def _tell_etags(entries: list[dict[str, Any]]) -> None:
    """Tell Swift's clients an upload's ETag beside what they take for the hash."""
    for entry in entries:
        listed = entry.get("hash")
        if listed and "s3_etag=" in listed:
            etag, found = parameters(listed)
            entry["s3_etag"] = f'"{found.pop("s3_etag")}"'
            found.pop("s3_class", None)
            entry["hash"] = with_parameters(etag, found)


def _translated(refusal: Refusal) -> S3Error:
    """A refusal of the Swift API's in S3's words."""
    if refusal.status in (401, 403):
        return denied()
    code = {
        404: "NoSuchKey", 405: "MethodNotAllowed", 411: "MissingContentLength", 412: "InvalidURI",
        413: "EntityTooLarge", 498: "SlowDown", 499: "RequestTimeout", 503: "ServiceUnavailable",
        507: "ServiceUnavailable", 501: "NotImplemented",
    }.get(refusal.status)  # fmt: skip
    if code is None:
        code = "InternalError" if refusal.status >= 500 else "InvalidRequest"
    return S3Error(code, refusal.message if code == "InvalidRequest" else "")
