"""What a guest may know of itself: the OpenStack and EC2 metadata trees, served to the network nodes' responders.

Source: the Compute service's user guide, "Metadata"; OpenStack's network_data.json schema; Amazon's EC2 instance
metadata categories. The responder says which server asks and signs that with the cloud's metadata secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from altostack.compute.neighbours import Network, RemoteError
from altostack.compute.server_row import Disk, Interface, Server
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadGateway, Forbidden, NotFound
from altostack.kit.policy import NODE, PUBLIC
from altostack.kit.route import Route

_OPENSTACK = (
    "2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27",
    "2020-10-14", "latest",
)  # fmt: skip
_EC2 = (
    "1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01",
    "2009-04-04", "latest",
)  # fmt: skip
_FILES = ("meta_data.json", "network_data.json", "user_data", "vendor_data.json", "vendor_data2.json")


def serve(call: Call) -> Reply:
    """``GET /metadata/<path>`` for the server that the headers name."""
    row = _bearer(call)
    cards = _rows(call, Interface, row)
    disks = _rows(call, Disk, row)
    parts = [part for part in call.params.get("path", "").split("/") if part]
    if not parts:
        return _text("\n".join((*_EC2, "openstack")))
    if parts[0] == "openstack":
        return _openstack(call, parts[1:], row, cards, disks)
    if parts[0] in _EC2:
        return _ec2(parts[1:], row, cards)
    raise NotFound("There is no such metadata.")


def _bearer(call: Call) -> Server:
    """The server that asks. Raises Forbidden for a false signature, NotFound for a server that is not there."""
    key = call.header("X-Instance-ID") or ""
    secret = str(call.runtime.cloud["secrets"]["metadata_secret"])
    right = hmac.new(secret.encode(), key.encode(), hashlib.sha256).hexdigest()
    given = call.header("X-Instance-ID-Signature") or ""
    if not key or not hmac.compare_digest(right.encode(), given.encode()):
        raise Forbidden("The signature of the request is not valid.")
    row = call.session.get(Server, key)
    if row is None or row.project_id != call.header("X-Tenant-ID"):
        raise NotFound("There is no such server.")
    return row


def _rows(call: Call, kind: Any, row: Server) -> list[Any]:
    query = sa.select(kind).where(kind.server_id == row.id).order_by(kind.position, kind.id)
    return list(call.session.execute(query).scalars())


def _text(text: str, kind: str = "text/plain; charset=utf-8") -> Reply:
    return _bytes(text.encode(), kind)


def _bytes(raw: bytes, kind: str) -> Reply:
    return Reply(stream=[raw], headers={"Content-Type": kind, "Content-Length": str(len(raw))})


# ---- OpenStack


def _openstack(call: Call, parts: list[str], row: Server, cards: list[Interface], disks: list[Disk]) -> Reply:
    if not parts:
        return _text("\n".join(_OPENSTACK))
    if parts[0] not in _OPENSTACK:
        raise NotFound("There is no such version of the metadata.")
    files = documents(row, cards, disks)
    if len(parts) == 1:
        return _text("\n".join(name for name in _FILES if name != "user_data" or row.user_data))
    name = "/".join(parts[1:])
    if name == "network_data.json":
        return _text(json.dumps(network_data(cards, _subnets(call, cards))), "application/json")
    if name == "password":
        return _text("")
    if name not in files:
        raise NotFound("There is no such metadata.")
    kind = "application/json" if name.endswith(".json") else "application/octet-stream"
    return _bytes(files[name], kind)


def documents(row: Server, cards: list[Interface], disks: list[Disk]) -> dict[str, bytes]:
    """The files of the OpenStack tree, but for network_data.json, which needs the network service."""
    found = {
        "meta_data.json": json.dumps(meta_data(row, cards, disks)).encode(),
        "vendor_data.json": b"{}",
        "vendor_data2.json": b"{}",
    }
    if row.user_data:
        found["user_data"] = base64.b64decode(row.user_data)
    return found


def meta_data(row: Server, cards: list[Interface], disks: list[Disk]) -> dict[str, Any]:
    """meta_data.json."""
    found: dict[str, Any] = {
        "uuid": row.id,
        "name": row.name,
        "hostname": row.hostname,
        "availability_zone": row.az,
        "launch_index": row.launch_index,
        "project_id": row.project_id,
        "random_seed": base64.b64encode(secrets.token_bytes(512)).decode(),
        "devices": _devices(cards, disks),
        "dedicated_cpus": [],
    }
    if row.meta:
        found["meta"] = dict(row.meta)
    if row.public_key and row.key_name:
        found["public_keys"] = {row.key_name: row.public_key}
        found["keys"] = [{"name": row.key_name, "type": "ssh", "data": row.public_key}]
    return found


def _devices(cards: list[Interface], disks: list[Disk]) -> list[dict[str, Any]]:
    """Devices that have a tag."""
    nics = [
        {"type": "nic", "bus": "none", "address": "none", "mac": card.info.get("mac", ""), "tags": [card.tag]}
        for card in cards
        if card.tag
    ]
    found = [
        {
            "type": "disk", "bus": "none", "address": "none", "serial": disk.volume_id or disk.id,
            "path": disk.device or "", "tags": [disk.tag],
        }
        for disk in disks
        if disk.tag
    ]  # fmt: skip
    return [*nics, *found]


def _subnets(call: Call, cards: list[Interface]) -> dict[str, dict[str, Any]]:
    ids = [one["subnet_id"] for card in cards for one in card.info.get("fixed_ips", ())]
    call.rollback()
    try:
        return Network(call.runtime.clients["network"]).subnets(ids)
    except RemoteError as error:
        raise BadGateway(f"The network service did not answer as it should: {error.message}") from error


def network_data(cards: Iterable[Interface], subnets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """network_data.json: links, networks on them and the services they offer."""
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: dict[str, dict[str, str]] = {}
    for card in cards:
        info = card.info
        if not info.get("mac"):
            continue
        links.append(
            {
                "id": info["tap"], "vif_id": card.port_id, "type": "tap", "mtu": info["mtu"],
                "ethernet_mac_address": info["mac"],
            }
        )  # fmt: skip
        for one in info["fixed_ips"]:
            subnet = subnets.get(one["subnet_id"])
            if subnet is None:
                continue
            network = _network(len(networks), info, one["ip_address"], subnet)
            networks.append(network)
            for address in subnet.get("dns_nameservers", ()):
                services[address] = {"type": "dns", "address": address}
    return {"links": links, "networks": networks, "services": list(services.values())}


def _network(number: int, info: dict[str, Any], address: str, subnet: dict[str, Any]) -> dict[str, Any]:
    version = ipaddress.ip_address(address).version
    found: dict[str, Any] = {
        "id": f"network{number}",
        "type": f"ipv{version}",
        "link": info["tap"],
        "network_id": info["network"]["id"],
    }
    if version == 4 and subnet.get("enable_dhcp"):
        return {**found, "type": "ipv4_dhcp"}
    if version == 6 and subnet.get("ipv6_address_mode"):
        mode = {"slaac": "ipv6_slaac", "dhcpv6-stateful": "ipv6_dhcpv6-stateful"}
        return {**found, "type": mode.get(subnet["ipv6_address_mode"], "ipv6_dhcpv6-stateless")}
    prefix = ipaddress.ip_network(subnet["cidr"])
    everywhere = ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
    routes = [_route(everywhere, subnet["gateway_ip"])] if subnet.get("gateway_ip") else []
    routes += [
        _route(ipaddress.ip_network(one["destination"]), one["nexthop"])
        for one in subnet.get("host_routes", ())
    ]
    return {
        **found,
        "ip_address": address,
        "netmask": str(prefix.netmask),
        "routes": routes,
        "services": [{"type": "dns", "address": one} for one in subnet.get("dns_nameservers", ())],
    }


def _route(prefix: Any, gateway: str) -> dict[str, str]:
    return {"network": str(prefix.network_address), "netmask": str(prefix.netmask), "gateway": gateway}


# ---- EC2


def _ec2(parts: list[str], row: Server, cards: list[Interface]) -> Reply:
    if not parts:
        return _text("meta-data/" + ("\nuser-data" if row.user_data else ""))
    if parts == ["user-data"]:
        if not row.user_data:
            raise NotFound("This server has no user data.")
        return _bytes(base64.b64decode(row.user_data), "application/octet-stream")
    if parts[0] != "meta-data":
        raise NotFound("There is no such metadata.")
    found: Any = ec2_tree(row, cards)
    for part in parts[1:]:
        if not isinstance(found, dict) or part not in found:
            raise NotFound("There is no such metadata.")
        found = found[part]
    return _text(_listing(found) if isinstance(found, dict) else str(found))


def _listing(tree: dict[str, Any]) -> str:
    """A folder: names, with a slash where there is more below. Keys are shown with their names."""
    if "_names" in tree:
        return "\n".join(tree["_names"])
    return "\n".join(f"{name}/" if isinstance(value, dict) else name for name, value in sorted(tree.items()))


def ec2_tree(row: Server, cards: list[Interface]) -> dict[str, Any]:
    """Amazon's categories, as far as they mean something here."""
    fixed, floating = "", ""
    for card in cards:
        for one in card.info.get("fixed_ips", ()):
            if not fixed and ":" not in one["ip_address"]:
                fixed = one["ip_address"]
        floating = floating or next(iter(card.info.get("floating_ips", ())), "")
    short = row.id[:8]
    tree: dict[str, Any] = {
        "ami-id": f"ami-{(row.image_id or row.id)[:8]}",
        "ami-launch-index": str(row.launch_index),
        "block-device-mapping": {"ami": "vda", "root": row.root_device or "/dev/vda"},
        "hostname": row.hostname,
        "instance-action": "none",
        "instance-id": f"i-{short}",
        "instance-type": row.flavor.get("name", ""),
        "local-hostname": row.hostname,
        "local-ipv4": fixed,
        "placement": {"availability-zone": row.az},
        "public-hostname": row.hostname,
        "public-ipv4": floating,
        "reservation-id": row.reservation_id,
        "security-groups": "\n".join(one["name"] for one in row.security_groups),
    }
    if row.public_key and row.key_name:
        tree["public-keys"] = {"_names": [f"0={row.key_name}"], "0": {"openssh-key": row.public_key}}
    return tree


# ---- for the node: the same files on a drive


def drive(call: Call) -> dict[str, Any]:
    """What goes on a server's config drive: path -> content in base64."""
    row = call.session.get(Server, call.params["server_id"])
    if row is None or row.host != call.params["host"]:
        raise NotFound("There is no such server on this node.")
    cards, disks = _rows(call, Interface, row), _rows(call, Disk, row)
    files = documents(row, cards, disks)
    ec2 = ec2_tree(row, cards)
    files["network_data.json"] = json.dumps(network_data(cards, _subnets(call, cards))).encode()
    found = {f"openstack/latest/{name}": raw for name, raw in files.items()}
    found["ec2/latest/meta-data.json"] = json.dumps(_plain(ec2)).encode()
    if "user_data" in files:
        found["ec2/latest/user-data"] = files["user_data"]
    return {"files": {name: base64.b64encode(raw).decode() for name, raw in found.items()}}


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _plain(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if name != "_names"
    }


ROUTES = (
    Route(method="GET", path="//metadata", handler=serve, policy=PUBLIC),
    Route(method="GET", path="//metadata/{path:path}", handler=serve, policy=PUBLIC),
    Route(
        method="GET", path="//internal/nodes/{host}/servers/{server_id}/drive", handler=drive, policy=NODE
    ),
)  # fmt: skip
