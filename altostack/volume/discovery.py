"""Versions, extensions, filters, the summary; and a plain answer for what is not built."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from altostack.kit import listing
from altostack.kit.call import Call, Reply
from altostack.kit.errors import Unimplemented
from altostack.kit.policy import PUBLIC, READER
from altostack.kit.route import Route
from altostack.kit.versions import Version
from altostack.volume.tables import VOLUMES
from altostack.volume.versions import LADDER
from altostack.volume.volume import Volume

_FILTERS = {
    "volume": ["name", "status", "metadata", "bootable", "availability_zone", "size", "created_at", "updated_at",
               "multiattach", "volume_type"],
    "snapshot": ["name", "status", "volume_id", "metadata"],
    "attachment": ["volume_id", "status", "instance_id", "attach_status"],
    "message": ["resource_uuid", "resource_type", "event_id", "request_id", "message_level"],
    "pool": ["name"],
    "volume_type": ["is_public", "extra_specs"],
}  # fmt: skip
_EXTENSIONS = (
    ("AdminActions", "os-admin-actions", "2012-08-25T00:00:00+00:00"),
    ("AvailabilityZones", "os-availability-zone", "2013-06-27T00:00:00+00:00"),
    ("ExtendedServices", "os-extended-services", "2014-01-10T00:00:00-00:00"),
    ("ExtendedSnapshotAttributes", "os-extended-snapshot-attributes", "2012-06-19T00:00:00+00:00"),
    ("QuotaClasses", "os-quota-class-sets", "2012-03-12T00:00:00+00:00"),
    ("Quotas", "os-quota-sets", "2011-08-08T00:00:00+00:00"),
    ("SchedulerHints", "OS-SCH-HNT", "2013-04-18T00:00:00+00:00"),
    ("Scheduler_stats", "scheduler-stats", "2014-09-07T00:00:00+00:00"),
    ("Services", "os-services", "2012-10-28T00:00:00-00:00"),
    ("SnapshotActions", "os-snapshot-actions", "2013-07-16T00:00:00+00:00"),
    ("TypesExtraSpecs", "os-types-extra-specs", "2011-08-24T00:00:00+00:00"),
    ("TypesManage", "os-types-manage", "2011-08-24T00:00:00+00:00"),
    ("UsedLimits", "os-used-limits", "2013-10-03T00:00:00+00:00"),
    ("VolumeActions", "os-volume-actions", "2012-05-31T00:00:00+00:00"),
    ("VolumeHostAttribute", "os-vol-host-attr", "2011-11-03T00:00:00+00:00"),
    ("VolumeImageMetadata", "os-vol-image-meta", "2012-12-07T00:00:00+00:00"),
    ("VolumeTenantAttribute", "os-vol-tenant-attr", "2011-11-03T00:00:00+00:00"),
    ("VolumeTypeAccess", "os-volume-type-access", "2014-06-26T00:00:00Z"),
)


def _versions(call: Call) -> dict[str, Any]:
    return {
        "versions": [
            {
                "id": "v3.0", "status": "CURRENT", "version": str(LADDER.high), "min_version": str(LADDER.low),
                "updated": "2023-08-31T00:00:00Z",
                "links": [
                    {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
                    {"rel": "self", "href": call.runtime.root_url + "/"},
                ],
                "media-types": [
                    {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}
                ],
            }
        ]
    }  # fmt: skip


def all_versions(call: Call) -> Reply:
    return Reply(status=300, body=_versions(call))


def _extension(name: str, alias: str, updated: str) -> dict[str, Any]:
    return {"name": name, "alias": alias, "description": f"{name} support.", "updated": updated, "links": []}


def list_extensions(call: Call) -> Any:
    return {"extensions": [_extension(*one) for one in _EXTENSIONS]}


def list_filters(call: Call) -> Any:
    wanted = call.arg("resource")
    return {
        "resource_filters": [
            {"resource": name, "filters": filters}
            for name, filters in _FILTERS.items()
            if wanted in (None, name)
        ]
    }


def summary(call: Call) -> Any:
    """GET /volumes/summary: how many, how large, and since 3.36 which metadata."""
    mine = listing.visible(call, VOLUMES, listing=True)
    session = call.session
    count, size = session.execute(sa.select(sa.func.count(), sa.func.sum(Volume.size)).where(*mine)).one()
    found: dict[str, Any] = {"total_count": int(count), "total_size": int(size or 0)}
    if call.at_least("3.36"):
        words: dict[str, set[str]] = {}
        for meta in session.scalars(sa.select(Volume.meta).where(*mine)):
            for name, value in meta.items():
                words.setdefault(name, set()).add(value)
        found["metadata"] = {name: sorted(values) for name, values in words.items()}
    return {"volume-summary": found}


def unbuilt(call: Call) -> None:
    """Nouns that the API has and this service does not."""
    noun = call.route.path.split("/")[1]
    raise Unimplemented(f"{noun} is not available here.")


_UNBUILT = (
    "backups", "groups", "group_types", "group_snapshots", "volume-transfers", "os-volume-transfer", "qos-specs",
    "consistencygroups", "cgsnapshots", "clusters", "manageable_volumes", "manageable_snapshots", "os-volume-manage",
    "os-snapshot-manage", "capabilities", "workers", "os-hosts",
)  # fmt: skip

ROUTES = (
    Route(method="GET", path="//", handler=all_versions, policy=PUBLIC),
    Route(method="GET", path="/", handler=_versions, policy=PUBLIC),
    Route(method="GET", path="/extensions", handler=list_extensions, policy="volume:extensions", check="@"),
    Route(
        method="GET", path="/resource_filters", handler=list_filters, policy="volume:resource_filters", check="@",
        since=Version(3, 33),
    ),
    Route(
        method="GET", path="/volumes/summary", handler=summary, policy="volume:get_all", check=READER,
        since=Version(3, 12),
    ),
    *(
        Route(method=method, path=f"/{noun}{tail}", handler=unbuilt, policy="volume:unbuilt", check="@")
        for noun in _UNBUILT
        for method, tail in (("GET", ""), ("POST", ""), ("GET", "/{part}"), ("PUT", "/{part}"), ("DELETE", "/{part}"))
    ),
)  # fmt: skip
