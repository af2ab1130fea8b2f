"""Ports through the API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.network.cloud import MINE, OTHERS, Net


def bound(net: Net, network: str, host: str = "node-1", **fields: Any) -> dict[str, Any]:
    """A port as compute makes it."""
    return net.make(
        "port", "service", network_id=network, project_id=MINE, binding__host_id=host,
        device_owner="compute:nova", device_id="server-1", **fields,
    )  # fmt: skip


def test_a_port_with_defaults(net: Net) -> None:
    network, subnet = net.lan()
    made = net.make("port", network_id=network)
    group = net.ask("security-groups?name=default")[0]["id"]
    expected = {
        "name": "", "network_id": network, "admin_state_up": True, "status": "DOWN", "device_id": "",
        "device_owner": "", "security_groups": [group], "allowed_address_pairs": [], "extra_dhcp_opts": [],
        "port_security_enabled": True, "binding:vnic_type": "normal", "project_id": MINE, "tags": [],
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert [ip["subnet_id"] for ip in made["fixed_ips"]] == [subnet]
    assert made["mac_address"].startswith("fa:16:3e:")
    assert "binding:host_id" not in made
    seen = net.show("port", made["id"], "admin")
    assert (seen["binding:host_id"], seen["binding:vif_type"], seen["binding:profile"]) == ("", "unbound", {})


def test_binding(net: Net) -> None:
    network, _ = net.lan()
    made = bound(net, network)
    assert made["binding:vif_type"] == "tap" and made["status"] == "DOWN"
    details = made["binding:vif_details"]
    assert details["tap"] == f"tap{made['id'][:11]}" and details["mtu"] == 1450
    assert details["bridge"] == f"br{network[:11]}"
    free = net.put("port", made["id"], "service", binding__host_id="", device_id="", device_owner="")
    assert free["binding:vif_type"] == "unbound"
    assert net.put("port", made["id"], "service", binding__host_id=None)["binding:host_id"] == ""
    odd = net.make("port", "service", network_id=network, project_id=MINE, binding__host_id="node-1",
                   binding__vnic_type="direct")  # fmt: skip
    assert odd["binding:vif_type"] == "binding_failed"


def test_binding_is_for_compute(net: Net) -> None:
    network, _ = net.lan()
    for fields in ({"binding:host_id": "x"}, {"binding:profile": {"a": 1}}):
        assert net.no("POST", "ports", {"port": {"network_id": network, **fields}})[0] == 403
    key = net.make("port", network_id=network)["id"]
    assert net.no("PUT", f"ports/{key}", {"port": {"binding:host_id": "x"}})[0] == 403


def test_fixed_ips(net: Net) -> None:
    network, subnet = net.lan()
    one = net.make("port", network_id=network, fixed_ips=[{"ip_address": "10.0.0.7"}])
    assert one["fixed_ips"] == [{"subnet_id": subnet, "ip_address": "10.0.0.7"}]
    same = {"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.0.0.7"}]}}
    assert net.no("POST", "ports", same)[:2] == (409, "IpAddressInUse")
    none = net.make("port", network_id=network, fixed_ips=[])
    assert none["fixed_ips"] == [] and none["security_groups"] == []
    two = net.put("port", one["id"], fixed_ips=[{"ip_address": "10.0.0.7"}, {"subnet_id": subnet}])
    assert len(two["fixed_ips"]) == 2 and {"subnet_id": subnet, "ip_address": "10.0.0.7"} in two["fixed_ips"]
    kept = net.put("port", one["id"], fixed_ips=[{"subnet_id": subnet}])
    assert kept["fixed_ips"][0] in two["fixed_ips"]
    net.put("port", one["id"], fixed_ips=[{"ip_address": "10.0.0.8"}])
    assert net.call("POST", "/v2.0/ports", same)["port"]["fixed_ips"][0]["ip_address"] == "10.0.0.7"


def test_addresses_of_both_families(net: Net) -> None:
    network, four = net.lan()
    six = net.make("subnet", network_id=network, cidr="2001:db8::/64", ip_version=6)["id"]
    auto = net.make(
        "subnet", network_id=network, cidr="2001:db8:1::/64", ip_version=6, ipv6_ra_mode="slaac",
        ipv6_address_mode="slaac",
    )["id"]  # fmt: skip
    made = net.make("port", network_id=network, mac_address="fa:16:3e:00:00:01")
    by_subnet = {ip["subnet_id"]: ip["ip_address"] for ip in made["fixed_ips"]}
    assert set(by_subnet) == {four, six, auto}
    assert by_subnet[auto] == "2001:db8:1:0:f816:3eff:fe00:1"
    body = {"port": {"network_id": network, "fixed_ips": [{"ip_address": "2001:db8:1::9"}]}}
    assert net.no("POST", "ports", body)[0] == 400


def test_a_full_subnet(net: Net) -> None:
    network, _ = net.lan("10.0.0.0/29")
    addresses = {net.make("port", network_id=network)["fixed_ips"][0]["ip_address"] for _ in range(5)}
    assert addresses == {f"10.0.0.{n}" for n in range(2, 7)}
    assert net.no("POST", "ports", {"port": {"network_id": network}})[:2] == (
        409, "IpAddressGenerationFailure",
    )  # fmt: skip
    net.make("subnet", network_id=network, cidr="10.0.1.0/29", ip_version=4)
    assert net.make("port", network_id=network)["fixed_ips"][0]["ip_address"].startswith("10.0.1.")


def test_mac_addresses(net: Net) -> None:
    network, _ = net.lan()
    made = net.make("port", network_id=network, mac_address="FA-16-3E-00-00-01")
    assert made["mac_address"] == "fa:16:3e:00:00:01"
    body = {"port": {"network_id": network, "mac_address": "fa:16:3e:00:00:01"}}
    assert net.no("POST", "ports", body)[:2] == (409, "MacAddressInUse")
    other, _ = net.lan()
    net.make("port", network_id=other, mac_address="fa:16:3e:00:00:01")
    here = bound(net, network)["id"]
    body = {"port": {"mac_address": "fa:16:3e:00:00:09"}}
    assert net.no("PUT", f"ports/{here}", body, "admin")[:2] == (409, "PortBound")
    assert net.no("PUT", f"ports/{made['id']}", body)[0] == 403


def test_port_security(net: Net) -> None:
    network, _ = net.lan()
    group = net.make("security_group", name="g")["id"]
    made = net.make("port", network_id=network, security_groups=[group])
    body: dict[str, Any] = {"port": {"port_security_enabled": False}}
    assert net.no("PUT", f"ports/{made['id']}", body)[:2] == (409, "PortSecurityPortHasSecurityGroup")
    off = net.put("port", made["id"], port_security_enabled=False, security_groups=[])
    assert off["port_security_enabled"] is False and off["security_groups"] == []
    pairs = {"port": {"allowed_address_pairs": [{"ip_address": "10.0.0.99"}]}}
    assert net.no("PUT", f"ports/{made['id']}", pairs)[1] == "AddressPairAndPortSecurityRequired"
    body = {"port": {"network_id": network, "port_security_enabled": False, "security_groups": [group]}}
    assert net.no("POST", "ports", body)[1] == "PortSecurityAndIPRequiredForSecurityGroups"
    net.put("network", network, port_security_enabled=False)
    later = net.make("port", network_id=network)
    assert later["port_security_enabled"] is False and later["security_groups"] == []


def test_address_pairs(net: Net) -> None:
    network, _ = net.lan()
    made = net.make("port", network_id=network,
                    allowed_address_pairs=[{"ip_address": "10.0.0.99"}, {"ip_address": "10.5.0.0/16"}])  # fmt: skip
    assert made["allowed_address_pairs"] == [
        {"ip_address": "10.0.0.99", "mac_address": made["mac_address"]},
        {"ip_address": "10.5.0.0/16", "mac_address": made["mac_address"]},
    ]
    assert net.put("port", made["id"], allowed_address_pairs=None)["allowed_address_pairs"] == []
    twice = {"port": {"allowed_address_pairs": [{"ip_address": "10.0.0.99"}] * 2}}
    assert net.no("PUT", f"ports/{made['id']}", twice)[1] == "DuplicateAddressPairInRequest"


def test_extra_dhcp_options(net: Net) -> None:
    network, _ = net.lan()
    options = [{"opt_name": "bootfile-name", "opt_value": "a"}, {"opt_name": "150", "opt_value": "10.0.0.9"}]
    key = net.make("port", network_id=network, extra_dhcp_opts=options)["id"]
    changed = net.put("port", key, extra_dhcp_opts=[
        {"opt_name": "bootfile-name", "opt_value": "b"}, {"opt_name": "150", "opt_value": None},
    ])  # fmt: skip
    assert changed["extra_dhcp_opts"] == [{"opt_name": "bootfile-name", "opt_value": "b", "ip_version": 4}]


def test_groups_of_a_port(net: Net) -> None:
    network, _ = net.lan()
    one, two = (net.make("security_group", name=name)["id"] for name in "ab")
    key = net.make("port", network_id=network, security_groups=[one])["id"]
    assert set(net.put("port", key, security_groups=[one, two])["security_groups"]) == {one, two}
    assert [p["id"] for p in net.ask(f"ports?security_groups={two}")] == [key]
    assert net.no("DELETE", f"security-groups/{two}")[:2] == (409, "SecurityGroupInUse")
    assert net.put("port", key, security_groups=None)["security_groups"] == []
    net.drop("security_group", two)
    theirs = net.make("security_group", "other", name="c")["id"]
    body = {"port": {"security_groups": [theirs]}}
    assert net.no("PUT", f"ports/{key}", body)[:2] == (404, "SecurityGroupNotFound")


def test_whose_ports_are_seen(net: Net) -> None:
    network, _ = net.lan(who="admin")
    net.put("network", network, "admin", shared=True)
    mine, theirs = (
        net.make("port", network_id=network)["id"],
        net.make("port", "other", network_id=network)["id"],
    )
    assert [p["id"] for p in net.ask("ports")] == [mine]
    assert {p["id"] for p in net.ask("ports", "admin")} == {mine, theirs}
    assert net.no("GET", f"ports/{theirs}")[:2] == (404, "PortNotFound")
    own, _ = net.lan()
    guest = net.make("port", "admin", network_id=own, project_id=OTHERS)["id"]
    assert net.show("port", guest)["project_id"] == OTHERS  # the network's owner sees it
    net.drop("port", guest)


def test_ports_on_foreign_networks(net: Net) -> None:
    foreign, _ = net.lan(who="other")
    assert net.no("POST", "ports", {"port": {"network_id": foreign}})[:2] == (404, "NetworkNotFound")
    outside = {"port": {"network_id": net.outside()}}
    assert net.no("POST", "ports", outside)[:2] == (403, "PolicyNotAuthorized")
    net.put("network", foreign, "admin", shared=True)
    net.make("port", network_id=foreign)
    for fields in ({"fixed_ips": [{"ip_address": "10.0.0.9"}]}, {"mac_address": "fa:16:3e:00:00:01"},
                   {"port_security_enabled": False}, {"device_owner": "network:dhcp"}):  # fmt: skip
        assert net.no("POST", "ports", {"port": {"network_id": foreign, **fields}})[0] == 403, fields


def test_the_services_own_ports_keep_their_place(net: Net) -> None:
    _, subnet = net.lan()
    router = net.make("router", external_gateway_info={"network_id": net.outside()})["id"]
    net.call("PUT", f"/v2.0/routers/{router}/add_router_interface", {"subnet_id": subnet})
    port = net.ask(f"ports?device_id={router}")[0]["id"]
    assert net.no("DELETE", f"ports/{port}")[:2] == (409, "ServicePortInUse")
    body: dict[str, Any] = {"port": {"device_id": ""}}
    assert net.no("PUT", f"ports/{port}", body)[:2] == (409, "UnsupportedPortDeviceOwner")
    assert net.put("port", port, name="foot")["name"] == "foot"
    gateway = net.ask("ports?device_owner=network:router_gateway", "admin")[0]
    assert gateway["project_id"] == "" and not net.ask("ports?device_owner=network:router_gateway")


def test_bulk_ports_are_all_or_none(net: Net) -> None:
    network, _ = net.lan("10.0.0.0/29")
    ports = net.call("POST", "/v2.0/ports", {"ports": [{"network_id": network}] * 3})["ports"]
    assert len({p["fixed_ips"][0]["ip_address"] for p in ports}) == 3
    assert net.no("POST", "ports", {"ports": [{"network_id": network}] * 3})[0] == 409
    assert len(net.ask("ports")) == 3


@pytest.mark.parametrize("who", ["member", "service"])
def test_deleted_ports_give_back_everything(net: Net, who: str) -> None:
    network, _ = net.lan("10.0.0.0/30")
    for _ in range(3):
        key = net.make("port", who, network_id=network, project_id=MINE)["id"]
        net.drop("port", key, who)
        assert net.no("DELETE", f"ports/{key}", who=who)[:2] == (404, "PortNotFound")
    net.drop("network", network)
