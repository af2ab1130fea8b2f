"""What is done to a running server: power, size, images, devices."""

from __future__ import annotations

from typing import Any

import pytest

from altostack.kit.clients import RemoteError
from tests.compute.stand import World

pytestmark = pytest.mark.everywhere


def settle(world: World, key: str) -> dict[str, Any]:
    """Until nothing is being done to the server."""
    world.until(lambda: world.show(key)["OS-EXT-STS:task_state"] is None)
    return world.show(key)


def power(world: World, key: str) -> str:
    return str(world.drivers["node-1"].guest(key).power)


def test_stop_and_start(world: World) -> None:
    key = world.active()
    world.act(key, "os-stop")
    assert world.show(key)["OS-EXT-STS:task_state"] == "powering-off"
    found = settle(world, key)
    assert (found["status"], found["OS-EXT-STS:power_state"], power(world, key)) == ("SHUTOFF", 4, "shutoff")
    assert world.refused("POST", f"/servers/{key}/action", {"os-stop": None})[0] == 409
    world.act(key, "os-start")
    found = settle(world, key)
    assert (found["status"], found["OS-EXT-STS:power_state"], power(world, key)) == ("ACTIVE", 1, "running")


@pytest.mark.parametrize(("kind", "status"), [("SOFT", "REBOOT"), ("HARD", "HARD_REBOOT")])
def test_reboot_happens_once(world: World, kind: str, status: str) -> None:
    key = world.active()
    world.act(key, "reboot", {"type": kind})
    assert world.show(key)["status"] == status
    assert settle(world, key)["status"] == "ACTIVE"
    assert world.drivers["node-1"]._guests[key].boots == 2
    world.boot("node-1")  # an agent that starts anew does not repeat it
    world.run()
    assert world.drivers["node-1"]._guests[key].boots == 2


@pytest.mark.parametrize(
    ("do", "undo", "status", "seen"),
    [("pause", "unpause", "PAUSED", "paused"), ("suspend", "resume", "SUSPENDED", "suspended")],
)
def test_pause_and_suspend(world: World, do: str, undo: str, status: str, seen: str) -> None:
    key = world.active()
    world.act(key, do)
    assert (settle(world, key)["status"], power(world, key)) == (status, seen)
    world.act(key, undo)
    assert (settle(world, key)["status"], power(world, key)) == ("ACTIVE", "running")


def test_a_guest_that_goes_off_by_itself_stays_off(world: World) -> None:
    key = world.active()
    world.drivers["node-1"].power_off_from_inside(key)
    world.until(lambda: world.show(key)["status"] == "SHUTOFF")
    world.boot("node-1")
    world.run()
    assert power(world, key) == "shutoff"
    world.act(key, "os-start")
    assert settle(world, key)["status"] == "ACTIVE"


def test_lock(world: World) -> None:
    key = world.active()
    world.act(key, "lock", {"locked_reason": "mine"})
    found = world.show(key, who="member")
    assert found["locked"] is True and found["locked_reason"] == "mine"
    for body in ({"os-stop": None}, {"reboot": {"type": "SOFT"}}):
        assert world.refused("POST", f"/servers/{key}/action", body)[0] == 409
    assert world.refused("DELETE", f"/servers/{key}")[0] == 409
    world.act(key, "unlock")
    world.act(key, "os-stop")
    assert settle(world, key)["status"] == "SHUTOFF"
    world.act(key, "lock", {"locked_reason": "ignored before 2.73"}, version="2.72")
    assert world.show(key)["locked"] is True


def usage(world: World) -> dict[str, int]:
    provider = world.placement.call("GET", "/resource_providers", who="admin", version="1.39")
    key = provider["resource_providers"][0]["uuid"]
    found = world.placement.call("GET", f"/resource_providers/{key}/usages", who="admin", version="1.39")
    return dict(found["usages"])


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("word", ["confirmResize", "revertResize"])
def test_resize(world: World, word: str, running: bool) -> None:
    key = world.active()
    if not running:
        world.act(key, "os-stop")
        settle(world, key)
    world.act(key, "resize", {"flavorRef": "7"})
    assert world.show(key)["status"] == "RESIZE"
    found = settle(world, key)
    assert found["status"] == "VERIFY_RESIZE" and found["flavor"]["ram"] == 192
    assert world.drivers["node-1"]._guests[key].memory_mib == (192 if running else 128)
    assert usage(world)["MEMORY_MB"] == 192
    world.act(key, word)
    world.until(lambda: world.show(key)["status"] in ("ACTIVE", "SHUTOFF"))
    found = world.show(key)
    ram = 192 if word == "confirmResize" else 128
    assert (found["status"], found["flavor"]["ram"]) == ("ACTIVE" if running else "SHUTOFF", ram)
    assert usage(world)["MEMORY_MB"] == ram
    guest = world.drivers["node-1"]._guests[key]
    assert guest.old_root_gib is None and guest.root_gib == (2 if ram == 192 else 1)
    migrations = world.call("GET", "/os-migrations", who="admin")["migrations"]
    assert [one["status"] for one in migrations] == ["confirmed" if word == "confirmResize" else "reverted"]


def test_resize_where_there_is_no_room(world: World) -> None:
    key = world.active()
    world.call(
        "POST",
        "/flavors",
        {"flavor": {"name": "huge", "ram": 900_000, "vcpus": 1, "disk": 1, "id": "h"}},
        who="admin",
    )
    world.call("PUT", f"/os-quota-sets/{'1' * 32}", {"quota_set": {"ram": -1}}, who="admin")
    world.act(key, "resize", {"flavorRef": "h"})
    found = settle(world, key)
    assert (found["status"], found["flavor"]["ram"]) == ("ACTIVE", 128)
    actions = world.call("GET", f"/servers/{key}/os-instance-actions")["instanceActions"]
    assert (actions[0]["action"], actions[0]["message"]) == ("resize", "Error")
    assert (
        world.call("GET", f"/os-quota-sets/{'1' * 32}/detail", who="admin")["quota_set"]["ram"]["in_use"]
        == 128
    )


def test_resize_is_refused(world: World) -> None:
    key = world.active()
    assert world.refused("POST", f"/servers/{key}/action", {"resize": {"flavorRef": "6"}})[0] == 400
    assert world.refused("POST", f"/servers/{key}/action", {"resize": {"flavorRef": "nope"}})[0] == 400
    assert world.refused("POST", f"/servers/{key}/action", {"confirmResize": None})[0] == 409


def test_snapshot_becomes_an_active_image(world: World) -> None:
    key = world.active()
    image = world.act(key, "createImage", {"name": "snap", "metadata": {"colour": "red"}})["image_id"]
    assert world.show(key)["OS-EXT-STS:task_state"] == "image_snapshot"
    assert settle(world, key)["status"] == "ACTIVE"
    found = world.image.call("GET", f"/v2/images/{image}")
    assert (found["status"], found["disk_format"], found["colour"]) == ("active", "qcow2", "red")
    assert (found["instance_uuid"], found["image_type"], found["owner"]) == (key, "snapshot", "1" * 32)


def test_a_failed_snapshot_leaves_no_image(world: World) -> None:
    key = world.active()
    world.drivers["node-1"].faults.fail_next("snapshot", times=10)
    image = world.act(key, "createImage", {"name": "snap"})["image_id"]
    assert settle(world, key)["status"] == "ACTIVE"
    with pytest.raises(RemoteError) as caught:
        world.image.call("GET", f"/v2/images/{image}")
    assert caught.value.status == 404


def test_rebuild(world: World) -> None:
    key = world.active()
    answer = world.act(key, "rebuild", {"imageRef": world.image_id, "name": "again"})["server"]
    assert answer["status"] == "REBUILD" and answer["adminPass"]
    found = settle(world, key)
    assert (found["status"], found["name"]) == ("ACTIVE", "again")
    assert world.drivers["node-1"]._guests[key].boots == 1


def test_reset_state(world: World) -> None:
    key = world.active()
    assert world.refused("POST", f"/servers/{key}/action", {"os-resetState": {"state": "error"}})[0] == 403
    world.act(key, "os-resetState", {"state": "error"}, who="admin")
    assert world.show(key)["status"] == "ERROR"
    world.act(key, "os-resetState", {"state": "active"}, who="admin")
    assert world.show(key)["status"] == "ACTIVE"


def test_console_log_diagnostics_and_screens(world: World) -> None:
    key = world.active()
    assert "boot finished" in world.act(key, "os-getConsoleOutput", {"length": 5})["output"]
    found = world.call("GET", f"/servers/{key}/diagnostics", who="admin")
    assert found["state"] == "running" and found["num_nics"] == 1
    path = f"/servers/{key}/remote-consoles"
    assert (
        world.refused("POST", path, {"remote_console": {"protocol": "spice", "type": "spice-html5"}})[0]
        == 400
    )
    # The simulated driver has no screen: it says so instead of inventing one.
    assert world.refused("POST", path, {"remote_console": {"protocol": "vnc", "type": "novnc"}})[0] == 404


def test_what_is_not_there_says_so(world: World) -> None:
    key = world.active()
    for word, who in (
        ("shelve", "member"),
        ("rescue", "member"),
        ("os-migrateLive", "admin"),
        ("evacuate", "admin"),
    ):
        assert world.refused("POST", f"/servers/{key}/action", {word: {}}, who=who)[0] == 501
    assert world.refused("POST", f"/servers/{key}/action", {"dance": None})[0] == 400
    assert world.refused("GET", f"/servers/{key}/os-server-password")[0] == 404


# ---- volumes


def test_attach_and_detach_a_volume(world: World) -> None:
    key, volume = world.active(), world.volume.add(2)
    path = f"/servers/{key}/os-volume_attachments"
    answer = world.call("POST", path, {"volumeAttachment": {"volumeId": volume}}, version="2.89")
    assert answer["volumeAttachment"]["device"] == "/dev/vdb"
    world.until(lambda: world.volume.volumes[volume]["status"] == "in-use")
    assert dict(world.drivers["node-1"].guest(key).volumes) == {volume: "/dev/vdb"}
    assert world.show(key)["os-extended-volumes:volumes_attached"] == [
        {"id": volume, "delete_on_termination": False}
    ]
    found = world.call("GET", f"{path}/{volume}")["volumeAttachment"]
    assert found["device"] == "/dev/vdb" and found["attachment_id"] in world.volume.held
    assert "id" not in found and "tag" in found
    again = world.refused("POST", path, {"volumeAttachment": {"volumeId": volume}})
    assert again[0] == 400
    world.call("DELETE", f"{path}/{volume}")
    world.until(lambda: world.volume.volumes[volume]["status"] == "available")
    assert not world.drivers["node-1"].guest(key).volumes
    assert world.call("GET", path) == {"volumeAttachments": []}
    assert world.show(key)["os-extended-volumes:volumes_attached"] == []


def test_an_attach_that_fails_leaves_the_volume_available(world: World) -> None:
    key, volume = world.active(), world.volume.add()
    world.drivers["node-1"].faults.fail_next("attach_volume", times=10)
    world.call("POST", f"/servers/{key}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}})
    world.until(
        lambda: (
            world.call("GET", f"/servers/{key}/os-volume_attachments", version="2.1")
            == {"volumeAttachments": []}
        )
    )
    assert world.volume.volumes[volume]["status"] == "available" and not world.volume.held
    actions = world.call("GET", f"/servers/{key}/os-instance-actions")["instanceActions"]
    assert (actions[0]["action"], actions[0]["message"]) == ("attach_volume", "Error")
    assert world.show(key)["status"] == "ACTIVE"


def test_attach_answers_nothing_from_2_101_on(world: World) -> None:
    key, volume = world.active(), world.volume.add()
    body = {"volumeAttachment": {"volumeId": volume}}
    assert world.call("POST", f"/servers/{key}/os-volume_attachments", body, version="2.101") is None


# ---- interfaces


def test_plug_and_unplug_an_interface(world: World) -> None:
    key, other = world.active(), world.network.add("1" * 32, "other")
    path = f"/servers/{key}/os-interface"
    made = world.call("POST", path, {"interfaceAttachment": {"net_id": other}})["interfaceAttachment"]
    assert made["net_id"] == other and made["fixed_ips"]
    world.until(lambda: made["port_id"] in world.drivers["node-1"].guest(key).ports)
    assert set(world.show(key)["addresses"]) == {"net", "other"}
    assert len(world.call("GET", path)["interfaceAttachments"]) == 2
    world.call("DELETE", f"{path}/{made['port_id']}")
    world.until(lambda: made["port_id"] not in world.network.ports)
    assert set(world.show(key)["addresses"]) == {"net"}
    assert made["port_id"] not in world.drivers["node-1"].guest(key).ports


def test_a_given_port_is_given_back(world: World) -> None:
    port = world.network.port(world.net)["id"]
    key = world.active(networks=[{"port": port}])
    assert world.network.ports[port]["device_id"] == key
    assert world.refused("POST", "/servers", {"server": world.body(networks=[{"port": port}])})[0] == 409
    world.call("DELETE", f"/servers/{key}")
    world.until(lambda: world.gone(key))
    assert world.network.ports[port]["device_id"] == "" and world.leftovers() == {}


def test_security_groups(world: World) -> None:
    key = world.active()
    world.network.groups = [{"id": "g-1", "name": "web"}]
    world.act(key, "addSecurityGroup", {"name": "web"})
    assert {"name": "web"} in world.show(key)["security_groups"]
    assert all(port["security_groups"] == ["g-1"] for port in world.network.ports.values())
    world.act(key, "removeSecurityGroup", {"name": "web"})
    assert {"name": "web"} not in world.show(key)["security_groups"]
    assert world.refused("POST", f"/servers/{key}/action", {"addSecurityGroup": {"name": "none"}})[0] == 404


def test_addresses_follow_the_network_service(world: World) -> None:
    key = world.active()
    port = next(iter(world.network.ports))
    world.network.floats.append({"port_id": port, "floating_ip_address": "203.0.113.9"})
    events = {"events": [{"name": "network-changed", "server_uuid": key, "tag": port}]}
    answer = world.call("POST", "/os-server-external-events", events, who="service")
    assert answer["events"][0]["code"] == 200
    world.run()
    shown = [(one["addr"], one["OS-EXT-IPS:type"]) for one in world.show(key)["addresses"]["net"]]
    assert ("203.0.113.9", "floating") in shown
