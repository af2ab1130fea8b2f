"""Stores with faults: nodes whose devices are gone, full, or break in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from altostack.objectstore.http import Extent
from altostack.objectstore.storage import DeviceFull, DeviceGone, Metadata, Spot, Stored, Update, Writer
from tests.objectstore.world import World, world

ERASURE: Mapping[str, Any] = {
    "policies": {
        "ec": {
            "index": 0, "default": True, "type": "erasure_coding", "data": 4, "parity": 2, "segment_size": 1000,
        }
    }
}  # fmt: skip


class Faulty:
    """A local node, some of whose devices fail. Everything else goes through.

    gone: devices that do not answer; full: devices without space; breaks: device -> bytes after which reading breaks
    off; breaks_writing: device -> bytes after which writing fails; streams: contents come in pieces as from another
    machine. lists: whether accounts and containers on the devices fail, too.
    """

    def __init__(self, node: Any, *, lists: bool = False) -> None:
        self.node = node
        self.lists = lists
        self.gone: set[str] = set()
        self.full: set[str] = set()
        self.breaks: dict[str, int] = {}
        self.breaks_writing: dict[str, int] = {}
        self.streams = False
        self.asked: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.node, name)
        if not callable(method):
            return method

        def call(spot: Any, *args: Any, **more: Any) -> Any:
            if not isinstance(spot, Spot):
                return method(spot, *args, **more)
            self.asked.append((name, spot.device))
            if not self.lists and name not in ("read", "write", "update", "delete"):
                return method(spot, *args, **more)
            if spot.device in self.gone:
                raise DeviceGone(f"{spot.device} is gone")
            if spot.device in self.full and name in (
                "write",
                "create",
                "delete",
                "update",
                "change",
                "record",
            ):
                raise DeviceFull(f"{spot.device} is full")
            found = method(spot, *args, **more)
            if name == "read" and (self.streams or spot.device in self.breaks):
                return _Breaking(found, self.breaks.get(spot.device))
            if name == "write" and spot.device in self.breaks_writing:
                return _BreakingWriter(found, self.breaks_writing[spot.device])
            return found

        return call


class _Breaking:
    def __init__(self, stored: Stored, after: int | None) -> None:
        self._stored, self._after = stored, after
        self.timestamp, self.changed, self.metadata = stored.timestamp, stored.changed, stored.metadata
        self.length, self.frag, self.durable = stored.length, stored.frag, stored.durable

    def content(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        content = self._stored.content(start, stop)
        return self._pieces(content)

    def _pieces(self, content: Extent | Iterator[bytes]) -> Iterator[bytes]:
        left = self._after
        for part in content:
            for at in range(0, len(part), 700):
                piece = part[at : at + 700]
                if left is not None:
                    if len(piece) > left:
                        yield piece[:left]
                        raise DeviceGone("broke off")
                    left -= len(piece)
                yield piece

    def close(self) -> None:
        self._stored.close()


class _BreakingWriter:
    def __init__(self, writer: Writer, after: int) -> None:
        self._writer, self._left = writer, after

    def write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise DeviceFull("no space is left")
        self._writer.write(data)

    def put(self, metadata: Metadata, updates: Sequence[Update] = ()) -> None:
        if self._left <= 0:
            raise DeviceGone("broke off")
        self._writer.put(metadata, updates)

    def commit(self) -> None:
        self._writer.commit()

    def abort(self) -> None:
        self._writer.abort()


def faulty(made: World, *, lists: bool = False) -> Faulty:
    """Have the world's devices be able to fail; updates between nodes go through the same faults."""
    node = Faulty(made.store.local, lists=lists)
    made.store.local = node
    return node


def single(folder: Path, **more: Any) -> World:
    """One device, one copy."""
    return world(folder, **more)


def replicated(folder: Path, **more: Any) -> World:
    """Three copies on six devices in three zones."""
    return world(folder, devices=6, replicas=3.0, zones=3, **more)


def erasure(folder: Path, devices: int = 8, **more: Any) -> World:
    """Four and two fragments; three copies of lists."""
    return world(
        folder, devices=devices, replicas=3.0, settings={**ERASURE, **more.pop("settings", {})}, **more
    )


def holders(made: World, account: str, container: str, name: str, policy: int = 0) -> list[str]:
    """The devices whose turn it is to hold an object, in the order of the copies."""
    ring = made.store.rings.object(policy)
    part, _ = ring.locate(account, container, name)
    return [device.device for device in ring.nodes(part)]
