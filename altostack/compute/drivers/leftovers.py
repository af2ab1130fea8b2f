"""What a libvirt daemon that died in the middle of plugging leaves inside a running QEMU.

libvirt plugs a device in by several commands, first the back end (a tap's descriptor, a netdev, block nodes), then the
device, and writes down what it did at the end. Killed before that it forgets all of it, and what it forgot stands in
the way of every further try. (QEMU's QMP reference: device_del, netdev_del, closefd, blockdev-del.)
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from xml.etree.ElementTree import fromstring

import libvirt  # type: ignore[import-untyped]  # the binding ships no types
import libvirt_qemu  # type: ignore[import-untyped]  # as above

from altostack.compute.drivers.base import DeviceBusy
from altostack.compute.drivers.dead_daemon import end_jobs

Wait = Callable[[Callable[[], bool], float], bool]

_NODE = re.compile(r"libvirt-(\d+)-(format|storage)")


def drop(domain: Any, alias: str, *, wait: Wait, timeout_s: float) -> bool:
    """Remove the device of this alias, and its back end, from a guest whose libvirt does not know it.

    Whether there was anything of it. ``wait`` is Link.wait. Raises DeviceBusy when the guest does not let go.
    """
    devices = fromstring(domain.XMLDesc(0)).iterfind("devices/*/alias")
    if any(device.get("name") == alias for device in devices):
        return False
    found = "return" in _ask(domain, "closefd", fdname=f"tapfd-{alias}0")
    found |= _pull(domain, alias, wait, timeout_s)
    found |= "return" in _ask(domain, "netdev_del", id=f"host{alias}")
    return _drop_nodes(domain) or found


def drop_copies(domain: Any) -> None:
    """Remove copies of disks that libvirt does not know of: their jobs, and the nodes they write to.

    Only for a guest of whose jobs libvirt knows none: it would wait for ever for the end of one removed here.
    """
    end_jobs(partial(_ask, domain))
    _drop_nodes(domain)


def _pull(domain: Any, alias: str, wait: Wait, timeout_s: float) -> bool:
    def gone() -> bool:
        listed = _ask(domain, "qom-list", path="/machine/peripheral").get("return", [])
        return all(one["name"] != alias for one in listed)

    if gone():
        return False
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        _ask(domain, "device_del", id=alias)
        if wait(gone, min(5.0, left)):
            # The daemon hears of it too, later, and would take a new device of the same alias for the old one.
            time.sleep(1)
            return True
    raise DeviceBusy(
        f"guest {domain.UUIDString()} does not release {alias.removeprefix('ua-')}, left half attached by a daemon"
        f" that died, within {timeout_s:g} s; a hard reboot frees it"
    )


def _drop_nodes(domain: Any) -> bool:
    """Remove the block nodes that no disk in the XML refers to; whether there were any."""
    known = {
        element.get("index")
        for disk in fromstring(domain.XMLDesc(0)).iterfind("devices/disk")
        for element in disk.iter()
        if element.get("index")
    }
    found = _ask(domain, "query-named-block-nodes", flat=True).get("return", [])
    removed = False
    # "format" sorts before "storage", on which it stands.
    for name in sorted(str(node["node-name"]) for node in found):
        match = _NODE.fullmatch(name)
        if match is not None and match[1] not in known:
            removed |= "return" in _ask(domain, "blockdev-del", **{"node-name": name})
    return removed


def _ask(domain: Any, command: str, **arguments: Any) -> dict[str, Any]:
    """QEMU's answer, {"return": ...} or {"error": ...}: what is in use or gone is not removed, which is right."""
    try:
        text = libvirt_qemu.qemuMonitorCommand(
            domain, json.dumps({"execute": command, "arguments": arguments}), 0
        )
    except libvirt.libvirtError:
        if domain.isActive():
            raise
        return {}
    answer = json.loads(text)
    return answer if isinstance(answer, dict) else {}
