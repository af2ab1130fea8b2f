"""Ports: where a guest, a router or the service itself meets a network."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from altostack.kit.api import claim
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest
from altostack.kit.policy import READER, SERVICE
from altostack.kit.resource import Computed, Resource
from altostack.network import access, address, binding, ipam, tag
from altostack.network.address import bad
from altostack.network.bells import bells
from altostack.network.config import NetworkSettings
from altostack.network.dialect import in_use, target
from altostack.network.drivers import names
from altostack.network.groups import default_group, enroll
from altostack.network.model import assign, changed
from altostack.network.network import owner_scope, visible_network
from altostack.network.rows import Allocation, FloatingIP, Membership, Network, Port
from altostack.network.security_group import usable

ROUTER_INTERFACE = "network:router_interface"
ROUTER_GATEWAY = "network:router_gateway"
FLOATING_IP = "network:floatingip"
_ROUTED = (ROUTER_INTERFACE, ROUTER_GATEWAY, FLOATING_IP)
_OWN = "network:"
# The kinds of the API; what is not "normal" needs hardware, and is not bound.
VNIC_TYPES = (
    "normal", "direct", "macvtap", "baremetal", "direct-physical", "virtio-forwarder", "smart-nic",
    "remote-managed", "vdpa", "accelerator-direct", "accelerator-direct-physical",
)  # fmt: skip
# What a node must hear of.
_FOR_NODE = frozenset(
    {"admin_state_up", "mac_address", "fixed_ips", "security_groups", "allowed_address_pairs",
     "extra_dhcp_opts", "port_security_enabled", "device_id"}
)  # fmt: skip
_OPTION = re.compile(r"^[0-9A-Za-z][0-9A-Za-z_:.-]{0,63}$")


# ---- what the attributes may be


def _pairs(call: Call, value: list[Any] | None, mac: str) -> list[dict[str, Any]]:
    """``allowed_address_pairs`` in stored form: the port's own MAC unless another is named."""
    settings: NetworkSettings = call.runtime.settings
    found: list[dict[str, Any]] = []
    for one in value or []:
        if not isinstance(one, Mapping) or set(one) - {"ip_address", "mac_address"}:
            raise bad("allowed_address_pairs", f"'{one}' is not an address pair")
        if not one.get("ip_address"):
            raise BadRequest(
                "Invalid input for operation: AllowedAddressPair must contain ip_address.",
                kind="AllowedAddressPairsMissingIP", field="allowed_address_pairs",
            )  # fmt: skip
        text = address.prefix(one["ip_address"], "allowed_address_pairs")
        if text.endswith(("/32", "/128")) and "/" not in one["ip_address"]:
            text = text.partition("/")[0]
        pair = {
            "ip_address": text,
            "mac_address": address.mac(one.get("mac_address") or mac, "allowed_address_pairs"),
        }
        if pair in found:
            raise BadRequest(
                f"Invalid input for operation: Request contains duplicate address pair: mac_address "
                f"{pair['mac_address']} ip_address {text}.", kind="DuplicateAddressPairInRequest",
                field="allowed_address_pairs",
            )  # fmt: skip
        found.append(pair)
    if len(found) > settings.max_address_pairs:
        raise BadRequest(
            f"The number of allowed address pair exceeds the maximum {settings.max_address_pairs}.",
            kind="AllowedAddressPairExhausted", field="allowed_address_pairs",
        )  # fmt: skip
    return found


def _dhcp_options(value: list[Any] | None, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``extra_dhcp_opts`` after a change: each option given replaces the one of its name, null removes it."""
    found = {(one["opt_name"], one["ip_version"]): one for one in before}
    for one in value or []:
        if not isinstance(one, Mapping) or set(one) - {"opt_name", "opt_value", "ip_version"}:
            raise bad("extra_dhcp_opts", f"'{one}' is not a DHCP option")
        name, text, version = one.get("opt_name"), one.get("opt_value"), one.get("ip_version", 4)
        version = int(version) if version in (4, 6, "4", "6") else None
        if not isinstance(name, str) or not _OPTION.match(name):
            raise bad("extra_dhcp_opts", f"'{name}' is not the name or number of a DHCP option")
        if version is None:
            raise bad("extra_dhcp_opts", f"'{one['ip_version']}' is not in [4, 6]")
        if text is None:
            found.pop((name, version), None)
            continue
        if not isinstance(text, str) or not text.strip() or len(text) > 255 or not text.isprintable():
            raise bad("extra_dhcp_opts", f"the value of '{name}' is not 1 to 255 printable characters")
        found[(name, version)] = {"opt_name": name, "opt_value": text, "ip_version": version}
    return list(found.values())


def _plain(fields: dict[str, Any]) -> None:
    """Attributes that need nothing but themselves."""
    if "mac_address" in fields:
        fields["mac_address"] = address.mac(fields["mac_address"])
    if fields.get("vnic_type", "normal") not in VNIC_TYPES:
        raise bad("binding:vnic_type", f"'{fields['vnic_type']}' is not in {list(VNIC_TYPES)}")
    if "profile" in fields:
        fields["profile"] = fields["profile"] or {}


def _sub_attributes(call: Call, op: str, fields: Mapping[str, Any], scope: Mapping[str, Any]) -> None:
    """Policy on what stands inside ``fixed_ips``."""
    given = {key for one in fields.get("fixed_ips") or () if isinstance(one, Mapping) for key in one}
    for name in sorted(given & {"ip_address", "subnet_id"}):
        call.require(f"{op}_port:fixed_ips:{name}", scope)


def _secure(security: bool, pairs: list[Any], groups: list[Any], addresses: bool) -> None:
    """Address pairs and groups mean nothing on a port without security."""
    if pairs and not security:
        raise in_use(
            "AddressPairAndPortSecurityRequired",
            "Port Security must be enabled in order to have allowed address pairs on a port.",
        )
    if groups and not (security and addresses):
        raise BadRequest(
            "Port security must be enabled and port must have an IP address in order to use security groups.",
            kind="PortSecurityAndIPRequiredForSecurityGroups", field="security_groups",
        )  # fmt: skip


# ---- actions


def _create(call: Call, fields: dict[str, Any]) -> Port:
    session, ring = call.session, bells(call)
    project = access.project(call, fields)
    _plain(fields)
    network = visible_network(call, fields["network_id"])
    trusted = fields.get("device_owner", "").startswith(_OWN)
    scope = owner_scope(call, network, project, network_device=trusted)
    call.require("create_port", scope)
    access.attributes(call, PORTS, "create", fields, scope)
    _sub_attributes(call, "create", fields, scope)
    wants = _wants(call, network, fields.pop("fixed_ips", None))
    security = fields.pop("port_security_enabled", network.port_security_enabled and not trusted)
    explicit = "security_groups" in fields
    asked = fields.pop("security_groups", None) or []
    mac = fields.pop("mac_address", "")
    own_pairs = fields.pop("allowed_address_pairs", None) or []
    options = _dhcp_options(fields.pop("extra_dhcp_opts", None), [])
    _secure(security, own_pairs, asked, bool(wants))
    if explicit:
        chosen = usable(call, asked, project)
    else:
        chosen = [default_group(session, project)] if security and wants and project else []
    fields["host"] = fields.get("host") or ""
    port = Port(
        id=str(uuid.uuid4()), project_id=project, network_project_id=network.project_id, mac_address=mac,
        port_security_enabled=security, security_groups=chosen, extra_dhcp_opts=options,
        allowed_address_pairs=[], **fields,
    )  # fmt: skip
    claim(call, PORTS, [port])
    ipam.place(session, port, network, wants)
    if own_pairs:
        port.allowed_address_pairs = _pairs(call, own_pairs, port.mac_address)
        session.flush()
    enroll(session, ring, port, chosen, new=True)
    binding.arrive(session, ring, port, network)
    return port


def _wants(call: Call, network: Network, fixed: list[Any] | None, *, router: bool = False) -> list[ipam.Want]:
    if fixed is None:
        return ipam.anything(network)
    settings: NetworkSettings = call.runtime.settings
    return ipam.asked(network, fixed, most=settings.max_fixed_ips, router=router)


def _update(call: Call, port: Port, fields: dict[str, Any]) -> None:
    session, ring = call.session, bells(call)
    access.lock(call, PORTS, port)
    _plain(fields)
    network = visible_network(call, port.network_id, everywhere=True)
    trusted = fields.get("device_owner", "").startswith(_OWN)
    scope = {**target(call, port), "network:shared": network.shared, "network_device": trusted}
    access.attributes(call, PORTS, "update", fields, scope)
    _sub_attributes(call, "update", fields, scope)
    _own_ends_stay(port, fields)
    _mac_stays(port, fields)
    host = fields.pop("host", port.host) or ""
    asked = fields.pop("security_groups", port.security_groups) or []
    fixed = fields.pop("fixed_ips", None)
    mac = fields.get("mac_address", port.mac_address)
    if "allowed_address_pairs" in fields:
        fields["allowed_address_pairs"] = _pairs(call, fields["allowed_address_pairs"], mac)
    if "extra_dhcp_opts" in fields:
        fields["extra_dhcp_opts"] = _dhcp_options(fields["extra_dhcp_opts"], port.extra_dhcp_opts or [])
    different = set(assign(port, fields))
    if fixed is not None:
        _floating_stays(call, port, fixed)
        if ipam.rearrange(session, port, network, _wants(call, network, fixed)):
            different.add("fixed_ips")
    if set(asked) != set(port.security_groups or []):
        asked = usable(call, asked, port.project_id)
        different.add("security_groups")
    if different & {"security_groups", "port_security_enabled", "allowed_address_pairs", "fixed_ips"}:
        if asked and not port.port_security_enabled:
            raise in_use(
                "PortSecurityPortHasSecurityGroup",
                "Port has security group associated. Cannot disable port security or IP address until security "
                "group is removed.",
            )
        _secure(port.port_security_enabled, port.allowed_address_pairs or [], asked, bool(port.fixed_ips))
        moved = bool(different & {"fixed_ips", "allowed_address_pairs"})
        enroll(session, ring, port, asked, moved=moved)
    if host != port.host:
        binding.bind(session, ring, port, network, host)
        different.add("host")
    elif different & _FOR_NODE:
        ring.node(port.host, f"port:{port.id}")
    if different:
        changed(port)


def _own_ends_stay(port: Port, fields: Mapping[str, Any]) -> None:
    """What the service made for itself keeps its place."""
    moving = {"fixed_ips", "device_id", "device_owner", "mac_address", "host", "security_groups"}
    fixed = port.part is not None or port.device_owner in _ROUTED
    if fixed and any(getattr(port, name) != fields[name] for name in moving & set(fields)):
        raise in_use(
            "UnsupportedPortDeviceOwner",
            f"Operation update is not supported for device_owner {port.device_owner} on port {port.id}.",
        )


def _mac_stays(port: Port, fields: Mapping[str, Any]) -> None:
    new = fields.get("mac_address", port.mac_address)
    if new != port.mac_address and port.host:
        raise in_use(
            "PortBound",
            f"Unable to complete operation on port {port.id}, port is already bound, port type: tap, "
            f"old_mac {port.mac_address}, new_mac {new}.",
        )


def _floating_stays(call: Call, port: Port, fixed: list[Any]) -> None:
    kept = {one.get("ip_address") for one in fixed if isinstance(one, Mapping)}
    used = sa.select(FloatingIP.fixed_ip_address).where(FloatingIP.port_id == port.id)
    if set(call.session.execute(used).scalars()) - kept:
        raise BadRequest(
            f"Cannot update the fixed_ips of the port {port.id}, because its original fixed_ip has been associated "
            "to a floating ip", field="fixed_ips",
        )  # fmt: skip


def _delete(call: Call, port: Port) -> None:
    if port.device_owner in _ROUTED:
        raise in_use(
            "ServicePortInUse",
            f"Port {port.id} cannot be deleted directly via the port API: has device owner {port.device_owner}.",
        )
    access.lock(call, PORTS, port)
    binding.erase(call.session, bells(call), port)


# ---- table


def vif_type(port: Port) -> str:
    """How a guest is to be plugged in."""
    if not port.host:
        return "unbound"
    return "tap" if port.vnic_type == "normal" else "binding_failed"


_MTU = sa.select(Network.mtu).where(Network.id == sa.bindparam("network"))


def _vif_details(call: Call, port: Port) -> dict[str, Any]:
    if vif_type(port) != "tap":
        return {}
    key = ("mtu", port.network_id)
    if key not in call.memo:
        call.memo[key] = call.session.connection().execute(_MTU, {"network": port.network_id}).scalar()
    return {
        "tap": tap(port.id), "bridge": names.bridge(port.network_id), "mtu": call.memo[key],
        "port_filter": True, "connectivity": "l2",
    }  # fmt: skip


def tap(port_id: str) -> str:
    """The name of the device that a guest's interface becomes on its node."""
    return f"tap{port_id[:11]}"


def _by_address(call: Call, values: list[str]) -> Any:
    """``fixed_ips=ip_address=10.0.0.2``, ``subnet_id=...``, ``ip_address_substr=...``: any of one kind, all kinds."""
    wanted: dict[str, list[str]] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or name not in ("ip_address", "subnet_id", "ip_address_substr"):
            raise bad("fixed_ips", f"'{value}' is not of the form ip_address=... or subnet_id=...")
        wanted.setdefault(name, []).append(text)
    clauses: list[Any] = []
    if "ip_address" in wanted:
        clauses.append(Allocation.ip.in_([address.ip(one, "fixed_ips") for one in wanted["ip_address"]]))
    if "subnet_id" in wanted:
        clauses.append(Allocation.subnet_id.in_(wanted["subnet_id"]))
    if "ip_address_substr" in wanted:
        clauses.append(
            sa.or_(*[Allocation.ip.contains(one, autoescape=True) for one in wanted["ip_address_substr"]])
        )
    return Port.id.in_(sa.select(Allocation.port_id).where(*clauses))


PORTS = Resource(
    row=Port,
    name="port",
    owner=Port.project_id,
    visible=lambda call: Port.network_project_id == call.context.project_id,
    policy={
        "list": READER,
        "show": f"{READER} or ({access.NET_READER})",
        "create": f"{SERVICE} or ({access.NET_MEMBER}) or rule:on_shared_network",
        "update": f"{SERVICE} or ({access.OWN_MEMBER})",
        "delete": f"{SERVICE} or ({access.OWN_MEMBER}) or ({access.NET_MEMBER})",
    },
    rules={"admin_fields": "get_port:binding:host_id"},
    create=_create,
    update=_update,
    delete=_delete,
    inputs={"tenant_id": str},
    computed={
        "tenant_id": Computed(get=lambda call, row: row.project_id),
        "binding:vif_type": Computed(get=lambda call, row: vif_type(row), show="admin"),
        "binding:vif_details": Computed(get=_vif_details, show="admin"),
    },
    filters={
        **access.filters(Port),
        "fixed_ips": _by_address,
        "mac_address": lambda call, values: Port.mac_address.in_([value.lower() for value in values]),
        "security_groups": lambda call, values: Port.id.in_(
            sa.select(Membership.port_id).where(Membership.group_id.in_(values))
        ),
        **tag.filters(Port),
    },
    quota={"port": 1},
    bulk=True,
    default_sort=(("created_at", False),),
)
