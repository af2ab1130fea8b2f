"""Which host a server goes to: placement says who has room, filters who may, weighers who is best.

Filters and weighers are small named functions. When nobody is left, `explain` says which filter left how many: the
numbers name no host, so a project may read them.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.compute.aggregate import zones
from altostack.compute.host import Host, alive
from altostack.compute.neighbours import Candidate, Placement, RemoteError
from altostack.compute.server_group import ServerGroup
from altostack.compute.server_row import Server
from altostack.kit.flow import Failed
from altostack.kit.service import Runtime


def needs(flavor: Mapping[str, Any], *, local_root: bool) -> dict[str, int]:
    """What a server of that flavor takes from its host; a root disk on a volume takes none of the host's."""
    disk = (flavor["disk"] if local_root else 0) + flavor["ephemeral"] + -(-flavor["swap"] // 1024)
    amounts = {"VCPU": flavor["vcpus"], "MEMORY_MB": flavor["ram"], "DISK_GB": disk}
    return {name: amount for name, amount in amounts.items() if amount > 0}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is wanted of a host.

    peers: how many servers of the same group each host has. together, apart: hosts of the servers that the hints
    same_host and different_host name.
    """

    resources: Mapping[str, int]
    zone: str | None = None
    host: str | None = None
    policy: str | None = None
    most: int = 1
    peers: Mapping[str, int] = field(default_factory=dict)
    together: frozenset[str] | None = None
    apart: frozenset[str] = frozenset()
    not_hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Target:
    """A host in the running. resources: (capacity, used) by class, empty where nobody asked placement."""

    host: Host
    zone: str
    up: bool
    resources: Mapping[str, tuple[int, int]] = field(default_factory=dict)


Filter = Callable[[Ask, Target], bool]


def compute_filter(ask: Ask, target: Target) -> bool:
    """It works and nobody disabled it."""
    return target.up and target.host.enabled


def zone_filter(ask: Ask, target: Target) -> bool:
    """It is in the zone asked for."""
    return ask.zone is None or target.zone == ask.zone


def host_filter(ask: Ask, target: Target) -> bool:
    """It is the host that an administrator named, and none that failed before."""
    return (ask.host is None or target.host.host == ask.host) and target.host.host not in ask.not_hosts


def same_host_filter(ask: Ask, target: Target) -> bool:
    """It runs one of the servers named by the hint."""
    return ask.together is None or target.host.host in ask.together


def different_host_filter(ask: Ask, target: Target) -> bool:
    """It runs none of the servers named by the hint."""
    return target.host.host not in ask.apart


def affinity_filter(ask: Ask, target: Target) -> bool:
    """Where the group's other servers are."""
    return ask.policy != "affinity" or not ask.peers or target.host.host in ask.peers


def anti_affinity_filter(ask: Ask, target: Target) -> bool:
    """Where not too many of the group's other servers are."""
    return ask.policy != "anti-affinity" or ask.peers.get(target.host.host, 0) < ask.most


FILTERS: tuple[tuple[str, Filter], ...] = (
    ("ComputeFilter", compute_filter),
    ("AvailabilityZoneFilter", zone_filter),
    ("RequestedHostFilter", host_filter),
    ("SameHostFilter", same_host_filter),
    ("DifferentHostFilter", different_host_filter),
    ("ServerGroupAffinityFilter", affinity_filter),
    ("ServerGroupAntiAffinityFilter", anti_affinity_filter),
)
# What placement sifts by, in the words that people know.
_ROOM = (("VcpuFilter", "VCPU"), ("RamFilter", "MEMORY_MB"), ("DiskFilter", "DISK_GB"))


def free_ram(ask: Ask, target: Target) -> float:
    """The share of memory that is free."""
    return _free(target, "MEMORY_MB")


def free_cpu(ask: Ask, target: Target) -> float:
    """The share of processors that is free."""
    return _free(target, "VCPU")


def company(ask: Ask, target: Target) -> float:
    """Soft affinity likes company, soft anti-affinity does not."""
    sign = {"soft-affinity": 1.0, "soft-anti-affinity": -1.0}.get(ask.policy or "", 0.0)
    return sign * ask.peers.get(target.host.host, 0)


def luck(ask: Ask, target: Target) -> float:
    """Many schedulers that look at once shall not all pick the same host."""
    return random.random()


WEIGHERS: tuple[tuple[float, Callable[[Ask, Target], float]], ...] = (
    (1.0, free_ram),
    (1.0, free_cpu),
    (100.0, company),
    (0.2, luck),
)


def _free(target: Target, name: str) -> float:
    capacity, used = target.resources.get(name, (0, 0))
    return (capacity - used) / capacity if capacity else 0.0


def weight(ask: Ask, target: Target) -> float:
    """The higher the better."""
    return sum(factor * weigher(ask, target) for factor, weigher in WEIGHERS)


def ask_for(session: Session, row: Server, resources: Mapping[str, int]) -> Ask:
    """What ``row`` wants of its host, from its own columns and its group's other servers."""
    together = _hosts_of(session, row, "same_host")
    group = session.get(ServerGroup, row.group_id) if row.group_id else None
    peers: dict[str, int] = {}
    if group is not None:
        query = (
            sa.select(Server.host, sa.func.count())
            .where(Server.group_id == group.id, Server.id != row.id, Server.host.is_not(None))
            .group_by(Server.host)
        )
        peers = {str(host): count for host, count in session.execute(query)}
    return Ask(
        resources=resources,
        zone=row.zone,
        host=row.forced_host,
        policy=group.policy if group else None,
        most=int(group.rules.get("max_server_per_host", 1)) if group else 1,
        peers=peers,
        together=together,
        apart=_hosts_of(session, row, "different_host") or frozenset(),
    )


def _hosts_of(session: Session, row: Server, hint: str) -> frozenset[str] | None:
    wanted = row.hints.get(hint)
    if not wanted:
        return None
    ids = [wanted] if isinstance(wanted, str) else [str(one) for one in wanted]
    query = sa.select(Server.host).where(
        Server.id.in_(ids), Server.project_id == row.project_id, Server.host.is_not(None)
    )
    return frozenset(str(host) for host in session.execute(query).scalars())


_HOSTS = sa.select(Host).where(Host.id.in_(sa.bindparam("ids", expanding=True)))


def targets(session: Session, runtime: Runtime, found: list[Candidate]) -> list[Target]:
    """The hosts behind placement's candidates."""
    by_id = {one.provider: one for one in found}
    of = zones(session)
    rows = session.execute(_HOSTS, {"ids": list(by_id)}).scalars()
    return [
        Target(
            host=host, zone=of.get(host.host, runtime.settings.zone), up=alive(runtime, host),
            resources=by_id[host.id].resources,
        )
        for host in rows
    ]  # fmt: skip


def survivors(ask: Ask, among: list[Target]) -> list[Target]:
    """Those that pass every filter, the best first."""
    left = [one for one in among if all(passes(ask, one) for _, passes in FILTERS)]
    weighed = [(weight(ask, one), one) for one in left]
    return [one for _, one in sorted(weighed, key=lambda pair: -pair[0])]


class Recent:
    """Placement's latest answers. In a burst of servers alike, the hosts of the one will mostly do for the next: the
    claim finds out. What was claimed here meanwhile is counted in, so that the burst spreads."""

    SECONDS = 0.5

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[tuple[str, int], ...], tuple[float, dict[str, Candidate]]] = {}

    def get(self, resources: Mapping[str, int]) -> list[Candidate]:
        """The candidates of a moment ago; none when that is too long ago."""
        with self._lock:
            at, found = self._known.get(tuple(sorted(resources.items())), (0.0, {}))
            return list(found.values()) if time.monotonic() - at < self.SECONDS else []

    def put(self, resources: Mapping[str, int], found: list[Candidate]) -> None:
        """Remember an answer."""
        with self._lock:
            if len(self._known) > 64:
                self._known.clear()
            key = tuple(sorted(resources.items()))
            self._known[key] = (time.monotonic(), {one.provider: one for one in found})

    def claimed(self, resources: Mapping[str, int], provider: str) -> None:
        """Count a claim in, wherever that host is remembered."""
        with self._lock:
            for _, found in self._known.values():
                if provider in found:
                    now = found[provider].resources
                    found[provider] = Candidate(
                        provider=provider,
                        resources={
                            name: (capacity, used + resources.get(name, 0))
                            for name, (capacity, used) in now.items()
                        },
                    )


def place(runtime: Runtime, placement: Placement, row: Server, resources: Mapping[str, int]) -> Target:
    """Choose a host for ``row`` and claim its room there. Safe to be run again after a crash.

    Raises Failed, with the table of filters, when no host is left; RemoteError when placement does not answer.
    """
    recent: Recent = runtime.__dict__.setdefault("_recent_candidates", Recent())
    with runtime.db.read() as session:
        ask = ask_for(session, row, resources)
        picky = bool(ask.host or ask.zone or ask.together is not None or ask.policy)
        remembered = [] if picky else recent.get(resources)
        left = survivors(ask, targets(session, runtime, remembered)) if remembered else []
    chosen = _first(runtime, placement, row, resources, left[:3])
    if chosen is None:
        left = _look(runtime, placement, ask, None if picky else runtime.settings.candidates, recent)
        chosen = _first(runtime, placement, row, resources, left)
    if chosen is not None:
        recent.claimed(resources, chosen.host.id)
        return chosen
    if left:
        raise RemoteError("placement", 409, "all hosts that had room were taken meanwhile")
    with runtime.db.read() as session:
        raise Failed(explain(session, runtime, placement, ask))


def _look(
    runtime: Runtime, placement: Placement, ask: Ask, limit: int | None, recent: Recent
) -> list[Target]:
    """Placement's candidates that pass the filters; should the first few all be unfit, out of all of them."""
    while True:
        found = placement.candidates(ask.resources, limit=limit)
        recent.put(ask.resources, found)
        with runtime.db.read() as session:
            left = survivors(ask, targets(session, runtime, found))
        if left or limit is None or len(found) < limit:
            return left
        limit = None


def _first(
    runtime: Runtime, placement: Placement, row: Server, resources: Mapping[str, int], among: list[Target]
) -> Target | None:
    """The first target whose room can be claimed."""
    for target in among:
        chosen = _claim(runtime, placement, row, resources, target)
        if chosen is not None:
            return chosen
    return None


def _claim(
    runtime: Runtime, placement: Placement, row: Server, resources: Mapping[str, int], target: Target
) -> Target | None:
    """The target with the claim made, an earlier claim of the same server, or None when the room is gone."""
    for _ in range(2):
        try:
            placement.claim(
                row.id,
                target.host.id,
                resources,
                project_id=row.project_id,
                user_id=row.user_id,
                generation=None,
            )
            return target
        except RemoteError as error:
            if error.status != 409:
                raise
        held = placement.allocation(row.id)["allocations"]
        if held:
            with runtime.db.read() as session:
                earlier = targets(
                    session, runtime, [Candidate(provider=provider, resources={}) for provider in held]
                )
            if earlier:
                return earlier[0]
            placement.release(row.id)
    return None


def explain(session: Session, runtime: Runtime, placement: Placement, ask: Ask) -> str:
    """Why nobody is left: every filter with how many hosts it was given and how many it left."""
    of = zones(session)
    left = [
        Target(host=host, zone=of.get(host.host, runtime.settings.zone), up=alive(runtime, host))
        for host in session.execute(sa.select(Host)).scalars()
    ]
    parts = []

    def sift(name: str, keep: list[Target], *, always: bool) -> list[Target]:
        if always or len(keep) != len(left):
            parts.append(f"{name} {len(left)}→{len(keep)}")
        return keep

    compute = [one for one in left if compute_filter(ask, one)]
    left = sift("ComputeFilter", compute, always=True)
    for name, kind in _ROOM:
        if kind in ask.resources:
            roomy = placement.with_room({kind: ask.resources[kind]})
            left = sift(name, [one for one in left if one.host.id in roomy], always=True)
    for name, passes in FILTERS[1:]:
        left = sift(name, [one for one in left if passes(ask, one)], always=False)
    if left:
        # Each resource alone would fit on these, all of them together fit on none.
        parts.append(f"AllTogether {len(left)}→0")
    return "No valid host was found. " + ", ".join(parts) + "."
