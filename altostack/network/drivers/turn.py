"""One round of converging: what is wanted, checked item by item, and what became of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from altostack.network.drivers import names
from altostack.network.drivers.base import (
    BadSpec,
    DriverError,
    ExternalNetworkSpec,
    ItemStatus,
    NetworkSpec,
    NodeNetworks,
    Observed,
    PortSpec,
    RouterSpec,
    SecurityGroupSpec,
    Status,
)

_LOG = logging.getLogger(__name__)

Failures = dict[str, str]
"""Identifier -> reason."""

RETRY_SECONDS = 2.0
_ACTIVE = ItemStatus(status=Status.ACTIVE)
_DISABLED = ItemStatus(status=Status.DOWN, reason="administratively down")


class Turn:
    """What of ``desired`` can be tried, and the failures gathered on the way.

    An item whose name is bad, or would be the name of another, fails here and reaches no command. ``devices``
    are the names that may exist in the node namespace.
    """

    def __init__(self, desired: NodeNetworks) -> None:
        self._desired = desired
        self.failed: Failures = {}
        self.failed_outside: Failures = {}
        self.networks: dict[str, NetworkSpec] = {}
        self.ports: dict[str, list[PortSpec]] = {}
        self.routers: dict[str, RouterSpec] = {}
        self.outside: dict[str, ExternalNetworkSpec] = {}
        self.groups: dict[str, SecurityGroupSpec] = {}
        self.devices: set[str] = set()
        self._short_routers: set[str] = set()
        self._again = False
        for group in desired.security_groups:
            self._group(group)
        for network in desired.networks:
            self._network(network)
        for outside in desired.external_networks:
            self._outside(outside)
        for router in desired.routers:
            self._router(router)

    def attempt(self, what: str, work: Callable[..., object], *args: object) -> bool:
        """Do something that no item waits for; what fails is tried again soon."""
        try:
            work(*args)
        except (DriverError, OSError) as error:
            self._again = True
            _LOG.warning("%s: %s", what, error)
            return False
        return True

    def observed(self) -> Observed:
        """What became of every item that was asked for."""
        desired = self._desired
        floating = {}
        routers = {}
        for router in desired.routers:
            status = self._status(router.id) if router.admin_up or router.id in self.failed else _DISABLED
            routers[router.id] = status
            floating.update({item.id: status for item in router.floating_ips})
        return Observed(
            generation=desired.generation,
            ports={
                port.id: self._status(port.id, up=port.admin_up and network.admin_up)
                for network in desired.networks
                for port in network.ports
            },
            networks={
                network.id: self._status(network.id, up=network.admin_up) for network in desired.networks
            },
            routers=routers,
            floating_ips=floating,
            security_groups={group.id: self._status(group.id) for group in desired.security_groups},
            external_networks={
                outside.network_id: _failure(self.failed_outside[outside.network_id])
                if outside.network_id in self.failed_outside
                else _ACTIVE
                for outside in desired.external_networks
            },
            retry_after=RETRY_SECONDS if self.failed or self.failed_outside or self._again else None,
        )

    def _group(self, group: SecurityGroupSpec) -> None:
        try:
            self.groups[names.identifier(group.id)] = group
        except BadSpec as error:
            self.failed[group.id] = str(error)

    def _network(self, network: NetworkSpec) -> None:
        try:
            devices = {names.bridge(network.id)}
            if network.vni is not None:
                devices.add(names.vxlan(network.id))
            if network.dhcp is not None:
                devices.add(names.dhcp_port(network.id))
            self._take(devices)
        except BadSpec as error:
            self.failed[network.id] = str(error)
            self.failed.update({port.id: f"network {network.id}: {error}" for port in network.ports})
            return
        self.networks[network.id] = network
        ports = self.ports[network.id] = []
        for port in network.ports:
            try:
                self._take({names.tap(port.tap)})
            except BadSpec as error:
                self.failed[port.id] = str(error)
            else:
                ports.append(port if network.admin_up else replace(port, admin_up=False))

    def _outside(self, outside: ExternalNetworkSpec) -> None:
        try:
            self._take({names.outside_port(outside.network_id)})
        except BadSpec as error:
            self.failed_outside[outside.network_id] = str(error)
        else:
            self.outside[outside.network_id] = outside

    def _router(self, router: RouterSpec) -> None:
        if not router.admin_up:
            return
        try:
            short = names.short(router.id)
            if short in self._short_routers:
                raise BadSpec(f"another router's identifier begins with {short} too")
            self._take({names.router_port(port) for port in router_ports(router)})
        except BadSpec as error:
            self.failed[router.id] = str(error)
        else:
            self._short_routers.add(short)
            self.routers[router.id] = router

    def _take(self, devices: set[str]) -> None:
        taken = sorted(devices & self.devices)
        if taken:
            raise BadSpec(f"device name {taken[0]} belongs to another item whose identifier begins alike")
        self.devices |= devices

    def _status(self, item: str, *, up: bool = True) -> ItemStatus:
        if item in self.failed:
            return _failure(self.failed[item])
        return _ACTIVE if up else _DISABLED


def networks_of(router: RouterSpec) -> list[str]:
    """The networks that a router has a foot in."""
    feet = [foot.network_id for foot in router.interfaces]
    return [*feet, router.gateway.network_id] if router.gateway else feet


def router_ports(router: RouterSpec) -> list[str]:
    """The ports of a router."""
    feet = [foot.port_id for foot in router.interfaces]
    return [*feet, router.gateway.port_id] if router.gateway else feet


def _failure(reason: str) -> ItemStatus:
    return ItemStatus(status=Status.ERROR, reason=reason)
