"""Builds a ring: which devices there are, what they should hold, and which partition lies where."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from altostack.objectstore.ring import sealed
from altostack.objectstore.ring.ring import Facts, Ring
from altostack.objectstore.storage import Device

Table = npt.NDArray[np.int32]  # [replica, partition] -> device id; -1: none


class RingError(ValueError):
    """The change asked for is impossible; the text says why."""


class State(msgspec.Struct, kw_only=True):
    """The header of a builder file. See `ring.Facts` for what the ring tells of it."""

    salt: str
    power: int
    replicas: float
    min_part_hours: float
    version: int = 0
    overload: float = 0.0
    devices: dict[int, Device] = {}
    removed: list[int] = []  # still holding partitions until the next rebalance
    next_power: int | None = None


class Builder:
    """One ring in the making."""

    def __init__(
        self,
        path: Path,
        state: State,
        table: Table,
        moved: npt.NDArray[np.uint32],
        clock: Callable[[], float],
    ) -> None:
        self.path = path
        self.state = state
        self.table = table
        self.moved = moved
        self._clock = clock

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
        """A builder without devices; nothing is written before `save`. Raises RingError."""
        state = State(
            salt=os.urandom(16).hex(),
            power=part_power,
            replicas=float(replicas),
            min_part_hours=min_part_hours,
        )
        rows = math.ceil(replicas)
        parts = 1 << part_power
        table = np.full((rows, parts), -1, dtype=np.int32)
        return cls(path, state, table, np.zeros(parts, dtype=np.uint32), clock)

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Builder:
        """Raises sealed.BadFile, OSError."""
        state, arrays = sealed.read(path, "builder", State)
        moved = np.frombuffer(arrays[0], dtype=np.uint32).copy()
        table = np.full((len(arrays) - 1, len(moved)), -1, dtype=np.int32)
        for row, array in zip(table, arrays[1:], strict=True):
            row[: len(array)] = np.frombuffer(array, dtype=np.uint32).astype(np.int32)
        return cls(path, state, table, moved, clock)

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
        self.state.devices[free] = Device(
            free, region, zone, host, port, device, weight, meta, replication_host, replication_port
        )
        self.state.version += 1
        return free

    def rebalance(self, seed: int | None = None) -> int:
        """Place what has no place."""
        rng = np.random.default_rng(seed)
        devices = list(self.state.devices.values())
        weights = np.array([one.weight for one in devices])
        parts = 1 << self.state.power
        order = rng.permutation(len(devices))
        share = np.cumsum(weights[order]) / weights.sum() * self.table.size
        slots = np.searchsorted(share, np.arange(self.table.size) + 0.5)
        ids = np.array([one.id for one in devices])[order][np.minimum(slots, len(devices) - 1)]
        self.table[:] = ids.reshape(self.table.shape)
        self.state.version += 1
        return parts

    def ring(self) -> Ring:
        """What `save` writes for everybody else."""
        facts, rows = self._ring_file()
        return Ring(facts, [data.cast("B").cast(form) for form, data in rows])

    def save(self) -> None:
        """Write the builder file and, once there was a rebalance, the ring file beside it. Raises OSError."""
        rows = [np.ascontiguousarray(row[row >= 0].astype(np.uint32)) for row in self.table]
        sealed.write(
            self.path, "builder", self.state, [("I", self.moved.data), *(("I", r.data) for r in rows)]
        )
        facts, arrays = self._ring_file()
        sealed.write(self.path.with_suffix(".ring"), "ring", facts, arrays)

    def _ring_file(self) -> tuple[Facts, list[tuple[sealed.Form, memoryview]]]:
        state = self.state
        form: sealed.Form = "H" if max(state.devices, default=0) < 1 << 16 else "I"
        dtype = np.uint16 if form == "H" else np.uint32
        rows = [np.ascontiguousarray(row[row >= 0].astype(dtype)) for row in self.table]
        facts = Facts(
            salt=state.salt,
            power=state.power,
            replicas=state.replicas,
            version=state.version,
            devices=[one for _, one in sorted(state.devices.items())],
            next_power=state.next_power,
        )
        return facts, [(form, row.data) for row in rows]
