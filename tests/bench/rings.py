"""Rings: how well and how fast they are built, grown and shrunk, on a list of uneven devices in regions and zones.

Three steps: build; add a tenth of the devices; remove a tenth. For each: seconds (of processor time, so that what else
runs does not count); balance (the worst device's distance from its weight, per cent); close (replicas that lie closer
to others than they should, per cent); moved replicas, the fewest by which devices' weights could have been met, and how
many more that is. With ``--upstream DIR``, DIR/v being a virtual environment with OpenStack Swift, the same list goes
through Swift's builder and the same figures are taken.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from altostack.objectstore.ring import survey
from altostack.objectstore.ring.builder import Builder
from altostack.objectstore.ring.place import Table
from altostack.objectstore.ring.ring import Ring

DISKS = 10  # of a host
REGIONS, ZONES = 3, 12
WEIGHTS = (1000.0, 2000.0, 4000.0, 4000.0, 8000.0)

# What Swift's builder is made to do; reads JSON, writes a table for each step and the seconds that it took.
SCRIPT = """
import json, sys, time
from array import array
from swift.common.ring import RingBuilder
order = json.load(sys.stdin)
builder = RingBuilder(order["power"], order["replicas"], 0)
builder.set_overload(order["overload"])
for number, step in enumerate(order["steps"]):
    for one in step["add"]:
        builder.add_dev({"id": one["id"], "region": one["region"], "zone": one["zone"], "ip": one["host"],
                         "port": one["port"], "device": one["device"], "weight": one["weight"]})
    for one in step["remove"]:
        builder.remove_dev(one)
    began = time.process_time()
    builder.rebalance(seed=1)
    took = time.process_time() - began
    with open(f"{order['folder']}/{number}", "wb") as file:
        for row in builder._replica2part2dev:
            array("I", row).tofile(file)
    print(took, flush=True)
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--devices", type=int, default=1000)
    options.add_argument("--power", type=int, default=20, help="there are 2**POWER partitions")
    options.add_argument("--replicas", type=float, default=3.0)
    options.add_argument("--overload", type=float, default=0.0)
    options.add_argument("--seed", type=int, default=1, help="of the list of devices")
    options.add_argument("--upstream", metavar="DIR", type=Path, help="measure Swift's builder as well")
    chosen = options.parse_args()
    steps = furnish(chosen.devices, random.Random(chosen.seed))
    print(
        f"{'':10} {'step':>8} {'seconds':>8} {'balance %':>10} {'close %':>8} {'moved':>9} {'fewest':>9} {'more %':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        ours(chosen, steps, Path(folder))
        if chosen.upstream:
            theirs(chosen, steps, Path(folder))


def furnish(count: int, chance: random.Random) -> list[dict[str, list[Any]]]:
    """What happens in each step: devices to add, ids to remove."""

    def device(number: int) -> dict[str, Any]:
        host = number // DISKS
        return {
            "id": number, "region": host % ZONES % REGIONS, "zone": host % ZONES, "port": 6200,
            "host": f"10.{host // 62500}.{host // 250 % 250}.{host % 250}", "device": f"d{number}",
            "weight": chance.choice(WEIGHTS),
        }  # fmt: skip

    tenth = max(1, count // 10)
    return [
        {"add": [device(number) for number in range(count)], "remove": []},
        {"add": [device(number) for number in range(count, count + tenth)], "remove": []},
        {"add": [], "remove": chance.sample(range(count), tenth)},
    ]


def ours(chosen: argparse.Namespace, steps: list[dict[str, list[Any]]], folder: Path) -> None:
    builder = _builder(chosen, folder)
    for name, step in zip(("build", "add", "remove"), steps, strict=True):
        before = _apply(builder, step)
        fewest = _fewest(builder)
        began = time.process_time()
        builder.rebalance(seed=1)
        took = time.process_time() - began
        report("altostack", name, took, builder, before, fewest)
    began = time.perf_counter()
    builder.save()
    saved = time.perf_counter()
    ring = Ring.load(builder.path.with_suffix(".ring"))
    loaded = time.perf_counter()
    rounds = 100_000
    for number in range(rounds):
        ring.nodes(ring.locate("AUTH_test", "container", f"object-{number}")[0])
    found = (time.perf_counter() - loaded) / rounds
    size = builder.path.with_suffix(".ring").stat().st_size
    print(
        f"saved in {1e3 * (saved - began):.0f} ms, ring file of {size / 1e6:.1f} MB read in "
        f"{1e3 * (loaded - saved):.1f} ms; an object's devices found in {1e6 * found:.2f} us"
    )


def theirs(chosen: argparse.Namespace, steps: list[dict[str, list[Any]]], folder: Path) -> None:
    order = {
        "power": chosen.power, "replicas": chosen.replicas, "overload": chosen.overload, "steps": steps,
        "folder": str(folder),
    }  # fmt: skip
    run = subprocess.run(
        [str(chosen.upstream / "v" / "bin" / "python"), "-c", SCRIPT],
        input=json.dumps(order), text=True, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    builder = _builder(chosen, folder)
    for number, (name, step) in enumerate(zip(("build", "add", "remove"), steps, strict=True)):
        before = _apply(builder, step)
        fewest = _fewest(builder)
        flat = np.fromfile(folder / str(number), dtype=np.uint32).astype(np.int32)
        start = 0
        for row, end in zip(builder.table, builder.ends, strict=True):
            row[:end] = flat[start : start + end]
            start += end
        for gone in builder.state.removed:
            del builder.state.devices[gone]
        builder.state.removed = []
        report("upstream", name, float(run.stdout.split()[number]), builder, before, fewest)


def report(who: str, step: str, seconds: float, builder: Builder, before: Table, fewest: float) -> None:
    moved = int(((before >= 0) & (builder.table != before)).sum())
    more = f"{100 * (moved / fewest - 1):8.3f}" if fewest else f"{'':8}"
    print(
        f"{who:10} {step:>8} {seconds:8.2f} {survey.balance(builder):10.4f} "
        f"{survey.dispersion(builder).percent:8.4f} {moved:9d} {fewest:9.0f} {more}",
        flush=True,
    )


def _builder(chosen: argparse.Namespace, folder: Path) -> Builder:
    builder = Builder.create(
        folder / "bench.builder", part_power=chosen.power, replicas=chosen.replicas, min_part_hours=0
    )
    builder.set_overload(chosen.overload)
    return builder


def _apply(builder: Builder, step: Mapping[str, list[Any]]) -> Table:
    """Change the devices; the table before the rebalance."""
    for one in step["add"]:
        assert builder.add(**{name: value for name, value in one.items() if name != "id"}) == one["id"]
    for one in step["remove"]:
        builder.remove(one)
    return builder.table.copy()


def _fewest(builder: Builder) -> float:
    """Moves without which devices cannot hold what they should: all on devices that go, the surplus of others."""
    holding = builder.holding()
    plan = builder.plan()
    surplus: float = sum(
        max(0.0, holding[one.id] - float(share) * builder.parts)
        for one, share in zip(plan.tree.devices, plan.shares[-1], strict=True)
    )
    return surplus + sum(holding[one] for one in builder.state.removed)


if __name__ == "__main__":
    main()
