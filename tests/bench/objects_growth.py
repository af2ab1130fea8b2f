"""What a PUT costs as an object store grows: with 1, 100,000 and 1,000,000 names in a container, and 10,000 containers.

The container is filled from within, line by line as storage nodes record them; the PUTs that are measured, of one byte,
come by HTTP from 8 clients.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from altostack.objectstore.storage import Row, Spot
from tests.bench.load import Answer, Figures, Script, request, run
from tests.objectstore.world import World, world

PIPELINE = (
    "catch gatekeeper health listing bulk tempurl formpost ratelimit cors staticweb copy quotas slo dlo versions "
    "symlink service"
)
_ACCOUNT = "AUTH_bench"


def main() -> None:
    """Print a line a size: names in the container, PUTs a second, and in relation to the first."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="of load for each figure")
    options.add_argument("--sizes", type=int, nargs="*", default=(1, 100_000, 1_000_000))
    options.add_argument("--containers", type=int, default=10_000)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="altostack-bench-") as folder:
        made = world(Path(folder), pipeline=PIPELINE)
        try:
            port = int(made.serve().rpartition(":")[2])
            first = 0.0
            assert made.put(f"/v1/{_ACCOUNT}/grows").good
            for size in sorted(chosen.sizes):
                fill(made, size)
                found = puts(port, "grows", chosen.seconds)
                first = first or found.rate
                show(size, "names", found, first)
            for number in range(chosen.containers):
                made.put(f"/v1/{_ACCOUNT}/one-of-many-{number}")
            found = puts(port, "one-of-many-77", chosen.seconds)
            show(chosen.containers, "containers", found, first)
        finally:
            made.close()


def show(count: int, what: str, found: Figures, first: float) -> None:
    print(
        f"{count:9} {what:10} {found.rate:8.0f} PUT/s  p95 {found.p95:6.1f} ms  x {found.rate / first:.2f}",
        flush=True,
    )


def fill(made: World, size: int) -> None:
    """So many names in the container, those of before included."""
    store = made.store
    part, digest = store.rings.container.locate(_ACCOUNT, "grows")
    device = store.rings.container.nodes(part)[0]
    spot = Spot(device.device, part, digest)
    have = store.node(device).info(spot, _ACCOUNT, "grows").count
    began = time.perf_counter()
    for rows in batches(have, size):
        store.node(device).record(spot, _ACCOUNT, "grows", rows)
    if size > have:
        print(f"          filled at {(size - have) / (time.perf_counter() - began):.0f} lines/s")


def batches(have: int, size: int) -> Iterator[list[Row]]:
    for start in range(have, size, 1000):
        yield [
            Row(
                name=f"filled/{number:08d}", timestamp=f"1700000000.{number:09d}", size=1, content_type="text/plain",
                etag="0" * 32,
            )
            for number in range(start, min(start + 1000, size))
        ]  # fmt: skip


def puts(port: int, container: str, seconds: float) -> Figures:
    def script(number: int) -> Script:
        count = 0
        while True:
            count += 1
            yield request("PUT", f"/v1/{_ACCOUNT}/{container}/{time.time_ns()}-{number}-{count}", body=b"x")

    def counted(answer: Answer) -> bool:
        if answer.status != 201:
            raise RuntimeError(f"{answer.status}: {answer.body[:300]!r}")
        return True

    return run(port, script, clients=8, seconds=seconds, count=counted)


if __name__ == "__main__":
    main()
