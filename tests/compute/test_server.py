"""Servers through the API: created, shown, listed, changed and deleted."""

from __future__ import annotations

import pytest

from tests.compute.stand import World

pytestmark = pytest.mark.everywhere


def test_a_server_comes_up_and_goes_without_a_trace(world: World) -> None:
    key = world.create()
    assert world.show(key)["status"] == "BUILD"
    assert world.show(key)["addresses"] == {}
    world.until(lambda: world.show(key)["status"] == "ACTIVE")
    shown = world.show(key)
    assert shown["OS-EXT-STS:power_state"] == 1 and shown["OS-EXT-STS:task_state"] is None
    assert shown["OS-EXT-SRV-ATTR:host"] == "node-1"
    assert [one["addr"] for one in shown["addresses"]["net"]] == ["10.0.0.10"]
    world.call("DELETE", f"/servers/{key}")
    assert world.show(key)["OS-EXT-STS:task_state"] == "deleting"
    world.until(lambda: world.gone(key))
    assert world.leftovers() == {}
