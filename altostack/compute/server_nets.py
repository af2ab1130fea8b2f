"""Networks in a request to create a server: read, checked with the network service, turned into rows."""

from __future__ import annotations

from typing import Any, Literal

from altostack.compute.neighbours import Neighbours
from altostack.compute.server_row import Interface
from altostack.compute.values import Tag, Uuid, check_address, check_uuid, fields_at, spec
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, Forbidden
from altostack.kit.policy import ADMIN
from altostack.kit.resource import given, struct
from altostack.kit.versions import Version

EXTERNAL = "network:attach_external_network"
RULES = {EXTERNAL: ADMIN}


def networks_type(version: Version | None) -> Any:
    """The type of ``networks``: a list, and from 2.37 on also "auto" and "none"."""
    newer = version is None or version >= (2, 37)
    table = {
        "uuid": spec(Uuid if newer else str),
        "port": spec(Uuid | None),
        "fixed_ip": spec(str),
    }
    if version is None or (2, 32) <= version <= (2, 36) or version >= (2, 42):
        table["tag"] = spec(Tag)
    one: Any = struct("NetworkWish", fields_at(table, version))
    return list[one] | Literal["auto", "none"] if newer else list[one]


def read(call: Call, near: Neighbours, wished: Any) -> list[Interface]:
    """The cards that ``wished`` (the request's networks, None where it names none) means.

    Raises BadRequest, Conflict or Forbidden, as the network service's facts demand.
    """
    token = call.context.token
    if wished == "none":
        return []
    if wished is None or wished == "auto" or wished == []:
        return _unnamed(call, near, token, auto=wished == "auto")
    asked = [given(one) for one in wished]
    ports: dict[str, dict[str, Any]] = {}
    for one in asked:
        if one.get("port"):
            port = near.network.port(one["port"], token=token)
            if port is None:
                raise BadRequest(f"Port id {one['port']} could not be found.", field="port")
            if port["id"] in ports:
                raise BadRequest(f"Port {port['id']} is named twice.", field="port")
            check_port(port)
            if one.get("fixed_ip"):
                raise BadRequest(
                    f"Specified Fixed IP '{one['fixed_ip']}' cannot be used with port '{one['port']}': the two "
                    "cannot be specified together.",
                    field="fixed_ip",
                )
            ports[one["port"]] = port
        elif not one.get("uuid"):
            raise BadRequest("Bad networks format: network uuid or port is needed.", field="networks")
        else:
            one["uuid"] = check_uuid(one["uuid"], "networks.uuid")
            if one.get("fixed_ip"):
                one["fixed_ip"] = check_address(one["fixed_ip"], "networks.fixed_ip")
    wanted = {one["uuid"] for one in asked if not one.get("port")} | {p["network_id"] for p in ports.values()}
    known = {one["id"]: one for one in near.network.networks(token=token, id=sorted(wanted))}
    cards = []
    for position, one in enumerate(asked):
        port = ports.get(one.get("port") or "")
        network_id = port["network_id"] if port else one["uuid"]
        network = known.get(network_id)
        if network is None and port is None:
            raise BadRequest(f"Network {network_id} could not be found.", field="networks")
        if network is not None and port is None:
            check_network(call, network)
        cards.append(
            card(
                position,
                network or {"id": network_id},
                port=port,
                address=one.get("fixed_ip"),
                tag=one.get("tag"),
            )
        )
    return cards


def card(
    position: int, network: dict[str, Any], *, port: dict[str, Any] | None = None, address: str | None = None,
    tag: str | None = None,
) -> Interface:  # fmt: skip
    """A card's row, without its server."""
    return Interface(
        position=position, network_id=network["id"], port_id=port["id"] if port else None, ours=port is None,
        address=address, tag=tag,
        info={"network": {"id": network["id"], "name": network.get("name", ""), "mtu": network.get("mtu")}},
    )  # fmt: skip


def check_port(port: dict[str, Any]) -> None:
    """Raises unless a server may have the port."""
    if port.get("device_id"):
        raise Conflict(f"Port {port['id']} is still in use.", field="port")
    if not port.get("fixed_ips") and port.get("ip_allocation") != "deferred":
        raise BadRequest(f"Port {port['id']} requires a FixedIP in order to be used.", field="port")


def check_network(call: Call, network: dict[str, Any]) -> None:
    """Raises unless a server may be put on the network."""
    if not network.get("subnets"):
        raise BadRequest(
            f"Network {network['id']} requires a subnet in order to boot instances on.", field="networks"
        )
    if network.get("router:external") and not network.get("shared") and not call.allows(EXTERNAL):
        raise Forbidden(f"It is not allowed to create an interface on external network {network['id']}")


def _unnamed(call: Call, near: Neighbours, token: str, *, auto: bool) -> list[Interface]:
    """No network was named: the project's only one, or none where it has none."""
    project = call.context.project_id
    found = [
        one
        for one in near.network.networks(token=token)
        if one.get("admin_state_up", True)
        and one.get("subnets")
        and not one.get("router:external")
        and (one.get("project_id", one.get("tenant_id")) == project or one.get("shared"))
    ]
    if not found and auto:
        made = near.network.auto_topology(project or "", token=token)
        if made is None:
            raise BadRequest("Unable to automatically allocate a network for this project.", field="networks")
        found = near.network.networks(token=token, id=[made])
    if len(found) > 1 and not auto:
        raise Conflict(
            "Multiple possible networks found, use a Network ID to be more specific.", field="networks"
        )
    return [card(0, found[0])] if found else []


def security_groups(call: Call, near: Neighbours, names: list[str]) -> list[dict[str, Any]]:
    """The project's groups of those names or ids, as the row keeps them. Raises BadRequest."""
    wanted = list(dict.fromkeys(names))
    if not wanted or wanted == ["default"]:
        return [{"name": "default"}]
    groups = near.network.groups(call.context.project_id or "", token=call.context.token)
    return [pick_group(groups, name, call.context.project_id) for name in wanted]


def pick_group(groups: list[dict[str, Any]], name: str, project_id: str | None) -> dict[str, Any]:
    """The group of that name or id. Raises BadRequest, or Conflict when the name is not unique."""
    found = [one for one in groups if one["id"] == name] or [one for one in groups if one["name"] == name]
    if not found:
        raise BadRequest(
            f"Security group {name} not found for project {project_id}.", field="security_groups"
        )
    if len(found) > 1:
        raise Conflict(
            f"Multiple security groups found matching '{name}'. Use an ID to be more specific.",
            field="security_groups",
        )
    return {"name": found[0]["name"], "id": found[0]["id"]}
