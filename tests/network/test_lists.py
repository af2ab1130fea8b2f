"""Lists: filters, sorting, pages, chosen fields, tags."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.network.cloud import Net


@pytest.fixture
def five(net: Net) -> Net:
    """Five networks, a to e."""
    for name in "caebd":
        net.make("network", name=name)
    return net


def names(net: Net, query: str) -> str:
    return "".join(n["name"] for n in net.ask(f"networks?router:external=false&{query}"))


def test_sorting(five: Net) -> None:
    assert names(five, "") == "caebd"
    assert names(five, "sort_key=name&sort_dir=asc") == "abcde"
    assert names(five, "sort_key=name&sort_dir=desc") == "edcba"
    assert names(five, "sort_key=admin_state_up&sort_dir=asc&sort_key=name&sort_dir=desc") == "edcba"
    assert names(five, "sort_key=tenant_id&sort_dir=asc&sort_key=name&sort_dir=asc") == "abcde"
    for wrong in ("sort_key=name", "sort_key=name&sort_dir=up", "sort_key=vni&sort_dir=asc", "sort_dir=asc"):
        assert five.no("GET", f"networks?{wrong}")[0] == 400, wrong


def test_pages(five: Net) -> None:
    seen, path = "", "/v2.0/networks?limit=2&sort_key=name&sort_dir=asc&router:external=false"
    pages = 0
    while path:
        answer = five.call("GET", path)
        pages += 1
        assert len(answer["networks"]) <= 2
        seen += "".join(n["name"] for n in answer["networks"])
        links = {link["rel"]: link["href"] for link in answer["networks_links"]}
        assert "previous" in links
        parts = urlsplit(links.get("next", ""))
        path = f"{parts.path.removeprefix('/network')}?{parts.query}" if parts.path else ""
    assert (seen, pages) == ("abcde", 3)
    whole = five.call("GET", "/v2.0/networks")
    assert "networks_links" not in whole and len(whole["networks"]) == 6
    assert len(five.ask("networks?limit=0")) == 6


def test_pages_backwards(five: Net) -> None:
    e = five.ask("networks?name=e")[0]["id"]
    order = "sort_key=name&sort_dir=asc&limit=2&page_reverse=True"
    assert names(five, f"{order}&marker={e}") == "cd"
    answer = five.call("GET", f"/v2.0/networks?router:external=false&{order}&marker={e}")
    assert {link["rel"] for link in answer["networks_links"]} == {"next", "previous"}


def test_bad_pages(five: Net) -> None:
    for wrong in ("limit=-1", "limit=x", "marker=nothing&limit=1"):
        assert five.no("GET", f"networks?{wrong}")[0] == 400, wrong


def test_fields(five: Net) -> None:
    found = five.ask("networks?fields=id&fields=name&name=a")
    assert [set(one) for one in found] == [{"id", "name"}]
    shown = five.call("GET", f"/v2.0/networks/{found[0]['id']}?fields=status")["network"]
    assert shown == {"status": "ACTIVE"}


def test_filters(five: Net) -> None:
    ids = {n["name"]: n["id"] for n in five.ask("networks")}
    five.put("network", ids["a"], admin_state_up=False, description="")
    assert names(five, "name=a&name=b") == "ab"
    assert names(five, f"id={ids['c']}&id={ids['d']}") == "cd"
    assert names(five, "admin_state_up=False") == "a"
    assert names(five, "admin_state_up=true&name=a") == ""
    assert names(five, "shared=0") == "caebd"
    assert names(five, "description=") == "caebd"
    assert names(five, "status=DOWN") == ""
    assert names(five, "mtu=1450&name=a") == "a"
    assert names(five, "tenant_id=" + "1" * 32) == "caebd"
    assert names(five, "project_id=" + "2" * 32) == ""
    assert names(five, "changed_since=2020-01-01T00:00:00") == "caebd"
    assert names(five, "changed_since=2999-01-01T00:00:00Z") == ""
    for wrong in (
        "subnets=x",
        "surprise=1",
        "changed_since=x",
        "admin_state_up=maybe",
        "mtu=big",
        "vni=1",
        "host=x",
    ):
        assert five.no("GET", f"networks?{wrong}")[0] == 400, wrong


def test_port_filters(net: Net) -> None:
    network, subnet = net.lan()
    one, two = (
        net.make("port", network_id=network, fixed_ips=[{"ip_address": f"10.0.0.{n}"}], device_id=f"d{n}",
                 mac_address=f"fa:16:3e:00:00:0{n}")["id"]
        for n in (7, 8)
    )  # fmt: skip
    net.lan("10.7.0.0/24")

    def found(query: str) -> list[str]:
        return [p["id"] for p in net.ask(f"ports?{query}")]

    assert found("fixed_ips=ip_address=10.0.0.7") == [one]
    assert found("fixed_ips=ip_address=10.0.0.7&fixed_ips=ip_address=10.0.0.8") == [one, two]
    assert found(f"fixed_ips=subnet_id={subnet}") == [one, two]
    assert found(f"fixed_ips=subnet_id={subnet}&fixed_ips=ip_address=10.0.0.8") == [two]
    assert found("fixed_ips=ip_address_substr=0.0.8") == [two]
    assert found("fixed_ips=ip_address_substr=0_0") == []
    assert found("device_id=d7&device_id=d8") == [one, two]
    assert found("mac_address=FA:16:3E:00:00:08") == [two]
    assert found("device_owner=&network_id=" + network) == [one, two]
    for wrong in ("fixed_ips=10.0.0.7", "fixed_ips=ip_address=x", "fixed_ips=mac=1"):
        assert net.no("GET", f"ports?{wrong}")[0] == 400, wrong


def test_tags(five: Net) -> None:
    ids = {n["name"]: n["id"] for n in five.ask("networks")}
    for name, tags in (("a", ["red"]), ("b", ["red", "blue"]), ("c", ["blue", "green"])):
        answer = five.call("PUT", f"/v2.0/networks/{ids[name]}/tags", {"tags": tags})
        assert answer == {"tags": sorted(tags)}
    order = "sort_key=name&sort_dir=asc"
    assert names(five, f"{order}&tags=red") == "ab"
    assert names(five, f"{order}&tags=red,blue") == "b"
    assert names(five, f"{order}&tags-any=red,green") == "abc"
    assert names(five, f"{order}&not-tags=red,blue") == "acde"
    assert names(five, f"{order}&not-tags-any=red,green") == "de"
    path = f"/v2.0/networks/{ids['a']}/tags"
    five.call("PUT", f"{path}/new")
    five.call("PUT", f"{path}/new")
    assert five.call("GET", path) == {"tags": ["new", "red"]}
    five.call("GET", f"{path}/new")
    five.call("DELETE", f"{path}/red")
    assert five.no("GET", f"networks/{ids['a']}/tags/red")[:2] == (404, "TagNotFound")
    assert five.no("DELETE", f"networks/{ids['a']}/tags/red")[0] == 404
    five.call("DELETE", path)
    assert five.show("network", ids["a"])["tags"] == []
    for wrong in ({"tags": [""]}, {"tags": ["a,b"]}, {"tags": ["x" * 256]}, {"tags": "x"}, {}, {"tags": [1]}):
        assert five.no("PUT", f"networks/{ids['a']}/tags", wrong)[0] == 400, wrong
    assert five.no("PUT", f"networks/{ids['a']}/tags", {"tags": []}, "other")[0] == 404
    assert five.no("PUT", f"networks/{ids['a']}/tags", {"tags": []}, "reader")[0] == 403


def test_every_list_filters_and_sorts(net: Net) -> None:
    """Each attribute that says it does."""
    from altostack.kit.resource import columns

    net.agent()
    for resource in net.service.resources:
        for column in columns(resource.row):
            if column.facet.sort:
                net.call("GET", f"/v2.0{resource.base}?sort_key={column.wire}&sort_dir=desc", who="admin")
            if column.facet.filter:
                value = {bool: "true", int: "7"}.get(column.type, "2026-01-01T00:00:00Z")
                net.call("GET", f"/v2.0{resource.base}?{column.wire}={value}", who="admin")
