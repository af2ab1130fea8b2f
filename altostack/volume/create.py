"""Creating volumes and snapshots."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import attributes

from altostack.kit import api
from altostack.kit.api import load
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Forbidden, NotFound, Unavailable
from altostack.kit.resource import struct
from altostack.kit.versions import Version
from altostack.volume import types
from altostack.volume.dialect import invalid_input, invalid_snapshot, invalid_volume, over_limit, too_large
from altostack.volume.model import SnapshotStatus, Status
from altostack.volume.neighbours import Image, RemoteError
from altostack.volume.node import settings
from altostack.volume.snapshot import Snapshot
from altostack.volume.values import Flag, Size, Text, Uuid, Words, flag, is_multiattach, named
from altostack.volume.volume import Volume, table

GIB = 1 << 30
HINTS = "OS-SCH-HNT:scheduler_hints"
# What an image says of its own record is not repeated in the volume's.
_RECORD = {
    "id", "owner", "created_at", "updated_at", "file", "self", "schema", "locations", "direct_url", "tags",
    "visibility", "protected", "status", "virtual_size", "os_hash_algo", "os_hash_value", "os_hidden", "name",
}  # fmt: skip
_IMAGE_FACTS = ("container_format", "disk_format", "min_disk", "min_ram", "size", "checksum")


def body(version: Version | None) -> Any:
    """What POST /volumes takes; since 3.53 nothing else."""
    fields: list[tuple[str, Any, bool]] = [
        ("name", Text | None, False), ("description", Text | None, False), ("display_name", Text | None, False),
        ("display_description", Text | None, False), ("volume_type", Text | None, False),
        ("metadata", Words | None, False), ("snapshot_id", Uuid | None, False), ("source_volid", Uuid | None, False),
        ("consistencygroup_id", Uuid | None, False), ("size", Size | None, False),
        ("availability_zone", Text | None, False), ("multiattach", Flag | None, False),
        ("image_id", Text | None, False), ("imageRef", Text | None, False),
    ]  # fmt: skip
    if version is None or version >= Version(3, 13):
        fields.append(("group_id", Text | None, False))
    if version is None or version >= Version(3, 47):
        fields.append(("backup_id", Uuid | None, False))
    return struct("VolumeCreate", fields, open=version is not None and version < Version(3, 53))


def check(call: Call, fields: dict[str, Any]) -> None:
    """Before the transaction: what the image service says of the image that the volume shall be made from."""
    ref = fields.get("imageRef") or fields.get("image_id")
    fields["image"] = _image(call, ref) if ref else None


def _image(call: Call, ref: str) -> dict[str, Any]:
    call.require("volume:create_from_image")
    bad = BadRequest("Invalid image identifier or unable to access requested image.", field="volume.imageRef")
    key = ref.rstrip("/").rpartition("/")[2]
    try:
        found = Image(call.runtime.clients["image"]).show(key, token=call.context.token) if key else None
    except RemoteError as error:
        if error.status in (400, 403):
            raise bad from error
        raise Unavailable(f"The image service did not answer: {error.message}") from error
    if found is None:
        raise bad
    return found


def create(call: Call, fields: dict[str, Any]) -> Volume:
    """POST /volumes: everything is checked, the row, its quota and its lifecycle are written, and that is all."""
    image = fields.pop("image", None)
    named(fields)
    for word, noun in (("group_id", "Group"), ("consistencygroup_id", "Group"), ("backup_id", "Backup")):
        if fields.get(word) is not None:
            raise NotFound(f"{noun} {fields[word]} could not be found.")
    if fields.get("multiattach") is not None and flag(fields["multiattach"]):
        raise BadRequest(
            "multiattach parameter has been removed. The default behavior is to use multiattach enabled volume "
            "types. Contact your administrator to create a multiattach enabled volume type and use it to create "
            "multiattach volumes.",
            field="volume.multiattach",
        )
    zone = settings(call.runtime).availability_zone
    if fields.get("availability_zone") not in (None, "", zone):
        raise invalid_input(
            f"Availability zone '{fields['availability_zone']}' is invalid.", "volume.availability_zone"
        )
    size = fields.get("size")
    row = Volume(
        name=fields.get("name"), description=fields.get("description"), user_id=call.context.user_id,
        availability_zone=zone, meta=fields.get("metadata") or {}, hints=_hints(call), source={}, image_meta={},
        status=Status.CREATING, bootable=False, upload={}, observed={}, connection={},
    )  # fmt: skip
    kind = None
    if fields.get("snapshot_id") is not None:
        size, kind = _from_snapshot(call, row, fields["snapshot_id"], size)
    elif fields.get("source_volid") is not None:
        size, kind = _from_volume(call, row, fields["source_volid"], size)
    elif image is not None:
        _from_image(row, image, size)
    if size is None:
        raise invalid_input("Volume size 'None' must be an integer and greater than 0", "volume.size")
    if fields.get("volume_type") or kind is None:
        kind = types.find(call, fields.get("volume_type"))
    row.size = row.wanted = size
    row.volume_type_id, row.multiattach = kind.id, is_multiattach(kind.extra_specs)
    if row.multiattach and not call.allows("volume:multiattach"):
        raise Forbidden("Policy doesn't allow volume:multiattach to be performed.")
    check_size(call, size)
    with over_limit():
        api.add(call, table(call, Volume), row)
    attributes.set_committed_value(row, "kind", kind)
    attributes.set_committed_value(row, "attachments", [])
    return row


def _hints(call: Call) -> dict[str, Any]:
    sent = getattr(call.document, "extra_OS_SCH_HNT_scheduler_hints", None)
    hints = dict(sent) if isinstance(sent, dict) else {}
    for word in ("same_host", "different_host"):
        value = hints.get(word, [])
        ids = [value] if isinstance(value, str) else value
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise invalid_input(f"The hint {word} must be a list of volume ids.", HINTS)
    return {word: hints[word] for word in ("same_host", "different_host") if word in hints}


def check_size(call: Call, size: int) -> None:
    """Raises TooLarge for a volume that is larger than any of the project's may be."""
    limits = call.runtime.quotas.limits(call.session, call.context.project_id or "")
    limit = limits.get("per_volume_gigabytes", -1)
    if limit >= 0 and size > limit:
        raise too_large(size, limit)


def _from_snapshot(
    call: Call, row: Volume, key: str, size: int | None
) -> tuple[int, types.VolumeType | None]:
    found: Snapshot = load(call, table(call, Snapshot), key, op="show")
    if found.status != SnapshotStatus.AVAILABLE:
        raise invalid_snapshot(
            f"Originating snapshot status must be one of 'available' values; it is {found.status}."
        )
    if size is not None and size < found.size:
        raise invalid_input(
            f"Volume size '{size}'GB cannot be smaller than the snapshot size {found.size}GB. They must be >= "
            "original snapshot size.",
            "volume.size",
        )
    row.snapshot_id = found.id
    row.source = {"kind": "snapshot", "id": found.id}
    row.hints = row.hints | {"source_host": found.host}
    parent = call.session.get(Volume, found.volume_id)
    if parent is not None:
        row.bootable, row.image_meta = parent.bootable, dict(parent.image_meta)
    return size or found.size, call.session.get(types.VolumeType, found.volume_type_id)


def _from_volume(call: Call, row: Volume, key: str, size: int | None) -> tuple[int, types.VolumeType | None]:
    found: Volume = load(call, table(call, Volume), key, op="show")
    if found.status not in (Status.AVAILABLE, Status.IN_USE):
        raise invalid_volume(
            f"Originating volume status must be one of 'available', 'in-use' values; it is {found.status}."
        )
    if size is not None and size < found.size:
        raise invalid_input(
            f"Volume size '{size}'GB cannot be smaller than original volume size {found.size}GB. They must be >= "
            "original volume size.",
            "volume.size",
        )
    row.source_volid = found.id
    row.source = {"kind": "volume", "id": found.id}
    row.hints = row.hints | {"source_host": found.host}
    row.bootable, row.image_meta = found.bootable, dict(found.image_meta)
    return size or found.size, call.session.get(types.VolumeType, found.volume_type_id)


def _from_image(row: Volume, image: dict[str, Any], size: int | None) -> None:
    if image.get("status") != "active":
        raise invalid_input(
            f"Image {image['id']} is not active; it is {image.get('status')}.", "volume.imageRef"
        )
    if size is None:
        raise invalid_input("Volume size 'None' must be an integer and greater than 0", "volume.size")
    needed = max(int(image.get("size") or 0), int(image.get("virtual_size") or 0))
    if needed > size * GIB:
        raise invalid_input(
            f"Size of specified image {-(-needed // GIB)}GB is larger than volume size {size}GB.",
            "volume.size",
        )
    least = int(image.get("min_disk") or 0)
    if least > size:
        raise invalid_input(
            f"Volume size {size}GB cannot be smaller than the image minDisk size {least}GB.", "volume.size"
        )
    row.source = {"kind": "image", "id": image["id"], "format": image.get("disk_format") or "raw"}
    row.bootable = True
    facts = {"image_id": image["id"], "image_name": image.get("name") or ""}
    facts |= {name: str(image[name]) for name in _IMAGE_FACTS if image.get(name) is not None}
    own = {
        name: str(value)
        for name, value in image.items()
        if name not in _RECORD and name not in _IMAGE_FACTS and isinstance(value, str | int | bool)
    }
    row.image_meta = own | facts


# ---- snapshots


def snapshot_body(version: Version | None) -> Any:
    """What POST /snapshots takes."""
    fields: list[tuple[str, Any, bool]] = [
        ("volume_id", Uuid, True), ("name", Text | None, False), ("display_name", Text | None, False),
        ("description", Text | None, False), ("force", Flag | None, False), ("metadata", Words | None, False),
    ]  # fmt: skip
    return struct("SnapshotCreate", fields)


def create_snapshot(call: Call, fields: dict[str, Any]) -> Snapshot:
    """POST /snapshots"""
    named(fields)
    forced = fields.get("force")
    if call.at_least("3.66") and forced is not None and not flag(forced):
        raise invalid_input(
            "Since microversion 3.66 the 'force' flag is invalid for this request. For backward compatibility, "
            "when it is passed with a value evaluating to True, it is silently ignored.",
            "snapshot.force",
        )
    volume: Volume = load(call, table(call, Volume), fields["volume_id"], lock=True)
    call.require("volume:create_snapshot", volume)
    if volume.host is None or volume.removing:
        raise invalid_volume(
            "The snapshot cannot be created because volume has not been scheduled to any host."
        )
    in_use = call.at_least("3.66") or (forced is not None and flag(forced))
    allowed = (Status.AVAILABLE, Status.IN_USE) if in_use else (Status.AVAILABLE,)
    if volume.status not in allowed:
        raise invalid_volume(
            f"Volume {volume.id} status must be {', '.join(allowed)}, but current status is: {volume.status}."
        )
    row = Snapshot(
        name=fields.get("name"), description=fields.get("description"), volume_id=volume.id, size=volume.size,
        meta=fields.get("metadata") or {}, user_id=call.context.user_id, project_id=volume.project_id,
        volume_type_id=volume.volume_type_id, host=volume.host, status=SnapshotStatus.CREATING, observed={},
    )  # fmt: skip
    with over_limit():
        api.add(call, table(call, Snapshot), row)
    return row
