"""Routers, their interfaces and gateways, and floating IPs through the API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.network.cloud import MINE, Net


def plug(net: Net, router: str, who: str = "member", **body: str) -> dict[str, Any]:
    """Add an interface."""
    found: dict[str, Any] = net.call("PUT", f"/v2.0/routers/{router}/add_router_interface", body, who=who)
    return found


def unplug(net: Net, router: str, **body: str) -> dict[str, Any]:
    """Remove an interface."""
    found: dict[str, Any] = net.call("PUT", f"/v2.0/routers/{router}/remove_router_interface", body)
    return found


def way_out(net: Net, cidr: str = "10.0.0.0/24") -> tuple[str, str, str]:
    """A network with a router to the outside: network, subnet, router."""
    network, subnet = net.lan(cidr)
    router = net.make("router", external_gateway_info={"network_id": net.outside()})["id"]
    plug(net, router, subnet_id=subnet)
    return network, subnet, router


def test_a_router_with_defaults(net: Net) -> None:
    made = net.make("router", name="r")
    expected = {
        "name": "r", "admin_state_up": True, "status": "ACTIVE", "external_gateway_info": None, "routes": [],
        "description": "", "project_id": MINE,
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert net.no("GET", f"routers/{made['id']}", who="other")[:2] == (404, "RouterNotFound")
    net.drop("router", made["id"])


def test_gateways(net: Net) -> None:
    key = net.make("router")["id"]
    info = net.put("router", key, external_gateway_info={"network_id": net.outside()})[
        "external_gateway_info"
    ]
    assert info["enable_snat"] is True and info["network_id"] == net.outside()
    address = info["external_fixed_ips"][0]["ip_address"]
    assert address.startswith("172.24.4.")
    again = net.put("router", key, external_gateway_info={"network_id": net.outside()})
    assert again["external_gateway_info"] == info
    off = {"network_id": net.outside(), "enable_snat": False}
    assert net.no("PUT", f"routers/{key}", {"router": {"external_gateway_info": off}})[0] == 403
    changed = net.put("router", key, "admin", external_gateway_info=off)["external_gateway_info"]
    assert changed["enable_snat"] is False and changed["external_fixed_ips"][0]["ip_address"] == address
    fixed = {"network_id": net.outside(), "external_fixed_ips": [{"ip_address": "172.24.4.77"}]}
    moved = net.put("router", key, "admin", external_gateway_info=fixed)["external_gateway_info"]
    assert [ip["ip_address"] for ip in moved["external_fixed_ips"]] == ["172.24.4.77"]
    assert net.put("router", key, external_gateway_info={})["external_gateway_info"] is None
    assert net.ask("ports", "admin") == []


def test_a_gateway_needs_an_external_network(net: Net) -> None:
    network, _ = net.lan()
    foreign, _ = net.lan(who="other")
    for key, code in ((network, 400), (foreign, 404), ("nonsense", 400)):
        body = {"router": {"external_gateway_info": {"network_id": key}}}
        assert net.no("POST", "routers", body)[0] == code
    assert net.ask("routers") == []  # nothing is left of what was refused


def test_interfaces_by_subnet(net: Net) -> None:
    network, subnet = net.lan()
    router = net.make("router")["id"]
    made = plug(net, router, subnet_id=subnet)
    assert made["id"] == router and made["subnet_id"] == subnet and made["subnet_ids"] == [subnet]
    port = net.show("port", made["port_id"])
    assert port["device_owner"] == "network:router_interface" and port["device_id"] == router
    assert port["fixed_ips"] == [{"subnet_id": subnet, "ip_address": "10.0.0.1"}]
    path = f"routers/{router}/add_router_interface"
    assert net.no("PUT", path, {"subnet_id": subnet})[0] == 400
    _, other = net.lan("10.0.0.0/25")
    assert "overlaps" in net.no("PUT", path, {"subnet_id": other})[2]
    assert net.no("DELETE", f"routers/{router}")[:2] == (409, "RouterInUse")
    assert net.no("DELETE", f"networks/{network}")[:2] == (409, "NetworkInUse")
    assert unplug(net, router, subnet_id=subnet)["port_id"] == made["port_id"]
    body = {"subnet_id": subnet}
    assert net.no("PUT", f"routers/{router}/remove_router_interface", body)[:2] == (
        404, "RouterInterfaceNotFoundForSubnet",
    )  # fmt: skip
    net.drop("router", router)
    net.drop("network", network)


def test_interfaces_by_port(net: Net) -> None:
    network, subnet = net.lan()
    router = net.make("router")["id"]
    port = net.make("port", network_id=network, fixed_ips=[{"ip_address": "10.0.0.9"}])["id"]
    assert plug(net, router, port_id=port)["port_id"] == port
    shown = net.show("port", port)
    assert shown["device_id"] == router and shown["security_groups"] == []
    second = net.make("router")["id"]
    path = f"routers/{second}/add_router_interface"
    assert net.no("PUT", path, {"port_id": port})[:2] == (409, "PortInUse")
    bare = net.make("port", network_id=network, fixed_ips=[])["id"]
    assert net.no("PUT", path, {"port_id": bare})[0] == 400
    remove = f"routers/{router}/remove_router_interface"
    wrong = {"port_id": port, "subnet_id": bare}
    assert net.no("PUT", remove, wrong)[:2] == (400, "SubnetMismatchForPort")
    assert net.no("PUT", remove, {"port_id": bare})[:2] == (404, "RouterInterfaceNotFound")
    unplug(net, router, port_id=port, subnet_id=subnet)
    assert net.no("GET", f"ports/{port}")[0] == 404


@pytest.mark.parametrize(
    "body", [{}, {"subnet_id": None}, {"subnet_id": "x"}, {"port_id": 7}, {"what": "x"}, []]
)
def test_bad_interfaces(net: Net, body: Any) -> None:
    router = net.make("router")["id"]
    assert net.no("PUT", f"routers/{router}/add_router_interface", body)[0] == 400


def test_interfaces_to_foreign_subnets(net: Net) -> None:
    foreign, subnet = net.lan(who="other")
    router = net.make("router")["id"]
    path = f"routers/{router}/add_router_interface"
    assert net.no("PUT", path, {"subnet_id": subnet})[:2] == (404, "SubnetNotFound")
    net.put("network", foreign, "admin", shared=True)
    assert net.no("PUT", path, {"subnet_id": subnet})[0] == 400
    no_gateway = net.lan("10.5.0.0/24", gateway_ip=None)[1]
    assert "gateway" in net.no("PUT", path, {"subnet_id": no_gateway})[2]


def test_routes(net: Net) -> None:
    _, subnet, router = way_out(net)
    routes = [{"destination": "10.99.0.0/16", "nexthop": "10.0.0.7"}]
    assert net.put("router", router, routes=routes)["routes"] == routes
    path, body = f"routers/{router}/remove_router_interface", {"subnet_id": subnet}
    assert net.no("PUT", path, body)[:2] == (409, "RouterInterfaceInUseByRoute")
    for hop in ("10.0.0.1", "192.168.7.7"):
        wrong = {"router": {"routes": [{"destination": "10.99.0.0/16", "nexthop": hop}]}}
        assert net.no("PUT", f"routers/{router}", wrong)[:2] == (400, "InvalidRoutes")
    assert net.put("router", router, routes=[])["routes"] == []
    unplug(net, router, subnet_id=subnet)


# ---- floating IPs


def test_a_floating_ip_comes_and_goes(net: Net) -> None:
    network, subnet, router = way_out(net)
    port = net.make("port", network_id=network)
    made = net.make("floatingip", floating_network_id=net.outside(), description="d")
    assert made["status"] == "DOWN" and made["port_id"] is None and made["router_id"] is None
    assert made["floating_ip_address"].startswith("172.24.4.") and made["description"] == "d"
    tied = net.put("floatingip", made["id"], port_id=port["id"])
    assert tied["fixed_ip_address"] == port["fixed_ips"][0]["ip_address"] and tied["router_id"] == router
    assert tied["port_details"]["network_id"] == network
    path = f"routers/{router}"
    assert net.no("PUT", f"{path}/remove_router_interface", {"subnet_id": subnet})[1] == (
        "RouterInterfaceInUseByFloatingIP"
    )
    assert net.no("PUT", path, {"router": {"external_gateway_info": None}})[1] == (
        "RouterExternalGatewayInUseByFloatingIp"
    )
    free = net.put("floatingip", made["id"], port_id=None)
    assert free["fixed_ip_address"] is None and free["router_id"] is None and free["port_details"] is None
    net.drop("floatingip", made["id"])
    assert net.no("GET", f"floatingips/{made['id']}")[:2] == (404, "FloatingIPNotFound")
    assert not net.ask("ports?device_owner=network:floatingip", "admin")


def test_a_floating_ip_with_its_port_at_once(net: Net) -> None:
    network, _, router = way_out(net)
    port = net.make("port", network_id=network)["id"]
    made = net.make("floatingip", floating_network_id=net.outside(), port_id=port)
    assert made["port_id"] == port and made["router_id"] == router
    body = {"floatingip": {"floating_network_id": net.outside(), "port_id": port}}
    assert net.no("POST", "floatingips", body)[:2] == (409, "FloatingIPPortAlreadyAssociated")
    assert len(net.ask("floatingips")) == 1
    net.drop("port", port)
    assert net.show("floatingip", made["id"])["port_id"] is None


def test_unreachable_ports(net: Net) -> None:
    network, _ = net.lan()
    port = net.make("port", network_id=network)["id"]
    body = {"floatingip": {"floating_network_id": net.outside(), "port_id": port}}
    assert net.no("POST", "floatingips", body)[:2] == (404, "ExternalGatewayForFloatingIPNotFound")
    bare = net.make("port", network_id=network, fixed_ips=[])["id"]
    foreign = net.make("port", "other", network_id=net.lan(who="other")[0])["id"]
    for key, code in ((bare, 400), (foreign, 404), ("x", 400)):
        body["floatingip"]["port_id"] = key
        assert net.no("POST", "floatingips", body)[0] == code
    assert net.ask("floatingips") == []


def test_several_addresses_need_a_word(net: Net) -> None:
    network, subnet, _ = way_out(net)
    fixed = [{"subnet_id": subnet, "ip_address": f"10.0.0.{n}"} for n in (7, 8)]
    port = net.make("port", network_id=network, fixed_ips=fixed)["id"]
    body: dict[str, Any] = {"floatingip": {"floating_network_id": net.outside(), "port_id": port}}
    assert net.no("POST", "floatingips", body)[0] == 400
    body["floatingip"]["fixed_ip_address"] = "10.0.0.99"
    assert net.no("POST", "floatingips", body)[0] == 400
    body["floatingip"]["fixed_ip_address"] = "10.0.0.8"
    made = net.call("POST", "/v2.0/floatingips", body)["floatingip"]
    assert made["fixed_ip_address"] == "10.0.0.8"
    second = net.make(
        "floatingip", floating_network_id=net.outside(), port_id=port, fixed_ip_address="10.0.0.7"
    )
    assert second["router_id"] == made["router_id"]
    gone = {"port": {"fixed_ips": [{"ip_address": "10.0.0.7"}]}}
    assert net.no("PUT", f"ports/{port}", gone)[0] == 400


def test_which_addresses_float(net: Net) -> None:
    body: dict[str, Any] = {
        "floatingip": {"floating_network_id": net.outside(), "floating_ip_address": "172.24.4.99"}
    }
    assert net.no("POST", "floatingips", body)[0] == 403
    made = net.make(
        "floatingip", "admin", floating_network_id=net.outside(), floating_ip_address="172.24.4.99"
    )
    assert made["floating_ip_address"] == "172.24.4.99"
    assert net.no("POST", "floatingips", body, "admin")[:2] == (409, "IpAddressInUse")
    network, _ = net.lan()
    assert net.no("POST", "floatingips", {"floatingip": {"floating_network_id": network}})[0] == 400


def test_an_external_network_runs_dry(net: Net) -> None:
    subnet = net.ask(f"subnets?network_id={net.outside()}")[0]["id"]
    pool = [{"start": "172.24.4.10", "end": "172.24.4.11"}]
    net.put("subnet", subnet, "admin", allocation_pools=pool)
    body = {"floatingip": {"floating_network_id": net.outside()}}
    for _ in range(2):
        net.call("POST", "/v2.0/floatingips", body)
    assert net.no("POST", "floatingips", body)[:2] == (400, "ExternalIpAddressExhausted")
