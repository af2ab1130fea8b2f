"""The service's abstract row, and the names of its statuses."""

from __future__ import annotations

import enum

from altostack.kit import db, flow, quota
from altostack.kit.db import Row


class VolumeRow(Row):
    __abstract__ = True
    metadata = db.metadata()


flow.tables(VolumeRow.metadata)
quota.tables(VolumeRow.metadata)


class Status(enum.StrEnum):
    """Statuses of a volume (Block Storage API reference, "Volumes"); the last ones are only ever set by hand."""

    CREATING = "creating"
    DOWNLOADING = "downloading"
    AVAILABLE = "available"
    RESERVED = "reserved"
    ATTACHING = "attaching"
    IN_USE = "in-use"
    DETACHING = "detaching"
    EXTENDING = "extending"
    UPLOADING = "uploading"
    DELETING = "deleting"
    ERROR = "error"
    ERROR_DELETING = "error_deleting"
    ERROR_EXTENDING = "error_extending"
    ERROR_MANAGING = "error_managing"
    MANAGING = "managing"
    MAINTENANCE = "maintenance"
    RESTORING_BACKUP = "restoring-backup"
    ERROR_RESTORING = "error_restoring"
    AWAITING_TRANSFER = "awaiting-transfer"
    BACKING_UP = "backing-up"
    ERROR_BACKING_UP = "error_backing-up"
    RETYPING = "retyping"


class SnapshotStatus(enum.StrEnum):
    """Statuses of a snapshot (Block Storage API reference, "Volume snapshots")."""

    CREATING = "creating"
    AVAILABLE = "available"
    DELETING = "deleting"
    ERROR = "error"
    ERROR_DELETING = "error_deleting"
    UNMANAGING = "unmanaging"
    BACKING_UP = "backing-up"
    RESTORING = "restoring"
