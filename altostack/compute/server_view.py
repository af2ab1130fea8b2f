"""Fields of a server's answer that are worked out: links, status, flavor and image by version, addresses, ..."""

from __future__ import annotations

from typing import Any

import msgspec

from altostack.compute.dialect import bookmark, links, micro
from altostack.compute.host import Host, alive, host_id
from altostack.compute.server_row import BUILDING, Server
from altostack.kit.call import Call
from altostack.kit.dialect import iso
from altostack.kit.resource import Computed
from altostack.kit.versions import Version

UNSET = msgspec.UNSET
_EXTRA_SPECS = "os_compute_api:servers:show:flavor-extra-specs"
_HOST_STATUS = "os_compute_api:servers:show:host_status"
_UNKNOWN_ONLY = "os_compute_api:servers:show:host_status:unknown-only"
ATTRIBUTES = "os_compute_api:os-extended-server-attributes"
_PROGRESS = ("ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING")
# Image properties that say how to run a server, as against those that say what the image is.
_GUEST_PROPERTIES = ("hw_", "img_", "os_", "trait:")
_GUEST_NAMES = frozenset((
    "architecture", "auto_disk_config", "boot_roles", "cinder_img_volume_type", "bootable",
    "hypervisor_type", "instance_uuid", "vm_mode", "mappings", "root_device_name",
    "block_device_mapping", "signature_verified",
))  # fmt: skip


def _flavor(call: Call, row: Server) -> Any:
    kept = row.flavor
    if not call.at_least("2.47"):
        return {"id": kept["id"], "links": bookmark(call, f"/flavors/{kept['id']}")}
    found = {
        "vcpus": kept["vcpus"], "ram": kept["ram"], "disk": kept["disk"], "ephemeral": kept["ephemeral"],
        "swap": kept["swap"], "original_name": kept["name"],
    }  # fmt: skip
    if call.allows(_EXTRA_SPECS):
        found["extra_specs"] = kept["extra_specs"]
    return found


def _image(call: Call, row: Server) -> Any:
    if not row.image_id:
        return ""
    found: dict[str, Any] = {"id": row.image_id, "links": bookmark(call, f"/images/{row.image_id}")}
    if call.at_least("2.98"):
        found["properties"] = {
            name: value
            for name, value in row.image.get("properties", {}).items()
            if name in _GUEST_NAMES or name.startswith(_GUEST_PROPERTIES)
        }
    return found


def addresses_of(row: Server) -> dict[str, list[dict[str, Any]]]:
    """The addresses that are shown: none while the server is being built."""
    return {} if row.vm_state == BUILDING else row.addresses


def _groups(call: Call, row: Server) -> Any:
    return [{"name": one["name"]} for one in row.security_groups] or UNSET


def _volumes(call: Call, row: Server) -> Any:
    if call.at_least("2.3"):
        return row.volumes
    return [{"id": one["id"]} for one in row.volumes]


def _fault(call: Call, row: Server) -> Any:
    if not row.fault or row.status not in ("ERROR", "DELETED"):
        return UNSET
    found = {name: row.fault[name] for name in ("code", "created", "message")}
    if row.fault.get("details") and (call.context.is_admin or row.fault["code"] != 500):
        found["details"] = row.fault["details"]
    return found


def _progress(call: Call, row: Server) -> Any:
    return row.progress if row.status in _PROGRESS else UNSET


def _hosts(call: Call) -> dict[str, Host]:
    """Every host by name, read once a request."""
    found: dict[str, Host] | None = call.memo.get("hosts")
    if found is None:
        found = call.memo["hosts"] = {host.host: host for host in call.session.query(Host)}
    return found


def host_status(call: Call, row: Server) -> str:
    """UP, DOWN, UNKNOWN, MAINTENANCE or "" where the server has no host."""
    if not row.host:
        return ""
    host = _hosts(call).get(row.host)
    if host is None:
        return "UNKNOWN"
    if not host.enabled:
        return "MAINTENANCE"
    if host.forced_down:
        return "DOWN"
    return "UP" if alive(call.runtime, host) else "UNKNOWN"


def _host_status(call: Call, row: Server) -> Any:
    if call.allows(_HOST_STATUS):
        return host_status(call, row)
    if call.allows(_UNKNOWN_ONLY) and host_status(call, row) == "UNKNOWN":
        return "UNKNOWN"
    return UNSET


def _hostname(call: Call, row: Server) -> Any:
    if call.at_least("2.90") or (call.at_least("2.3") and call.allows(ATTRIBUTES)):
        return row.hostname
    return UNSET


def _since(version: str) -> Version:
    major, minor = version.split(".")
    return Version(int(major), int(minor))


def _admin(get: Any, since: str | None = None) -> Computed:
    return Computed(get=get, show="admin", since=_since(since) if since else None)


COMPUTED = {
    "links": Computed(get=lambda call, row: links(call, f"/servers/{row.id}"), brief=True),
    "status": Computed(get=lambda call, row: row.status),
    "created": Computed(get=lambda call, row: iso(row.created_at)),
    "updated": Computed(get=lambda call, row: iso(row.updated_at or row.created_at)),
    "hostId": Computed(get=lambda call, row: host_id(row.host, row.project_id)),
    "addresses": Computed(get=lambda call, row: addresses_of(row)),
    "flavor": Computed(get=_flavor),
    "image": Computed(get=_image),
    "security_groups": Computed(get=_groups),
    "os-extended-volumes:volumes_attached": Computed(get=_volumes),
    "OS-SRV-USG:launched_at": Computed(get=lambda call, row: micro(row.launched_at)),
    "OS-SRV-USG:terminated_at": Computed(get=lambda call, row: micro(row.terminated_at)),
    "fault": Computed(get=_fault),
    "progress": Computed(get=_progress),
    "locked": Computed(get=lambda call, row: row.locked_by is not None, since=_since("2.9")),
    "host_status": Computed(get=_host_status, since=_since("2.16")),
    "trusted_image_certificates": Computed(get=lambda call, row: None, since=_since("2.63")),
    "server_groups": Computed(
        get=lambda call, row: [row.group_id] if row.group_id else [], since=_since("2.71"), detail=False
    ),
    "scheduler_hints": Computed(get=lambda call, row: row.hints, since=_since("2.100")),
    "OS-EXT-SRV-ATTR:hostname": Computed(get=_hostname),
    "OS-EXT-SRV-ATTR:host": _admin(lambda call, row: row.host),
    "OS-EXT-SRV-ATTR:hypervisor_hostname": _admin(lambda call, row: row.host),
    "OS-EXT-SRV-ATTR:instance_name": _admin(lambda call, row: row.instance_name),
    "OS-EXT-SRV-ATTR:kernel_id": _admin(lambda call, row: "", "2.3"),
    "OS-EXT-SRV-ATTR:ramdisk_id": _admin(lambda call, row: "", "2.3"),
    "OS-EXT-SRV-ATTR:launch_index": _admin(lambda call, row: row.launch_index, "2.3"),
    "OS-EXT-SRV-ATTR:reservation_id": _admin(lambda call, row: row.reservation_id, "2.3"),
    "OS-EXT-SRV-ATTR:root_device_name": _admin(lambda call, row: row.root_device, "2.3"),
    "OS-EXT-SRV-ATTR:user_data": _admin(lambda call, row: row.user_data, "2.3"),
}

RULES = {
    _EXTRA_SPECS: "role:admin or role:service or role:reader",
    _HOST_STATUS: "role:admin",
    _UNKNOWN_ONLY: "role:admin",
}


# Until 2.74 the answer to an update left these out.
_NOT_IN_UPDATE = (
    "OS-EXT-AZ:availability_zone", "config_drive", "key_name", "OS-SRV-USG:launched_at",
    "OS-SRV-USG:terminated_at", "security_groups", "OS-EXT-STS:task_state", "OS-EXT-STS:vm_state",
    "OS-EXT-STS:power_state", "os-extended-volumes:volumes_attached", "host_status",
    *(name for name in COMPUTED if name.startswith("OS-EXT-SRV-ATTR:")),
)  # fmt: skip


def shorten_update(answer: dict[str, Any]) -> None:
    """The answer to an update as versions before 2.75 gave it."""
    for name in _NOT_IN_UPDATE:
        answer.pop(name, None)
    answer["addresses"] = {
        name: [{"version": one["version"], "addr": one["addr"]} for one in held]
        for name, held in answer["addresses"].items()
    }
