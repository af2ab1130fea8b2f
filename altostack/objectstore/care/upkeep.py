"""What the daemons of two nodes ask each other beyond `storage.Node`: sums, offers, databases, rings, reports.

`Near` answers on the node that has the devices. `Peer` asks: `Near` itself for a device of this machine, else by the
node's HTTP (`RemoteNode.call`). Arguments and answers are what msgpack can carry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from altostack.objectstore.care import holdings, rings
from altostack.objectstore.care.books import Books
from altostack.objectstore.care.health import NodeStatus, node_status
from altostack.objectstore.care.holdings import Holding, Place, Wants
from altostack.objectstore.care.report import Report, Reports
from altostack.objectstore.care.sums import Sums
from altostack.objectstore.disk import layout
from altostack.objectstore.disk.device import guarded
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.disk.remote import RemoteNode
from altostack.objectstore.ledger.lines import Line
from altostack.objectstore.ledger.replicate import State
from altostack.objectstore.stamp import of_ns
from altostack.objectstore.storage import DeviceGone, Kind, Node, Spot
from altostack.objectstore.store import Store

T = TypeVar("T")
_PATIENCE: Final = 120.0  # seconds: sums may have to be made of everything anew


class Near:
    """The calls as a node answers them. Every one may raise DeviceGone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sums = Sums()
        self._books: Books | None = None

    def calls(self) -> dict[str, Callable[..., Any]]:
        """The calls by name, for `disk.server.handler`."""
        return {
            "care.sums": self.sums,
            "care.lacking": self.lacking,
            "care.there": self.there,
            "care.db_sums": self.db_sums,
            "care.db_offer": self.db_offer,
            "care.db_accept": self.db_accept,
            "care.db_confirm": self.db_confirm,
            "care.db_piece": self.db_piece,
            "care.db_install": self.db_install,
            "care.rings": self.rings,
            "care.ring": self.ring,
            "care.accept_ring": self.accept_ring,
            "care.reports": self.reports,
            "care.status": self.status,
        }

    def _path(self, device: str) -> str:
        local = self._store.local
        if not isinstance(local, LocalNode):
            raise DeviceGone("this node has no devices")
        path = local.devices.path(device)
        local.devices.ensure(path)
        return path

    def there(self, device: str) -> bool:
        """Whether the device can be used; a node that answers at all says so of a device that cannot."""
        try:
            self._path(device)
        except DeviceGone:
            return False
        return True

    def sums(
        self, device: str, policy: int, frag: int | None, sums: Mapping[int, str]
    ) -> dict[int, dict[str, str]]:
        """Of the partitions named with the asker's sums those that differ here: their sums by suffix."""
        place = Place(self._path(device), policy)
        differing = {}
        for part, theirs in sums.items():
            if self.total(place, int(part), frag) != theirs:
                differing[int(part)] = self.found(place, int(part), frag)
        return differing

    def total(self, place: Place, part: int, frag: int | None) -> str:
        """As `Sums.total`."""
        with guarded(place.device):
            return self._sums.total(place, part, frag)

    def found(self, place: Place, part: int, frag: int | None) -> dict[str, str]:
        """As `Sums.suffixes`."""
        with guarded(place.device):
            return self._sums.suffixes(place, part, frag)

    def lacking(
        self, device: str, policy: int, part: int, frag: int | None, offered: Mapping[str, Holding]
    ) -> dict[str, Wants]:
        """What of what is offered is not here, by digest; nothing is said of what is."""
        place = Place(self._path(device), policy)
        wanted = {}
        settings, clock = self._store.settings, self._store.clock
        horizon = of_ns(int((clock.seconds() - settings.reclaim_age) * 1e9))
        for digest, holding in offered.items():
            if holding.tombstone and holding.tombstone < horizon:
                continue  # it is about to be forgotten there, too
            with guarded(place.device):
                mine = holdings.holding(place, part, digest)
            wants = holdings.lacking(mine, holding, frag)
            if wants:
                wanted[digest] = wants
        return wanted

    # ---- account and container databases: see `ledger.replicate`

    @property
    def books(self) -> Books:
        """The databases of this node's devices. Raises DeviceGone in a process that has none."""
        if self._books is None:
            local = self._store.local
            if not isinstance(local, LocalNode):
                raise DeviceGone("this node has no devices")
            self._books = Books(local.ledgers)
        return self._books

    def db_sums(self, device: str, kind: Kind, parts: Mapping[str, int]) -> dict[str, str]:
        """Sums of databases, by digest; those that are not here are left out."""
        self._path(device)
        found = {}
        for digest, part in parts.items():
            known = self.books.known(Spot(device, part, digest), kind)
            if known is not None:
                found[digest] = known.sum
        return found

    def db_offer(self, spot: Spot, kind: Kind, state: State) -> list[State]:
        """As `Replica.offer`: one state, or none."""
        self._path(spot.device)
        found = self.books.copies.offer(spot, kind, state)
        return [] if found is None else [found]

    def db_accept(self, spot: Spot, kind: Kind, lines: list[Line], source: str, point: int) -> bool:
        """As `Replica.accept`. Raises Missing."""
        self.books.copies.accept(spot, kind, lines, source, point)
        return True

    def db_confirm(self, spot: Spot, kind: Kind, source: str, points: dict[str, int]) -> bool:
        """As `Replica.confirm`. Raises Missing."""
        self.books.copies.confirm(spot, kind, source, points)
        return True

    def db_piece(self, device: str, name: str, at: int, data: bytes) -> bool:
        """A piece of a file that `db_install` takes; ``at`` 0 begins it anew. Raises ValueError, DeviceFull."""
        path = self._incoming(device, name)
        with guarded(os.path.dirname(os.path.dirname(path))):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb" if at == 0 else "r+b") as file:
                file.seek(at)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        return True

    def db_install(self, spot: Spot, kind: Kind, name: str) -> bool:
        """As `Replica.install`, with a file that came in pieces. Raises ValueError."""
        self.books.copies.install(spot, kind, Path(self._incoming(spot.device, name)))
        return True

    def _incoming(self, device: str, name: str) -> str:
        if not re.fullmatch(r"ledger-[0-9a-f]{32}", name):
            raise ValueError("this is no name of a file on its way")
        return f"{self._path(device)}/{layout.TMP}/incoming-{name}"

    # ---- the node as a whole

    def rings(self) -> dict[str, rings.Held]:
        """The rings that are here."""
        return rings.held(self._rings)

    def ring(self, name: str) -> bytes:
        """A ring's file. Raises ValueError, OSError."""
        return rings.content(self._rings, name)

    def accept_ring(self, name: str, data: bytes) -> bool:
        """Take over a newer ring; whether it was newer. Raises ValueError, OSError."""
        return rings.accept(self._rings, name, data)

    def reports(self) -> list[Report]:
        """What this node's daemons did last."""
        return Reports(self._store.folder).all()

    def status(self) -> NodeStatus:
        """How this node and its devices are."""
        return node_status(self._store)

    @property
    def _rings(self) -> Any:
        from altostack.objectstore.compose import rings_folder

        return rings_folder(self._store.folder)


def calls(store: Store) -> dict[str, Callable[..., Any]]:
    """The calls of the node whose devices ``store`` has, for `disk.server.handler`."""
    return Near(store).calls()


class Peer:
    """Asks about one device. ``near``: the calls of this process, for its own devices. All may raise DeviceGone."""

    def __init__(self, near: Near | None, node: Node, device: str) -> None:
        self._near, self._node, self.device = near, node, device

    def there(self) -> bool:
        """As `Near.there`. Raises DeviceGone when the node does not answer."""
        return self._ask(bool, "there", device=self.device)

    def sums(self, policy: int, frag: int | None, sums: Mapping[int, str]) -> dict[int, dict[str, str]]:
        """As `Near.sums`."""
        found = dict[int, dict[str, str]]
        return self._ask(found, "sums", device=self.device, policy=policy, frag=frag, sums=sums)

    def lacking(
        self, policy: int, part: int, frag: int | None, offered: Mapping[str, Holding]
    ) -> dict[str, Wants]:
        """As `Near.lacking`."""
        if not offered:
            return {}
        return self._ask(
            dict[str, Wants], "lacking", device=self.device, policy=policy, part=part, frag=frag, offered=offered
        )  # fmt: skip

    def db_sums(self, kind: Kind, parts: Mapping[str, int]) -> dict[str, str]:
        """As `Near.db_sums`."""
        return self._ask(dict[str, str], "db_sums", device=self.device, kind=kind, parts=parts)

    def db_offer(self, spot: Spot, kind: Kind, state: State) -> State | None:
        """As `Near.db_offer`."""
        found = self._ask(list[State], "db_offer", spot=spot, kind=kind, state=state)
        return found[0] if found else None

    def db_accept(self, spot: Spot, kind: Kind, lines: Sequence[Line], source: str, point: int) -> None:
        """As `Near.db_accept`."""
        self._ask(bool, "db_accept", spot=spot, kind=kind, lines=list(lines), source=source, point=point)

    def db_confirm(self, spot: Spot, kind: Kind, source: str, points: dict[str, int]) -> None:
        """As `Near.db_confirm`."""
        self._ask(bool, "db_confirm", spot=spot, kind=kind, source=source, points=points)

    def db_piece(self, name: str, at: int, data: bytes) -> None:
        """As `Near.db_piece`."""
        self._ask(bool, "db_piece", device=self.device, name=name, at=at, data=data)

    def db_install(self, spot: Spot, kind: Kind, name: str) -> None:
        """As `Near.db_install`."""
        self._ask(bool, "db_install", spot=spot, kind=kind, name=name)

    def rings(self) -> dict[str, rings.Held]:
        """As `Near.rings`."""
        return self._ask(dict[str, rings.Held], "rings")

    def ring(self, name: str) -> bytes:
        """As `Near.ring`."""
        return self._ask(bytes, "ring", name=name)

    def accept_ring(self, name: str, data: bytes) -> bool:
        """As `Near.accept_ring`."""
        return self._ask(bool, "accept_ring", name=name, data=data)

    def reports(self) -> list[Report]:
        """As `Near.reports`."""
        return self._ask(list[Report], "reports")

    def status(self) -> NodeStatus:
        """As `Near.status`."""
        return self._ask(NodeStatus, "status")

    def _ask(self, kind: type[T], call: str, /, **arguments: Any) -> T:
        if self._near is not None:
            answer: T = getattr(self._near, call)(**arguments)
            return answer
        if not isinstance(self._node, RemoteNode):
            raise DeviceGone("the node cannot be asked")
        try:
            return self._node.call(f"care.{call}", result=kind, patience=_PATIENCE, **arguments)
        except ValueError as error:  # it does not know the call, or cannot do what it asks
            raise DeviceGone(str(error)) from error
