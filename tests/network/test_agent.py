"""Nodes: what they are told, what they report, and what comes of it."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from altostack.kit.clients import RemoteError
from altostack.kit.db import utcnow
from altostack.kit.service import Node
from altostack.network import loops
from altostack.network.agent import agents
from altostack.network.config import NetworkSettings
from altostack.network.drivers.base import MetadataRequest
from altostack.network.metadata import MetadataDoor
from altostack.network.neighbours import NetworkApi
from altostack.network.rows import Agent as AgentRow
from altostack.network.rows import Notice, Port, Presence
from altostack.network.wire import Report, Seen
from tests.network.cloud import MINE, Driver, Net
from tests.network.test_ports import bound
from tests.network.test_routers import way_out


def status(net: Net, kind: str, key: str) -> str:
    return str(net.show(kind, key, "admin")["status"])


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Net]:
    """A cloud whose two nodes reach each other."""
    underlay = {"node-1": "192.0.2.1", "node-2": "192.0.2.2"}
    found = Net(tmp_path, settings=NetworkSettings(underlay=underlay))
    yield found
    found.close()


# ---- ports


def test_a_port_becomes_active_and_compute_hears_of_it(net: Net) -> None:
    agent, driver = net.agent()
    network, _ = net.lan()
    port = bound(net, network)
    assert port["status"] == "DOWN"
    agent.look((f"port:{port['id']}", f"network:{network}"))
    assert status(net, "port", port["id"]) == "ACTIVE"
    (spec,) = (
        driver.desired.networks[-1].ports
        if driver.desired.networks[-1].ports
        else driver.desired.networks[0].ports
    )
    assert spec.tap == f"tap{port['id'][:11]}" and spec.mac == port["mac_address"]
    loops.tell(net.runtime)
    assert net.compute.events == [
        {"name": "network-vif-plugged", "server_uuid": "server-1", "tag": port["id"], "status": "completed"}
    ]
    loops.tell(net.runtime)
    assert len(net.compute.events) == 1


def test_only_guests_of_compute_are_told_of(net: Net) -> None:
    agent, _ = net.agent()
    network, _ = net.lan()
    net.make("port", "service", network_id=network, project_id=MINE, binding__host_id="node-1")
    agent.look(())
    loops.tell(net.runtime)
    assert net.compute.events == []


def test_compute_is_away_for_a_while(net: Net) -> None:
    agent, _ = net.agent()
    network, _ = net.lan()
    bound(net, network)
    agent.look(())
    net.compute.status = "503 Service Unavailable"
    with pytest.raises(RemoteError):
        loops.tell(net.runtime)
    net.compute.status = "200 OK"
    loops.tell(net.runtime)
    assert len(net.compute.events) == 1
    net.compute.status = "404 Not Found"  # no such server: nothing to wait for
    with net.db.begin() as session:
        session.add(Notice(server_id="x", port_id="y", name="network-vif-plugged"))
    loops.tell(net.runtime)
    with net.db.read() as session:
        assert session.execute(sa.select(Notice.id)).all() == []


def test_a_delta_holds_what_changed_and_no_more(net: Net) -> None:
    agent, driver = net.agent()
    network, _ = net.lan()
    ports = [bound(net, network)["id"] for _ in range(5)]
    agent.look(())
    api = NetworkApi(net.client, "node-1", net.node("node-1"))
    some = api.desired([f"port:{ports[2]}"])
    assert [p.spec.id for p in some.ports] == [ports[2]] and not some.networks and not some.routers
    net.drop("port", ports[3], "service")
    net.put("port", ports[4], "service", binding__host_id="node-2")
    some = api.desired([f"port:{key}" for key in ports[3:]])
    assert not some.ports and set(some.gone) == {f"port:{key}" for key in ports[3:]}
    agent.look(tuple(some.gone))
    told = next(n for n in driver.desired.networks if n.id == network)
    assert {p.id for p in told.ports} == set(ports[:3])


def test_bells_name_what_changed(net: Net) -> None:
    heard: list[str] = []
    net.bus.listen("network.node.node-1", lambda ids: heard.extend(ids))
    net.bus.listen("network.groups", lambda ids: heard.extend(f"rules:{one}" for one in ids))
    net.bus.listen("network.members", lambda ids: heard.extend(f"members:{one}" for one in ids))
    network, subnet = net.lan()

    def rang(*wanted: str) -> None:
        end = time.monotonic() + 5
        while not set(wanted) <= set(heard) and time.monotonic() < end:
            time.sleep(0.005)
        assert set(wanted) <= set(heard), heard
        heard.clear()

    port = bound(net, network)
    group = port["security_groups"][0]
    rang(f"port:{port['id']}", f"network:{network}", f"members:{group}")
    net.put("port", port["id"], security_groups=[])
    rang(f"port:{port['id']}", f"members:{group}")
    net.put("subnet", subnet, dns_nameservers=["9.9.9.9"])
    rang(f"network:{network}")
    net.put("network", network, admin_state_up=False)
    rang(f"network:{network}")
    net.make(
        "security_group_rule",
        security_group_id=group,
        direction="ingress",
        protocol="tcp",
    )
    rang(f"rules:{group}")
    net.drop("port", port["id"], "service")
    rang(f"port:{port['id']}", f"network:{network}")
    assert net.no("POST", "ports", {"port": {"network_id": network, "mac_address": "x"}})[0] == 400
    time.sleep(0.05)
    assert heard == []  # nothing rings for what was rolled back


def test_a_word_about_an_earlier_binding_changes_nothing(net: Net) -> None:
    agent, _ = net.agent()
    network, _ = net.lan()
    port = bound(net, network)["id"]
    agent.look(())
    stamp = agent._picture.ports[port].stamp
    for host in ("", "node-1"):
        net.put("port", port, "service", binding__host_id=host)
    assert status(net, "port", port) == "DOWN"
    api = NetworkApi(net.client, "node-1", net.node("node-1"))
    api.observed(Report(ports={port: Seen("ACTIVE", None, stamp)}))
    assert status(net, "port", port) == "DOWN"
    other = NetworkApi(net.client, "node-2", net.node("node-2"))
    other.observed(Report(ports={port: Seen("ACTIVE", None, stamp + 2)}))
    assert status(net, "port", port) == "DOWN"
    agent.look((f"port:{port}",))
    assert status(net, "port", port) == "ACTIVE"


def test_failures_are_shown_and_told(net: Net) -> None:
    agent, driver = net.agent()
    network, _ = net.lan()
    port = bound(net, network)["id"]
    driver.faults[port] = "the cable is cut"
    agent.look(())
    assert status(net, "port", port) == "ERROR"
    with net.db.read() as session:
        from altostack.kit.flow import story

        assert "the cable is cut" in story(session, port)[-1]["message"]
    driver.faults.clear()
    agent.look(("again",))
    assert status(net, "port", port) == "ACTIVE"


def test_an_agent_that_was_away_leaves_no_orphan(net: Net) -> None:
    agent, driver = net.agent()
    network, _, router = way_out(net)
    port = bound(net, network)["id"]
    agent.look(())
    assert driver.inventory()["ports"] == [port] and driver.inventory()["routers"] == [router]
    subnet = net.ask(f"subnets?network_id={network}")[0]["id"]
    net.call("PUT", f"/v2.0/routers/{router}/remove_router_interface", {"subnet_id": subnet})
    net.drop("router", router)
    net.drop("port", port, "service")
    net.drop("network", network)
    agent.look(())
    assert not driver.inventory().get("ports") and not driver.inventory().get("routers")
    assert [n.kind for n in driver.desired.networks] == ["external"]
    assert driver.desired.security_groups == ()


def test_a_report_that_was_lost_is_sent_again(net: Net) -> None:
    agent, _ = net.agent()
    network, _ = net.lan()
    port = bound(net, network)["id"]
    real = agent._network.observed
    agent._network.observed = lambda report: (_ for _ in ()).throw(RemoteError("network", 0, "away"))  # type: ignore[method-assign]  # a fault
    with pytest.raises(RemoteError):
        agent.look((f"port:{port}", f"network:{network}"))
    agent._network.observed = real  # type: ignore[method-assign]  # mended
    agent.look(("again",))
    assert status(net, "port", port) == "ACTIVE"


# ---- networks and their nodes


def test_dhcp_is_where_guests_are(two: Net) -> None:
    one, first = two.agent("node-1")
    other, second = two.agent("node-2")
    network, _ = two.lan()
    assert two.ask("ports?device_owner=network:dhcp") == []
    port = bound(two, network, "node-1")["id"]
    (dhcp,) = two.ask("ports?device_owner=network:dhcp")
    assert dhcp["network_id"] == network and len(dhcp["fixed_ips"]) == 1 and dhcp["status"] == "DOWN"
    one.look(())
    assert two.show("port", dhcp["id"])["status"] == "ACTIVE"
    (spec,) = [n for n in first.desired.networks if n.id == network]
    assert spec.dhcp is not None and spec.dhcp.port_id == dhcp["id"]
    assert (spec.kind, spec.peers) == ("vxlan", ()) and spec.vni
    bound(two, network, "node-2")
    assert len(two.ask("ports?device_owner=network:dhcp")) == 2
    one.look((f"network:{network}",))
    other.look(())
    (spec,) = [n for n in first.desired.networks if n.id == network]
    assert spec.peers == ("192.0.2.2",)
    (spec,) = [n for n in second.desired.networks if n.id == network]
    assert spec.peers == ("192.0.2.1",) and spec.dhcp is not None and spec.dhcp.port_id != dhcp["id"]
    two.drop("port", port, "service")
    one.look((f"port:{port}", f"network:{network}"))
    assert [n.id for n in first.desired.networks if n.kind != "external"] == []
    assert len(two.ask("ports?device_owner=network:dhcp")) == 1


def test_dhcp_follows_the_subnets(net: Net) -> None:
    net.agent()
    network, subnet = net.lan(enable_dhcp=False)
    bound(net, network)
    assert net.ask("ports?device_owner=network:dhcp") == []
    net.put("subnet", subnet, enable_dhcp=True)
    second = net.make("subnet", network_id=network, cidr="10.0.1.0/24", ip_version=4)["id"]
    (dhcp,) = net.ask("ports?device_owner=network:dhcp")
    assert {ip["subnet_id"] for ip in dhcp["fixed_ips"]} == {subnet, second}
    net.drop("subnet", second)
    (dhcp,) = net.ask("ports?device_owner=network:dhcp")
    assert {ip["subnet_id"] for ip in dhcp["fixed_ips"]} == {subnet}
    net.put("subnet", subnet, enable_dhcp=False)
    assert net.ask("ports?device_owner=network:dhcp") == []


def test_a_full_subnet_serves_guests_first(net: Net) -> None:
    network, _ = net.lan("10.0.0.0/30")
    bound(net, network)
    assert net.ask("ports?device_owner=network:dhcp") == []


def test_tidying_mends_what_races_leave(net: Net) -> None:
    network, _ = net.lan()
    bound(net, network)
    empty, _ = net.lan()
    (dhcp,) = net.ask("ports?device_owner=network:dhcp")
    net.drop("port", dhcp["id"])
    with net.db.begin() as session:
        session.add(Presence(network_id=empty, host="node-7"))
        session.execute(sa.delete(Presence).where(Presence.network_id == network))
    loops.tidy(net.runtime)
    with net.db.read() as session:
        there = {tuple(row) for row in session.execute(sa.select(Presence.network_id, Presence.host))}
    assert there == {(network, "node-1")}
    assert len(net.ask("ports?device_owner=network:dhcp")) == 1
    net.drop("port", net.ask("ports?device_owner=network:dhcp")[0]["id"])
    loops.tidy(net.runtime)
    assert len(net.ask("ports?device_owner=network:dhcp")) == 1


# ---- routers


def test_a_router_runs_on_a_live_node(net: Net) -> None:
    agent, driver = net.agent()
    network, _, router = way_out(net)
    agent.look((f"router:{router}",))
    (spec,) = driver.desired.routers
    assert spec.gateway is not None and spec.gateway.gateway_ips == ("172.24.4.1",)
    assert spec.gateway.addresses[0].startswith("172.24.4.") and spec.gateway.addresses[0].endswith("/24")
    assert [foot.addresses for foot in spec.interfaces] == [("10.0.0.1/24",)]
    assert {n.id for n in driver.desired.networks} == {network, net.outside()}
    (world,) = driver.desired.external_networks
    assert world.network_id == net.outside() and world.gateways == ("172.24.4.1/24",)
    assert {p["status"] for p in net.ask(f"ports?device_id={router}", "admin")} == {"ACTIVE"}


def test_a_router_waits_for_a_node(net: Net) -> None:
    way_out(net)
    agent, driver = net.agent()
    assert driver.desired.routers == ()
    loops.tidy(net.runtime)
    agent.look(())
    assert len(driver.desired.routers) == 1 and len(driver.desired.external_networks) == 1


def test_routers_spread_over_nodes(two: Net) -> None:
    nodes = [two.agent(host) for host in ("node-1", "node-2")]
    routers = [way_out(two, f"10.{n}.0.0/24")[2] for n in range(4)]
    for agent, _ in nodes:
        agent.look(())
    told = [{router.id for router in driver.desired.routers} for _, driver in nodes]
    assert [len(one) for one in told] == [2, 2] and told[0] | told[1] == set(routers)
    worlds = [driver.desired.external_networks for _, driver in nodes]
    assert sorted(len(one) for one in worlds) == [0, 1]
    outside = [next(n for n in d.desired.networks if n.kind == "external") for _, d in nodes]
    assert outside[0].vni == outside[1].vni == 2**24 - 1  # the flat network's own, between nodes
    assert {peer for n in outside for peer in n.peers} == {"192.0.2.1", "192.0.2.2"}


def test_floating_ips_are_told_and_become_active(net: Net) -> None:
    agent, driver = net.agent()
    network, _, router = way_out(net)
    ports = [bound(net, network) for _ in range(2)]
    made = net.make("floatingip", floating_network_id=net.outside(), port_id=ports[0]["id"])
    assert made["status"] == "DOWN"
    agent.look((f"router:{router}",))
    assert status(net, "floatingip", made["id"]) == "ACTIVE"
    moved = net.put("floatingip", made["id"], port_id=ports[1]["id"])
    assert moved["status"] == "DOWN"
    agent.look((f"router:{router}",))
    assert status(net, "floatingip", made["id"]) == "ACTIVE"
    (spec,) = driver.desired.routers[0].floating_ips
    assert (spec.floating_ip, spec.fixed_ip) == (
        made["floating_ip_address"], ports[1]["fixed_ips"][0]["ip_address"],
    )  # fmt: skip
    assert net.put("floatingip", made["id"], port_id=None)["status"] == "DOWN"
    agent.look((f"router:{router}",))
    assert driver.desired.routers[0].floating_ips == ()
    assert status(net, "floatingip", made["id"]) == "DOWN"


def test_a_router_in_trouble(net: Net) -> None:
    agent, driver = net.agent()
    _, _, router = way_out(net)
    driver.faults[router] = "no room"
    agent.look(())
    assert status(net, "router", router) == "ERROR"
    driver.faults.clear()
    agent.look(())
    assert status(net, "router", router) == "ACTIVE"


def test_a_node_that_is_gone_for_good(net: Net) -> None:
    net.agent("node-1")
    _, _, router = way_out(net)
    (row,) = net.ask("agents", "admin")
    assert row["alive"] and row["host"] == "node-1" and row["binary"] == "altostack-network"
    zones = net.call("GET", "/v2.0/availability_zones")["availability_zones"]
    assert {(z["name"], z["state"]) for z in zones} == {("nova", "available")}
    with net.db.begin() as session:
        session.execute(sa.update(AgentRow).values(heartbeat=utcnow() - timedelta(hours=1)))
    assert net.ask("agents?alive=True", "admin") == [] and len(net.ask("agents?alive=false", "admin")) == 1
    assert net.no("DELETE", f"agents/{row['id']}")[0] == 403
    _, driver = net.agent("node-2")
    loops.tidy(net.runtime)
    net.drop("agent", row["id"], "admin")
    loops.tidy(net.runtime)
    agent, driver = net.agent("node-2")
    assert [r.id for r in driver.desired.routers] == [router]
    assert len(driver.desired.external_networks) == 1
    assert {p["binding:host_id"] for p in net.ask(f"ports?device_id={router}", "admin")} == {"node-2"}
    assert agent is not None


# ---- security groups


def test_groups_keep_up_by_what_changed(net: Net) -> None:
    agent, driver = net.agent()
    network, _ = net.lan()
    ports = [bound(net, network) for _ in range(3)]
    agent.look(())
    (group,) = driver.desired.security_groups
    assert set(group.members) == {p["fixed_ips"][0]["ip_address"] for p in ports}
    elsewhere = net.make("port", network_id=network)
    agent.look_at_groups((group.id,))
    (group,) = driver.desired.security_groups
    assert elsewhere["fixed_ips"][0]["ip_address"] in group.members and len(group.members) == 4
    net.drop("port", elsewhere["id"])
    net.make("security_group_rule", security_group_id=group.id, direction="ingress", protocol="icmp")
    agent._groups_at = 0.0
    agent.look_at_groups((group.id, "unknown"))
    (group,) = driver.desired.security_groups
    assert len(group.members) == 3 and any(rule.protocol == "icmp" for rule in group.rules)


def test_a_delta_of_a_group(net: Net) -> None:
    network, _ = net.lan()
    first = net.make("port", network_id=network)
    group = first["security_groups"][0]
    api = NetworkApi(net.client, "node-1", net.node("node-1"))
    (whole,) = api.groups({group: 0}).groups
    assert whole.whole and set(whole.members) == {first["id"]}
    assert api.groups({group: whole.version}).groups == ()
    second = net.make("port", network_id=network)
    net.put("port", first["id"], fixed_ips=[{"ip_address": "10.0.0.99"}])
    (delta,) = api.groups({group: whole.version}).groups
    assert not delta.whole and set(delta.members) == {first["id"], second["id"]}
    assert delta.members[first["id"]] == ("10.0.0.99",)
    net.put("port", second["id"], allowed_address_pairs=[{"ip_address": "10.7.0.0/16"}])
    net.drop("port", first["id"])
    (delta,) = api.groups({group: delta.version}).groups
    assert delta.members == {
        first["id"]: (),
        second["id"]: (second["fixed_ips"][0]["ip_address"], "10.7.0.0/16"),
    }
    with net.db.begin() as session:
        from altostack.network.rows import GroupChange

        session.execute(sa.delete(GroupChange))
    (anew,) = api.groups({group: whole.version}).groups
    assert anew.whole and set(anew.members) == {second["id"]}
    assert api.groups({"gone": 7}).gone == ("gone",)


def test_groups_that_rules_name_come_along(net: Net) -> None:
    agent, driver = net.agent()
    network, _ = net.lan()
    web, db = (net.make("security_group", name=name)["id"] for name in ("web", "db"))
    net.make("security_group_rule", security_group_id=db, direction="ingress", remote_group_id=web)
    front = net.make("port", network_id=network, security_groups=[web])
    port = bound(net, network, security_groups=[db])["id"]
    agent.look((f"port:{port}",))
    told = {group.id: group for group in driver.desired.security_groups}
    assert set(told) == {web, db} and told[web].members == (front["fixed_ips"][0]["ip_address"],)
    net.drop("port", port, "service")
    agent.look(())
    assert driver.desired.security_groups == ()


# ---- metadata


def ask(agent: Any, **fields: Any) -> Any:
    request: dict[str, Any] = {
        "network_id": None,
        "router_id": None,
        "method": "GET",
        "path": "/latest",
        "headers": {},
    }
    return agent.resolve(MetadataRequest(**{**request, **fields}))


def test_metadata_is_asked_for_the_guest_that_asks(two: Net) -> None:
    agent, _ = two.agent("node-1")
    network, _, router = way_out(two)
    local, remote = bound(two, network, "node-1"), bound(two, network, "node-2")
    agent.look(())
    for where, port in ((("network_id", network), local), (("router_id", router), remote)):
        ip = port["fixed_ips"][0]["ip_address"]
        path = "/openstack/latest/meta_data.json"
        answer = ask(
            agent, **{where[0]: where[1]}, client_ip=ip, path=path, headers={"x-instance-id": "forged"}
        )
        assert (answer.status, answer.body, answer.content_type) == (200, b"meta", "application/json")
        asked = two.compute.asked[-1]
        assert asked["path"] == f"/metadata{path}" and asked["HTTP_X_INSTANCE_ID"] == "server-1"
        assert asked["HTTP_X_TENANT_ID"] == MINE and asked["HTTP_X_FORWARDED_FOR"] == ip
        sign = hmac.new(b"m", b"server-1", hashlib.sha256).hexdigest()
        assert asked["HTTP_X_INSTANCE_ID_SIGNATURE"] == sign


def test_metadata_for_strangers(two: Net) -> None:
    agent, _ = two.agent("node-1")
    network, _, _ = way_out(two)
    foreign, _ = two.lan()
    elsewhere = bound(two, foreign, "node-2")
    agent.look(())
    assert ask(agent, network_id=network, client_ip="10.0.0.99").status == 404
    ip = elsewhere["fixed_ips"][0]["ip_address"]
    assert ask(agent, network_id=foreign, client_ip=ip).status == 404  # that network is not on this node
    assert ask(agent, network_id=network, client_ip=ip, method="POST").status == 405
    assert two.compute.asked == []
    unowned = two.make("port", network_id=network)["fixed_ips"][0]["ip_address"]
    assert ask(agent, network_id=network, client_ip=unowned).status == 404


def test_the_door_answers_before_there_is_an_agent() -> None:
    door = MetadataDoor()
    request = MetadataRequest(
        network_id="n", router_id=None, client_ip="10.0.0.9", method="GET", path="/", headers={}
    )
    assert door(request).status == 503


# ---- the loops


def test_loops_do_it_by_themselves(net: Net) -> None:
    driver, door = Driver(delay=0.05), MetadataDoor()
    node = Node(
        host="node-1",
        root=net.folder,
        drivers={"network": driver, "metadata": door},
        token=net.node("node-1"),
    )
    running = [*agents(net.runtime, node), *loops.loops(net.runtime)]
    for loop in running:
        loop.start(net.bus)
    try:
        network, _, router = way_out(net)
        port = bound(net, network)["id"]
        floating = net.make("floatingip", floating_network_id=net.outside(), port_id=port)["id"]
        end = time.monotonic() + 20
        while time.monotonic() < end and not (
            status(net, "port", port) == "ACTIVE"
            and status(net, "floatingip", floating) == "ACTIVE"
            and net.compute.events
        ):
            time.sleep(0.02)
        assert status(net, "port", port) == status(net, "floatingip", floating) == "ACTIVE"
        assert net.compute.events[0]["tag"] == port
        assert [r.id for r in driver.desired.routers] == [router]
        assert door.resolver is not None
        later = net.make("port", network_id=network)["fixed_ips"][0]["ip_address"]
        while later not in driver.desired.security_groups[0].members and time.monotonic() < end:
            time.sleep(0.02)
        assert later in driver.desired.security_groups[0].members
    finally:
        for loop in running:
            loop.stop()
    assert all(loop.failures == 0 for loop in running)


def test_a_node_without_a_driver_runs_nothing(net: Net) -> None:
    assert agents(net.runtime, Node(host="x", root=net.folder, drivers={}, token="")) == ()


def test_bad_reports(net: Net) -> None:
    token = net.node("node-1")
    for body in (b"[]", b'{"ports": {"x": {"status": "FINE"}}}', b'{"ports": 7}', b'{"what": 1}'):
        answer = net.client.send("POST", "/internal/nodes/node-1/observed", body, node=token,
                                 headers={"Content-Type": "application/json"})  # fmt: skip
        assert answer.status == 400
    assert net.client.send("GET", "/internal/nodes/node-1/groups?group=x", node=token).status == 400
    assert net.client.send("GET", "/internal/nodes/node-1/owner?ip=x", node=token).status == 400
    with net.db.read() as session:
        assert session.execute(sa.select(Port.id)).all() == []
