"""Whatever is sent: the API's own error body, the right code, the attribute's name, and never a 500."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.network.cloud import Net

NOWHERE = "00000000-0000-4000-8000-00000000dead"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("bad")
    found = Net(folder)
    found.ids = {}  # type: ignore[attr-defined]  # the one network that these tests share
    network, subnet = found.lan()
    found.ids = {"network": network, "subnet": subnet}  # type: ignore[attr-defined]  # as above
    yield found
    found.close()


NETWORKS = [
    {"name": 7}, {"name": None}, {"name": "x" * 256}, {"admin_state_up": "perhaps"}, {"admin_state_up": None},
    {"mtu": 67}, {"mtu": 1451}, {"mtu": "big"}, {"mtu": -1}, {"mtu": 2**40}, {"description": "x" * 256},
    {"id": NOWHERE}, {"status": "ACTIVE"}, {"subnets": []}, {"surprise": 1}, {"tags": ["x"]},
    {"port_security_enabled": []}, {"project_id": 7},
]  # fmt: skip
NETWORKS_OF_ADMINS = [
    {"provider:network_type": "vlan", "provider:segmentation_id": 7}, {"provider:segmentation_id": 7},
    {"provider:network_type": "vxlan", "provider:segmentation_id": 0},
    {"provider:network_type": "vxlan", "provider:segmentation_id": 2**24},
    {"provider:network_type": "vxlan", "provider:physical_network": "external"},
    {"provider:network_type": "flat"}, {"provider:network_type": "flat", "provider:physical_network": "other"},
    {"provider:network_type": "local", "provider:segmentation_id": 7}, {"is_default": True},
    {"provider:network_type": 7}, {"shared": "perhaps"},
]  # fmt: skip
SUBNETS = [
    {}, {"cidr": None}, {"cidr": "10.1.0.0"}, {"cidr": "10.1.0.5/24"}, {"cidr": "10.1.0.0/33"}, {"cidr": "x"},
    {"cidr": "10.1.0.0/24", "ip_version": 6}, {"cidr": "10.1.0.0/24", "ip_version": 5},
    {"cidr": "10.1.0.0/24", "ip_version": "four"}, {"cidr": "10.1.0.0/24", "ip_version": None},
    {"cidr": "0.0.0.0/0"}, {"cidr": "10.1.0.0/255.255.255.0"}, {"cidr": "010.1.0.0/24"}, {"cidr": 7},
    {"cidr": "10.1.0.0/31"}, {"cidr": "127.0.0.0/8"}, {"cidr": "224.0.0.0/24"}, {"cidr": "0.0.0.0/8"},
    {"cidr": "fe80::%eth0/64", "ip_version": 6}, {"cidr": "::/64", "ip_version": 6},
    {"cidr": "10.1.0.0/24", "gateway_ip": "10.1.0.0"}, {"cidr": "10.1.0.0/24", "gateway_ip": "10.1.0.255"},
    {"cidr": "10.1.0.0/24", "gateway_ip": "x"}, {"cidr": "10.1.0.0/24", "gateway_ip": "2001:db8::1"},
    {"cidr": "10.1.0.0/24", "gateway_ip": 7}, {"cidr": "10.1.0.0/24", "gateway_ip": ["10.1.0.1"]},
    {"cidr": "10.1.0.0/24", "allocation_pools": [{"start": "10.1.0.9", "end": "10.1.0.2"}]},
    {"cidr": "10.1.0.0/24", "allocation_pools": [{"start": "10.1.0.9"}]},
    {"cidr": "10.1.0.0/24", "allocation_pools": [{"start": "10.2.0.2", "end": "10.2.0.9"}]},
    {"cidr": "10.1.0.0/24", "allocation_pools": [{"start": "10.1.0.0", "end": "10.1.0.9"}]},
    {"cidr": "10.1.0.0/24", "allocation_pools": ["10.1.0.9"]}, {"cidr": "10.1.0.0/24", "allocation_pools": "x"},
    {"cidr": "10.1.0.0/24", "allocation_pools": [{"start": 7, "end": None}]},
    {"cidr": "10.1.0.0/24", "dns_nameservers": ["x"]}, {"cidr": "10.1.0.0/24", "dns_nameservers": ["9.9.9.9"] * 2},
    {"cidr": "10.1.0.0/24", "dns_nameservers": [f"9.9.9.{n}" for n in range(6)]},
    {"cidr": "10.1.0.0/24", "dns_nameservers": "9.9.9.9"}, {"cidr": "10.1.0.0/24", "dns_nameservers": [None]},
    {"cidr": "10.1.0.0/24", "host_routes": [{"destination": "x", "nexthop": "10.1.0.9"}]},
    {"cidr": "10.1.0.0/24", "host_routes": [{"destination": "10.9.0.0/16"}]},
    {"cidr": "10.1.0.0/24", "host_routes": [{"destination": "10.9.0.0/16", "nexthop": "2001:db8::1"}]},
    {"cidr": "10.1.0.0/24", "host_routes": [{"destination": "10.9.0.0/16", "nexthop": "10.1.0.9"}] * 2},
    {"cidr": "10.1.0.0/24", "host_routes": [7]},
    {"cidr": "10.1.0.0/24", "ipv6_ra_mode": "slaac"}, {"cidr": "10.1.0.0/24", "enable_dhcp": "perhaps"},
    {"cidr": "2001:db8::/63", "ip_version": 6, "ipv6_address_mode": "slaac"},
    {"cidr": "2001:db8::/64", "ip_version": 6, "ipv6_address_mode": "magic"},
    {"cidr": "2001:db8::/64", "ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"},
    {"cidr": "2001:db8::/64", "ip_version": 6, "ipv6_ra_mode": "slaac", "enable_dhcp": False},
    {"cidr": "10.1.0.0/24", "subnetpool_id": NOWHERE}, {"cidr": "10.1.0.0/24", "use_default_subnetpool": True},
    {"cidr": "10.1.0.0/24", "network_id": 7}, {"cidr": "10.1.0.0/24", "surprise": 1}, {"prefixlen": 24},
]  # fmt: skip
PORTS = [
    {"mac_address": "x"}, {"mac_address": "01:00:5e:00:00:01"}, {"mac_address": None}, {"mac_address": 7},
    {"mac_address": "00:00:00:00:00:00"}, {"mac_address": "fa:16:3e-00:00"},
    {"fixed_ips": None}, {"fixed_ips": "10.0.0.9"}, {"fixed_ips": [{}]}, {"fixed_ips": ["10.0.0.9"]},
    {"fixed_ips": [{"ip_address": "10.0.0.9", "what": 1}]}, {"fixed_ips": [{"ip_address": "10.9.0.9"}]},
    {"fixed_ips": [{"ip_address": "x"}]}, {"fixed_ips": [{"ip_address": 7}]}, {"fixed_ips": [{"subnet_id": "x"}]},
    {"fixed_ips": [{"subnet_id": NOWHERE}]}, {"fixed_ips": [{"ip_address": "10.0.0.0"}]},
    {"fixed_ips": [{"ip_address": "10.0.0.255"}]}, {"fixed_ips": [{"ip_address": "10.0.0.9"}] * 2},
    {"fixed_ips": [{"ip_address": f"10.0.0.{n}"} for n in range(20, 26)]},
    {"fixed_ips": [{"ip_address": "fe80::1%eth0"}]},
    {"security_groups": "x"}, {"security_groups": ["x"]}, {"security_groups": [7]},
    {"allowed_address_pairs": [{}]}, {"allowed_address_pairs": [{"mac_address": "fa:16:3e:00:00:01"}]},
    {"allowed_address_pairs": [{"ip_address": "x"}]}, {"allowed_address_pairs": [{"ip_address": 7}]},
    {"allowed_address_pairs": [{"ip_address": "10.0.0.9", "mac_address": "x"}]},
    {"allowed_address_pairs": [{"ip_address": f"10.0.0.{n}"} for n in range(11)]},
    {"allowed_address_pairs": "x"}, {"allowed_address_pairs": [7]},
    {"extra_dhcp_opts": [{}]}, {"extra_dhcp_opts": [{"opt_name": "a b", "opt_value": "x"}]},
    {"extra_dhcp_opts": [{"opt_name": "x", "opt_value": "a\nb"}]},
    {"extra_dhcp_opts": [{"opt_name": "", "opt_value": "x"}]},
    {"extra_dhcp_opts": [{"opt_name": "x", "opt_value": "x", "ip_version": 5}]},
    {"extra_dhcp_opts": [{"opt_name": "x", "opt_value": 7}]}, {"extra_dhcp_opts": "x"},
    {"extra_dhcp_opts": [{"opt_name": "x", "opt_value": "x" * 256}]},
    {"binding:vnic_type": "magic"}, {"binding:vnic_type": None}, {"device_id": None}, {"device_id": "x" * 256},
    {"device_owner": None}, {"status": "ACTIVE"}, {"binding:vif_type": "tap"}, {"surprise": 1}, {"name": ["x"]},
    {"network_id": None}, {"network_id": 7}, {"port_security_enabled": "perhaps"}, {"admin_state_up": 7},
    {"project_id": "x" * 300},
]  # fmt: skip
ROUTERS = [
    {"external_gateway_info": "x"}, {"external_gateway_info": [1]}, {"external_gateway_info": {"network_id": None}},
    {"external_gateway_info": {"network_id": 7}}, {"external_gateway_info": {"network_id": NOWHERE, "what": 1}},
    {"routes": []}, {"distributed": True}, {"status": "ACTIVE"}, {"name": 7},
]  # fmt: skip
FLOATING = [
    {"floating_network_id": None}, {"floating_network_id": 7}, {"port_id": "x"}, {"fixed_ip_address": "10.0.0.9"},
    {"subnet_id": "x"}, {"subnet_id": 7}, {"status": "ACTIVE"}, {"router_id": NOWHERE},
]  # fmt: skip


def refused(
    net: Net, kind: str, fields: dict[str, Any], who: str = "member", codes: tuple[int, ...] = (400,)
) -> None:
    path = f"{kind.replace('_', '-')}s"
    before = len(net.ask(path, "admin"))
    code, _, message = net.no("POST", path, {kind: fields}, who)
    assert code in codes, (code, message)
    assert message
    assert len(net.ask(path, "admin")) == before


@pytest.mark.parametrize("fields", NETWORKS, ids=str)
def test_networks(net: Net, fields: dict[str, Any]) -> None:
    refused(net, "network", fields)


@pytest.mark.parametrize("fields", NETWORKS_OF_ADMINS, ids=str)
def test_networks_of_admins(net: Net, fields: dict[str, Any]) -> None:
    refused(net, "network", fields, "admin")


@pytest.mark.parametrize("fields", SUBNETS, ids=str)
def test_subnets(net: Any, fields: dict[str, Any]) -> None:
    refused(net, "subnet", {"network_id": net.ids["network"], "ip_version": 4, **fields})


def test_overlapping_pools_and_gateways(net: Any) -> None:
    base = {"network_id": net.ids["network"], "ip_version": 4, "cidr": "10.1.0.0/24"}
    pools = [{"start": "10.1.0.2", "end": "10.1.0.20"}, {"start": "10.1.0.20", "end": "10.1.0.30"}]
    refused(net, "subnet", base | {"allocation_pools": pools}, codes=(409,))
    refused(net, "subnet", base | {"allocation_pools": pools[:1], "gateway_ip": "10.1.0.9"}, codes=(409,))


@pytest.mark.parametrize("fields", PORTS, ids=lambda fields: str(fields)[:80])
def test_ports(net: Any, fields: dict[str, Any]) -> None:
    refused(net, "port", {"network_id": net.ids["network"], **fields})


@pytest.mark.parametrize("fields", PORTS, ids=lambda fields: str(fields)[:80])
def test_port_updates(net: Any, fields: dict[str, Any]) -> None:
    if "network_id" not in net.ids or "port" not in net.ids:
        net.ids["port"] = net.make("port", network_id=net.ids["network"])["id"]
    code, _, message = net.no("PUT", f"ports/{net.ids['port']}", {"port": fields}, "admin")
    assert code == 400, message


@pytest.mark.parametrize("fields", ROUTERS, ids=str)
def test_routers(net: Net, fields: dict[str, Any]) -> None:
    refused(net, "router", fields)


@pytest.mark.parametrize("fields", FLOATING, ids=str)
def test_floating_ips(net: Net, fields: dict[str, Any]) -> None:
    refused(net, "floatingip", {"floating_network_id": net.outside(), **fields})


@pytest.mark.parametrize("kind", ["network", "subnet", "port", "router", "floatingip", "security_group",
                                  "security_group_rule"])  # fmt: skip
@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"7", b"null", b'"x"', b"{}", b'{"what": {}}', b"\xff\xfe", b"[" * 500,
     b'{"%(kind)s": 7}', b'{"%(kind)s": []}', b'{"%(kind)s": null}', b'{"%(kind)s": {"name": "\\u0000"}}',
     b'{"%(kind)s": {"a": 1, "b": 2}}', b'{"%(kind)ss": {}}', b'{"%(kind)ss": [7]}',
     b'{"%(kind)s": {"network_id": "\\ud800"}}'],
)  # fmt: skip
def test_malformed_bodies(net: Net, kind: str, raw: bytes) -> None:
    raw = raw.replace(b"%(kind)s", kind.encode())
    path = f"/v2.0/{kind.replace('_', '-')}s"
    for method, where in (("POST", path), ("PUT", f"{path}/{NOWHERE}")):
        if kind == "security_group_rule" and method == "PUT":
            continue
        answer = net.client.send(
            method, where, raw, token="member", headers={"Content-Type": "application/json"}
        )
        body = msgspec.json.decode(answer.read())
        assert answer.status in (400, 404), (method, answer.status, body)
        assert set(body) == {"NeutronError"}


@pytest.mark.parametrize("kind", ["networks", "subnets", "ports", "routers", "floatingips", "security-groups",
                                  "security-group-rules"])  # fmt: skip
@pytest.mark.parametrize("key", [NOWHERE, "x", "%00", "%27", "a" * 300, "..%2f", "%F0%9F%92%A9"])
def test_ids_that_are_none(net: Net, kind: str, key: str) -> None:
    for method in ("GET", "DELETE"):
        code, name, _ = net.no(method, f"{kind}/{key}")
        assert code == 404 and name.endswith("NotFound")


def test_who_is_nobody(net: Net) -> None:
    answer = net.client.send("GET", "/v2.0/networks")
    assert answer.status == 401
    assert msgspec.json.decode(answer.read())["error"]["code"] == 401
    assert net.client.send("GET", "/v2.0/networks", token="forged").status == 401
    for node in ("x", "node-1:00", net.node("node-2")):
        for path in ("desired", "groups", "owner"):
            assert net.client.send("GET", f"/internal/nodes/node-1/{path}", node=node).status in (401, 404)
    assert net.client.send("GET", "/v2.0/networks", node=net.node("node-1")).status == 401
    assert net.client.send("GET", "/internal/nodes/node-1/desired", token="admin").status in (401, 403, 404)


def test_large_bodies_and_strange_media(net: Net) -> None:
    big = b'{"network": {"name": "' + b"x" * 200_000 + b'"}}'
    assert net.client.send("POST", "/v2.0/networks", big, token="member").status == 413
    answer = net.client.send(
        "POST", "/v2.0/networks", b"{}", token="member", headers={"Content-Type": "text/plain"}
    )
    assert answer.status == 415 and b"NeutronError" in answer.read()
    assert net.client.send("PATCH", "/v2.0/networks", b"{}", token="member").status == 405
    assert net.client.send("GET", "/v2.0/nothing", token="member").status == 404
