"""Network interfaces of a server: /servers/{id}/os-interface, and its addresses: /servers/{id}/ips."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa

from altostack.compute import server_net, server_nets
from altostack.compute.asking import outside
from altostack.compute.dialect import only
from altostack.compute.neighbours import Neighbours, RemoteError, neighbours
from altostack.compute.reach import below, server_of
from altostack.compute.server_actions import ask, ready
from altostack.compute.server_row import ACTIVE, PAUSED, STOPPED, Interface, Server
from altostack.compute.server_view import addresses_of
from altostack.compute.values import Tag, Uuid, check_address, fields_at, spec
from altostack.kit.call import Call
from altostack.kit.errors import ApiError, BadRequest, Conflict, NotFound
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import given, struct
from altostack.kit.versions import Version

_MAY = (ACTIVE, PAUSED, STOPPED)


class Address(msgspec.Struct, forbid_unknown_fields=True):
    ip_address: str


_CREATE = {
    "net_id": spec(Uuid),
    "port_id": spec(Uuid),
    "fixed_ips": spec(Annotated[list[Address], msgspec.Meta(min_length=1, max_length=1)]),
    "tag": spec(Tag, since="2.49"),
}


def create_body(version: Version | None) -> Any:
    inner = struct("AttachInterface", fields_at(_CREATE, version))
    return struct("AttachInterfaceBody", [("interfaceAttachment", inner, False)])


def _view(call: Call, port: dict[str, Any], tags: dict[str, str | None]) -> dict[str, Any]:
    found = {
        "net_id": port["network_id"],
        "port_id": port["id"],
        "mac_addr": port["mac_address"],
        "port_state": port["status"],
        "fixed_ips": [
            {"ip_address": o["ip_address"], "subnet_id": o["subnet_id"]} for o in port["fixed_ips"]
        ],
    }
    if call.at_least("2.70"):
        found["tag"] = tags.get(port["id"])
    return found


def _cards(call: Call, row: Server) -> list[Interface]:
    query = sa.select(Interface).where(Interface.server_id == row.id)
    return list(call.session.execute(query.order_by(Interface.position, Interface.id)).scalars())


def index(call: Call) -> Any:
    only(call)
    row = server_of(call)
    tags = {card.port_id or "": card.tag for card in _cards(call, row)}
    server_id = row.id
    with outside(call):
        ports = neighbours(call.runtime.clients).network.ports_of(server_id)
    return {"interfaceAttachments": [_view(call, port, tags) for port in ports]}


def show(call: Call) -> Any:
    only(call)
    row, port_id = server_of(call), call.params["port_id"]
    tags = {card.port_id or "": card.tag for card in _cards(call, row)}
    server_id = row.id
    with outside(call):
        port = neighbours(call.runtime.clients).network.port(port_id)
    if port is None or port["device_id"] != server_id:
        raise NotFound(f"Instance {server_id} does not have a port with id {port_id}", field="port_id")
    return {"interfaceAttachment": _view(call, port, tags)}


def create(call: Call) -> Any:
    """Make or find the port at once, so that the answer can show it; the lifecycle binds it and plugs it in."""
    inner = call.body.interfaceAttachment
    fields = {} if inner is msgspec.UNSET else given(inner)
    if fields.get("net_id") and fields.get("port_id"):
        raise BadRequest("Must not input both network_id and port_id", field="port_id")
    wished = fields.get("fixed_ips")
    address = check_address(wished[0].ip_address, "fixed_ips") if wished else None
    if address and not fields.get("net_id"):
        raise BadRequest("Must input network_id when request IP address", field="net_id")
    row = server_of(call)
    ready(call, row, "attach_interface", _MAY)
    near = neighbours(call.runtime.clients)
    with outside(call):
        port, network = call.memo.get("port") or _port(call, near, row, fields, address)
    call.memo["port"] = (port, network)  # a transaction that collides is tried again: the same port then
    try:
        return _plug(call, port, network, fields)
    except ApiError:
        if not fields.get("port_id"):
            near.network.delete_port(port["id"])
        raise


def _port(
    call: Call, near: Neighbours, row: Server, fields: dict[str, Any], address: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The port and its network. A port that somebody else made is bound only once the server's rows know it as such."""
    token = call.context.token
    if fields.get("port_id"):
        port = near.network.port(fields["port_id"], token=token)
        if port is None:
            raise NotFound(f"Port id {fields['port_id']} could not be found.", field="port_id")
        server_nets.check_port(port)
        networks = near.network.networks(token=token, id=[port["network_id"]])
        return port, networks[0] if networks else {"id": port["network_id"]}
    if fields.get("net_id"):
        networks = near.network.networks(token=token, id=[fields["net_id"]])
        if not networks:
            raise NotFound(f"Network {fields['net_id']} could not be found.", field="net_id")
        server_nets.check_network(call, networks[0])
        card = server_nets.card(0, networks[0], address=address)
    else:
        try:
            cards = server_nets.read(call, near, None)
        except ApiError as error:
            raise BadRequest(error.message, field="net_id") from error
        if not cards:
            raise BadRequest("No network is there to attach an interface to.", field="net_id")
        card = cards[0]
    try:
        made = near.network.create_ports([server_net.wish(row, card, own_mac=False)])[0]
    except RemoteError as error:
        if error.status == 409:
            raise BadRequest(error.message, field="fixed_ips" if address else "net_id") from error
        raise
    return made, card.info["network"]


def _plug(call: Call, port: dict[str, Any], network: dict[str, Any], fields: dict[str, Any]) -> Any:
    row = server_of(call, lock=True)
    ready(call, row, "attach_interface", _MAY)
    taken = sa.select(Interface.server_id).where(Interface.port_id == port["id"])
    if (holder := call.session.execute(taken).scalar()) is not None:
        raise Conflict(f"Port {port['id']} is still in use: server {holder} has it.", field="port_id")
    cards = _cards(call, row)
    card = Interface(
        id=str(uuid.uuid4()), server_id=row.id, position=max((one.position for one in cards), default=-1) + 1,
        network_id=port["network_id"], port_id=port["id"], ours=not fields.get("port_id"), tag=fields.get("tag"),
        info=server_net.describe(port, network),
    )  # fmt: skip
    call.session.add(card)
    call.session.flush()
    row.addresses, row.ips = server_net.addresses([*cards, card])
    ask(call, row, "attach_interface", None, "plug", interface=card.id)
    return {"interfaceAttachment": _view(call, port, {port["id"]: card.tag})}


def delete(call: Call) -> None:
    row, port_id = server_of(call, lock=True), call.params["port_id"]
    ready(call, row, "detach_interface", _MAY)
    card = next((one for one in _cards(call, row) if one.port_id == port_id), None)
    if card is None:
        raise NotFound(f"Port id {port_id} could not be found.", field="port_id")
    ask(call, row, "detach_interface", None, "unplug", interface=card.id)


# ---- addresses


def addresses(call: Call) -> Any:
    only(call)
    return {"addresses": _plain(server_of(call))}


def of_network(call: Call) -> Any:
    only(call)
    found, name = _plain(server_of(call)), call.params["network"]
    if name not in found:
        raise NotFound(f"Instance is not a member of network {name}.", field="network")
    return {name: found[name]}


def _plain(row: Server) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [{"version": one["version"], "addr": one["addr"]} for one in held]
        for name, held in addresses_of(row).items()
    }


_RULE = "os-attach-interfaces:"
_ONE = "/os-interface/{port_id}"
ROUTES = (
    below("/os-interface", index, _RULE + "list", READER),
    below("/os-interface", create, _RULE + "create", MEMBER, method="POST", body=create_body),
    below(_ONE, show, _RULE + "show", READER),
    below(_ONE, delete, _RULE + "delete", MEMBER, method="DELETE", status=202),
    below("/ips", addresses, "ips:index", READER),
    below("/ips/{network}", of_network, "ips:show", READER),
)
