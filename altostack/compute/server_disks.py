"""Block devices in a request to create a server: read, checked with the volume service, turned into rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from altostack.compute.neighbours import Neighbours
from altostack.compute.server_row import Disk
from altostack.compute.values import Device, Natural, Tag, Text, Uuid, fields_at, is_uuid, spec
from altostack.kit.errors import BadRequest
from altostack.kit.resource import given, struct
from altostack.kit.versions import Version

FIELD = "block_device_mapping_v2"
_OLD = {
    "virtual_name": spec(Text),
    "volume_id": spec(Uuid),
    "snapshot_id": spec(Uuid),
    "volume_size": spec(Natural | str),
    "device_name": spec(Device),
    "delete_on_termination": spec(bool),
    "no_device": spec(Any),
    "connection_info": spec(str),
}
_NEW = {
    **_OLD,
    "source_type": spec(str),
    "uuid": spec(Text),
    "image_id": spec(Uuid),
    "destination_type": spec(str),
    "guest_format": spec(Text),
    "device_type": spec(Text),
    "disk_bus": spec(Text),
    "boot_index": spec(int | str | None),
    "volume_type": spec(Text | None, since="2.67"),
}


def old_item(version: Version | None) -> Any:
    """One entry of block_device_mapping."""
    return struct("OldBlockDevice", fields_at(_OLD, version))


def new_item(version: Version | None) -> Any:
    """One entry of block_device_mapping_v2; tags came at 2.32, went at 2.33 and came back at 2.42."""
    table = dict(_NEW)
    if version is None or version == (2, 32) or version >= (2, 42):
        table["tag"] = spec(Tag)
    return struct("BlockDevice", fields_at(table, version))


@dataclass(frozen=True, kw_only=True)
class DiskAsk:
    """A block device as asked for, in one form."""

    source: str
    source_id: str | None
    destination: str
    size: int | None = None
    boot_index: int | None = None
    device: str | None = None
    delete: bool = False
    guest_format: str | None = None
    volume_type: str | None = None
    tag: str | None = None
    multiattach: bool = False


def invalid(details: str) -> BadRequest:
    """The 400 for block devices."""
    return BadRequest(f"Block Device Mapping is Invalid: {details}", field=FIELD)


def read_new(items: Iterable[Any]) -> list[DiskAsk]:
    """block_device_mapping_v2. Raises BadRequest."""
    found = []
    for item in items:
        one = given(item)
        if one.get("no_device"):
            continue
        source, source_id = one.get("source_type"), one.get("uuid")
        for kind in ("volume", "snapshot", "image"):
            if source is None and one.get(f"{kind}_id"):
                source, source_id = kind, one[f"{kind}_id"]
        if source not in ("volume", "snapshot", "image", "blank"):
            raise invalid(f"Invalid source_type {source!r}: volume, snapshot, image and blank are known.")
        if source != "blank":
            if not source_id:
                raise invalid("Missing device UUID.")
            if not is_uuid(source_id):
                raise invalid(f"{source_id!r} is not a 'uuid'.")
        destination = one.get("destination_type") or ("local" if source in ("image", "blank") else "volume")
        if destination not in ("local", "volume"):
            raise invalid(f"Invalid destination_type {destination!r}: local and volume are known.")
        if destination == "local" and source in ("volume", "snapshot"):
            raise invalid(f"Mapping {source} to local is not supported.")
        found.append(
            DiskAsk(
                source=source, source_id=None if source == "blank" else source_id, destination=destination,
                size=_size(one.get("volume_size")), boot_index=_boot_index(one.get("boot_index")),
                device=_device(one.get("device_name")), delete=one.get("delete_on_termination", False),
                guest_format=one.get("guest_format"), volume_type=one.get("volume_type"), tag=one.get("tag"),
            )
        )  # fmt: skip
    return found


def read_old(items: Iterable[Any], *, image: bool) -> list[DiskAsk]:
    """block_device_mapping: the first volume boots when there is no image. Raises BadRequest."""
    found: list[DiskAsk] = []
    for item in items:
        one = given(item)
        if one.get("no_device"):
            continue
        source_id = one.get("volume_id") or one.get("snapshot_id")
        if not source_id:
            raise invalid("Missing device UUID.")
        boots = not image and not found
        found.append(
            DiskAsk(
                source="volume" if one.get("volume_id") else "snapshot", source_id=source_id, destination="volume",
                size=_size(one.get("volume_size")), boot_index=0 if boots else None,
                device=_device(one.get("device_name")), delete=one.get("delete_on_termination", False),
            )
        )  # fmt: skip
    return found


def _size(value: Any) -> int | None:
    if value in (None, ""):
        return None
    try:
        size = int(value)
    except ValueError as error:
        raise invalid(f"volume_size {value!r} is not a number.") from error
    if size < 1:
        raise invalid(f"volume_size must be at least 1, not {size}.")
    return size


def _boot_index(value: Any) -> int | None:
    if value in (None, "None"):
        return None
    try:
        index = int(value)
    except ValueError as error:
        raise invalid(f"boot_index {value!r} is not a number.") from error
    return index if index >= 0 else None


def _device(name: str | None) -> str | None:
    if not name:
        return None
    return name if name.startswith("/dev/") else f"/dev/{name}"


def boot_order(asks: list[DiskAsk], image_id: str | None) -> tuple[list[DiskAsk], str | None]:
    """The devices besides the root disk made of an image, and that image's id. Raises BadRequest.

    Exactly one device boots first, and boot indexes run from 0 without a gap.
    """
    rest = []
    for one in asks:
        if one.source == "image" and one.destination == "local":
            if one.boot_index != 0:
                raise invalid(
                    "Mapping image to local is not supported for a device that does not boot first."
                )
            if image_id is not None and image_id != one.source_id:
                raise invalid("The image of boot index 0 is not the server's imageRef.")
            image_id = one.source_id
        else:
            rest.append(one)
    indexes = sorted(one.boot_index for one in rest if one.boot_index is not None)
    if image_id is not None and not any(one.boot_index == 0 for one in rest):
        indexes = [0, *indexes]
    if not indexes or indexes != list(range(len(indexes))):
        raise invalid(
            "Boot sequence for the instance and image/block device mapping combination is not valid."
        )
    return rest, image_id


def check(
    asks: list[DiskAsk], near: Neighbours, flavor: Any, token: str, version: Version | None
) -> list[DiskAsk]:
    """The devices with what the volume service says about them. Raises BadRequest."""
    found = []
    for one in asks:
        if one.destination == "local":
            found.append(one)
            continue
        if one.source == "volume":
            found.append(_check_volume(one, near, token, version))
            continue
        if one.source == "snapshot":
            snapshot = near.volume.snapshot(one.source_id or "", token=token)
            if snapshot is None:
                raise invalid(f"failed to get snapshot {one.source_id}.")
            one = replace(one, size=one.size or snapshot["size"])
        elif one.source == "image":
            image = near.image.show(one.source_id or "", token=token)
            if image is None:
                raise invalid(f"failed to get image {one.source_id}.")
            if image["status"] != "active":
                raise BadRequest(f"Image {one.source_id} is not active.", field="imageRef")
        if not one.size:
            noun = "Blank volumes" if one.source == "blank" else "Images with destination_type 'volume'"
            raise invalid(f"{noun} need to have a non-zero size specified")
        found.append(one)
    _check_local(found, flavor)
    return found


def _check_volume(one: DiskAsk, near: Neighbours, token: str, version: Version | None) -> DiskAsk:
    volume = near.volume.show(one.source_id or "", token=token)
    if volume is None:
        raise invalid(f"failed to get volume {one.source_id}.")
    multi = bool(volume.get("multiattach"))
    if multi and version is not None and version < (2, 60):
        raise BadRequest(
            "Multiattach volumes are only supported starting with compute API version 2.60.", field=FIELD
        )
    usable(volume)
    if one.boot_index == 0 and str(volume.get("bootable")).lower() != "true":
        raise BadRequest(f"Block Device {one.source_id} is not bootable.", field=FIELD)
    return replace(one, size=volume["size"], multiattach=multi)


def usable(volume: dict[str, Any]) -> None:
    """Raises BadRequest unless the volume may be attached now."""
    wanted = ("available", "in-use") if volume.get("multiattach") else ("available",)
    if volume["status"] not in wanted:
        raise BadRequest(
            f"Invalid volume: volume '{volume['id']}' status must be 'available'"
            f"{' or in-use' if len(wanted) > 1 else ''}. Currently in '{volume['status']}'",
            field="volume_id",
        )


def _check_local(asks: list[DiskAsk], flavor: Any) -> None:
    blank = [one for one in asks if one.destination == "local" and one.source == "blank"]
    swaps = [one for one in blank if one.guest_format == "swap"]
    if len(swaps) > 1:
        raise invalid("More than one swap drive requested.")
    if swaps and (swaps[0].size or 0) > flavor.swap:
        raise BadRequest("Swap drive requested is larger than instance type allows.", field=FIELD)
    if sum(one.size or flavor.ephemeral for one in blank if one.guest_format != "swap") > flavor.ephemeral:
        raise BadRequest("Ephemeral disks requested are larger than the instance type allows.", field=FIELD)


def rows(asks: list[DiskAsk], server_id: str, *, root: bool) -> list[Disk]:
    """The rows of a new server's devices; ``root``: a root disk of an image takes the first name."""
    names = device_names(
        {"/dev/vda"} if root else set(), [one.device for one in asks if one.destination == "volume"]
    )
    found = []
    ordered = sorted(asks, key=lambda one: (one.boot_index is None, one.boot_index or 0))
    for position, one in enumerate(ordered):
        volume = one.destination == "volume"
        found.append(
            Disk(
                id=None, server_id=server_id, position=position, source=one.source, source_id=one.source_id,
                destination=one.destination, size=one.size, boot_index=one.boot_index, guest_format=one.guest_format,
                delete_on_termination=one.delete, volume_type=one.volume_type, tag=one.tag,
                multiattach=one.multiattach, volume_id=one.source_id if one.source == "volume" else None,
                device=names.pop(0) if volume else None,
            )
        )  # fmt: skip
    return found


def device_names(taken: set[str], wished: list[str | None]) -> list[str]:
    """A device name for each wish, in order: the one wished for where it is free, else the next free one."""
    used = set(taken)
    found = []
    for wish in wished:
        name = wish if wish and wish not in used else next_device(used)
        used.add(name)
        found.append(name)
    return found


def next_device(used: set[str]) -> str:
    """The first free name of a virtio disk. Raises BadRequest past the 26th."""
    for letter in "abcdefghijklmnopqrstuvwxyz":
        if f"/dev/vd{letter}" not in used:
            return f"/dev/vd{letter}"
    raise BadRequest("The server has as many disks as it can hold.", field="device")
