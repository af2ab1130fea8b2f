"""DHCP by a real client, and metadata by the way that it learns."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from altostack.network.drivers.base import (
    DhcpOption,
    HostSpec,
    NetworkSpec,
    NodeNetworks,
    PortSpec,
    Route,
    SecurityGroupSpec,
    Status,
    SubnetSpec,
)
from tests.network.drivers.lab import OUTSIDE, PUBLIC, Guest, Lab, connect, network, port, router, run, uid

pytestmark = pytest.mark.real

NOTHING = SecurityGroupSpec(id=uid("8", 1))
SCRIPT = """#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev $interface
ip addr add $ip/$mask dev $interface
[ -n "$mtu" ] && ip link set $interface mtu $mtu
set -- $staticroutes
while [ $# -ge 2 ]; do ip route replace $1 via $2; shift 2; done
env
"""


def lease(guest: Guest, tmp_path: Path) -> dict[str, str]:
    """What udhcpc was told, after it configured the interface; empty if nobody answered."""
    script = tmp_path / "bound"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    command = "busybox udhcpc -i eth0 -f -n -q -t 3 -T 1 -O mtu -O staticroutes -O 66 -O 67 -O domain -s"
    done = guest.run(*command.split(), str(script))
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def curl(guest: Guest, path: str, *headers: str, address: str = "169.254.169.254", port: int = 80) -> str:
    """The raw answer to a GET."""
    with guest.connect(address, port) as connection:
        connection.settimeout(2)
        lines = (f"GET {path} HTTP/1.1", f"Host: {address}", "Connection: close", *headers)
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        answer = b""
        while data := connection.recv(4096):
            answer += data
    return answer.decode()


def test_a_client_gets_its_lease_with_no_rules_at_all(lab: Lab, tmp_path: Path) -> None:
    options = (DhcpOption(name="bootfile-name", value="boot.ipxe"), DhcpOption(name="66", value="10.0.0.99"))
    one = port(1, "10.0.0.11", groups=(NOTHING.id,), dns_name="web", dhcp_options=options)
    two = port(2, "10.0.0.12", groups=(NOTHING.id,))
    net = network(1, one, two, dhcp=True, dns_domain="example.org.")
    subnet = replace(
        net.subnets[0],
        dns_nameservers=("192.0.2.53", "192.0.2.54"),
        host_routes=(Route(destination="192.0.2.0/24", nexthop="10.0.0.7"),),
    )
    net = replace(net, subnets=(subnet,), mtu=1400)
    lab.converge(networks=(net,), security_groups=(NOTHING,))
    a, b = lab.guest(one, configure=False), lab.guest(two, configure=False)
    told = lease(a, tmp_path)
    assert told["ip"] == "10.0.0.11"
    assert told["mask"] == "24"
    assert told["mtu"] == "1400"
    assert told["dns"] == "192.0.2.53 192.0.2.54"
    assert told["domain"] == "example.org"
    assert told["hostname"] == "web"
    assert told["staticroutes"] == "192.0.2.0/24 10.0.0.7 169.254.169.254/32 10.0.0.2 0.0.0.0/0 10.0.0.1"
    assert told.get("bootfile") == "boot.ipxe", told
    assert told.get("tftp") == "10.0.0.99", sorted(told.items())
    assert lease(b, tmp_path)["ip"] == "10.0.0.12"
    assert lease(b, tmp_path)["hostname"] == "host-10-0-0-12"
    assert " mtu 1400 " in a.run("ip", "link", "show", "eth0").stdout

    # Metadata by the route that came with the lease, still with no rules; the guest is who its address says.
    answer = curl(a, "/latest", "X-Forwarded-For: 10.0.0.12", "X-Instance-ID: someone")
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert answer.endswith(f"{net.id} 10.0.0.11 GET /latest")
    assert curl(b, "/openstack").endswith(f"{net.id} 10.0.0.12 GET /openstack")
    assert lab.asked[0].headers["x-instance-id"] == "someone"
    assert lab.asked[0].router_id is None


def test_metadata_through_the_router_for_guests_that_know_only_a_gateway(lab: Lab) -> None:
    one, two = (
        port(1, "10.0.0.11", groups=(NOTHING.id,)),
        port(2, "10.1.0.11", groups=(NOTHING.id,), subnet=uid("5", 2)),
    )
    first, second = network(1, one), network(2, two, net="10.1.0")
    gate = router(1, (first, "10.0.0.1/24"), (second, "10.1.0.1/24"), address="172.24.4.10")
    lab.converge(
        networks=(first, second, PUBLIC),
        routers=(gate,),
        security_groups=(NOTHING,),
        external_networks=(OUTSIDE,),
    )
    a, b = lab.guest(one), lab.guest(two)
    a.route("10.0.0.1")
    b.route("10.1.0.1")
    assert curl(a, "/x").endswith(f"{gate.id} 10.0.0.11 GET /x")
    assert curl(b, "/x").endswith(f"{gate.id} 10.1.0.11 GET /x")
    assert lab.asked[0].network_id is None
    # Nobody outside gets to it by taking the router as next hop.
    assert run(lab.outside, "ip", "route", "add", "169.254.169.254", "via", "172.24.4.10").returncode == 0
    with pytest.raises(TimeoutError):
        connect(lab.kernel, lab.outside, "169.254.169.254", 80)


def test_metadata_survives_bad_requests(lab: Lab) -> None:
    one = port(1, "10.0.0.11", groups=(NOTHING.id,))
    net = network(1, one, dhcp=True)
    lab.converge(networks=(net,), security_groups=(NOTHING,))
    a = lab.guest(one)
    a.run("ip", "route", "add", "169.254.169.254", "via", "10.0.0.2")

    def say(data: bytes, *more: bytes) -> bytes:
        with a.connect("169.254.169.254", 80) as connection:
            connection.settimeout(2)
            try:
                for part in (data, *more):
                    connection.sendall(part)
                answer = b""
                while received := connection.recv(65536):
                    answer += received
                    if not more and b"keep-alive" in answer:
                        break
            except OSError:
                pass
            return answer

    assert b" 400 " in say(b"rubbish\r\n\r\n")
    assert b" 400 " in say(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
    assert b" 400 " in say(b"GET nothing HTTP/1.1\r\n\r\n")
    assert b" 405 " in say(b"DELETE / HTTP/1.1\r\n\r\n")
    assert b" 413 " in say(b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n")
    assert b" 411 " in say(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b" 431 " in say(b"GET / HTTP/1.1\r\nX: " + b"a" * 20000)
    assert b" 500 " in say(b"GET /broken HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert b"on purpose" not in say(b"GET /broken HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert say(b"HEAD /x HTTP/1.1\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\n")
    two = say(
        b"POST /p HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", b"GET /q HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    assert two.count(b"HTTP/1.1 200 OK") == 2
    assert lab.asked[-2].body == b"body"

    # One guest cannot hold all connections: more than its share are closed, and it is served again afterwards.
    held = [a.connect("169.254.169.254", 80) for _ in range(20)]
    assert any(_is_closed(connection) for connection in held)
    for connection in held:
        connection.close()
    time.sleep(0.1)
    assert curl(a, "/again").endswith("GET /again")


def _is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_an_address_moves_to_the_next_port(lab: Lab, tmp_path: Path) -> None:
    """The second owner of an address gets it although the first's lease has a day to run."""
    one, two = port(1, "10.0.0.11", groups=(NOTHING.id,)), port(2, "10.0.0.11", groups=(NOTHING.id,))
    lab.converge(networks=(network(1, one, dhcp=True),), security_groups=(NOTHING,))
    a = lab.guest(one, configure=False)
    assert lease(a, tmp_path)["ip"] == "10.0.0.11"
    server = lab.driver.inventory()["processes"]
    a.unplug()
    lab.converge(networks=(network(1, two, dhcp=True),), security_groups=(NOTHING,))
    b = lab.guest(two, configure=False)
    assert lease(b, tmp_path)["ip"] == "10.0.0.11"
    assert lab.driver.inventory()["processes"] == server


def test_strangers_get_nothing(lab: Lab, tmp_path: Path) -> None:
    one = port(1, "10.0.0.11", port_security=False)
    stranger = replace(one, mac="52:54:00:00:66:66")
    lab.converge(networks=(network(1, one, dhcp=True),))
    assert lease(lab.guest(stranger, configure=False), tmp_path) == {}


def test_subnets_change_under_a_running_server(lab: Lab, tmp_path: Path) -> None:
    one = port(1, "10.0.0.11", groups=(NOTHING.id,))
    net = network(1, one, dhcp=True)
    lab.converge(networks=(net,), security_groups=(NOTHING,))
    a = lab.guest(one, configure=False)
    assert lease(a, tmp_path)["ip"] == "10.0.0.11"
    pids = _servers(lab)
    changed = replace(net, subnets=(replace(net.subnets[0], gateway="10.0.0.254"),))
    lab.converge(networks=(changed,), security_groups=(NOTHING,))
    assert lease(a, tmp_path)["staticroutes"].endswith("0.0.0.0/0 10.0.0.254")
    assert _servers(lab) == pids
    closed = replace(net, subnets=(replace(net.subnets[0], enable_dhcp=False),))
    lab.converge(networks=(closed,), security_groups=(NOTHING,))
    assert _servers(lab) == {}
    assert lease(a, tmp_path) == {}


def test_a_server_that_died_comes_back(lab: Lab, tmp_path: Path) -> None:
    one = port(1, "10.0.0.11", groups=(NOTHING.id,))
    net = network(1, one, dhcp=True)
    lab.converge(networks=(net,), security_groups=(NOTHING,))
    (pid,) = _servers(lab)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    lab.converge(networks=(net,), security_groups=(NOTHING,))
    assert list(_servers(lab)) not in ([pid], [])
    assert lease(lab.guest(one, configure=False), tmp_path)["ip"] == "10.0.0.11"


def test_a_server_is_found_again_by_the_next_driver(lab: Lab) -> None:
    one = port(1, "10.0.0.11", groups=(NOTHING.id,))
    net = network(1, one, dhcp=True)
    lab.converge(networks=(net,), security_groups=(NOTHING,))
    pids = _servers(lab)
    lab.restart()
    assert _servers(lab) == pids
    lab.converge(networks=(net,), security_groups=(NOTHING,))
    assert _servers(lab) == pids


def test_ports_of_other_nodes_are_answered_too(lab: Lab, tmp_path: Path) -> None:
    one = port(1, "10.0.0.11", port_security=False)
    far = HostSpec(port_id=uid("a", 9), mac="52:54:00:00:09:09", fixed_ips=port(9, "10.0.0.19").fixed_ips)
    net = network(1, one, dhcp=True, hosts=(far,))
    lab.converge(networks=(net,))
    guest = lab.guest(replace(one, mac=far.mac), configure=False)
    assert lease(guest, tmp_path)["ip"] == "10.0.0.19"


@pytest.mark.parametrize(
    "changes",
    [
        {"dns_name": "web\ndhcp-script=/bin/sh"},
        {"dns_name": "a,b"},
        {"dhcp_options": (DhcpOption(name="bootfile-name", value="x\ndhcp-option=3,6.6.6.6"),)},
        {"dhcp_options": (DhcpOption(name="bootfile-name\n", value="x"),)},
        {"dhcp_options": (DhcpOption(name="no-such-option", value="x"),)},
        {"dhcp_options": (DhcpOption(name="67", value='"quoted'),)},
        {"dhcp_options": (DhcpOption(name="67", value="a # b"),)},
        {"dhcp_options": (DhcpOption(name="67", value=""),)},
        {"dhcp_options": (DhcpOption(name="0", value="x"),)},
    ],
)
def test_nothing_of_a_tenant_becomes_a_command(lab: Lab, changes: dict[str, object], tmp_path: Path) -> None:
    bad: PortSpec = replace(port(1, "10.0.0.11", groups=(NOTHING.id,)), **changes)  # type: ignore[arg-type]  # several fields
    good = port(2, "10.0.0.12", groups=(NOTHING.id,))
    desired = NodeNetworks(networks=(network(1, bad, good, dhcp=True),), security_groups=(NOTHING,))
    for _ in range(2):  # it is told again, not only when it is new
        observed = lab.driver.converge(desired)
        assert observed.ports[bad.id].status is Status.ERROR
        assert observed.ports[good.id].status is Status.ACTIVE
    files = lab.driver.inventory()["files"]
    assert not any("script" in text or "6.6.6.6" in text for text in files.values())
    assert lease(lab.guest(good, configure=False), tmp_path)["ip"] == "10.0.0.12"


@pytest.mark.parametrize(
    "subnet",
    [
        SubnetSpec(id="s\ndhcp-script=/bin/sh", cidr="10.0.0.0/24"),
        SubnetSpec(id=uid("5", 1), cidr="10.0.0.0/24\nx"),
        SubnetSpec(id=uid("5", 1), cidr="10.0.0.0/24", gateway="10.0.0.1\nx"),
        SubnetSpec(id=uid("5", 1), cidr="10.0.0.0/24", dns_nameservers=("fe80::1%\nx",)),
    ],
)
def test_a_bad_subnet_fails_its_network_alone(lab: Lab, subnet: SubnetSpec) -> None:
    one, two = (
        port(1, "10.0.0.11", port_security=False),
        port(2, "10.1.0.11", port_security=False, subnet=uid("5", 2)),
    )
    bad: NetworkSpec = replace(network(1, one, dhcp=True), subnets=(subnet,))
    if bad.dhcp is not None:
        fixed = replace(bad.dhcp.fixed_ips[0], subnet_id=subnet.id)
        bad = replace(bad, dhcp=replace(bad.dhcp, fixed_ips=(fixed,)))
    good = network(2, two, net="10.1.0", dhcp=True)
    observed = lab.driver.converge(NodeNetworks(networks=(bad, good)))
    assert observed.networks[bad.id].status is Status.ERROR
    assert observed.networks[good.id].status is Status.ACTIVE
    assert observed.retry_after


def _servers(lab: Lab) -> dict[int, str]:
    """Process id -> network of this laboratory's DHCP servers."""
    return lab.kernel.processes(re.compile(rf"--conf-file={re.escape(str(lab.state))}/.*"))
