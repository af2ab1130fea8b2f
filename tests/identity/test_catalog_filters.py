"""Whose catalogue shows which endpoints, and which policy an endpoint has."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.conftest import Keystone

pytestmark = pytest.mark.everywhere


def service(keystone: Keystone, kind: str, *regions: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A service with one public endpoint in each of ``regions``."""
    made = keystone.call("POST", "/services", {"service": {"type": kind, "name": kind}})["service"]
    return made, [
        keystone.call(
            "POST", "/endpoints",
            {"endpoint": {"service_id": made["id"], "interface": "public", "region_id": r, "url": f"http://{kind}"}},
        )["endpoint"]
        for r in regions
    ]  # fmt: skip


def region(keystone: Keystone, name: str, above: str | None = None) -> str:
    body = {"region": {"id": name, "parent_region_id": above}}
    return str(keystone.call("POST", "/regions", body)["region"]["id"])


def seen(keystone: Keystone, token: str) -> set[str]:
    """The ids of the endpoints in a token's catalogue, which all its forms agree upon."""
    shown = {one["id"] for entry in keystone.body(token)["catalog"] for one in entry["endpoints"]}
    asked = keystone.call("GET", "/auth/catalog", token=token)["catalog"]
    assert shown == {one["id"] for entry in asked for one in entry["endpoints"]}
    return shown


def test_a_project_sees_what_it_is_associated_with(keystone: Keystone) -> None:
    region(keystone, "north")
    one, (ep, other) = service(keystone, "alpha", "north", "RegionOne")
    _, (third,) = service(keystone, "beta", "north")
    project, sibling = keystone.project("p"), keystone.project("q")
    _, token = keystone.member("u", project)
    _, free = keystone.member("v", sibling)
    everything = seen(keystone, token)
    assert {ep["id"], other["id"], third["id"]} < everything
    told = keystone.call("GET", f"/OS-EP-FILTER/projects/{project['id']}/endpoints")
    assert told["endpoints"] == []  # all are seen, none is associated
    path = f"/OS-EP-FILTER/projects/{project['id']}/endpoints/{ep['id']}"
    assert keystone.status("GET", path) == keystone.status("DELETE", path) == 404
    keystone.call("PUT", path)
    keystone.call("PUT", path)
    assert keystone.send("GET", f"/v3{path}", token=keystone.admin).status == 204
    assert keystone.send("HEAD", f"/v3{path}", token=keystone.admin).status == 204
    assert seen(keystone, token) == {ep["id"]}
    assert [entry["type"] for entry in keystone.body(token)["catalog"]] == ["alpha"]
    assert seen(keystone, free) == everything
    listed = keystone.call("GET", f"/OS-EP-FILTER/projects/{project['id']}/endpoints")["endpoints"]
    assert [row["id"] for row in listed] == [ep["id"]]
    (back,) = keystone.call("GET", f"/OS-EP-FILTER/endpoints/{ep['id']}/projects")["projects"]
    assert back["id"] == project["id"]

    group = keystone.call(
        "POST", "/OS-EP-FILTER/endpoint_groups",
        {"endpoint_group": {"name": "g", "description": "d", "filters": {"service_id": one["id"]}}},
    )["endpoint_group"]  # fmt: skip
    assert group["links"]["self"].endswith(f"/v3/OS-EP-FILTER/endpoint_groups/{group['id']}")
    assert (group["name"], group["description"], group["filters"]) == ("g", "d", {"service_id": one["id"]})
    inside = keystone.call("GET", f"/OS-EP-FILTER/endpoint_groups/{group['id']}/endpoints")["endpoints"]
    assert {row["id"] for row in inside} == {ep["id"], other["id"]}
    grouped = f"/OS-EP-FILTER/endpoint_groups/{group['id']}/projects/{project['id']}"
    assert keystone.status("GET", grouped) == 404
    keystone.call("PUT", grouped)
    pair = keystone.call("GET", grouped)["project_endpoint_group"]
    assert (pair["project_id"], pair["endpoint_group_id"]) == (project["id"], group["id"])
    assert seen(keystone, token) == {ep["id"], other["id"]}
    keystone.call("DELETE", path)
    assert seen(keystone, token) == {ep["id"], other["id"]}
    change = {"endpoint_group": {"filters": {"region_id": "north", "interface": "public"}}}
    keystone.call("PATCH", f"/OS-EP-FILTER/endpoint_groups/{group['id']}", change)
    assert seen(keystone, token) == {ep["id"], third["id"]}
    left = {"endpoint_group": {"name": None, "description": "e", "filters": None}}
    shown = keystone.call("PATCH", f"/OS-EP-FILTER/endpoint_groups/{group['id']}", left)["endpoint_group"]
    assert (shown["name"], shown["description"], shown["filters"]["region_id"]) == ("g", "e", "north")
    (mine,) = keystone.call("GET", f"/OS-EP-FILTER/projects/{project['id']}/endpoint_groups")[
        "endpoint_groups"
    ]
    (owner,) = keystone.call("GET", f"/OS-EP-FILTER/endpoint_groups/{group['id']}/projects")["projects"]
    assert (mine["id"], owner["id"]) == (group["id"], project["id"])
    assert len(keystone.call("GET", "/OS-EP-FILTER/endpoint_groups?name=g")["endpoint_groups"]) == 1
    keystone.call("DELETE", grouped)
    assert seen(keystone, token) == everything
    keystone.call("PUT", grouped)
    keystone.call("DELETE", f"/OS-EP-FILTER/endpoint_groups/{group['id']}")
    assert seen(keystone, token) == everything


@pytest.mark.parametrize("filters", [{}, {"url": "x"}, {"interface": "sideways"}, {"service_id": 1}])
def test_an_endpoint_group_needs_filters_that_can_match(shared: Keystone, filters: dict[str, Any]) -> None:
    body = {"endpoint_group": {"name": "g", "filters": filters}}
    assert shared.status("POST", "/OS-EP-FILTER/endpoint_groups", body) == 400


def test_associations_name_what_is_there(shared: Keystone) -> None:
    project = shared.call("GET", "/projects")["projects"][0]["id"]
    endpoint = shared.call("GET", "/endpoints")["endpoints"][0]["id"]
    nowhere = "f" * 32
    for path in (
        f"projects/{nowhere}/endpoints/{endpoint}", f"projects/{project}/endpoints/{nowhere}",
        f"endpoint_groups/{nowhere}/projects/{project}",
    ):  # fmt: skip
        assert shared.status("PUT", f"/OS-EP-FILTER/{path}") == 404


def test_an_endpoints_policy_is_the_nearest(keystone: Keystone) -> None:
    region(keystone, "world")
    region(keystone, "north", "world")
    one, (ep, far) = service(keystone, "alpha", "north", "RegionOne")

    def policy(blob: str) -> str:
        body = {"policy": {"type": "application/json", "blob": blob}}
        return str(keystone.call("POST", "/policies", body)["policy"]["id"])

    def of(endpoint: dict[str, Any]) -> str:
        path = f"/endpoints/{endpoint['id']}/OS-ENDPOINT-POLICY/policy"
        return str(keystone.call("GET", path)["policy"]["id"])

    def reached(policy_id: str) -> set[str]:
        rows = keystone.call("GET", f"/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints")["endpoints"]
        return {row["id"] for row in rows}

    assert keystone.status("GET", f"/endpoints/{ep['id']}/OS-ENDPOINT-POLICY/policy") == 404
    wide, middle, near = policy("a"), policy("b"), policy("c")
    places = {
        wide: f"/policies/{wide}/OS-ENDPOINT-POLICY/services/{one['id']}",
        middle: f"/policies/{middle}/OS-ENDPOINT-POLICY/services/{one['id']}/regions/world",
        near: f"/policies/{near}/OS-ENDPOINT-POLICY/endpoints/{ep['id']}",
    }
    for key, path in places.items():
        assert keystone.status("GET", path) == keystone.status("DELETE", path) == 404
        keystone.call("PUT", path)
        assert keystone.send("HEAD", f"/v3{path}", token=keystone.admin).status == 204
        assert of(ep) == key and of(far) == wide
    assert reached(wide) == {ep["id"], far["id"]} and reached(middle) == reached(near) == {ep["id"]}
    # One policy a target: the later takes the place of the earlier.
    keystone.call("PUT", places[near].replace(near, wide))
    assert of(ep) == wide and keystone.status("GET", places[near]) == 404
    keystone.call("DELETE", places[near].replace(near, wide))
    assert of(ep) == middle
    keystone.call("DELETE", f"/policies/{middle}")
    assert of(ep) == wide
    shown = keystone.call("GET", f"/policies/{wide}")["policy"]
    assert (shown["type"], shown["blob"]) == ("application/json", "a")
    changed = keystone.call("PATCH", f"/policies/{wide}", {"policy": {"blob": "z"}})["policy"]
    assert (changed["type"], changed["blob"]) == ("application/json", "z")
