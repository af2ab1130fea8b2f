"""The model's scale: 1,000 servers by 32 clients over 100 simulated nodes, and pages out of 1,000 servers."""

from __future__ import annotations

import argparse
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.stand import Stand, percentile, running


def main() -> None:
    """Print servers made ACTIVE a second, the create request's percentiles, and those of a detailed page of 100."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--servers", type=int, default=1000)
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--nodes", type=int, default=100)
    chosen = options.parse_args()
    with running("--simulate", environ=hosts(chosen.nodes)) as stand:
        burst(stand, chosen.servers, chosen.clients, chosen.nodes)
    # One simulated node has 32 processors: more of them are promised than usual, so that all fit.
    with running("--simulate", environ={"ALTOSTACK__COMPUTE__CPU_RATIO": "100"}) as stand:
        print("the same burst onto one node, in four parts:")
        burst(stand, chosen.servers, chosen.clients, 1)


def hosts(count: int) -> dict[str, str]:
    """The environment that gives the cloud so many nodes."""
    names = ", ".join(f'"node-{n}"' for n in range(1, count + 1))
    return {"ALTOSTACK__CLOUD__HOSTS": f"[{names}]"}


def burst(stand: Stand, servers: int, clients: int, nodes: int) -> None:
    """Create and wait; print."""
    admin = stand.token("admin")
    _, projects = stand.call("GET", "/identity/v3/projects?name=admin", admin)
    project = projects["projects"][0]["id"]
    unlimited = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
    stand.call("PUT", f"/compute/v2.1/os-quota-sets/{project}", admin, unlimited)
    ports = {"quota": {"port": -1, "network": -1, "subnet": -1}}
    stand.call("PUT", f"/network/v2.0/quotas/{project}", admin, ports)
    _, network = stand.call("POST", "/network/v2.0/networks", admin, {"network": {"name": "bench"}})
    subnet = {"subnet": {"network_id": network["network"]["id"], "cidr": "10.64.0.0/16", "ip_version": 4}}
    stand.call("POST", "/network/v2.0/subnets", admin, subnet)
    _, images = stand.call("GET", "/image/v2/images?name=starter", admin)
    _, flavors = stand.call("GET", "/compute/v2.1/flavors", admin)
    flavor = next(one for one in flavors["flavors"] if one["name"] == "m1.starter")
    wait_for_nodes(stand, admin, nodes)
    body = {
        "server": {
            "name": "bench",
            "imageRef": images["images"][0]["id"],
            "flavorRef": flavor["id"],
            "networks": [{"uuid": network["network"]["id"]}],
        }
    }
    times: list[float] = []
    refused: list[Any] = []
    lock = threading.Lock()

    def create(_: int) -> None:
        began = time.monotonic()
        status, answer = stand.call("POST", "/compute/v2.1/servers", admin, body)
        with lock:
            times.append(time.monotonic() - began)
            if status != 202:
                refused.append((status, answer))

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(create, range(servers)))
    asked = time.monotonic() - began
    quarters: list[float] = []
    while time.monotonic() - began < 600:
        building = len(listed(stand, admin, "BUILD"))
        while len(quarters) < 4 and servers - building >= servers * (len(quarters) + 1) / 4:
            quarters.append(time.monotonic() - began)
        if not building:
            break
        time.sleep(0.5)
    took = time.monotonic() - began
    states = {status: len(listed(stand, admin, status)) for status in ("ACTIVE", "ERROR", "BUILD")}
    print(f"{servers} servers, {clients} clients, {nodes} nodes: {states}, {len(refused)} refused")
    if refused:
        print(f"  first refusal: {refused[0]}")
    print(
        f"  {states.get('ACTIVE', 0) / took:.1f} servers made ACTIVE a second; all asked for after {asked:.1f} s"
    )
    print(f"  each quarter done after {', '.join(f'{q:.1f}' for q in quarters)} s")
    print(
        f"  create request: p50 {1e3 * percentile(times, 0.5):.0f} ms, p95 {1e3 * percentile(times, 0.95):.0f} ms"
    )
    pages = []
    for _ in range(60):
        start = time.monotonic()
        _, page = stand.call("GET", "/compute/v2.1/servers/detail?limit=100", admin)
        pages.append(time.monotonic() - start)
    print(
        f"  detailed page of {len(page['servers'])} out of {servers}: p50 {1e3 * percentile(pages, 0.5):.1f} ms, "
        f"p95 {1e3 * percentile(pages, 0.95):.1f} ms"
    )


def wait_for_nodes(stand: Stand, token: str, nodes: int) -> None:
    """Until every node's hypervisor has reported."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        _, found = stand.call("GET", "/compute/v2.1/os-hypervisors", token)
        if len(found["hypervisors"]) >= nodes:
            return
        time.sleep(0.2)
    raise RuntimeError("the nodes did not report")


def listed(stand: Stand, token: str, status: str) -> list[Any]:
    """Every server of that status."""
    found: list[Any] = []
    marker = ""
    while True:
        _, page = stand.call("GET", f"/compute/v2.1/servers?status={status}&limit=1000{marker}", token)
        found += page["servers"]
        if len(page["servers"]) < 1000:
            return found
        marker = f"&marker={page['servers'][-1]['id']}"


if __name__ == "__main__":
    main()
