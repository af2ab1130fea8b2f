"""Keeps the copies of account and container databases alike, and gives back those that lie where they do not belong.

Sums are compared many at a time; of a database that differs the lines since the last exchange go over, or the whole
file when the other side has none or is far behind (`ledger.replicate`). A partner whose device is out, while its node
answers, is stood in for by the first handoff.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.report import Tally
from altostack.objectstore.care.upkeep import Peer
from altostack.objectstore.ledger.lines import Line
from altostack.objectstore.ledger.replicate import State
from altostack.objectstore.stamp import of_ns
from altostack.objectstore.storage import Device, DeviceGone, Kind, Missing, RingView, Spot, StorageError

_AT_ONCE: Final = 256  # databases whose sums are compared by one call
_PIECE: Final = 4 << 20  # bytes of a file that are sent at a time
_MOST: Final = 500_000  # copies of which is remembered how far they were told
_UNTOLD: Final = 1000  # lines after which copies tell each other how far they are, though they are alike


class Copy:
    """`ledger.replicate.Replica`: the copy of a database on another device."""

    def __init__(self, peer: Peer, spot: Spot, kind: Kind) -> None:
        self._peer, self._spot, self._kind = peer, spot, kind

    def offer(self, state: State) -> State | None:
        return self._peer.db_offer(self._spot, self._kind, state)

    def accept(self, lines: Sequence[Line], source: str, point: int) -> None:
        self._peer.db_accept(self._spot, self._kind, lines, source, point)

    def confirm(self, source: str, points: dict[str, int]) -> None:
        self._peer.db_confirm(self._spot, self._kind, source, points)

    def install(self, path: Path) -> None:
        with path.open("rb") as file:
            at = 0
            while piece := file.read(_PIECE):
                self._peer.db_piece(path.name, at, piece)
                at += len(piece)
        self._peer.db_install(self._spot, self._kind, path.name)


class Databases:
    """Remembers between passes how far partners were told."""

    def __init__(self, care: Care) -> None:
        self._care = care
        self._told: dict[tuple[Spot, Kind, int], int] = {}

    def run(self, device: str) -> Tally:
        """A pass over the accounts and containers of a device of this machine. Raises DeviceGone."""
        with self._care.reports.tally("databases", device) as tally:
            self._kind(tally, device, "account", self._care.store.rings.account)
            self._kind(tally, device, "container", self._care.store.rings.container)
        return tally

    def _kind(self, tally: Tally, device: str, kind: Kind, ring: RingView) -> None:
        own = self._care.own(ring, device)
        partners: dict[int, tuple[Device, list[Spot]]] = {}
        foreign: list[Spot] = []
        for spot in self._care.near.books.copies.walk(device, kind):
            tally.count(f"{kind}s")
            if spot.part >= ring.parts:
                continue
            nodes = ring.nodes(spot.part)
            if own is None or own.id not in {one.id for one in nodes}:
                foreign.append(spot)
                continue
            for one in nodes:
                if one.id != own.id:
                    partners.setdefault(one.id, (one, []))[1].append(spot)
        for spot in foreign:
            if tally.stopped:
                return
            self._give_away(tally, kind, ring, spot)
        for other, spots in partners.values():
            self._partner(tally, kind, ring, other, spots)

    def _partner(self, tally: Tally, kind: Kind, ring: RingView, other: Device, spots: list[Spot]) -> None:
        for some in _batches(spots, _AT_ONCE):
            if tally.stopped:
                return
            try:
                self._in_step(tally, kind, other, some)
            except DeviceGone as error:
                tally.count("unreachable")
                if self._out(other):
                    self._stand_in(tally, kind, ring, spots)
                else:
                    tally.complain(f"{other.host}:{other.port}/{other.device}: {error}")
                return

    def _in_step(self, tally: Tally, kind: Kind, other: Device, spots: Sequence[Spot]) -> None:
        peer, books = self._care.peer(other), self._care.near.books
        theirs = peer.db_sums(kind, {spot.digest: spot.part for spot in spots})
        for spot in spots:
            mine = books.known(spot, kind)
            if mine is None:
                continue
            told = self._told.get((spot, kind, other.id))
            if theirs.get(spot.digest) == mine.sum and told is not None and mine.seq - told < _UNTOLD:
                continue
            try:
                if spot.digest not in theirs and self._over(books.copies.state(spot, kind)):
                    continue
                if books.copies.push(spot, kind, Copy(peer, _moved(spot, other), kind)):
                    tally.count("pushed")
                if len(self._told) >= _MOST:
                    self._told.clear()
                self._told[spot, kind, other.id] = mine.seq
            except Missing:
                continue  # removed meanwhile
            except StorageError as error:
                if isinstance(error, DeviceGone) and not self._alive(peer):
                    raise
                tally.complain(f"{other.host}:{other.port}/{other.device}: {spot.digest}: {error}")

    def _stand_in(self, tally: Tally, kind: Kind, ring: RingView, spots: Sequence[Spot]) -> None:
        for spot in spots:
            for other in itertools.islice(ring.handoffs(spot.part), 1):
                if self._care.is_mine(other) and other.device == spot.device:
                    continue
                try:
                    self._in_step(tally, kind, other, [spot])
                except StorageError as error:
                    tally.complain(f"{other.host}:{other.port}/{other.device}: {error}")

    def _give_away(self, tally: Tally, kind: Kind, ring: RingView, spot: Spot) -> None:
        """Push it to every device that is to hold it; remove it when all have it."""
        copies = self._care.near.books.copies
        try:
            known = copies.state(spot, kind)
            for other in () if self._over(known) else ring.nodes(spot.part):
                copies.push(spot, kind, Copy(self._care.peer(other), _moved(spot, other), kind))
            if copies.remove(spot, kind, known):
                tally.count("given")
        except Missing:
            return
        except StorageError as error:
            tally.complain(f"{spot.device}: {spot.digest}: {error}")

    def _over(self, state: State) -> bool:
        """Whether it was deleted so long ago that it is to be forgotten: others have done so, and get it no more."""
        store = self._care.store
        horizon = of_ns(int((store.clock.seconds() - store.settings.reclaim_age) * 1e9))
        return state.gone and state.deleted < horizon

    def _out(self, device: Device) -> bool:
        """Whether the node answers and the device cannot be used."""
        try:
            return not self._care.peer(device).there()
        except DeviceGone:
            return False

    @staticmethod
    def _alive(peer: Peer) -> bool:
        try:
            return peer.there()
        except DeviceGone:
            return False


def _moved(spot: Spot, device: Device) -> Spot:
    return Spot(device.device, spot.part, spot.digest)


def _batches(found: Sequence[Spot], size: int) -> Iterator[Sequence[Spot]]:
    for at in range(0, len(found), size):
        yield found[at : at + size]
