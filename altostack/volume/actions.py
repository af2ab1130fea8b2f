"""What is done to volumes and snapshots: deleting, extending, resetting, copying to images.

Every change of state locks the volume's row, looks, and writes in one transaction, so none of them is caught halfway.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa

from altostack.kit.api import remove, signal
from altostack.kit.call import Call
from altostack.kit.clients import RemoteError
from altostack.kit.errors import BadRequest, Unavailable, Unimplemented
from altostack.kit.resource import MAX_INT, struct
from altostack.kit.versions import Version
from altostack.volume import attachment as attachments
from altostack.volume.attachment import ATTACHED
from altostack.volume.create import check_size
from altostack.volume.dialect import invalid_input, invalid_volume, over_limit
from altostack.volume.model import SnapshotStatus, Status
from altostack.volume.neighbours import Image
from altostack.volume.node import ring
from altostack.volume.snapshot import Snapshot, check_deletable
from altostack.volume.values import FORMATS, Flag, Text, Words, flag
from altostack.volume.volume import Volume, held, table

_ACT = "volume_extension:volume_actions"
_DELETABLE = (
    Status.AVAILABLE, Status.ERROR, Status.ERROR_RESTORING, Status.ERROR_EXTENDING, Status.ERROR_MANAGING
)  # fmt: skip


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
    remove(call, table(call, Volume), row)
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
    remove(call, table(call, Snapshot), row)
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
        raise call.runtime.service.dialect.not_found(
            table(call, Volume), f"{row.id} image metadata {call.body.key}"
        )
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
        try:
            images.uploader(made["id"], row.host or "")
        except RemoteError:
            images.delete(made["id"])
            raise
    except RemoteError as error:
        if 400 <= error.status < 500:
            raise BadRequest(f"The image service refused: {error.message}", field="image_name") from error
        raise Unavailable(f"The image service did not answer: {error.message}") from error
    return made


_IMAGE_OWN = {
    "image_id", "image_name", "container_format", "disk_format", "size", "checksum", "min_disk", "min_ram", "stores",
}  # fmt: skip
