"""The packet filter of the node namespace: what is loaded, what changed, one transaction for the difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from altostack.network.drivers import rules
from altostack.network.drivers.base import (
    BadSpec,
    DriverError,
    PortSpec,
    RuleSpec,
    SecurityGroupSpec,
)
from altostack.network.drivers.judge import Judge
from altostack.network.drivers.kernel import Kernel
from altostack.network.drivers.nft import Nft

_SET_TYPES = ("ipv4_addr;", "ipv4_addr; flags interval;", "ipv6_addr;", "ipv6_addr; flags interval;")
_PROBE = (
    "add table bridge probe\nadd chain bridge probe c\nadd rule bridge probe c ct state established accept\n"
)
_MAPS = ("sources", "senders", "receivers")


@dataclass(frozen=True, kw_only=True, slots=True)
class _LoadedGroup:
    rules: tuple[RuleSpec, ...]
    remotes: frozenset[str]
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _LoadedPort:
    spec: PortSpec
    stateful: bool

    def serves(self, port: PortSpec, stateful: bool) -> bool:
        """Whether what is loaded is right for a description that may differ in what is no matter of rules."""
        old = self.spec
        return stateful == self.stateful and (
            old is port
            or (
                old.port_security == port.port_security
                and old.mac == port.mac
                and old.fixed_ips == port.fixed_ips
                and old.address_pairs == port.address_pairs
                and old.security_groups == port.security_groups
            )
        )


@dataclass(kw_only=True, slots=True)
class _Loaded:
    zones: dict[str, int] = field(default_factory=dict)
    groups: dict[str, _LoadedGroup] = field(default_factory=dict)
    ports: dict[str, _LoadedPort] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Outcome:
    """Why items could not be loaded, by tap name and by group, and whether flows may now be forbidden."""

    ports: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    narrowed: bool = False


class Firewall:
    """Security groups and anti-spoofing of all taps of a node.

    The first :meth:`apply` replaces whatever is loaded in one transaction, so that running guests are never
    without their rules; later ones load differences.
    """

    def __init__(self, kernel: Kernel, namespace: str) -> None:
        self._kernel = kernel
        self._namespace = namespace
        self._nft: Nft | None = None
        self._loaded: _Loaded | None = None
        self.native = False

    def open(self) -> None:
        """Find out how connections are tracked here; the namespace must exist."""
        self._nft = self._kernel.nft(self._namespace)
        self.native = self._nft.possible(_PROBE)
        if self.native:
            self._nft.possible("delete table bridge probe")

    def close(self) -> None:
        """Let go of the namespace; what is loaded stays and is replaced by the next :meth:`apply`."""
        if self._nft is not None:
            self._nft.close()
        self._nft, self._loaded = None, None

    def apply(
        self, zones: Mapping[str, int], ports: Iterable[PortSpec], groups: Mapping[str, SecurityGroupSpec]
    ) -> Outcome:
        """Load the difference between what is loaded and this.

        :param zones: bridge -> connection tracking zone.
        :returns: the items that failed; for those, what was loaded before stays.
        """
        if self._nft is None:
            raise DriverError("the packet filter is not open")
        change = _Change(self._loaded or _Loaded(), native=self.native)
        if self._loaded is None:
            change.replace_all()
        change.zones(zones)
        for group in groups.values():
            change.group(group, groups)
        wanted = set()
        for port in ports:
            wanted.add(port.tap)
            change.port(port, groups)
        change.keep_only(wanted, groups)
        change.run(self._nft)
        self._loaded = change.loaded
        return change.outcome

    def cut(self, judge: Judge) -> int:
        """End the tracked flows that the judge does not allow; returns how many."""
        with self._kernel.conntrack(self._namespace) as table:
            condemned = [flow for flow in table.flows() if not judge.allows(flow)]
            for flow in condemned:
                table.cut(flow)
        return len(condemned)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """The commands of one item, and what to remember once they ran."""

    item: str
    lines: list[str]
    done: Callable[[], object]


class _Change:
    """The commands that lead from what is loaded to what is wanted, in an order in which they may refer back."""

    def __init__(self, loaded: _Loaded, *, native: bool) -> None:
        self.loaded = loaded
        self.outcome = Outcome()
        self._native = native
        self._track = "bridge track" if native else "inet track"
        self._setup: list[str] = []
        self._zones: list[_Piece] = []
        self._groups: list[_Piece] = []
        self._ports: list[_Piece] = []
        self._doomed: list[_Piece] = []

    def replace_all(self) -> None:
        """Begin by throwing away whatever is loaded."""
        for table in (self._track, "bridge guard"):
            self._setup += [f"add table {table}", f"delete table {table}"]
        self._setup.append(rules.base(native=self._native))
        self.outcome.narrowed = True

    def zones(self, wanted: Mapping[str, int]) -> None:
        """Bridges and their zones; the zone of a bridge never changes."""
        have = self.loaded.zones
        for bridge in have.keys() - wanted.keys():
            self.outcome.narrowed = True
            line = f'delete element {self._track} zones {{ "{bridge}" : {have[bridge]} }}'
            self._zones.append(_Piece(item=bridge, lines=[line], done=partial(have.pop, bridge)))
        for bridge in wanted.keys() - have.keys():
            line = f'add element {self._track} zones {{ "{bridge}" : {wanted[bridge]} }}'
            done = partial(have.__setitem__, bridge, wanted[bridge])
            self._zones.append(_Piece(item=bridge, lines=[line], done=done))

    def group(self, group: SecurityGroupSpec, groups: Mapping[str, SecurityGroupSpec]) -> None:
        """A group's rules and members. A group that cannot be written has no rules, and its ports go on."""
        have = self.loaded.groups.get(group.id)
        remotes = frozenset(
            rule.remote_group_id
            for rule in group.rules
            if rule.remote_group_id and rule.remote_group_id in groups
        )
        want = _LoadedGroup(rules=group.rules, remotes=remotes, members=group.members)
        if want == have:
            return
        lines: list[str] = []
        try:
            if have is None:
                self._setup += _group_frame(group.id)
            if have is None or (have.rules, have.remotes) != (want.rules, want.remotes):
                lines += [f"flush chain bridge guard {chain}" for chain in _group_chains(group.id)]
                lines += rules.group_rules(group, groups)
            lines += _member_lines(group.id, have.members if have else (), group.members)
        except BadSpec as error:
            self.outcome.groups[group.id] = str(error)
            return
        if have and not (set(have.rules) <= set(want.rules) and set(have.members) <= set(want.members)):
            self.outcome.narrowed = True
        done = partial(self.loaded.groups.__setitem__, group.id, want)
        self._groups.append(_Piece(item=group.id, lines=lines, done=done))

    def port(self, port: PortSpec, groups: Mapping[str, SecurityGroupSpec]) -> None:
        """A port's chains and its place in the maps."""
        have = self.loaded.ports.get(port.tap)
        described = all(group in groups for group in port.security_groups)
        stateful = all(groups[group].stateful for group in port.security_groups if group in groups)
        if have is not None and described and have.serves(port, stateful):
            return
        try:
            filling = rules.port_rules(port, groups) if port.port_security else []
        except BadSpec as error:
            self.outcome.ports[port.tap] = str(error)
            return
        lines: list[str] = []
        if have is not None and have.spec.port_security != port.port_security:
            lines += _port_removal(port.tap, have)
            have = None
            self.outcome.narrowed = True
        if port.port_security:
            chains = rules.port_chains(port.tap)
            lines += [f"add chain bridge guard {chain}" for chain in chains]
            lines += [f"flush chain bridge guard {chain}" for chain in chains]
        lines += filling
        if have is None:
            verdicts = rules.port_verdicts(port)
            lines += [
                f'add element bridge guard {name} {{ "{port.tap}" : {verdict} }}'
                for name, verdict in zip(_MAPS, verdicts, strict=True)
            ]
        else:
            self.outcome.narrowed = True
        done = partial(self.loaded.ports.__setitem__, port.tap, _LoadedPort(spec=port, stateful=stateful))
        self._ports.append(_Piece(item=port.tap, lines=lines, done=done))

    def keep_only(self, taps: set[str], groups: Mapping[str, SecurityGroupSpec]) -> None:
        """Drop what is loaded for other ports and groups."""
        for tap, port in self.loaded.ports.items():
            if tap not in taps:
                done = partial(self.loaded.ports.pop, tap)
                self._ports.append(_Piece(item=tap, lines=_port_removal(tap, port), done=done))
                self.outcome.narrowed = True
        self._doomed = [
            _Piece(item=group, lines=_group_removal(group), done=partial(self.loaded.groups.pop, group))
            for group in self.loaded.groups
            if group not in groups
        ]
        self.outcome.narrowed = self.outcome.narrowed or bool(self._doomed)

    def run(self, nft: Nft) -> None:
        """All in one transaction; if something in it is refused, item by item, to find out what."""
        networks: dict[str, str] = {}
        stages = (
            (self._zones, networks),
            (self._groups, self.outcome.groups),
            (self._ports, self.outcome.ports),
            (self._doomed, self.outcome.groups),
        )
        lines = [*self._setup, *(line for pieces, _ in stages for piece in pieces for line in piece.lines)]
        if not lines:
            return
        try:
            _run(nft, lines)
        except DriverError:
            # Taps whose turn has not come are closed meanwhile, by the rule for taps that no map knows.
            _run(nft, self._setup)
        else:
            for pieces, _ in stages:
                for piece in pieces:
                    piece.done()
            return
        for pieces, failures in stages:
            for piece in pieces:
                try:
                    _run(nft, piece.lines)
                except DriverError as error:
                    failures[piece.item] = str(error)
                else:
                    piece.done()
        if networks:
            raise DriverError("; ".join(networks.values()))


def _run(nft: Nft, lines: list[str]) -> None:
    if lines:
        nft.run("\n".join(lines) + "\n")


def _group_chains(group_id: str) -> tuple[str, str]:
    return rules.group_chain(group_id, "ingress"), rules.group_chain(group_id, "egress")


def _group_frame(group_id: str) -> list[str]:
    sets = zip(rules.group_sets(group_id), _SET_TYPES, strict=True)
    return [
        *(f"add set bridge guard {name} {{ type {kind} }}" for name, kind in sets),
        *(f"add chain bridge guard {chain}" for chain in _group_chains(group_id)),
    ]


def _group_removal(group_id: str) -> list[str]:
    chains = _group_chains(group_id)
    return [
        *(f"flush chain bridge guard {chain}" for chain in chains),
        *(f"delete chain bridge guard {chain}" for chain in chains),
        *(f"delete set bridge guard {name}" for name in rules.group_sets(group_id)),
    ]


def _member_lines(group_id: str, have: Iterable[str], want: Iterable[str]) -> list[str]:
    """Single addresses come and go one by one; prefixes, which are few, are replaced as a whole."""
    old_text, new_text = set(have), set(want)
    if not any("/" in member for member in old_text | new_text):
        have, want = old_text - new_text, new_text - old_text
    lines = []
    sets = zip(
        rules.group_sets(group_id), rules.member_elements(have), rules.member_elements(want), strict=True
    )
    for name, old, new in sets:
        if old == new:
            continue
        gone, added = (old, new) if name.startswith("n") else (old - new, new - old)
        for verb, elements in (("delete", gone), ("add", added)):
            if elements:
                lines.append(f"{verb} element bridge guard {name} {{ {', '.join(sorted(elements))} }}")
    return lines


def _port_removal(tap: str, port: _LoadedPort) -> list[str]:
    lines = [f'delete element bridge guard {name} {{ "{tap}" }}' for name in _MAPS]
    if port.spec.port_security:
        chains = rules.port_chains(tap)
        lines += [f"flush chain bridge guard {chain}" for chain in chains]
        lines += [f"delete chain bridge guard {chain}" for chain in chains]
    return lines
