"""Which operation a request means, and the permission that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from altostack.objectstore.http import Response
from altostack.objectstore.s3 import (
    access,
    acl,
    attributes,
    bucket,
    configuration,
    copying,
    cors,
    inventory,
    lifecycle,
    listing,
    lock,
    multidelete,
    multipart,
    notification,
    objects,
    service,
    tagging,
    uploads,
    versioning,
)
from altostack.objectstore.s3.call import Call, check_bucket_name
from altostack.objectstore.s3.errors import S3Error

Operation = tuple[str, Callable[[Call], Response]]  # (permission, what does it)

SERVICE: Final[dict[tuple[str, str], Operation]] = {
    ("GET", ""): ("s3:ListAllMyBuckets", service.list_buckets),
}
BUCKET: Final[dict[tuple[str, str], Operation]] = {
    ("HEAD", ""): ("s3:ListBucket", bucket.head),
    ("PUT", ""): ("s3:CreateBucket", bucket.create),
    ("DELETE", ""): ("s3:DeleteBucket", bucket.delete),
    ("GET", ""): ("s3:ListBucket", listing.objects_v1),
    ("GET", "list-type"): ("s3:ListBucket", listing.objects_v2),
    ("GET", "versions"): ("s3:ListBucketVersions", listing.versions),
    ("GET", "uploads"): ("s3:ListBucketMultipartUploads", uploads.list_uploads),
    ("GET", "location"): ("s3:GetBucketLocation", bucket.location),
    ("POST", "delete"): ("", multidelete.delete_objects),
    ("GET", "acl"): ("s3:GetBucketAcl", acl.get_bucket_acl),
    ("PUT", "acl"): ("s3:PutBucketAcl", acl.put_bucket_acl),
    ("GET", "versioning"): ("s3:GetBucketVersioning", versioning.get),
    ("PUT", "versioning"): ("s3:PutBucketVersioning", versioning.put),
    ("GET", "tagging"): ("s3:GetBucketTagging", tagging.get_bucket),
    ("PUT", "tagging"): ("s3:PutBucketTagging", tagging.put_bucket),
    ("DELETE", "tagging"): ("s3:PutBucketTagging", tagging.delete_bucket),
    ("GET", "cors"): ("s3:GetBucketCORS", cors.get),
    ("PUT", "cors"): ("s3:PutBucketCORS", cors.put),
    ("DELETE", "cors"): ("s3:PutBucketCORS", cors.delete),
    ("GET", "policy"): ("s3:GetBucketPolicy", configuration.get_policy),
    ("PUT", "policy"): ("s3:PutBucketPolicy", configuration.put_policy),
    ("DELETE", "policy"): ("s3:DeleteBucketPolicy", configuration.delete_policy),
    ("GET", "policyStatus"): ("s3:GetBucketPolicyStatus", configuration.policy_status),
    ("GET", "lifecycle"): ("s3:GetLifecycleConfiguration", lifecycle.get),
    ("PUT", "lifecycle"): ("s3:PutLifecycleConfiguration", lifecycle.put),
    ("DELETE", "lifecycle"): ("s3:PutLifecycleConfiguration", lifecycle.delete),
    ("GET", "inventory"): ("s3:GetInventoryConfiguration", inventory.get),
    ("PUT", "inventory"): ("s3:PutInventoryConfiguration", inventory.put),
    ("DELETE", "inventory"): ("s3:PutInventoryConfiguration", inventory.delete),
    ("GET", "notification"): ("s3:GetBucketNotification", notification.get),
    ("PUT", "notification"): ("s3:PutBucketNotification", notification.put),
    ("GET", "object-lock"): ("s3:GetBucketObjectLockConfiguration", lock.get_bucket),
    ("PUT", "object-lock"): ("s3:PutBucketObjectLockConfiguration", lock.put_bucket),
    ("GET", "publicAccessBlock"): ("s3:GetBucketPublicAccessBlock", configuration.get_public_access),
    ("PUT", "publicAccessBlock"): ("s3:PutBucketPublicAccessBlock", configuration.put_public_access),
    ("DELETE", "publicAccessBlock"): ("s3:PutBucketPublicAccessBlock", configuration.delete_public_access),
    ("GET", "ownershipControls"): ("s3:GetBucketOwnershipControls", configuration.get_ownership),
    ("PUT", "ownershipControls"): ("s3:PutBucketOwnershipControls", configuration.put_ownership),
    ("DELETE", "ownershipControls"): ("s3:PutBucketOwnershipControls", configuration.delete_ownership),
    ("GET", "requestPayment"): ("s3:GetBucketRequestPayment", configuration.request_payment),
    ("GET", "accelerate"): ("s3:GetAccelerateConfiguration", configuration.accelerate),
    ("GET", "logging"): ("s3:GetBucketLogging", configuration.logging),
    ("GET", "encryption"): ("s3:GetEncryptionConfiguration", configuration.get_encryption),
    ("PUT", "encryption"): ("s3:PutEncryptionConfiguration", configuration.put_encryption),
    ("DELETE", "encryption"): ("s3:PutEncryptionConfiguration", configuration.delete_encryption),
    ("GET", "website"): ("s3:GetBucketWebsite", configuration.no_website),
    ("GET", "replication"): ("s3:GetReplicationConfiguration", configuration.no_replication),
}
OBJECT: Final[dict[tuple[str, str], Operation]] = {
    ("GET", ""): ("s3:GetObject", objects.get),
    ("HEAD", ""): ("s3:GetObject", objects.get),
    ("PUT", ""): ("s3:PutObject", objects.put),
    ("PUT", "copy"): ("s3:PutObject", copying.copy_object),
    ("DELETE", ""): ("s3:DeleteObject", objects.delete),
    ("GET", "acl"): ("s3:GetObjectAcl", acl.get_object_acl),
    ("PUT", "acl"): ("s3:PutObjectAcl", acl.put_object_acl),
    ("GET", "tagging"): ("s3:GetObjectTagging", tagging.get_object),
    ("PUT", "tagging"): ("s3:PutObjectTagging", tagging.put_object),
    ("DELETE", "tagging"): ("s3:DeleteObjectTagging", tagging.delete_object),
    ("GET", "attributes"): ("s3:GetObjectAttributes", attributes.get),
    ("GET", "retention"): ("s3:GetObjectRetention", lock.get_retention),
    ("PUT", "retention"): ("s3:PutObjectRetention", lock.put_retention),
    ("GET", "legal-hold"): ("s3:GetObjectLegalHold", lock.get_hold),
    ("PUT", "legal-hold"): ("s3:PutObjectLegalHold", lock.put_hold),
    ("POST", "uploads"): ("s3:PutObject", multipart.create),
    ("PUT", "uploadId"): ("s3:PutObject", multipart.put_part),
    ("PUT", "uploadId+copy"): ("s3:PutObject", multipart.copy_part),
    ("GET", "uploadId"): ("s3:ListMultipartUploadParts", uploads.list_parts),
    ("POST", "uploadId"): ("s3:PutObject", multipart.complete),
    ("DELETE", "uploadId"): ("s3:AbortMultipartUpload", multipart.abort),
}  # fmt: skip
# Words in the query that name a part of a bucket or an object. What has no operation is not implemented.
_WORDS: Final = (
    "uploadId", "uploads", "delete", "acl", "versioning", "versions", "location", "tagging", "cors", "policy",
    "policyStatus", "lifecycle", "notification", "object-lock", "publicAccessBlock", "ownershipControls",
    "requestPayment", "accelerate", "logging", "encryption", "website", "replication", "attributes", "retention",
    "legal-hold", "restore", "select", "torrent", "analytics", "inventory", "metrics", "intelligent-tiering",
    "session", "metadataTable", "renameObject", "list-type",
)  # fmt: skip
# What can be read and not be changed.
_FIXED: Final = frozenset({"requestPayment", "accelerate", "logging", "website", "replication"})
_VERSIONED: Final = {
    "s3:GetObject": "s3:GetObjectVersion",
    "s3:DeleteObject": "s3:DeleteObjectVersion",
    "s3:GetObjectAcl": "s3:GetObjectVersionAcl",
    "s3:PutObjectAcl": "s3:PutObjectVersionAcl",
    "s3:GetObjectTagging": "s3:GetObjectVersionTagging",
    "s3:PutObjectTagging": "s3:PutObjectVersionTagging",
    "s3:DeleteObjectTagging": "s3:DeleteObjectVersionTagging",
    "s3:GetObjectAttributes": "s3:GetObjectVersionAttributes",
}
_KEY_BYTES: Final = 1024


def is_form(call: Call) -> bool:
    """Whether a browser posts a form to a bucket."""
    return (
        call.request.method == "POST"
        and call.key is None
        and call.bucket is not None
        and call.header("content-type").lower().startswith("multipart/form-data")
    )


def find(call: Call) -> tuple[str, Operation]:
    """(the query's word, the operation). Raises S3Error NotImplemented, MethodNotAllowed."""
    method = call.request.method
    if method not in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        raise S3Error("MethodNotAllowed", Method=method)
    query = call.query
    word = next((one for one in _WORDS if one in query), "")
    table = SERVICE if call.bucket is None else BUCKET if call.key is None else OBJECT
    wanted = word
    if table is OBJECT:
        if word == "list-type":
            wanted = ""
        if method == "PUT" and "x-amz-copy-source" in call.request.headers and wanted in ("", "uploadId"):
            wanted = f"{wanted}+copy".removeprefix("+")
    elif table is BUCKET and word == "list-type" and method != "GET":
        wanted = ""
    found = table.get((method, wanted))
    if found is not None:
        return wanted, found
    if method == "HEAD" and table is BUCKET:
        return "", table["HEAD", ""]
    known = wanted not in _FIXED and any(name == wanted for _, name in table)
    if method == "HEAD" or (wanted and known):
        raise S3Error("MethodNotAllowed", Method=method)
    if wanted:
        raise S3Error("NotImplemented", f"Nothing here implements {word!r}.")
    raise S3Error("MethodNotAllowed", Method=method)


def perform(call: Call) -> Response:
    """Find the operation, make sure that it is allowed, do it. Raises S3Error."""
    _, (permission, work) = find(call)
    making = permission == "s3:CreateBucket"
    if call.bucket is not None:
        check_bucket_name(call.name, strict=making and call.gate.strict_names)
    if call.key is not None:
        check_key(call.object)
        call.version = call.query.get("versionId")
        if call.version == "":
            raise S3Error(
                "InvalidArgument", "Version id cannot be the empty string", ArgumentName="versionId"
            )
    if call.bucket is None or making:
        if call.caller is None:
            raise S3Error("AccessDenied")
        call.account = call.caller.account
        access.authorize(call, permission)
        return work(call)
    access.locate(call)
    info = call.info
    if permission:
        if call.version is not None:
            permission = _VERSIONED.get(permission, permission)
        access.authorize(call, permission, info=info, key=call.key)
    return work(call)


def check_key(key: str) -> None:
    """Raises S3Error for what cannot be a key."""
    if len(key.encode("utf-8", "surrogatepass")) > _KEY_BYTES:
        raise S3Error("KeyTooLongError")
