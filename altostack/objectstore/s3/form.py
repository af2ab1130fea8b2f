"""Uploads by HTML forms, under a policy that somebody signed (Amazon S3 API reference, "POST Object")."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from altostack.objectstore.http import Refusal, Request, Response
from altostack.objectstore.middleware.multipart import Multipart, Part, parameters
from altostack.objectstore.middleware.versioned import VERSION_ID
from altostack.objectstore.s3 import (
    access,
    headers,
    keys,
    lock,
    notification,
    objects,
    signature,
    tagging,
    xml,
)
from altostack.objectstore.s3.body import Content
from altostack.objectstore.s3.call import Call, check_bucket_name, parsed
from altostack.objectstore.s3.errors import S3Error, denied, invalid
from altostack.objectstore.s3.signature import Signed
from altostack.objectstore.s3.versioning import kept_versions

_MAX_FIELDS: Final = 20 << 10  # bytes of all fields together
_FREE: Final = frozenset({"x-amz-signature", "file", "policy", "awsaccesskeyid", "signature"})
_AS_HEADERS: Final = (*headers.STORED, "content-type")


def upload(call: Call) -> Response:
    """POST Object. Raises S3Error."""
    check_bucket_name(call.name, strict=False)
    kind, given = parameters(call.header("content-type"))
    boundary = given.get("boundary", "")
    if kind != "multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise S3Error("MalformedPOSTRequest")
    try:
        fields, file, file_name = _read(Multipart(call.request.body, boundary))
    except Refusal as error:
        raise (
            error if isinstance(error, S3Error) else S3Error("MalformedPOSTRequest", error.message)
        ) from None
    key = fields.get("key")
    if not key:
        raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'key'.", ArgumentName="key")
    key = fields["key"] = key.replace("${filename}", file_name)
    if len(key.encode("utf-8", "surrogatepass")) > 1024:
        raise S3Error("KeyTooLongError")
    call.key = key
    least, most = _enter(call, fields)
    access.locate(call)
    access.authorize(call, "s3:PutObject", info=call.info, key=key)
    call.request = _as_put(call.request, fields)
    content = Content(file, None)
    content.least, content.most = least, min(most, objects.MOST)
    sent = (
        headers.for_put(call.request) | _tags(call, fields) | objects.acl_for_put(call) | lock.for_put(call)
    )
    try:
        response = objects.store(call, sent, content)
    except Refusal as error:
        raise error if isinstance(error, S3Error) else S3Error("MalformedPOSTRequest") from None
    etag = headers.etag_of(response.headers)
    version = response.headers.get(VERSION_ID, "null") if kept_versions(call.info) else ""
    notification.event(call, "s3:ObjectCreated:Post", size=content.count_read, etag=etag, version=version)
    return _answer(call, fields, etag, version)


def _read(form: Multipart) -> tuple[dict[str, str], Part, str]:
    """(fields by lower-case name, the file, its name). Fields behind the file mean nothing. Raises S3Error."""
    fields: dict[str, str] = {}
    size = 0
    for part in form:
        _, said = parameters(part.headers.get("content-disposition", ""))
        name = said.get("name", "").lower()
        if name == "file":
            file_name = said.get("filename", "").replace("\\", "/").rpartition("/")[2]
            if "content-type" in part.headers:
                fields.setdefault("content-type", part.headers["content-type"])
            return fields, part, file_name
        value = part.read(_MAX_FIELDS + 1)
        size += len(name) + len(value)
        if size > _MAX_FIELDS:
            raise S3Error("MaxPostPreDataLengthExceededError")
        if name in fields:
            raise S3Error("InvalidArgument", "A form field is given twice.", ArgumentName=name[:64])
        try:
            fields[name] = value.decode()
        except UnicodeDecodeError:
            raise S3Error("MalformedPOSTRequest", "The form's fields must be UTF-8.") from None
        if "\0" in fields[name]:
            raise S3Error("MalformedPOSTRequest")
    raise S3Error(
        "InvalidArgument", "POST requires exactly one file upload per request.", ArgumentName="file"
    )


# ---- who, and under which conditions


def _enter(call: Call, fields: Mapping[str, str]) -> tuple[int, int]:
    """Find out who signed the policy, and hold the form against it; how many bytes it allows. Raises S3Error."""
    text = fields.get("policy")
    if text is None:
        if "x-amz-signature" in fields or "signature" in fields:
            raise S3Error(
                "InvalidArgument", "Bucket POST must contain a field named 'policy'.", ArgumentName="policy"
            )
        return 0, objects.MOST
    call.signed = _signed(call, fields, text)
    call.caller = keys.find(call.gate.keys, call.signed)
    try:
        policy = json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        policy = None
    if not isinstance(policy, dict) or not isinstance(policy.get("conditions"), list):
        raise S3Error("InvalidPolicyDocument", "Invalid Policy: Invalid JSON.")
    _check_expiry(call, policy.get("expiration"))
    return _check_conditions(call, fields, policy["conditions"])


def _signed(call: Call, fields: Mapping[str, str], text: str) -> Signed:
    if "x-amz-signature" in fields or "x-amz-credential" in fields:
        for name in ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"):
            if name not in fields:
                raise S3Error(
                    "InvalidArgument", f"Bucket POST must contain a field named '{name}'.", ArgumentName=name
                )
        if fields["x-amz-algorithm"] != signature.V4:
            raise invalid("x-amz-algorithm", fields["x-amz-algorithm"][:64])
        known, scope = signature.scope_of(
            fields["x-amz-credential"],
            fields["x-amz-date"],
            call.gate.regions,
            "AuthorizationQueryParametersError",
        )
        return Signed(known, fields["x-amz-signature"], text.encode(), scope, "", fields["x-amz-date"])
    if "awsaccesskeyid" not in fields or "signature" not in fields:
        raise denied()
    return Signed(fields["awsaccesskeyid"], fields["signature"], text.encode())


def _check_expiry(call: Call, said: Any) -> None:
    try:
        until = datetime.fromisoformat(str(said))
    except ValueError:
        raise S3Error("InvalidPolicyDocument", "Invalid Policy: Invalid 'expiration' value.") from None
    until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
    if call.now > until.timestamp():
        raise denied("Invalid according to Policy: Policy expired.")


def _check_conditions(call: Call, fields: Mapping[str, str], conditions: list[Any]) -> tuple[int, int]:
    least, most = 0, objects.MOST
    named = {"bucket"}
    values = {**fields, "bucket": call.name}
    for one in conditions:
        if isinstance(one, dict):
            tests = [("eq", f"${name}", value) for name, value in one.items()]
        elif isinstance(one, list) and len(one) == 3:
            tests = [(str(one[0]).lower(), one[1], one[2])]
        else:
            raise S3Error("InvalidPolicyDocument", "Invalid Policy: Invalid condition.")
        for kind, name, value in tests:
            if kind == "content-length-range":
                try:
                    least, most = max(least, int(name)), min(most, int(value))
                except (TypeError, ValueError):
                    raise S3Error(
                        "InvalidPolicyDocument", "Invalid Policy: Invalid content-length-range."
                    ) from None
                continue
            if kind not in ("eq", "starts-with") or not isinstance(name, str) or not name.startswith("$"):
                raise S3Error("InvalidPolicyDocument", "Invalid Policy: Invalid condition.")
            plain = name[1:].lower()
            named.add(plain)
            held, wanted = values.get(plain, ""), str(value)
            good = held == wanted if kind == "eq" else _begins(plain, held, wanted)
            if not good:
                raise denied(
                    f'Invalid according to Policy: Policy Condition failed: ["{kind}", "${plain}", "{wanted}"]'
                )
    extra = [name for name in fields if name not in named | _FREE and not name.startswith("x-ignore-")]
    if extra and not (extra == ["content-type"] and "content-type" not in named):
        raise denied(f"Invalid according to Policy: Extra input fields: {extra[0]}")
    return least, most


def _begins(name: str, held: str, wanted: str) -> bool:
    if name == "content-type" and "," in held:
        return all(part.strip().startswith(wanted) for part in held.split(","))
    return held.startswith(wanted)


# ---- the request that it stands for


def _as_put(request: Request, fields: Mapping[str, str]) -> Request:
    """The same request with headers as a PUT of the object would have them."""
    found = {
        name: value for name, value in fields.items() if name in _AS_HEADERS or name.startswith("x-amz-")
    }
    for name in ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature", "x-amz-tagging"):
        found.pop(name, None)
    if "acl" in fields:
        found["x-amz-acl"] = fields["acl"]
    if any("\r" in value or "\n" in value for value in found.values()):
        raise S3Error("InvalidArgument", "A field's value has more than one line.")
    found |= {
        name: request.headers[name] for name in ("host", "origin", "referer") if name in request.headers
    }
    made = Request(
        "POST",
        request.target,
        headers=found,
        remote=request.remote,
        scheme=request.scheme,
        trans_id=request.trans_id,
    )
    return made


def _tags(call: Call, fields: Mapping[str, str]) -> dict[str, str]:
    text = fields.get("tagging")
    if not text:
        return {}
    root = parsed(text.encode(), "Tagging")
    found = {tag.get("Key"): tag.get("Value") for tag in root.all("TagSet", "Tag")}
    return {headers.TAGS: tagging.kept(tagging.checked(found, 10))} if found else {}


def _answer(call: Call, fields: Mapping[str, str], etag: str, version: str) -> Response:
    shown = {"etag": f'"{etag}"'} | ({"x-amz-version-id": version} if version else {})
    location = f"{call.request.scheme}://{call.header('host')}/{call.name}/{call.object}"
    redirect = fields.get("success_action_redirect") or fields.get("redirect")
    if redirect and (parts := _target(redirect)) is not None:
        more = urlencode({"bucket": call.name, "key": call.object, "etag": f'"{etag}"'})
        query = f"{parts.query}&{more}" if parts.query else more
        return Response(303, shown | {"location": urlunsplit(parts._replace(query=query))})
    status = fields.get("success_action_status", "204")
    if status == "201":
        body: list[xml.Child] = [
            ("Location", location), ("Bucket", call.name), ("Key", call.object), ("ETag", f'"{etag}"'),
        ]  # fmt: skip
        return Response(
            201, shown | {"content-type": "application/xml"}, xml.write("PostResponse", body, plain=True)
        )
    return Response(200 if status == "200" else 204, shown)


def _target(url: str) -> Any:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    good = parts.scheme in ("http", "https") and parts.netloc and not any(ord(letter) < 33 for letter in url)
    return parts if good else None
