"""A real server, by the unmodified client: the tests of this file run in order and build on each other."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from altostack.drivers import prefix
from tests.real.conftest import RealCloud, Refused, leftovers, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

FACTS: dict[str, Any] = {}  # ids and addresses that later tests use


def status(cloud: RealCloud, server: str) -> str:
    return str(cloud.ask("server", "show", server)["status"])


def boots(cloud: RealCloud, server: str, times: int = 1) -> None:
    """Wait until the console has seen so many boots finish."""
    until(lambda: cloud.console(server).count("boot finished") >= times, 120)


def test_images_flavors_and_the_external_network_are_there(cloud: RealCloud) -> None:
    assert cloud.ask("image", "show", "starter")["status"] == "active"
    assert any(one["Name"] == "m1.starter" for one in cloud.ask("flavor", "list"))
    assert cloud.ask("network", "show", "public")["router:external"] is True


def test_key_network_and_router(cloud: RealCloud) -> None:
    cloud.openstack("keypair", "create", "--public-key", f"{cloud.key}.pub", "me")
    cloud.openstack("network", "create", "net")
    cloud.openstack("subnet", "create", "sub", "--network", "net", "--subnet-range", "10.1.0.0/24")
    cloud.openstack("router", "create", "router")
    cloud.openstack("router", "set", "router", "--external-gateway", "public")
    cloud.openstack("router", "add", "subnet", "router", "sub")
    cloud.openstack("security", "group", "create", "open")


def test_a_server_becomes_active_and_its_console_shows_the_boot(cloud: RealCloud) -> None:
    script = Path(cloud.state.parent) / "user-data"
    script.write_text("#!/bin/sh\necho the user data ran\n")
    made = cloud.ask(
        "server", "create", "one", "--image", "starter", "--flavor", "m1.starter", "--network", "net",
        "--key-name", "me", "--security-group", "open", "--user-data", str(script), "--wait",
    )  # fmt: skip
    assert made["status"] == "ACTIVE"
    FACTS["one"] = made["id"]
    boots(cloud, "one")
    log = cloud.console("one")
    assert "user space" in log
    assert "the user data ran" in log


def test_a_floating_ip_answers_only_after_the_rule(cloud: RealCloud) -> None:
    made = cloud.ask("floating", "ip", "create", "public")
    address = FACTS["address"] = made["floating_ip_address"]
    cloud.openstack("server", "add", "floating", "ip", "one", address)
    assert not cloud.pings(address)
    assert cloud.ssh(address, "true").returncode != 0
    cloud.openstack("security", "group", "rule", "create", "open", "--protocol", "icmp")
    cloud.openstack("security", "group", "rule", "create", "open", "--protocol", "tcp", "--dst-port", "22")
    until(lambda: cloud.pings(address), 20)
    assert cloud.says(address, "hostname") == "one"


def test_servers_on_one_network_meet_and_strangers_do_not(cloud: RealCloud) -> None:
    cloud.openstack(
        "server", "create", "two", "--image", "starter", "--flavor", "m1.starter", "--network", "net",
        "--key-name", "me", "--security-group", "open", "--wait",
    )  # fmt: skip
    boots(cloud, "two")
    FACTS["two"] = next(iter(cloud.ask("server", "show", "two")["addresses"].values()))[0]
    assert cloud.says(FACTS["address"], f"ping -c 1 -W 3 {FACTS['two']} >/dev/null && echo met") == "met"
    cloud.openstack("network", "create", "far", user="admin")
    cloud.openstack(
        "subnet", "create", "far-sub", "--network", "far", "--subnet-range", "10.2.0.0/24", user="admin"
    )
    cloud.openstack(
        "server", "create", "stranger", "--image", "starter", "--flavor", "m1.starter", "--network", "far", "--wait",
        user="admin",
    )  # fmt: skip
    stranger = next(iter(cloud.ask("server", "show", "stranger", user="admin")["addresses"].values()))[0]
    assert cloud.says(FACTS["address"], f"ping -c 1 -W 3 {stranger} >/dev/null || echo nothing") == "nothing"
    cloud.openstack("server", "delete", "stranger", "--wait", user="admin")


def test_a_volume_travels_between_servers(cloud: RealCloud) -> None:
    cloud.openstack("volume", "create", "--size", "1", "vol")
    until(lambda: cloud.ask("volume", "show", "vol")["status"] == "available", 60)
    cloud.openstack("server", "add", "volume", "one", "vol")
    until(lambda: cloud.ask("volume", "show", "vol")["status"] == "in-use", 60)
    address = FACTS["address"]
    device = cloud.says(address, "ls /dev/vd? | tail -1")
    assert device == "/dev/vdb"
    size = cloud.says(address, "cat /sys/block/vdb/size")
    assert int(size) == 2**30 // 512
    cloud.says(
        address, "echo kept by the volume | dd of=/dev/vdb bs=512 conv=sync 2>/dev/null && sync && echo ok"
    )
    cloud.openstack("server", "remove", "volume", "one", "vol")
    until(lambda: cloud.ask("volume", "show", "vol")["status"] == "available", 60)
    until(lambda: cloud.says(address, "ls /dev/vd? | wc -l") == "1", 30)
    cloud.openstack("server", "add", "volume", "two", "vol")
    until(lambda: cloud.ask("volume", "show", "vol")["status"] == "in-use", 60)
    cloud.openstack("server", "remove", "floating", "ip", "one", address)
    cloud.openstack("server", "add", "floating", "ip", "two", address)
    until(lambda: cloud.ssh(address, "hostname").stdout.strip() == "two", 40)
    assert cloud.says(address, "head -c 18 /dev/vdb") == "kept by the volume"
    cloud.openstack("server", "remove", "volume", "two", "vol")
    until(lambda: cloud.ask("volume", "show", "vol")["status"] == "available", 60)
    cloud.openstack("server", "remove", "floating", "ip", "two", address)
    cloud.openstack("server", "add", "floating", "ip", "one", address)


def test_power(cloud: RealCloud) -> None:
    cloud.openstack("server", "pause", "one")
    until(lambda: status(cloud, "one") == "PAUSED", 30)
    cloud.openstack("server", "unpause", "one")
    until(lambda: status(cloud, "one") == "ACTIVE", 30)
    cloud.openstack("server", "suspend", "one")
    until(lambda: status(cloud, "one") == "SUSPENDED", 60)
    cloud.openstack("server", "resume", "one")
    until(lambda: status(cloud, "one") == "ACTIVE", 60)
    assert cloud.says(FACTS["address"], "hostname") == "one"
    cloud.openstack("server", "stop", "one")
    until(lambda: status(cloud, "one") == "SHUTOFF", 90)
    cloud.openstack("server", "start", "one")
    until(lambda: status(cloud, "one") == "ACTIVE", 60)
    assert cloud.says(FACTS["address"], "hostname") == "one"
    for kind in ("--soft", "--hard"):
        before = _boot(cloud)
        assert before
        cloud.openstack("server", "reboot", kind, "one")
        until(lambda before=before: _boot(cloud) not in ("", before), 120)  # type: ignore[misc]  # bound now
        until(lambda: status(cloud, "one") == "ACTIVE", 30)


def _boot(cloud: RealCloud) -> str:
    """The id that the guest's kernel made at this boot; empty while SSH does not answer."""
    return cloud.ssh(FACTS["address"], "cat /proc/sys/kernel/random/boot_id").stdout.strip()


def test_a_snapshot_boots(cloud: RealCloud) -> None:
    cloud.says(FACTS["address"], "echo remembered > /root/mark && sync && echo ok")
    cloud.openstack("server", "image", "create", "--name", "snap", "--wait", "one")
    assert cloud.ask("image", "show", "snap")["status"] == "active"
    cloud.openstack(
        "server", "create", "again", "--image", "snap", "--flavor", "m1.starter", "--network", "net",
        "--key-name", "me", "--security-group", "open", "--wait",
    )  # fmt: skip
    boots(cloud, "again")
    again = next(iter(cloud.ask("server", "show", "again")["addresses"].values()))[0]
    cloud.openstack("server", "remove", "floating", "ip", "one", FACTS["address"])
    cloud.openstack("server", "add", "floating", "ip", "again", FACTS["address"])
    until(lambda: cloud.ssh(FACTS["address"], "hostname").stdout.strip() == "again", 40)
    assert cloud.says(FACTS["address"], "cat /root/mark") == "remembered", again
    cloud.openstack("server", "remove", "floating", "ip", "again", FACTS["address"])
    cloud.openstack("server", "add", "floating", "ip", "one", FACTS["address"])
    cloud.openstack("server", "delete", "--wait", "again")
    cloud.openstack("image", "delete", "snap")


@pytest.mark.parametrize("end", ["revert", "confirm"])
def test_resize(cloud: RealCloud, end: str) -> None:
    cloud.openstack("server", "resize", "--flavor", "m1.starter.large", "one")
    until(lambda: status(cloud, "one") == "VERIFY_RESIZE", 120)
    memory = int(cloud.says(FACTS["address"], "awk '/MemTotal/{print $2}' /proc/meminfo"))
    assert memory > 130_000
    cloud.openstack("server", "resize", end, "one")
    until(lambda: status(cloud, "one") == "ACTIVE", 120)
    memory = int(cloud.says(FACTS["address"], "awk '/MemTotal/{print $2}' /proc/meminfo"))
    assert (memory > 130_000) == (end == "confirm")


def test_the_console_opens_over_a_websocket(cloud: RealCloud) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    url = cloud.ask("console", "url", "show", "--novnc", "one")["url"]
    parts = urlsplit(url)
    path = unquote(parse_qs(parts.query)["path"][0])
    with connect(f"ws://{parts.netloc}/{path}", subprotocols=["binary"]) as console:  # type: ignore[list-item]  # a str is one
        assert re.match(rb"RFB 003\.\d{3}\n", console.recv(timeout=10))  # type: ignore[arg-type]  # binary frames
    wrong = path[:-4] + "0000"
    with pytest.raises(InvalidStatus):
        connect(f"ws://{parts.netloc}/{wrong}", subprotocols=["binary"])  # type: ignore[list-item]  # a str is one
    with socket.create_connection((parts.hostname, parts.port), timeout=5):
        pass


def test_errors_teach(cloud: RealCloud) -> None:
    cloud.openstack(
        "flavor", "create", "--ram", "900000", "--vcpus", "500", "--disk", "1", "huge", user="admin"
    )
    with pytest.raises(Refused, match="Quota exceeded"):
        cloud.openstack(
            "server", "create", "never", "--image", "starter", "--flavor", "huge", "--network", "net"
        )
    cloud.openstack("quota", "set", "--cores", "-1", "--ram", "-1", "demo", user="admin")
    made = cloud.ask(
        "server", "create", "never", "--image", "starter", "--flavor", "huge", "--network", "net"
    )
    until(lambda: status(cloud, "never") == "ERROR", 60)
    fault = cloud.ask("server", "show", "never")["fault"]
    assert "No valid host was found" in fault["message"]
    story = cloud.alto("explain", made["id"]).stdout
    assert "schedule" in story
    assert "No valid host" in story
    cloud.openstack("server", "delete", "--wait", "never")


def test_delete_leaves_nothing(cloud: RealCloud) -> None:
    for name in ("one", "two"):
        cloud.openstack("server", "delete", "--wait", name)
    cloud.openstack("volume", "delete", "vol")
    cloud.openstack("floating", "ip", "delete", FACTS["address"])
    cloud.openstack("router", "remove", "subnet", "router", "sub")
    cloud.openstack("router", "delete", "router")
    cloud.openstack("network", "delete", "net")
    cloud.openstack("network", "delete", "far", user="admin")
    node = cloud.state / "nodes" / "node-1"
    until(lambda: not any((node / "guests").iterdir()), 20)
    until(
        lambda: not [p for p in (cloud.state / "volumes").rglob("*") if p.is_file() and "vol" in p.name], 20
    )
    names = prefix(cloud.state, "node-1")
    links = cloud.outside("true").returncode
    assert links == 0
    taps = until(lambda: _taps(names) or "none", 20)
    assert taps == "none"
    usages = cloud.ask("hypervisor", "stats", "show", user="admin")
    assert usages["running_vms"] == 0
    assert usages["vcpus_used"] == 0


def _taps(names: str) -> list[str]:
    import subprocess

    shown = subprocess.run(
        ["ip", "-n", f"{names}-node", "-o", "link", "show"], capture_output=True, text=True, check=True
    ).stdout
    return re.findall(r"\btap[0-9a-f-]{11}", shown)


def test_down_leaves_nothing(cloud: RealCloud) -> None:
    names = prefix(cloud.state, "node-1")
    assert leftovers(names) != []
    down = cloud.alto("down", timeout=120)
    assert down.returncode == 0
    assert leftovers(names) == []
    mounts = Path("/proc/mounts").read_text()
    assert str(cloud.state) not in mounts
