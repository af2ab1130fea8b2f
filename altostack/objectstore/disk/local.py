"""This machine's storage node: objects in files, lists in the ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from altostack.objectstore.config import Settings
from altostack.objectstore.disk import objects, pending
from altostack.objectstore.disk.device import Devices, guarded
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import (
    Dated,
    Info,
    Metadata,
    Node,
    Query,
    Row,
    Spot,
    StorageError,
    StoragePolicy,
    Stored,
    Subdir,
    Update,
    Writer,
)

log = logging.getLogger(__name__)


class LocalNode:
    """`storage.Node` on the folders ``devices``/<device>/.

    neighbours: (host, port) -> the node there; updates of lists go to it. Set by whoever puts the store together; until
    then every update goes to this node itself.
    """

    def __init__(
        self, devices: Path, settings: Settings, policies: Sequence[StoragePolicy], *, clock: Clock
    ) -> None:
        from altostack.objectstore.ledger.ledgers import Ledgers

        self.devices = Devices(
            str(devices), mount_check=settings.mount_check, reserve=settings.fallocate_reserve
        )
        self.policies = tuple(policies)
        self.clock = clock
        self.ledgers = Ledgers(devices, settings, clock=clock)
        self.neighbours: Callable[[str, int], Node] = lambda host, port: self

    # ---- objects

    def read(self, spot: Spot, *, frag: int | None = None, timestamp: str | None = None) -> Stored:
        device = self.devices.path(spot.device)
        with guarded(device):
            return objects.read(self.devices, device, spot, frag=frag, timestamp=timestamp)

    def write(
        self,
        spot: Spot,
        timestamp: str,
        *,
        size: int | None = None,
        frag: int | None = None,
        absent: bool = False,
    ) -> Writer:
        device = self.devices.path(spot.device)
        with guarded(device):
            return objects.FileWriter(
                self.devices, device, spot, timestamp, self._deliver, size=size, frag=frag, absent=absent
            )

    def update(self, spot: Spot, timestamp: str, metadata: Metadata, updates: Sequence[Update] = ()) -> None:
        device = self.devices.path(spot.device)
        with guarded(device):
            objects.update(self.devices, device, spot, timestamp, metadata)
        self._deliver(device, spot, updates)

    def delete(self, spot: Spot, timestamp: str, updates: Sequence[Update] = (), *, name: str = "") -> bool:
        device = self.devices.path(spot.device)
        with guarded(device):
            there = objects.delete(self.devices, device, spot, timestamp, name)
        self._deliver(device, spot, updates)
        return there

    def _deliver(self, device: str, spot: Spot, updates: Sequence[Update]) -> None:
        """Bring updates to their copies; what fails is kept on the device. Raises DeviceGone, DeviceFull."""
        failed = []
        for one in updates:
            try:
                self.neighbours(one.host, one.port).record(one.spot, one.account, one.container, (one.row,))
            except StorageError as error:
                log.info("an update of %s on %s waits: %s", one.kind, one.spot.device, error)
                failed.append(one)
        if failed:
            with guarded(device):
                pending.keep(self.devices, device, spot.policy, spot.digest, failed)

    # ---- accounts and containers

    def create(
        self,
        spot: Spot,
        account: str,
        container: str | None,
        timestamp: str,
        *,
        policy: int | None = None,
        metadata: Dated | None = None,
        updates: Sequence[Update] = (),
    ) -> bool:
        return self.ledgers.create(
            spot, account, container, timestamp, policy=policy, metadata=metadata, updates=updates
        )

    def info(self, spot: Spot, account: str, container: str | None) -> Info:
        return self.ledgers.info(spot, account, container)

    def change(
        self, spot: Spot, account: str, container: str | None, timestamp: str, metadata: Dated
    ) -> None:
        self.ledgers.change(spot, account, container, timestamp, metadata)

    def destroy(
        self,
        spot: Spot,
        account: str,
        container: str | None,
        timestamp: str,
        *,
        updates: Sequence[Update] = (),
    ) -> bool:
        return self.ledgers.destroy(spot, account, container, timestamp, updates=updates)

    def list(self, spot: Spot, account: str, container: str | None, query: Query) -> Sequence[Row | Subdir]:
        return self.ledgers.list(spot, account, container, query)

    def record(self, spot: Spot, account: str, container: str | None, rows: Iterable[Row]) -> None:
        self.ledgers.record(spot, account, container, rows)
