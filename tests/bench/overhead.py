"""What the cloud adds to a guest's start: from POST /servers to the first line of user space, against QEMU by hand.

Needs root and the Debian packages. In each round the same guest starts twice: by the API, and by hand with the very
command line that libvirt used, on the same disk and tap.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from altostack.compute.drivers.libvirtd import PrivateLibvirtd
from altostack.drivers import prefix
from tests.compute.drivers.measure_start import by_hand, until
from tests.stand import Stand, running

MARK = b"user space"
HOST = "node-1"


def main() -> None:
    """Print both times of each round, their medians, and the median of what the cloud added."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=10)
    rounds = options.parse_args().rounds
    with running() as stand:
        token = stand.token("admin")
        body = template(stand, token)
        pairs = [one_round(stand, token, body) for _ in range(rounds + 1)][
            1:
        ]  # the first one warms the caches
    for name, values in (("by the API", [p[0] for p in pairs]), ("by hand", [p[1] for p in pairs])):
        print(
            f"{name:12} median {statistics.median(values):.2f} s   ({' '.join(f'{v:.2f}' for v in values)})"
        )
    added = statistics.median(api - hand for api, hand in pairs)
    print(f"{'added':12} median {added:.2f} s of {len(pairs)} rounds")


def template(stand: Stand, token: str) -> dict[str, Any]:
    """A network, and the body that creates a server on it."""
    _, network = stand.call("POST", "/network/v2.0/networks", token, {"network": {"name": "bench"}})
    net = network["network"]["id"]
    subnet = {"subnet": {"network_id": net, "cidr": "10.90.0.0/24", "ip_version": 4}}
    stand.call("POST", "/network/v2.0/subnets", token, subnet)
    _, images = stand.call("GET", "/image/v2/images?name=starter", token)
    _, flavors = stand.call("GET", "/compute/v2.1/flavors", token)
    flavor = next(one["id"] for one in flavors["flavors"] if one["name"] == "m1.starter")
    image = images["images"][0]["id"]
    return {"server": {"name": "bench", "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": net}]}}


def one_round(stand: Stand, token: str, body: dict[str, Any]) -> tuple[float, float]:
    """Seconds by the API and by hand."""
    root = stand.state / "nodes" / HOST
    began = time.monotonic()
    _, made = stand.call("POST", "/compute/v2.1/servers", token, body)
    key = made["server"]["id"]
    until(root / "guests" / key / "console.log", MARK)
    by_api = time.monotonic() - began
    _, ports = stand.call("GET", f"/network/v2.0/ports?device_id={key}", token)
    tap = "tap" + ports["ports"][0]["id"][:11]
    wait_for(stand, token, key, "ACTIVE")
    stand.call("POST", f"/compute/v2.1/servers/{key}/action", token, {"os-stop": None})
    wait_for(stand, token, key, "SHUTOFF")
    node = PrivateLibvirtd(root=root / "libvirt", netns=None, hostname=HOST)
    console = stand.state / "by-hand.log"
    command = by_hand(node.outside(f"/var/log/libvirt/qemu/{key}.log"), console, tap, stand.state)
    console.unlink(missing_ok=True)
    (stand.state / "vnc.sock").unlink(missing_ok=True)
    namespace = Path("/run/netns") / f"{prefix(stand.state, HOST)}-node"
    began = time.monotonic()
    process = subprocess.Popen(["nsenter", f"--net={namespace}", *command])
    until(console, MARK)
    hand = time.monotonic() - began
    process.kill()
    process.wait()
    stand.call("DELETE", f"/compute/v2.1/servers/{key}", token)
    while stand.call("GET", f"/compute/v2.1/servers/{key}", token)[0] == 200:
        time.sleep(0.05)
    return by_api, hand


def wait_for(stand: Stand, token: str, key: str, status: str) -> None:
    """Until the server has the status. Raises RuntimeError when it is in error."""
    while True:
        _, found = stand.call("GET", f"/compute/v2.1/servers/{key}", token)
        if found["server"]["status"] == status:
            return
        if found["server"]["status"] == "ERROR":
            raise RuntimeError(found["server"].get("fault"))
        time.sleep(0.05)


if __name__ == "__main__":
    main()
