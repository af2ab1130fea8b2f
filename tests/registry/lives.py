"""What may happen to everything that has a lifecycle: a scenario each, up to its ``yield`` without crashes.

A scenario looks itself at what came of its requests. A new kind of flow needs one here, and a new step a scenario
that comes past it: `test_crash` says which are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.registry.crash import World

Body = Callable[[World], Iterator[None]]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """``run`` prepares up to its ``yield``, then does what may be interrupted."""

    kind: str
    run: Body

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.run.__name__}"


# ---- servers


def boot(world: World, *, flavor: str = "m1.tiny", **fields: Any) -> str:
    """A server asked for."""
    server = {
        "name": "s", "flavorRef": world.flavors[flavor], "imageRef": world.image,
        "networks": [{"uuid": world.network}], **fields,
    }  # fmt: skip
    return str(world.api("POST", "compute", "/v2.1/servers", {"server": server})["server"]["id"])


def running(world: World, **fields: Any) -> str:
    """A server that runs."""
    server = boot(world, **fields)
    world.settle()
    look(world, server, "ACTIVE")
    return server


def look(world: World, server: str, status: str) -> dict[str, Any]:
    """The server, which has to be in this status with nothing being done."""
    shown: dict[str, Any] = world.api("GET", "compute", f"/v2.1/servers/{server}")["server"]
    now = (shown["status"], shown["OS-EXT-STS:task_state"])
    assert now == (status, None), (now, shown.get("fault"))
    return shown


def act(world: World, server: str, action: str, body: Any = None) -> None:
    """An action, and all that comes of it."""
    world.api("POST", "compute", f"/v2.1/servers/{server}/action", {action: body})
    world.settle()


def ports(world: World, server: str) -> list[dict[str, Any]]:
    """The server's ports."""
    return list(world.api("GET", "network", f"/v2.0/ports?device_id={server}")["ports"])


def one_guest(world: World, server: str) -> Any:
    """What the node holds of it: one guest."""
    guests = world.compute.guests()
    assert list(guests) == [server]
    return guests[server]


def held(world: World, server: str) -> dict[str, int]:
    """What placement says the server takes."""
    found = world.api("GET", "placement", f"/allocations/{server}", who="admin")["allocations"]
    return dict(next(iter(found.values()))["resources"]) if found else {}


def create(world: World) -> Iterator[None]:
    yield
    server = running(world)
    assert len(ports(world, server)) == 1
    assert one_guest(world, server).power == "running"
    assert held(world, server) == {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}


def create_with_all(world: World) -> Iterator[None]:
    """A port and a volume that are there, a volume that is made for it."""
    port = world.port()
    volume = own_volume(world)
    yield
    server = running(
        world,
        networks=[{"port": port}, {"uuid": world.network}],
        block_device_mapping_v2=[
            {"source_type": "image", "uuid": world.image, "destination_type": "local", "boot_index": 0},
            {"source_type": "volume", "uuid": volume, "destination_type": "volume", "boot_index": -1},
            {"source_type": "blank", "destination_type": "volume", "volume_size": 2, "boot_index": -1,
             "delete_on_termination": True},
        ],
    )  # fmt: skip
    assert len(ports(world, server)) == 2
    volumes = world.api("GET", "volume", "/v3/volumes/detail")["volumes"]
    assert [one["status"] for one in volumes] == ["in-use"] * 2
    assert one_guest(world, server).volumes.keys() == {one["id"] for one in volumes}


def boot_from_volume(world: World) -> Iterator[None]:
    yield
    server = running(
        world, imageRef="",
        block_device_mapping_v2=[
            {"source_type": "image", "uuid": world.image, "destination_type": "volume", "volume_size": 1,
             "boot_index": 0}
        ],
    )  # fmt: skip
    assert held(world, server) == {"VCPU": 1, "MEMORY_MB": 512}
    volumes = world.api("GET", "volume", "/v3/volumes/detail")["volumes"]
    assert [(one["status"], one["bootable"]) for one in volumes] == [("in-use", "true")]


def fails_to_start(world: World) -> Iterator[None]:
    """A build that the hypervisor refuses gives everything back."""
    world.compute.faults.fail_next("start", times=100, error=refused())
    yield
    server = boot(world)
    world.settle()
    world.compute.faults.clear()
    shown = world.api("GET", "compute", f"/v2.1/servers/{server}")["server"]
    assert shown["status"] == "ERROR"
    assert "step spawn" in shown["fault"]["message"]
    assert ports(world, server) == []
    assert held(world, server) == {}


def delete(world: World) -> Iterator[None]:
    port = world.port()
    volume = own_volume(world)
    server = running(
        world,
        networks=[{"port": port}, {"uuid": world.network}],
        block_device_mapping_v2=[
            {"source_type": "image", "uuid": world.image, "destination_type": "local", "boot_index": 0},
            {"source_type": "volume", "uuid": volume, "destination_type": "volume", "boot_index": -1},
            {"source_type": "blank", "destination_type": "volume", "volume_size": 2, "boot_index": -1,
             "delete_on_termination": True},
        ],
    )  # fmt: skip
    yield
    world.api("DELETE", "compute", f"/v2.1/servers/{server}")
    world.settle()
    assert world.api("GET", "compute", "/v2.1/servers")["servers"] == []
    assert [one["id"] for one in world.api("GET", "volume", "/v3/volumes")["volumes"]] == [volume]
    look_volume(world, volume, "available")
    kept = world.api("GET", "network", f"/v2.0/ports/{port}")["port"]
    assert (kept["device_id"], kept["device_owner"]) == ("", "")


def stop_and_start(world: World) -> Iterator[None]:
    server = running(world)
    yield
    act(world, server, "os-stop")
    look(world, server, "SHUTOFF")
    assert one_guest(world, server).power == "shutoff"
    act(world, server, "os-start")
    look(world, server, "ACTIVE")
    assert one_guest(world, server).power == "running"


def reboot(world: World) -> Iterator[None]:
    server = running(world)
    yield
    act(world, server, "reboot", {"type": "SOFT"})
    look(world, server, "ACTIVE")
    act(world, server, "reboot", {"type": "HARD"})
    look(world, server, "ACTIVE")
    assert one_guest(world, server).power == "running"


def pause_and_suspend(world: World) -> Iterator[None]:
    server = running(world)
    yield
    for action, status in (
        ("pause", "PAUSED"), ("unpause", "ACTIVE"), ("suspend", "SUSPENDED"), ("resume", "ACTIVE"),
    ):  # fmt: skip
        act(world, server, action)
        look(world, server, status)


def rebuild(world: World) -> Iterator[None]:
    server = running(world)
    yield
    act(world, server, "rebuild", {"imageRef": world.image})
    look(world, server, "ACTIVE")
    assert len(ports(world, server)) == 1


def resize_and_confirm(world: World) -> Iterator[None]:
    server = running(world)
    yield
    act(world, server, "resize", {"flavorRef": world.flavors["m1.small"]})
    look(world, server, "VERIFY_RESIZE")
    act(world, server, "confirmResize")
    assert look(world, server, "ACTIVE")["flavor"]["original_name"] == "m1.small"
    assert held(world, server) == {"VCPU": 1, "MEMORY_MB": 2048, "DISK_GB": 20}


def resize_and_revert(world: World) -> Iterator[None]:
    server = running(world)
    yield
    act(world, server, "resize", {"flavorRef": world.flavors["m1.small"]})
    look(world, server, "VERIFY_RESIZE")
    act(world, server, "revertResize")
    assert look(world, server, "ACTIVE")["flavor"]["original_name"] == "m1.tiny"
    assert held(world, server) == {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}


def snapshot(world: World) -> Iterator[None]:
    server = running(world)
    yield
    act(world, server, "createImage", {"name": "shot"})
    look(world, server, "ACTIVE")
    shots = world.api("GET", "image", "/v2/images?name=shot")["images"]
    assert [one["status"] for one in shots] == ["active"]


def attach_and_detach_volume(world: World) -> Iterator[None]:
    server, volume = running(world), own_volume(world)
    path = f"/v2.1/servers/{server}/os-volume_attachments"
    yield
    world.api("POST", "compute", path, {"volumeAttachment": {"volumeId": volume}})
    world.settle()
    look_volume(world, volume, "in-use")
    assert one_guest(world, server).volumes.keys() == {volume}
    world.api("DELETE", "compute", f"{path}/{volume}")
    world.settle()
    look_volume(world, volume, "available")
    assert one_guest(world, server).volumes == {}
    assert world.api("GET", "compute", path)["volumeAttachments"] == []


def extend_attached_volume(world: World) -> Iterator[None]:
    server, volume = running(world), own_volume(world)
    path = f"/v2.1/servers/{server}/os-volume_attachments"
    world.api("POST", "compute", path, {"volumeAttachment": {"volumeId": volume}})
    world.settle()
    yield
    world.api("POST", "volume", f"/v3/volumes/{volume}/action", {"os-extend": {"new_size": 3}})
    world.settle()
    assert look_volume(world, volume, "in-use")["size"] == 3
    look(world, server, "ACTIVE")


def attach_and_detach_interfaces(world: World) -> Iterator[None]:
    server = running(world)
    given = world.port()
    path = f"/v2.1/servers/{server}/os-interface"
    before = {one["id"] for one in ports(world, server)}
    yield
    for asked in ({"net_id": world.network}, {"port_id": given}):
        world.api("POST", "compute", path, {"interfaceAttachment": asked})
        world.settle()
    now = {one["id"] for one in ports(world, server)}
    assert len(now) == 3
    assert one_guest(world, server).ports == now
    for port in sorted(now - before):
        world.api("DELETE", "compute", f"{path}/{port}")
        world.settle()
    assert {one["id"] for one in ports(world, server)} == before == set(one_guest(world, server).ports)
    assert world.api("GET", "network", f"/v2.0/ports/{given}")["port"]["device_id"] == ""


def attach_first_interface(world: World) -> Iterator[None]:
    server = running(world, networks="none")
    yield
    asked = {"interfaceAttachment": {"net_id": world.network}}
    world.api("POST", "compute", f"/v2.1/servers/{server}/os-interface", asked)
    world.settle()
    assert set(one_guest(world, server).ports) == {one["id"] for one in ports(world, server)} != set()


def addresses_change(world: World) -> Iterator[None]:
    server = running(world)
    event = {"name": "network-changed", "server_uuid": server}
    yield
    world.api("POST", "compute", "/v2.1/os-server-external-events", {"events": [event]}, who="admin")
    world.settle()
    look(world, server, "ACTIVE")


# ---- volumes


def ask_volume(world: World, **fields: Any) -> str:
    """A volume asked for."""
    return str(world.api("POST", "volume", "/v3/volumes", {"volume": {"size": 1, **fields}})["volume"]["id"])


def available(world: World, **fields: Any) -> str:
    """A volume that is there."""
    volume = ask_volume(world, **fields)
    world.settle()
    look_volume(world, volume, "available")
    return volume


def own_volume(world: World) -> str:
    """A volume that outlives the servers it is attached to."""
    volume = available(world)
    world.kept.append(("volume", f"/v3/volumes/{volume}"))
    return volume


def look_volume(world: World, volume: str, status: str) -> dict[str, Any]:
    """The volume, which has to be in this status."""
    shown: dict[str, Any] = world.api("GET", "volume", f"/v3/volumes/{volume}")["volume"]
    assert shown["status"] == status
    return shown


def create_volume(world: World) -> Iterator[None]:
    yield
    volume = available(world, size=2)
    assert world.volume.remembered(volume).gib == 2


def create_volumes_from_sources(world: World) -> Iterator[None]:
    volume = available(world)
    taken = ask_snapshot(world, volume)
    world.settle()
    yield
    for source in ({"imageRef": world.image}, {"source_volid": volume}, {"snapshot_id": taken}):
        available(world, **source)


def extend_volume(world: World) -> Iterator[None]:
    volume = available(world)
    yield
    world.api("POST", "volume", f"/v3/volumes/{volume}/action", {"os-extend": {"new_size": 4}})
    world.settle()
    assert look_volume(world, volume, "available")["size"] == 4
    assert world.volume.remembered(volume).gib == 4


def upload_volume(world: World) -> Iterator[None]:
    volume = available(world)
    yield
    asked = {"image_name": "copy", "disk_format": "raw", "container_format": "bare"}
    world.api("POST", "volume", f"/v3/volumes/{volume}/action", {"os-volume_upload_image": asked})
    world.settle()
    look_volume(world, volume, "available")
    copies = world.api("GET", "image", "/v2/images?name=copy")["images"]
    assert [one["status"] for one in copies] == ["active"]


def upload_fails(world: World) -> Iterator[None]:
    """An image that cannot be written is taken away."""
    volume = available(world)
    asked = {"image_name": "copy", "disk_format": "qcow2", "container_format": "bare"}
    yield
    world.api("POST", "volume", f"/v3/volumes/{volume}/action", {"os-volume_upload_image": asked})
    world.settle()
    look_volume(world, volume, "available")
    assert world.api("GET", "image", "/v2/images?name=copy")["images"] == []


def delete_volume(world: World) -> Iterator[None]:
    volume = available(world)
    ask_snapshot(world, volume)
    world.settle()
    yield
    world.api("DELETE", "volume", f"/v3/volumes/{volume}?cascade=true")
    world.settle()
    assert world.api("GET", "volume", "/v3/volumes")["volumes"] == []
    assert world.api("GET", "volume", "/v3/snapshots")["snapshots"] == []


def ask_snapshot(world: World, volume: str) -> str:
    """A snapshot asked for."""
    body = {"snapshot": {"volume_id": volume, "name": "snap"}}
    return str(world.api("POST", "volume", "/v3/snapshots", body)["snapshot"]["id"])


def snapshot_and_delete(world: World) -> Iterator[None]:
    volume = available(world)
    yield
    taken = ask_snapshot(world, volume)
    world.settle()
    shown = world.api("GET", "volume", f"/v3/snapshots/{taken}")["snapshot"]
    assert shown["status"] == "available"
    world.api("DELETE", "volume", f"/v3/snapshots/{taken}")
    world.settle()
    assert world.api("GET", "volume", "/v3/snapshots")["snapshots"] == []


# ---- images


def empty_image(world: World) -> str:
    """An image without bits."""
    body = {"name": "brought", "disk_format": "raw", "container_format": "bare"}
    return str(world.api("POST", "image", "/v2/images", body)["id"])


def bring(world: World, image: str, **method: str) -> None:
    """An import asked for."""
    world.api("POST", "image", f"/v2/images/{image}/import", {"method": method})


def staged(world: World) -> str:
    """An image whose bits wait for their import."""
    image = empty_image(world)
    world.upload(image, b"\1" * 4096, to="stage")
    return image


def look_image(world: World, image: str, status: str, outcome: str) -> None:
    """The image has to be in this status, and its newest task to have come to this."""
    shown = world.api("GET", "image", f"/v2/images/{image}")
    task = world.api("GET", "image", f"/v2/images/{image}/tasks")["tasks"][0]
    found = (shown["status"], task["status"], "os_glance_import_task" in shown)
    assert found == (status, outcome, False), (found, task["message"])


def import_staged(world: World) -> Iterator[None]:
    image = staged(world)
    yield
    bring(world, image, name="glance-direct")
    world.settle()
    look_image(world, image, "active", "success")
    answer = world.cloud.client("image").send(
        "GET", f"/v2/images/{image}/file", token=world.cloud.token("demo")
    )
    assert answer.read() == b"\1" * 4096


def import_from_a_region(world: World) -> Iterator[None]:
    image = empty_image(world)
    yield
    bring(world, image, name="glance-download", glance_image_id=world.image, glance_region="RegionOne")
    world.settle()
    look_image(world, image, "active", "success")


def location_is_refused(world: World) -> Iterator[None]:
    image = empty_image(world)
    yield
    world.api("POST", "image", f"/v2/images/{image}/locations", {"url": "http://localhost/image"})
    world.settle()
    look_image(world, image, "queued", "failure")


def delete_while_importing(world: World) -> Iterator[None]:
    image = staged(world)
    yield
    bring(world, image, name="glance-direct")
    world.api("DELETE", "image", f"/v2/images/{image}")
    world.settle()


def refused() -> Exception:
    """A fault that no second try mends."""
    from altostack.compute.drivers.base import InvalidSpec

    return InvalidSpec("this guest is refused")


SERVERS: tuple[Body, ...] = (
    create, create_with_all, boot_from_volume, fails_to_start, delete, stop_and_start, reboot, pause_and_suspend,
    rebuild, resize_and_confirm, resize_and_revert, snapshot, attach_and_detach_volume, extend_attached_volume,
    attach_and_detach_interfaces, attach_first_interface, addresses_change,
)  # fmt: skip
VOLUMES: tuple[Body, ...] = (
    create_volume, create_volumes_from_sources, extend_volume, upload_volume, upload_fails, delete_volume,
)  # fmt: skip
SNAPSHOTS: tuple[Body, ...] = (snapshot_and_delete,)
TASKS: tuple[Body, ...] = (import_staged, import_from_a_region, location_is_refused, delete_while_importing)

SCENARIOS = tuple(
    Scenario(kind=kind, run=run)
    for kind, runs in (("server", SERVERS), ("volume", VOLUMES), ("snapshot", SNAPSHOTS), ("task", TASKS))
    for run in runs
)
