"""Providers, inventories, traits, classes and aggregates through the API."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.lone import Lone
from tests.placement.world import call, claim, provider, refused

pytestmark = pytest.mark.everywhere


def test_version_document_needs_no_token(lone: Lone) -> None:
    answer = lone.client.send("GET", "/")
    body = json.loads(answer.read())
    assert body["versions"][0]["max_version"] == "1.39"
    assert answer.headers["openstack-api-version"] == "placement 1.0"


def test_a_provider_lives(lone: Lone) -> None:
    key = str(uuid.uuid4())
    made = call(lone, "POST", "/resource_providers", {"name": "one", "uuid": key.replace("-", "")})
    assert (made["uuid"], made["generation"], made["root_provider_uuid"]) == (key, 0, key)
    assert {link["rel"] for link in made["links"]} == {
        "self", "inventories", "usages", "aggregates", "traits", "allocations",
    }  # fmt: skip
    assert made["links"][0]["href"] == f"/placement/resource_providers/{key}"
    renamed = call(lone, "PUT", f"/resource_providers/{key}", {"name": "two"})
    assert renamed["name"] == "two"
    assert [p["uuid"] for p in call(lone, "GET", "/resource_providers?name=two")["resource_providers"]] == [
        key
    ]
    call(lone, "DELETE", f"/resource_providers/{key}")
    assert refused(lone, "GET", f"/resource_providers/{key}")[0] == 404


def test_answers_of_old_versions(lone: Lone) -> None:
    assert call(lone, "POST", "/resource_providers", {"name": "x"}, version="1.19") is None
    found = call(lone, "GET", "/resource_providers", version="1.0")["resource_providers"][0]
    assert set(found) == {"uuid", "name", "generation", "links"} and len(found["links"]) == 3
    assert refused(lone, "GET", "/traits", version="1.5")[0] == 404
    assert (
        refused(lone, "DELETE", f"/resource_providers/{found['uuid']}/inventories", version="1.4")[0] == 405
    )


def test_names_and_uuids_are_unique(lone: Lone) -> None:
    key = provider(lone, "taken")
    status, text = refused(lone, "POST", "/resource_providers", {"name": "taken"})
    assert status == 409 and "placement.duplicate_name" in text
    assert refused(lone, "POST", "/resource_providers", {"name": "free", "uuid": key})[0] == 409
    other = provider(lone, "free")
    assert refused(lone, "PUT", f"/resource_providers/{other}", {"name": "taken"})[0] == 409


def test_trees(lone: Lone) -> None:
    top = provider(lone)
    middle = provider(lone, parent=top)
    leaf = provider(lone, parent=middle)
    tree = call(lone, "GET", f"/resource_providers?in_tree={leaf}")["resource_providers"]
    assert {p["uuid"] for p in tree} == {top, middle, leaf}
    status, text = refused(lone, "DELETE", f"/resource_providers/{middle}")
    assert status == 409 and "cannot_delete_parent" in text
    path = f"/resource_providers/{top}"
    assert refused(lone, "PUT", path, {"name": "t", "parent_provider_uuid": leaf})[0] == 400  # a ring
    assert refused(lone, "PUT", path, {"name": "t", "parent_provider_uuid": str(uuid.uuid4())})[0] == 400
    move = {"name": "m", "parent_provider_uuid": None}
    assert refused(lone, "PUT", f"/resource_providers/{middle}", move, version="1.36")[0] == 400
    call(lone, "PUT", f"/resource_providers/{middle}", move)
    assert call(lone, "GET", f"/resource_providers/{leaf}")["root_provider_uuid"] == middle


def test_inventories_and_generations(lone: Lone) -> None:
    key = provider(lone)
    path = f"/resource_providers/{key}/inventories"
    body = {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 8}, "DISK_GB": {"total": 9}}}
    assert call(lone, "PUT", path, body)["resource_provider_generation"] == 1
    status, text = refused(lone, "PUT", path, body)
    assert status == 409 and "placement.concurrent_update" in text
    one = call(lone, "PUT", f"{path}/VCPU", {"total": 4, "resource_provider_generation": 1})
    assert one == {
        "total": 4, "reserved": 0, "min_unit": 1, "max_unit": 2**31 - 1, "step_size": 1,
        "allocation_ratio": 1.0, "resource_provider_generation": 2,
    }  # fmt: skip
    assert refused(lone, "POST", path, {"resource_class": "VCPU", "total": 1})[0] == 409
    call(lone, "DELETE", f"{path}/DISK_GB")
    assert set(call(lone, "GET", path)["inventories"]) == {"VCPU"}
    assert refused(lone, "GET", f"{path}/DISK_GB")[0] == 404
    call(lone, "DELETE", path)
    assert call(lone, "GET", path) == {"inventories": {}, "resource_provider_generation": 4}


def test_what_is_in_use_stays(lone: Lone) -> None:
    key = provider(lone, VCPU=8, DISK_GB=9)
    call(lone, "PUT", f"/allocations/{uuid.uuid4()}", claim({key: {"VCPU": 2}}))
    path = f"/resource_providers/{key}/inventories"
    generation = call(lone, "GET", path)["resource_provider_generation"]
    for method, tail, json_ in (
        ("DELETE", "", None),
        ("DELETE", "/VCPU", None),
        ("PUT", "", {"resource_provider_generation": generation, "inventories": {}}),
    ):
        status, text = refused(lone, method, path + tail, json_)
        assert status == 409 and "in use" in text
    status, text = refused(lone, "DELETE", f"/resource_providers/{key}")
    assert status == 409 and "placement.resource_provider.inuse" in text
    assert set(call(lone, "GET", path)["inventories"]) == {"VCPU", "DISK_GB"}
    shrunk = {"resource_provider_generation": generation, "inventories": {"VCPU": {"total": 1}}}
    call(lone, "PUT", path, shrunk)  # less than is used: allowed, and nothing more fits
    assert refused(lone, "PUT", f"/allocations/{uuid.uuid4()}", claim({key: {"VCPU": 1}}))[0] == 409


def test_reserved_may_equal_total_since_1_26(lone: Lone) -> None:
    path = f"/resource_providers/{provider(lone)}/inventories"
    body = {"resource_class": "VCPU", "total": 4, "reserved": 4}
    assert refused(lone, "POST", path, body, version="1.25")[0] == 400
    assert call(lone, "POST", path, body)["reserved"] == 4
    assert refused(lone, "POST", path, {**body, "resource_class": "DISK_GB", "reserved": 5})[0] == 400


def test_traits(lone: Lone) -> None:
    assert "HW_CPU_X86_AVX2" in call(lone, "GET", "/traits")["traits"]
    call(lone, "PUT", "/traits/CUSTOM_FAST")
    call(lone, "PUT", "/traits/CUSTOM_FAST")
    assert call(lone, "GET", "/traits?name=startswith:CUSTOM_")["traits"] == ["CUSTOM_FAST"]
    assert call(lone, "GET", "/traits?name=in:CUSTOM_FAST,NO")["traits"] == ["CUSTOM_FAST"]
    key = provider(lone, traits=("CUSTOM_FAST",))
    assert call(lone, "GET", "/traits?associated=true")["traits"] == ["CUSTOM_FAST"]
    assert refused(lone, "DELETE", "/traits/CUSTOM_FAST")[0] == 409
    assert refused(lone, "DELETE", "/traits/HW_CPU_X86_AVX2")[0] == 400
    assert refused(lone, "PUT", "/traits/FAST")[0] == 400
    path = f"/resource_providers/{key}/traits"
    body = {"traits": ["CUSTOM_NONE"], "resource_provider_generation": 1}
    assert refused(lone, "PUT", path, body)[0] == 400
    assert refused(lone, "PUT", path, {"traits": [], "resource_provider_generation": 7})[0] == 409
    found = call(lone, "GET", "/resource_providers?required=CUSTOM_FAST&required=!HW_CPU_X86_AVX2")
    assert [p["uuid"] for p in found["resource_providers"]] == [key]
    call(lone, "DELETE", path)
    call(lone, "DELETE", "/traits/CUSTOM_FAST")
    assert refused(lone, "GET", "/traits/CUSTOM_FAST")[0] == 404


def test_resource_classes(lone: Lone) -> None:
    names = {c["name"] for c in call(lone, "GET", "/resource_classes")["resource_classes"]}
    assert {"VCPU", "MEMORY_MB", "DISK_GB"} <= names
    call(lone, "POST", "/resource_classes", {"name": "CUSTOM_GOLD"})
    assert refused(lone, "POST", "/resource_classes", {"name": "CUSTOM_GOLD"})[0] == 409
    call(lone, "PUT", "/resource_classes/CUSTOM_GOLD")
    call(lone, "PUT", "/resource_classes/CUSTOM_GOLD", {"name": "CUSTOM_SILVER"}, version="1.6")
    assert refused(lone, "GET", "/resource_classes/CUSTOM_GOLD")[0] == 404
    provider(lone, CUSTOM_SILVER=1)
    assert refused(lone, "DELETE", "/resource_classes/CUSTOM_SILVER")[0] == 409
    assert refused(lone, "DELETE", "/resource_classes/VCPU")[0] == 400
    assert refused(lone, "PUT", "/resource_classes/PLAIN")[0] == 400


def test_aggregates_and_member_of(lone: Lone) -> None:
    red, blue = str(uuid.uuid4()), str(uuid.uuid4())
    both, one, none = (
        provider(lone, aggregates=(red, blue)), provider(lone, aggregates=(red,)), provider(lone)
    )  # fmt: skip
    everybody = {both, one, none}

    def members(word: str) -> set[str]:
        found = call(lone, "GET", f"/resource_providers?{word}")["resource_providers"]
        return {p["uuid"] for p in found} & everybody

    assert members(f"member_of={red}") == {both, one}
    assert members(f"member_of={red}&member_of={blue}") == {both}
    assert members(f"member_of=in:{red},{blue}") == {both, one}
    assert members(f"member_of=!{blue}") == {one, none}
    assert members(f"member_of=!in:{red},{blue}") == {none}
    path = f"/resource_providers/{none}/aggregates"
    put = {"aggregates": [red], "resource_provider_generation": 0}
    assert call(lone, "PUT", path, put)["resource_provider_generation"] == 1
    assert refused(lone, "PUT", path, put)[0] == 409
    assert call(lone, "GET", path, version="1.18") == {"aggregates": [red]}


def test_nobody_else_may(lone: Lone) -> None:
    key = provider(lone)
    for method, path in (
        ("GET", "/resource_providers"),
        ("DELETE", f"/resource_providers/{key}"),
        ("GET", f"/allocations/{key}"),
        ("GET", "/allocation_candidates?resources=VCPU:1"),
    ):
        assert refused(lone, method, path, who="member")[0] == 403
        assert refused(lone, method, path, who="nobody")[0] == 401


KEY = str(uuid.UUID(int=7))
BAD: list[tuple[str, str, Any, int]] = [
    ("POST", "/resource_providers", {}, 400),
    ("POST", "/resource_providers", [], 400),
    ("POST", "/resource_providers", {"name": ""}, 400),
    ("POST", "/resource_providers", {"name": "x" * 201}, 400),
    ("POST", "/resource_providers", {"name": "x", "uuid": "no"}, 400),
    ("POST", "/resource_providers", {"name": "x", "root_provider_uuid": KEY}, 400),
    ("POST", "/resource_providers", {"name": "x", "parent_provider_uuid": KEY}, 400),
    ("GET", "/resource_providers?uuid=no", None, 400),
    ("GET", "/resource_providers?nonsense=1", None, 400),
    ("GET", "/resource_providers?resources=VCPU", None, 400),
    ("GET", "/resource_providers?resources=VCPU:0", None, 400),
    ("GET", "/resource_providers?resources=VCPU:x", None, 400),
    ("GET", "/resource_providers?resources=NOPE:1", None, 400),
    ("GET", "/resource_providers?required=NOPE", None, 400),
    ("GET", "/resource_providers?required=", None, 400),
    ("GET", "/resource_providers?member_of=x", None, 400),
    ("GET", "/resource_providers?in_tree=x", None, 400),
    ("GET", f"/resource_providers/{KEY}", None, 404),
    ("GET", "/resource_providers/%E2%98%83", None, 404),
    ("GET", f"/resource_providers/{KEY}/inventories", None, 404),
    ("PUT", f"/resource_providers/{KEY}/inventories/VCPU", {"total": 1, "resource_provider_generation": 0}, 404),
    ("GET", "/allocation_candidates", None, 400),
    ("GET", "/allocation_candidates?resources=VCPU:1&limit=0", None, 400),
    ("GET", "/allocation_candidates?resources=VCPU:1&limit=-1", None, 400),
    ("GET", "/allocation_candidates?resources=VCPU:1&limit=99999999999999999999", None, 200),
    ("GET", "/allocation_candidates?resources=VCPU:99999999999999999", None, 200),
    ("GET", "/allocation_candidates?resources1=VCPU:1&resources2=VCPU:1", None, 400),
    ("GET", "/allocation_candidates?resources1=VCPU:1&group_policy=some", None, 400),
    ("GET", "/allocation_candidates?resources=VCPU:1&required=HW_CPU_X86_AVX2,!HW_CPU_X86_AVX2", None, 400),
    ("GET", "/allocation_candidates?resources=VCPU:1&root_required=!X&root_required=Y", None, 400),
    ("GET", "/allocation_candidates?resources=VCPU:1&required2=HW_CPU_X86_AVX2", None, 400),
    ("GET", "/allocation_candidates?resources1=VCPU:1&same_subtree=1,2", None, 400),
    ("PUT", "/allocations/nope", {}, 400),
    ("PUT", "/allocations/nope", claim(), 400),
    ("PUT", f"/allocations/{KEY}", claim({KEY: {"VCPU": 1}}), 400),
    ("PUT", f"/allocations/{KEY}", claim({KEY: {"vcpu": 1}}), 400),
    ("PUT", f"/allocations/{KEY}", claim({KEY: {"VCPU": 0}}), 400),
    ("PUT", f"/allocations/{KEY}", claim({KEY: {}}), 400),
    ("PUT", f"/allocations/{KEY}", claim({"x": {"VCPU": 1}}), 400),
    ("PUT", f"/allocations/{KEY}", {**claim(), "consumer_type": "lower"}, 400),
    ("PUT", f"/allocations/{KEY}", {**claim(), "more": 1}, 400),
    ("PUT", f"/allocations/{KEY}", {**claim(), "project_id": ""}, 400),
    ("POST", "/allocations", {}, 400),
    ("POST", "/allocations", {"x": claim()}, 400),
    ("DELETE", f"/allocations/{KEY}", None, 404),
    ("GET", "/usages", None, 400),
    ("GET", "/usages?project_id=", None, 400),
    ("GET", "/usages?project_id=p&consumer_type=low", None, 400),
    ("PATCH", "/resource_providers", None, 405),
    ("GET", "/nowhere", None, 404),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD)
def test_bad_input(lone: Lone, method: str, path: str, body: Any, status: int) -> None:
    answer = lone.client.send(
        method,
        path,
        None if body is None else json.dumps(body).encode(),
        token="admin",
        version="1.39",
        headers={"Content-Type": "application/json"},
    )
    text = answer.read().decode()
    assert answer.status == status, text
    if status >= 400:
        (error,) = json.loads(text)["errors"]
        assert error["status"] == status and error["detail"] and error["request_id"].startswith("req-")


def test_unknown_versions(lone: Lone) -> None:
    status, text = refused(lone, "GET", "/resource_providers", version="1.99")
    (error,) = json.loads(text)["errors"]
    assert (status, error["min_version"], error["max_version"]) == (406, "1.0", "1.39")
    assert refused(lone, "GET", "/resource_providers", version="x")[0] == 400
