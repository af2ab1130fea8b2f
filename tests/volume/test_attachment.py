"""Attachments: reserved, connected, completed and removed; never stuck."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from altostack.kit.clients import RemoteError
from tests.volume.world import World

pytestmark = pytest.mark.everywhere

SERVER, OTHER = "11111111-2222-4333-8444-555555555555", "21111111-2222-4333-8444-555555555555"
CONNECTOR = {"host": "h1", "mountpoint": "/dev/vdb"}


def attach(world: World, volume: str, server: str | None = SERVER, **fields: Any) -> dict[str, Any]:
    body = {"attachment": {"volume_uuid": volume, "instance_uuid": server, **fields}}
    return dict(world.call("POST", "/attachments", body)["attachment"])


def test_reserve_connect_complete_detach(world: World) -> None:
    key = world.volume()
    made = attach(world, key)
    assert (made["status"], made["connection_info"], world.status(key)) == ("reserved", {}, "reserved")
    status, fault = world.refused(
        "POST", "/attachments", {"attachment": {"volume_uuid": key, "instance_uuid": OTHER}}
    )
    assert status == 400 and "must be available or downloading to reserve" in fault["message"]
    path = f"/attachments/{made['id']}"
    ready = world.call("PUT", path, {"attachment": {"connector": CONNECTOR}})["attachment"]
    assert ready["status"] == "attaching" and world.status(key) == "attaching"
    info = ready["connection_info"]
    assert info["driver_volume_type"] == "local" and info["data"]["access_mode"] == "rw"
    world.call("POST", f"{path}/action", {"os-complete": None})
    shown = world.show(key, who="admin")
    assert shown["status"] == "in-use"
    (one,) = shown["attachments"]
    assert (one["server_id"], one["device"], one["host_name"], one["attachment_id"]) == (
        SERVER, "/dev/vdb", "h1", made["id"],
    )  # fmt: skip
    assert world.show(key)["attachments"][0]["host_name"] is None
    assert world.refused("DELETE", f"/volumes/{key}")[0] == 400
    assert world.call("DELETE", path) == {"attachments": []}
    assert world.status(key) == "available"
    assert world.refused("DELETE", path)[0] == 404


def test_at_once_and_read_only(world: World) -> None:
    key = world.volume()
    made = attach(world, key, connector=CONNECTOR, mode="ro")
    assert made["connection_info"]["data"]["access_mode"] == "ro" and made["attach_mode"] == "ro"
    body = {"attachment": {"volume_uuid": key, "mode": "ro"}}
    assert world.refused("POST", "/attachments", body, version="3.53")[0] == 400


def test_lists(world: World) -> None:
    key, two = world.volume(), world.volume()
    one = attach(world, key)
    attach(world, two, OTHER)
    assert [a["id"] for a in world.call("GET", f"/attachments?instance_id={SERVER}")["attachments"]] == [
        one["id"]
    ]
    brief = world.call("GET", f"/attachments?volume_id={key}")["attachments"][0]
    assert set(brief) == {"id", "status", "instance", "volume_id"}
    full = world.call("GET", "/attachments/detail?status=reserved")["attachments"]
    assert len(full) == 2 and full[0]["attached_at"] == ""
    assert world.call("GET", "/attachments", who="other") == {"attachments": []}
    assert world.refused("GET", "/attachments", version="3.26")[0] == 404
    assert (
        world.refused("POST", f"/attachments/{one['id']}/action", {"os-complete": None}, version="3.43")[0]
        == 404
    )


def test_what_a_server_uses_is_detached_there(world: World) -> None:
    key = world.volume()
    made = attach(world, key, connector=CONNECTOR)
    world.servers.held[SERVER, key] = made["id"]
    status, fault = world.refused("DELETE", f"/attachments/{made['id']}")
    assert status == 409 and "Compute API" in fault["message"]
    world.call("DELETE", f"/attachments/{made['id']}", who="service")
    assert world.status(key) == "available"


def test_multiattach_by_type(world: World) -> None:
    body = {"volume_type": {"name": "shared", "extra_specs": {"multiattach": "<is> True"}}}
    world.call("POST", "/types", body, who="admin")
    key = world.volume(volume_type="shared")
    assert world.show(key)["multiattach"] is True
    first = attach(world, key, connector=CONNECTOR)
    world.call("POST", f"/attachments/{first['id']}/action", {"os-complete": None})
    second = attach(world, key, OTHER, connector=CONNECTOR | {"host": "h2"})
    world.call("POST", f"/attachments/{second['id']}/action", {"os-complete": None})
    assert len(world.show(key)["attachments"]) == 2
    world.call("DELETE", f"/attachments/{first['id']}", who="service")
    assert world.status(key) == "in-use"
    world.call("DELETE", f"/attachments/{second['id']}", who="service")
    assert world.status(key) == "available"


def test_the_same_server_may_connect_again(world: World) -> None:
    """Moving a server connects its volume on the new host before the old one lets go."""
    key = world.volume()
    first = attach(world, key, connector=CONNECTOR)
    world.call("POST", f"/attachments/{first['id']}/action", {"os-complete": None})
    second = attach(world, key)
    world.call(
        "PUT", f"/attachments/{second['id']}", {"attachment": {"connector": CONNECTOR | {"host": "h2"}}}
    )
    world.call("DELETE", f"/attachments/{first['id']}", who="service")
    world.call("POST", f"/attachments/{second['id']}/action", {"os-complete": None})
    assert world.status(key) == "in-use"


def test_older_actions(world: World) -> None:
    key = world.volume()
    world.act(key, "os-reserve")
    assert world.status(key) == "attaching"
    world.act(key, "os-unreserve")
    assert world.status(key) == "available"
    world.act(key, "os-reserve")
    info = world.act(key, "os-initialize_connection", {"connector": {}})["connection_info"]
    assert info["driver_volume_type"] == "local"
    world.act(key, "os-attach", {"instance_uuid": SERVER, "mountpoint": "/dev/vdc"})
    assert world.status(key) == "in-use"
    assert world.refused("POST", f"/volumes/{key}/action", {"os-reserve": None})[0] == 400
    world.act(key, "os-begin_detaching")
    assert world.status(key) == "detaching"
    world.act(key, "os-roll_detaching")
    world.act(key, "os-begin_detaching")
    world.act(key, "os-terminate_connection", {"connector": {}})
    world.act(key, "os-detach", {})
    assert world.status(key) == "available" and world.show(key)["attachments"] == []


def test_read_only_volumes(world: World) -> None:
    key = world.volume()
    world.act(key, "os-update_readonly_flag", {"readonly": True})
    assert attach(world, key, connector=CONNECTOR)["connection_info"]["data"]["access_mode"] == "ro"
    assert (
        world.refused("POST", f"/volumes/{key}/action", {"os-update_readonly_flag": {"readonly": False}})[0]
        == 400
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_left_attaching(world: World, seed: int) -> None:
    """Threads attach and detach at random; at the end the status is what the attachments say."""
    keys = [world.volume() for _ in range(3)]

    def one(thread: int) -> int:
        chance, done = random.Random(seed * 50 + thread), 0
        for _ in range(12):
            key = chance.choice(keys)
            try:
                made = attach(world, key, SERVER if thread % 2 else OTHER)
                if chance.random() < 0.7:
                    world.call("PUT", f"/attachments/{made['id']}", {"attachment": {"connector": CONNECTOR}})
                if chance.random() < 0.7:
                    world.call("POST", f"/attachments/{made['id']}/action", {"os-complete": None})
                world.call("DELETE", f"/attachments/{made['id']}", who="service")
                done += 1
            except RemoteError as error:
                assert error.status in (400, 404, 409), error
        return done

    with ThreadPoolExecutor(5) as pool:
        assert sum(pool.map(one, range(5))) > 5
    for left in world.call("GET", "/attachments")["attachments"]:
        world.call("DELETE", f"/attachments/{left['id']}", who="service")
    assert [world.status(key) for key in keys] == ["available"] * 3


def test_one_of_many_gets_it(world: World) -> None:
    key = world.volume()

    def one(number: int) -> bool:
        try:
            attach(world, key, f"{number:08}-2222-4333-8444-555555555555")
            return True
        except RemoteError as error:
            assert error.status == 400
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(12))) == 1
