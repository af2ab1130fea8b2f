"""The microversions (Block Storage API reference, "REST API Version History")."""

from __future__ import annotations

from altostack.kit.versions import Ladder, Version

# What a version added to something that is not built (groups, backups, transfers, clusters, ...) is left out here;
# those paths answer 501 at every version.
LADDER = Ladder(
    service="volume",
    low=Version(3, 0),
    high=Version(3, 71),
    steps={
        "3.0": "the first version",
        "3.1": "visibility and protected when uploading to an image",
        "3.2": "the bootable filter is strict",
        "3.3": "messages",
        "3.5": "messages are paged, sorted and filtered",
        "3.12": "summary of volumes",
        "3.13": "group_id of a volume, always null",
        "3.14": "group_snapshot_id of a snapshot, always null",
        "3.21": "provider_id for administrators",
        "3.22": "snapshots filtered by metadata",
        "3.23": "force in DELETE of a volume",
        "3.27": "attachments",
        "3.28": "pools filtered by name",
        "3.30": "snapshots sorted by name",
        "3.31": "unknown filters are refused",
        "3.33": "resource_filters",
        "3.34": "name~ and its kin",
        "3.36": "metadata in the summary",
        "3.39": "limits of any project for administrators",
        "3.41": "user_id of a snapshot",
        "3.42": "a volume in use can be extended",
        "3.44": "attachments are completed",
        "3.45": "with_count",
        "3.48": "shared_targets and service_uuid",
        "3.49": "backend_state of a service",
        "3.50": "multiattach by volume type",
        "3.52": "types filtered by extra_specs",
        "3.53": "bodies of volumes are strict",
        "3.54": "mode of an attachment",
        "3.60": "created_at and updated_at filters with comparison",
        "3.61": "cluster_name for administrators, always null",
        "3.62": "default type of a project",
        "3.63": "volume_type_id of a volume",
        "3.65": "consumes_quota",
        "3.66": "snapshots of volumes in use need no force",
        "3.67": "no project in the path",
        "3.69": "shared_targets may be null",
        "3.71": "the newest",
    },
)
