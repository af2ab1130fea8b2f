"""What a node tells of itself: its devices, its rings, what its daemons did last."""

from __future__ import annotations

import os
import time
from typing import Final

import msgspec

from altostack.objectstore import compose
from altostack.objectstore.care import rings
from altostack.objectstore.care.holdings import listed
from altostack.objectstore.care.report import Report, Reports
from altostack.objectstore.disk import layout
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.storage import DeviceGone, RingView
from altostack.objectstore.store import Store

_ENOUGH: Final = 100_000  # files are counted no further


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A device. size, free: bytes. quarantined: objects and databases set aside; pending: files of updates that wait.

    why: what is wrong, "" when nothing is.
    """

    device: str
    mounted: bool
    size: int = 0
    free: int = 0
    quarantined: int = 0
    pending: int = 0
    why: str = ""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node. now: its clock, seconds since 1970."""

    now: float
    devices: list[DeviceStatus]
    rings: dict[str, rings.Held]
    reports: list[Report]


def node_status(store: Store) -> NodeStatus:
    """This node. Raises DeviceGone in a process without devices."""
    local = store.local
    if not isinstance(local, LocalNode):
        raise DeviceGone("this node has no devices")
    expected = {
        device.device
        for ring in known_rings(store).values()
        for device in ring.devices
        if store.is_local(device.host, device.port)
    }
    names = sorted(expected | set(local.devices.names()))
    return NodeStatus(
        now=time.time(),
        devices=[_device(local, name) for name in names],
        rings=rings.held(compose.rings_folder(store.folder)),
        reports=Reports(store.folder).all(),
    )


def _device(local: LocalNode, name: str) -> DeviceStatus:
    try:
        path = local.devices.path(name)
        local.devices.ensure(path)
        room = os.statvfs(path)
        return DeviceStatus(
            device=name,
            mounted=True,
            size=room.f_blocks * room.f_frsize,
            free=room.f_bavail * room.f_frsize,
            quarantined=_count(f"{path}/{layout.QUARANTINED}", 2),
            pending=sum(
                _count(f"{path}/{base}", 2) for base in listed(path) if base.startswith("async_pending")
            ),
        )
    except DeviceGone as error:
        return DeviceStatus(device=name, mounted=False, why=str(error))
    except OSError as error:
        return DeviceStatus(device=name, mounted=True, why=error.strerror or str(error))


def _count(folder: str, depth: int) -> int:
    """What lies ``depth`` folders deep."""
    if depth == 1:
        return len(listed(folder))
    total = 0
    for name in listed(folder):
        total += _count(f"{folder}/{name}", depth - 1)
        if total >= _ENOUGH:
            break
    return total


def known_rings(store: Store) -> dict[str, RingView]:
    """The rings that are here, by name."""
    found: dict[str, RingView] = {}
    for name in ("account", "container"):
        try:
            found[name] = getattr(store.rings, name)
        except LookupError:
            continue
    for policy in store.policies:
        try:
            found["object" if policy.index == 0 else f"object-{policy.index}"] = store.rings.object(
                policy.index
            )
        except LookupError:
            continue
    return found
