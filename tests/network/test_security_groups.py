"""Security groups and rules through the API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.network.cloud import MINE, OTHERS, Net


def rule(net: Net, group: str, **fields: Any) -> dict[str, Any]:
    """A rule that lets something in."""
    return net.make("security_group_rule", **{"security_group_id": group, "direction": "ingress", **fields})


def test_the_default_group_is_made_on_demand(net: Net) -> None:
    (group,) = net.ask("security-groups")
    assert group["name"] == "default" and group["project_id"] == MINE
    rules = {(r["direction"], r["ethertype"], r["remote_group_id"]) for r in group["security_group_rules"]}
    assert rules == {
        ("egress", "IPv4", None), ("egress", "IPv6", None),
        ("ingress", "IPv4", group["id"]), ("ingress", "IPv6", group["id"]),
    }  # fmt: skip
    assert [g["id"] for g in net.ask("security-groups")] == [group["id"]]
    assert net.ask("security-groups", "other")[0]["id"] != group["id"]
    theirs = net.ask(f"security-groups?project_id={OTHERS}", "admin")
    assert [g["name"] for g in theirs] == ["default"]


def test_the_default_group_stays(net: Net) -> None:
    key = net.ask("security-groups")[0]["id"]
    body = {"security_group": {"name": "default"}}
    assert net.no("POST", "security-groups", body)[:2] == (409, "SecurityGroupDefaultAlreadyExists")
    body = {"security_group": {"name": "x"}}
    assert net.no("PUT", f"security-groups/{key}", body)[:2] == (409, "SecurityGroupCannotUpdateDefault")
    assert net.put("security_group", key, description="d")["description"] == "d"
    assert net.no("DELETE", f"security-groups/{key}")[:2] == (409, "SecurityGroupCannotRemoveDefault")
    net.drop("security_group", key, "admin")
    assert net.ask("security-groups")[0]["id"] != key


def test_a_new_group_lets_everything_out(net: Net) -> None:
    made = net.make("security_group", name="g", description="d")
    assert {(r["direction"], r["ethertype"]) for r in made["security_group_rules"]} == {
        ("egress", "IPv4"), ("egress", "IPv6"),
    }  # fmt: skip
    assert made["stateful"] is True and made == net.show("security_group", made["id"])
    assert net.put("security_group", made["id"], name="h", stateful=False)["stateful"] is False
    assert net.no("GET", f"security-groups/{made['id']}", who="other")[:2] == (404, "SecurityGroupNotFound")
    net.drop("security_group", made["id"])


def test_rules(net: Net) -> None:
    group = net.make("security_group", name="g")["id"]
    made = rule(net, group, protocol="TCP", port_range_min="22", port_range_max=22, ethertype="ipv4",
                remote_ip_prefix="10.0.0.5/24", description="d")  # fmt: skip
    expected = {
        "protocol": "tcp", "port_range_min": 22, "port_range_max": 22, "ethertype": "IPv4", "description": "d",
        "remote_ip_prefix": "10.0.0.5/24", "normalized_cidr": "10.0.0.0/24", "remote_group_id": None,
        "direction": "ingress", "project_id": MINE, "security_group_id": group,
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert net.show("security_group_rule", made["id"]) == made
    assert made in net.show("security_group", group)["security_group_rules"]
    assert [r["id"] for r in net.ask(f"security-group-rules?security_group_id={group}&protocol=tcp")] == [
        made["id"]
    ]
    assert net.no("PUT", f"security-group-rules/{made['id']}", {"security_group_rule": {}})[0] == 405
    net.drop("security_group_rule", made["id"])
    assert net.no("DELETE", f"security-group-rules/{made['id']}")[:2] == (404, "SecurityGroupRuleNotFound")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"protocol": "tcp", "port_range_min": 80, "port_range_max": 80},
         {"protocol": "6", "port_range_min": 80, "port_range_max": 80}),
        ({}, {"remote_ip_prefix": "0.0.0.0/0"}),
        ({"remote_ip_prefix": "10.0.0.0/24"}, {"remote_ip_prefix": "10.0.0.7/24"}),
        ({"protocol": "icmp", "port_range_min": 8}, {"protocol": "icmp", "port_range_min": 8}),
    ],
)  # fmt: skip
def test_the_same_rule_twice(net: Net, first: dict[str, Any], second: dict[str, Any]) -> None:
    group = net.make("security_group", name="g")["id"]
    made = rule(net, group, **first)
    body = {"security_group_rule": {"security_group_id": group, "direction": "ingress", **second}}
    code, kind, message = net.no("POST", "security-group-rules", body)
    assert (code, kind) == (409, "SecurityGroupRuleExists") and made["id"] in message
    rule(net, group, **{**second, "direction": "egress", "remote_ip_prefix": "10.7.0.0/16"})


BAD = [
    ({"direction": "sideways"}, "HTTPBadRequest"),
    ({"ethertype": "IPX"}, "SecurityGroupRuleInvalidEtherType"),
    ({"protocol": "tcpp"}, "SecurityGroupRuleInvalidProtocol"),
    ({"protocol": 256}, "SecurityGroupRuleInvalidProtocol"),
    ({"protocol": -1}, "SecurityGroupRuleInvalidProtocol"),
    ({"protocol": "ipv6-icmp", "ethertype": "IPv4"}, "SecurityGroupEthertypeConflictWithProtocol"),
    ({"port_range_min": 1, "port_range_max": 2}, "SecurityGroupProtocolRequiredWithPorts"),
    ({"protocol": "tcp", "port_range_min": 2, "port_range_max": 1}, "SecurityGroupInvalidPortRange"),
    ({"protocol": "tcp", "port_range_min": 2}, "SecurityGroupInvalidPortRange"),
    ({"protocol": "tcp", "port_range_min": 1, "port_range_max": 65536}, "SecurityGroupInvalidPortValue"),
    ({"protocol": "gre", "port_range_min": 1, "port_range_max": 2}, "SecurityGroupInvalidProtocolForPort"),
    ({"protocol": "icmp", "port_range_min": 256}, "SecurityGroupInvalidIcmpValue"),
    ({"protocol": "icmp", "port_range_max": 1}, "SecurityGroupMissingIcmpType"),
    ({"remote_ip_prefix": "10.0.0.0/33"}, "InvalidCIDR"),
    ({"remote_ip_prefix": "everywhere"}, "InvalidCIDR"),
    ({"remote_ip_prefix": "2001:db8::/32"}, "SecurityGroupRuleParameterConflict"),
    ({"remote_ip_prefix": "fe80::1%eth0", "ethertype": "IPv6"}, "InvalidCIDR"),
    ({"surprise": 1}, "HTTPBadRequest"),
]


@pytest.mark.parametrize(("fields", "kind"), BAD)
def test_bad_rules(net: Net, fields: dict[str, Any], kind: str) -> None:
    group = net.make("security_group", name="g")["id"]
    body = {"security_group_rule": {"security_group_id": group, "direction": "ingress", **fields}}
    assert net.no("POST", "security-group-rules", body)[:2] == (400, kind)
    assert len(net.show("security_group", group)["security_group_rules"]) == 2


def test_remote_groups(net: Net) -> None:
    group, other = (net.make("security_group", name=name)["id"] for name in "ab")
    made = rule(net, group, remote_group_id=other)
    both = {"security_group_id": group, "direction": "ingress", "remote_group_id": other,
            "remote_ip_prefix": "10.0.0.0/8"}  # fmt: skip
    assert net.no("POST", "security-group-rules", {"security_group_rule": both})[1] == (
        "SecurityGroupMultipleRemoteEntites"
    )
    net.drop("security_group", other)
    assert made["id"] not in {r["id"] for r in net.show("security_group", group)["security_group_rules"]}


def test_foreign_groups_take_no_rules(net: Net) -> None:
    theirs = net.make("security_group", "other", name="g")["id"]
    mine = net.make("security_group", name="g")["id"]
    for group, remote in ((theirs, None), (mine, theirs), ("x", None)):
        body = {"security_group_id": group, "direction": "ingress", "remote_group_id": remote}
        assert net.no("POST", "security-group-rules", {"security_group_rule": body})[:2] == (
            404, "SecurityGroupNotFound",
        )  # fmt: skip


def test_stateless_groups_do_not_mix(net: Net) -> None:
    network, _ = net.lan()
    one = net.make("security_group", name="a")["id"]
    two = net.make("security_group", name="b", stateful=False)["id"]
    body: dict[str, Any] = {"port": {"network_id": network, "security_groups": [one, two]}}
    assert net.no("POST", "ports", body)[:2] == (409, "SecurityGroupConflict")
    net.make("port", network_id=network, security_groups=[two])
    body = {"security_group": {"stateful": True}}
    assert net.no("PUT", f"security-groups/{two}", body)[:2] == (409, "SecurityGroupInUse")


def test_bulk_rules(net: Net) -> None:
    group = net.make("security_group", name="g")["id"]
    rules = [
        {"security_group_id": group, "direction": "ingress", "protocol": "tcp", "port_range_min": n,
         "port_range_max": n}
        for n in (80, 443)
    ]  # fmt: skip
    made = net.call("POST", "/v2.0/security-group-rules", {"security_group_rules": rules})
    assert [r["port_range_min"] for r in made["security_group_rules"]] == [80, 443]
    rules[0]["port_range_min"] = rules[0]["port_range_max"] = 22
    assert net.no("POST", "security-group-rules", {"security_group_rules": rules})[0] == 409
    assert len(net.show("security_group", group)["security_group_rules"]) == 4
