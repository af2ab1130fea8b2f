"""Volume attachments of a server: /servers/{id}/os-volume_attachments."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa

from altostack.compute import server_disks
from altostack.compute.asking import outside
from altostack.compute.dialect import only
from altostack.compute.neighbours import neighbours
from altostack.compute.reach import below, server_of
from altostack.compute.server_actions import ask, ready
from altostack.compute.server_row import ACTIVE, ERROR, PAUSED, RESIZED, STOPPED, SUSPENDED, Disk, Server
from altostack.compute.values import Tag, Uuid, fields_at, spec
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Conflict, Forbidden, NotFound, Unimplemented
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import given, struct
from altostack.kit.versions import Version

_MAY = (ACTIVE, PAUSED, STOPPED, RESIZED)
_DEVICE = Annotated[str, msgspec.Meta(pattern="^/dev/x?[a-z]?d?[a-z]+[0-9]*$")]
_CREATE = {
    "volumeId": spec(Uuid, required=True),
    "device": spec(_DEVICE | None),
    "tag": spec(Tag, since="2.49"),
    "delete_on_termination": spec(bool, since="2.79"),
}
_UPDATE = {
    "volumeId": spec(Uuid, required=True),
    "device": spec(_DEVICE | None, since="2.85"),
    "tag": spec(Tag | None, since="2.85"),
    "delete_on_termination": spec(bool, since="2.85"),
    "serverId": spec(Uuid, since="2.85"),
    "id": spec(Uuid, since="2.85"),
}


def create_body(version: Version | None) -> Any:
    inner = struct("AttachVolume", fields_at(_CREATE, version))
    return struct("AttachVolumeBody", [("volumeAttachment", inner, True)])


def update_body(version: Version | None) -> Any:
    inner = struct("UpdateAttachment", fields_at(_UPDATE, version))
    return struct("UpdateAttachmentBody", [("volumeAttachment", inner, True)])


def _view(call: Call, disk: Disk) -> dict[str, Any]:
    found: dict[str, Any] = {"volumeId": disk.volume_id, "serverId": disk.server_id, "device": disk.device}
    if not call.at_least("2.89"):
        found["id"] = disk.volume_id
    if call.at_least("2.70"):
        found["tag"] = disk.tag
    if call.at_least("2.79"):
        found["delete_on_termination"] = disk.delete_on_termination
    if call.at_least("2.89"):
        found["attachment_id"] = disk.attachment_id
        found["bdm_uuid"] = disk.id
    return found


def _disks(call: Call, row: Server) -> list[Disk]:
    query = sa.select(Disk).where(Disk.server_id == row.id, Disk.volume_id.is_not(None))
    return list(call.session.execute(query.order_by(Disk.position, Disk.id)).scalars())


def _shown(call: Call, disk: Disk) -> bool:
    """From 2.89 on only what has an attachment can be shown."""
    return not call.at_least("2.89") or disk.attachment_id is not None


def index(call: Call) -> Any:
    only(call, "limit", "offset", since="2.75")
    found = [_view(call, disk) for disk in _disks(call, server_of(call)) if _shown(call, disk)]
    start = call.number("offset", 0) or 0
    limit = call.number("limit")
    end = None if limit is None else start + limit
    return {"volumeAttachments": found[start:end]}


def _load(call: Call, row: Server) -> Disk:
    volume_id = call.params["volume_id"]
    found = next((disk for disk in _disks(call, row) if disk.volume_id == volume_id), None)
    if found is None:
        raise NotFound(f"Instance {row.id} is not attached to volume {volume_id}", field="volume_id")
    return found


def show(call: Call) -> Any:
    only(call)
    row = server_of(call)
    disk = _load(call, row)
    if not _shown(call, disk):
        raise NotFound(f"Instance {row.id} is not attached to volume {disk.volume_id}", field="volume_id")
    return {"volumeAttachment": _view(call, disk)}


def create(call: Call) -> Any:
    """Check the volume, choose a device name, and let the lifecycle do the rest."""
    fields = given(call.body.volumeAttachment)
    volume_id = fields["volumeId"]
    ready(call, server_of(call), "attach_volume", _MAY)
    with outside(call):
        volume = neighbours(call.runtime.clients).volume.show(volume_id, token=call.context.token)
    if volume is None:
        raise NotFound(f"Volume {volume_id} could not be found.", field="volumeId")
    if volume.get("multiattach") and not call.at_least("2.60"):
        raise BadRequest(
            "Multiattach volumes are only supported starting with compute API version 2.60.", field="volumeId"
        )
    row = server_of(call, lock=True)
    ready(call, row, "attach_volume", _MAY)
    held = list(call.session.execute(sa.select(Disk).where(Disk.volume_id == volume_id)).scalars())
    if any(disk.server_id == row.id for disk in held):
        raise BadRequest(
            f"Invalid volume: volume {volume_id} is already attached to instance {row.id}", field="volumeId"
        )
    if held and not volume.get("multiattach"):
        raise BadRequest(f"Invalid volume: volume {volume_id} is being attached elsewhere", field="volumeId")
    server_disks.usable(volume)
    query = sa.select(Disk).where(Disk.server_id == row.id)
    mine = list(call.session.execute(query).scalars())
    if len(mine) >= 25:
        raise Forbidden(
            "The maximum allowed number of disk devices (26) to attach to a single instance has been exceeded."
        )
    used = {disk.device for disk in mine if disk.device} | ({"/dev/vda"} if row.image_id else set())
    wish = fields.get("device")
    if wish in used:
        raise Conflict(f"The supplied device path ({wish}) is in use.", field="device")
    disk = Disk(
        id=str(uuid.uuid4()), server_id=row.id, position=max((one.position for one in mine), default=-1) + 1,
        source="volume", source_id=volume_id, destination="volume", volume_id=volume_id, size=volume["size"],
        device=server_disks.device_names(used, [wish])[0], tag=fields.get("tag"),
        multiattach=bool(volume.get("multiattach")), delete_on_termination=fields.get("delete_on_termination", False),
    )  # fmt: skip
    call.session.add(disk)
    call.session.flush()
    ask(call, row, "attach_volume", None, "attach", disk=disk.id)
    if call.at_least("2.101"):
        return Reply(status=202)
    answer = {"id": volume_id, "serverId": row.id, "volumeId": volume_id, "device": disk.device}
    if call.at_least("2.70"):
        answer["tag"] = disk.tag
    if call.at_least("2.79"):
        answer["delete_on_termination"] = disk.delete_on_termination
    return {"volumeAttachment": answer}


def update(call: Call) -> None:
    """Only delete_on_termination can be changed; putting another volume in its place is the volume service's own."""
    row = server_of(call)
    fields = given(call.body.volumeAttachment)
    if fields["volumeId"] != call.params["volume_id"] or not call.at_least("2.85"):
        _load(call, row)
        raise Unimplemented("A volume cannot be swapped for another one.", field="volumeId")
    disk = _load(call, row)
    fixed = {"id": disk.volume_id, "serverId": row.id, "device": disk.device, "tag": disk.tag}
    for name, value in fixed.items():
        if name in fields and fields[name] != value:
            raise BadRequest(f"The {name} property is not mutable", field=name)
    if "delete_on_termination" in fields:
        disk.delete_on_termination = fields["delete_on_termination"]
        row.volumes = [
            {**one, "delete_on_termination": disk.delete_on_termination}
            if one["id"] == disk.volume_id
            else one
            for one in row.volumes
        ]


def delete(call: Call) -> None:
    row = server_of(call, lock=True)
    disk = _load(call, row)
    ready(call, row, "detach_volume", (*_MAY, SUSPENDED, ERROR) if disk.state != "attached" else _MAY)
    if disk.boot_index == 0:
        raise BadRequest("Cannot detach a root device volume", field="volume_id")
    if disk.state != "attached":
        raise BadRequest(
            f"Invalid volume: Invalid input received: Invalid volume: volume {disk.volume_id} is {disk.state}, not "
            "attached.",
            field="volume_id",
        )
    disk.state = "leaving"
    ask(call, row, "detach_volume", None, "detach", disk=disk.id)


_RULE = "os-volumes-attachments:"
_PATH = "/os-volume_attachments"
_ONE = _PATH + "/{volume_id}"
ROUTES = (
    below(_PATH, index, _RULE + "index", READER),
    below(_PATH, create, _RULE + "create", MEMBER, method="POST", body=create_body),
    below(_ONE, show, _RULE + "show", READER),
    below(_ONE, update, _RULE + "update", MEMBER, method="PUT", body=update_body, status=202),
    below(_ONE, delete, _RULE + "delete", MEMBER, method="DELETE", status=202),
)
