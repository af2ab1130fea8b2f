"""What is done to volumes: deleting, extending, resetting, attaching, copying to images; and the tables they make up.

Every change of state locks the volume's row, looks, and writes in one transaction, so none of them can be caught
halfway: there is no "attaching" or "detaching" that nobody owns.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa

from altostack.kit import api
from altostack.kit.api import load, remove, signal
from altostack.kit.call import Call, Reply
from altostack.kit.clients import RemoteError
from altostack.kit.db import utcnow
from altostack.kit.dialect import dashed_uuid
from altostack.kit.errors import BadGateway, BadRequest, Conflict, Unimplemented
from altostack.kit.policy import ADMIN, MEMBER
from altostack.kit.resource import MAX_INT, Action, Resource, struct
from altostack.kit.versions import Version
from altostack.volume import attachment as attachments
from altostack.volume import snapshot as snapshots
from altostack.volume import volume as volumes
from altostack.volume.attachment import ATTACHED, ATTACHING, RESERVED, Attachment
from altostack.volume.create import (
    HINTS,
    body,
    check,
    check_size,
    create,
    create_snapshot,
    snapshot_body,
)  # fmt: skip
from altostack.volume.dialect import invalid_input, invalid_volume, over_limit
from altostack.volume.model import SnapshotStatus, Status
from altostack.volume.neighbours import Compute, Image
from altostack.volume.node import ring
from altostack.volume.snapshot import Snapshot, check_deletable
from altostack.volume.values import FORMATS, Flag, Text, Uuid, Words, flag
from altostack.volume.volume import Volume

_ACT = "volume_extension:volume_actions"
_ADMIN = "volume_extension:volume_admin_actions"
_DELETABLE = (
    Status.AVAILABLE,
    Status.ERROR,
    Status.ERROR_RESTORING,
    Status.ERROR_EXTENDING,
    Status.ERROR_MANAGING,
)


def held(call: Call, row: Volume) -> Volume:
    """The volume, locked until the transaction ends, as it is now."""
    session = call.session
    wanted = sa.select(Volume).where(Volume.id == row.id).with_for_update()
    found = session.scalars(wanted.execution_options(populate_existing=True)).first()
    if found is None:
        raise call.runtime.service.dialect.not_found(VOLUMES, row.id)
    return found


# ---- deleting


def delete(call: Call, row: Volume) -> None:
    """DELETE /volumes/{id}, with cascade= and, since 3.23, force="""
    force = call.at_least("3.23") and call.flag("force")
    if force:
        call.require("volume:force_delete", row)
    _delete(call, row, force=force, cascade=call.flag("cascade"))


def force_delete(call: Call, row: Volume) -> None:
    """os-force_delete"""
    _delete(call, row, force=True, cascade=False)


def _delete(call: Call, row: Volume, *, force: bool, cascade: bool) -> None:
    row = held(call, row)
    if row.removing:
        return
    taken = list(
        call.session.scalars(sa.select(Snapshot).where(Snapshot.volume_id == row.id, ~Snapshot.removing))
    )
    if cascade:
        busy = [
            one.id for one in taken
            if not force and one.status not in (SnapshotStatus.AVAILABLE, SnapshotStatus.ERROR)
        ]  # fmt: skip
    else:
        busy = [one.id for one in taken]
    attached = any(one.status == ATTACHED for one in attachments.of(call.session, row.id))
    if (not force and row.status not in _DELETABLE) or attached or busy:
        status = "" if force else f"status must be {' or '.join(_DELETABLE)} and "
        why = f"it is {row.status}" + (", attached" if attached else "")
        why += f", has snapshots {', '.join(busy[:5])}" if busy else ""
        raise invalid_volume(
            f"Volume {status}must not be migrating, attached, belong to a group, have snapshots, awaiting a "
            f"transfer, or be disassociated from snapshots after volume transfer. Volume {row.id}: {why}."
        )
    for one in taken:
        _doom_snapshot(call, one)
    row.status, row.removing = Status.DELETING, True
    remove(call, VOLUMES, row)
    call.after(lambda: ring(call.runtime, row.host, row.id))


def delete_snapshot(call: Call, row: Snapshot) -> None:
    """DELETE /snapshots/{id}"""
    if not row.removing:
        check_deletable(row)
        _doom_snapshot(call, row)


def force_delete_snapshot(call: Call, row: Snapshot) -> None:
    """os-force_delete"""
    _doom_snapshot(call, row)


def _doom_snapshot(call: Call, row: Snapshot) -> None:
    row.status, row.removing = SnapshotStatus.DELETING, True
    remove(call, SNAPSHOTS, row)
    call.after(lambda: ring(call.runtime, row.host, row.id))


# ---- size, status, flags


class Extend(msgspec.Struct, forbid_unknown_fields=True):
    new_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_INT)]


def extend(call: Call, row: Volume) -> None:
    """os-extend; a volume in use since 3.42."""
    row, size = held(call, row), call.body.new_size
    if size <= row.size:
        raise invalid_input(
            f"New size for extend must be greater than current size. (current: {row.size}, extended: {size}).",
            "new_size",
        )
    in_use = row.status == Status.IN_USE and call.at_least("3.42")
    if in_use:
        call.require("volume:extend_attached_volume", row)
    if row.status != Status.AVAILABLE and not in_use:
        raise invalid_volume(f"Volume {row.id} status must be 'available' to extend, currently {row.status}.")
    check_size(call, size)
    with over_limit():
        call.runtime.quotas.claim(call.session, row.project_id, {"gigabytes": size - row.wanted})
    row.previous, row.status, row.wanted = row.status, Status.EXTENDING, size
    signal(call, row, "extend")


class ResetStatus(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    status: Text | None = None
    attach_status: Text | None = None
    migration_status: Text | None = None


def reset_status(call: Call, row: Volume) -> None:
    """os-reset_status"""
    sent = call.body
    if not (sent.status or sent.attach_status or sent.migration_status):
        raise invalid_input(
            "Must specify 'status', 'attach_status' or 'migration_status' for update.", "status"
        )
    row = held(call, row)
    if sent.migration_status and sent.migration_status.lower() != "none":
        raise Unimplemented("Volumes do not migrate here; migration_status can only be reset to none.")
    if sent.attach_status and sent.attach_status.lower() not in ("attached", "detached"):
        raise invalid_input(f"Volume attach status: {sent.attach_status} is invalid.", "attach_status")
    mine = attachments.of(call.session, row.id)
    if sent.attach_status and sent.attach_status.lower() == "detached":
        for one in mine:
            call.session.delete(one)
        mine = []
    if sent.status:
        row.status = _settable(sent.status.lower(), bool(mine))


def _settable(text: str, attached: bool) -> Status:
    valid = [one for one in Status if one not in (Status.DELETING, Status.ERROR_DELETING, Status.DETACHING)]
    if text in ("deleting", "error_deleting", "detaching"):
        raise BadRequest(f"Cannot reset-state to {text}", field="status")
    if text not in valid:
        raise invalid_input(
            f"Volume status: {text} is invalid, valid statuses are: {', '.join(valid)}.", "status"
        )
    if text == Status.IN_USE and not attached:
        raise BadRequest(
            "Cannot reset-state to in-use because volume does not have any attachments.", field="status"
        )
    return Status(text)


class Bootable(msgspec.Struct, forbid_unknown_fields=True):
    bootable: Flag


def set_bootable(call: Call, row: Volume) -> None:
    """os-set_bootable"""
    row.bootable = flag(call.body.bootable)


class Readonly(msgspec.Struct, forbid_unknown_fields=True):
    readonly: Flag


def set_readonly(call: Call, row: Volume) -> None:
    """os-update_readonly_flag"""
    row = held(call, row)
    if row.status != Status.AVAILABLE:
        raise invalid_volume(
            f"Volume {row.id} status must be available to update readonly flag, but current status is: {row.status}."
        )
    row.readonly = flag(call.body.readonly)


class ImageWords(msgspec.Struct, forbid_unknown_fields=True):
    metadata: Words


def set_image_metadata(call: Call, row: Volume) -> Any:
    """os-set_image_metadata"""
    row.image_meta = row.image_meta | call.body.metadata
    return {"metadata": row.image_meta}


class ImageKey(msgspec.Struct, forbid_unknown_fields=True):
    key: Text


def unset_image_metadata(call: Call, row: Volume) -> None:
    """os-unset_image_metadata"""
    if call.body.key not in row.image_meta:
        raise call.runtime.service.dialect.not_found(VOLUMES, f"{row.id} image metadata {call.body.key}")
    row.image_meta = {name: value for name, value in row.image_meta.items() if name != call.body.key}


def show_image_metadata(call: Call, row: Volume) -> Any:
    """os-show_image_metadata"""
    return {"metadata": row.image_meta}


def not_built(call: Call, row: Any) -> None:
    """An action that the API has and this service does not."""
    raise Unimplemented(f"{call.route.word} is not available here.")


# ---- to an image


def upload_body(version: Version | None) -> Any:
    fields: list[tuple[str, Any, bool]] = [
        ("image_name", Annotated[str, msgspec.Meta(min_length=1, max_length=255)], True),
        ("force", Flag, False), ("disk_format", FORMATS, False), ("container_format", Text | None, False),
    ]  # fmt: skip
    if version is None or version >= Version(3, 1):
        fields.append(("visibility", Literal["community", "public", "private", "shared"], False))
        fields.append(("protected", Flag, False))
    return struct("UploadImage", fields)


def upload(call: Call, row: Volume) -> Any:
    """os-volume_upload_image: the image is made in the caller's name, its bits are written by the storage node."""
    sent = call.body
    given = {
        name: value for name in sent.__struct_fields__ if (value := getattr(sent, name)) is not msgspec.UNSET
    }
    if given.get("visibility") == "public":
        call.require(f"{_ACT}:upload_public", row)
    fields = {
        "name": given["image_name"], "disk_format": given.get("disk_format", "raw"),
        "container_format": given.get("container_format") or "bare",
        "visibility": given.get("visibility", "private"), "protected": flag(given.get("protected", False)),
    }  # fmt: skip
    if fields["container_format"] != "bare":
        raise invalid_input("Only the container format 'bare' can be written.", "container_format")
    forced = flag(given.get("force", False))
    _check_uploadable(row, forced)
    if row.host is None:
        raise invalid_volume("The volume has not been scheduled to any host.")
    image = call.memo.get("image")
    if image is None:  # a second run of this handler uses what the first one made
        call.rollback()  # no transaction while a neighbour is asked
        image = call.memo["image"] = _make_image(call, row, fields)
    row = held(call, row)
    try:
        _check_uploadable(row, forced)
    except BadRequest:
        Image(call.runtime.clients["image"]).delete(image["id"])
        raise
    row.previous, row.status = row.status, Status.UPLOADING
    signal(call, row, "upload", {"image": image["id"], "format": fields["disk_format"]})
    updated = row.updated_at or row.created_at
    return {
        "os-volume_upload_image": {
            "id": row.id, "updated_at": call.runtime.service.dialect.time(updated), "status": "uploading",
            "display_description": row.description, "size": row.size,
            "volume_type": {"id": row.volume_type_id, "name": row.kind.name if row.kind else None},
            "image_id": image["id"], "container_format": "bare", "disk_format": fields["disk_format"],
            "image_name": fields["name"], "protected": fields["protected"], "visibility": fields["visibility"],
        }
    }  # fmt: skip


def _check_uploadable(row: Volume, forced: bool) -> None:
    allowed = (Status.AVAILABLE, Status.IN_USE) if forced else (Status.AVAILABLE,)
    if row.status not in allowed:
        raise invalid_volume(f"Volume {row.id} status must be {' or '.join(allowed)}")


def _make_image(call: Call, row: Volume, fields: dict[str, Any]) -> dict[str, Any]:
    images = Image(call.runtime.clients["image"])
    kept = {k: v for k, v in row.image_meta.items() if k not in _IMAGE_OWN}
    try:
        made = images.create(kept | fields, token=call.context.token)
        images.uploader(made["id"], row.host or "")
    except RemoteError as error:
        if 400 <= error.status < 500:
            raise BadRequest(f"The image service refused: {error.message}", field="image_name") from error
        raise BadGateway(f"The image service did not answer: {error.message}") from error
    return made


_IMAGE_OWN = {
    "image_id", "image_name", "container_format", "disk_format", "size", "checksum", "min_disk", "min_ram", "stores",
}  # fmt: skip


# ---- attachments


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
    row: Volume = load(call, VOLUMES, fields["volume_uuid"], lock=True)
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
    return load(call, VOLUMES, one.volume_id, lock=True)  # type: ignore[no-any-return]  # a Volume


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
            one = load(call, ATTACHMENTS, op="delete")
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
    return {"attachments": api.views(call, ATTACHMENTS).many(call, left, brief=True)}


def _used(call: Call, server: str, volume: str, attachment: str) -> bool:
    try:
        return Compute(call.runtime.clients["compute"]).holds(server, volume) == attachment
    except RemoteError as error:
        if 400 <= error.status < 500:
            return False
        raise BadGateway(f"The compute service did not say whether server {server} uses it.") from error


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


# ---- the tables


def _act(run: Any, word: str, sent: Any = None, **more: Any) -> Action:
    rule = word if ":" in word else f"{_ACT}:{word}"
    return Action(run=run, body=sent, rule=rule, policy=more.pop("policy", MEMBER), **more)


def _admin(run: Any, word: str, sent: Any = None, **more: Any) -> Action:
    return Action(run=run, body=sent, rule=f"{_ADMIN}:{word}", policy=ADMIN, **more)


_META = "volume_extension:volume_image_metadata"
VOLUMES: Resource = volumes.resource(
    create=create,
    check=check,
    create_body=body,
    extra_body={HINTS: dict[str, Any] | None},
    delete=delete,
    actions={
        "os-extend": _act(extend, "volume:extend", Extend),
        "os-set_bootable": _act(set_bootable, "volume:update", Bootable, status=200),
        "os-update_readonly_flag": _act(set_readonly, "volume:update_readonly_flag", Readonly),
        "os-reset_status": _admin(reset_status, "reset_status", ResetStatus),
        "os-force_delete": _admin(force_delete, "force_delete"),
        "os-force_detach": _admin(detach, "force_detach", Detach),
        "os-volume_upload_image": _act(upload, "upload_image", upload_body),
        "os-set_image_metadata": _act(set_image_metadata, f"{_META}:set", ImageWords, status=200),
        "os-unset_image_metadata": _act(unset_image_metadata, f"{_META}:remove", ImageKey, status=200),
        "os-show_image_metadata": _act(show_image_metadata, f"{_META}:show", status=200),
        "os-attach": _act(attach, "attach", Attach),
        "os-detach": _act(detach, "detach", Detach),
        "os-reserve": _act(reserve, "reserve"),
        "os-unreserve": _act(unreserve, "unreserve"),
        "os-begin_detaching": _act(begin_detaching, "begin_detaching"),
        "os-roll_detaching": _act(roll_detaching, "roll_detaching"),
        "os-initialize_connection": _act(initialize_connection, "initialize_connection", Connector),
        "os-terminate_connection": _act(terminate_connection, "terminate_connection", Connector),
        "os-retype": _act(not_built, "volume:retype"),
        "os-migrate_volume": _admin(not_built, "migrate_volume"),
        "os-migrate_volume_completion": _admin(not_built, "migrate_volume_completion"),
        "os-extend_volume_completion": _admin(not_built, "extend_volume_completion", since=Version(3, 71)),
        "os-unmanage": _act(not_built, "volume_extension:volume_unmanage", policy=ADMIN),
        "os-reimage": _act(not_built, "volume:reimage", since=Version(3, 68)),
        "revert": _act(not_built, "volume:revert_to_snapshot", since=Version(3, 40)),
    },
)
SNAPSHOTS: Resource = snapshots.resource(
    create=create_snapshot,
    create_body=snapshot_body,
    delete=delete_snapshot,
    actions={
        "os-force_delete": Action(
            run=force_delete_snapshot,
            policy=ADMIN,
            rule="volume_extension:snapshot_admin_actions:force_delete",
        ),
        "os-unmanage": Action(run=not_built, policy=ADMIN, rule="snapshot_extension:snapshot_unmanage"),
    },
)
ATTACHMENTS: Resource = attachments.resource(
    complete=complete_attachment,
    create=create_attachment,
    update=update_attachment,
    delete=delete_attachment,
    create_body=lambda version: (
        AttachmentCreateMode if version is None or version >= Version(3, 54) else AttachmentCreate
    ),
    update_body=AttachmentUpdate,
)
RULES = {
    "volume:create_from_image": MEMBER,
    "volume:force_delete": ADMIN,
    "volume:extend_attached_volume": MEMBER,
    "volume:multiattach": MEMBER,
    "volume:multiattach_bootable_volume": MEMBER,
    f"{_ACT}:upload_public": ADMIN,
}
