"""Replicates whole copies of objects: what other devices lack is pushed to them, what is not ours is given away.

For each partition of a device the sums of its suffixes are compared with those of the other devices that are to hold
it; of suffixes that differ each object is offered, and what the other side lacks is pushed with its own timestamps,
deletions and metadata as well. A partition that belongs to others (a handoff's, or one that a rebalance moved away) is
pushed to all of them, and removed once all of them have it. A partner whose device is out, while its node answers, is
stood in for by the first handoff.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from altostack.objectstore.care import holdings, push
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.holdings import Holding, Place
from altostack.objectstore.care.report import Tally
from altostack.objectstore.care.upkeep import Peer
from altostack.objectstore.storage import (
    Device,
    DeviceFull,
    DeviceGone,
    Missing,
    RingView,
    Spot,
    StorageError,
)

_AT_ONCE: Final = 256  # partitions whose sums are compared by one call


class Replicator:
    """Looks after one policy's objects on one device."""

    def __init__(self, care: Care, ring: RingView, device: str, policy: int, tally: Tally) -> None:
        self._care, self._ring, self._tally = care, ring, tally
        self._device = device
        self._place = Place(care.path(device), policy)
        self._own = care.own(ring, device)

    def run(self) -> None:
        """One pass. Raises DeviceGone when the device itself fails, OSError."""
        own: list[int] = []
        foreign: list[int] = []
        for part in holdings.parts(self._place):
            if part < self._ring.parts:
                mine = self._own is not None and self._own.id in {d.id for d in self._ring.nodes(part)}
                (own if mine else foreign).append(part)
        self._tally.count("partitions", len(own) + len(foreign))
        for part in foreign:
            if self._tally.stopped:
                return
            self._give_away(part)
        self._keep_in_step(own)

    # ---- partitions of ours

    def _keep_in_step(self, parts: Sequence[int]) -> None:
        partners: dict[int, tuple[Device, list[int]]] = {}
        for part in parts:
            for device in self._ring.nodes(part):
                if self._own is not None and device.id != self._own.id:
                    partners.setdefault(device.id, (device, []))[1].append(part)
        for device, shared in partners.values():
            for some in _batches(shared, _AT_ONCE):
                if self._tally.stopped:
                    return
                try:
                    self._compare(device, some)
                except DeviceGone as error:
                    self._tally.count("unreachable")
                    if self._out(device):
                        self._stand_in(shared)
                    else:
                        self._tally.complain(f"{device.host}:{device.port}/{device.device}: {error}")
                    break

    def _compare(self, device: Device, parts: Sequence[int]) -> None:
        peer = self._care.peer(device)
        sums = {part: self._care.near.total(self._place, part, None) for part in parts}
        for part, theirs in peer.sums(self._place.policy, None, sums).items():
            mine = self._care.near.found(self._place, part, None)
            self._offer(
                device, peer, part, [suffix for suffix, one in mine.items() if theirs.get(suffix) != one]
            )

    def _stand_in(self, parts: Iterable[int]) -> None:
        """A device is out: its partitions' first handoffs hold what it should."""
        for part in parts:
            for device in itertools.islice(self._ring.handoffs(part), 1):
                if self._own is not None and device.id == self._own.id:
                    continue
                try:
                    self._compare(device, [part])
                except StorageError as error:
                    self._tally.complain(f"{device.host}:{device.port}/{device.device}: {error}")

    def _out(self, device: Device) -> bool:
        try:
            return not self._care.peer(device).there()
        except DeviceGone:
            return False

    # ---- partitions of others

    def _give_away(self, part: int) -> None:
        """Push everything to every device that is to hold it; remove what all of them have."""
        suffixes = holdings.suffixes(self._place, part)
        kept: set[str] = set()
        everything: dict[str, Holding] = {}
        for device in self._ring.nodes(part):
            try:
                seen, failed = self._offer(device, self._care.peer(device), part, suffixes)
            except StorageError as error:
                self._tally.complain(f"{device.host}:{device.port}/{device.device}: {error}")
                return
            everything.update(seen)
            kept |= failed
        for digest, holding in everything.items():
            if digest not in kept and holdings.remove(self._place, part, digest, holding):
                self._tally.count("given")
        holdings.sweep(self._place, part)

    # ---- one partner

    def _offer(
        self, device: Device, peer: Peer, part: int, suffixes: Iterable[str]
    ) -> tuple[dict[str, Holding], set[str]]:
        """Offer what lies in these suffixes and push what is lacking; (what was offered, digests that failed)."""
        seen: dict[str, Holding] = {}
        failed: set[str] = set()
        for suffix in suffixes:
            if self._tally.stopped:
                failed |= set(dict(holdings.holdings(self._place, part, suffix)))
                continue
            here = dict(self._belonging(part, suffix))
            seen.update(here)
            wanted = peer.lacking(self._place.policy, part, None, here)
            failed |= self._push(device, part, here, wanted)
        return seen, failed

    def _belonging(self, part: int, suffix: str) -> Iterator[tuple[str, Holding]]:
        """Only what this ring puts into the partition: others' files wait for `relink`."""
        for digest, holding in holdings.holdings(self._place, part, suffix):
            if holdings.part_of(digest, self._ring.parts) == part:
                yield digest, holding

    def _push(
        self,
        device: Device,
        part: int,
        here: Mapping[str, Holding],
        wanted: Mapping[str, holdings.Wants],
    ) -> set[str]:
        failed = set()
        node = self._care.node(device)
        for digest, wants in wanted.items():
            mine = Spot(self._device, part, digest, self._place.policy)
            theirs = Spot(device.device, part, digest, self._place.policy)
            try:
                push.push(self._care.local.devices, mine, here[digest], node, theirs, wants, None)
                self._tally.count("pushed")
            except Missing:
                failed.add(digest)  # it changed meanwhile: the next pass sees what it became
            except DeviceFull as error:
                failed.add(digest)
                self._tally.complain(error)
            except push.Damaged as error:
                failed.add(digest)
                self._tally.count("damaged")
                self._tally.complain(error)
        return failed


def replicate(care: Care, device: str) -> Tally:
    """A pass over every policy of whole copies on a device of this machine. Raises DeviceGone."""
    with care.reports.tally("replicate", device) as tally:
        for policy in care.store.policies:
            if policy.erasure is None and (ring := care.ring(policy)) is not None:
                Replicator(care, ring, device, policy.index, tally).run()
    return tally


def _batches(found: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(found), size):
        yield found[at : at + size]
