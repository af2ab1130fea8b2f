"""May they? In this order: the bucket's policy denies; the account's own people may; the policy allows; an ACL of S3's
allows; an ACL of Swift's allows. Else: access denied.

Whose bucket it is: the caller's own one of that name, else the one that is registered under the name (`buckets`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from altostack.objectstore.http import Refusal, Request
from altostack.objectstore.middleware import grants
from altostack.objectstore.s3 import acl, policy, settings
from altostack.objectstore.s3.call import Call, check_bucket_name, metadata
from altostack.objectstore.s3.errors import S3Error, denied
from altostack.objectstore.storage import Info

# What an ACL's permission allows (Amazon S3 user guide, "Mapping of ACL permissions and access policy permissions").
_ON_BUCKET: Final = {
    "s3:ListBucket": "READ",
    "s3:ListBucketVersions": "READ",
    "s3:ListBucketMultipartUploads": "READ",
    "s3:PutObject": "WRITE",
    "s3:DeleteObject": "WRITE",
    "s3:AbortMultipartUpload": "WRITE",
    "s3:ListMultipartUploadParts": "WRITE",
    "s3:GetBucketAcl": "READ_ACP",
    "s3:PutBucketAcl": "WRITE_ACP",
}
_ON_OBJECT: Final = {
    "s3:GetObject": "READ",
    "s3:GetObjectVersion": "READ",
    "s3:GetObjectAttributes": "READ",
    "s3:GetObjectAcl": "READ_ACP",
    "s3:GetObjectVersionAcl": "READ_ACP",
    "s3:PutObjectAcl": "WRITE_ACP",
    "s3:PutObjectVersionAcl": "WRITE_ACP",
}
_SWIFT_WRITES: Final = frozenset({"s3:PutObject", "s3:DeleteObject"})
# The owner must always be able to undo a policy that shuts out everybody.
_UNDENIABLE: Final = frozenset({"s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"})


def locate(call: Call) -> None:
    """Find the bucket's account. Raises S3Error for a bucket that is not whose the request expects."""
    caller = call.caller
    if caller is not None:
        call.account = caller.account
    if call.bucket is not None and (caller is None or call.find(call.name) is None):
        owner = call.gate.buckets.owner(call.name)
        if owner:
            call.account = owner
        elif caller is None:
            raise S3Error("NoSuchBucket", BucketName=call.name)
    _expect(call, call.header("x-amz-expected-bucket-owner"))


def locate_other(call: Call, expected: str) -> None:
    """The same for the source of a copy."""
    check_bucket_name(call.name, strict=False)
    if call.caller is not None:
        call.account = call.caller.account
    if call.caller is None or call.find(call.name) is None:
        call.account = call.gate.buckets.owner(call.name) or call.account
        if not call.account:
            raise S3Error("NoSuchBucket", BucketName=call.name)
    _expect(call, expected)


def _expect(call: Call, expected: str) -> None:
    if expected and call.bucket is not None and expected != call.owner:
        raise denied()


def authorize(call: Call, action: str, *, info: Info | None = None, key: str | None = None) -> None:
    """Raises S3Error AccessDenied. info: the bucket, None for the service and for a bucket that is to be made."""
    if info is None:
        _by_account(call)
        return
    verdict = _by_policy(call, action, info, key)
    owns = _owns(call, info, action)
    if verdict == "Deny" and not (owns and action in _UNDENIABLE):
        raise denied()
    if owns or verdict == "Allow" or _by_lists(call, action, info, key) or _by_swift(call, action, info, key):
        return
    raise denied()


def _by_account(call: Call) -> None:
    """The service itself, or a bucket that is to be made."""
    caller = call.caller
    if caller is None:
        raise denied()
    if caller.owner is None:
        method = "PUT" if call.bucket is not None else "GET"
        _judged(call, method, f"/v1/{caller.account}" + (f"/{call.bucket}" if call.bucket else ""), None)
    elif not caller.owner:
        raise denied()


def _owns(call: Call, info: Info, action: str) -> bool:
    """Whether the caller acts for the account whose bucket it is."""
    caller = call.caller
    if caller is None:
        return False
    if caller.owner is not None:
        return caller.owner and caller.account == info.account
    reads = action.startswith(("s3:Get", "s3:List"))
    try:
        probe = _judged(call, "GET" if reads else "PUT", f"/v1/{info.account}/{info.container}", None)
    except S3Error:
        return False
    return bool(probe.facts.get("owner")) or (reads and caller.account == info.account)


def _judged(call: Call, method: str, path: str, held: str | None) -> Request:
    """A Swift request that its ACLs and the policy engine allow. Raises S3Error."""
    probe = Request(
        method, quote(path), headers={"referer": call.header("referer")}, remote=call.request.remote
    )
    probe.context = call.caller.context if call.caller is not None else None
    try:
        call.gate.judge(probe)
        if probe.authorize is not None:
            probe.authorize(probe, held)
    except Refusal:
        raise denied() from None
    return probe


def _by_swift(call: Call, action: str, info: Info, key: str | None) -> bool:
    """The container's own ACLs: reading, listing, writing; nothing of S3's settings."""
    if action in _SWIFT_WRITES:
        name, method = "x-container-write", "PUT"
    elif action in ("s3:ListBucket", "s3:GetObject"):
        name, method = "x-container-read", "GET"
    else:
        return False
    held = metadata(info, name)
    if not held:
        return False
    caller = call.caller
    if (
        caller is not None and caller.owner is not None
    ):  # of the paste file: the policy engine does not know them
        given = grants.parse(held)
        if caller.groups & given.names:
            return True
        return given.admits(call.header("referer")) and (key is not None or grants.LISTINGS in given.names)
    path = f"/v1/{info.account}/{info.container}" + (f"/{key}" if key is not None else "")
    try:
        _judged(call, method, path, held)
    except S3Error:
        return False
    return True


def _by_lists(call: Call, action: str, info: Info, key: str | None) -> bool:
    """S3's ACLs of the bucket and the object."""
    if settings.read(info, "ownership") == "BucketOwnerEnforced":
        return False
    shut = bool((settings.read(info, "public-access") or {}).get("IgnorePublicAcls"))
    user = call.caller.id if call.caller is not None else None
    permission = _ON_BUCKET.get(action)
    if permission is not None:
        held = settings.read(info, "acl") or []
    elif key is not None and (permission := _ON_OBJECT.get(action)) is not None:
        held = _object_list(call, info, key)
    else:
        return False
    if call.caller is not None and call.caller.account == info.account:
        held = [
            one for one in held if one[0] != user
        ]  # what the account's own people may do, their roles say
    if shut:
        held = [one for one in held if not acl.is_public([one])]
    return acl.grants(held, user, permission)


def _object_list(call: Call, info: Info, key: str) -> list[acl.Grant]:
    query = {"version-id": call.version} if call.version else {}
    response = call.swift("HEAD", info.container, key, query=query, account=info.account)
    response.close()
    if response.status == 404:
        return []
    return acl.of_object(call, response.headers)


# ---- policies


def _by_policy(call: Call, action: str, info: Info, key: str | None) -> policy.Verdict:
    held = settings.read(info, "policy")
    if held is None:
        return None
    caller = call.caller
    principal = policy.Who()
    if caller is not None:
        principal = policy.who(caller.id, caller.context.user_id, caller.context.user_name)
    resource = f"{info.container}" if key is None else f"{info.container}/{key}"
    conditions = _conditions(call, info, key)
    verdict = policy.judge(held, principal, action, resource, conditions)
    if verdict == "Allow" and caller is not None and caller.account == info.account:
        # To let in one's own account as a whole is to leave it to the roles; to name a user lets in that user.
        verdict = policy.judge(held, principal.alone(caller.id), action, resource, conditions)
    if verdict == "Allow" and policy.public(held):
        block = settings.read(info, "public-access") or {}
        if block.get("RestrictPublicBuckets") and (caller is None or caller.account != info.account):
            return None
    return verdict


def _conditions(call: Call, info: Info, key: str | None) -> Callable[[str], Sequence[str] | None]:
    request, caller = call.request, call.caller

    def one(value: str | None) -> list[str] | None:
        return None if value is None else [value]

    def lookup(name: str) -> Sequence[str] | None:
        name = name.lower()
        if name.startswith("s3:existingobjecttag/"):
            return one(_existing_tags(call, info, key).get(name.partition("/")[2]))
        if name.startswith("s3:requestobjecttag/"):
            return one(_request_tags(call).get(name.partition("/")[2]))
        if name.startswith("s3:x-amz-"):
            return one(request.headers.get(name[3:]))
        signed = call.signed
        known: dict[str, str | None] = {
            "aws:sourceip": request.remote or None,
            "aws:securetransport": "true" if request.scheme == "https" else "false",
            "aws:referer": request.headers.get("referer"),
            "aws:useragent": request.headers.get("user-agent"),
            "aws:currenttime": datetime.fromtimestamp(call.now, UTC).isoformat(),
            "aws:epochtime": str(int(call.now)),
            "aws:userid": caller.context.user_id if caller is not None else None,
            "aws:username": caller.context.user_name if caller is not None else None,
            "aws:principalaccount": caller.id if caller is not None else None,
            "aws:principalarn": f"arn:aws:iam::{caller.id}:user/{caller.context.user_id}" if caller else None,
            "aws:principaltype": "User" if caller is not None else "Anonymous",
            "s3:prefix": request.query.get("prefix"),
            "s3:delimiter": request.query.get("delimiter"),
            "s3:max-keys": request.query.get("max-keys"),
            "s3:versionid": request.query.get("versionId"),
            "s3:signatureversion": None if signed is None else "AWS4-HMAC-SHA256" if signed.scope else "AWS",
            "s3:authtype": None if signed is None else
            "REST-HEADER" if request.header("authorization") else "REST-QUERY-STRING",
            "s3:locationconstraint": call.gate.regions[0],
        }  # fmt: skip
        return one(known.get(name))

    return lookup


def _existing_tags(call: Call, info: Info, key: str | None) -> dict[str, str]:
    from altostack.objectstore.s3 import tagging

    if key is None:
        return {}
    query = {"version-id": call.version} if call.version else {}
    response = call.swift("HEAD", info.container, key, query=query, account=info.account)
    response.close()
    found: dict[str, Any] = tagging.of(response.headers) if response.good else {}
    return {name.lower(): value for name, value in found.items()}


def _request_tags(call: Call) -> dict[str, str]:
    from altostack.objectstore.s3 import tagging

    said = call.header("x-amz-tagging")
    return {name.lower(): value for name, value in tagging.from_header(said).items()} if said else {}
