"""Rebuilds fragments of erasure-coded objects, tells that they are committed, and gives back what lies elsewhere.

The devices of a partition hold one fragment each, by their place in the ring. A device compares itself with three of
the others (its neighbours in the ring's order and the one opposite): whatever one of them lacks is made from ``data``
fragments of any devices, whose sums are checked on the way, so that damage is not spread. Fragments that lie on a
device of which the ring expects others (handoffs, rebalances) are pushed to where they belong and then removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from altostack.objectstore.care import holdings, push
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.holdings import Holding, Place, Wants
from altostack.objectstore.care.report import Tally
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.disk.remote import RemoteNode
from altostack.objectstore.proxy import coding
from altostack.objectstore.proxy.coding import Coder
from altostack.objectstore.storage import (
    Device,
    DeviceGone,
    Missing,
    RingView,
    Spot,
    StorageError,
    StoragePolicy,
    Stored,
    Superseded,
)

_AT_ONCE: Final = 256  # partitions whose sums are compared by one call


class Reconstructor:
    """Looks after one erasure-coded policy's objects on one device."""

    def __init__(
        self, care: Care, ring: RingView, device: str, policy: StoragePolicy, coder: Coder, tally: Tally
    ) -> None:
        self._care, self._ring, self._tally, self._coder = care, ring, tally, coder
        self._device, self._policy = device, policy.index
        self._place = Place(care.path(device), policy.index)
        self._own = care.own(ring, device)

    def run(self) -> None:
        """One pass. Raises DeviceGone when the device itself fails, OSError."""
        mine: dict[int, int] = {}  # partition -> the fragment that belongs here
        for part in holdings.parts(self._place):
            if part >= self._ring.parts:
                continue
            self._tally.count("partitions")
            if self._tally.stopped:
                return
            ids = [device.id for device in self._ring.nodes(part)]
            if self._own is not None and self._own.id in ids:
                mine[part] = ids.index(self._own.id) % self._coder.fragments
            self._give_back(part, mine.get(part))
        self._keep_in_step(mine)

    # ---- partitions of ours

    def _keep_in_step(self, mine: Mapping[int, int]) -> None:
        partners: dict[tuple[int, int, int], tuple[Device, list[int]]] = {}
        for part, frag in mine.items():
            nodes = list(self._ring.nodes(part))
            at = next(i for i, one in enumerate(nodes) if self._own is not None and one.id == self._own.id)
            for other in sorted({at - 1, at + 1, at + len(nodes) // 2}):
                device = nodes[other % len(nodes)]
                if device.id != nodes[at].id:
                    key = (device.id, frag, other % len(nodes) % self._coder.fragments)
                    partners.setdefault(key, (device, []))[1].append(part)
        out: set[int] = set()
        for (_, frag, theirs), (device, parts) in partners.items():
            for at_once in _batches(parts, _AT_ONCE):
                if self._tally.stopped:
                    return
                if device.id not in out:
                    try:
                        self._compare(device, frag, theirs, at_once)
                        continue
                    except DeviceGone as error:
                        self._tally.count("unreachable")
                        if not self._out(device):
                            self._tally.complain(f"{device.host}:{device.port}/{device.device}: {error}")
                            break
                        out.add(device.id)
                self._stand_in(frag, theirs, at_once)

    def _compare(self, device: Device, frag: int, theirs: int, parts: Sequence[int]) -> None:
        sums = {part: self._care.near.total(self._place, part, frag) for part in parts}
        for part, found in self._care.peer(device).sums(self._policy, theirs, sums).items():
            mine = self._care.near.found(self._place, part, frag)
            for suffix in [suffix for suffix, one in mine.items() if found.get(suffix) != one]:
                if self._tally.stopped:
                    return
                here = {
                    digest: one
                    for digest, one in self._belonging(part, suffix)
                    if one.tombstone or one.piece(frag) is not None
                }
                self._supply(device, part, theirs, here)

    def _stand_in(self, frag: int, theirs: int, parts: Iterable[int]) -> None:
        """A device is out: the first handoff gets the fragment that it should have."""
        for part in parts:
            for device in itertools.islice(self._ring.handoffs(part), 1):
                if self._own is not None and device.id == self._own.id:
                    continue
                try:
                    self._compare(device, frag, theirs, [part])
                except StorageError as error:
                    self._tally.complain(f"{device.host}:{device.port}/{device.device}: {error}")

    def _out(self, device: Device) -> bool:
        try:
            return not self._care.peer(device).there()
        except DeviceGone:
            return False

    def _supply(self, device: Device, part: int, frag: int, here: Mapping[str, Holding]) -> None:
        """Make a partner hold what it lacks."""
        node = self._care.node(device)
        for digest, wants in self._care.peer(device).lacking(self._policy, part, frag, here).items():
            holding = here[digest]
            there = Spot(device.device, part, digest, self._policy)
            try:
                newest = max((piece.timestamp for piece in holding.data if piece.durable), default="")
                if wants.data and newest:
                    with contextlib.suppress(Superseded):
                        self._rebuild(device, there, newest, frag)
                        self._tally.count("rebuilt")
                elif wants.durable and newest:
                    if isinstance(node, LocalNode | RemoteNode):
                        node.commit(there, newest, frag)
                    self._tally.count("committed")
                if wants.meta or wants.tombstone:
                    mine = Spot(self._device, part, digest, self._policy)
                    rest = Wants(meta=wants.meta, tombstone=wants.tombstone)
                    push.push(self._care.local.devices, mine, holding, node, there, rest, frag)
                    self._tally.count("pushed")
            except Missing:
                self._tally.count("insufficient")
            except StorageError as error:
                self._tally.complain(f"{digest}: {error}")

    def _rebuild(self, device: Device, there: Spot, timestamp: str, frag: int) -> None:
        """Make a fragment from others and store it. Raises Missing for too few others, Superseded, DeviceGone."""
        with contextlib.ExitStack() as held:
            sources = self._sources(held, there, timestamp, frag)
            some = next(iter(sources.values()))
            metadata: dict[str, str] = dict(getattr(some, "own", some.metadata))
            length, segment = int(metadata[coding.LENGTH]), int(metadata[coding.SEGMENT])
            writer = self._care.node(device).write(
                there, timestamp, size=self._coder.fragment(length, segment), frag=frag
            )
            try:
                summed = hashlib.md5(usedforsecurity=False)
                readers = [_Reader(one) for one in sources.values()]
                for at in range(0, length, segment):
                    size = self._coder.piece(min(segment, length - at))
                    piece = self._coder.rebuild([reader.read(size) for reader in readers], frag)
                    summed.update(piece)
                    writer.write(piece)
                for reader in readers:
                    reader.check()
                writer.put(metadata | {"etag": summed.hexdigest(), coding.INDEX: str(frag)})
                writer.commit()
            finally:
                writer.abort()

    def _sources(
        self, held: contextlib.ExitStack, there: Spot, timestamp: str, frag: int
    ) -> dict[int, Stored]:
        """As many fragments as are needed, by index. Raises Missing when there are too few."""
        found: dict[int, Stored] = {}
        wanted = self._coder.erasure.data
        for device, index in self._readers(there.part):
            for ask in (index, None):
                if len(found) == wanted:
                    return found
                if ask == frag or ask in found:
                    continue
                spot = Spot(device.device, there.part, there.digest, there.policy)
                try:
                    stored = self._care.node(device).read(spot, frag=ask, timestamp=timestamp)
                except StorageError:
                    continue
                held.callback(stored.close)
                if stored.frag is not None and stored.frag != frag:
                    found.setdefault(stored.frag, stored)
        if len(found) < wanted:
            raise Missing
        return found

    def _readers(self, part: int) -> Iterator[tuple[Device, int | None]]:
        nodes = self._ring.nodes(part)
        for at, device in enumerate(nodes):
            yield device, at % self._coder.fragments
        for device in itertools.islice(self._ring.handoffs(part), len(nodes)):
            for index in range(self._coder.fragments):
                yield device, index

    # ---- what lies here and belongs elsewhere

    def _give_back(self, part: int, own: int | None) -> None:
        """Push fragments that are not the one that belongs here to where they belong, and remove them then."""
        for suffix in holdings.suffixes(self._place, part):
            if self._tally.stopped:
                return
            foreign: dict[int, dict[str, Holding]] = {}
            deleted: dict[str, Holding] = {}
            for digest, holding in self._belonging(part, suffix):
                if holding.tombstone and own is None:
                    deleted[digest] = holding
                for piece in holding.data:
                    if piece.frag is not None and piece.frag != own and piece.durable:
                        foreign.setdefault(piece.frag, {})[digest] = holding
            for frag, here in foreign.items():
                self._give(part, frag, here, self._homes(part, frag))
            if deleted:
                self._give(part, None, deleted, list(enumerate(self._ring.nodes(part))))
        if own is None:
            holdings.sweep(self._place, part)

    def _homes(self, part: int, frag: int) -> list[tuple[int, Device]]:
        nodes = self._ring.nodes(part)
        return [(at, one) for at, one in enumerate(nodes) if at % self._coder.fragments == frag]

    def _give(
        self, part: int, frag: int | None, here: Mapping[str, Holding], homes: Sequence[tuple[int, Device]]
    ) -> None:
        kept: set[str] = set()
        for at, device in homes:
            index = at % self._coder.fragments
            node = self._care.node(device)
            try:
                wanted = self._care.peer(device).lacking(self._policy, part, index, here)
            except StorageError as error:
                self._tally.complain(f"{device.host}:{device.port}/{device.device}: {error}")
                return
            for digest, wants in wanted.items():
                mine = Spot(self._device, part, digest, self._policy)
                there = Spot(device.device, part, digest, self._policy)
                try:
                    push.push(self._care.local.devices, mine, here[digest], node, there, wants, frag)
                    self._tally.count("pushed")
                except Missing:
                    kept.add(digest)
                except StorageError as error:
                    kept.add(digest)
                    self._tally.complain(error)
        for digest, holding in here.items():
            if digest not in kept and holdings.remove(self._place, part, digest, holding, frag):
                self._tally.count("given")

    def _belonging(self, part: int, suffix: str) -> Iterator[tuple[str, Holding]]:
        for digest, holding in holdings.holdings(self._place, part, suffix):
            if holdings.part_of(digest, self._ring.parts) == part:
                yield digest, holding


class _Reader:
    """A fragment's content in pieces, and whether it was what it should be."""

    def __init__(self, stored: Stored) -> None:
        self._sum = hashlib.md5(usedforsecurity=False)
        self._wanted = stored.metadata.get("etag", "")
        self._name = stored.metadata.get("name", "")
        self._content = iter(stored.content())
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Raises DeviceGone when it ends early."""
        while len(self._rest) < size:
            part = next(self._content, b"")
            if not part:
                raise DeviceGone(f"a fragment of {self._name} is short")
            self._sum.update(part)
            self._rest += part
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def check(self) -> None:
        """Raises DeviceGone when the whole was not what its sum says."""
        if self._wanted and self._sum.hexdigest() != self._wanted:
            raise DeviceGone(f"a fragment of {self._name} is damaged")


def reconstruct(care: Care, device: str, coders: dict[int, Coder]) -> Tally:
    """A pass over every erasure-coded policy on a device of this machine. ``coders``: kept from pass to pass.

    Raises DeviceGone.
    """
    with care.reports.tally("reconstruct", device) as tally:
        for policy in care.store.policies:
            if policy.erasure is not None and (ring := care.ring(policy)) is not None:
                coder = coders.get(policy.index) or coders.setdefault(policy.index, Coder(policy.erasure))
                Reconstructor(care, ring, device, policy, coder, tally).run()
    return tally


def _batches(found: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(found), size):
        yield found[at : at + size]
