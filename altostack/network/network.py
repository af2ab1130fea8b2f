"""Networks: isolated layer 2 segments of a project's own, and the external ones that lead out."""

from __future__ import annotations

import random
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from altostack.kit.api import claim
from altostack.kit.call import Call
from altostack.kit.errors import Unavailable
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import Computed, Resource
from altostack.network import access, binding, node, tag
from altostack.network.address import bad
from altostack.network.bells import Bells, bells
from altostack.network.config import NetworkSettings
from altostack.network.dialect import in_use, missing
from altostack.network.model import assign
from altostack.network.rows import Network, Port, Presence, Subnet

VXLAN, FLAT, LOCAL = "vxlan", "flat", "local"
HIGHEST_VNI = 2**24 - 2  # the last one is the flat network's, between nodes
VXLAN_OVERHEAD = 50  # bytes: outer Ethernet, IPv4, UDP and VXLAN headers (RFC 7348)
_LEAST_MTU = {4: 68, 6: 1280}  # RFC 791, RFC 8200
_ATTEMPTS = 16
# The way to every new port leads over these, so they are built once.
_ONE_LOCKED = (
    sa.select(Network)
    .where(Network.id == sa.bindparam("key"))
    .execution_options(populate_existing=True)
    .with_for_update()
)
_ONE = (
    sa.select(Network)
    .where(Network.id == sa.bindparam("key"))
    .execution_options(populate_existing=True)
    .options(joinedload(Network.subnets))
)


# ---- lifecycle


def born(session: Session, bells: Bells, settings: NetworkSettings, network: Network) -> None:
    """Insert the network with its segment. Raises Conflict when a named segment is taken."""
    chosen = network.network_type != VXLAN or network.segmentation_id is not None
    for _ in range(_ATTEMPTS):
        if not chosen:
            network.segmentation_id = random.randint(settings.vni_low, settings.vni_high)
        if _segment_taken(session, network):
            if chosen:
                raise _segment_in_use(network)
            continue
        try:
            with session.begin_nested():
                session.add(network)
                session.flush()
        except IntegrityError:
            continue
        if network.external:
            settle(session, bells, network)
        return
    raise Unavailable("Unable to create the network. No network is available for allocation.")


def settle(session: Session, bells: Bells, network: Network) -> None:
    """Have some node play the world behind an external network, if one is there to do it."""
    if network.host is None:
        network.host = node.choose(session)  # none now: the first node that reports is given it
    if network.host is not None:
        session.flush()
        binding.carry(session, bells, network, network.host)
        bells.node(network.host, f"network:{network.id}")


def _segment_taken(session: Session, network: Network) -> bool:
    if network.network_type == LOCAL:
        return False
    other = sa.select(Network.id).where(Network.network_type == network.network_type)
    if network.network_type == FLAT:
        other = other.where(Network.physical_network == network.physical_network)
    else:
        other = other.where(Network.segmentation_id == network.segmentation_id)
    return session.execute(other).first() is not None


def _segment_in_use(network: Network) -> Exception:
    if network.network_type == FLAT:
        return in_use(
            "FlatNetworkInUse",
            f"Unable to create the flat network. Physical network {network.physical_network} is in use.",
        )
    return in_use(
        "TunnelIdInUse",
        f"Unable to create the network. The tunnel ID {network.segmentation_id} is in use.",
    )


def visible_network(call: Call, network_id: str, *, lock: bool = False, everywhere: bool = False) -> Network:
    """The network, with its subnets as they are now. Raises NotFound unless the caller may see it.

    ``lock`` makes this transaction the only one that changes the network's subnets until it ends. ``everywhere``: it
    is part of something that the caller may see, so it is no secret.
    """
    query = _ONE
    if lock and call.runtime.db.dialect != "sqlite":
        query = _ONE_LOCKED
    if not everywhere and not call.allows("get_network:all"):
        query = query.where(sa.or_(Network.project_id == call.context.project_id, _open(call)))
    found = call.session.execute(query, {"key": network_id}).unique().scalars().first()
    if found is None:
        raise missing("network", network_id)
    return found


def owner_scope(call: Call, network: Network, project_id: str, **more: Any) -> dict[str, Any]:
    """The policy target of something new on the network."""
    return access.scope(
        call, project_id,
        **{"network:project_id": network.project_id, "network:shared": network.shared}, **more,
    )  # fmt: skip


# ---- actions


def _segment(settings: NetworkSettings, fields: dict[str, Any]) -> None:
    """Check and complete the provider attributes. Raises BadRequest."""
    kind = fields.get("network_type")
    physical, number = fields.get("physical_network"), fields.get("segmentation_id")
    if kind is None:
        if physical is not None or number is not None:
            raise bad("provider:network_type", "it is required with other provider attributes")
        kind = VXLAN
    if kind not in (VXLAN, FLAT, LOCAL):
        raise bad(
            "provider:network_type", f"network_type value '{kind}' not supported; vxlan, flat and local are"
        )
    if kind == FLAT and physical != settings.physical_network:
        raise bad("provider:physical_network", f"'{physical}' unknown for flat provider network")
    if kind != FLAT and physical is not None:
        raise bad("provider:physical_network", f"it is prohibited for {kind} networks")
    if kind != VXLAN and number is not None:
        raise bad("provider:segmentation_id", f"it is prohibited for {kind} networks")
    if number is not None and not 1 <= number <= HIGHEST_VNI:
        raise bad("provider:segmentation_id", f"{number} is not between 1 and {HIGHEST_VNI}")
    fields["network_type"] = kind


def _mtu(settings: NetworkSettings, kind: str | None, asked: int | None, versions: set[int]) -> int:
    most = settings.mtu - (VXLAN_OVERHEAD if kind == VXLAN else 0)
    if not asked:
        return most
    least = max((_LEAST_MTU[version] for version in versions), default=_LEAST_MTU[4])
    if not least <= asked <= most:
        raise bad("mtu", f"{asked} is not between {least} and {most}", "InvalidInput")
    return asked


def _create(call: Call, fields: dict[str, Any]) -> Network:
    settings: NetworkSettings = call.runtime.settings
    project = access.project(call, fields)
    access.attributes(call, NETWORKS, "create", fields, access.scope(call, project))
    _segment(settings, fields)
    fields["mtu"] = _mtu(settings, fields["network_type"], fields.get("mtu"), set())
    network = Network(id=str(uuid.uuid4()), project_id=project, **fields)
    network.subnets = []
    if network.is_default:
        _only_default(call.session, network)
    claim(call, NETWORKS, [network])
    born(call.session, bells(call), settings, network)
    return network


def _only_default(session: Session, network: Network) -> None:
    if not network.external:
        raise bad("is_default", "only an external network can be the default one")
    other = sa.select(Network.id).where(Network.is_default.is_(True), Network.id != network.id)
    found = session.execute(other).scalar()
    if found is not None:
        raise in_use("DefaultExternalNetworkExists", f"A default external network already exists: {found}.")


def _update(call: Call, network: Network, fields: dict[str, Any]) -> None:
    access.attributes(call, NETWORKS, "update", fields, _as_target(network))
    session, ring = call.session, bells(call)
    if "mtu" in fields:
        versions = {subnet.ip_version for subnet in network.subnets}
        fields["mtu"] = _mtu(call.runtime.settings, network.network_type, fields["mtu"], versions)
    if fields.get("shared") is False and network.shared:
        _nobody_else(session, network)
    if fields.get("external") is False and network.external:
        _no_way_out(session, network)
    different = assign(network, fields)
    if "is_default" in different and network.is_default:
        _only_default(session, network)
    if different & {"shared", "external"}:
        session.execute(
            sa.update(Subnet)
            .where(Subnet.network_id == network.id)
            .values(shared=network.shared, external=network.external)
        )
    if "external" in different:
        if network.external:
            settle(session, ring, network)
        elif network.host is not None:
            host, network.host = network.host, None
            session.flush()
            binding.leave(session, ring, network.id, host)
    if different & {"admin_state_up", "mtu", "external"}:
        ring.nodes(binding.carriers(session, network.id), f"network:{network.id}")


def _as_target(network: Network) -> dict[str, Any]:
    return {"project_id": network.project_id, "tenant_id": network.project_id}


def _nobody_else(session: Session, network: Network) -> None:
    other = sa.select(Port.id).where(
        Port.network_id == network.id,
        Port.project_id.not_in([network.project_id, ""]),
        Port.device_owner.not_like("network:%"),
    )
    if session.execute(other.limit(1)).first() is not None:
        raise in_use(
            "InvalidSharedSetting",
            f"Unable to reconfigure sharing settings for network {network.id}. Multiple projects are using it.",
        )


def _no_way_out(session: Session, network: Network) -> None:
    gateway = sa.select(Port.id).where(
        Port.network_id == network.id,
        Port.device_owner.in_(["network:router_gateway", "network:floatingip"]),
    )
    if session.execute(gateway.limit(1)).first() is not None:
        raise in_use(
            "ExternalNetworkInUse",
            f"External network {network.id} cannot be updated to be made non-external, since it has existing "
            "gateway ports.",
        )


def _delete(call: Call, network: Network) -> None:
    session, ring = call.session, bells(call)
    network = visible_network(call, network.id, lock=True, everywhere=True)
    ports = session.execute(sa.select(Port).where(Port.network_id == network.id)).scalars().all()
    busy = [port.id for port in ports if port.device_owner != binding.DHCP]
    if busy:
        raise in_use(
            "NetworkInUse",
            f"Unable to complete operation on network {network.id}. There are one or more ports still in use on "
            f"the network, id for these ports is: {','.join(sorted(busy)[:5])}.",
        )
    hosts = binding.carriers(session, network.id)
    for port in ports:
        binding.erase(session, ring, port)
    session.execute(sa.delete(Presence).where(Presence.network_id == network.id))
    tag.forget(session, network.id, *[subnet.id for subnet in network.subnets])
    session.execute(sa.delete(Subnet).where(Subnet.network_id == network.id))
    session.execute(sa.delete(Network).where(Network.id == network.id))
    ring.nodes(hosts, f"network:{network.id}")


def _open(call: Call) -> Any:
    return sa.or_(Network.shared.is_(True), Network.external.is_(True))


NETWORKS = Resource(
    row=Network,
    name="network",
    owner=Network.project_id,
    visible=_open,
    policy={
        "list": READER,
        "show": f"{READER} or rule:shared or rule:external",
        "create": MEMBER,
        "update": MEMBER,
        "delete": MEMBER,
    },
    rules={"admin_fields": "get_network:provider:network_type"},
    create=_create,
    update=_update,
    delete=_delete,
    inputs={"tenant_id": str},
    computed={
        "tenant_id": Computed(get=lambda call, row: row.project_id),
        "subnets": Computed(get=lambda call, row: [subnet.id for subnet in row.subnets]),
    },
    filters={
        **access.filters(Network),
        **tag.filters(Network),
    },
    quota={"network": 1},
    bulk=True,
    default_sort=(("created_at", False),),
)
