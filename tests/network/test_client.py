"""The official ``openstack`` client, unmodified, against the service on a loopback port."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.inprocess import InProcessCloud


class Shell:
    """The client as somebody: ``shell("network", "list")`` is what it printed, as JSON where it can."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._options = [
            "--os-auth-url", url, "--os-username", user, "--os-password", password, "--os-project-name", user,
            "--os-user-domain-id", "default", "--os-project-domain-id", "default",
        ]  # fmt: skip

    def __call__(self, *words: str) -> Any:
        from openstackclient.shell import OpenStackShell
        from osc_lib.clientmanager import ClientCache, ClientManager

        for cache in vars(ClientManager).values():
            if isinstance(cache, ClientCache):
                cache._handle = None  # the client keeps them for its process, where it is one person
        shown = {"create", "show", "list"} & set(words)
        wanted = ["-f", "json"] if shown else []
        output, trouble = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(trouble),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            code = OpenStackShell().run([*self._options, *words, *wanted])
        if code:
            raise AssertionError(f"openstack {' '.join(words)}: {trouble.getvalue()}{output.getvalue()}")
        return json.loads(output.getvalue()) if shown else output.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessCloud]:
    folder: Path = tmp_path_factory.mktemp("client")
    cloud = InProcessCloud(folder, services=("identity", "network")).start()
    cloud.serve()
    yield cloud
    cloud.stop()


@pytest.fixture(scope="module")
def demo(cloud: InProcessCloud) -> Shell:
    return Shell(f"{cloud.cloud.url}/identity/v3", "demo", cloud.passwords["demo"])


@pytest.fixture(scope="module")
def admin(cloud: InProcessCloud) -> Shell:
    return Shell(f"{cloud.cloud.url}/identity/v3", "admin", cloud.passwords["admin"])


def test_networks_and_subnets(demo: Shell, admin: Shell) -> None:
    made = demo("network", "create", "--description", "d", "--mtu", "1400", "--tag", "blue", "one")
    assert made["mtu"] == 1400 and made["tags"] == ["blue"]
    shown = admin("network", "show", made["id"])
    assert shown["provider:network_type"] == "vxlan" and shown["provider:segmentation_id"]
    demo("network", "set", "--name", "uno", "--disable", "--tag", "green", made["id"])
    assert demo("network", "show", "uno")["admin_state_up"] is False
    assert [n["Name"] for n in demo("network", "list", "--tags", "blue,green")] == ["uno"]
    assert demo("network", "list", "--tags", "red") == []
    demo("network", "unset", "--tag", "blue", "uno")
    subnet = demo(
        "subnet", "create", "--network", "uno", "--subnet-range", "10.1.0.0/24", "--dns-nameserver", "9.9.9.9",
        "--host-route", "destination=10.9.0.0/16,gateway=10.1.0.9",
        "--allocation-pool", "start=10.1.0.20,end=10.1.0.40", "s",
    )  # fmt: skip
    assert subnet["gateway_ip"] == "10.1.0.1" and subnet["dns_nameservers"] == ["9.9.9.9"]
    demo("subnet", "set", "--no-dhcp", "--gateway", "none", "--name", "t", subnet["id"])
    shown = demo("subnet", "show", "t")
    assert shown["enable_dhcp"] is False and shown["gateway_ip"] is None
    demo("subnet", "unset", "--dns-nameserver", "9.9.9.9", "t")
    assert demo("subnet", "show", "t")["dns_nameservers"] == []
    assert [s["Subnet"] for s in demo("subnet", "list", "--network", "uno")] == ["10.1.0.0/24"]
    assert {n["Name"] for n in demo("network", "list", "--external")} == {"public"}
    demo("subnet", "delete", "t")
    demo("network", "delete", "uno")
    assert [n["Name"] for n in demo("network", "list")] == ["public"]


def test_ports(demo: Shell, admin: Shell) -> None:
    demo("network", "create", "p")
    subnet = demo("subnet", "create", "--network", "p", "--subnet-range", "10.2.0.0/24", "p")["id"]
    port = demo(
        "port", "create", "--network", "p", "--fixed-ip", f"subnet={subnet},ip-address=10.2.0.9",
        "--allowed-address", "ip-address=10.2.0.99", "--extra-dhcp-option", "name=bootfile-name,value=x", "x",
    )  # fmt: skip
    assert port["fixed_ips"] == [{"subnet_id": subnet, "ip_address": "10.2.0.9"}]
    demo("port", "set", "--name", "y", "--fixed-ip", f"subnet={subnet},ip-address=10.2.0.10", "x")
    assert len(demo("port", "show", "y")["fixed_ips"]) == 2
    demo("port", "unset", "--fixed-ip", f"subnet={subnet},ip-address=10.2.0.9", "y")
    assert demo("port", "list", "--fixed-ip", "ip-address=10.2.0.10")[0]["Name"] == "y"
    assert demo("port", "list", "--fixed-ip", "ip-address=10.2.0.9") == []
    demo("port", "set", "--no-security-group", "--no-allowed-address", "--disable-port-security", "y")
    assert demo("port", "show", "y")["port_security_enabled"] is False
    admin("port", "set", "--host", "node-1", demo("port", "show", "y")["id"])
    assert admin("port", "show", demo("port", "show", "y")["id"])["binding_vif_type"] == "tap"
    demo("port", "delete", "y")
    demo("network", "delete", "p")


def test_routers_and_floating_ips(demo: Shell) -> None:
    demo("network", "create", "r")
    demo("subnet", "create", "--network", "r", "--subnet-range", "10.3.0.0/24", "r")
    demo("router", "create", "r")
    demo("router", "add", "subnet", "r", "r")
    demo("router", "set", "--external-gateway", "public", "r")
    shown = demo("router", "show", "r")
    assert shown["external_gateway_info"]["enable_snat"] is True and len(shown["interfaces_info"]) == 1
    demo("router", "set", "--route", "destination=10.99.0.0/16,gateway=10.3.0.7", "r")
    demo("router", "unset", "--route", "destination=10.99.0.0/16,gateway=10.3.0.7", "r")
    port = demo("port", "create", "--network", "r", "r")["id"]
    address = demo("floating", "ip", "create", "--port", port, "public")["floating_ip_address"]
    assert demo("floating", "ip", "show", address)["port_id"] == port
    demo("floating", "ip", "unset", "--port", address)
    assert demo("floating", "ip", "show", address)["port_id"] is None
    demo("floating", "ip", "set", "--port", port, address)
    assert demo("floating", "ip", "list", "--port", port)[0]["Floating IP Address"] == address
    demo("floating", "ip", "delete", address)
    demo("port", "delete", port)
    demo("router", "unset", "--external-gateway", "r")
    demo("router", "remove", "subnet", "r", "r")
    demo("router", "delete", "r")
    demo("network", "delete", "r")


def test_security_groups(demo: Shell) -> None:
    assert [g["Name"] for g in demo("security", "group", "list")] == ["default"]
    demo("security", "group", "create", "--description", "w", "web")
    rule = demo(
        "security", "group", "rule", "create", "--protocol", "tcp", "--dst-port", "80:81", "--remote-ip",
        "10.0.0.0/8", "web",
    )  # fmt: skip
    assert (rule["port_range_min"], rule["port_range_max"], rule["direction"]) == (80, 81, "ingress")
    demo("security", "group", "rule", "create", "--protocol", "icmp", "--icmp-type", "8", "web")
    demo("security", "group", "rule", "create", "--ethertype", "IPv6", "--protocol", "ipv6-icmp", "web")
    demo("security", "group", "rule", "create", "--remote-group", "web", "--egress", "web")
    assert len(demo("security", "group", "rule", "list", "web")) == 6
    assert demo("security", "group", "rule", "show", rule["id"])["protocol"] == "tcp"
    demo("security", "group", "rule", "delete", rule["id"])
    demo("security", "group", "set", "--name", "net", "web")
    assert len(demo("security", "group", "show", "net")["rules"]) == 5
    demo("security", "group", "delete", "net")


def test_what_operators_look_at(demo: Shell, admin: Shell) -> None:
    aliases = {one["Alias"] for one in demo("extension", "list", "--network")}
    assert {"router", "security-group", "external-net", "quotas"} <= aliases
    assert demo("extension", "show", "router")["alias"] == "router"
    agents = admin("network", "agent", "list")
    assert [one["Host"] for one in agents] == ["node-1"] and agents[0]["Alive"]
    assert admin("network", "agent", "show", agents[0]["ID"])["binary"] == "altostack-network"
    zones = demo("availability", "zone", "list", "--network")
    assert {zone["Zone Name"] for zone in zones} == {"nova"}
    admin("network", "create", "--share", "--provider-network-type", "vxlan", "--provider-segment", "77", "s")
    assert "s" in {n["Name"] for n in demo("network", "list", "--share")}
    admin("network", "delete", "s")
    with pytest.raises(AssertionError, match="create_network:shared"):
        demo("network", "create", "--share", "t")
