"""This machine's storage node: objects in files, lists in the ledger."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from altostack.objectstore.config import Settings
from altostack.objectstore.disk import layout, objects, pending, record
from altostack.objectstore.disk.device import Devices, guarded
from altostack.objectstore.disk.journal import Journals, Kept
from altostack.objectstore.disk.writer import FileWriter
from altostack.objectstore.putoff import put_off
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
    Subdir,
    Update,
    Writer,
)
from altostack.objectstore.store import Rings

log = logging.getLogger(__name__)
_AT_ONCE = 500  # updates in a file
_DISK_KNOWN = 5.0  # seconds; another may be mounted


class LocalNode:
    """`storage.Node` on the folders ``devices``/<device>/.

    neighbours: (host, port) -> the node there; updates of lists go to it. Set by whoever puts the store together; until
    then every update goes to this node itself. rings: the store's, set in the same way; they say when partitions are
    being doubled. Raises ValueError when a device's file system has no extended attributes.
    """

    def __init__(
        self, devices: Path, settings: Settings, policies: Sequence[StoragePolicy], *, clock: Clock
    ) -> None:
        from altostack.objectstore.ledger.ledgers import Ledgers

        self.ledgers = Ledgers(devices, settings, clock=clock)
        self.devices = Devices(
            str(devices), mount_check=settings.mount_check, reserve=settings.fallocate_reserve,
            journals=Journals(str(devices), before=self.ledgers.sync, announce=self._announce),
        )  # fmt: skip
        for name in self.devices.names():
            try:
                record.probe(f"{devices}/{name}")
            except record.Unsupported as error:
                raise ValueError(f"{devices}/{name}: {error}; use another one for it") from error
            except OSError as error:
                log.warning("the device %s cannot be written to: %s", name, error.strerror)
        self.policies = tuple(policies)
        self.clock = clock
        self.neighbours: Callable[[str, int], Node] = lambda host, port: self
        self.rings: Rings | None = None
        self._disks: dict[str, tuple[float, int | None]] = {}

    def disk(self, device: str) -> int | None:
        """What tells the disk that a device is on from others (st_dev); None when it is not there."""
        now = time.monotonic()
        known = self._disks.get(device)
        if known is None or now - known[0] > _DISK_KNOWN:
            try:
                number: int | None = os.stat(f"{self.devices.root}/{device}").st_dev
            except OSError:
                number = None
            known = self._disks[device] = (now, number)
        return known[1]

    # ---- objects

    def read(self, spot: Spot, *, frag: int | None = None, timestamp: str | None = None) -> objects.Opened:
        layout.check(spot, timestamp, frag)
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
        layout.check(spot, timestamp, frag)
        device = self.devices.path(spot.device)
        with guarded(device):
            return FileWriter(
                self.devices, device, spot, timestamp, self._deliver, size=size, frag=frag, absent=absent,
                twin=self._twin(device, spot),
            )  # fmt: skip

    def update(self, spot: Spot, timestamp: str, metadata: Metadata, updates: Sequence[Update] = ()) -> None:
        layout.check(spot, timestamp)
        device = self.devices.path(spot.device)
        with guarded(device):
            twin = self._twin(device, spot)
            last = objects.update(self.devices, device, spot, timestamp, metadata, updates, twin)
        put_off(lambda: self._done(device, spot, updates, last, twin))

    def delete(self, spot: Spot, timestamp: str, updates: Sequence[Update] = (), *, name: str = "") -> bool:
        layout.check(spot, timestamp)
        device = self.devices.path(spot.device)
        with guarded(device):
            twin = self._twin(device, spot)
            there, last = objects.delete(self.devices, device, spot, timestamp, name, updates, twin)
        put_off(lambda: self._done(device, spot, updates, last, twin))
        return there

    def commit(self, spot: Spot, timestamp: str, frag: int, updates: Sequence[Update] = ()) -> None:
        """The second phase of a fragment that was put by somebody; then deliver or keep ``updates``.

        Raises DeviceGone.
        """
        layout.check(spot, timestamp, frag)
        device = self.devices.path(spot.device)
        with guarded(device):
            objects.commit(layout.object_folder(device, spot), timestamp, frag, self._twin(device, spot))
        self._deliver(device, spot, updates, None)

    def _twin(self, device: str, spot: Spot) -> str:
        """The object's folder after its policy's partitions are doubled, "" while that is not under way."""
        if self.rings is None:
            return ""
        try:
            power = self.rings.object(spot.policy).next_part_power
        except LookupError:  # no ring of this policy is here
            return ""
        if power is None:
            return ""
        part = layout.part_of(spot.digest, power)
        return "" if part == spot.part else layout.object_folder(device, spot, part)

    def _done(
        self, device: str, spot: Spot, updates: Sequence[Update], last: objects.Lasting, twin: str
    ) -> None:
        """A change without content is in its place. Raises DeviceGone, DeviceFull."""
        with guarded(device):
            kept = last()
            objects.clean(layout.object_folder(device, spot), twin)
        self._deliver(device, spot, updates, kept)

    def _deliver(self, device: str, spot: Spot, updates: Sequence[Update], kept: Kept | None) -> None:
        """Bring updates to their copies; what fails is kept on the device. Raises DeviceGone, DeviceFull.

        kept: what remembers them until lists on this machine are synced.
        """
        failed = []
        for one in updates:
            node = self.neighbours(one.host, one.port)
            try:
                if node is self:
                    self.ledgers.record(one.spot, one.account, one.container, (one.row,), sync=kept is None)
                else:
                    node.record(one.spot, one.account, one.container, (one.row,))
            except StorageError as error:
                log.info("an update of %s on %s waits: %s", one.kind, one.spot.device, error)
                failed.append(one)
        if kept is not None and kept.over:
            self.ledgers.sync()
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
        made = self.ledgers.create(spot, account, container, timestamp, policy=policy, metadata=metadata)
        self._tell(spot, account, container, updates)
        return made

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
        there = self.ledgers.destroy(spot, account, container, timestamp)
        self._tell(spot, account, container, updates)
        return there

    def _announce(self, device: str, policy: int, updates: Sequence[Update]) -> None:
        """Updates that a loss of power may have taken are delivered once more. Raises OSError, DeviceGone."""
        for at in range(0, len(updates), _AT_ONCE):
            some = updates[at : at + _AT_ONCE]
            pending.keep(self.devices, device, policy, some[0].spot.digest, some)

    def _tell(self, spot: Spot, account: str, container: str | None, updates: Sequence[Update]) -> None:
        """Bring a container's line to its account's copies, with the counts that are true here."""
        if container is not None and updates:
            row = self.ledgers.account_row(spot, account, container)
            told = [replace(one, row=row) for one in updates]
            self._deliver(self.devices.path(spot.device), spot, told, None)

    def list(self, spot: Spot, account: str, container: str | None, query: Query) -> Sequence[Row | Subdir]:
        return self.ledgers.list(spot, account, container, query)

    def record(self, spot: Spot, account: str, container: str | None, rows: Iterable[Row]) -> None:
        self.ledgers.record(spot, account, container, rows)
