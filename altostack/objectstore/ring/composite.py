"""Composite rings: several builders, each with regions of its own, make one ring.

So some of a partition's replicas are certain to be in each builder's regions, which no single builder promises. The
order of the builders is the order of the replicas, and (erasure coding) of the fragments: it must stay.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np

from altostack.objectstore.ring import sealed
from altostack.objectstore.ring.builder import NONE16, Builder, Outcome, RingError
from altostack.objectstore.ring.ring import Facts
from altostack.objectstore.storage import Device


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """A builder as it was when the ring was last composed. path: from the composite's folder. id: its salt."""

    path: str
    id: str
    version: int
    replicas: float


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """The composite file, NAME.composite beside NAME.ring. salt: of the composed ring, the same for ever."""

    salt: str
    version: int
    components: list[Component]


def compose(path: Path, builders: Sequence[Path] = (), *, force: bool = False) -> Definition:
    """Compose NAME.ring anew and record of what; ``path``: NAME.composite, made when it is missing.

    builders: as they are when there are none given. force: take builders that are others, older, or otherwise
    ordered than last time: partitions then may lie elsewhere as a whole.

    Raises:
        RingError: they do not fit together, or not to what was composed before.
        sealed.BadFile, OSError: a file cannot be used.
    """
    former = load(path)
    if not builders and former is not None:
        builders = [path.parent / one.path for one in former.components]
    loaded = [Builder.load(one) for one in builders]
    return _write(path, loaded, former, force)


def rebalance(
    path: Path, seed: int | None = None, *, clock: Callable[[], float] = time.time
) -> tuple[Definition, list[Outcome]]:
    """Rebalance all builders so that of a partition only one replica in all moves at a time; save them; compose.

    Raises: as `compose`; then nothing was written.
    """
    former = load(path)
    if former is None:
        raise RingError(f"there is no composite {path}")
    loaded = [Builder.load(path.parent / one.path, clock=clock) for one in former.components]
    _check(loaded)
    _check_former(loaded, former)
    outcomes: list[Outcome] = [Outcome(moved=0, placed=0, held_back=0)] * len(loaded)
    # Each waits for what the others moved; in turn the first, so that none always waits.
    start = former.version % len(loaded)
    touched = np.zeros(loaded[0].parts, dtype=bool)
    for index in [*range(start, len(loaded)), *range(start)]:
        held = touched.copy()
        for other in loaded:
            if other is not loaded[index]:
                held |= other.moved + other.state.min_part_hours * 3600 > clock()
        before = loaded[index].table
        outcomes[index] = loaded[index].rebalance(seed, held=held)
        touched |= (loaded[index].table != before).any(axis=0)
    for one in loaded:
        one.save()
    return _write(path, loaded, former, force=False), outcomes


def load(path: Path) -> Definition | None:
    """What was composed last; None when there is no such file. Raises sealed.BadFile, OSError."""
    try:
        definition, _ = sealed.read(path, "composite", Definition)
    except FileNotFoundError:
        return None
    return definition


def _write(path: Path, loaded: Sequence[Builder], former: Definition | None, force: bool) -> Definition:
    _check(loaded)
    if former is not None and not force:
        _check_former(loaded, former)
    definition = Definition(
        salt=former.salt if former is not None else os.urandom(16).hex(),
        version=former.version + 1 if former is not None else 1,
        components=[
            Component(
                path=os.path.relpath(one.path, path.parent),
                id=one.state.salt,
                version=one.state.version,
                replicas=one.state.replicas,
            )
            for one in loaded
        ],
    )
    devices: list[Device] = []
    rows: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
    base = 0  # added to a builder's ids, so that they differ from those of the builders before it
    for one in loaded:
        for device in one.ring().devices:
            fields = {name: getattr(device, name) for name in Device.__dataclass_fields__}
            devices.append(Device(**(fields | {"id": base + device.id})))
        rows += [row.astype(np.int64) + base for row in one.table]
        base += 1 + max(one.state.devices)
    form: sealed.Form = "H" if base < NONE16 else "I"
    dtype = np.uint16 if form == "H" else np.uint32
    state = loaded[0].state
    facts = Facts(
        salt=definition.salt,
        power=state.power,
        replicas=float(len(rows)),
        version=definition.version,
        devices=devices,
        next_power=state.next_power,
    )
    # The definition first: a ring without the salt it was made with could not be composed again.
    sealed.write(path, "composite", definition, [])
    arrays: list[tuple[sealed.Form, memoryview]] = [(form, row.astype(dtype).data) for row in rows]
    sealed.write(path.with_suffix(".ring"), "ring", facts, arrays)
    return definition


def _check(loaded: Sequence[Builder]) -> None:
    if len(loaded) < 2:
        raise RingError("a composite ring is made of two builders or more")
    for one in loaded:
        if not one.balanced:
            raise RingError(f"{one.path} has to be rebalanced first")
        if one.state.replicas != math.floor(one.state.replicas):
            raise RingError(
                f"{one.path} has {one.state.replicas:g} replicas: parts of a composite need whole ones"
            )
    for one, other in combinations(loaded, 2):
        if one.state.salt == other.state.salt:
            raise RingError(f"{one.path} and {other.path} are the same builder")
        if one.state.power != other.state.power or one.state.next_power != other.state.next_power:
            raise RingError(f"{one.path} and {other.path} differ in their partition powers")
        shared = {d.region for d in one.devices} & {d.region for d in other.devices}
        if shared:
            raise RingError(f"{one.path} and {other.path} both have devices in region {min(shared)}")
        twice = _places(one) & _places(other)
        if twice:
            host, port, device = min(twice)
            raise RingError(f"{one.path} and {other.path} both have {device} on {host}:{port}")


def _places(builder: Builder) -> set[tuple[str, int, str]]:
    return {(one.host, one.port, one.device) for one in builder.devices}


def _check_former(loaded: Sequence[Builder], former: Definition) -> None:
    if len(loaded) != len(former.components):
        raise RingError(
            f"the ring was composed of {len(former.components)} builders before, not of {len(loaded)}"
        )
    for number, (one, before) in enumerate(zip(loaded, former.components, strict=True), start=1):
        if one.state.salt != before.id:
            raise RingError(
                f"builder {number} is {one.path}, which is another than the {before.path} of last time"
            )
        if one.state.version < before.version:
            raise RingError(
                f"{one.path} is of version {one.state.version}, older than version {before.version} of last time"
            )
        if one.state.replicas != before.replicas:
            raise RingError(f"{one.path} has {one.state.replicas:g} replicas and had {before.replicas:g}")
