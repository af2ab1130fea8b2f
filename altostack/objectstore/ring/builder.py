"""Builds a ring: which devices there are, what they should hold, and which partition lies where."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from altostack.objectstore.ring import sealed
from altostack.objectstore.ring.place import Bits, Placer, Table
from altostack.objectstore.ring.plan import Ints, Plan, Tree, draw
from altostack.objectstore.ring.ring import Facts, Ring
from altostack.objectstore.storage import Device

MAX_POWER: Final = 32  # a digest's partition is taken from its first 32 bits
MAX_REPLICAS: Final = 255
MAX_DEVICES: Final = 1 << 20
NONE16: Final = 0xFFFF  # device ids from here on make the arrays of a file wide


class RingError(ValueError):
    """The change asked for is impossible; the text says why."""


class State(msgspec.Struct, kw_only=True):
    """The header of a builder file. See `ring.Facts` for what the ring tells of it.

    min_part_hours: for how long a partition stays where it is after one of its replicas moved. overload: by what
    fraction a device may hold more than its weight says so that replicas lie further apart. removed: ids of devices
    that will be gone after the next rebalance. next_power: while partitions are being doubled.
    """

    salt: str
    power: int
    replicas: float
    min_part_hours: float
    version: int = 0
    overload: float = 0.0
    devices: dict[int, Device] = {}
    removed: list[int] = []
    next_power: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebalance did.

    moved: replicas that went from one device to another. placed: replicas that had no device. held_back: replicas that
    devices hold beyond what they should, since their partitions moved too lately or a replica of them did just now.
    """

    moved: int
    placed: int
    held_back: int


class Builder:
    """One ring in the making. Nothing is on disk before `save`; changes raise RingError and then change nothing.

    table: [replica, partition] -> device id, -1 where there is none. moved: when a replica of a partition last moved,
    seconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        state: State,
        table: Table,
        moved: npt.NDArray[np.uint32],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.state = state
        self.table = table
        self.moved = moved
        self._clock = clock

    # ---- files

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        part_power: int,
        replicas: float,
        min_part_hours: float,
        clock: Callable[[], float] = time.time,
    ) -> Builder:
        """A ring of 2**``part_power`` partitions without devices. ``clock``: seconds since 1970. Raises RingError."""
        if not 0 <= part_power <= MAX_POWER:
            raise RingError(f"the partition power has to be between 0 and {MAX_POWER}, not {part_power}")
        state = State(
            salt=os.urandom(16).hex(),
            power=part_power,
            replicas=_replicas(replicas),
            min_part_hours=_hours(min_part_hours),
        )
        parts = 1 << part_power
        table = np.full((math.ceil(replicas), parts), -1, dtype=np.int32)
        return cls(path, state, table, np.zeros(parts, dtype=np.uint32), clock)

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Builder:
        """Raises sealed.BadFile, OSError."""
        state, arrays = sealed.read(path, "builder", State)
        parts, rows = 1 << state.power, math.ceil(state.replicas)
        if len(arrays) != rows + 1 or any(len(array) > parts for array in arrays) or len(arrays[0]) != parts:
            raise sealed.BadFile(f"{path} contradicts itself: its arrays do not fit its partitions")
        table = np.full((rows, parts), -1, dtype=np.int32)
        for row, array in zip(table, arrays[1:], strict=True):
            row[: len(array)] = np.asarray(array).astype(np.int32)
        if not set(np.unique(table).tolist()) <= {-1, *state.devices}:
            raise sealed.BadFile(
                f"{path} contradicts itself: partitions lie on devices that it does not have"
            )
        return cls(path, state, table, np.array(arrays[0], dtype=np.uint32), clock)

    def save(self) -> None:
        """Write the builder file and, once there was a rebalance, the ring file beside it. Raises OSError."""
        arrays: list[tuple[sealed.Form, memoryview]] = [("I", self.moved.data)]
        sealed.write(self.path, "builder", self.state, [*arrays, *self._rows()])
        if self.balanced:
            self.write_ring()

    def write_ring(self) -> Path:
        """Write the ring file alone; where. Raises RingError before the first rebalance, OSError."""
        if not self.balanced:
            raise RingError("the ring has never been rebalanced: its partitions have no devices yet")
        path = self.path.with_suffix(".ring")
        sealed.write(path, "ring", self._facts(), self._rows())
        return path

    def ring(self) -> Ring:
        """The ring as `save` would write it. Raises RingError before the first rebalance."""
        if not self.balanced:
            raise RingError("the ring has never been rebalanced: its partitions have no devices yet")
        return Ring(self._facts(), [data.cast("B").cast(form) for form, data in self._rows()])

    def _facts(self) -> Facts:
        state = self.state
        holding = self.holding()
        return Facts(
            salt=state.salt,
            power=state.power,
            replicas=state.replicas,
            version=state.version,
            devices=[one for i, one in sorted(state.devices.items()) if one.weight > 0 or holding.get(i)],
            next_power=state.next_power,
        )

    def _rows(self) -> list[tuple[sealed.Form, memoryview]]:
        form: sealed.Form = "H" if max(self.state.devices, default=0) < NONE16 else "I"
        dtype = np.uint16 if form == "H" else np.uint32
        if not self.balanced:
            return [(form, np.zeros(0, dtype=dtype).data) for _ in self.table]
        return [
            (form, np.ascontiguousarray(row[:end].astype(dtype)).data)
            for row, end in zip(self.table, self.ends, strict=True)
        ]

    # ---- what it is like

    @property
    def parts(self) -> int:
        """Partitions."""
        return 1 << self.state.power

    @property
    def ends(self) -> Ints:
        """How many partitions have each replica: all but the last replica, if there are fractions."""
        whole = math.floor(self.state.replicas)
        last = [int((self.state.replicas - whole) * self.parts)] if self.state.replicas > whole else []
        return np.array([self.parts] * whole + last, dtype=np.int64)

    @property
    def balanced(self) -> bool:
        """Whether every replica has a device."""
        return all(bool((row[:end] >= 0).all()) for row, end in zip(self.table, self.ends, strict=True))

    @property
    def devices(self) -> list[Device]:
        """Every device by id, also those that go at the next rebalance."""
        return [one for _, one in sorted(self.state.devices.items())]

    @property
    def staying(self) -> list[Device]:
        """The devices that are not being removed."""
        return [one for one in self.devices if one.id not in self.state.removed]

    def holding(self) -> dict[int, int]:
        """Partitions by device id."""
        counts = np.bincount(self.table[self.table >= 0], minlength=1 + max(self.state.devices, default=0))
        return {id: int(counts[id]) for id in self.state.devices}

    def seconds_left(self) -> float:
        """Until every partition may be moved again."""
        if not self.parts:
            return 0.0
        return max(0.0, float(self.moved.max()) + self.state.min_part_hours * 3600 - self._clock())

    def plan(self) -> Plan:
        """What the devices that stay should hold. Raises RingError when there are too few."""
        usable = [one for one in self.staying if one.weight > 0]
        if len(usable) < len(self.table):
            raise RingError(
                f"{self.state.replicas:g} replicas need at least {len(self.table)} devices with a weight; "
                f"there are {len(usable)}"
            )
        holding = self.holding()
        held = np.array([holding[one.id] for one in self.staying], dtype=np.int64)
        tree = Tree.of(self.staying)
        return draw(tree, int(self.ends.sum()) / self.parts, self.state.overload, self.parts, held)

    # ---- changes

    def add(
        self,
        *,
        region: int,
        zone: int,
        host: str,
        port: int,
        device: str,
        weight: float,
        meta: str = "",
        replication_host: str = "",
        replication_port: int = 0,
    ) -> int:
        """Add a device; its id. It gets partitions at the next rebalance."""
        free = next(i for i in range(len(self.state.devices) + 1) if i not in self.state.devices)
        if free >= MAX_DEVICES:
            raise RingError(f"a ring has at most {MAX_DEVICES} devices")
        one = Device(
            free, region, zone, host, port, device, float(weight), meta, replication_host, replication_port
        )
        self._put(one)
        return free

    def set_weight(self, id: int, weight: float) -> None:
        """Takes effect at the next rebalance; 0 drains the device."""
        self._put(_changed(self._stays(id), weight=float(weight)))

    def set_info(self, id: int, **changes: Any) -> None:
        """Change region, zone, host, port, device, meta, replication_host or replication_port of a device."""
        known = set(Device.__dataclass_fields__) - {"id", "weight"}
        if not set(changes) <= known:
            raise RingError(f"a device has no {', '.join(sorted(set(changes) - known))}")
        self._put(_changed(self._stays(id), **changes))

    def remove(self, id: int) -> None:
        """The next rebalance takes away all it holds, however lately that moved, and then the device."""
        self._stays(id)
        self.state.removed.append(id)
        self.state.version += 1

    def set_replicas(self, replicas: float) -> None:
        """Takes effect at the next rebalance: until then the ring file cannot be written."""
        replicas = _replicas(replicas)
        rows = math.ceil(replicas)
        table = np.full((rows, self.parts), -1, dtype=np.int32)
        kept = min(rows, len(self.table))
        table[:kept] = self.table[:kept]
        self.state.replicas = replicas
        for row, end in zip(table, self.ends, strict=True):
            row[end:] = -1
        self.table = table
        self.state.version += 1

    def set_overload(self, overload: float) -> None:
        """A fraction: 0.1 lets a device hold a tenth more than its weight says."""
        if not (math.isfinite(overload) and overload >= 0):
            raise RingError(f"the overload has to be a fraction of 0 or more, not {overload}")
        self.state.overload = float(overload)
        self.state.version += 1

    def set_min_part_hours(self, hours: float) -> None:
        """Hours for which a partition stays after one of its replicas moved."""
        self.state.min_part_hours = _hours(hours)
        self.state.version += 1

    def pretend_min_part_hours_passed(self) -> None:
        """Let every partition be moved at the next rebalance."""
        self.moved[:] = 0

    def _put(self, one: Device) -> None:
        _check(one)
        for other in self.staying:
            if other.id != one.id and _place(other) == _place(one):
                raise RingError(
                    f"device {other.id} is {one.device} on {one.host}:{one.port} already: no device may be there twice"
                )
        self.state.devices[one.id] = one
        self.state.version += 1

    def _stays(self, id: int) -> Device:
        found = self.state.devices.get(id)
        if found is None:
            raise RingError(f"there is no device {id}")
        if id in self.state.removed:
            raise RingError(f"device {id} is being removed; the next rebalance does that")
        return found

    # ---- placing

    def rebalance(self, seed: int | None = None, *, held: Bits | None = None) -> Outcome:
        """Put every replica where it should be, moving as little as possible.

        At most one replica of a partition moves, and none of a partition that moved within min_part_hours; those on
        removed devices move whatever that is. ``seed``: the same seed and builder give the same ring. ``held``:
        partitions of which nothing is to be moved that need not be.
        """
        if self.state.next_power is not None:
            raise RingError("partitions are being doubled: finish or cancel that before a rebalance")
        plan = self.plan()
        stay = self.staying
        position = np.full(2 + max(self.state.devices), -1, dtype=np.int32)  # the last place is for -1
        position[[one.id for one in stay]] = np.arange(len(stay))
        table: Table = position[self.table]
        now = self._clock()
        free = self.moved + self.state.min_part_hours * 3600 <= now
        if held is not None:
            free &= ~held
        placer = Placer(plan, table, self.ends, free, np.random.default_rng(seed))
        placer.run()
        ids = np.array([*(one.id for one in stay), -1], dtype=np.int32)
        after: Table = ids[table]
        changed = after != self.table
        outcome = Outcome(
            moved=int((changed & (self.table >= 0)).sum()),
            placed=int((changed & (self.table < 0)).sum()),
            held_back=placer.excess(),
        )
        self.moved[changed.any(axis=0)] = int(now)
        self.table = after
        for id in self.state.removed:
            del self.state.devices[id]
        self.state.removed = []
        self.state.version += 1
        return outcome

    # ---- doubling the partitions while the cluster runs

    def prepare_increase(self) -> None:
        """Step 1: the power stays; nodes begin to keep objects at the place of the next power too."""
        if self.state.next_power is not None:
            raise RingError("an increase of the partition power is under way already")
        if self.state.power >= MAX_POWER:
            raise RingError(f"the partition power is {MAX_POWER}, the highest there is")
        if not self.balanced:
            raise RingError("the ring has to be rebalanced first")
        self.state.next_power = self.state.power + 1
        self.state.version += 1

    def increase(self) -> None:
        """Step 2, when all nodes keep both places: partition p becomes 2p and 2p + 1 on the same devices."""
        if self.state.next_power != self.state.power + 1:
            raise RingError("the increase of the partition power has to be prepared first")
        self.table = np.repeat(self.table, 2, axis=1)
        self.moved = np.repeat(self.moved, 2)
        self.state.power += 1
        self.state.version += 1

    def cancel_increase(self) -> None:
        """Instead of step 2: nodes take away the places of the higher power; then `finish_increase`."""
        if self.state.next_power != self.state.power + 1:
            raise RingError("no increase of the partition power is prepared that could be cancelled")
        self.state.next_power = self.state.power
        self.state.version += 1

    def finish_increase(self) -> None:
        """Step 3, when all nodes have taken away what lies at the places of the power that is not in force."""
        if self.state.next_power is None or self.state.next_power != self.state.power:
            raise RingError(
                "there is no increase of the partition power to finish: increase or cancel it first"
            )
        self.state.next_power = None
        self.state.version += 1


def find_devices(devices: Iterable[Device], **wanted: Any) -> list[Device]:
    """Those whose fields are as asked for."""
    return [one for one in devices if all(getattr(one, name) == value for name, value in wanted.items())]


def _place(one: Device) -> tuple[str, int, str]:
    return one.host, one.port, one.device


def _changed(one: Device, **changes: Any) -> Device:
    fields = {name: getattr(one, name) for name in Device.__dataclass_fields__}
    return Device(**(fields | changes))


def _replicas(replicas: float) -> float:
    if not (math.isfinite(replicas) and 1 <= replicas <= MAX_REPLICAS):
        raise RingError(f"the number of replicas has to be between 1 and {MAX_REPLICAS}, not {replicas}")
    return float(replicas)


def _hours(hours: float) -> float:
    if not (math.isfinite(hours) and hours >= 0):
        raise RingError(f"the hours that a partition stays have to be 0 or more, not {hours}")
    return float(hours)


_DEVICE_NAME = re.compile(r"[A-Za-z0-9._-]+")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9._-]{1,253}")


def _check(one: Device) -> None:
    if one.region < 0 or one.zone < 0:
        raise RingError(f"region and zone have to be 0 or more, not {one.region} and {one.zone}")
    if not (math.isfinite(one.weight) and one.weight >= 0):
        raise RingError(f"a weight has to be 0 or more, not {one.weight}")
    for host in filter(None, (one.host, one.replication_host)):
        if not _HOST_NAME.fullmatch(host) and not _is_address(host):
            raise RingError(f"{host!r} is no address or name of a host")
    if not one.host:
        raise RingError("a device needs the host of its node")
    for port in (one.port, *filter(None, (one.replication_port,))):
        if not 1 <= port <= 65535:
            raise RingError(f"a port is between 1 and 65535, not {port}")
    if not _DEVICE_NAME.fullmatch(one.device) or one.device in (".", ".."):
        raise RingError(
            f"{one.device!r} is no name of a device: it is a folder's name of letters, digits, '.', '_', '-'"
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
