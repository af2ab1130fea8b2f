"""Whether a bucket keeps versions (GetBucketVersioning, PutBucketVersioning)."""

from __future__ import annotations

from typing import Final

from altostack.objectstore.http import Response
from altostack.objectstore.middleware.shape import true
from altostack.objectstore.middleware.versions import ENABLED, SYS_CONTAINER, SYS_ENABLED
from altostack.objectstore.s3 import settings
from altostack.objectstore.s3.call import Call, document, metadata
from altostack.objectstore.s3.errors import S3Error
from altostack.objectstore.storage import Info

__all__ = ["ENABLED", "enabled", "get", "kept_versions", "put"]
_STATUS: Final = {"Enabled": "true", "Suspended": "false"}


def kept_versions(info: Info) -> bool:
    """Whether the bucket has versions of its objects, or may have."""
    return bool(metadata(info, SYS_CONTAINER))


def enabled(info: Info) -> bool:
    """Whether what is overwritten or deleted now is kept."""
    return kept_versions(info) and true(metadata(info, SYS_ENABLED))


def get(call: Call) -> Response:
    if not kept_versions(call.info):
        return document("VersioningConfiguration", [])
    status = "Enabled" if enabled(call.info) else "Suspended"
    return document("VersioningConfiguration", [("Status", status)])


def put(call: Call) -> Response:
    root = call.document("VersioningConfiguration")
    status = root.get("Status")
    if root.get("MfaDelete") == "Enabled":
        raise S3Error("NotImplemented", "MfaDelete is not implemented")
    if status not in _STATUS:
        raise S3Error("IllegalVersioningConfigurationException")
    if status == "Suspended" and settings.read(call.info, "lock"):
        raise S3Error("InvalidBucketState", "Objects of this bucket are locked: their versions are kept.")
    if status == "Suspended" and not kept_versions(call.info):
        # Nothing was kept so far: what counts from here on is that the bucket knows of versions.
        call.must(call.swift("POST", call.name, headers={ENABLED: "true"}))
        call.forget()
    call.must(call.swift("POST", call.name, headers={ENABLED: _STATUS[status]}))
    call.forget()
    return Response(200)
