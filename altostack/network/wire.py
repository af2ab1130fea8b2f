"""What the network service and its agents say to each other: the driver's own specs, and a little around them.

Both ends use these structs, so the JSON between them has one definition.
"""

from __future__ import annotations

import msgspec

from altostack.network.drivers.base import NetworkSpec, PortSpec, RouterSpec, RuleSpec


class NodePort(msgspec.Struct, frozen=True):
    """A port on the node. ``stamp`` is its binding's number, to be given back with what became of it."""

    network_id: str
    stamp: int
    spec: PortSpec


class NodeNetwork(msgspec.Struct, frozen=True):
    """A network on the node, without its ports. ``world``: the gateways that the node plays beyond it, or None."""

    spec: NetworkSpec
    world: tuple[str, ...] | None = None


class Desired(msgspec.Struct, frozen=True):
    """What is wanted of a node: everything, or what became of the things it asked for (``gone``: nothing)."""

    ports: tuple[NodePort, ...] = ()
    networks: tuple[NodeNetwork, ...] = ()
    routers: tuple[RouterSpec, ...] = ()
    gone: tuple[str, ...] = ()


class GroupState(msgspec.Struct, frozen=True):
    """A security group at ``version``.

    ``members`` maps port -> addresses: all of them if ``whole``, else those that changed since the version that the
    node knew; none means that the port left. ``rules`` None: they are as they were.
    """

    id: str
    version: int
    stateful: bool
    rules: tuple[RuleSpec, ...] | None
    members: dict[str, tuple[str, ...]]
    whole: bool


class Groups(msgspec.Struct, frozen=True):
    """The groups that a node asked for, as far as they changed; ``gone`` are no more."""

    groups: tuple[GroupState, ...] = ()
    gone: tuple[str, ...] = ()


class Seen(msgspec.Struct, frozen=True):
    """One item's state on the node."""

    status: str
    reason: str | None = None
    stamp: int = 0


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node tells of itself and of what changed there."""

    facts: dict[str, int | float | str] = {}
    started: bool = False
    ports: dict[str, Seen] = {}
    networks: dict[str, Seen] = {}
    routers: dict[str, Seen] = {}
    floating_ips: dict[str, Seen] = {}


class Owner(msgspec.Struct, frozen=True):
    """Whose address it is."""

    port_id: str
    device_id: str
    project_id: str
