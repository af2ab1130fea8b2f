"""The config drive: a file system that others can read, with what the metadata service says."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from altostack.compute import config_drive
from tests.compute.stand import World

pytestmark = pytest.mark.everywhere


def test_the_drive_can_be_read(tmp_path: Path) -> None:
    files = {
        "openstack/latest/meta_data.json": base64.b64encode(b'{"uuid": "x"}').decode(),
        "openstack/latest/user_data": base64.b64encode(b"#!/bin/sh\n").decode(),
    }
    path = tmp_path / "drive"
    config_drive.build(path, files)
    config_drive.build(path, files)  # again is no trouble
    label = subprocess.run(
        ["/usr/sbin/blkid", "-o", "value", "-s", "LABEL", str(path)], capture_output=True, text=True
    )
    assert label.stdout.strip() == "config-2"
    read = subprocess.run(
        ["mtype", "-i", str(path), "::/openstack/latest/meta_data.json"], capture_output=True, check=True
    )  # fmt: skip
    assert json.loads(read.stdout) == {"uuid": "x"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_server_with_a_config_drive(world: World) -> None:
    key = world.active(config_drive=True, metadata={"a": "b"})
    assert world.show(key)["config_drive"] == "True"
    assert config_drive.volume_id(key) in world.drivers["node-1"].guest(key).volumes
    assert world.show(key)["os-extended-volumes:volumes_attached"] == []
    path = f"/internal/nodes/node-1/servers/{key}/drive"
    files = world.lone.client.call("GET", path, node=world.lone.node("node-1"))["files"]
    assert json.loads(base64.b64decode(files["openstack/latest/meta_data.json"]))["meta"] == {"a": "b"}
    assert "openstack/latest/network_data.json" in files
    world.call("DELETE", f"/servers/{key}")
    world.until(lambda: world.gone(key))
    assert world.leftovers() == {}
