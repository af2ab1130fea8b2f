"""Attaching and detaching: reservations, connections, and the older actions that clients still use.

An attachment is made, connected, completed and removed in one transaction each that holds the volume's row; the
volume's status always follows from its attachments, so none can be left attaching or detaching.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa

from altostack.kit import api
from altostack.kit.api import load
from altostack.kit.call import Call, Reply
from altostack.kit.clients import RemoteError
from altostack.kit.db import utcnow
from altostack.kit.dialect import dashed_uuid
from altostack.kit.errors import BadRequest, Conflict, Unavailable
from altostack.volume import attachment as attachments
from altostack.volume.attachment import ATTACHED, ATTACHING, RESERVED, Attachment
from altostack.volume.dialect import invalid_input, invalid_volume
from altostack.volume.model import Status
from altostack.volume.neighbours import Compute
from altostack.volume.values import Text, Uuid
from altostack.volume.volume import Volume, held, table


class AttachmentCreate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    volume_uuid: Uuid
    instance_uuid: Uuid | None = None
    connector: dict[str, Any] | None = None


class AttachmentCreateMode(AttachmentCreate, kw_only=True):
    mode: Literal["rw", "ro"] | msgspec.UnsetType = msgspec.UNSET


class AttachmentUpdate(msgspec.Struct, forbid_unknown_fields=True):
    connector: Annotated[dict[str, Any], msgspec.Meta(min_length=1)]


def create_attachment(call: Call, fields: dict[str, Any]) -> Attachment:
    """POST /attachments: reserve the volume and, with a connector, connect it."""
    row: Volume = load(call, table(call, Volume), fields["volume_uuid"], lock=True)
    call.require("volume:attachment_create", row)
    if "error" in row.status:
        raise invalid_volume(
            f"Volume attachments can not be created if the volume is in an error state. The Volume {row.id} "
            f"currently has a status of: {row.status} "
        )
    _reserve(call, row, fields.get("instance_uuid"), Status.RESERVED)
    one = Attachment(
        id=dashed_uuid(), volume_id=row.id, project_id=row.project_id, instance=fields.get("instance_uuid"),
        attach_mode="ro" if row.readonly else fields.get("mode", "null"), status=RESERVED, connection_info={},
    )  # fmt: skip
    call.session.add(one)
    if fields.get("connector"):
        _connect(row, one, fields["connector"])
    call.session.flush()
    return one


def _reserve(call: Call, row: Volume, server: str | None, status: Status) -> None:
    """Take the volume for one server. Raises BadRequest when it is taken."""
    allowed = [Status.AVAILABLE, Status.DOWNLOADING]
    if row.multiattach:
        allowed.append(Status.IN_USE)
        if row.status == Status.IN_USE and row.bootable:
            call.require("volume:multiattach_bootable_volume", row)
    if row.status not in allowed or row.removing:
        mine = attachments.of(call.session, row.id)
        again = server and row.status in (Status.IN_USE, Status.RESERVED, Status.ATTACHING)
        if not (again and any(one.instance == server for one in mine)):
            hint = (
                "" if row.multiattach else " Its type does not allow more than one attachment (multiattach)."
            )
            raise invalid_volume(
                f"Volume {row.id} status must be {' or '.join(allowed)} to reserve, but the current status is "
                f"{row.status}.{hint if row.status == Status.IN_USE else ''}"
            )
        return
    row.status = status


def _connect(row: Volume, one: Attachment, connector: dict[str, Any]) -> None:
    if not row.connection:
        raise invalid_volume(f"Volume {row.id} is {row.status}; it cannot be connected yet.")
    mode = connector.get("mode") if one.attach_mode == "null" else one.attach_mode
    mode = mode if mode in ("rw", "ro") else "rw"
    data = dict(row.connection.get("data", {})) | {"access_mode": mode}
    one.connection_info = dict(row.connection) | {"data": data, "attachment_id": one.id}
    one.connector, one.host = connector, _word(connector.get("host"))
    one.mountpoint, one.attach_mode = _word(connector.get("mountpoint")), mode
    one.attached_at, one.status = utcnow(), ATTACHING
    row.status = Status.ATTACHING


def _word(value: Any) -> str | None:
    return value[:255] if isinstance(value, str) else None


def _volume_of(call: Call, one: Attachment) -> Volume:
    return load(call, table(call, Volume), one.volume_id, lock=True)  # type: ignore[no-any-return]  # a Volume


def update_attachment(call: Call, one: Attachment, fields: dict[str, Any]) -> None:
    """PUT /attachments/{id}: connect what was reserved."""
    row = _volume_of(call, one)
    if "error" in row.status:
        raise Conflict(
            f"Volume attachments can not be updated if the volume is in an error state. The Volume {row.id} "
            f"currently has a status of: {row.status} "
        )
    others = [
        each for each in attachments.of(call.session, row.id) if each.id != one.id and each.connection_info
    ]
    if others and not row.multiattach and {each.instance for each in others} != {one.instance}:
        raise Conflict(f"duplicate connectors detected on volume {row.id}")
    was = one.status
    _connect(row, one, fields["connector"])
    if was == ATTACHED:  # a new connector for what is in use
        one.status = ATTACHED
        row.status = Status.IN_USE


def complete_attachment(call: Call, one: Attachment) -> None:
    """os-complete: the volume is in use."""
    row = _volume_of(call, one)
    one.status, one.attached_at = ATTACHED, one.attached_at or utcnow()
    row.status = Status.IN_USE


def delete_attachment(call: Call, one: Attachment) -> Any:
    """DELETE /attachments/{id}; what a server uses is detached through compute."""
    if one.instance and one.connection_info and "service" not in call.context.roles:
        server, volume = one.instance, one.volume_id
        used = call.memo.get("used")
        if used is None:
            call.rollback()  # no transaction while a neighbour is asked
            used = call.memo["used"] = _used(call, server, volume, one.id)
            one = load(call, table(call, Attachment), op="delete")
        if used:
            raise Conflict(
                f"Detach volume from instance {server} using the Compute API", field="attachment_id"
            )
    row = call.session.scalars(sa.select(Volume).where(Volume.id == one.volume_id).with_for_update()).first()
    call.session.delete(one)
    call.session.flush()
    left = attachments.of(call.session, one.volume_id)
    if row is not None:
        release(row, left)
    return {"attachments": api.views(call, table(call, Attachment)).many(call, left, brief=True)}


def _used(call: Call, server: str, volume: str, attachment: str) -> bool:
    try:
        return Compute(call.runtime.clients["compute"]).holds(server, volume) == attachment
    except RemoteError as error:
        if 400 <= error.status < 500:
            return False
        raise Unavailable(f"The compute service did not say whether server {server} uses it.") from error


def release(row: Volume, left: list[Attachment]) -> None:
    """The volume's status once an attachment is gone, from those that are left."""
    if row.status == Status.UPLOADING or row.removing:
        return
    states = {one.status for one in left}
    for state, status in (
        (ATTACHED, Status.IN_USE),
        (ATTACHING, Status.ATTACHING),
        (RESERVED, Status.RESERVED),
    ):
        if state in states:
            row.status = status
            return
    if row.status in (
        Status.RESERVED, Status.ATTACHING, Status.IN_USE, Status.DETACHING,
    ):  # fmt: skip
        row.status = Status.AVAILABLE if row.connection else Status.CREATING


# ---- the older attach actions


class Attach(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    mountpoint: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    instance_uuid: Uuid | None = None
    host_name: Text | None = None
    mode: Literal["rw", "ro"] = "rw"


def attach(call: Call, row: Volume) -> None:
    """os-attach: say that a server or host has the volume."""
    row, sent = held(call, row), call.body
    if sent.instance_uuid is None and sent.host_name is None:
        raise invalid_input("One of instance_uuid and host_name must be given.", "instance_uuid")
    if row.readonly and sent.mode != "ro":
        raise invalid_input(f"Invalid attaching mode '{sent.mode}' for volume {row.id}.", "mode")
    if row.status not in (Status.AVAILABLE, Status.ATTACHING) and not (
        row.multiattach and row.status == Status.IN_USE
    ):
        raise invalid_volume(f"volume is already attached or not available: its status is {row.status}")
    call.session.add(
        Attachment(
            id=dashed_uuid(), volume_id=row.id, project_id=row.project_id, instance=sent.instance_uuid,
            host=sent.host_name, mountpoint=sent.mountpoint, attach_mode=sent.mode, status=ATTACHED,
            attached_at=utcnow(), connection_info={},
        )
    )  # fmt: skip
    row.status = Status.IN_USE


class Detach(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    attachment_id: Uuid | None = None
    connector: dict[str, Any] | None = None


def detach(call: Call, row: Volume) -> None:
    """os-detach and os-force_detach"""
    row = held(call, row)
    mine = attachments.of(call.session, row.id)
    chosen = [one for one in mine if call.body.attachment_id in (None, one.id)]
    if call.body.attachment_id is not None and not chosen:
        raise BadRequest(
            f"Volume attachment could not be found with filter: attachment_id = {call.body.attachment_id}.",
            field="attachment_id",
        )
    if call.body.attachment_id is None and len(chosen) > 1:
        raise invalid_volume("Detach volume failed: More than one attachment, but no attachment_id provided.")
    for one in chosen:
        if one.instance and one.connection_info and not ({"service", "admin"} & call.context.roles):
            raise Conflict(f"Detach volume from instance {one.instance} using the Compute API")
        call.session.delete(one)
    call.session.flush()
    release(row, [one for one in mine if one not in chosen])


def reserve(call: Call, row: Volume) -> None:
    """os-reserve"""
    row = held(call, row)
    allowed = (Status.AVAILABLE, Status.IN_USE) if row.multiattach else (Status.AVAILABLE,)
    if row.status not in allowed:
        raise invalid_volume(
            f"Volume status must be {' or '.join(allowed)} to reserve, but the status is {row.status}."
        )
    row.status = Status.ATTACHING


def unreserve(call: Call, row: Volume) -> None:
    """os-unreserve"""
    row = held(call, row)
    if row.status == Status.ATTACHING:
        release(row, attachments.of(call.session, row.id))


def begin_detaching(call: Call, row: Volume) -> None:
    """os-begin_detaching"""
    row = held(call, row)
    if row.status != Status.IN_USE:
        raise invalid_volume(
            "Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach."
        )
    row.status = Status.DETACHING


def roll_detaching(call: Call, row: Volume) -> None:
    """os-roll_detaching"""
    row = held(call, row)
    if row.status == Status.DETACHING:
        row.status = Status.IN_USE


class Connector(msgspec.Struct, forbid_unknown_fields=True):
    connector: dict[str, Any] | str | None


def initialize_connection(call: Call, row: Volume) -> Any:
    """os-initialize_connection"""
    if not row.connection:
        raise invalid_volume(f"Volume {row.id} is {row.status}; it cannot be connected.")
    data = dict(row.connection.get("data", {})) | {"access_mode": "ro" if row.readonly else "rw"}
    return Reply(status=200, body={"connection_info": dict(row.connection) | {"data": data}})


def terminate_connection(call: Call, row: Volume) -> None:
    """os-terminate_connection: a local file needs no farewell; a reservation ends."""
    unreserve(call, row)
