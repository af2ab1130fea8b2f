"""Lists, filters, sorting and paging of servers; versions; what an update changes; who sees what."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from altostack.kit.clients import RemoteError
from tests.compute.stand import World


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A world with three servers that nobody changes: web-1 (active), web-2 (stopped), db (error)."""
    world = World(Path(str(tmp_path_factory.mktemp("lists"))))
    world.active(name="web-1", tags=["red", "big"], metadata={"role": "front"})
    two = world.active(name="web-2", tags=["red"], flavorRef="7")
    world.act(two, "os-stop")
    world.until(lambda: world.show(two)["status"] == "SHUTOFF")
    world.call("PUT", f"/os-quota-sets/{'1' * 32}", {"quota_set": {"ram": -1}}, who="admin")
    world.call(
        "POST",
        "/flavors",
        {"flavor": {"name": "h", "ram": 99999, "vcpus": 1, "disk": 1, "id": "h"}},
        who="admin",
    )
    db = world.create(name="db", flavorRef="h")
    world.until(lambda: world.show(db)["status"] == "ERROR")
    yield world
    world.close()


def names(world: World, query: dict[str, Any], **more: Any) -> list[str]:
    return [one["name"] for one in world.call("GET", "/servers", query=query, **more)["servers"]]


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["db", "web-2", "web-1"]),
        ({"name": "web"}, ["web-2", "web-1"]),
        ({"name": "^web-[12]$"}, ["web-2", "web-1"]),
        ({"name": "w.b-1"}, ["web-1"]),
        ({"status": "ACTIVE"}, ["web-1"]),
        ({"status": "shutoff"}, ["web-2"]),
        ({"status": ["ACTIVE", "ERROR"]}, ["db", "web-1"]),
        ({"flavor": "7"}, ["web-2"]),
        ({"ip": "10.0.0.10"}, ["web-1"]),
        ({"ip": "^10.0.0"}, ["web-2", "web-1"]),
        ({"tags": "red,big"}, ["web-1"]),
        ({"tags-any": "big,none"}, ["web-1"]),
        ({"not-tags": "red"}, ["db"]),
        ({"not-tags-any": "big"}, ["db", "web-2"]),
        ({"changes-since": ago(3600)}, ["db", "web-2", "web-1"]),
        ({"changes-since": "2100-01-01T00:00:00Z"}, []),
        ({"changes-before": ago(3600)}, []),
        ({"locked": "true"}, []),
        ({"vm_state": "stopped"}, ["web-2"]),
        ({"power_state": "1"}, ["web-1"]),
        ({"sort_key": "display_name", "sort_dir": "asc"}, ["db", "web-1", "web-2"]),
        ({"sort_key": ["vm_state", "display_name"], "sort_dir": ["asc", "desc"]}, ["web-1", "db", "web-2"]),
        ({"limit": "1"}, ["db"]),
        ({"limit": "0"}, []),
    ],
)
def test_filters(shared: World, query: dict[str, Any], found: list[str]) -> None:
    assert names(shared, query) == found


def test_filters_for_administrators(shared: World) -> None:
    every = {"all_tenants": "1"}
    assert names(shared, {**every, "host": "node-1"}, who="admin") == ["web-2", "web-1"]
    assert names(shared, {**every, "host": "node-9"}, who="admin") == []
    assert names(shared, {**every, "project_id": "1" * 32, "name": "db"}, who="admin") == ["db"]
    assert names(shared, {**every, "metadata": json.dumps({"role": "front"})}, who="admin") == ["web-1"]
    assert names(shared, {"host": "node-9"}, version="2.1") == ["db", "web-2", "web-1"]  # not theirs: ignored
    assert names(shared, {}, who="admin") == []
    assert names(shared, {**every, "deleted": "true"}, who="admin") == []


@pytest.mark.parametrize(
    ("query", "version", "status"),
    [
        ({"status": "NOPE"}, "2.38", 400),
        ({"colour": "red"}, "2.75", 400),
        ({"limit": "-1"}, "2.1", 400),
        ({"marker": "none"}, "2.1", 400),
        ({"changes-since": "yesterday"}, "2.1", 400),
        ({"sort_key": "nope"}, "2.1", 400),
        ({"sort_key": "display_name", "sort_dir": "up"}, "2.1", 400),
        ({"name": "(a+)+$"}, "2.1", 400),
        ({"name": "["}, "2.1", 400),
        ({"all_tenants": "1"}, "2.1", 403),
        ({"all_tenants": "perhaps"}, "2.1", 400),
    ],
)
def test_refused_queries(shared: World, query: dict[str, str], version: str, status: int) -> None:
    with pytest.raises(RemoteError) as caught:
        shared.call("GET", "/servers", query=query, version=version)
    assert caught.value.status == status


def test_unknown_words_were_ignored_once(shared: World) -> None:
    assert len(names(shared, {"colour": "red"}, version="2.74")) == 3
    assert names(shared, {"status": "NOPE"}, version="2.37") == []


def test_pages(shared: World) -> None:
    first = shared.call("GET", "/servers", query={"limit": 2})
    link = first["servers_links"][0]
    assert link["rel"] == "next" and "marker=" + first["servers"][1]["id"] in link["href"]
    second = shared.call("GET", "/servers", query={"limit": 2, "marker": first["servers"][1]["id"]})
    assert [one["name"] for one in second["servers"]] == ["web-1"] and "servers_links" not in second


def test_others_see_nothing(shared: World) -> None:
    key = shared.call("GET", "/servers", query={"name": "web-1"})["servers"][0]["id"]
    assert names(shared, {}, who="other") == []
    for method, path, body in (
        ("GET", f"/servers/{key}", None),
        ("DELETE", f"/servers/{key}", None),
        ("PUT", f"/servers/{key}", {"server": {"name": "x"}}),
        ("POST", f"/servers/{key}/action", {"os-stop": None}),
        ("GET", f"/servers/{key}/os-interface", None),
        ("GET", f"/servers/{key}/os-instance-actions", None),
        ("GET", f"/servers/{key}/metadata", None),
    ):
        assert shared.refused(method, path, body, who="other")[0] == 404
    assert shared.refused("DELETE", f"/servers/{key}", who="reader")[0] == 403
    assert shared.show(key, who="reader")["name"] == "web-1"


def test_what_older_versions_show(shared: World) -> None:
    key = shared.call("GET", "/servers", query={"name": "web-1"})["servers"][0]["id"]
    oldest = shared.show(key, who="member", version="2.1")
    assert oldest["flavor"]["id"] == "6" and "description" not in oldest and "tags" not in oldest
    assert not any(name.startswith("OS-EXT-SRV-ATTR") for name in oldest)
    assert oldest["progress"] == 0 and "fault" not in oldest
    assert "locked" in shared.show(key, version="2.9") and "locked" not in shared.show(key, version="2.8")
    assert "host_status" in shared.show(key, version="2.16") and "host_status" not in shared.show(
        key, who="member"
    )
    newest = shared.show(key, who="member")
    assert newest["flavor"]["original_name"] == "m1.starter" and newest["scheduler_hints"] == {}
    assert newest["OS-EXT-SRV-ATTR:hostname"] == "web-1"
    detail = shared.call("GET", "/servers/detail", query={"name": "web-1"})["servers"][0]
    assert "server_groups" not in detail and "server_groups" in newest


def test_versions_are_negotiated(shared: World) -> None:
    client = shared.lone.client
    answer = client.send("GET", "/v2.1/servers", token="member", version="2.53")
    assert answer.headers["openstack-api-version"] == "compute 2.53"
    assert answer.headers["x-openstack-nova-api-version"] == "2.53"
    answer = client.send(
        "GET", "/v2.1/servers", token="member", headers={"X-OpenStack-Nova-API-Version": "latest"}
    )
    assert answer.headers["openstack-api-version"] == "compute 2.104"
    assert client.send("GET", "/v2.1/servers", token="member", version="2.999").status == 406
    assert client.send("GET", "/v2.1/servers", token="member", version="x").status == 400
    versions = client.call("GET", "/")["versions"]
    assert [(one["id"], one["min_version"], one["version"]) for one in versions] == [("v2.1", "2.1", "2.104")]
    assert client.call("GET", "/v2.1/")["version"]["status"] == "CURRENT"


def test_error_bodies(shared: World) -> None:
    assert json.loads(shared.refused("GET", "/servers/none")[1]) == {
        "itemNotFound": {"code": 404, "message": "Instance none could not be found."}
    }
    for status, word in ((405, "badMethod"), (404, "itemNotFound")):
        path = "/servers" if status == 405 else "/nothing"
        got, text = shared.refused("PUT" if status == 405 else "GET", path, {} if status == 405 else None)
        assert (got, list(json.loads(text))) == (status, [word])
    answer = shared.lone.client.send("GET", "/v2.1/servers")
    assert answer.status == 401 and "unauthorized" in json.loads(answer.read())


def test_update(world: World) -> None:
    key = world.active()
    body = {"server": {"name": "new", "description": None, "hostname": "host-x", "accessIPv6": "2001:db8::1"}}
    answer = world.call("PUT", f"/servers/{key}", body)["server"]
    assert (answer["name"], answer["OS-EXT-SRV-ATTR:hostname"], answer["accessIPv6"]) == (
        "new",
        "host-x",
        "2001:db8::1",
    )
    assert "OS-EXT-STS:vm_state" in answer
    older = world.call("PUT", f"/servers/{key}", {"server": {"name": "old"}}, version="2.74")["server"]
    assert "OS-EXT-STS:vm_state" not in older
    assert set(older["addresses"]["net"][0]) == {"version", "addr"}
    assert world.refused("PUT", f"/servers/{key}", {"server": {"name": ""}})[0] == 400
    pin = {"server": {"pinned_availability_zone": "nova"}}
    assert world.refused("PUT", f"/servers/{key}", pin, version="2.103")[0] == 400
    assert world.call("PUT", f"/servers/{key}", pin)["server"]["pinned_availability_zone"] == "nova"
    assert world.refused("PUT", f"/servers/{key}", {"server": {"pinned_availability_zone": "x"}})[0] == 409
    unpin = {"server": {"pinned_availability_zone": None}}
    assert world.call("PUT", f"/servers/{key}", unpin)["server"]["pinned_availability_zone"] is None


def test_metadata_and_tags(world: World) -> None:
    key = world.active(metadata={"a": "1"})
    path = f"/servers/{key}/metadata"
    assert world.call("POST", path, {"metadata": {"b": "2"}}) == {"metadata": {"a": "1", "b": "2"}}
    assert world.call("PUT", f"{path}/c", {"meta": {"c": "3"}}) == {"meta": {"c": "3"}}
    assert world.refused("PUT", f"{path}/d", {"meta": {"e": "3"}})[0] == 400
    world.call("DELETE", f"{path}/a")
    assert world.refused("GET", f"{path}/a")[0] == 404
    assert world.call("GET", path) == {"metadata": {"b": "2", "c": "3"}}
    assert world.call("PUT", path, {"metadata": {}}) == {"metadata": {}}
    assert world.refused("PUT", path, {"metadata": {str(n): "x" for n in range(129)}})[0] == 403
    path = f"/servers/{key}/tags"
    assert world.call("PUT", path, {"tags": ["a", "b"]}) == {"tags": ["a", "b"]}
    world.call("PUT", f"{path}/c")
    world.call("DELETE", f"{path}/a")
    assert world.call("GET", path) == {"tags": ["b", "c"]} and world.refused("GET", f"{path}/a")[0] == 404
    world.call("DELETE", path)
    assert world.call("GET", path) == {"tags": []}
    assert world.refused("GET", path, version="2.25")[0] == 404
    assert world.refused("PUT", f"{path}/{'x' * 61}")[0] == 400


def test_actions_outlive_their_server(world: World) -> None:
    key = world.active()
    world.act(key, "os-stop")
    world.until(lambda: world.show(key)["OS-EXT-STS:task_state"] is None)
    path = f"/servers/{key}/os-instance-actions"
    found = world.call("GET", path)["instanceActions"]
    assert [(one["action"], one["message"]) for one in found] == [("stop", None), ("create", None)]
    one = world.call("GET", f"{path}/{found[1]['request_id']}")["instanceAction"]
    assert [event["event"] for event in one["events"]] == [
        "compute_schedule", "compute_network", "compute_spawn"
    ]  # fmt: skip
    assert all(event["result"] == "Success" and event["hostId"] for event in one["events"])
    assert "traceback" not in one["events"][0] and "host" not in one["events"][0]
    seen = world.call("GET", f"{path}/{found[1]['request_id']}", who="admin")["instanceAction"]["events"][0]
    assert seen["host"] == "node-1" and seen["details"] is None
    assert (
        "events"
        not in world.call("GET", f"{path}/{found[1]['request_id']}", version="2.50")["instanceAction"]
    )
    world.call("DELETE", f"/servers/{key}")
    world.until(lambda: world.gone(key))
    assert world.call("GET", path)["instanceActions"][0]["action"] == "delete"
    assert world.refused("GET", path, version="2.20")[0] == 404
    assert world.refused("GET", path, who="other")[0] == 404
    assert len(world.call("GET", path, query={"limit": 1})["instanceActions"]) == 1
    usage = world.call("GET", f"/os-simple-tenant-usage/{'1' * 32}", query={"start": "2020-01-01T00:00:00"})
    assert usage["tenant_usage"]["server_usages"][0]["state"] == "terminated"


def test_a_failed_step_is_told(world: World) -> None:
    world.drivers["node-1"].faults.fail_next("start", times=5)
    key = world.create()
    world.until(lambda: world.show(key)["status"] == "ERROR")
    path = f"/servers/{key}/os-instance-actions"
    one = world.call("GET", path)["instanceActions"][0]
    assert one["message"] == "Error"
    events = world.call("GET", f"{path}/{one['request_id']}", who="admin")["instanceAction"]["events"]
    failed = next(event for event in events if event["result"] == "Error")
    assert failed["event"] == "compute_spawn" and "simulated fault" in failed["details"]
    story = world.lone.call("GET", f"/internal/story/{key}", who="admin")["story"]
    assert any(line["step"] == "spawn" and line["level"] == "error" for line in story)
