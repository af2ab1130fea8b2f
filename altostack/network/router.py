"""Routers: what joins subnets to each other and to an external network."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.api import claim
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import Action, Computed, Resource
from altostack.network import access, address, binding, interface, ipam, node, tag
from altostack.network import network as networks
from altostack.network.address import bad
from altostack.network.bells import Bells, bells
from altostack.network.config import NetworkSettings
from altostack.network.dialect import in_use
from altostack.network.model import assign, changed
from altostack.network.network import visible_network
from altostack.network.port import ROUTER_GATEWAY
from altostack.network.rows import FloatingIP, Network, Port, Router, Subnet

_GATEWAY_KEYS = {"network_id", "enable_snat", "external_fixed_ips"}


# ---- lifecycle


def settle(session: Session, bells: Bells, router: Router) -> None:
    """Have some node run the router, once it has anything to run for; its ports are bound there."""
    if router.host is None:
        router.host = node.choose(session)
        if router.host is None:
            return  # the first node that reports is given it
        session.flush()
    for port in interface.feet(session, router.id):
        if port.host != router.host:
            network = session.get(Network, port.network_id)
            assert network is not None  # a foreign key says so
            binding.bind(session, bells, port, network, router.host)
    bells.node(router.host, f"router:{router.id}")


def close_gateway(session: Session, bells: Bells, router: Router) -> None:
    """Take the router off its external network. Raises Conflict while floating IPs go through it."""
    if router.gateway_port_id is None:
        return
    used = sa.select(FloatingIP.id).where(FloatingIP.router_id == router.id)
    if session.execute(used.limit(1)).first() is not None:
        raise in_use(
            "RouterExternalGatewayInUseByFloatingIp",
            f"Gateway cannot be updated for router {router.id}, since a gateway to external network "
            f"{router.gateway_network_id} is required by one or more floating IPs.",
        )
    port = session.get(Port, router.gateway_port_id)
    router.gateway_port_id = router.gateway_network_id = router.external_gateway_info = None
    session.flush()
    if port is not None:
        binding.erase(session, bells, port)


def open_gateway(
    call: Call, bells: Bells, router: Router, network: Network, snat: bool, wants: list[ipam.Want]
) -> None:
    """Put the router onto an external network, with a port there."""
    session = call.session
    if network.host is None:
        networks.settle(session, bells, network)
    port = binding.own(
        session, bells, network, part=f"gateway:{router.id}", owner=ROUTER_GATEWAY, device=router.id, wants=wants
    )  # fmt: skip
    router.gateway_port_id, router.gateway_network_id = port.id, network.id
    _show_gateway(router, port, snat)
    session.flush()
    settle(session, bells, router)


def _show_gateway(router: Router, port: Port, snat: bool) -> None:
    router.external_gateway_info = {
        "network_id": port.network_id, "enable_snat": snat, "external_fixed_ips": list(port.fixed_ips),
    }  # fmt: skip


# ---- actions


def _set_gateway(call: Call, router: Router, info: Any) -> bool:
    """Bring the gateway to what ``external_gateway_info`` says; whether it changed."""
    session, ring = call.session, bells(call)
    if not info:
        had = router.gateway_port_id is not None
        close_gateway(session, ring, router)
        return had
    if not isinstance(info, Mapping) or set(info) - _GATEWAY_KEYS:
        raise bad("external_gateway_info", f"'{info}' holds more than {sorted(_GATEWAY_KEYS)}")
    network = visible_network(call, address.uuid(info.get("network_id"), "external_gateway_info.network_id"))
    if not network.external:
        raise BadRequest(
            f"Bad router request: Network {network.id} is not an external network.",
            field="external_gateway_info.network_id",
        )
    known = router.external_gateway_info or {}
    snat = info.get("enable_snat")
    if not isinstance(snat, bool | None):
        raise bad("external_gateway_info.enable_snat", f"'{snat}' is not a boolean")
    snat = known.get("enable_snat", True) if snat is None else snat
    fixed = info.get("external_fixed_ips")
    if router.gateway_port_id is not None and router.gateway_network_id == network.id:
        return _change_gateway(call, router, network, snat, fixed)
    close_gateway(session, ring, router)
    open_gateway(call, ring, router, network, snat, _gateway_wants(call, network, fixed))
    return True


def _change_gateway(call: Call, router: Router, network: Network, snat: bool, fixed: Any) -> bool:
    session = call.session
    port = session.get(Port, router.gateway_port_id)
    assert port is not None  # only close_gateway removes it
    moved = fixed is not None and ipam.rearrange(session, port, network, _gateway_wants(call, network, fixed))
    if not moved and (router.external_gateway_info or {}).get("enable_snat") == snat:
        return False
    _show_gateway(router, port, snat)
    session.flush()
    settle(session, bells(call), router)
    return True


def _gateway_wants(call: Call, network: Network, fixed: Any) -> list[ipam.Want]:
    settings: NetworkSettings = call.runtime.settings
    if fixed is None:
        return ipam.anything(network)
    if not isinstance(fixed, list):
        raise bad("external_gateway_info.external_fixed_ips", f"'{fixed}' is not a list")
    wants = ipam.asked(network, fixed, most=settings.max_fixed_ips, router=True)
    gateways = {subnet.gateway_ip for subnet in network.subnets}
    for want in wants:
        if want.ip is not None and want.ip in gateways:
            raise BadRequest(
                f"Bad router request: External IP {want.ip} is the same as the gateway IP.",
                field="external_gateway_info.external_fixed_ips",
            )
    return wants


def _gateway_policy(call: Call, op: str, fields: Mapping[str, Any], scope: Mapping[str, Any]) -> None:
    info = fields.get("external_gateway_info")
    for name in sorted(set(info) & _GATEWAY_KEYS) if isinstance(info, Mapping) else ():
        call.require(f"{op}_router:external_gateway_info:{name}", scope)


def _create(call: Call, fields: dict[str, Any]) -> Router:
    project = access.project(call, fields)
    scope = access.scope(call, project)
    access.attributes(call, ROUTERS, "create", fields, scope)
    _gateway_policy(call, "create", fields, scope)
    info = fields.pop("external_gateway_info", None)
    router = Router(id=str(uuid.uuid4()), project_id=project, routes=[], **fields)
    claim(call, ROUTERS, [router])
    call.session.add(router)
    call.session.flush()
    if info:
        _set_gateway(call, router, info)
        call.session.flush()
    return router


def _update(call: Call, router: Router, fields: dict[str, Any]) -> None:
    session = call.session
    access.lock(call, ROUTERS, router)
    scope = {"project_id": router.project_id, "tenant_id": router.project_id}
    access.attributes(call, ROUTERS, "update", fields, scope)
    _gateway_policy(call, "update", fields, scope)
    info = fields.pop("external_gateway_info", ...)
    if info is not ... and _set_gateway(call, router, info):
        changed(router)
        session.flush()
    if "routes" in fields:
        fields["routes"] = _routes(call, router, fields["routes"])
    assign(router, fields)
    bells(call).node(router.host, f"router:{router.id}")


def _routes(call: Call, router: Router, value: list[Any]) -> list[dict[str, Any]]:
    """Static routes whose next hop the router can reach, and is not itself. Raises BadRequest."""
    settings: NetworkSettings = call.runtime.settings
    found = address.routes(value, "routes", None, settings.max_routes)
    feet = interface.feet(call.session, router.id)
    own = {one["ip_address"] for port in feet for one in port.fixed_ips}
    subnets = {one["subnet_id"] for port in feet for one in port.fixed_ips}
    query = sa.select(Subnet.cidr).where(Subnet.id.in_(subnets))
    reachable = [ipaddress.ip_network(cidr) for cidr in call.session.execute(query).scalars()]
    for route in found:
        hop = ipaddress.ip_address(route["nexthop"])
        why = None
        if route["nexthop"] in own:
            why = "the nexthop is used by router"
        elif not any(hop.version == net.version and hop in net for net in reachable):
            why = "the nexthop is not connected with router"
        if why:
            raise BadRequest(
                f"Invalid format for routes: {route}, {why}.", kind="InvalidRoutes", field="routes"
            )
    return found


def _delete(call: Call, router: Router) -> None:
    session, ring = call.session, bells(call)
    access.lock(call, ROUTERS, router)
    if any(port.device_owner == interface.INTERFACE for port in interface.feet(session, router.id)):
        raise in_use("RouterInUse", f"Router {router.id} still has ports")
    host = router.host
    close_gateway(session, ring, router)
    tag.forget(session, router.id)
    session.execute(sa.delete(Router).where(Router.id == router.id))
    session.expunge(router)
    ring.node(host, f"router:{router.id}")


def _add(call: Call, router: Router) -> dict[str, Any]:
    access.lock(call, ROUTERS, router)
    found = interface.add(call, router)
    settle(call.session, bells(call), router)
    return found


def _remove(call: Call, router: Router) -> dict[str, Any]:
    access.lock(call, ROUTERS, router)
    return interface.remove(call, router)


ROUTERS = Resource(
    row=Router,
    name="router",
    owner=Router.project_id,
    policy={"list": READER, "show": READER, "create": MEMBER, "update": MEMBER, "delete": MEMBER},
    create=_create,
    update=_update,
    delete=_delete,
    inputs={"tenant_id": str},
    actions={
        "add_router_interface": Action(
            run=_add, path="add_router_interface", body=interface.Interface, rule="add_router_interface"
        ),
        "remove_router_interface": Action(
            run=_remove, path="remove_router_interface", body=interface.Interface,
            rule="remove_router_interface",
        ),
    },
    computed={"tenant_id": Computed(get=lambda call, row: row.project_id)},
    filters={**access.filters(Router), **tag.filters(Router)},
    quota={"router": 1},
    bulk=True,
    default_sort=(("created_at", False),),
)  # fmt: skip
