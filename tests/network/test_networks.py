"""Networks and subnets through the API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.network.cloud import MINE, OTHERS, Net


def test_versions_and_extensions(net: Net) -> None:
    link = [{"rel": "self", "href": "http://cloud/network/v2.0/"}]
    assert net.call("GET", "/") == {"versions": [{"id": "v2.0", "status": "CURRENT", "links": link}]}
    assert {one["name"] for one in net.call("GET", "/v2.0/")["resources"]} == {"network", "subnet", "port"}
    aliases = [one["alias"] for one in net.call("GET", "/v2.0/extensions")["extensions"]]
    assert len(aliases) == len(set(aliases))
    for alias in aliases:
        assert net.call("GET", f"/v2.0/extensions/{alias}")["extension"]["alias"] == alias
    assert net.no("GET", "extensions/trunk")[0] == 404


def test_a_network_with_defaults(net: Net) -> None:
    made = net.make("network", name="n")
    assert made == net.show("network", made["id"])
    expected = {
        "name": "n", "description": "", "admin_state_up": True, "status": "ACTIVE", "shared": False,
        "router:external": False, "mtu": 1450, "port_security_enabled": True, "subnets": [], "tags": [],
        "project_id": MINE, "tenant_id": MINE, "is_default": False, "revision_number": 1,
    }  # fmt: skip
    assert {key: made[key] for key in expected} == expected
    assert not any(key.startswith("provider:") for key in made)
    seen = net.show("network", made["id"], "admin")
    assert seen["provider:network_type"] == "vxlan" and seen["provider:physical_network"] is None
    assert 1 <= seen["provider:segmentation_id"] < 2**24


def test_update_counts_revisions_and_leaves_the_rest(net: Net) -> None:
    made = net.make("network", name="a", description="d")
    changed = net.put("network", made["id"], name="b", admin_state_up=False)
    assert (changed["name"], changed["admin_state_up"], changed["description"]) == ("b", False, "d")
    assert changed["revision_number"] == 2 and changed["updated_at"] >= made["updated_at"]
    assert net.put("network", made["id"], name="b")["revision_number"] == 2


def test_booleans_and_numbers_may_be_words(net: Net) -> None:
    """Old clients send strings; the API always took them."""
    made = net.make("network", admin_state_up="false", mtu="1300")
    assert made["admin_state_up"] is False and made["mtu"] == 1300


@pytest.mark.parametrize(
    "fields",
    [
        {"shared": True},
        {"router:external": True},
        {"is_default": True},
        {"provider:network_type": "vxlan"},
        {"provider:network_type": "vxlan", "provider:segmentation_id": 7},
        {"provider:physical_network": "external"},
    ],
)
def test_some_attributes_are_for_admins(net: Net, fields: dict[str, Any]) -> None:
    code, kind, message = net.no("POST", "networks", {"network": fields})
    assert (code, kind) == (403, "PolicyNotAuthorized") and "create_network:" in message


def test_what_an_attribute_is_anyway_needs_no_leave(net: Net) -> None:
    assert net.make("network", shared=False, router__external=False)["shared"] is False


def test_admin_attributes_on_update(net: Net) -> None:
    key = net.make("network")["id"]
    for fields in ({"shared": True}, {"router:external": True}):
        assert net.no("PUT", f"networks/{key}", {"network": fields})[0] == 403
    assert net.put("network", key, "admin", shared=True)["shared"] is True
    assert net.no("PUT", f"networks/{key}", {"network": {"provider:network_type": "flat"}}, "admin")[0] == 400


def test_provider_segments(net: Net) -> None:
    made = net.make("network", "admin", provider__network_type="vxlan", provider__segmentation_id=77)
    assert made["provider:segmentation_id"] == 77
    taken = {"network": {"provider:network_type": "vxlan", "provider:segmentation_id": 77}}
    assert net.no("POST", "networks", taken, "admin")[:2] == (409, "TunnelIdInUse")
    flat = {"network": {"provider:network_type": "flat", "provider:physical_network": "external"}}
    assert net.no("POST", "networks", flat, "admin")[:2] == (409, "FlatNetworkInUse")
    local = net.make("network", "admin", provider__network_type="local")
    assert local["provider:segmentation_id"] is None and local["mtu"] == 1500


def test_the_external_network_is_there_once(net: Net) -> None:
    assert net.service.bootstrap is not None
    net.service.bootstrap(net.runtime)
    (public,) = net.ask("networks?router:external=true")
    assert public["name"] == "public" and public["is_default"] and not public["shared"]
    (subnet,) = net.ask("subnets?router:external=true")
    assert subnet["cidr"] == "172.24.4.0/24" and subnet["gateway_ip"] == "172.24.4.1"
    assert subnet["allocation_pools"] == [{"start": "172.24.4.10", "end": "172.24.4.250"}]
    assert subnet["enable_dhcp"] is False
    second = {"network": {"router:external": True, "is_default": True}}
    assert net.no("POST", "networks", second, "admin")[1] == "DefaultExternalNetworkExists"


def test_whose_networks_are_seen(net: Net) -> None:
    key, subnet = net.lan()
    assert net.no("GET", f"networks/{key}", who="other")[:2] == (404, "NetworkNotFound")
    assert net.no("PUT", f"networks/{key}", {"network": {"name": "x"}}, "other")[0] == 404
    assert net.no("DELETE", f"networks/{key}", who="other")[0] == 404
    assert [n["name"] for n in net.ask("networks", "other")] == ["public"]
    net.put("network", key, "admin", shared=True)
    assert net.show("network", key, "other")["shared"] is True
    assert net.show("subnet", subnet, "other")["id"] == subnet
    assert net.no("PUT", f"networks/{key}", {"network": {"name": "x"}}, "other")[:2] == (
        403, "PolicyNotAuthorized",
    )  # fmt: skip
    assert net.no("DELETE", f"subnets/{subnet}", who="other")[0] == 403
    port = net.make("port", "other", network_id=key)
    assert (
        net.no("PUT", f"networks/{key}", {"network": {"shared": False}}, "admin")[1] == "InvalidSharedSetting"
    )
    net.drop("port", port["id"], "other")
    net.put("network", key, "admin", shared=False)
    assert net.no("GET", f"subnets/{subnet}", who="other")[0] == 404


def test_for_other_projects(net: Net) -> None:
    assert net.make("network", "admin", project_id=OTHERS)["tenant_id"] == OTHERS
    assert net.make("network", "admin", tenant_id=OTHERS)["project_id"] == OTHERS
    assert net.no("POST", "networks", {"network": {"project_id": OTHERS}})[0] == 400
    both = {"network": {"project_id": OTHERS, "tenant_id": MINE}}
    assert net.no("POST", "networks", both, "admin")[0] == 400


def test_a_reader_reads(net: Net) -> None:
    key, subnet = net.lan()
    assert net.show("network", key, "reader")["subnets"] == [subnet]
    for method, path, body in (
        ("POST", "networks", {"network": {}}),
        ("PUT", f"networks/{key}", {"network": {"name": "x"}}),
        ("DELETE", f"networks/{key}", None),
        ("POST", "subnets", {"subnet": {"network_id": key, "cidr": "10.1.0.0/24", "ip_version": 4}}),
        ("POST", "ports", {"port": {"network_id": key}}),
        ("POST", "security-groups", {"security_group": {}}),
    ):
        assert net.no(method, path, body, "reader")[:2] == (403, "PolicyNotAuthorized"), path


def test_a_network_in_use_stays(net: Net) -> None:
    key, subnet = net.lan()
    port = net.make("port", network_id=key)["id"]
    code, kind, message = net.no("DELETE", f"networks/{key}")
    assert (code, kind) == (409, "NetworkInUse") and port in message
    assert net.no("DELETE", f"subnets/{subnet}")[:2] == (409, "SubnetInUse")
    net.drop("port", port)
    net.drop("network", key)
    assert net.no("GET", f"subnets/{subnet}")[:2] == (404, "SubnetNotFound")


def test_bulk(net: Net) -> None:
    answer = net.call("POST", "/v2.0/networks", {"networks": [{"name": "a"}, {"name": "b"}]})
    assert [one["name"] for one in answer["networks"]] == ["a", "b"]
    before = len(net.ask("networks"))
    bad = {"networks": [{"name": "c"}, {"name": "d", "mtu": 5}]}
    assert net.no("POST", "networks", bad)[0] == 400
    assert len(net.ask("networks")) == before


# ---- subnets


def test_a_subnet_with_defaults(net: Net) -> None:
    network, key = net.lan("10.0.0.0/24")
    made = net.show("subnet", key)
    expected = {
        "network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1",
        "enable_dhcp": True, "dns_nameservers": [], "host_routes": [], "ipv6_ra_mode": None,
        "allocation_pools": [{"start": "10.0.0.2", "end": "10.0.0.254"}], "ipv6_address_mode": None,
        "subnetpool_id": None, "router:external": False, "tenant_id": MINE,
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert net.show("network", network)["subnets"] == [key]


@pytest.mark.parametrize(
    ("cidr", "gateway", "pools"),
    [
        ("10.0.0.0/24", "10.0.0.9", [("10.0.0.1", "10.0.0.8"), ("10.0.0.10", "10.0.0.254")]),
        ("10.0.0.0/24", None, [("10.0.0.1", "10.0.0.254")]),
        ("10.0.0.0/24", "10.0.0.254", [("10.0.0.1", "10.0.0.253")]),
        ("10.0.0.0/30", "10.0.0.1", [("10.0.0.2", "10.0.0.2")]),
        ("10.0.0.0/24", "192.168.0.1", [("10.0.0.1", "10.0.0.254")]),
        ("2001:db8::/64", "2001:db8::1", [("2001:db8::2", "2001:db8::ffff:ffff:ffff:ffff")]),
    ],
)
def test_gateway_and_pools(net: Net, cidr: str, gateway: str | None, pools: list[tuple[str, str]]) -> None:
    _, key = net.lan(cidr, gateway_ip=gateway)
    made = net.show("subnet", key)
    assert made["gateway_ip"] == gateway
    assert [(p["start"], p["end"]) for p in made["allocation_pools"]] == pools


def test_subnet_updates(net: Net) -> None:
    _, key = net.lan()
    pools = [{"start": "10.0.0.50", "end": "10.0.0.60"}, {"start": "10.0.0.20", "end": "10.0.0.30"}]
    made = net.put("subnet", key, allocation_pools=pools, dns_nameservers=["9.9.9.9", "1.1.1.1"],
                   host_routes=[{"destination": "10.9.0.0/16", "nexthop": "10.0.0.7"}], enable_dhcp=False)  # fmt: skip
    assert [p["start"] for p in made["allocation_pools"]] == ["10.0.0.20", "10.0.0.50"]
    assert made["dns_nameservers"] == ["9.9.9.9", "1.1.1.1"] and made["enable_dhcp"] is False
    assert net.put("subnet", key, gateway_ip=None, dns_nameservers=None)["dns_nameservers"] == []
    body = {"subnet": {"gateway_ip": "10.0.0.25"}}
    assert net.no("PUT", f"subnets/{key}", body)[1] == "GatewayConflictWithAllocationPools"
    for fixed in ("cidr", "network_id", "ip_version"):
        assert net.no("PUT", f"subnets/{key}", {"subnet": {fixed: "10.0.0.0/25"}})[0] == 400


def test_subnets_of_a_network_do_not_overlap(net: Net) -> None:
    network, _ = net.lan("10.0.0.0/24")
    for cidr in ("10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/16"):
        body = {"subnet": {"network_id": network, "cidr": cidr, "ip_version": 4}}
        assert net.no("POST", "subnets", body)[:2] == (400, "InvalidInput")
    net.make("subnet", network_id=network, cidr="10.0.1.0/24", ip_version=4)
    net.lan("10.0.0.0/24")  # another network's may be the same


def test_a_gateway_in_use_stays(net: Net) -> None:
    _, subnet = net.lan()
    router = net.make("router")["id"]
    net.call("PUT", f"/v2.0/routers/{router}/add_router_interface", {"subnet_id": subnet})
    body = {"subnet": {"gateway_ip": None}}
    assert net.no("PUT", f"subnets/{subnet}", body)[:2] == (409, "GatewayIpInUse")


def test_external_may_change_while_nobody_uses_it(net: Net) -> None:
    key, subnet = net.lan("198.51.100.0/24", "admin")
    net.put("network", key, "admin", router__external=True)
    assert net.show("subnet", subnet, "other")["router:external"] is True
    router = net.make("router", external_gateway_info={"network_id": key})["id"]
    body = {"network": {"router:external": False}}
    assert net.no("PUT", f"networks/{key}", body, "admin")[1] == "ExternalNetworkInUse"
    net.put("router", router, external_gateway_info=None)
    assert net.put("network", key, "admin", router__external=False)["router:external"] is False
    assert net.no("GET", f"subnets/{subnet}", who="other")[0] == 404


# ---- quotas


def test_quotas(net: Net) -> None:
    path = f"/v2.0/quotas/{MINE}"
    assert net.call("GET", path)["quota"]["network"] == 100
    net.make("network")
    assert net.no("PUT", f"quotas/{MINE}", {"quota": {"network": 0}}, "admin")[0] == 400
    assert net.call("PUT", path, {"quota": {"network": 1}}, who="admin")["quota"]["network"] == 1
    code, kind, message = net.no("POST", "networks", {"network": {}})
    assert (code, kind) == (409, "OverQuota") and "network" in message
    details = net.call("GET", f"{path}/details")["quota"]["network"]
    assert details == {"limit": 1, "used": 1, "reserved": 0}
    assert [one["project_id"] for one in net.call("GET", "/v2.0/quotas", who="admin")["quotas"]] == [MINE]
    net.call("PUT", path, {"quota": {"network": 0, "force": True}}, who="admin")
    net.call("DELETE", path, who="admin")
    assert net.call("GET", path)["quota"] == net.call("GET", f"{path}/default")["quota"]
    assert net.call("GET", "/v2.0/quotas/project") == {"project": {"project_id": MINE}}
    assert net.no("GET", f"quotas/{MINE}", who="other")[0] == 403
    assert net.no("PUT", f"quotas/{MINE}", {"quota": {"network": 1}})[0] == 403
    for wrong in ({"server": 1}, {"network": -2}, {"network": "many"}, {"network": None}):
        assert net.no("PUT", f"quotas/{MINE}", {"quota": wrong}, "admin")[0] == 400
