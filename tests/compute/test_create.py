"""What a request to create servers may hold, and what becomes of it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.compute.stand import OWN, World

pytestmark = pytest.mark.everywhere

WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"name": ""}, 400, "name"),
    ({"name": " a"}, 400, "name"),
    ({"name": "a\nb"}, 400, "name"),
    ({"name": 5}, 400, "name"),
    ({"flavorRef": "none"}, 400, "Flavor none"),
    ({"flavorRef": None}, 400, "flavorRef"),
    ({"imageRef": "0" * 32}, 400, "image"),
    ({"imageRef": "not an id"}, 400, "imageRef"),
    ({"imageRef": None}, 400, "imageRef"),
    ({"networks": [{"uuid": "00000000-0000-4000-8000-000000000000"}]}, 400, "Network"),
    ({"networks": [{"uuid": "x"}]}, 400, "uuid"),
    ({"networks": [{"port": "00000000-0000-4000-8000-000000000000"}]}, 400, "Port"),
    ({"networks": [{}]}, 400, "network"),
    ({"networks": None}, 400, "networks"),
    ({"networks": "some"}, 400, "networks"),
    ({"key_name": "none"}, 400, "key_name"),
    ({"user_data": "not base64!"}, 400, "user_data"),
    ({"metadata": {"a": 1}}, 400, "metadata"),
    ({"metadata": {"a" * 256: "x"}}, 400, "metadata"),
    ({"availability_zone": "mars"}, 400, "availability zone"),
    ({"availability_zone": "nova:node-1"}, 403, "forced_host"),
    ({"host": "node-1"}, 403, "requested_destination"),
    ({"min_count": 3, "max_count": 2}, 400, "min_count"),
    ({"min_count": 11}, 403, "instances"),
    ({"security_groups": [{"name": "none"}]}, 400, "Security group none"),
    ({"tags": ["a,b"]}, 400, "tags"),
    ({"personality": []}, 400, "personality"),
    ({"trusted_image_certificates": ["x"]}, 501, "trusted_image_certificates"),
    ({"colour": "red"}, 400, "colour"),
    ({"block_device_mapping_v2": [{"source_type": "volume", "boot_index": 0}]}, 400, "UUID"),
    ({"block_device_mapping_v2": [{"source_type": "blank", "destination_type": "volume"}]}, 400, "size"),
    ({"hostname": "a_b c"}, 400, "hostname"),
]


@pytest.mark.parametrize(("fields", "status", "words"), WRONG)
def test_what_is_wrong_is_said(world: World, fields: dict[str, Any], status: int, words: str) -> None:
    body = {"server": world.body(**fields)}
    got, text = world.refused("POST", "/servers", body)
    assert (got, words in text) == (status, True), text
    assert world.call("GET", "/servers")["servers"] == []
    assert world.network.ports == {}


def test_fields_belong_to_their_versions(world: World) -> None:
    for field, value, since in (
        ("description", "x", "2.19"), ("tags", ["x"], "2.52"), ("trusted_image_certificates", None, "2.63"),
        ("hostname", "abc", "2.90"),
    ):  # fmt: skip
        minor = int(since.split(".")[1])
        body = {"server": world.body(**{field: value})}
        body["server"][field] = value
        status, text = world.refused("POST", "/servers", body, version=f"2.{minor - 1}")
        assert status == 400 and field in text
        world.call("POST", "/servers", body, version=since)
    assert world.call("POST", "/servers", {"server": world.body(networks=None)}, version="2.36")


def test_the_answer(world: World) -> None:
    answer = world.call("POST", "/servers", {"server": world.body(adminPass="secret-1")})["server"]
    assert set(answer) == {"id", "links", "OS-DCF:diskConfig", "security_groups", "adminPass"}
    assert answer["adminPass"] == "secret-1" and answer["security_groups"] == [{"name": "default"}]
    reserved = world.call("POST", "/servers", {"server": world.body(return_reservation_id=True)})
    assert list(reserved) == ["reservation_id"]
    assert (
        len(world.call("GET", "/servers", query={"reservation_id": reserved["reservation_id"]})["servers"])
        == 1
    )


def test_everything_asked_for_is_shown(world: World) -> None:
    pair = world.call("POST", "/os-keypairs", {"keypair": {"name": "me"}}, version="2.91")["keypair"]
    key = world.active(
        name="Web Server", description="front", metadata={"a": "b"}, tags=["x", "y", "x"], key_name="me",
        user_data=base64.b64encode(b"#!/bin/sh").decode(), accessIPv4="192.0.2.7", availability_zone="nova",
    )  # fmt: skip
    found = world.show(key)
    assert pair["private_key"].startswith("-----BEGIN RSA PRIVATE KEY-----")
    assert (found["name"], found["description"], found["metadata"]) == ("Web Server", "front", {"a": "b"})
    assert (found["tags"], found["key_name"], found["accessIPv4"]) == (["x", "y"], "me", "192.0.2.7")
    assert found["OS-EXT-SRV-ATTR:hostname"] == "web-server"
    assert found["pinned_availability_zone"] == found["OS-EXT-AZ:availability_zone"] == "nova"
    assert found["image"]["id"] == world.image_id and found["flavor"]["original_name"] == "m1.starter"


def test_several_at_once(world: World) -> None:
    answer = world.call("POST", "/servers", {"server": world.body(min_count=2, max_count=20)})
    assert answer["server"]["id"]
    names = sorted(one["name"] for one in world.call("GET", "/servers")["servers"])
    assert names == sorted(f"one-{n}" for n in range(1, 11))  # the quota leaves ten
    world.until(lambda: all(s["status"] == "ACTIVE" for s in world.call("GET", "/servers/detail")["servers"]))


def test_networks_by_themselves(world: World) -> None:
    assert world.show(world.active(networks="none"))["addresses"] == {}
    assert set(world.show(world.active(networks="auto"))["addresses"]) == {"net"}
    world.network.add(OWN, "second")
    status, text = world.refused("POST", "/servers", {"server": world.body(networks=None)}, version="2.36")
    assert status == 409 and "Multiple possible networks" in text
    fixed = world.active(networks=[{"uuid": world.net, "fixed_ip": "10.0.0.77"}])
    assert world.show(fixed)["addresses"]["net"][0]["addr"] == "10.0.0.77"


def test_external_networks_are_for_administrators(world: World) -> None:
    outside = world.network.add("f" * 32, "public", **{"router:external": True})
    assert world.refused("POST", "/servers", {"server": world.body(networks=[{"uuid": outside}])})[0] == 403


def test_boot_from_a_volume(world: World) -> None:
    plain, boot = world.volume.add(), world.volume.add(bootable="true")
    disk = {"source_type": "volume", "destination_type": "volume", "boot_index": 0}
    body = {"server": world.body(imageRef=None, block_device_mapping_v2=[{**disk, "uuid": plain}])}
    status, text = world.refused("POST", "/servers", body)
    assert status == 400 and "not bootable" in text
    key = world.active(imageRef=None, block_device_mapping_v2=[{**disk, "uuid": boot}])
    found = world.show(key)
    assert found["image"] == "" and found["os-extended-volumes:volumes_attached"][0]["id"] == boot
    assert dict(world.drivers["node-1"].guest(key).volumes) == {boot: "/dev/vda"}
    assert world.placement.call(
        "GET", f"/allocations/{key}", who="admin", version="1.39"
    )["allocations"].popitem()[1]["resources"] == {"MEMORY_MB": 128, "VCPU": 1}  # fmt: skip
    assert world.refused("DELETE", f"/servers/{key}/os-volume_attachments/{boot}")[0] == 400


def test_a_refused_volume_becomes_the_fault(world: World) -> None:
    world.volume.refuse["POST volumes"] = (413, "the quota of gigabytes is exceeded")
    disk = {
        "source_type": "blank", "destination_type": "volume", "volume_size": 1, "boot_index": -1,
    }  # fmt: skip
    key = world.create(block_device_mapping_v2=[disk])
    world.until(lambda: world.show(key)["status"] == "ERROR")
    fault = world.show(key)["fault"]["message"]
    assert "step block_devices" in fault and "quota of gigabytes" in fault
    world.until(lambda: not world.leftovers())


def test_a_refused_port_becomes_the_fault(world: World) -> None:
    world.network.refuse["POST ports"] = (400, "no more addresses")
    key = world.create()
    world.until(lambda: world.show(key)["status"] == "ERROR")
    assert "step network" in world.show(key)["fault"]["message"]
    assert "no more addresses" in world.show(key)["fault"]["message"]


# ---- scheduling


def test_a_server_that_fits_nowhere_says_why(wide: World) -> None:
    huge = {"name": "huge", "ram": 900_000, "vcpus": 1, "disk": 1, "id": "huge"}
    wide.call("POST", "/flavors", {"flavor": huge}, who="admin")
    wide.call("PUT", f"/os-quota-sets/{OWN}", {"quota_set": {"ram": -1}}, who="admin")
    key = wide.create(flavorRef="huge")
    wide.until(lambda: wide.show(key)["status"] == "ERROR")
    found = wide.show(key, who="member")
    assert found["fault"]["message"] == (
        "No valid host was found. ComputeFilter 3→3, VcpuFilter 3→3, RamFilter 3→0, DiskFilter 0→0."
    )
    assert "node-" not in json.dumps(found["fault"]) and found["hostId"] == ""
    assert wide.leftovers() == {}


def test_disabled_and_dead_hosts_get_nothing(wide: World) -> None:
    services = wide.call("GET", "/os-services", who="admin")["services"]
    wide.call("PUT", f"/os-services/{services[0]['id']}", {"status": "disabled"}, who="admin")
    wide.call("PUT", f"/os-services/{services[1]['id']}", {"forced_down": True}, who="admin")
    for _ in range(4):
        assert wide.show(wide.active())["OS-EXT-SRV-ATTR:host"] == services[2]["host"]
    wide.call("PUT", f"/os-services/{services[2]['id']}", {"status": "disabled"}, who="admin")
    key = wide.create()
    wide.until(lambda: wide.show(key)["status"] == "ERROR")
    assert "ComputeFilter 3→0" in wide.show(key)["fault"]["message"]


def test_a_host_may_be_named(wide: World) -> None:
    wide.network.networks[wide.net]["shared"] = True
    for fields in ({"availability_zone": "nova:node-2"}, {"host": "node-2"}):
        key = wide.call(
            "POST", "/servers", {"server": wide.body(imageRef=None, **fields, **_volume(wide))}, who="admin"
        )
        key = key["server"]["id"]
        wide.until(lambda key=key: wide.show(key)["status"] != "BUILD")  # type: ignore[misc]  # mypy cannot type a lambda's defaults
        assert wide.show(key)["OS-EXT-SRV-ATTR:host"] == "node-2"


def _volume(world: World) -> dict[str, Any]:
    disk = {
        "source_type": "volume", "uuid": world.volume.add(bootable="true"), "destination_type": "volume",
        "boot_index": 0,
    }  # fmt: skip
    return {"block_device_mapping_v2": [disk]}


def test_zones(wide: World) -> None:
    made = wide.call(
        "POST", "/os-aggregates", {"aggregate": {"name": "a", "availability_zone": "east"}}, who="admin"
    )
    path = f"/os-aggregates/{made['aggregate']['id']}"
    wide.call("POST", f"{path}/action", {"add_host": {"host": "node-3"}}, who="admin")
    names = {one["zoneName"] for one in wide.call("GET", "/os-availability-zone")["availabilityZoneInfo"]}
    assert names == {"nova", "east"}
    key = wide.active(availability_zone="east")
    assert wide.show(key)["OS-EXT-SRV-ATTR:host"] == "node-3"
    assert wide.show(key)["OS-EXT-AZ:availability_zone"] == "east"
    status, _ = wide.refused("POST", f"{path}/action", {"remove_host": {"host": "node-3"}}, who="admin")
    assert status == 409


@pytest.mark.parametrize("policy", ["affinity", "anti-affinity", "soft-anti-affinity"])
def test_server_groups(wide: World, policy: str) -> None:
    group = wide.call("POST", "/os-server-groups", {"server_group": {"name": "g", "policy": policy}})[
        "server_group"
    ]
    hosts = []
    for _ in range(3):
        body = {"server": wide.body(), "os:scheduler_hints": {"group": group["id"]}}
        key = wide.call("POST", "/servers", body)["server"]["id"]
        wide.until(lambda key=key: wide.show(key)["status"] != "BUILD")  # type: ignore[misc]  # mypy cannot type a lambda's defaults
        hosts.append(wide.show(key)["OS-EXT-SRV-ATTR:host"])
    assert len(set(hosts)) == (1 if policy == "affinity" else 3)
    assert len(wide.call("GET", f"/os-server-groups/{group['id']}")["server_group"]["members"]) == 3
    assert wide.show(key)["server_groups"] == [group["id"]]
    fourth = wide.call(
        "POST", "/servers", {"server": wide.body(), "os:scheduler_hints": {"group": group["id"]}}
    )
    key = fourth["server"]["id"]
    wide.until(lambda: wide.show(key)["status"] != "BUILD")
    assert wide.show(key)["status"] == ("ERROR" if policy == "anti-affinity" else "ACTIVE")
    if policy == "anti-affinity":
        assert "ServerGroupAntiAffinityFilter 3→0" in wide.show(key)["fault"]["message"]


def test_a_burst_spreads(wide: World) -> None:
    wide.call("PUT", f"/os-quota-sets/{OWN}", {"quota_set": {"instances": -1, "cores": -1}}, who="admin")
    for _ in range(12):
        wide.create()
    wide.until(lambda: all(s["status"] == "ACTIVE" for s in wide.call("GET", "/servers/detail")["servers"]))
    hosts = [
        s["OS-EXT-SRV-ATTR:host"]
        for s in wide.call("GET", "/servers/detail", who="admin", query={"all_tenants": 1})["servers"]
    ]
    assert all(hosts.count(host) >= 2 for host in ("node-1", "node-2", "node-3"))
