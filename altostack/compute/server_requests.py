"""Actions on a server that need more than a signal: other sizes, other disks, images, security groups."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from altostack.compute import migration, server_create, server_nets
from altostack.compute.asking import outside
from altostack.compute.neighbours import Neighbours, neighbours
from altostack.compute.server_actions import ask, ready
from altostack.compute.server_row import ACTIVE, ERROR, PAUSED, STOPPED, SUSPENDED, Server
from altostack.compute.values import (
    Description,
    Fqdn,
    Hostname,
    Metadata,
    Name,
    Text,
    UserData,
    check_address,
    check_base64,
    check_description,
    check_name,
    fields_at,
    spec,
)
from altostack.compute.versions import HIGH
from altostack.kit.api import load, view
from altostack.kit.body import convert
from altostack.kit.call import Call, Reply
from altostack.kit.errors import ApiError, BadRequest, Conflict, NotFound, Unimplemented
from altostack.kit.resource import given, struct
from altostack.kit.versions import Version


def _again(call: Call) -> Server:
    """The server, loaded anew after neighbours were asked."""
    assert call.resource is not None
    row: Server = load(call, call.resource, lock=True)
    return row


# ---- another size


class Resize(msgspec.Struct, forbid_unknown_fields=True, rename={"disk_config": "OS-DCF:diskConfig"}):
    flavorRef: str | int
    disk_config: str | msgspec.UnsetType = msgspec.UNSET


def resize(call: Call, row: Server) -> None:
    ready(call, row, "resize", (ACTIVE, STOPPED))
    flavor = server_create.flavor_of(call, call.session, str(call.body.flavorRef))
    new, old = server_create.embedded(flavor), row.flavor
    if new["id"] == old["id"]:
        raise BadRequest("When resizing, instances must change flavor!", field="flavorRef")
    if row.image_id and new["disk"] < old["disk"]:
        raise BadRequest(
            "Server disk was unable to be resized because: the flavor's disk is smaller than the server's.",
            field="flavorRef",
        )
    if new["ephemeral"] != old["ephemeral"] or new["swap"] != old["swap"]:
        raise Unimplemented("Ephemeral and swap disks cannot be resized.", field="flavorRef")
    more = {"cores": new["vcpus"] - old["vcpus"], "ram": new["ram"] - old["ram"]}
    call.runtime.quotas.claim(call.session, row.project_id, more)
    migration.begin(call, row, new["id"])
    ask(call, row, "resize", "resize_prep", flavor=new)


# ---- another disk

_REBUILD = {
    "imageRef": spec(str, required=True),
    "name": spec(Name),
    "adminPass": spec(Text),
    "metadata": spec(Metadata),
    "preserve_ephemeral": spec(bool),
    "disk_config": spec(str),
    "accessIPv4": spec(str),
    "accessIPv6": spec(str),
    "personality": spec(list[Any], until="2.56"),
    "description": spec(Description | None, since="2.19"),
    "key_name": spec(Name | None, since="2.54"),
    "user_data": spec(UserData | None, since="2.57"),
    "trusted_image_certificates": spec(list[Text] | None, since="2.63"),
    "hostname": spec(Hostname, since="2.90", until="2.93"),
}


def rebuild_body(version: Version | None) -> Any:
    """What a client may send to rebuild."""
    fields = fields_at(_REBUILD, version)
    if (version or HIGH) >= (2, 94):
        fields.append(("hostname", Fqdn, False))
    return struct("Rebuild", fields, rename={"disk_config": "OS-DCF:diskConfig"})


def rebuild(call: Call, row: Server) -> Any:
    """A fresh root disk made of an image; everything else stays."""
    fields = given(call.body)
    states = (ACTIVE, STOPPED, ERROR)
    ready(call, row, "rebuild", states)
    if row.image_id is None:
        raise Unimplemented("A server that boots from a volume cannot be rebuilt.", field="imageRef")
    if row.host is None:
        raise Conflict(f"Cannot 'rebuild' instance {row.id}: it never ran", field="vm_state")
    if fields.get("personality") or fields.get("trusted_image_certificates"):
        raise Unimplemented("Injected files and image signatures are not supported.", field="personality")
    _check_rebuild(fields)
    image_id = server_create.image_ref(fields)
    if image_id is None:
        raise BadRequest("Invalid imageRef provided.", field="imageRef")
    flavor = convert(row.flavor, server_create.Sizes)
    with outside(call):
        near = neighbours(call.runtime.clients)
        image = server_create.usable_image(call, near, image_id, flavor, root=True)
    row = _again(call)
    ready(call, row, "rebuild", states)
    if "metadata" in fields:
        server_create.claim_metadata(call, fields["metadata"])
    key = server_create.key_of(call.session, call, fields.get("key_name"))
    _apply(row, fields, key)
    was = row.vm_state
    row.progress = 0
    ask(call, row, "rebuild", "rebuilding", image_id=image_id, image=image, was=was)
    row.image_id = image_id
    assert call.resource is not None
    answer = view(call, call.resource, row, op="update")
    answer["adminPass"] = fields.get("adminPass") or server_create.password()
    if call.at_least("2.54"):
        answer["key_name"] = row.key_name
    if call.at_least("2.57"):
        answer["user_data"] = row.user_data
    answer.pop("OS-EXT-SRV-ATTR:user_data", None)
    return Reply(body={"server": answer}, headers={"Location": call.link(f"/servers/{row.id}")})


def _check_rebuild(fields: dict[str, Any]) -> None:
    if "name" in fields:
        check_name(fields["name"])
    check_description(fields.get("description"))
    if fields.get("user_data"):
        check_base64(fields["user_data"], "user_data")
    for version, name in ((4, "accessIPv4"), (6, "accessIPv6")):
        if fields.get(name):
            fields[name] = check_address(fields[name], name, version)


def _apply(row: Server, fields: dict[str, Any], key: tuple[str, str] | None) -> None:
    """What a rebuild changes besides the disk."""
    names = {
        "name": "name", "description": "description", "metadata": "meta", "user_data": "user_data",
        "hostname": "hostname", "accessIPv4": "access_v4", "accessIPv6": "access_v6", "disk_config": "disk_config",
    }  # fmt: skip
    for wire, attr in names.items():
        if wire in fields:
            setattr(row, attr, fields[wire])
    if "key_name" in fields:
        row.key_name, row.public_key = key or (None, None)


# ---- an image of the disk


class CreateImage(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET


def create_image(call: Call, row: Server) -> Any:
    """The image's record at once, by the caller's right; the node fills it."""
    states = (ACTIVE, STOPPED, PAUSED, SUSPENDED)
    ready(call, row, "createImage", states)
    if row.image_id is None:
        raise Unimplemented("No image can be made of a server that boots from a volume.", field="createImage")
    fields = _image_fields(call, row)
    near = neighbours(call.runtime.clients)
    with outside(call):
        image = call.memo.get("image") or near.image.create(fields, token=call.context.token)
    call.memo["image"] = image
    try:
        row = _again(call)
        ready(call, row, "createImage", states)
        ask(call, row, "createImage", "image_snapshot", "snapshot", image_id=image["id"])
    except ApiError:
        near.image.delete(image["id"])
        raise
    if call.at_least("2.45"):
        return {"image_id": image["id"]}
    return Reply(status=202, headers={"Location": f"{call.runtime.url}/images/{image['id']}"})


def _image_fields(call: Call, row: Server) -> dict[str, Any]:
    extra = {} if call.body.metadata is msgspec.UNSET else dict(call.body.metadata)
    inherited = {
        name: value
        for name, value in row.image.get("properties", {}).items()
        if isinstance(value, str) and not name.startswith(("img_signature", "os_glance", "signature_"))
    }
    return {
        **inherited,
        **extra,
        "name": check_name(call.body.name),
        "disk_format": "qcow2",
        "container_format": "bare",
        "visibility": "private",
        "min_disk": row.flavor["disk"],
        "min_ram": row.image.get("min_ram") or 0,
        "image_type": "snapshot",
        "base_image_ref": row.image_id or "",
        "instance_uuid": row.id,
        "user_id": row.user_id,
    }


# ---- security groups


class Group(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


def add_group(call: Call, row: Server) -> None:
    _regroup(call, row, add=True)


def remove_group(call: Call, row: Server) -> None:
    _regroup(call, row, add=False)


def _regroup(call: Call, row: Server, *, add: bool) -> None:
    """Change the groups of every port of the server, then the row's copy of their names."""
    name, server_id, project = call.body.name, row.id, row.project_id
    near = neighbours(call.runtime.clients)
    with outside(call):
        groups = near.network.groups(project, token=call.context.token)
        try:
            group = server_nets.pick_group(groups, name, project)
        except BadRequest as error:
            raise NotFound(error.message, field="name") from error
        _change_ports(near, server_id, group, add=add)
    row = _again(call)
    known = [one for one in row.security_groups if one["name"] != group["name"]]
    row.security_groups = [*known, group] if add else known


def _change_ports(near: Neighbours, server_id: str, group: dict[str, Any], *, add: bool) -> None:
    ports = near.network.ports_of(server_id)
    if add and not ports:
        raise BadRequest("The server has no port that a security group could be applied to.", field="name")
    held = False
    for port in ports:
        now = list(port.get("security_groups", ()))
        held = held or group["id"] in now
        wanted = [one for one in now if one != group["id"]] + ([group["id"]] if add else [])
        if sorted(wanted) != sorted(now):
            near.network.update_port(port["id"], {"security_groups": wanted})
    if not add and not held:
        raise NotFound(
            f"Security group {group['name']} is not associated with the instance {server_id}", field="name"
        )


__all__ = [
    "CreateImage", "Group", "Resize", "add_group", "create_image", "rebuild", "rebuild_body",
    "remove_group", "resize",
]  # fmt: skip
