"""Types, quotas, services and the small routes."""

from __future__ import annotations

import msgspec
import pytest

from tests.volume.world import World

pytestmark = pytest.mark.everywhere


def test_types(world: World) -> None:
    made = world.call(
        "POST", "/types", {"volume_type": {"name": "fast", "extra_specs": {"a": "b", "multiattach": "<is> True"}}},
        who="admin",
    )["volume_type"]  # fmt: skip
    path = f"/types/{made['id']}"
    assert made["extra_specs"]["a"] == "b" and made["is_public"] is True
    assert set(made) == {
        "id", "name", "description", "is_public", "extra_specs", "os-volume-type-access:is_public"
    }  # fmt: skip
    assert world.call("GET", path, who="admin")["volume_type"]["qos_specs_id"] is None
    seen = world.call("GET", path)["volume_type"]
    assert seen["extra_specs"] == {"multiattach": "<is> True"} and "qos_specs_id" not in seen
    assert {t["name"] for t in world.call("GET", "/types")["volume_types"]} == {"__DEFAULT__", "fast"}
    assert world.call("GET", "/types/default")["volume_type"]["name"] == "__DEFAULT__"
    assert world.refused("POST", "/types", {"volume_type": {"name": "fast"}}, who="admin")[0] == 409
    world.call("PUT", path, {"volume_type": {"name": "faster", "description": "d"}}, who="admin")
    world.call("POST", f"{path}/extra_specs", {"extra_specs": {"c": "d"}}, who="admin")
    assert world.call("GET", f"{path}/extra_specs/c", who="admin") == {"c": "d"}
    world.call("PUT", f"{path}/extra_specs/c", {"c": "e"}, who="admin")
    world.call("DELETE", f"{path}/extra_specs/c", who="admin")
    assert world.refused("GET", f"{path}/extra_specs/c", who="admin")[0] == 404
    world.make(volume_type="faster")
    assert world.refused("DELETE", path, who="admin")[0] == 400
    assert world.call("GET", f"{path}/encryption", who="admin") == {}


def test_extra_specs_choose_the_node(world: World) -> None:
    for name, backend, status in (("here", "local", "available"), ("there", "elsewhere", "error")):
        body = {"volume_type": {"name": name, "extra_specs": {"volume_backend_name": backend}}}
        world.call("POST", "/types", body, who="admin")
        key = world.make(volume_type=name)
        world.settle()
        assert world.status(key) == status
    assert "0 of the volume type" in world.messages(key)[0]


def test_access(world: World) -> None:
    body = {"volume_type": {"name": "ours", "os-volume-type-access:is_public": False}}
    made = world.call("POST", "/types", body, who="admin")["volume_type"]
    path = f"/types/{made['id']}"
    assert world.refused("GET", path)[0] == 404
    assert world.refused("POST", "/volumes", {"volume": {"size": 1, "volume_type": "ours"}})[0] == 404
    world.call("POST", f"{path}/action", {"addProjectAccess": {"project": "1" * 32}}, who="admin")
    assert world.call("GET", f"{path}/os-volume-type-access", who="admin")["volume_type_access"] == [
        {"volume_type_id": made["id"], "project_id": "1" * 32}
    ]
    world.make(volume_type="ours")
    assert world.refused("GET", path, who="other")[0] == 404
    world.call("POST", f"{path}/action", {"removeProjectAccess": {"project": "1" * 32}}, who="admin")
    assert world.refused("GET", path)[0] == 404
    again = {"removeProjectAccess": {"project": "1" * 32}}
    assert world.refused("POST", f"{path}/action", again, who="admin")[0] == 404


def test_a_projects_own_default(world: World) -> None:
    world.call("POST", "/types", {"volume_type": {"name": "mine"}}, who="admin")
    path = f"/default-types/{'1' * 32}"
    world.call("PUT", path, {"default_type": {"volume_type": "mine"}}, who="admin")
    assert world.show(world.make())["volume_type"] == "mine"
    assert len(world.call("GET", "/default-types", who="admin")["default_types"]) == 1
    world.call("DELETE", path, who="admin")
    assert world.show(world.make())["volume_type"] == "__DEFAULT__"
    assert world.refused("GET", path, who="admin")[0] == 404


def test_quota_sets(world: World) -> None:
    path = f"/os-quota-sets/{'1' * 32}"
    shown = world.call("GET", path)["quota_set"]
    assert shown["volumes"] == 10 and shown["volumes___DEFAULT__"] == -1 and shown["id"] == "1" * 32
    world.call("PUT", path, {"quota_set": {"volumes": "7"}}, who="admin")
    assert world.call("GET", path)["quota_set"]["volumes"] == 7
    assert world.call("GET", f"{path}/defaults")["quota_set"]["volumes"] == 10
    for bad in ({"nonsense": 1}, {"volumes": -2}, {"volumes": "x"}, {}):
        assert world.refused("PUT", path, {"quota_set": bad}, who="admin")[0] == 400
    assert world.refused("PUT", path, {"quota_set": {"volumes___DEFAULT__": 5}}, who="admin")[0] == 501
    world.call("DELETE", path, who="admin")
    assert world.call("GET", path)["quota_set"]["volumes"] == 10
    assert (
        world.call("GET", "/os-quota-class-sets/default", who="admin")["quota_class_set"]["snapshots"] == 10
    )
    absolute = world.call("GET", "/limits")["limits"]["absolute"]
    assert absolute["maxTotalVolumes"] == 10 and absolute["totalVolumesUsed"] == 0


def test_small_routes(world: World) -> None:
    zone = world.call("GET", "/os-availability-zone")["availabilityZoneInfo"][0]
    assert zone == {"zoneName": "nova", "zoneState": {"available": True}}
    assert {"os-volume-actions", "os-quota-sets"} <= {
        e["alias"] for e in world.call("GET", "/extensions")["extensions"]
    }
    filters = world.call("GET", "/resource_filters?resource=snapshot")["resource_filters"]
    assert filters == [{"resource": "snapshot", "filters": ["name", "status", "volume_id", "metadata"]}]
    pools = world.call("GET", "/scheduler-stats/get_pools?detail=true", who="admin")["pools"]
    assert pools[0]["name"] == "n1@local#local" and pools[0]["capabilities"]["total_capacity_gb"] == 10_000
    versions = world.lone.client.send("GET", "/")
    assert versions.status == 300
    assert msgspec.json.decode(versions.read())["versions"][0]["version"] == "3.71"
    assert msgspec.json.decode(world.lone.client.send("GET", "/v3/").read())["versions"][0]["id"] == "v3.0"


def test_messages_belong_to_their_owner(world: World) -> None:
    from altostack.volume.drivers.base import SourceUnusable

    world.drivers["n1"].faults.fail_next("ensure", error=SourceUnusable("rust"))
    key = world.make()
    world.settle()
    (one,) = world.call("GET", "/messages")["messages"]
    assert (
        one["resource_uuid"] == key
        and one["message_level"] == "ERROR"
        and one["request_id"].startswith("req-")
    )
    assert world.call("GET", "/messages", who="other") == {"messages": []}
    assert world.refused("DELETE", f"/messages/{one['id']}", who="other")[0] == 404
    world.call("DELETE", f"/messages/{one['id']}")
    assert world.call("GET", "/messages") == {"messages": []}
