"""No address and no MAC is ever given twice, whoever asks at once; and what nodes are told stays in step."""

from __future__ import annotations

import ipaddress
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altostack.kit.clients import RemoteError
from altostack.network import address, ipam
from altostack.network.rows import Allocation, Membership, Port, SecurityGroup
from tests.network.cloud import MINE, Net

PREFIXES = st.integers(min_value=20, max_value=30)


@given(length=PREFIXES, gateway=st.booleans())
def test_default_pools_are_all_but_the_gateway(length: int, gateway: bool) -> None:
    net = ipaddress.ip_network(f"10.0.0.0/{length}")
    first = address.first(net) if gateway else None
    held = sum(high - low + 1 for low, high in address.ranges(address.default_pools(net, first)))
    assert held == net.num_addresses - 2 - gateway


@given(numbers=st.lists(st.integers(1, 254), min_size=2, max_size=12, unique=True))
def test_pools_are_sorted_and_apart(numbers: list[int]) -> None:
    ordered = sorted(numbers[: len(numbers) // 2 * 2])
    pairs = list(zip(ordered[::2], ordered[1::2], strict=True))
    shuffled = random.sample(pairs, len(pairs))
    given_pools = [{"start": f"10.0.0.{a}", "end": f"10.0.0.{b}"} for a, b in shuffled]
    found = address.pools(given_pools, ipaddress.ip_network("10.0.0.0/24"))
    assert found == [{"start": f"10.0.0.{a}", "end": f"10.0.0.{b}"} for a, b in pairs]


@given(bits=st.binary(min_size=6, max_size=6))
def test_automatic_addresses_are_inside_their_subnet(bits: bytes) -> None:
    net = ipaddress.ip_network("2001:db8:7::/64")
    hardware = ":".join(f"{byte:02x}" for byte in bits)
    assert ipaddress.ip_address(address.eui64(net, hardware)) in net


class Rivals:
    """Many clients that make, change and delete ports of one small network at once."""

    def __init__(self, net: Net, cidr: str) -> None:
        self.net = net
        self.network, self.subnet = net.lan(cidr)
        self.kept: list[str] = []
        self.full = 0

    def one(self, seed: int) -> None:
        """A few operations of one client."""
        choice = random.Random(seed)
        mine: list[str] = []
        for _ in range(6):
            try:
                word = choice.choice(["make", "make", "bind", "swap", "drop"])
                if word == "make" or not mine:
                    mine.append(self.net.make("port", network_id=self.network)["id"])
                elif word == "bind":
                    host = f"node-{choice.randrange(3)}"
                    self.net.put("port", choice.choice(mine), "service", binding__host_id=host,
                                 device_owner="compute:nova", device_id="s")  # fmt: skip
                elif word == "swap":
                    self.net.put("port", choice.choice(mine), fixed_ips=[{"subnet_id": self.subnet}] * 2)
                else:
                    self.net.drop("port", mine.pop(choice.randrange(len(mine))))
            except RemoteError as error:
                assert error.status == 409 and "No more IP" in error.message, error
                self.full += 1
        self.kept += mine

    def run(self, seed: int, clients: int) -> None:
        """All at once; then everything must fit together."""
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(self.one, range(seed, seed + clients)))
        self.check()

    def check(self) -> None:
        """The invariants."""
        net = ipaddress.ip_network(self.net.show("subnet", self.subnet)["cidr"])
        ports = self.net.ask("ports", "admin")
        assert set(self.kept) == {p["id"] for p in ports if p["device_owner"] != "network:dhcp"}
        given_out = [ip["ip_address"] for p in ports for ip in p["fixed_ips"]]
        assert len(set(given_out)) == len(given_out)
        assert all(ipaddress.ip_address(ip) in net for ip in given_out)
        macs = [p["mac_address"] for p in ports]
        assert len(set(macs)) == len(macs)
        with self.net.db.read() as session:
            stored = session.execute(sa.select(Allocation.ip, Allocation.port_id)).all()
            assert {(row.ip, row.port_id) for row in stored} == {
                (ip["ip_address"], p["id"]) for p in ports for ip in p["fixed_ips"]
            }
            members = session.execute(sa.select(Membership.port_id, Membership.group_id)).all()
            assert {tuple(row) for row in members} == {
                (p["id"], g) for p in ports for g in p["security_groups"]
            }
            hosts = set(
                session.execute(sa.select(Port.host).where(Port.host != "", Port.part.is_(None))).scalars()
            )
            served = (
                session.execute(sa.select(Port.host).where(Port.device_owner == "network:dhcp"))
                .scalars()
                .all()
            )
            assert len(served) == len(set(served))
        dhcp_missing = hosts - set(served)
        assert not dhcp_missing or self.full


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), length=st.integers(26, 29))
def test_rivals(seed: int, length: int) -> None:
    with tempfile.TemporaryDirectory(prefix="altostack-net-") as folder:
        net = Net(Path(folder))
        net.call("PUT", f"/v2.0/quotas/{MINE}", {"quota": {"port": -1}}, who="admin")
        Rivals(net, f"10.0.0.0/{length}").run(seed, 8)
        net.close()


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6))
def test_a_node_that_follows_changes_knows_what_one_that_looks_anew_knows(seed: int) -> None:
    """After any course of events, the picture kept up by deltas is the picture of a full look."""
    from altostack.network.agent import Agent

    def known(agent: Agent) -> object:
        picture = agent._picture
        groups = {
            name: (g.rules, g.members) for name, g in picture.groups.items() if name in picture.group_ids()
        }
        return picture.ports, picture.networks, picture.routers, groups

    with tempfile.TemporaryDirectory(prefix="altostack-net-") as folder:
        net = Net(Path(folder))
        heard: list[str] = []
        net.bus.listen("network.node.node-0", lambda ids: heard.extend(ids))
        follower, _ = net.agent("node-0")
        rivals = Rivals(net, "10.0.0.0/26")
        for round in range(3):
            for client in range(4):
                rivals.one(seed + 10 * round + client)
            with net.db.read() as session:
                groups = session.execute(sa.select(SecurityGroup.id)).scalars().all()
                everything = [f"port:{p['id']}" for p in net.ask("ports", "admin")]
            named = {f"port:{key}" for key in follower._picture.ports} | set(everything)
            follower.look((*sorted(named), f"network:{rivals.network}"))
            follower.look_at_groups(tuple(groups))
            fresh, _ = net.agent("node-0")
            assert known(follower) == known(fresh)
        net.close()


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "2001:db8::/64"])
def test_large_subnets_are_not_searched(net: Net, cidr: str) -> None:
    network, key = net.lan(cidr)
    made = net.make("port", network_id=network)["fixed_ips"][0]["ip_address"]
    assert ipaddress.ip_address(made) in ipaddress.ip_network(cidr)
    with net.db.read() as session:
        from altostack.network.rows import Subnet

        subnet = session.get(Subnet, key)
        assert subnet is not None
        assert len({ipam.free(session, subnet) for _ in range(20)}) > 15


def test_the_last_address_is_found(net: Net) -> None:
    network, subnet = net.lan("10.0.0.0/26")
    pool = [{"start": "10.0.0.10", "end": "10.0.0.40"}]
    net.put("subnet", subnet, allocation_pools=pool)
    ports = net.call("POST", "/v2.0/ports", {"ports": [{"network_id": network}] * 31})["ports"]
    assert {p["fixed_ips"][0]["ip_address"] for p in ports} == {f"10.0.0.{n}" for n in range(10, 41)}
    net.drop("port", ports[7]["id"])
    again = net.make("port", network_id=network)
    assert again["fixed_ips"] == ports[7]["fixed_ips"]
