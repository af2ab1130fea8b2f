"""Flavors, key pairs, hosts, services, quotas, limits, usage, events, metadata and the node's own routes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from altostack import compute
from altostack.kit.migrations import climb, head, migrate
from tests.compute.stand import OWN, World

pytestmark = pytest.mark.everywhere


def test_flavors(world: World) -> None:
    listed = world.call("GET", "/flavors/detail", version="2.1")["flavors"]
    tiny = next(one for one in listed if one["name"] == "m1.tiny")
    assert tiny == {
        "id": "1", "name": "m1.tiny", "ram": 512, "disk": 1, "vcpus": 1, "swap": "", "rxtx_factor": 1.0,
        "OS-FLV-EXT-DATA:ephemeral": 0, "OS-FLV-DISABLED:disabled": False, "os-flavor-access:is_public": True,
        "links": tiny["links"],
    }  # fmt: skip
    newest = world.call("GET", "/flavors/1")["flavor"]
    assert newest["swap"] == 0 and newest["extra_specs"] == {} and newest["description"] is None
    assert "rxtx_factor" not in newest and "OS-FLV-DISABLED:disabled" not in newest
    assert {one["name"] for one in world.call("GET", "/flavors", query={"minRam": "8192"})["flavors"]} == {
        "m1.large", "m1.xlarge"
    }  # fmt: skip
    assert [f["name"] for f in world.call("GET", "/flavors", query={"name": "m1.tiny"})["flavors"]] == [
        "m1.tiny"
    ]
    assert [
        f["id"] for f in world.call("GET", "/flavors", query={"sort_key": "memory_mb", "limit": 2})["flavors"]
    ] == ["6", "7"]
    body = {
        "flavor": {
            "name": "mine",
            "ram": 64,
            "vcpus": 1,
            "disk": 0,
            "os-flavor-access:is_public": False,
            "id": "p",
        }
    }
    assert world.refused("POST", "/flavors", body)[0] == 403
    made = world.call("POST", "/flavors", body, who="admin")["flavor"]
    assert made["os-flavor-access:is_public"] is False
    assert world.refused("POST", "/flavors", body, who="admin")[0] == 409
    assert world.refused("GET", "/flavors/p")[0] == 404
    world.call("POST", "/flavors/p/action", {"addTenantAccess": {"tenant": OWN}}, who="admin")
    assert world.call("GET", "/flavors/p")["flavor"]["ram"] == 64
    access = world.call("GET", "/flavors/p/os-flavor-access", who="admin")["flavor_access"]
    assert access == [{"flavor_id": "p", "tenant_id": OWN}]
    assert world.refused("GET", "/flavors/1/os-flavor-access", who="admin")[0] == 404
    world.call("POST", "/flavors/p/action", {"removeTenantAccess": {"tenant": OWN}}, who="admin")
    assert world.refused("GET", "/flavors/p")[0] == 404
    specs = {"extra_specs": {"hw:cpu_policy": "shared"}}
    assert world.call("POST", "/flavors/1/os-extra_specs", specs, who="admin") == specs
    assert world.call("GET", "/flavors/1/os-extra_specs/hw:cpu_policy") == {"hw:cpu_policy": "shared"}
    world.call("DELETE", "/flavors/1/os-extra_specs/hw:cpu_policy", who="admin")
    assert world.refused("GET", "/flavors/1/os-extra_specs/hw:cpu_policy")[0] == 404
    world.call("PUT", "/flavors/1", {"flavor": {"description": "small"}}, who="admin")
    assert world.call("GET", "/flavors/1")["flavor"]["description"] == "small"
    world.call("DELETE", "/flavors/p", who="admin")
    assert world.refused("GET", "/flavors/p", who="admin")[0] == 404
    for wrong in ({"ram": 0}, {"id": " x"}, {"name": ""}, {"vcpus": "many"}, {"disk": -1}):
        bad = {"flavor": {"name": "w", "ram": 1, "vcpus": 1, "disk": 1, **wrong}}
        assert world.refused("POST", "/flavors", bad, who="admin")[0] == 400


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me"


def test_key_pairs(world: World) -> None:
    made = world.call("POST", "/os-keypairs", {"keypair": {"name": "k", "public_key": KEY}})["keypair"]
    assert made["type"] == "ssh" and len(made["fingerprint"].split(":")) == 16 and "private_key" not in made
    assert world.refused("POST", "/os-keypairs", {"keypair": {"name": "k", "public_key": KEY}})[0] == 409
    assert (
        world.refused("POST", "/os-keypairs", {"keypair": {"name": "bad", "public_key": "nonsense"}})[0]
        == 400
    )
    assert (
        world.refused("POST", "/os-keypairs", {"keypair": {"name": "new"}})[0] == 400
    )  # imported only, since 2.92
    for name, version in (("a@b", "2.91"), ("a/b", "2.92")):
        body = {"keypair": {"name": name, "public_key": KEY}}
        assert world.refused("POST", "/os-keypairs", body, version=version)[0] == 400
    listed = world.call("GET", "/os-keypairs")["keypairs"]
    assert [one["keypair"]["name"] for one in listed] == ["k"] and "user_id" not in listed[0]["keypair"]
    assert world.call("GET", "/os-keypairs", who="reader")["keypairs"] == []
    assert world.refused("GET", "/os-keypairs/k", who="other")[0] == 404
    shown = world.call("GET", "/os-keypairs/k", query={"user_id": "user-member"}, who="admin")["keypair"]
    assert shown["public_key"] == KEY and shown["deleted"] is False
    assert world.refused("GET", "/os-keypairs/k?user_id=user-member", who="other")[0] == 403
    world.call("DELETE", "/os-keypairs/k")
    assert world.refused("GET", "/os-keypairs/k")[0] == 404


def test_hypervisors_and_services(wide: World) -> None:
    wide.active()
    assert wide.refused("GET", "/os-hypervisors")[0] == 403
    listed = wide.call("GET", "/os-hypervisors/detail", who="admin")["hypervisors"]
    assert [one["hypervisor_hostname"] for one in listed] == ["node-1", "node-2", "node-3"]
    assert {"state", "status", "uptime", "service"} <= set(listed[0]) and "vcpus" not in listed[0]
    older = wide.call("GET", "/os-hypervisors/detail", who="admin", version="2.87")["hypervisors"]
    assert sum(one["running_vms"] for one in older) == 1 and older[0]["vcpus"] == 8
    figures = wide.call("GET", "/os-hypervisors/statistics", who="admin", version="2.87")[
        "hypervisor_statistics"
    ]
    assert (figures["count"], figures["running_vms"], figures["memory_mb_used"]) == (3, 1, 128)
    assert wide.refused("GET", "/os-hypervisors/statistics", who="admin")[0] in (400, 404)
    one = wide.call("GET", f"/os-hypervisors/{listed[0]['id']}", who="admin", query={"with_servers": "true"})
    assert "servers" in one["hypervisor"]
    assert wide.refused("GET", "/os-hypervisors/1", who="admin")[0] == 400
    number = wide.call("GET", "/os-hypervisors", who="admin", version="2.52")["hypervisors"][0]["id"]
    shown = wide.call("GET", f"/os-hypervisors/{number}", who="admin", version="2.52")["hypervisor"]
    assert isinstance(number, int) and shown["id"] == number
    page = wide.call("GET", "/os-hypervisors", who="admin", query={"limit": 2})
    assert len(page["hypervisors"]) == 2 and page["hypervisors_links"]
    services = wide.call("GET", "/os-services", who="admin")["services"]
    assert {(one["binary"], one["state"], one["status"]) for one in services} == {
        ("nova-compute", "up", "enabled")
    }
    path = f"/os-services/{services[0]['id']}"
    off = wide.call("PUT", path, {"status": "disabled", "disabled_reason": "rest"}, who="admin")["service"]
    assert (off["status"], off["disabled_reason"]) == ("disabled", "rest")
    assert wide.refused("PUT", path, {}, who="admin")[0] == 400
    old = wide.call(
        "PUT", "/os-services/enable", {"host": "node-1", "binary": "nova-compute"}, who="admin", version="2.52"
    )  # fmt: skip
    assert old == {"service": {"host": "node-1", "binary": "nova-compute", "status": "enabled"}}
    now = wide.runtime.clock()
    wide.runtime.clock = lambda: now + 61
    states = wide.call("GET", "/os-services", who="admin")["services"]
    assert {one["state"] for one in states} == {"down"}


def test_a_service_is_deleted_once_it_is_empty(wide: World) -> None:
    key = wide.active()
    home = wide.show(key)["OS-EXT-SRV-ATTR:host"]
    services = {one["host"]: one["id"] for one in wide.call("GET", "/os-services", who="admin")["services"]}
    assert wide.refused("DELETE", f"/os-services/{services[home]}", who="admin")[0] == 409
    other = next(host for host in services if host != home)
    del wide.agents[other]
    wide.call("DELETE", f"/os-services/{services[other]}", who="admin")
    assert len(wide.call("GET", "/os-hypervisors", who="admin")["hypervisors"]) == 2
    providers = wide.placement.call("GET", "/resource_providers", who="admin", version="1.39")[
        "resource_providers"
    ]
    assert len(providers) == 2


def test_quotas_and_limits(world: World) -> None:
    world.active()
    limits = world.call("GET", "/limits")["limits"]["absolute"]
    assert (limits["totalInstancesUsed"], limits["totalRAMUsed"], limits["maxTotalInstances"]) == (1, 128, 10)
    assert (
        "maxPersonality" not in limits
        and "maxPersonality" in world.call("GET", "/limits", version="2.56")["limits"]["absolute"]
    )
    path = f"/os-quota-sets/{OWN}"
    assert world.call("GET", path)["quota_set"]["cores"] == 20
    assert world.call("GET", f"{path}/detail")["quota_set"]["cores"] == {
        "limit": 20,
        "in_use": 1,
        "reserved": 0,
    }
    assert world.refused("GET", f"/os-quota-sets/{'2' * 32}")[0] == 403
    assert world.refused("PUT", path, {"quota_set": {"cores": 5}})[0] == 403
    assert world.refused("PUT", path, {"quota_set": {"cores": 0}}, who="admin")[0] == 400
    assert (
        world.call("PUT", path, {"quota_set": {"instances": 1}}, who="admin")["quota_set"]["instances"] == 1
    )
    status, text = world.refused("POST", "/servers", {"server": world.body()})
    assert status == 403 and "instances" in text and "already used 1 of 1" in text
    world.call("DELETE", path, who="admin")
    assert world.call("GET", f"{path}/defaults")["quota_set"]["instances"] == 10
    assert world.call("GET", path)["quota_set"]["instances"] == 10
    assert "floating_ips" in world.call("GET", path, version="2.35")["quota_set"]


def test_usage(world: World) -> None:
    world.active()
    now = world.runtime.clock()
    world.runtime.clock = lambda: now + 3600
    found = world.call(
        "GET", "/os-simple-tenant-usage", who="admin", query={"start": "2020-01-01T00:00:00", "detailed": 1}
    )
    usage = found["tenant_usages"][0]
    assert usage["tenant_id"] == OWN and 0.9 < usage["total_hours"] < 1.1 and len(usage["server_usages"]) == 1
    assert world.refused("GET", "/os-simple-tenant-usage?start=never", who="admin")[0] == 400
    assert world.refused("GET", "/os-simple-tenant-usage")[0] == 403


def test_external_events(world: World) -> None:
    key = world.active()
    assert (
        world.refused(
            "POST",
            "/os-server-external-events",
            {"events": [{"name": "network-changed", "server_uuid": key}]},
        )[0]
        == 403
    )
    events = [
        {"name": "network-changed", "server_uuid": key},
        {"name": "network-changed", "server_uuid": "00000000-0000-4000-8000-000000000000"},
        {"name": "volume-extended", "server_uuid": key},
    ]
    answer = world.lone.client.send(
        "POST", "/v2.1/os-server-external-events", json.dumps({"events": events}).encode(), token="service",
        version="2.51", headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert answer.status == 207
    assert [one["code"] for one in json.loads(answer.read())["events"]] == [200, 404, 400]


def test_an_attached_volume_grows(world: World) -> None:
    key, volume = world.active(), world.volume.add()
    world.call("POST", f"/servers/{key}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}})
    world.until(lambda: world.volume.volumes[volume]["status"] == "in-use")
    world.volume.volumes[volume]["size"] = 5
    events = {"events": [{"name": "volume-extended", "server_uuid": key, "tag": volume}]}
    world.call("POST", "/os-server-external-events", events, who="service")
    world.until(lambda: world.drivers["node-1"]._guests[key].sizes == {volume: 5})


# ---- metadata


def ask(world: World, key: str, path: str, **headers: str) -> Any:
    signature = hmac.new(world.secret.encode(), key.encode(), hashlib.sha256).hexdigest()
    sent = {"X-Instance-ID": key, "X-Tenant-ID": OWN, "X-Instance-ID-Signature": signature, **headers}
    return world.lone.client.send("GET", f"/metadata{path}", headers=sent)


def read(world: World, key: str, path: str) -> str:
    answer = ask(world, key, path)
    assert answer.status == 200, path
    return str(answer.read().decode())


def test_metadata(world: World) -> None:
    world.call("POST", "/os-keypairs", {"keypair": {"name": "k", "public_key": KEY}})
    script = b"#!/bin/sh\necho hello\n"
    key = world.active(
        name="Web", key_name="k", user_data=base64.b64encode(script).decode(), metadata={"role": "front"},
        networks=[{"uuid": world.net, "tag": "lan"}],
    )  # fmt: skip
    found = json.loads(read(world, key, "/openstack/latest/meta_data.json"))
    assert (found["uuid"], found["hostname"], found["meta"]) == (key, "web", {"role": "front"})
    assert found["public_keys"] == {"k": KEY} and found["keys"][0]["type"] == "ssh"
    assert found["devices"][0]["tags"] == ["lan"]
    assert read(world, key, "/openstack/latest/user_data").encode() == script
    network = json.loads(read(world, key, "/openstack/latest/network_data.json"))
    assert network["links"][0]["mtu"] == 1450 and network["networks"][0]["type"] == "ipv4_dhcp"
    assert read(world, key, "/latest/meta-data/local-ipv4") == "10.0.0.10"
    assert read(world, key, "/latest/meta-data/public-keys/0/openssh-key") == KEY
    assert "public-keys/" in read(world, key, "/latest/meta-data/")
    assert read(world, key, "/2009-04-04/user-data").encode() == script
    assert "openstack" in read(world, key, "/").split() and "latest" in read(world, key, "/openstack").split()
    assert ask(world, key, "/openstack/latest/nothing").status == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Instance-ID-Signature": "0" * 64}, 403),
        ({"X-Instance-ID-Signature": ""}, 403),
        ({"X-Tenant-ID": "2" * 32}, 404),
        ({"X-Instance-ID": "00000000-0000-4000-8000-000000000000"}, 403),
    ],
)
def test_metadata_is_for_its_server_alone(world: World, headers: dict[str, str], status: int) -> None:
    key = world.active()
    assert ask(world, key, "/openstack/latest/meta_data.json", **headers).status == status


# ---- nodes


def test_a_node_sees_its_own_servers_alone(wide: World) -> None:
    key = wide.active()
    home = wide.show(key)["OS-EXT-SRV-ATTR:host"]
    other = next(host for host in wide.agents if host != home)
    client = wide.lone.client
    path = f"/internal/nodes/{home}/servers"
    assert [one["id"] for one in client.call("GET", path, node=wide.lone.node(home))["servers"]] == [key]
    assert client.send("GET", path, node=wide.lone.node(other)).status == 404
    assert client.send("GET", path, token="admin").status == 404
    assert client.send("GET", path).status in (401, 404)
    lie = {"servers": {key: {"generation": 99, "power": "gone"}}}
    client.call("POST", f"/internal/nodes/{other}/observed", lie, node=wide.lone.node(other))
    wide.run()
    assert wide.show(key)["status"] == "ACTIVE"


def test_a_guest_that_nobody_wants_is_removed(world: World) -> None:
    key = world.active()
    driver = world.drivers["node-1"]
    stranger = "00000000-0000-4000-8000-00000000dead"
    from altostack.compute.drivers.base import GuestSpec, ImageRoot

    spec = GuestSpec(
        id=stranger,
        name="x",
        vcpus=1,
        memory_mib=64,
        root=ImageRoot(base=world.folder, format="raw", size_gib=1),
    )
    driver.prepare_disk(spec)
    driver.start(spec)
    world.agents["node-1"].looks.once()
    assert set(driver.guests()) == {key}


def test_a_host_that_was_away_for_a_delete_cleans_up(world: World) -> None:
    key = world.active()
    agent = world.agents.pop("node-1")
    now = world.runtime.clock()
    world.runtime.clock = lambda: now + 120
    world.call("DELETE", f"/servers/{key}")
    world.until(lambda: world.gone(key))
    assert set(world.drivers["node-1"].guests()) == {key}
    world.agents["node-1"] = agent
    world.run()
    assert world.drivers["node-1"].guests() == {}


def test_console_tokens(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from altostack.compute.drivers.base import Console
    from altostack.compute.drivers.simulated import SimulatedDriver

    key = world.active()
    where = Console(path=world.folder / "vnc.sock")
    monkeypatch.setattr(SimulatedDriver, "vnc", lambda self, guest_id: where)
    body = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
    found = world.call("POST", f"/servers/{key}/remote-consoles", body)["remote_console"]
    assert found["url"].startswith("http://console/vnc_lite.html?path=websockify%3Ftoken%3D")
    token = found["url"].rpartition("%3D")[2]
    assert world.lone.call("GET", f"/internal/console-tokens/{token}", who="service")["path"] == str(
        where.path
    )
    assert world.lone.refusal("GET", f"/internal/console-tokens/{token}", who="member")[0] == 403
    assert world.lone.refusal("GET", "/internal/console-tokens/x", who="service")[0] == 404
    assert (
        world.call("GET", f"/os-console-auth-tokens/{token}", who="admin")["console"]["instance_uuid"] == key
    )
    now = world.runtime.clock()
    world.runtime.clock = lambda: now + 601
    assert world.lone.refusal("GET", f"/internal/console-tokens/{token}", who="service")[0] == 404
    old = world.call("POST", f"/servers/{key}/action", {"os-getVNCConsole": {"type": "novnc"}}, version="2.5")
    assert old["console"]["type"] == "novnc"
    assert world.refused("POST", f"/servers/{key}/action", {"os-getVNCConsole": {"type": "novnc"}})[0] in (
        400,
        404,
    )


def test_the_ladder_of_migrations(world: World) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from altostack.kit.db import Database

    service = compute.SERVICE
    assert service.migrations is not None
    db = Database(f"sqlite:///{world.folder}/ladder.sqlite", name="compute")
    climb(db, service.migrations, head(service.migrations))
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, service.metadata) == []
    migrate(db, service.metadata, service.migrations)
    db.close()
