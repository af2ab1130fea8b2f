"""What the daemons of two nodes ask each other beyond `storage.Node`: sums, offers, databases, rings, reports.

`Near` answers on the node that has the devices. `Peer` asks: `Near` itself for a device of this machine, else by the
node's HTTP (`RemoteNode.call`). Arguments and answers are what msgpack can carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from altostack.objectstore.care import holdings, rings
from altostack.objectstore.care.holdings import Holding, Place, Wants
from altostack.objectstore.care.report import Report, Reports
from altostack.objectstore.disk.device import guarded
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.storage import DeviceGone, Node
from altostack.objectstore.store import Store

T = TypeVar("T")


class Near:
    """The calls as a node answers them. Every one may raise DeviceGone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sums = holdings.Sums()

    def calls(self) -> dict[str, Callable[..., Any]]:
        """The calls by name, for `disk.server.handler`."""
        return {
            "care.sums": self.sums,
            "care.lacking": self.lacking,
            "care.there": self.there,
            "care.rings": self.rings,
            "care.ring": self.ring,
            "care.accept_ring": self.accept_ring,
            "care.reports": self.reports,
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
            found = self.found(place, int(part), frag)
            if holdings.sum_of(found) != theirs:
                differing[int(part)] = found
        return differing

    def found(self, place: Place, part: int, frag: int | None) -> dict[str, str]:
        """A partition's sums by suffix."""
        with guarded(place.device):
            return self._sums.of(place, part, frag)

    def lacking(
        self, device: str, policy: int, part: int, frag: int | None, offered: Mapping[str, Holding]
    ) -> dict[str, Wants]:
        """What of what is offered is not here, by digest; nothing is said of what is."""
        place = Place(self._path(device), policy)
        wanted = {}
        for digest, holding in offered.items():
            with guarded(place.device):
                mine = holdings.holding(place, part, digest)
            wants = holdings.lacking(mine, holding, frag)
            if wants:
                wanted[digest] = wants
        return wanted

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

    @property
    def _rings(self) -> Any:
        from altostack.objectstore.compose import rings_folder

        return rings_folder(self._store.folder)


class Peer:
    """Asks about one device. ``near``: the calls of this process, for its own devices."""

    def __init__(self, near: Near | None, node: Node, device: str) -> None:
        self._near, self._node, self.device = near, node, device

    def there(self) -> bool:
        """As `Near.there`. Raises DeviceGone when the node does not answer."""
        return self._ask("there", bool, device=self.device)

    def sums(self, policy: int, frag: int | None, sums: Mapping[int, str]) -> dict[int, dict[str, str]]:
        """As `Near.sums`."""
        kind = dict[int, dict[str, str]]
        return self._ask("sums", kind, device=self.device, policy=policy, frag=frag, sums=sums)

    def lacking(
        self, policy: int, part: int, frag: int | None, offered: Mapping[str, Holding]
    ) -> dict[str, Wants]:
        """As `Near.lacking`."""
        if not offered:
            return {}
        kind = dict[str, Wants]
        return self._ask(
            "lacking", kind, device=self.device, policy=policy, part=part, frag=frag, offered=offered
        )

    def rings(self) -> dict[str, rings.Held]:
        """As `Near.rings`."""
        return self._ask("rings", dict[str, rings.Held])

    def ring(self, name: str) -> bytes:
        """As `Near.ring`."""
        return self._ask("ring", bytes, name=name)

    def accept_ring(self, name: str, data: bytes) -> bool:
        """As `Near.accept_ring`."""
        return self._ask("accept_ring", bool, name=name, data=data)

    def reports(self) -> list[Report]:
        """As `Near.reports`."""
        return self._ask("reports", list[Report])

    def _ask(self, call: str, kind: type[T], **arguments: Any) -> T:
        if self._near is not None:
            answer: T = getattr(self._near, call)(**arguments)
            return answer
        ask = getattr(self._node, "call", None)
        if ask is None:
            raise DeviceGone("the node cannot be asked")
        return msgspec.convert(ask(f"care.{call}", **arguments), kind, strict=False)
