"""Buckets: to make, to look at, to delete."""

from __future__ import annotations

from typing import Final

from altostack.objectstore.http import Response
from altostack.objectstore.s3 import acl, lock, segments, settings
from altostack.objectstore.s3.call import Call, metadata, parsed
from altostack.objectstore.s3.errors import S3Error
from altostack.objectstore.s3.versioning import ENABLED

_LOCATION: Final = "location"
_DOMAIN: Final = "x-account-sysmeta-project-domain-id"
OWNERSHIPS: Final = ("BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter")


def create(call: Call) -> Response:
    """CreateBucket. The location may name a region, or ``region:policy`` and so a storage policy."""
    headers: dict[str, str] = {}
    text = call.raw()
    region = call.gate.regions[0]
    if text:
        root = parsed(text, "CreateBucketConfiguration")
        location = root.get("LocationConstraint")
        if location:
            region = _located(call, location, headers)
    wish = acl.wanted(call)
    if wish is not None:
        headers |= settings.header("acl", wish)
    ownership = call.header("x-amz-object-ownership")
    if ownership:
        if ownership not in OWNERSHIPS:
            raise S3Error("InvalidArgument", ArgumentName="x-amz-object-ownership", ArgumentValue=ownership)
        headers |= settings.header("ownership", ownership)
    locked = call.header("x-amz-bucket-object-lock-enabled").lower() == "true"
    if locked:
        lock.check_possible(call)
        headers |= settings.header("lock", {"enabled": True})
    if region != call.gate.regions[0]:
        headers |= settings.header(_LOCATION, region)
    if call.find(call.name) is not None:
        raise S3Error("BucketAlreadyOwnedByYou", BucketName=call.name)
    if call.gate.buckets.claim(call.name, call.account) != call.account:
        raise S3Error("BucketAlreadyExists", BucketName=call.name)
    headers |= _domain(call)
    response = call.swift("PUT", call.name, headers=headers)
    if response.status == 404:  # the account is not there yet
        call.must(call.swift("PUT", headers=_domain(call)))
        response = call.swift("PUT", call.name, headers=headers)
    if response.status == 202:
        raise S3Error("BucketAlreadyOwnedByYou", BucketName=call.name)
    if response.status == 409:
        raise S3Error("OperationAborted")
    call.must(response)
    if locked:
        call.must(call.swift("POST", call.name, headers={ENABLED: "true"}))
    call.forget()
    return Response(200, {"location": f"/{call.name}"})


def _domain(call: Call) -> dict[str, str]:
    """What a new account has to know for Swift's ACLs: of which domain its project is."""
    if call.caller is None or call.store.known.account(call.account) is not None:
        return {}
    return {_DOMAIN: call.caller.context.project_domain_id or ""}


def _located(call: Call, location: str, headers: dict[str, str]) -> str:
    region, _, policy = location.partition(":")
    if region == "EU":
        region = "eu-west-1"
    if region and region not in call.gate.regions:
        raise S3Error("InvalidLocationConstraint", LocationConstraint=location)
    if policy:
        found = call.store.policy_named(policy)
        if found is None or found.deprecated:
            raise S3Error("InvalidLocationConstraint", LocationConstraint=location)
        headers["x-storage-policy"] = found.name
    return region or call.gate.regions[0]


def head(call: Call) -> Response:
    region = settings.read(call.info, _LOCATION) or call.gate.regions[0]
    return Response(200, {"x-amz-bucket-region": region, "content-type": "application/xml"})


def location(call: Call) -> Response:
    region = settings.read(call.info, _LOCATION) or call.gate.regions[0]
    return Response(
        200, {"content-type": "application/xml"}, _constraint("" if region == "us-east-1" else region)
    )


def _constraint(region: str) -> bytes:
    from altostack.objectstore.s3 import xml

    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<LocationConstraint xmlns="{xml.NAMESPACE}">{xml.escaped(region)}</LocationConstraint>'
    ).encode()


def delete(call: Call) -> Response:
    """DeleteBucket. Uploads that were never completed go with it."""
    if metadata(call.info, ENABLED) and _has_versions(call):
        raise S3Error("BucketNotEmpty", "The bucket is not empty. You must delete all versions in it.")
    first = call.must(call.swift("GET", call.name, query={"limit": "1", "format": "json"}))
    if first.entries:
        raise S3Error("BucketNotEmpty", BucketName=call.name)
    for beside in segments.containers(call):
        _empty(call, beside)
        left = call.swift("DELETE", beside)
        if not left.good and left.status != 404:
            raise S3Error("BucketNotEmpty" if left.status == 409 else "ServiceUnavailable")
    response = call.swift("DELETE", call.name)
    if response.status == 409:
        raise S3Error("BucketNotEmpty", BucketName=call.name)
    call.must(response)
    call.gate.buckets.release(call.name, call.account)
    call.forget()
    return Response(204)


def _has_versions(call: Call) -> bool:
    query = {"versions": "true", "limit": "1", "format": "json"}
    return bool(call.must(call.swift("GET", call.name, query=query)).entries)


def _empty(call: Call, container: str) -> None:
    """Delete what uploads left behind. The bucket has no object, so nothing needs it."""
    while True:
        response = call.must(call.swift("GET", container, query={"limit": "1000", "format": "json"}), 404)
        entries = response.entries or [] if response.good else []
        if not entries:
            return
        for entry in entries:
            gone = call.swift("DELETE", container, entry["name"])
            if not gone.good and gone.status != 404:
                raise S3Error("ServiceUnavailable")
