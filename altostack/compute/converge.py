"""One guest, brought from what it is to what is wanted: the agent's part that knows the driver's verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from altostack.compute.drivers.base import (
    ComputeDriver,
    DriverError,
    GuestNotFound,
    GuestSpec,
    ImageRoot,
    Nic,
    Observed,
    Power,
    VolumeDisk,
)

Wanted = Mapping[str, Any]  # a document of `node_api.document`


class Converger:
    """Drives one driver. ``image``: (image id, format, checksum) -> the base image's file on this node.
    ``upload``: (image id, file) sends a snapshot. ``scratch``: where snapshots are written first."""

    def __init__(
        self,
        driver: ComputeDriver,
        *,
        image: Callable[[str, str, str | None], Path],
        upload: Callable[[str, Path], None],
        scratch: Path,
        shutdown_s: float,
    ) -> None:
        self._driver = driver
        self._image = image
        self._upload = upload
        self._scratch = scratch
        self._shutdown_s = shutdown_s

    def spec(self, wanted: Wanted) -> GuestSpec:
        """The driver's description of the guest; fetches its image where the node has it not yet."""
        root = wanted["root"]
        return GuestSpec(
            id=wanted["id"],
            name=wanted["name"],
            vcpus=wanted["vcpus"],
            memory_mib=wanted["memory_mib"],
            root=ImageRoot(
                base=self._image(root["image_id"], root["format"], root["checksum"]),
                format=root["format"],
                size_gib=root["size_gib"],
            )
            if root
            else None,
            ephemerals_gib=tuple(wanted["ephemerals_gib"]),
            swap_mib=wanted["swap_mib"],
            volumes=tuple(_volume(one) for one in wanted["volumes"]),
            nics=tuple(_nic(one) for one in wanted["nics"]),
            metadata=wanted["metadata"],
        )

    def converge(self, wanted: Wanted, done: int) -> None:
        """Make the guest as ``wanted``; ``done``: the serial of the last one-time verb that was carried out.

        Raises DriverError. Safe to be called again after a crash anywhere.
        """
        driver, guest_id = self._driver, wanted["id"]
        if wanted["power"] == "gone":
            driver.destroy(guest_id)
            return
        verb = wanted.get("verb") or {}
        due = verb if verb.get("serial", 0) > done else {}
        name = due.get("name")
        if name == "rebuild":
            driver.destroy(guest_id)
        elif name == "revert":
            self._power(wanted, "shutoff")
            driver.revert_disk(guest_id)
        elif name == "resize":
            self._power(wanted, "shutoff")
            driver.keep_old_disk(guest_id)
            if due["size_gib"]:
                driver.grow_disk(guest_id, due["size_gib"])
        started = self._power(wanted, wanted["power"])
        if not started:
            self._devices(wanted)
        if name == "reboot" and not started:
            spec = self.spec(wanted)
            driver.reboot(guest_id, hard=due["hard"], spec=spec, timeout_s=self._shutdown_s)
        elif name == "confirm":
            driver.confirm_disk(guest_id)
        elif name == "snapshot":
            self._snapshot(guest_id, due["image_id"])
        elif name == "extend":
            driver.extend_volume(guest_id, due["volume_id"], due["size_gib"])

    def _power(self, wanted: Wanted, level: str) -> bool:
        """Bring the guest to a level of power; whether it was booted on the way."""
        driver, guest_id = self._driver, wanted["id"]
        now = self._now(guest_id)
        power = now.power if now is not None and now.defined else None
        if level == "shutoff":
            if power is None:
                driver.prepare_disk(self.spec(wanted))
            elif power is not Power.SHUTOFF:
                driver.stop(guest_id, timeout_s=self._shutdown_s)
            return False
        if level == "suspended":
            if power in (Power.RUNNING, Power.PAUSED):
                driver.suspend(guest_id)
            return False
        booted = power in (None, Power.SHUTOFF)
        if booted:
            spec = self.spec(wanted)
            driver.prepare_disk(spec)
            driver.start(spec)
        elif power is Power.SUSPENDED:
            driver.resume(guest_id)
        elif power is Power.PAUSED and level == "running":
            driver.unpause(guest_id)
        if level == "paused" and power is not Power.PAUSED:
            driver.pause(guest_id)
        return booted

    def _devices(self, wanted: Wanted) -> None:
        """Plug in what is missing and pull out what is too much."""
        driver, guest_id = self._driver, wanted["id"]
        now = self._now(guest_id)
        if now is None or not now.defined or now.power is Power.SUSPENDED:
            return
        volumes = {one["volume_id"]: one for one in wanted["volumes"]}
        cards = {one["port_id"]: one for one in wanted["nics"]}
        for volume_id in now.volumes.keys() - volumes.keys():
            driver.detach_volume(guest_id, volume_id)
        for volume_id in volumes.keys() - now.volumes.keys():
            driver.attach_volume(guest_id, _volume(volumes[volume_id]))
        for port_id in now.ports - cards.keys():
            driver.detach_nic(guest_id, port_id)
        for port_id in cards.keys() - now.ports:
            driver.attach_nic(guest_id, _nic(cards[port_id]))

    def _snapshot(self, guest_id: str, image_id: str) -> None:
        self._scratch.mkdir(parents=True, exist_ok=True)
        path = self._scratch / f"{image_id}.qcow2"
        try:
            self._driver.snapshot(guest_id, path)
            self._upload(image_id, path)
        finally:
            path.unlink(missing_ok=True)

    def _now(self, guest_id: str) -> Observed | None:
        try:
            return self._driver.guest(guest_id)
        except GuestNotFound:
            return None

    def observe(self, guest_id: str) -> dict[str, Any]:
        """The guest as it is, in the form of a report."""
        now = self._now(guest_id)
        return seen(now)


def seen(now: Observed | None) -> dict[str, Any]:
    """An observation in the form of a report; "missing" where there is no guest, or only its files."""
    if now is None or not now.defined:
        return {"power": "missing" if now is None else "shutoff", "reason": "", "volumes": {}, "ports": []}
    return {
        "power": now.power.value,
        "reason": now.reason,
        "volumes": dict(now.volumes),
        "ports": sorted(now.ports),
    }


def _volume(one: Mapping[str, Any]) -> VolumeDisk:
    return VolumeDisk(
        volume_id=one["volume_id"],
        connection=one["connection"],
        device=one["device"],
        boot_index=one["boot_index"],
        read_only=one.get("read_only", False),
    )


def _nic(one: Mapping[str, Any]) -> Nic:
    return Nic(port_id=one["port_id"], mac=one["mac"], tap=one["tap"], mtu=one["mtu"])


__all__ = ["Converger", "DriverError", "seen"]
