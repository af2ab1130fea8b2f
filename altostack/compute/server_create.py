"""A request to create servers: its body by version, its checks with neighbours, and the rows it makes."""

from __future__ import annotations

import secrets
import uuid
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa

from altostack.compute import flavor as flavors
from altostack.compute import instance_action, keypair, server_disks, server_nets
from altostack.compute.aggregate import zone_names
from altostack.compute.asking import unhelpful
from altostack.compute.dialect import links
from altostack.compute.flavor import Flavor
from altostack.compute.host import by_name
from altostack.compute.neighbours import Neighbours, RemoteError, neighbours
from altostack.compute.server_build import volume_name
from altostack.compute.server_group import ServerGroup
from altostack.compute.server_life import ServerLife
from altostack.compute.server_row import Disk, Interface, Server
from altostack.compute.values import (
    Description,
    Fqdn,
    Hostname,
    Metadata,
    Name,
    Positive,
    Tag,
    Text,
    UserData,
    check_address,
    check_base64,
    check_description,
    check_name,
    dashed,
    fields_at,
    hostname_of,
    is_uuid,
    spec,
)
from altostack.compute.versions import HIGH
from altostack.kit import flow
from altostack.kit.api import wake
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Forbidden, OverQuota, Unimplemented
from altostack.kit.policy import ADMIN, MEMBER
from altostack.kit.resource import struct
from altostack.kit.versions import Version

_RULE = "os_compute_api:servers:create"
DESTINATION = "compute:servers:create:requested_destination"
RULES = {
    f"{_RULE}:forced_host": ADMIN,
    f"{_RULE}:attach_volume": MEMBER,
    f"{_RULE}:attach_network": MEMBER,
    f"{_RULE}:zero_disk_flavor": ADMIN,
    DESTINATION: ADMIN,
    **server_nets.RULES,
}


class GroupName(msgspec.Struct, forbid_unknown_fields=True):
    name: Name


_BODY = {
    "name": spec(Name, required=True),
    "imageRef": spec(str),
    "flavorRef": spec(str | int, required=True),
    "adminPass": spec(Text),
    "metadata": spec(Metadata),
    "disk_config": spec(Literal["AUTO", "MANUAL"]),
    "accessIPv4": spec(str),
    "accessIPv6": spec(str),
    "personality": spec(list[Any], until="2.56"),
    "availability_zone": spec(Name),
    "config_drive": spec(bool),
    "key_name": spec(Name),
    "min_count": spec(Positive),
    "max_count": spec(Positive),
    "return_reservation_id": spec(bool),
    "security_groups": spec(list[GroupName]),
    "user_data": spec(UserData),
    "description": spec(Description | None, since="2.19"),
    "tags": spec(Annotated[list[Tag], msgspec.Meta(max_length=50)], since="2.52"),
    "trusted_image_certificates": spec(list[Text] | None, since="2.63"),
    "host": spec(Fqdn, since="2.74"),
    "hypervisor_hostname": spec(Fqdn, since="2.74"),
}


def create_body(version: Version | None) -> Any:
    """What a client may send to create servers."""
    version = version or HIGH
    old: Any = server_disks.old_item(version)
    new: Any = server_disks.new_item(version)
    fields = [
        *fields_at(_BODY, version),
        ("networks", server_nets.networks_type(version), version >= (2, 37)),
        ("block_device_mapping", list[old], False),
        ("block_device_mapping_v2", list[new], False),
    ]
    if version >= (2, 90):
        fields.append(("hostname", Fqdn if version >= (2, 94) else Hostname, False))
    return struct("ServerCreate", fields, rename={"disk_config": "OS-DCF:diskConfig"})


HINTS = {"os:scheduler_hints": dict[str, Any], "OS-SCH-HNT:scheduler_hints": dict[str, Any]}


def create(call: Call, fields: dict[str, Any]) -> Reply:
    """Check everything with the neighbours, then add the rows, their quota and their lifecycles in one transaction."""
    near = neighbours(call.runtime.clients)
    try:
        plan = call.memo.get("plan") or _plan(call, near, fields)
    except RemoteError as error:
        raise unhelpful(error) from error
    call.memo["plan"] = plan
    rows = _add(call, plan)
    if any(disk.source != "volume" for disk in plan.disks if disk.destination == "volume"):
        call.after(lambda: _make_volumes(call, near, rows))
    if fields.get("return_reservation_id"):
        return Reply(body={"reservation_id": rows[0][0].reservation_id})
    first = rows[0][0]
    answer = {
        "id": first.id,
        "links": links(call, f"/servers/{first.id}"),
        "OS-DCF:diskConfig": first.disk_config,
        "security_groups": [{"name": one["name"]} for one in first.security_groups] or [{"name": "default"}],
        "adminPass": fields.get("adminPass") or password(),
    }
    return Reply(body={"server": answer}, headers={"Location": call.link(f"/servers/{first.id}")})


def password() -> str:
    """Twelve characters without those that look alike."""
    return "".join(
        secrets.choice("23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz") for _ in range(12)
    )


class Sizes(msgspec.Struct, kw_only=True):
    """The sizes of a flavor that a server keeps."""

    ram: int
    disk: int


class Plan(msgspec.Struct, kw_only=True):
    """A request whose facts are known: only rows are left to make."""

    fields: dict[str, Any]
    flavor: dict[str, Any]
    image_id: str | None
    image: dict[str, Any]
    disks: list[server_disks.DiskAsk]
    cards: list[Any]
    groups: list[dict[str, Any]]
    key: tuple[str, str] | None
    zone: str | None
    host: str | None
    hints: dict[str, Any]
    group_id: str | None
    least: int
    most: int


def _plan(call: Call, near: Neighbours, fields: dict[str, Any]) -> Plan:
    """Read and check the request; no transaction of ours is open while neighbours are asked."""
    _check_fields(fields)
    least = fields.get("min_count", 1)
    most = fields.get("max_count", least)
    if least > most:
        raise BadRequest("min_count must be <= max_count", field="min_count")
    hints = _hints(call)
    with call.runtime.db.read() as session:
        flavor = flavor_of(call, session, str(fields["flavorRef"]))
        key = key_of(session, call, fields.get("key_name"))
        zone, host = _destination(call, session, fields)
        group_id = _group(session, call, hints.get("group"))
    wanted_image = image_ref(fields)
    if "block_device_mapping" in fields and "block_device_mapping_v2" in fields:
        raise BadRequest(
            "Using different block_device_mapping syntaxes is not allowed in the same request.",
            field="block_device_mapping",
        )
    asks = server_disks.read_new(fields.get("block_device_mapping_v2", ()))
    asks += server_disks.read_old(fields.get("block_device_mapping", ()), image=wanted_image is not None)
    if not asks and wanted_image is None:
        raise BadRequest("Invalid imageRef provided.", field="imageRef")
    if asks:
        call.require(f"{_RULE}:attach_volume")
    disks, image_id = server_disks.boot_order(asks, wanted_image)
    disks = server_disks.check(disks, near, flavor, call.context.token, call.version)
    root = image_id is not None and not any(one.boot_index == 0 for one in disks)
    image = usable_image(call, near, image_id, flavor, root=root) if image_id is not None else {}
    if root and flavor.disk == 0 and not call.allows(f"{_RULE}:zero_disk_flavor"):
        raise Forbidden("Only volume-backed servers are allowed for flavors with zero disk.")
    if most > 1 and any(one.source == "volume" for one in disks):
        raise BadRequest(
            "A volume cannot be attached to several servers of one request.", field=server_disks.FIELD
        )
    wished = fields.get("networks")
    if wished not in (None, "none", "auto"):
        call.require(f"{_RULE}:attach_network")
    cards = server_nets.read(call, near, wished)
    if most > 1 and any(not card.ours for card in cards):
        raise BadRequest(
            "Unable to launch multiple instances with a single configured port ID. Please launch your instance one "
            "by one with different ports.",
            field="networks",
        )
    if most > 1 and any(card.address for card in cards):
        raise BadRequest("max_count cannot be greater than 1 if an fixed_ip is specified.", field="networks")
    names = [one.name for one in fields.get("security_groups", ())]
    return Plan(
        fields=fields, flavor=embedded(flavor), image_id=image_id if root else None, image=image, disks=disks,
        cards=cards, groups=server_nets.security_groups(call, near, names) if cards or names else [], key=key,
        zone=zone, host=host, hints=hints, group_id=group_id, least=least, most=most,
    )  # fmt: skip


def _check_fields(fields: dict[str, Any]) -> None:
    check_name(fields["name"])
    check_description(fields.get("description"))
    for name in ("availability_zone", "key_name"):
        if name in fields:
            check_name(fields[name], name)
    for version, name in ((4, "accessIPv4"), (6, "accessIPv6")):
        if fields.get(name):
            fields[name] = check_address(fields[name], name, version)
    if fields.get("user_data"):
        check_base64(fields["user_data"], "user_data")
    if fields.get("personality"):
        raise Unimplemented("Files cannot be injected (personality); use user_data.", field="personality")
    if fields.get("trusted_image_certificates"):
        raise Unimplemented(
            "Image signatures are not verified here (trusted_image_certificates).",
            field="trusted_image_certificates",
        )
    if fields.get("hostname") and fields.get("max_count", fields.get("min_count", 1)) > 1:
        raise BadRequest("Unable to allocate a single hostname to multiple instances", field="hostname")


def _hints(call: Call) -> dict[str, Any]:
    for attr in ("extra_os_scheduler_hints", "extra_OS_SCH_HNT_scheduler_hints"):
        found = getattr(call.document, attr, msgspec.UNSET)
        if found is not msgspec.UNSET:
            return dict(found)
    return {}


def flavor_of(call: Call, session: Any, ref: str) -> Flavor:
    """The flavor; ``ref`` is an id, or as old clients have it a link that ends in one."""
    flavor_id = ref.rsplit("/", 1)[-1]
    found = flavors.find(session, call.context.project_id, flavor_id, everything=call.context.is_admin)
    if found is None:
        raise BadRequest(f"Flavor {flavor_id} could not be found.", field="flavorRef")
    return found


def embedded(flavor: Flavor) -> dict[str, Any]:
    """A flavor as servers keep it."""
    return {
        "id": flavor.id, "name": flavor.name, "vcpus": flavor.vcpus, "ram": flavor.ram, "disk": flavor.disk,
        "ephemeral": flavor.ephemeral, "swap": flavor.swap, "extra_specs": dict(flavor.extra_specs),
    }  # fmt: skip


def key_of(session: Any, call: Call, name: str | None) -> tuple[str, str] | None:
    if name is None:
        return None
    query = sa.select(keypair.Keypair).where(
        keypair.Keypair.user_id == call.context.user_id, keypair.Keypair.name == name
    )
    found = session.execute(query).scalars().first()
    if found is None:
        raise BadRequest("Invalid key_name provided.", field="key_name")
    return (name, found.public_key)


def _destination(call: Call, session: Any, fields: dict[str, Any]) -> tuple[str | None, str | None]:
    """The zone and the host asked for: "zone", and by those who may, "zone:host" or ``host``."""
    zone, host = fields.get("availability_zone"), None
    if zone is not None and ":" in zone:
        parts = zone.split(":")
        if len(parts) > 3:
            raise BadRequest("Unable to parse availability_zone", field="availability_zone")
        call.require(f"{_RULE}:forced_host")
        zone, host = parts[0] or None, next((part for part in parts[1:] if part), None)
    for name in ("host", "hypervisor_hostname"):
        if name in fields:
            call.require(DESTINATION)
            if host is not None and host != fields[name]:
                raise BadRequest(
                    "Unable to combine a host in availability_zone with host or hypervisor_hostname.",
                    field=name,
                )
            host = fields[name]
    if host is not None and by_name(session, host) is None:
        raise BadRequest(f"Compute host {host} could not be found.", field="host")
    if zone is not None and zone not in zone_names(session, call.runtime):
        raise BadRequest("The requested availability zone is not available", field="availability_zone")
    return zone, host


def _group(session: Any, call: Call, hint: Any) -> str | None:
    wanted = hint[0] if isinstance(hint, list) and hint else hint
    if not wanted:
        return None
    if not isinstance(wanted, str) or not is_uuid(wanted):
        raise BadRequest("Invalid input for field/attribute group: it is not a uuid.", field="group")
    found = session.get(ServerGroup, dashed(wanted))
    if found is None or found.project_id != call.context.project_id:
        raise BadRequest(f"Instance group {wanted} could not be found.", field="group")
    return str(found.id)


def image_ref(fields: dict[str, Any]) -> str | None:
    ref = fields.get("imageRef")
    if not ref:
        return None
    found = ref.rsplit("/", 1)[-1]
    if not is_uuid(found):
        raise BadRequest("Invalid imageRef provided.", field="imageRef")
    return dashed(found)


def usable_image(call: Call, near: Neighbours, image_id: str, flavor: Any, *, root: bool) -> dict[str, Any]:
    """What is kept of the image. Raises BadRequest when the flavor cannot hold it."""
    image = near.image.show(image_id, token=call.context.token)
    if image is None:
        raise BadRequest("Can not find requested image", field="imageRef")
    if image["status"] != "active":
        raise BadRequest(f"Image {image_id} is not active.", field="imageRef")
    if image.get("min_ram", 0) > flavor.ram:
        raise BadRequest("Flavor's memory is too small for requested image.", field="flavorRef")
    room = flavor.disk << 30
    if root and flavor.disk:
        least = image.get("min_disk", 0) << 30
        size = max(image.get("size") or 0, image.get("virtual_size") or 0)
        if least > room:
            raise BadRequest(
                "Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is "
                f"{room} bytes, minimum size is {least} bytes.",
                field="flavorRef",
            )
        if size > room:
            raise BadRequest(
                f"Flavor's disk is too small for requested image. Flavor disk is {room} bytes, image is {size} bytes.",
                field="flavorRef",
            )
    return embedded_image(image)


_IMAGE_FIXED = frozenset((
    "id", "name", "owner", "status", "visibility", "disk_format", "container_format", "min_disk",
    "min_ram", "protected", "os_hidden", "tags", "size", "virtual_size", "checksum", "os_hash_algo",
    "os_hash_value", "created_at", "updated_at", "self", "file", "schema", "stores", "direct_url",
    "locations",
))  # fmt: skip


def embedded_image(image: dict[str, Any]) -> dict[str, Any]:
    """An image as servers keep it."""
    kept = {
        name: image.get(name)
        for name in (
            "name",
            "disk_format",
            "container_format",
            "min_disk",
            "min_ram",
            "size",
            "virtual_size",
            "checksum",
        )
    }
    kept["properties"] = {k: v for k, v in image.items() if k not in _IMAGE_FIXED and v is not None}
    return kept


def _add(call: Call, plan: Plan) -> list[tuple[Server, list[Disk]]]:
    """The rows, as many as the quota leaves between the least and the most."""
    fields, context = plan.fields, call.context
    count = _claim(call, plan)
    claim_metadata(call, fields.get("metadata", {}))
    made = []
    reservation = "r-" + secrets.token_hex(4)
    older = call.version is not None and call.version < (2, 19)
    for index in range(count):
        name = fields["name"] if plan.most == 1 else f"{fields['name']}-{index + 1}"
        server_id = str(uuid.uuid4())
        root = plan.image_id is not None
        row = Server(
            id=server_id, project_id=context.project_id, user_id=context.user_id, name=name,
            description=fields["name"] if older else fields.get("description"),
            hostname=fields.get("hostname") or hostname_of(name, f"server-{server_id}"),
            flavor_id=plan.flavor["id"], flavor=plan.flavor, vcpus=plan.flavor["vcpus"], ram=plan.flavor["ram"],
            image_id=plan.image_id, image=plan.image, key_name=plan.key[0] if plan.key else None,
            public_key=plan.key[1] if plan.key else None, user_data=fields.get("user_data"),
            config_drive="True" if fields.get("config_drive") else "", meta=fields.get("metadata", {}),
            tags=list(dict.fromkeys(fields.get("tags", ()))), zone=plan.zone, forced_host=plan.host,
            reservation_id=reservation, launch_index=index, access_v4=fields.get("accessIPv4", ""),
            access_v6=fields.get("accessIPv6", ""), disk_config=fields.get("disk_config", "MANUAL"),
            hints=plan.hints, group_id=plan.group_id, security_groups=plan.groups,
        )  # fmt: skip
        call.session.add(row)
        disks = server_disks.rows(plan.disks, server_id, root=root)
        for position, card in enumerate(plan.cards):
            call.session.add(
                Interface(
                    id=str(uuid.uuid4()), server_id=server_id, position=position, network_id=card.network_id,
                    address=card.address, port_id=card.port_id, ours=card.ours, tag=card.tag, info=card.info,
                )
            )  # fmt: skip
        for disk in disks:
            disk.id = str(uuid.uuid4())
            call.session.add(disk)
        instance_action.begin(call, row, "create")
        made.append((row, disks))
    call.session.flush()
    for row, _ in made:
        flow.start(call.session, "server", ServerLife, row)
    wake(call)
    return made


def _claim(call: Call, plan: Plan) -> int:
    """How many servers the quota allows, at least ``plan.least``. Raises OverQuota, Forbidden."""
    quotas, project = call.runtime.quotas, call.context.project_id or ""

    def amounts(count: int) -> dict[str, int]:
        return {
            "instances": count, "cores": count * plan.flavor["vcpus"], "ram": count * plan.flavor["ram"],
        }  # fmt: skip

    if plan.group_id is not None:
        limit = quotas.limits(call.session, project).get("server_group_members", -1)
        query = sa.select(sa.func.count()).select_from(Server).where(Server.group_id == plan.group_id)
        if 0 <= limit < call.session.execute(query).scalar_one() + plan.most:
            raise OverQuota("Quota exceeded, too many servers in group", field="server_group_members")
    for count in range(plan.most, plan.least - 1, -1):
        try:
            quotas.claim(call.session, project, amounts(count))
            return count
        except OverQuota:
            if count == plan.least:
                raise
    raise AssertionError("unreachable")


def claim_metadata(call: Call, metadata: dict[str, str]) -> None:
    limit = call.runtime.quotas.limits(call.session, call.context.project_id or "").get("metadata_items", -1)
    if 0 <= limit < len(metadata):
        raise OverQuota(
            f"Quota exceeded: {len(metadata)} metadata items, {limit} are allowed.", field="metadata"
        )


def _make_volumes(call: Call, near: Neighbours, made: list[tuple[Server, list[Disk]]]) -> None:
    """Make the volumes that new servers boot from or start with, in the caller's project and by the caller's right.

    Their names tell the lifecycle which they are. A refusal becomes the server's fault.
    """
    for row, disks in made:
        for disk in disks:
            if disk.destination != "volume" or disk.source == "volume":
                continue
            fields: dict[str, Any] = {"name": volume_name(row.id, disk), "size": disk.size}
            source = {"image": "imageRef", "snapshot": "snapshot_id"}.get(disk.source)
            if source is not None:
                fields[source] = disk.source_id
            if disk.volume_type:
                fields["volume_type"] = disk.volume_type
            try:
                near.volume.create(fields, token=call.context.token)
            except RemoteError as error:
                reason = f"volume of {disk.size} GiB: {error}"
                call.runtime.db.write(lambda session, key=row.id, why=reason: _refuse(session, key, why))  # type: ignore[misc]  # mypy cannot type a lambda's defaults
                wake(call)
                break


def _refuse(session: Any, server_id: str, reason: str) -> None:
    flow.signal(session, server_id, "refused", {"reason": reason})
