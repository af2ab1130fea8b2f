"""Allocation candidates a second with 1,000 providers, with nothing changing and with allocations between.

Each figure is of requests by 1, 8 and 32 clients to a simulated cloud. "after a change" claims and releases an
allocation before each search, so that nothing remembered is of use; only the searches are counted.
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from tests.bench.load import Answer, Figures, Script, request, run
from tests.stand import Stand, running

CLIENTS = (1, 8, 32)
PROVIDERS = 1000
VERSION = {"OpenStack_API_Version": "placement 1.39"}
STOCK = {"VCPU": 64, "MEMORY_MB": 262_144, "DISK_GB": 4_000}
SEARCH = "/placement/allocation_candidates?resources=VCPU:2,MEMORY_MB:2048,DISK_GB:20"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="of load for each figure")
    seconds = options.parse_args().seconds
    with running("--simulate", settings="[cloud]\nhosts = []\n") as stand:
        token = stand.token("admin")
        keys = furnish(stand, token)
        print(f"{'':28} {'clients':>7} {'a second':>9} {'p50 ms':>8} {'p95 ms':>8}")
        measure(stand, "all", seconds, lambda number: searches(token, SEARCH))
        measure(stand, "limit=10", seconds, lambda number: searches(token, f"{SEARCH}&limit=10"))
        measure(
            stand,
            "limit=10, after a change",
            seconds,
            lambda number: changing(token, keys[number], "&limit=10"),
        )
        measure(stand, "all, after a change", seconds, lambda number: changing(token, keys[number], ""))
        branches(stand, token, keys)
        measure(stand, "all, as trees of three", seconds, lambda number: searches(token, SEARCH))


def furnish(stand: Stand, token: str) -> list[str]:
    """Make the providers; their uuids."""
    keys = []
    for number in range(PROVIDERS):
        key = str(uuid.uuid4())
        call(stand, token, "POST", "/resource_providers", {"name": f"bench-{number}", "uuid": key})
        stock = {kind: {"total": total} for kind, total in STOCK.items()}
        body = {"resource_provider_generation": 0, "inventories": stock}
        call(stand, token, "PUT", f"/resource_providers/{key}/inventories", body)
        keys.append(key)
    return keys


def branches(stand: Stand, token: str, keys: list[str]) -> None:
    """Two providers below each, with what nobody asks for."""
    for number, key in enumerate(keys):
        for side in ("left", "right"):
            body = {"name": f"bench-{number}-{side}", "parent_provider_uuid": key}
            call(stand, token, "POST", "/resource_providers", body)


def call(stand: Stand, token: str, method: str, path: str, body: Any) -> None:
    status, answer = stand.call(method, f"/placement{path}", token, body, **VERSION)
    if status >= 300:
        raise RuntimeError(f"{method} {path}: {status} {answer}")


def searches(token: str, path: str) -> Script:
    asked = request("GET", path, token=token, **VERSION)
    while True:
        yield asked


def changing(token: str, provider: str, more: str) -> Script:
    """Searches, each after an allocation was made and removed."""
    search = request("GET", SEARCH + more, token=token, **VERSION)
    while True:
        path = f"/placement/allocations/{uuid.uuid4()}"
        body = {
            "allocations": {provider: {"resources": {"VCPU": 1}}},
            "project_id": "bench",
            "user_id": "bench",
            "consumer_generation": None,
            "consumer_type": "INSTANCE",
        }
        yield request("PUT", path, token=token, body=body, **VERSION)
        yield request("DELETE", path, token=token, **VERSION)
        yield search


def measure(stand: Stand, name: str, seconds: float, script: Callable[[int], Script]) -> None:
    for clients in CLIENTS:
        show(name, run(stand.port, script, clients=clients, seconds=seconds, count=is_search))


def is_search(answer: Answer) -> bool:
    """Whether it answers a search; RuntimeError if it is a refusal."""
    if answer.status >= 300:
        raise RuntimeError(f"{answer.status}: {answer.body[:300]!r}")
    if answer.status == 204:
        return False
    assert answer.body.startswith(b'{"allocation_requests":[{') or msgspec.json.decode(answer.body)
    return True


def show(name: str, figures: Figures) -> None:
    print(
        f"{name:28} {figures.clients:7} {figures.rate:9.1f} {figures.p50:8.2f} {figures.p95:8.2f}", flush=True
    )


if __name__ == "__main__":
    main()
