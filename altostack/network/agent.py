"""A node's agent: what is wanted, made so by the driver, and what came of it told to the service.

The agent keeps a picture of what is wanted, brings it up to date by what bells name, and hands the whole of it to the
driver, which does nothing for what it has done already. Every full look replaces the picture, so no bell matters.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Mapping

from altostack.kit.clients import RemoteError
from altostack.kit.reconcile import Loop
from altostack.kit.service import Node, Runtime
from altostack.network.bells import GROUPS, node_topic
from altostack.network.config import NetworkSettings
from altostack.network.drivers.base import (
    ExternalNetworkSpec,
    ItemStatus,
    MetadataRequest,
    MetadataResponse,
    NetworkDriver,
    NetworkSpec,
    NodeNetworks,
    Observed,
    PortSpec,
    RouterSpec,
    RuleSpec,
    SecurityGroupSpec,
)
from altostack.network.metadata import MetadataDoor
from altostack.network.neighbours import ComputeApi, NetworkApi
from altostack.network.wire import Desired, GroupState, NodeNetwork, NodePort, Owner, Report, Seen

log = logging.getLogger(__name__)
GROUP_PAUSE = 2.0  # seconds at least between two looks at security groups
_RECHECK = 600.0  # seconds until the driver is told to look at the machine again


class _Group:
    """A security group as it is known here."""

    def __init__(self) -> None:
        self.version = 0
        self.stateful = True
        self.rules: tuple[RuleSpec, ...] = ()
        self.members: dict[str, tuple[str, ...]] = {}

    def take(self, state: GroupState) -> None:
        self.version, self.stateful = state.version, state.stateful
        self.rules = self.rules if state.rules is None else state.rules
        if state.whole:
            self.members.clear()
        for port, addresses in state.members.items():
            if addresses:
                self.members[port] = addresses
            else:
                self.members.pop(port, None)

    def spec(self, group_id: str) -> SecurityGroupSpec:
        members = sorted({one for addresses in self.members.values() for one in addresses})
        return SecurityGroupSpec(
            id=group_id, stateful=self.stateful, rules=self.rules, members=tuple(members)
        )


class Picture:
    """What is wanted of the node, as far as the agent knows."""

    def __init__(self) -> None:
        self.ports: dict[str, NodePort] = {}
        self.networks: dict[str, NodeNetwork] = {}
        self.routers: dict[str, RouterSpec] = {}
        self.groups: dict[str, _Group] = {}
        self._on: dict[str, set[str]] = {}  # network -> its ports here
        self._specs: dict[str, NetworkSpec] = {}  # networks with their ports, until something changes
        self._group_specs: dict[str, SecurityGroupSpec] = {}

    def replace(self, all: Desired) -> None:
        """Take everything anew; groups stay, for they have versions."""
        self.ports, self.networks, self.routers = {}, {}, {}
        self._on.clear()
        self._specs.clear()
        self.merge(all)

    def merge(self, some: Desired) -> None:
        """Take what came."""
        for network in some.networks:
            self.networks[network.spec.id] = network
            self._specs.pop(network.spec.id, None)
        for port in some.ports:
            self._drop_port(port.spec.id)
            self.ports[port.spec.id] = port
            self._on.setdefault(port.network_id, set()).add(port.spec.id)
            self._specs.pop(port.network_id, None)
        for router in some.routers:
            self.routers[router.id] = router
        for one in some.gone:
            kind, _, name = one.partition(":")
            if kind == "port":
                self._drop_port(name)
            elif kind == "network":
                self.networks.pop(name, None)
                self._specs.pop(name, None)
            elif kind == "router":
                self.routers.pop(name, None)

    def _drop_port(self, port_id: str) -> None:
        known = self.ports.pop(port_id, None)
        if known is not None:
            self._on[known.network_id].discard(port_id)
            self._specs.pop(known.network_id, None)

    def take(self, states: Iterable[GroupState], gone: Iterable[str]) -> None:
        """Take what became of groups."""
        for state in states:
            self.groups.setdefault(state.id, _Group()).take(state)
            self._group_specs.pop(state.id, None)
        for name in gone:
            self.groups.pop(name, None)
            self._group_specs.pop(name, None)

    def strangers(self) -> list[str]:
        """Networks that a port or a router needs and that are not known."""
        wanted = {port.network_id for port in self.ports.values()}
        for router in self.routers.values():
            wanted |= {foot.network_id for foot in router.interfaces}
            wanted |= {router.gateway.network_id} if router.gateway else set()
        return [f"network:{name}" for name in sorted(wanted - set(self.networks))]

    def group_ids(self) -> set[str]:
        """Groups that ports here are under, and the groups that those rules name."""
        under = {name for port in self.ports.values() for name in port.spec.security_groups}
        named = {
            rule.remote_group_id
            for name in under
            if name in self.groups
            for rule in self.groups[name].rules
            if rule.remote_group_id
        }
        return under | named

    def forget_groups(self) -> None:
        """Drop the groups that nothing here needs any longer."""
        self.take((), set(self.groups) - self.group_ids())

    def node(self, generation: int) -> NodeNetworks:
        """The whole as the driver takes it; ports whose network is not known yet are left out."""
        for name in sorted(self.groups):
            if name not in self._group_specs:
                self._group_specs[name] = self.groups[name].spec(name)
        routers = tuple(router for _, router in sorted(self.routers.items()) if not self._unready(router))
        return NodeNetworks(
            generation=generation,
            networks=tuple(self._network(name) for name in sorted(self.networks)),
            routers=routers,
            security_groups=tuple(self._group_specs[name] for name in sorted(self._group_specs)),
            external_networks=tuple(
                ExternalNetworkSpec(network_id=name, gateways=network.world)
                for name, network in sorted(self.networks.items())
                if network.world is not None
            ),
        )

    def _unready(self, router: RouterSpec) -> bool:
        needed = {foot.network_id for foot in router.interfaces}
        needed |= {router.gateway.network_id} if router.gateway else set()
        return not needed <= set(self.networks)

    def _network(self, network_id: str) -> NetworkSpec:
        if network_id not in self._specs:
            ports: list[PortSpec] = [self.ports[name].spec for name in sorted(self._on.get(network_id, ()))]
            self._specs[network_id] = dataclasses.replace(self.networks[network_id].spec, ports=tuple(ports))
        return self._specs[network_id]


class Agent:
    """One node's agent. `look` and `look_at_groups` are the bodies of its two loops; `resolve` answers guests."""

    def __init__(self, runtime: Runtime, node: Node) -> None:
        self._settings: NetworkSettings = runtime.settings
        self._secret = str(runtime.cloud.get("secrets", {}).get("metadata_secret", ""))
        self._node = node
        self._driver: NetworkDriver = node.drivers["network"]
        self._network = NetworkApi(runtime.clients["network"], node.host, node.token)
        self._compute = ComputeApi(runtime.clients["compute"]) if "compute" in runtime.clients else None
        self._picture = Picture()
        self._lock = threading.Lock()
        self._told: dict[str, dict[str, Seen]] = {}
        self._started = True
        self._generation = 0
        self._again: threading.Timer | None = None
        self._groups_at = 0.0
        self._checked = 0.0
        self.loop: Loop | None = None

    # ---- the loops' bodies

    def look(self, ids: tuple[str, ...]) -> None:
        """Bring the node to what is wanted; ``ids`` as bells name them, none means everything."""
        with self._lock:
            fetched = [one for one in ids if ":" in one]
            if not ids:
                self._picture.replace(self._network.desired())
            elif fetched:
                self._picture.merge(self._network.desired(fetched))
            if strangers := self._picture.strangers():
                self._picture.merge(self._network.desired(strangers))
            if not ids:
                self._refresh_groups(self._picture.group_ids())
                self._picture.forget_groups()
            else:
                self._refresh_groups(self._picture.group_ids() - set(self._picture.groups))
            self._converge(fetched, everything=not ids)

    def look_at_groups(self, ids: tuple[str, ...]) -> None:
        """Bring security groups up to date: those of ``ids`` that are used here. Full looks are `look`'s."""
        wanted = set(ids) & set(self._picture.groups)
        if not wanted:
            return
        pause = self._groups_at + GROUP_PAUSE - time.monotonic()
        if 0 < pause <= GROUP_PAUSE and self.loop is not None and self.loop.started:
            time.sleep(pause)
        self._groups_at = time.monotonic()
        with self._lock:
            self._refresh_groups(wanted)
            self._converge([], everything=False)

    def _refresh_groups(self, ids: set[str]) -> None:
        """Fetch these groups, and those that their rules name."""
        while ids:
            known = {name: self._version(name) for name in ids}
            answer = self._network.groups(known)
            self._picture.take(answer.groups, answer.gone)
            ids = {
                rule.remote_group_id
                for state in answer.groups
                for rule in state.rules or ()
                if rule.remote_group_id and rule.remote_group_id not in self._picture.groups
            } - set(known)

    def _version(self, group_id: str) -> int:
        known = self._picture.groups.get(group_id)
        return known.version if known else 0

    # ---- converging and telling

    def _converge(self, fetched: list[str], *, everything: bool) -> None:
        self._generation += 1
        if everything and time.monotonic() - self._checked > _RECHECK:
            self._driver.forget()
            self._checked = time.monotonic()
        try:
            observed = self._driver.converge(self._picture.node(self._generation))
        except Exception:
            self._checked = 0.0
            raise
        self._report(observed, {one.partition(":")[2] for one in fetched}, everything=everything)
        self._retry(observed.retry_after)

    def _report(self, observed: Observed, fetched: set[str], *, everything: bool) -> None:
        """Tell what changed since it was told last, and what was asked for just now; everything on a full look."""
        seen = {
            "ports": self._seen(observed.ports, self._stamps()),
            "networks": self._seen(observed.networks, {}),
            "routers": self._seen(observed.routers, {}),
            "floating_ips": self._seen(observed.floating_ips, {}),
        }
        news = {
            kind: {
                name: one
                for name, one in items.items()
                if everything or self._told.get(kind, {}).get(name) != one or name in fetched
            }
            for kind, items in seen.items()
        }
        news["floating_ips"] |= self._floating_of(fetched, seen["floating_ips"])
        if not everything and not any(news.values()):
            return
        facts = self._facts() if everything else {}
        self._told = {}
        self._network.observed(Report(facts=facts, started=self._started, **news))
        self._told = seen
        self._started = False

    def _floating_of(self, routers: set[str], seen: Mapping[str, Seen]) -> dict[str, Seen]:
        """A floating IP that moved from one port to another is told of anew, with its router."""
        return {
            one.id: seen[one.id]
            for name in routers
            if name in self._picture.routers
            for one in self._picture.routers[name].floating_ips
            if one.id in seen
        }

    def _stamps(self) -> dict[str, int]:
        return {name: port.stamp for name, port in self._picture.ports.items()}

    def _seen(self, items: Mapping[str, ItemStatus], stamps: Mapping[str, int]) -> dict[str, Seen]:
        return {name: Seen(str(one.status), one.reason, stamps.get(name, 0)) for name, one in items.items()}

    def _facts(self) -> dict[str, int | float | str]:
        picture = self._picture
        return {
            "ports": len(picture.ports), "networks": len(picture.networks), "routers": len(picture.routers),
            "underlay": self._settings.underlay.get(self._node.host, ""),
        }  # fmt: skip

    def _retry(self, after: float | None) -> None:
        """Converge again although nothing changed, when the driver says so."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if after is not None and self.loop is not None:
            loop = self.loop
            self._again = threading.Timer(after, lambda: loop.nudge(("again",)))
            self._again.daemon = True
            self._again.start()

    # ---- metadata

    def resolve(self, request: MetadataRequest) -> MetadataResponse:
        """Answer a guest's question for metadata: find who it is by its address, and ask compute for it."""
        if request.method not in ("GET", "HEAD"):
            return MetadataResponse(status=405, body=b"405 Method Not Allowed\n")
        try:
            owner = self._owner(request)
            if owner is None or not owner.device_id:
                return MetadataResponse(status=404, body=b"404 Not Found\n")
            if self._compute is None:
                return MetadataResponse(status=503, body=b"503 no compute service\n")
            status, body, kind = self._compute.metadata(
                request.path, secret=self._secret, server_id=owner.device_id, project_id=owner.project_id,
                ip=request.client_ip, node=self._node.token,
            )  # fmt: skip
        except RemoteError as error:
            log.warning("metadata for %s: %s", request.client_ip, error)
            return MetadataResponse(status=503, body=b"503 Service Unavailable\n")
        return MetadataResponse(status=status, body=body, content_type=kind)

    def _owner(self, request: MetadataRequest) -> Owner | None:
        where, ip = request.network_id or request.router_id or "", request.client_ip
        if request.network_id is not None:
            for port in list(self._picture.ports.values()):
                if port.network_id == where and any(one.ip == ip for one in port.spec.fixed_ips):
                    return Owner(port.spec.id, port.spec.device_id, port.spec.project_id)
        return self._network.owner(ip, network_id=request.network_id, router_id=request.router_id)


def agents(runtime: Runtime, node: Node) -> tuple[Loop, ...]:
    """The loops of one node, none where it has no network driver.

    ``node.drivers["metadata"]``, if there, is the `MetadataDoor` that the driver was given as its resolver.
    """
    if "network" not in node.drivers:
        return ()
    agent = Agent(runtime, node)
    door: MetadataDoor | None = node.drivers.get("metadata")
    if door is not None:
        door.resolver = agent.resolve
    settings: NetworkSettings = runtime.settings
    agent.loop = Loop(
        f"network-agent-{node.host}", agent.look, interval=settings.look_every,
        topics=(node_topic(node.host),), settle=0.01,
    )  # fmt: skip
    groups = Loop(
        f"network-groups-{node.host}", agent.look_at_groups, interval=3600.0, topics=(GROUPS,), settle=0.05
    )
    return agent.loop, groups
