"""Volumes and snapshots through the API, their lifecycles, and crashes at every point of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from altostack.volume.drivers.base import DriverError, SourceUnusable
from tests.volume.world import World

pytestmark = pytest.mark.everywhere


def test_a_volume_lives(world: World) -> None:
    key = world.make(2, name=" one ", description="d", metadata={"a": "b"})
    assert world.status(key) == "creating"
    world.settle()
    shown = world.show(key)
    assert (shown["name"], shown["status"], shown["size"], shown["metadata"]) == (
        "one",
        "available",
        2,
        {"a": "b"},
    )
    assert shown["bootable"] == "false" and shown["volume_type"] == "__DEFAULT__"
    assert shown["links"][0]["href"].endswith(f"/v3/{'1' * 32}/volumes/{key}")
    assert "os-vol-host-attr:host" not in shown
    assert world.show(key, who="admin")["os-vol-host-attr:host"] == "n1@local#local"
    assert world.drivers["n1"].remembered(key).gib == 2
    changed = world.call("PUT", f"/volumes/{key}", {"volume": {"display_name": "two"}})["volume"]
    assert changed["name"] == "two" and changed["description"] == "d"
    world.call("DELETE", f"/volumes/{key}")
    assert world.status(key) == "deleting"
    world.settle()
    assert world.refused("GET", f"/volumes/{key}")[0] == 404
    assert not world.drivers["n1"].list().volumes


def test_versions_shape_the_answer(world: World) -> None:
    key = world.volume()
    old = world.call("GET", f"/volumes/{key}", version="3.0")["volume"]
    assert not {"group_id", "shared_targets", "service_uuid", "volume_type_id", "consumes_quota"} & set(old)
    assert "volume_type_id" in world.call("GET", f"/volumes/{key}", version="3.63")["volume"]
    brief = world.call("GET", "/volumes")["volumes"][0]
    assert set(brief) == {"id", "name", "links"}
    page = world.call("GET", "/volumes/detail?limit=1&with_count=true")
    assert page["count"] == 1 and page["volumes_links"][0]["rel"] == "next"
    assert world.refused("GET", "/messages", version="3.2")[0] == 404
    assert world.refused("GET", "/volumes", version="3.99")[0] == 406


def test_lists(world: World) -> None:
    one, two = world.make(1, name="a", metadata={"k": "v"}), world.make(2, name="b")

    def ids(words: str, **more: Any) -> list[str]:
        return [v["id"] for v in world.call("GET", f"/volumes?{words}", **more)["volumes"]]

    assert ids("sort=size:desc") == [two, one]
    assert ids("name=a") == [one] and ids("name~=b") == [two]
    assert ids("metadata={'k':'v'}") == [one]
    assert ids("status=creating") == [two, one] and ids("status=nonsense") == []
    assert ids("bootable=false&size=2") == [two]
    assert ids("created_at=gt:2020-01-01T00:00:00") == [two, one]
    assert ids("created_at=lt:2020-01-01T00:00:00") == []
    assert ids("", who="other") == [] and ids("all_tenants=1", who="admin") == [two, one]
    assert ids("nonsense=1", version="3.30") == [two, one]
    for words in (
        "nonsense=1",
        "bootable=perhaps",
        "created_at=xx:2020",
        "metadata={",
        "limit=x",
        "marker=x",
    ):
        assert world.refused("GET", f"/volumes?{words}")[0] == 400
    assert world.call("GET", "/volumes/summary")["volume-summary"] == {
        "total_count": 2, "total_size": 3, "metadata": {"k": ["v"]},
    }  # fmt: skip


def test_from_image(world: World) -> None:
    image = world.images.add(disk_format="qcow2", min_disk=2)
    assert world.refused("POST", "/volumes", {"volume": {"size": 1, "imageRef": image}})[0] == 400
    key = world.volume(2, imageRef=f"http://image/v2/images/{image}")
    shown = world.show(key)
    assert shown["bootable"] == "true"
    assert shown["volume_image_metadata"]["image_id"] == image
    assert shown["volume_image_metadata"]["os_distro"] == "alto"
    assert "image" in world.drivers["n1"].remembered(key).source
    assert not list((Path(world.agents["n1"]._work)).iterdir())


def test_while_an_image_comes_it_says_downloading(world: World) -> None:
    from altostack.kit.flow import Engine

    key = world.make(1, imageRef=world.images.add())
    Engine(world.lone.runtime, lease=0.0).drain()
    assert world.status(key) == "downloading"
    world.settle()
    assert world.status(key) == "available"


@pytest.mark.parametrize(
    ("ref", "fields"),
    [("nowhere", {}), ("", {}), ("x/", {}), (None, {"status": "queued"}), (None, {"size": 5 << 30}),
     (None, {"virtual_size": 2 << 30})],
)  # fmt: skip
def test_images_that_will_not_do(world: World, ref: str | None, fields: dict[str, Any]) -> None:
    ref = world.images.add(**fields) if ref is None else ref
    body = {"volume": {"size": 1, "imageRef": ref}} if ref else {"volume": {"imageRef": ref}}
    status, fault = world.refused("POST", "/volumes", body)
    assert (status, fault["name"]) == (400, "badRequest")


def test_without_an_image_service(world: World) -> None:
    key, image = world.volume(), world.images.add()
    world.images.down = True
    status, fault = world.refused("POST", "/volumes", {"volume": {"size": 1, "imageRef": image}})
    assert (status, fault["name"]) == (503, "serviceUnavailable")
    body = {"os-volume_upload_image": {"image_name": "x"}}
    assert world.refused("POST", f"/volumes/{key}/action", body)[0] == 503
    assert world.status(key) == "available"


def test_from_snapshot_and_volume(world: World) -> None:
    key = world.volume(2)
    snapshot = world.snapshot(key, name="s", metadata={"m": "n"})
    shown = world.call("GET", f"/snapshots/{snapshot}")["snapshot"]
    assert (shown["status"], shown["size"], shown["metadata"]) == ("available", 2, {"m": "n"})
    assert shown["os-extended-snapshot-attributes:progress"] == "100%"
    child, copy = world.volume(None, snapshot_id=snapshot), world.volume(3, source_volid=key)
    assert world.show(child)["size"] == 2 and world.show(copy)["size"] == 3
    assert world.show(child)["snapshot_id"] == snapshot and world.show(copy)["source_volid"] == key
    for source in ({"snapshot_id": snapshot}, {"source_volid": key}):
        assert world.refused("POST", "/volumes", {"volume": {"size": 1, **source}})[0] == 400
    assert world.refused("POST", "/volumes", {"volume": {"snapshot_id": key}})[0] == 404
    status, fault = world.refused("DELETE", f"/volumes/{key}")
    assert status == 400 and snapshot in fault["message"]
    world.call("DELETE", f"/snapshots/{snapshot}")
    world.settle()
    world.call("DELETE", f"/volumes/{key}")
    world.settle()
    assert world.drivers["n1"].list().volumes == {child, copy}


def test_cascade(world: World) -> None:
    key = world.volume()
    world.snapshot(key)
    world.call("DELETE", f"/volumes/{key}?cascade=true")
    world.settle()
    assert world.call("GET", "/volumes") == {"volumes": []}
    assert world.call("GET", "/snapshots") == {"snapshots": []}
    assert not world.drivers["n1"].list().volumes and not world.drivers["n1"].list().snapshots


def test_extend(world: World) -> None:
    key = world.volume(1)
    status, fault = world.refused("POST", f"/volumes/{key}/action", {"os-extend": {"new_size": 1}})
    assert status == 400 and "greater than current size" in fault["message"]
    world.act(key, "os-extend", {"new_size": "5"})
    assert world.status(key) == "extending"
    status, fault = world.refused("POST", f"/volumes/{key}/action", {"os-extend": {"new_size": 9}})
    assert status == 400 and "currently extending" in fault["message"]
    world.settle()
    assert (world.status(key), world.show(key)["size"]) == ("available", 5)
    assert world.drivers["n1"].remembered(key).gib == 5


def test_extend_that_fails(world: World) -> None:
    key = world.volume(1)
    world.drivers["n1"].faults.fail_next("ensure", error=SourceUnusable("the disk is broken"))
    world.act(key, "os-extend", {"new_size": 5})
    world.settle()
    shown = world.show(key)
    assert (shown["status"], shown["size"]) == ("error_extending", 1)
    assert world.messages(key) == ["extend volume:the disk is broken"]
    world.call("DELETE", f"/volumes/{key}")
    world.settle()
    assert world.refused("GET", f"/volumes/{key}")[0] == 404


def test_upload(world: World) -> None:
    key = world.volume(1)
    answer = world.act(key, "os-volume_upload_image", {"image_name": "snap", "protected": "true"})
    image = answer["os-volume_upload_image"]["image_id"]
    assert answer["os-volume_upload_image"]["status"] == "uploading" and world.status(key) == "uploading"
    world.settle()
    assert world.status(key) == "available"
    assert world.images.images[image]["status"] == "active" and len(world.images.bits[image]) == 1 << 20
    assert world.images.images[image]["protected"] is True
    world.drivers["n1"].faults.fail_next("copy_to_image", error=SourceUnusable("no space"))
    image = world.act(key, "os-volume_upload_image", {"image_name": "x"})["os-volume_upload_image"][
        "image_id"
    ]
    world.settle()
    assert world.status(key) == "available" and image not in world.images.images
    assert world.messages(key) == ["copy volume to image:no space"]


def test_reset_and_force(world: World) -> None:
    key = world.volume()
    assert world.refused("POST", f"/volumes/{key}/action", {"os-reset_status": {"status": "error"}})[0] == 403
    world.act(key, "os-reset_status", {"status": "error"}, who="admin")
    assert world.status(key) == "error"
    for bad in (
        {"status": "in-use"},
        {"status": "deleting"},
        {"status": "odd"},
        {},
        {"migration_status": "x"},
    ):
        answer = world.refused("POST", f"/volumes/{key}/action", {"os-reset_status": bad}, who="admin")
        assert answer[0] in (400, 501)
    world.act(key, "os-reset_status", {"status": "maintenance"}, who="admin")
    assert world.refused("DELETE", f"/volumes/{key}")[0] == 400
    assert world.refused("DELETE", f"/volumes/{key}?force=true")[0] == 403
    world.act(key, "os-force_delete", who="admin")
    world.settle()
    assert world.refused("GET", f"/volumes/{key}")[0] == 404


def test_flags(world: World) -> None:
    key = world.volume()
    world.act(key, "os-set_bootable", {"bootable": "true"})
    assert world.show(key)["bootable"] == "true"
    world.act(key, "os-set_image_metadata", {"metadata": {"hw": "x"}})
    assert world.show(key)["volume_image_metadata"] == {"hw": "x"}
    world.act(key, "os-unset_image_metadata", {"key": "hw"})
    assert "volume_image_metadata" not in world.show(key)
    for word in ("os-retype", "os-reimage", "revert"):
        assert world.refused("POST", f"/volumes/{key}/action", {word: None})[0] == 501
    assert world.refused("POST", f"/volumes/{key}/action", {"os-nonsense": None})[0] == 400


@pytest.mark.parametrize("noun", ["volumes", "snapshots"])
def test_metadata(world: World, noun: str) -> None:
    key = world.volume(metadata={"a": "1"})
    if noun == "snapshots":
        key = world.snapshot(key, metadata={"a": "1"})
    path = f"/{noun}/{key}/metadata"
    assert world.call("POST", path, {"metadata": {"b": "2"}}) == {"metadata": {"a": "1", "b": "2"}}
    assert world.call("PUT", path, {"metadata": {"c": "3"}}) == {"metadata": {"c": "3"}}
    assert world.call("PUT", f"{path}/d", {"meta": {"d": "4"}}) == {"meta": {"d": "4"}}
    assert world.call("GET", f"{path}/d") == {"meta": {"d": "4"}}
    world.call("DELETE", f"{path}/d")
    assert world.call("GET", path) == {"metadata": {"c": "3"}}
    assert world.refused("GET", f"{path}/d")[0] == 404
    assert world.refused("PUT", f"{path}/d", {"meta": {"e": "4"}})[0] == 400
    assert world.refused("PUT", path, {"metadata": {"c": "3"}}, who="reader")[0] == 403
    assert world.refused("GET", path, who="other")[0] == 404


def test_quota(world: World) -> None:
    world.call(
        "PUT", f"/os-quota-sets/{'1' * 32}", {"quota_set": {"gigabytes": 4, "volumes": 2}}, who="admin"
    )
    key = world.volume(2)
    status, fault = world.refused("POST", "/volumes", {"volume": {"size": 3}})
    assert (status, fault["name"], fault["retryAfter"]) == (413, "overLimit", "0")
    assert "gigabytes" in fault["message"] and "quota is 4G and 2G has been consumed" in fault["message"]
    assert world.refused("POST", f"/volumes/{key}/action", {"os-extend": {"new_size": 5}})[0] == 413
    snapshot = world.snapshot(key)
    assert world.refused("POST", "/volumes", {"volume": {"size": 1}})[0] == 413
    assert world.call("GET", f"/os-quota-sets/{'1' * 32}?usage=true")["quota_set"]["gigabytes"] == {
        "limit": 4, "in_use": 4, "reserved": 0,
    }  # fmt: skip
    world.call("DELETE", f"/snapshots/{snapshot}")
    world.settle()
    world.make(2)
    status, fault = world.refused("POST", "/volumes", {"volume": {"size": 1}})
    assert status == 413 and "quota 'volumes'" in fault["message"]
    assert (
        world.refused("PUT", f"/os-quota-sets/{'1' * 32}", {"quota_set": {"volumes": 1}}, who="admin")[0]
        == 400
    )


def test_one_volume_may_be_too_large(world: World) -> None:
    world.call("PUT", f"/os-quota-sets/{'1' * 32}", {"quota_set": {"per_volume_gigabytes": 2}}, who="admin")
    assert world.refused("POST", "/volumes", {"volume": {"size": 3}})[0] == 413
    key = world.volume(1)
    assert world.refused("POST", f"/volumes/{key}/action", {"os-extend": {"new_size": 3}})[0] == 413


# ---- trouble


def test_no_node_at_all(tmp_path: Path) -> None:
    world = World(tmp_path, hosts=(), start_timeout=5.0)
    key = world.make()
    world.settle()
    assert world.status(key) == "creating"  # one may come up
    world.later(10)
    world.settle()
    assert world.status(key) == "error"
    (text,) = world.messages(key)
    assert "0 storage nodes" in text and text.startswith("schedule allocate volume:")
    world.call("DELETE", f"/volumes/{key}")
    world.settle()
    assert world.call("GET", "/volumes") == {"volumes": []}
    world.close()


def test_a_node_that_comes_up_is_used_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, hosts=())
    key = world.make()
    world.settle()
    world.join("n1")
    world.settle()
    assert world.status(key) == "available"
    world.close()


def test_no_node_fits_and_the_message_says_why(tmp_path: Path) -> None:
    world = World(tmp_path, hosts=("n1", "n2"), overcommit=1.0)
    world.call("PUT", "/os-services/disable-log-reason",
               {"host": "n2@local", "binary": "cinder-volume", "disabled_reason": "dusty"}, who="admin")  # fmt: skip
    world.call("PUT", f"/os-quota-sets/{'1' * 32}", {"quota_set": {"gigabytes": -1}}, who="admin")
    key = world.make(20_000)
    world.settle()
    assert world.status(key) == "error"
    (text,) = world.messages(key)
    for part in (
        "2 storage nodes",
        "2 up",
        "1 enabled",
        "1 of the volume type",
        "0 with 20000 GiB",
        "10000 GiB",
    ):
        assert part in text
    states = {one["host"]: one for one in world.call("GET", "/os-services", who="admin")["services"]}
    assert states["n2@local"]["status"] == "disabled" and states["n2@local"]["disabled_reason"] == "dusty"
    assert states["n1@local"]["state"] == "up"
    world.close()


def test_nodes_are_filled_evenly(tmp_path: Path) -> None:
    world = World(tmp_path, hosts=("n1", "n2", "n3"))
    keys = [world.volume() for _ in range(6)]
    where = [world.show(key, who="admin")["os-vol-host-attr:host"] for key in keys]
    assert all(where.count(f"{host}@local#local") == 2 for host in ("n1", "n2", "n3"))
    near = world.call("POST", "/volumes", {
        "volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": {"same_host": [keys[0]]},
    })["volume"]["id"]  # fmt: skip
    far = world.call("POST", "/volumes", {
        "volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": {"different_host": keys[:2]},
    })["volume"]["id"]  # fmt: skip
    world.settle()
    assert world.show(near, who="admin")["os-vol-host-attr:host"] == where[0]
    assert world.show(far, who="admin")["os-vol-host-attr:host"] not in where[:2]
    world.close()


def test_a_node_that_falls_silent(world: World) -> None:
    from altostack.kit.flow import Engine

    key = world.make()
    Engine(world.lone.runtime, lease=0.0).drain()
    assert world.status(key) == "creating"
    world.later(200)
    Engine(world.lone.runtime, lease=0.0).drain()
    assert world.status(key) == "error" and "has not answered" in world.messages(key)[0]
    services = world.call("GET", "/os-services", who="admin")["services"]
    assert services[0]["state"] == "down"
    assert world.call("GET", "/scheduler-stats/get_pools", who="admin") == {"pools": []}
    world.call("DELETE", f"/volumes/{key}")
    Engine(world.lone.runtime, lease=0.0).drain()
    assert world.status(key) == "deleting"
    world.settle()  # it is back
    assert world.refused("GET", f"/volumes/{key}")[0] == 404


def test_passing_faults_are_lived_through(world: World) -> None:
    world.drivers["n1"].faults.fail_next("ensure", times=2)
    assert world.volume()


def test_lasting_faults_end_in_error(world: World) -> None:
    world.drivers["n1"].faults.fail_next("ensure", times=3, error=DriverError("on fire"))
    key = world.make()
    world.settle()
    assert world.status(key) == "error" and world.messages(key) == ["create volume:on fire"]
    volume = world.volume()
    world.drivers["n1"].faults.fail_next("snapshot", times=3)
    snapshot = world.snapshot(volume)
    assert world.call("GET", f"/snapshots/{snapshot}")["snapshot"]["status"] == "error"


def test_deleting_is_tried_until_it_is_done(world: World) -> None:
    key = world.volume()
    world.drivers["n1"].faults.fail_next("remove", times=4)
    world.call("DELETE", f"/volumes/{key}")
    world.settle()
    assert world.status(key) == "deleting"
    for _ in range(4):
        world.settle()
    assert world.refused("GET", f"/volumes/{key}")[0] == 404


def test_what_nobody_owns_is_removed(world: World) -> None:
    key, driver = world.volume(), world.drivers["n1"]
    driver.ensure("f" * 32, gib=1)
    driver.snapshot("e" * 32, volume_id=key)
    world.agents["n1"].look((key,))
    assert driver.list().volumes == {key, "f" * 32}  # only a look at everything may judge
    world.agents["n1"].look(())
    assert driver.list().volumes == {key} and not driver.list().snapshots


def test_nodes_that_share_a_folder_leave_each_other_alone(tmp_path: Path) -> None:
    world = World(tmp_path, hosts=("n1", "n2"))
    world.agents["n2"]._driver = world.agents["n1"]._driver
    keys = {world.volume() for _ in range(4)}
    world.settle()
    assert world.drivers["n1"].list().volumes == keys
    world.close()


def test_a_node_reaches_its_own_rows_alone(world: World) -> None:
    key = world.volume()
    stranger = world.lone.node("n2")
    client = world.lone.client
    assert client.send("GET", "/internal/nodes/n1/desired", node=stranger).status == 404
    assert client.call("GET", "/internal/nodes/n2/desired", node=stranger)["volumes"] == []
    client.call(
        "POST", "/internal/nodes/n2/observed", {"volumes": [{"id": key, "gone": True}]}, node=stranger
    )
    assert world.status(key) == "available"
    assert client.send("GET", "/internal/nodes/n1/desired", token="admin").status == 404


# ---- crashes


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


STEPS = {
    "volume": ("provision", "ensure", "rest", "extend", "tell_servers", "upload", "discard_image", "destroy"),
    "snapshot": ("provision", "rest", "destroy"),
}
# What a step did and did not commit is the interesting end; the other points are for the tier "probe".
POINTS = [
    pytest.param(f"{kind}.{step} {when}", marks=[] if when == "after" else pytest.mark.probe)
    for kind, steps in STEPS.items()
    for step in steps
    for when in ("before", "after", "committed")
]


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_anywhere_changes_nothing(world: World, point: str) -> None:
    """Crash once at the point; whoever claims the flow next carries on to the same end."""
    crashed: list[str] = []

    def probe(here: str) -> None:
        if here == point and not crashed:
            crashed.append(here)
            raise Killed

    def settle() -> None:
        try:
            world.settle(probe=probe)
        except Killed:
            world.settle(probe=probe)

    key = world.make(1, imageRef=world.images.add())
    settle()
    assert world.status(key) == "available"
    body = {"attachment": {"volume_uuid": key, "instance_uuid": SERVER, "connector": {"host": "h"}}}
    attachment = world.call("POST", "/attachments", body, who="service")["attachment"]["id"]
    world.call("POST", f"/attachments/{attachment}/action", {"os-complete": None}, who="service")
    world.act(key, "os-extend", {"new_size": 4})
    settle()
    assert (world.status(key), world.show(key)["size"]) == ("in-use", 4)
    assert {event["tag"] for event in world.servers.events} == {key}
    world.call("DELETE", f"/attachments/{attachment}", who="service")
    snapshot = str(world.call("POST", "/snapshots", {"snapshot": {"volume_id": key}})["snapshot"]["id"])
    settle()
    assert world.call("GET", f"/snapshots/{snapshot}")["snapshot"]["status"] == "available"
    upload = {"image_name": "i"}
    image = world.act(key, "os-volume_upload_image", upload)["os-volume_upload_image"]["image_id"]
    settle()
    assert world.status(key) == "available" and world.images.images[image]["status"] == "active"
    world.drivers["n1"].faults.fail_next("copy_to_image", error=SourceUnusable("no"))
    image = world.act(key, "os-volume_upload_image", upload)["os-volume_upload_image"]["image_id"]
    settle()
    assert world.status(key) == "available" and image not in world.images.images
    world.call("DELETE", f"/volumes/{key}?cascade=true")
    settle()
    assert world.refused("GET", f"/volumes/{key}")[0] == 404
    assert not world.drivers["n1"].list().volumes and not world.drivers["n1"].list().snapshots
    assert crashed == [point]


SERVER = "11111111-2222-4333-8444-555555555555"


# ---- bad input

KEY = "00000000-0000-4000-8000-000000000007"
BAD: list[tuple[str, str, Any, int]] = [
    ("POST", "/volumes", {}, 400),
    ("POST", "/volumes", [], 400),
    ("POST", "/volumes", {"volume": {}}, 400),
    ("POST", "/volumes", {"volume": {"size": 0}}, 400),
    ("POST", "/volumes", {"volume": {"size": -1}}, 400),
    ("POST", "/volumes", {"volume": {"size": "x"}}, 400),
    ("POST", "/volumes", {"volume": {"size": 2**40}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1, "name": "n" * 256}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1, "metadata": {"": "x"}}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1, "metadata": {"a": 1}}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1, "metadata": {"a": "x" * 256}}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1, "volume_type": "none"}}, 404),
    ("POST", "/volumes", {"volume": {"size": 1, "availability_zone": "mars"}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1, "snapshot_id": KEY}}, 404),
    ("POST", "/volumes", {"volume": {"size": 1, "snapshot_id": "x"}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1, "source_volid": KEY}}, 404),
    ("POST", "/volumes", {"volume": {"size": 1, "backup_id": KEY}}, 404),
    ("POST", "/volumes", {"volume": {"size": 1, "group_id": KEY}}, 404),
    ("POST", "/volumes", {"volume": {"size": 1, "multiattach": True}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1, "status": "available"}}, 400),
    ("POST", "/volumes", {"volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": {"same_host": 5}}, 400),
    ("PUT", f"/volumes/{KEY}", {"volume": {"name": "x"}}, 404),
    ("GET", f"/volumes/{KEY}", None, 404),
    ("GET", "/volumes/%00", None, 404),
    ("DELETE", f"/volumes/{KEY}", None, 404),
    ("POST", f"/volumes/{KEY}/action", {"os-extend": {"new_size": 2}}, 404),
    ("POST", f"/volumes/{KEY}/action", {"os-extend": {}}, 400),
    ("POST", f"/volumes/{KEY}/action", {}, 400),
    ("POST", "/snapshots", {"snapshot": {}}, 400),
    ("POST", "/snapshots", {"snapshot": {"volume_id": KEY}}, 404),
    ("POST", "/snapshots", {"snapshot": {"volume_id": KEY, "force": False}}, 400),
    ("PUT", f"/snapshots/{KEY}", {"snapshot": {"name": "x"}}, 404),
    ("POST", "/attachments", {"attachment": {}}, 400),
    ("POST", "/attachments", {"attachment": {"volume_uuid": KEY}}, 404),
    ("POST", "/attachments", {"attachment": {"volume_uuid": KEY, "mode": "x"}}, 400),
    ("PUT", f"/attachments/{KEY}", {"attachment": {"connector": {}}}, 400),
    ("DELETE", f"/attachments/{KEY}", None, 404),
    ("GET", f"/types/{KEY}", None, 404),
    ("POST", "/types", {"volume_type": {"name": "x"}}, 403),
    ("GET", "/os-services", None, 403),
    ("GET", f"/os-quota-sets/{'2' * 32}", None, 403),
    ("PUT", f"/os-quota-sets/{'1' * 32}", {"quota_set": {"volumes": 1}}, 403),
    ("GET", "/backups", None, 501),
    ("GET", "/groups/detail", None, 501),
    ("PATCH", "/volumes", None, 405),
    ("GET", "/nowhere", None, 404),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD)
def test_bad_input(world: World, method: str, path: str, body: Any, status: int) -> None:
    found, fault = world.refused(method, path, body)
    assert found == status, fault
    assert fault["message"]
