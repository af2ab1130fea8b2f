"""A data plane of memory only: no root, no namespace, the same answers.

It refuses the descriptions that the Linux driver refuses, takes as long as it is told, and fails where it is
told. A change of one port among thousands costs as much as looking through them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from altostack.network.drivers import rules
from altostack.network.drivers.base import (
    BadSpec,
    Inventory,
    ItemStatus,
    NodeNetworks,
    Observed,
    PortSpec,
    Status,
)
from altostack.network.drivers.turn import RETRY_SECONDS, Turn

_WAITING = ItemStatus(status=Status.DOWN, reason="still being wired")


@dataclass(kw_only=True, slots=True)
class _Port:
    spec: PortSpec
    stateful: tuple[object, ...]
    since: float
    problem: str | None


class SimulatedDriver:
    """:class:`~altostack.network.drivers.base.NetworkDriver` without a network.

    :param delay: seconds from when a port is first asked for until it is ACTIVE.
    :param faults: identifiers of ports, networks or routers, and why they fail.
    :param clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        delay: float = 0.0,
        faults: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.delay = delay
        self.faults = dict(faults or {})
        self._clock = clock
        self._ports: dict[str, _Port] = {}
        self._made: dict[str, list[str]] = {}

    def converge(self, desired: NodeNetworks) -> Observed:
        """Remember ``desired`` and say how far a real driver would be."""
        turn, now = Turn(desired), self._clock()
        ports: dict[str, _Port] = {}
        waiting: dict[str, float] = {}
        for network in turn.networks.values():
            if network.id in self.faults:
                turn.failed[network.id] = self.faults[network.id]
            for spec in turn.ports[network.id]:
                port = ports[spec.id] = self._port(spec, turn, now)
                why = port.problem or self.faults.get(spec.id)
                if network.id in turn.failed:
                    why = f"network {network.id}: {turn.failed[network.id]}"
                if why is not None:
                    turn.failed[spec.id] = why
                elif (left := port.since + self.delay - now) > 0 and spec.admin_up:
                    waiting[spec.id] = left
        for router in turn.routers.values():
            if router.id in self.faults:
                turn.failed[router.id] = self.faults[router.id]
        self._ports = ports
        self._made = {
            "networks": sorted(turn.networks.keys() - turn.failed.keys()),
            "routers": sorted(turn.routers.keys() - turn.failed.keys()),
        }
        observed = turn.observed()
        if not waiting:
            return observed
        retry = min(waiting.values())
        return replace(
            observed,
            ports={**observed.ports, **dict.fromkeys(waiting, _WAITING)},
            retry_after=min(retry, RETRY_SECONDS) if observed.retry_after else retry,
        )

    def forget(self) -> None:
        """Nothing is remembered that could be wrong."""

    def inventory(self) -> Inventory:
        """Identifiers of ports, networks and routers that exist; empty if none does."""
        found = {"ports": sorted(self._ports), **self._made}
        return {kind: items for kind, items in found.items() if items}

    def teardown(self) -> None:
        """Remove everything."""
        self._ports, self._made = {}, {}

    def close(self) -> None:
        """Nothing is open."""

    def _port(self, spec: PortSpec, turn: Turn, now: float) -> _Port:
        groups = tuple(
            (group, turn.groups[group].stateful) if group in turn.groups else group
            for group in spec.security_groups
        )
        known = self._ports.get(spec.id)
        if known is not None and known.spec == spec and known.stateful == groups:
            return known
        problem = None
        try:
            if spec.port_security:
                rules.port_rules(spec, turn.groups)
        except BadSpec as error:
            problem = str(error)
        return _Port(spec=spec, stateful=groups, since=known.since if known else now, problem=problem)
