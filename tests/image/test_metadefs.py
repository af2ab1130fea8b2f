"""Metadata definitions: the usual namespaces, and those that people make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.image import SERVICE
from altostack.image.stores import open_stores
from tests.lone import Lone

pytestmark = pytest.mark.everywhere
BASE = "/v2/metadefs/namespaces"


@pytest.fixture
def glance(tmp_path: Path) -> Iterator[Lone]:
    lone = Lone(SERVICE, tmp_path, drivers={"stores": open_stores(tmp_path, SERVICE.settings())})
    assert SERVICE.bootstrap is not None
    SERVICE.bootstrap(lone.runtime)
    yield lone
    lone.close()


def make(glance: Lone, name: str = "A::B", **fields: Any) -> Any:
    return glance.call("POST", BASE, {"namespace": name, **fields}, who="admin")


def test_the_usual_namespaces_are_there_once(glance: Lone) -> None:
    assert SERVICE.bootstrap is not None
    SERVICE.bootstrap(glance.runtime)
    seen: list[str] = []
    page = glance.call("GET", f"{BASE}?limit=10", who="reader")
    while True:
        seen += [one["namespace"] for one in page["namespaces"]]
        if "next" not in page:
            break
        page = glance.call("GET", page["next"], who="reader")
    assert len(seen) == len(set(seen)) == 32
    assert {"OS::Compute::LibvirtImage", "OS::Glance::Signatures", "OS::OperatingSystem"} <= set(seen)
    shown = glance.call("GET", f"{BASE}/OS::Compute::Watchdog", who="reader")
    assert shown["properties"]["watchdog_action"]["enum"] == [
        "disabled",
        "reset",
        "poweroff",
        "pause",
        "none",
    ]
    flavor = glance.call("GET", f"{BASE}/OS::Compute::Watchdog?resource_type=OS::Nova::Flavor")
    assert list(flavor["properties"]) == ["hw:watchdog_action"]
    path = f"{BASE}/OS::Compute::Watchdog/properties/hw:watchdog_action?resource_type=OS::Nova::Flavor"
    assert glance.call("GET", path)["name"] == "hw:watchdog_action"
    types = [one["name"] for one in glance.call("GET", "/v2/metadefs/resource_types")["resource_types"]]
    assert types == sorted(types) and "OS::Nova::Flavor" in types
    meant = glance.call("GET", f"{BASE}?resource_types=OS::Trove::Instance")["namespaces"]
    assert [one["namespace"] for one in meant] == ["OS::Software::DBMS"]
    limits = glance.call("GET", f"{BASE}/OS::Compute::Quota")["objects"][0]
    assert limits["properties"]["quota:cpu_period"]["maximum"] == 1_000_000
    assert glance.refusal("DELETE", f"{BASE}/OS::Compute::Watchdog", who="admin")[0] == 403


def test_a_namespace_with_all_that_is_in_it(glance: Lone) -> None:
    made = make(
        glance, display_name="AB", description="d", visibility="public", protected=True,
        resource_type_associations=[{"name": "OS::Glance::Image", "prefix": "x_"}],
        properties={"p": {"type": "string", "title": "P"}},
        objects=[{"name": "o", "required": ["q"], "properties": {"q": {"type": "integer", "title": "Q"}}}],
        tags=[{"name": "t"}],
    )  # fmt: skip
    assert made["self"] == f"{BASE}/A::B" and made["owner"] == "0" * 32
    shown = glance.call("GET", f"{BASE}/A::B?resource_type=OS::Glance::Image")
    assert shown["properties"] == {"x_p": {"type": "string", "title": "P"}}
    assert shown["objects"][0]["required"] == ["x_q"] and list(shown["objects"][0]["properties"]) == ["x_q"]
    assert [one["name"] for one in shown["tags"]] == ["t"]
    assert glance.refusal("POST", BASE, {"namespace": "A::B"}, who="admin")[0] == 409
    assert glance.refusal("DELETE", f"{BASE}/A::B", who="admin")[0] == 403
    assert glance.refusal("DELETE", f"{BASE}/A::B/resource_types/OS::Glance::Image", who="admin")[0] == 403
    changed = glance.call("PUT", f"{BASE}/A::B", {"namespace": "A::C"}, who="admin")
    assert (changed["namespace"], changed["visibility"], changed["protected"]) == ("A::C", "private", False)
    assert "display_name" not in changed
    assert glance.refusal("GET", f"{BASE}/A::B", who="admin")[0] == 404
    assert glance.call("GET", f"{BASE}/A::C/objects", who="admin")["objects"][0]["name"] == "o"
    glance.call("DELETE", f"{BASE}/A::C", who="admin")
    assert glance.refusal("GET", f"{BASE}/A::C", who="admin")[0] == 404
    make(glance)
    assert glance.call("GET", f"{BASE}/A::B/objects", who="admin")["objects"] == []


@pytest.mark.parametrize(
    ("what", "one", "again"),
    [
        ("objects", {"name": "o", "properties": {"p": {"type": "string", "title": "P"}}}, {"name": "o2"}),
        (
            "properties",
            {"name": "p", "type": "string", "title": "P", "enum": ["a"]},
            {"name": "p2", "type": "integer", "title": "P2", "minimum": 1},
        ),
    ],
)
def test_parts_of_a_namespace(glance: Lone, what: str, one: dict[str, Any], again: dict[str, Any]) -> None:
    make(glance)
    base = f"{BASE}/A::B/{what}"
    made = glance.call("POST", base, one, who="admin")
    assert one.items() <= made.items()
    assert glance.refusal("POST", base, one, who="admin")[0] == 409
    assert glance.call("GET", f"{base}/{one['name']}", who="admin")["name"] == one["name"]
    changed = glance.call("PUT", f"{base}/{one['name']}", again, who="admin")
    assert changed["name"] == again["name"] and "enum" not in changed
    assert glance.refusal("GET", f"{base}/{one['name']}", who="admin")[0] == 404
    glance.call("DELETE", f"{base}/{again['name']}", who="admin")
    assert glance.refusal("DELETE", f"{base}/{again['name']}", who="admin")[0] == 404
    glance.call("POST", base, one, who="admin")
    glance.call("DELETE", base, who="admin")
    assert not glance.call("GET", base, who="admin")[what]


def test_tags(glance: Lone) -> None:
    make(glance)
    base = f"{BASE}/A::B/tags"
    glance.call("POST", base, {"tags": [{"name": "a"}, {"name": "b"}]}, who="admin")
    glance.call("POST", base, {"tags": [{"name": "c"}]}, who="admin", headers={"X-Openstack-Append": "true"})
    names = lambda: [one["name"] for one in glance.call("GET", base, who="admin")["tags"]]  # noqa: E731 - short and local
    assert names() == ["a", "b", "c"]
    glance.call("POST", base, {"tags": [{"name": "d"}]}, who="admin")
    assert names() == ["d"]
    assert glance.refusal("POST", base, {"tags": [{"name": "e"}, {"name": "e"}]}, who="admin")[0] == 409
    assert names() == ["d"]
    glance.call("POST", f"{base}/f", who="admin")
    assert glance.refusal("POST", f"{base}/f", who="admin")[0] == 409
    assert glance.call("PUT", f"{base}/f", {"name": "g"}, who="admin")["name"] == "g"
    page = glance.call("GET", f"{base}?limit=1", who="admin")
    assert [one["name"] for one in page["tags"]] == ["d"]
    assert [one["name"] for one in glance.call("GET", page["next"], who="admin")["tags"]] == ["g"]
    glance.call("DELETE", f"{base}/g", who="admin")
    glance.call("DELETE", base, who="admin")
    assert names() == []


def test_resource_types(glance: Lone) -> None:
    make(glance)
    base = f"{BASE}/A::B/resource_types"
    made = glance.call("POST", base, {"name": "My::Type", "prefix": "m_"}, who="admin")
    assert (made["name"], made["prefix"]) == ("My::Type", "m_")
    assert glance.refusal("POST", base, {"name": "My::Type"}, who="admin")[0] == 409
    listed = glance.call("GET", base, who="admin")["resource_type_associations"]
    assert [one["name"] for one in listed] == ["My::Type"]
    glance.call("DELETE", f"{base}/My::Type", who="admin")
    assert glance.call("GET", base, who="admin")["resource_type_associations"] == []


def test_who_sees_and_changes_what(glance: Lone) -> None:
    make(glance, "mine", owner="1" * 32)
    make(glance, "theirs", owner="2" * 32)
    make(glance, "open", owner="2" * 32, visibility="public")
    seen = {one["namespace"] for one in glance.call("GET", f"{BASE}?limit=100", who="reader")["namespaces"]}
    assert {"mine", "open"} <= seen and "theirs" not in seen
    for name, read, write in (("mine", 200, 403), ("theirs", 404, 404), ("open", 200, 403)):
        for path in ("", "/objects", "/properties", "/tags", "/resource_types"):
            answer = glance.client.send("GET", f"{BASE}/{name}{path}", token="reader")
            assert answer.status == read, (name, path)
        for method, path, body in (
            ("PUT", "", {"namespace": name}),
            ("DELETE", "", None),
            ("POST", "/objects", {"name": "o"}),
            ("POST", "/properties", {"name": "p", "type": "string", "title": "P"}),
            ("POST", "/tags/t", None),
            ("POST", "/tags", {"tags": []}),
            ("POST", "/resource_types", {"name": "x"}),
            ("DELETE", "/tags", None),
        ):
            assert glance.refusal(method, f"{BASE}/{name}{path}", body)[0] == write, (name, method, path)
    assert glance.refusal("POST", BASE, {"namespace": "n"})[0] == 403


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"namespace": ""},
        {"namespace": "x" * 81},
        {"namespace": "x", "visibility": "loud"},
        {"namespace": "x", "unheard": 1},
        {"namespace": "x", "properties": {"p": {"type": "string"}}},
        {"namespace": "x", "properties": {"p": {"type": "text", "title": "P"}}},
        {"namespace": "x", "objects": [{"description": "no name"}]},
        {"namespace": "x", "created_at": "2026-01-01T00:00:00Z"},
    ],
)
def test_bad_namespaces(glance: Lone, body: dict[str, Any]) -> None:
    assert glance.refusal("POST", BASE, body, who="admin")[0] == 400


def test_schemas(glance: Lone) -> None:
    for path, name in (
        ("namespace", "namespace"), ("namespaces", "namespaces"), ("resource_type", "resource_type_association"),
        ("resource_types", "resource_type_associations"), ("object", "object"), ("objects", "objects"),
        ("property", "property"), ("properties", "properties"), ("tag", "tag"), ("tags", "tags"),
    ):  # fmt: skip
        assert glance.call("GET", f"/v2/schemas/metadefs/{path}", who="reader")["name"] == name
    assert glance.refusal("GET", "/v2/schemas/metadefs/image")[0] == 404
