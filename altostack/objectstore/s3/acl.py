"""Access control lists of buckets and objects, as S3 has them: canned, in headers, and as XML.

A list grants what nothing else does: it counts beside bucket policies and beside the container's own Swift ACLs.
Source: Amazon S3 user guide, "Access control list (ACL) overview".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from altostack.objectstore.http import Response
from altostack.objectstore.s3 import notification, settings, xml
from altostack.objectstore.s3.call import Call, parsed
from altostack.objectstore.s3.errors import S3Error, denied, invalid
from altostack.objectstore.storage import Info

KEPT: Final = "x-object-transient-sysmeta-s3api-acl"
ALL: Final = "http://acs.amazonaws.com/groups/global/AllUsers"
ANYBODY_KNOWN: Final = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
LOGS: Final = "http://acs.amazonaws.com/groups/s3/LogDelivery"
PERMISSIONS: Final = ("READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL")
_HEADERS: Final[Mapping[str, str]] = {
    "x-amz-grant-read": "READ",
    "x-amz-grant-write": "WRITE",
    "x-amz-grant-read-acp": "READ_ACP",
    "x-amz-grant-write-acp": "WRITE_ACP",
    "x-amz-grant-full-control": "FULL_CONTROL",
}
Grant = list[str]  # [grantee: a user's id or a group's URI, permission]


def canned(name: str, owner: str, bucket_owner: str) -> list[Grant]:
    """The grants of a canned list. Raises S3Error."""
    own = [[owner, "FULL_CONTROL"]]
    known: dict[str, list[Grant]] = {
        "private": own,
        "public-read": [*own, [ALL, "READ"]],
        "public-read-write": [*own, [ALL, "READ"], [ALL, "WRITE"]],
        "authenticated-read": [*own, [ANYBODY_KNOWN, "READ"]],
        "bucket-owner-read": [*own, [bucket_owner, "READ"]],
        "bucket-owner-full-control": [*own, [bucket_owner, "FULL_CONTROL"]],
        "log-delivery-write": [*own, [LOGS, "WRITE"], [LOGS, "READ_ACP"]],
        "aws-exec-read": own,
    }
    if name not in known:
        raise invalid("x-amz-acl", name)
    return known[name]


def wanted(call: Call) -> list[Grant] | None:
    """The grants that a request's headers ask for, None if they say nothing. Raises S3Error."""
    name = call.header("x-amz-acl")
    explicit = [
        (header, permission) for header, permission in _HEADERS.items() if header in call.request.headers
    ]
    if name and explicit:
        raise S3Error("InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed")
    if name:
        return canned(name, call.owner, call.owner)
    if not explicit:
        return None
    found: list[Grant] = []
    for header, permission in explicit:
        for piece in call.header(header).split(","):
            kind, equals, value = piece.strip().partition("=")
            value = value.strip().strip('"')
            if not equals or kind.strip() not in ("id", "uri", "emailAddress"):
                raise invalid(header, call.header(header))
            found.append([_grantee(kind.strip(), value), permission])
    return found


def _grantee(kind: str, value: str) -> str:
    if kind == "emailAddress":
        raise S3Error("NotImplemented", "Grantees are named by their ids, not by e-mail addresses.")
    if kind == "uri" and value not in (ALL, ANYBODY_KNOWN, LOGS):
        raise S3Error("InvalidArgument", "Invalid group uri", ArgumentName="uri", ArgumentValue=value)
    if kind == "id" and (not value or len(value) > 256 or "/" in value):
        raise S3Error(
            "InvalidArgument", "Invalid id", ArgumentName="CanonicalUser/ID", ArgumentValue=value[:256]
        )
    return value


def from_xml(call: Call) -> list[Grant]:
    """The grants in a request's body. Raises S3Error."""
    text = call.raw()
    if not text:
        raise S3Error("MissingSecurityHeader", "Your request was missing a required header")
    root = parsed(text, "AccessControlPolicy", "MalformedACLError")
    owner = root.find("Owner")
    if owner is None or root.find("AccessControlList") is None:
        raise S3Error("MalformedACLError")
    if owner.get("ID") != call.owner:
        raise denied()
    found: list[Grant] = []
    for grant in root.all("AccessControlList", "Grant"):
        grantee, permission = grant.find("Grantee"), grant.get("Permission")
        if grantee is None or permission not in PERMISSIONS:
            raise S3Error("MalformedACLError")
        if grantee.has("ID"):
            found.append([_grantee("id", grantee.get("ID")), permission])
        elif grantee.has("URI"):
            found.append([_grantee("uri", grantee.get("URI")), permission])
        else:
            found.append([_grantee("emailAddress", ""), permission])
    if len(found) > 100:
        raise S3Error("MalformedACLError", "A list has 100 grants at most.")
    return found


def is_public(grants: list[Grant]) -> bool:
    return any(grantee in (ALL, ANYBODY_KNOWN) for grantee, _ in grants)


def grants(held: list[Grant], user: str | None, permission: str) -> bool:
    """Whether a list lets a user (None: an anonymous one) do something."""
    for grantee, given in held:
        if given not in (permission, "FULL_CONTROL"):
            continue
        if grantee == ALL or (user is not None and grantee in (ANYBODY_KNOWN, user)):
            return True
    return False


def check_allowed(call: Call, info: Info, wish: list[Grant]) -> None:
    """Raises S3Error where the bucket's settings forbid such a list."""
    if settings.read(info, "ownership") == "BucketOwnerEnforced" and wish != [[call.owner, "FULL_CONTROL"]]:
        raise S3Error("AccessControlListNotSupported")
    if (settings.read(info, "public-access") or {}).get("BlockPublicAcls") and is_public(wish):
        raise denied()


def share(call: Call, wish: list[Grant]) -> None:
    """Have the bucket found by those whom a list lets in. Raises S3Error."""
    if any(grantee != call.owner for grantee, _ in wish):
        call.gate.buckets.share(call.name, call.account)


def of_bucket(call: Call) -> list[Grant]:
    """A bucket's list."""
    return settings.read(call.info, "acl") or [[call.owner, "FULL_CONTROL"]]


def of_object(call: Call, headers: Mapping[str, str]) -> list[Grant]:
    """An object's list, from its headers."""
    kept = headers.get(KEPT)
    return json.loads(kept) if kept else [[call.owner, "FULL_CONTROL"]]


def kept(wish: list[Grant] | None) -> dict[str, str]:
    """The header that keeps an object's list."""
    return {} if wish is None else {KEPT: json.dumps(wish, separators=(",", ":"))}


def shown(call: Call, held: list[Grant]) -> Response:
    """The list as XML."""
    entries: list[xml.Child] = []
    for grantee, permission in held:
        if grantee.startswith("http://"):
            who = xml.Typed("Group", [("URI", grantee)])
        else:
            who = xml.Typed("CanonicalUser", [("ID", grantee), ("DisplayName", grantee)])
        entries.append(("Grant", [("Grantee", who), ("Permission", permission)]))
    body: list[xml.Child] = [
        ("Owner", [("ID", call.owner), ("DisplayName", call.owner)]),
        ("AccessControlList", entries),
    ]
    return Response(200, {"content-type": "application/xml"}, xml.write("AccessControlPolicy", body))


# ---- operations


def _wish(call: Call) -> list[Grant]:
    said = wanted(call)
    wish = from_xml(call) if said is None else said
    if said is not None and call.raw():
        raise S3Error("UnexpectedContent", "This request does not support content")
    check_allowed(call, call.info, wish)
    share(call, wish)
    return wish


def get_bucket_acl(call: Call) -> Response:
    return shown(call, of_bucket(call))


def put_bucket_acl(call: Call) -> Response:
    settings.keep(call, "acl", _wish(call))
    return Response(200)


def get_object_acl(call: Call) -> Response:
    from altostack.objectstore.s3 import objects

    return shown(call, of_object(call, objects.head(call).headers))


def put_object_acl(call: Call) -> Response:
    from altostack.objectstore.s3 import objects

    wish: Any = kept(_wish(call))
    objects.change(call, wish)
    notification.event(call, "s3:ObjectAcl:Put")
    return Response(200)
