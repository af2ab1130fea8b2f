"""DeleteObjects: many keys in one request."""

from __future__ import annotations

from typing import Final

from altostack.objectstore.http import Refusal, Response
from altostack.objectstore.s3 import access, headers, objects, xml
from altostack.objectstore.s3.call import Call, document
from altostack.objectstore.s3.errors import S3Error

MOST: Final = 1000


def delete_objects(call: Call) -> Response:
    """Each key is deleted by itself and has its own result."""
    request = call.request
    if not any(
        name == "content-md5" or name.startswith("x-amz-checksum-") for name in request.headers
    ) and not (call.signed is not None and len(call.signed.payload) == 64):
        raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5")
    root = call.document("Delete")
    wanted = list(root.all("Object"))
    if not wanted or len(wanted) > MOST:
        raise S3Error("MalformedXML")
    quiet = root.get("Quiet").lower() == "true"
    found: list[xml.Child] = []
    for one in wanted:
        key, version = one.find("Key"), one.find("VersionId")
        if key is None or not key.text:
            raise S3Error("MalformedXML")
        named: list[xml.Child] = [("Key", key.text)]
        if version is not None:
            named.append(("VersionId", version.text.strip()))
        try:
            shown = _delete(call, key.text, version.text.strip() if version is not None else None, one)
        except Refusal as error:
            code = error.code if isinstance(error, S3Error) else "InternalError"
            found.append(("Error", [*named, ("Code", code), ("Message", error.message)]))
            continue
        if quiet:
            continue
        if shown.get("x-amz-delete-marker"):
            named.append(("DeleteMarker", True))
            named.append(("DeleteMarkerVersionId", shown.get("x-amz-version-id")))
        found.append(("Deleted", named))
    return document("DeleteResult", found)


def _delete(call: Call, key: str, version: str | None, wish: xml.Element) -> dict[str, str]:
    one = Call(
        gate=call.gate, request=call.request, bucket=call.bucket, key=key, caller=call.caller, signed=call.signed,
        account=call.account, version=version or None,
    )  # fmt: skip
    if len(key.encode("utf-8", "surrogatepass")) > 1024 or "\0" in key:
        raise S3Error("KeyTooLongError")
    permission = "s3:DeleteObject" if one.version is None else "s3:DeleteObjectVersion"
    access.authorize(one, permission, info=one.info, key=key)
    if (etag := wish.get("ETag")) and etag != "*":
        held = one.swift("HEAD", one.name, key, query=objects.version_query(one))
        held.close()
        if held.good and headers.etag_of(held.headers) != etag.strip('"'):
            raise S3Error("PreconditionFailed")
    return objects.delete_one(one)
