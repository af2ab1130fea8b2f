"""Every row of the network service.

They stand in one file because foreign keys tie them together and every part of the service asks for several of them;
what is done with each stands in the file of its noun.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, relationship

from altostack.kit.db import utcnow
from altostack.kit.resource import field, key, private
from altostack.network.model import ACTIVE, DOWN, NetworkRow, Owned, Standard, foreign

_ID = sa.String(64)
_TEXT = sa.Text()


class Network(Standard, Owned, NetworkRow):
    """``host`` is the node that plays the world behind an external network."""

    __tablename__ = "networks"
    __table_args__ = (
        sa.UniqueConstraint("network_type", "segmentation_id"),
        sa.UniqueConstraint("network_type", "physical_network"),
    )
    id: Mapped[str] = key()
    name: Mapped[str] = field(create=True, update=True, filter=True, sort=True, default="", max_length=255)
    admin_state_up: Mapped[bool] = field(create=True, update=True, filter=True, sort=True, default=True)
    status: Mapped[str] = field(filter=True, sort=True, default=ACTIVE, max_length=16)
    shared: Mapped[bool] = field(create=True, update=True, filter=True, default=False, index=True)
    external: Mapped[bool] = field(
        wire="router:external", create=True, update=True, filter=True, default=False, index=True
    )
    is_default: Mapped[bool] = field(create=True, update=True, filter=True, default=False)
    mtu: Mapped[int] = field(create=True, update=True, filter=True, sort=True, ge=0)
    port_security_enabled: Mapped[bool] = field(create=True, update=True, filter=True, default=True)
    network_type: Mapped[str | None] = field(
        wire="provider:network_type", show="admin", create=True, filter=True, max_length=32
    )
    physical_network: Mapped[str | None] = field(
        wire="provider:physical_network", show="admin", create=True, filter=True, max_length=64
    )
    segmentation_id: Mapped[int | None] = field(
        wire="provider:segmentation_id", show="admin", create=True, filter=True
    )
    host: Mapped[str | None] = private(index=True)
    subnets = relationship(
        lambda: Subnet, primaryjoin=lambda: Network.id == sa.orm.foreign(Subnet.network_id), lazy="selectin",
        viewonly=True, order_by=lambda: (Subnet.created_at, Subnet.id),
    )  # fmt: skip


class Subnet(Standard, Owned, NetworkRow):
    """``shared`` and ``external`` are the network's, kept here because lists ask for them."""

    __tablename__ = "subnets"
    __table_args__ = foreign(("network_id", "networks.id"))
    id: Mapped[str] = key()
    name: Mapped[str] = field(create=True, update=True, filter=True, sort=True, default="", max_length=255)
    network_id: Mapped[str] = field(required=True, filter=True, sort=True, index=True, max_length=64)
    ip_version: Mapped[int] = field(required=True, filter=True, sort=True, ge=4, le=6)
    cidr: Mapped[str] = field(create=True, filter=True, sort=True, max_length=64)
    gateway_ip: Mapped[str | None] = field(create=True, update=True, filter=True, sort=True, max_length=64)
    enable_dhcp: Mapped[bool] = field(create=True, update=True, filter=True, sort=True, default=True)
    allocation_pools: Mapped[list[dict[str, Any]]] = field(create=True, update=True, default=[])
    dns_nameservers: Mapped[list[str] | None] = field(create=True, update=True, default=[], nullable=False)
    host_routes: Mapped[list[dict[str, Any]] | None] = field(
        create=True, update=True, default=[], nullable=False
    )
    ipv6_ra_mode: Mapped[str | None] = field(create=True, filter=True, sort=True, max_length=16)
    ipv6_address_mode: Mapped[str | None] = field(create=True, filter=True, sort=True, max_length=16)
    external: Mapped[bool] = field(wire="router:external", filter=True, default=False)
    shared: Mapped[bool] = field(show=False, filter=True, default=False)
    network_project_id: Mapped[str] = private(type_=sa.String(255), index=True)


class Port(Standard, Owned, NetworkRow):
    """``fixed_ips`` and ``security_groups`` repeat what `Allocation` and `Membership` hold, for quick answers.

    ``stamp`` counts bindings, so that a node's word about an earlier one is not taken for the present one's.
    ``part`` names what a port of the service's own is for; no two may be for the same.
    """

    __tablename__ = "ports"
    __table_args__ = (
        sa.UniqueConstraint("network_id", "mac_address"),
        sa.Index("ix_ports_network_id_host", "network_id", "host"),
        *foreign(("network_id", "networks.id")),
    )
    id: Mapped[str] = key()
    name: Mapped[str] = field(create=True, update=True, filter=True, sort=True, default="", max_length=255)
    network_id: Mapped[str] = field(required=True, filter=True, sort=True, max_length=64)
    mac_address: Mapped[str] = field(create=True, update=True, filter=True, sort=True, max_length=32)
    admin_state_up: Mapped[bool] = field(create=True, update=True, filter=True, sort=True, default=True)
    status: Mapped[str] = field(filter=True, sort=True, default=DOWN, max_length=16)
    device_id: Mapped[str] = field(
        create=True, update=True, filter=True, sort=True, default="", max_length=255, index=True
    )
    device_owner: Mapped[str] = field(
        create=True, update=True, filter=True, sort=True, default="", max_length=255
    )
    fixed_ips: Mapped[list[dict[str, Any]]] = field(create=True, update=True, default=[])
    security_groups: Mapped[list[str] | None] = field(create=True, update=True, default=[], nullable=False)
    allowed_address_pairs: Mapped[list[dict[str, Any]] | None] = field(
        create=True, update=True, default=[], nullable=False
    )
    extra_dhcp_opts: Mapped[list[dict[str, Any]] | None] = field(
        create=True, update=True, default=[], nullable=False
    )
    port_security_enabled: Mapped[bool] = field(create=True, update=True, filter=True, default=True)
    host: Mapped[str | None] = field(
        wire="binding:host_id", show="admin", create=True, update=True, filter=True, default="",
        max_length=255, nullable=False, index=True,
    )  # fmt: skip
    profile: Mapped[dict[str, Any] | None] = field(
        wire="binding:profile", show="admin", create=True, update=True, default={}, nullable=False
    )
    vnic_type: Mapped[str] = field(
        wire="binding:vnic_type", create=True, update=True, filter=True, default="normal", max_length=64
    )
    network_project_id: Mapped[str] = private(type_=sa.String(255), index=True)
    stamp: Mapped[int] = private(default=0)
    part: Mapped[str | None] = private(unique=True)
    error: Mapped[str | None] = private(type_=_TEXT)


class Allocation(NetworkRow):
    """An address in use; the primary key is why none is given twice."""

    __tablename__ = "ip_allocations"
    __table_args__ = foreign(("subnet_id", "subnets.id"), ("port_id", "ports.id"))
    subnet_id: Mapped[str] = private(primary_key=True, type_=_ID)
    ip: Mapped[str] = private(primary_key=True, type_=_ID)
    port_id: Mapped[str] = private(index=True, type_=_ID)


class Router(Standard, Owned, NetworkRow):
    """``host`` is the node that runs it."""

    __tablename__ = "routers"
    id: Mapped[str] = key()
    name: Mapped[str] = field(create=True, update=True, filter=True, sort=True, default="", max_length=255)
    admin_state_up: Mapped[bool] = field(create=True, update=True, filter=True, sort=True, default=True)
    status: Mapped[str] = field(filter=True, sort=True, default=ACTIVE, max_length=16)
    external_gateway_info: Mapped[dict[str, Any] | None] = field(
        create=True, update=True, type_=sa.JSON(none_as_null=True)
    )
    routes: Mapped[list[dict[str, Any]]] = field(update=True, default=[])
    gateway_port_id: Mapped[str | None] = private(type_=_ID)
    gateway_network_id: Mapped[str | None] = private(index=True, type_=_ID)
    host: Mapped[str | None] = private(index=True)
    error: Mapped[str | None] = private(type_=_TEXT)


class FloatingIP(Standard, Owned, NetworkRow):
    """``outer_port_id`` is the port that holds the address in the external network."""

    __tablename__ = "floatingips"
    __table_args__ = (
        sa.UniqueConstraint("floating_network_id", "port_id", "fixed_ip_address", name="uq_floatingips_fixed"),
        *foreign(("floating_network_id", "networks.id"), ("port_id", "ports.id"),
                 ("outer_port_id", "ports.id"), ("router_id", "routers.id")),
    )  # fmt: skip
    id: Mapped[str] = key()
    floating_network_id: Mapped[str] = field(required=True, filter=True, sort=True, max_length=64)
    floating_ip_address: Mapped[str | None] = field(
        create=True, filter=True, sort=True, max_length=64, nullable=False
    )
    fixed_ip_address: Mapped[str | None] = field(
        create=True, update=True, filter=True, sort=True, max_length=64
    )
    port_id: Mapped[str | None] = field(create=True, update=True, filter=True, index=True, max_length=64)
    router_id: Mapped[str | None] = field(filter=True, sort=True, index=True, max_length=64)
    status: Mapped[str] = field(filter=True, sort=True, default=DOWN, max_length=16)
    outer_port_id: Mapped[str] = private(type_=_ID)


class SecurityGroup(Standard, Owned, NetworkRow):
    """``version`` counts changes of rules and members; ``default_of`` is the project whose default group it is."""

    __tablename__ = "security_groups"
    id: Mapped[str] = key()
    name: Mapped[str] = field(create=True, update=True, filter=True, sort=True, default="", max_length=255)
    stateful: Mapped[bool] = field(create=True, update=True, filter=True, sort=True, default=True)
    default_of: Mapped[str | None] = private(unique=True)
    version: Mapped[int] = private(default=1)
    rules = relationship(
        lambda: Rule, primaryjoin=lambda: SecurityGroup.id == sa.orm.foreign(Rule.security_group_id),
        lazy="selectin", viewonly=True, order_by=lambda: (Rule.created_at, Rule.id),
    )  # fmt: skip


class Rule(Standard, Owned, NetworkRow):
    __tablename__ = "security_group_rules"
    __table_args__ = foreign(
        ("security_group_id", "security_groups.id"), ("remote_group_id", "security_groups.id")
    )
    id: Mapped[str] = key()
    security_group_id: Mapped[str] = field(required=True, filter=True, sort=True, index=True, max_length=64)
    direction: Mapped[str] = field(required=True, filter=True, sort=True, max_length=16)
    ethertype: Mapped[str] = field(create=True, filter=True, sort=True, default="IPv4", max_length=16)
    protocol: Mapped[str | None] = field(filter=True, sort=True, max_length=40)
    port_range_min: Mapped[int | None] = field(create=True, filter=True, sort=True)
    port_range_max: Mapped[int | None] = field(create=True, filter=True, sort=True)
    remote_ip_prefix: Mapped[str | None] = field(create=True, filter=True, sort=True, max_length=64)
    remote_group_id: Mapped[str | None] = field(
        create=True, filter=True, sort=True, index=True, max_length=64
    )


class Membership(NetworkRow):
    """A port in a security group."""

    __tablename__ = "security_group_ports"
    __table_args__ = foreign(("group_id", "security_groups.id"), ("port_id", "ports.id"))
    port_id: Mapped[str] = private(primary_key=True, type_=_ID)
    group_id: Mapped[str] = private(primary_key=True, index=True, type_=_ID)


class GroupChange(NetworkRow):
    """What a group's version brought: a port's addresses as they are from then on (none: it left), or new rules.

    Nodes that know a version ask only for what came after it.
    """

    __tablename__ = "security_group_changes"
    group_id: Mapped[str] = private(primary_key=True, type_=_ID)
    version: Mapped[int] = private(primary_key=True, autoincrement=False)
    port_id: Mapped[str] = private(default="", type_=_ID)
    addresses: Mapped[list[str]] = private(default=[])
    at: Mapped[datetime] = private(default=utcnow, index=True)


class Presence(NetworkRow):
    """A network on a node: some port of it is bound there, or a router's foot, or the world behind it."""

    __tablename__ = "network_nodes"
    __table_args__ = foreign(("network_id", "networks.id"))
    network_id: Mapped[str] = private(primary_key=True, type_=_ID)
    host: Mapped[str] = private(primary_key=True, index=True)


class Agent(NetworkRow):
    """A node, as it last reported."""

    __tablename__ = "agents"
    id: Mapped[str] = key()
    host: Mapped[str] = field(filter=True, sort=True, unique=True)
    agent_type: Mapped[str] = field(filter=True, sort=True, default="Altostack agent")
    binary: Mapped[str] = field(filter=True, sort=True, default="altostack-network")
    topic: Mapped[str] = field(filter=True, sort=True, default="N/A")
    admin_state_up: Mapped[bool] = field(update=True, filter=True, default=True)
    description: Mapped[str | None] = field(update=True, filter=True, max_length=255)
    availability_zone: Mapped[str] = field(filter=True, default="nova")
    configurations: Mapped[dict[str, Any]] = field(default={})
    created: Mapped[datetime] = private(default=utcnow)
    started: Mapped[datetime] = private(default=utcnow)
    heartbeat: Mapped[datetime] = private(default=utcnow)


class Notice(NetworkRow):
    """An event that compute is still to be told of."""

    __tablename__ = "notices"
    id: Mapped[int] = private(primary_key=True, autoincrement=True)
    server_id: Mapped[str] = private()
    port_id: Mapped[str] = private(type_=_ID)
    name: Mapped[str] = private(type_=sa.String(64))
    at: Mapped[datetime] = private(default=utcnow)


class Tag(NetworkRow):
    """A tag of a resource, for filters; the resource itself repeats them."""

    __tablename__ = "tags"
    resource_id: Mapped[str] = private(primary_key=True, type_=_ID)
    tag: Mapped[str] = private(primary_key=True, type_=sa.String(255))
