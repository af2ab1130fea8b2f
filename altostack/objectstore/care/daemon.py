"""What every daemon is given, and what they have in common: where this machine's devices stand in a ring."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from altostack.objectstore.care.report import Reports
from altostack.objectstore.care.settings import CareSettings
from altostack.objectstore.care.upkeep import Near, Peer
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.storage import Device, DeviceGone, Node, RingView, Spot, StoragePolicy
from altostack.objectstore.store import Store


class Home(NamedTuple):
    """A device that is to hold something."""

    device: Device
    node: Node
    spot: Spot


@dataclass(kw_only=True)
class Care:
    """The daemons' common belongings. devices: names of those that are looked after; every one that is there by
    default. stopping: set when the process is to end."""

    store: Store
    settings: CareSettings = field(default_factory=CareSettings)
    stopping: threading.Event = field(default_factory=threading.Event)
    chosen: Sequence[str] = ()
    reports: Reports = field(init=False)
    near: Near = field(init=False)
    alarms: list[Callable[[], None]] = field(default_factory=list)  # called when something is to be repaired

    def __post_init__(self) -> None:
        self.reports = Reports(self.store.folder, self.stopping)
        self.near = Near(self.store)

    @property
    def local(self) -> LocalNode:
        """This machine's devices. Raises TypeError in a process that has none."""
        if not isinstance(self.store.local, LocalNode):
            raise TypeError("this process has no devices of its own")
        return self.store.local

    def alarm(self) -> None:
        """Damage was found and set aside: whoever repairs is to look soon."""
        for one in self.alarms:
            one()

    def devices(self) -> list[str]:
        """Names of the devices that can be used now."""
        usable = []
        for name in self.chosen or self.local.devices.names():
            try:
                self.local.devices.path(name)
            except DeviceGone:
                continue
            usable.append(name)
        return usable

    def path(self, device: str) -> str:
        """Raises DeviceGone."""
        return self.local.devices.path(device)

    def is_mine(self, device: Device) -> bool:
        """Whether the device is this machine's."""
        return self.store.is_local(device.host, device.port)

    def node(self, device: Device) -> Node:
        """The device's node, by the way that daemons take."""
        if self.is_mine(device) or not (device.replication_host or device.replication_port):
            return self.store.node(device)
        return self.store.node_at(
            device.replication_host or device.host, device.replication_port or device.port
        )

    def peer(self, device: Device) -> Peer:
        """Whom to ask about a device."""
        return Peer(self.near if self.is_mine(device) else None, self.node(device), device.device)

    def own(self, ring: RingView, name: str) -> Device | None:
        """This machine's device of that name in the ring; None when the ring does not know it."""
        return next((one for one in ring.devices if one.device == name and self.is_mine(one)), None)

    def rings(self, kind: str = "") -> Iterator[tuple[str, RingView]]:
        """Every ring that is here with its name."""
        yield "account", self.store.rings.account
        yield "container", self.store.rings.container
        for policy in self.store.policies:
            if (ring := self.ring(policy)) is not None:
                yield f"object-{policy.index}" if policy.index else "object", ring

    def homes(
        self, account: str, container: str | None = None, object: str | None = None, policy: int = 0
    ) -> list[Home]:
        """The devices that are to hold it. Raises LookupError for a policy that has no ring."""
        rings = self.store.rings
        if container is None:
            ring: RingView = rings.account
        else:
            ring = rings.container if object is None else rings.object(policy)
        part, digest = ring.locate(account, container, object)
        return [
            Home(device, self.node(device), Spot(device.device, part, digest, policy if object else 0))
            for device in ring.nodes(part)
        ]

    def ring(self, policy: StoragePolicy) -> RingView | None:
        """A policy's ring; None while it has none."""
        try:
            return self.store.rings.object(policy.index)
        except LookupError:
            return None
