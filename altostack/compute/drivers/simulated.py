"""Guests that are only remembered: a whole cloud without root or hypervisor, with delays and faults one can set."""

from __future__ import annotations

import functools
import math
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

import msgspec

from altostack.compute.drivers.base import (
    Console,
    DeviceBusy,
    DeviceNotFound,
    EventCallback,
    GuestEvent,
    GuestNotFound,
    GuestSpec,
    HostInfo,
    HypervisorUnavailable,
    ImageMissing,
    InvalidSpec,
    Nic,
    Observed,
    Power,
    Unsupported,
    VolumeDisk,
    WrongState,
)
from altostack.compute.drivers.faults import Faults

GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What a simulated node pretends to have."""

    vcpus: int = 32
    memory_mib: int = 131_072
    disk_gib: int = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """All that is remembered of one guest, small enough to be written at every verb. ``ports``: port ids."""

    id: str
    name: str
    vcpus: int
    memory_mib: int
    power: Power = Power.SHUTOFF
    reason: str = ""
    defined: bool = False
    root_gib: int | None = None
    old_root_gib: int | None = None
    volumes: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    booted_at: float = 0.0
    boots: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)


P = ParamSpec("P")
R = TypeVar("R")


def _verb(
    method: Callable[Concatenate[SimulatedDriver, P], R],
) -> Callable[Concatenate[SimulatedDriver, P], R]:
    """A verb lives through its delay and faults before it works, and fails after close()."""
    name = method.__name__

    @functools.wraps(method)
    def verb(self: SimulatedDriver, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._closed:
            raise HypervisorUnavailable("this driver is closed")
        self.faults.meet(name)
        return method(self, *args, **kwargs)

    return verb


class SimulatedDriver:
    """The compute driver of a pretended node. See ComputeDriver for the verbs.

    ``root``: folder where guests are remembered over a restart, one small file each; None forgets them with the
    process. ``faults``: what goes wrong and how long things take.
    """

    def __init__(
        self,
        *,
        root: Path | None = None,
        hostname: str = "simulated",
        capacity: Capacity | None = None,
        faults: Faults | None = None,
    ) -> None:
        self._folder = root / "guests" if root else None
        self._hostname = hostname
        self._capacity = capacity or Capacity()
        self.faults = faults or Faults()
        self._lock = threading.RLock()
        self._callbacks: list[EventCallback] = []
        self._closed = False
        self._guests: dict[str, Guest] = {}
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in self._folder.glob("*.json"):
                guest = msgspec.json.decode(file.read_bytes(), type=Guest)
                self._guests[guest.id] = guest

    # ------------------------------------------------------------------------------------- facts

    @_verb
    def host_info(self) -> HostInfo:
        return HostInfo(
            hostname=self._hostname, vcpus=self._capacity.vcpus, memory_mib=self._capacity.memory_mib,
            disk_gib=self._capacity.disk_gib, disk_free_gib=self._capacity.disk_gib, hypervisor_type="simulated",
            hypervisor_version=1_000_000, virt_type="simulated",
            cpu={
                "arch": "x86_64", "model": "simulated", "vendor": "Altostack", "features": [],
                "topology": {"sockets": 1, "cores": self._capacity.vcpus, "threads": 1},
            },
        )  # fmt: skip

    @_verb
    def guests(self) -> dict[str, Observed]:
        return {guest_id: _seen(guest) for guest_id, guest in list(self._guests.items())}

    @_verb
    def guest(self, guest_id: str) -> Observed:
        return _seen(self._known(guest_id))

    @_verb
    def console_log(self, guest_id: str, *, lines: int | None = None, max_bytes: int = 102_400) -> str:
        guest = self._known(guest_id)
        text = "".join(_BOOT_LOG.format(name=guest.name, vcpus=guest.vcpus, mib=guest.memory_mib, boot=number + 1)
                       for number in range(min(guest.boots, 20)))  # fmt: skip
        text = text.encode()[-max_bytes:].decode(errors="replace") if max_bytes else ""
        return (
            text if lines is None else "".join(text.splitlines(keepends=True)[-lines:] if lines > 0 else [])
        )

    @_verb
    def vnc(self, guest_id: str) -> Console:
        self._expect(guest_id, Power.RUNNING, Power.PAUSED)
        raise Unsupported(f"guest {guest_id} is simulated and has no screen")

    @_verb
    def serial(self, guest_id: str) -> Console:
        self._expect(guest_id, Power.RUNNING, Power.PAUSED)
        raise Unsupported(f"guest {guest_id} is simulated and has no serial port")

    @_verb
    def diagnostics(self, guest_id: str) -> dict[str, Any]:
        guest = self._known(guest_id)
        up = time.time() - guest.booted_at if guest.power is Power.RUNNING else 0.0
        return {
            "state.state": {Power.RUNNING: 1, Power.PAUSED: 3}.get(guest.power, 5),
            "cpu.time": int(up * 1e9 * 0.01),
            "vcpu.current": guest.vcpus,
            "balloon.current": guest.memory_mib * 1024,
            "balloon.maximum": guest.memory_mib * 1024,
            "block.count": len(guest.volumes) + (guest.root_gib is not None),
            "net.count": len(guest.ports),
        }

    @_verb
    def screenshot(self, guest_id: str) -> bytes:
        self._expect(guest_id, Power.RUNNING, Power.PAUSED)
        return b"P6\n1 1\n255\n\0\0\0"

    def events(self, callback: EventCallback) -> Callable[[], None]:
        self._callbacks.append(callback)

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop

    def close(self) -> None:
        self._closed = True

    # ------------------------------------------------------------------------------------- power

    @_verb
    def prepare_disk(self, spec: GuestSpec) -> None:
        with self._lock:
            if spec.id not in self._guests:
                _check_id(spec.id)
                gib = (spec.root.size_gib or 1) if spec.root else None
                self._keep(
                    Guest(
                        id=spec.id, name=spec.name, vcpus=spec.vcpus, memory_mib=spec.memory_mib, root_gib=gib
                    )
                )

    @_verb
    def start(self, spec: GuestSpec) -> None:
        with self._lock:
            guest = self._guests.get(spec.id)
            if guest is None:
                raise ImageMissing(f"guest {spec.id} has no disk.qcow2: its disks are not prepared")
            if guest.power is Power.RUNNING:
                return
            if guest.power in (Power.PAUSED, Power.SUSPENDED):
                self._move(guest, Power.RUNNING, GuestEvent.RESUMED)
                return
            if spec.root is None and not any(volume.boot_index == 0 for volume in spec.volumes):
                raise InvalidSpec(f"guest {spec.id} has neither a root disk nor a volume with boot index 0")
            self._boot(replace(guest, name=spec.name, vcpus=spec.vcpus, memory_mib=spec.memory_mib,
                               volumes=_devices(spec), ports=tuple(nic.port_id for nic in spec.nics)))  # fmt: skip

    @_verb
    def stop(self, guest_id: str, *, timeout_s: float = 60.0) -> None:
        with self._lock:
            guest = self._known(guest_id)
            if guest.power is not Power.SHUTOFF:
                self._move(guest, Power.SHUTOFF, GuestEvent.STOPPED, reason="powered off")

    @_verb
    def reboot(self, guest_id: str, *, hard: bool, spec: GuestSpec, timeout_s: float = 60.0) -> None:
        with self._lock:
            guest = self._known(guest_id)
            if not hard and guest.power is Power.RUNNING:
                self._keep(replace(guest, boots=guest.boots + 1, booted_at=time.time()))
                self._tell(guest_id, GuestEvent.REBOOTED)
                return
            self._keep(replace(guest, power=Power.SHUTOFF))
        # Not self.start: a hard reboot meets the faults of reboot alone.
        SimulatedDriver.start.__wrapped__(self, spec)  # type: ignore[attr-defined]  # set by functools.wraps

    @_verb
    def pause(self, guest_id: str) -> None:
        with self._lock:
            guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED)
            self._move(guest, Power.PAUSED, GuestEvent.PAUSED, reason="asked")

    @_verb
    def unpause(self, guest_id: str) -> None:
        with self._lock:
            guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED)
            self._move(guest, Power.RUNNING, GuestEvent.RESUMED, reason="unpaused")

    @_verb
    def suspend(self, guest_id: str) -> None:
        with self._lock:
            guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED, Power.SUSPENDED)
            self._move(guest, Power.SUSPENDED, GuestEvent.SUSPENDED)

    @_verb
    def resume(self, guest_id: str) -> None:
        with self._lock:
            guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED, Power.SUSPENDED)
            self._move(guest, Power.RUNNING, GuestEvent.RESUMED, reason="restored")

    @_verb
    def destroy(self, guest_id: str) -> None:
        _check_id(guest_id)
        with self._lock:
            guest = self._guests.pop(guest_id, None)
            if self._folder is not None:
                (self._folder / f"{guest_id}.json").unlink(missing_ok=True)
        if guest is not None and guest.power in (Power.RUNNING, Power.PAUSED):
            self._tell(guest_id, GuestEvent.STOPPED)

    # ------------------------------------------------------------------------------------ devices

    @_verb
    def attach_volume(self, guest_id: str, disk: VolumeDisk) -> str:
        with self._lock:
            guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED, Power.SHUTOFF)
            if disk.volume_id not in guest.volumes:
                device = _pick(disk.device, {*guest.volumes.values(), *_local(guest.root_gib)})
                guest = replace(guest, volumes={**guest.volumes, disk.volume_id: device})
                self._keep(guest)
            return guest.volumes[disk.volume_id]

    @_verb
    def detach_volume(self, guest_id: str, volume_id: str) -> None:
        with self._lock:
            if guest_id in self._guests:
                guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED, Power.SHUTOFF)
                left = {key: device for key, device in guest.volumes.items() if key != volume_id}
                self._keep(replace(guest, volumes=left))

    @_verb
    def attach_nic(self, guest_id: str, nic: Nic) -> None:
        with self._lock:
            guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED, Power.SHUTOFF)
            if nic.port_id not in guest.ports:
                self._keep(replace(guest, ports=(*guest.ports, nic.port_id)))

    @_verb
    def detach_nic(self, guest_id: str, port_id: str) -> None:
        with self._lock:
            if guest_id in self._guests:
                guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED, Power.SHUTOFF)
                self._keep(replace(guest, ports=tuple(port for port in guest.ports if port != port_id)))

    @_verb
    def extend_volume(self, guest_id: str, volume_id: str, size_gib: int) -> None:
        with self._lock:
            guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED, Power.SHUTOFF)
            if volume_id not in guest.volumes:
                raise DeviceNotFound(f"guest {guest_id} has no volume {volume_id}")
            size = max(size_gib, guest.sizes.get(volume_id, 0))
            self._keep(replace(guest, sizes={**guest.sizes, volume_id: size}))

    # ----------------------------------------------------------------------------------- root disk

    @_verb
    def keep_old_disk(self, guest_id: str) -> None:
        with self._lock:
            guest = self._expect(guest_id, Power.SHUTOFF)
            if guest.old_root_gib is None:
                self._keep(replace(guest, old_root_gib=guest.root_gib))

    @_verb
    def grow_disk(self, guest_id: str, size_gib: int) -> None:
        with self._lock:
            guest = self._expect(guest_id, Power.RUNNING, Power.PAUSED, Power.SHUTOFF)
            self._keep(replace(guest, root_gib=max(size_gib, _root(guest))))

    @_verb
    def revert_disk(self, guest_id: str) -> None:
        with self._lock:
            guest = self._expect(guest_id, Power.SHUTOFF)
            if guest.old_root_gib is not None:
                self._keep(replace(guest, root_gib=guest.old_root_gib, old_root_gib=None))

    @_verb
    def confirm_disk(self, guest_id: str) -> None:
        with self._lock:
            self._keep(replace(self._known(guest_id), old_root_gib=None))

    @_verb
    def snapshot(self, guest_id: str, out_path: Path) -> None:
        guest = self._known(guest_id)
        if guest.root_gib is None:
            raise Unsupported(f"guest {guest_id} boots from a volume: snapshot the volume")
        fresh = out_path.with_name(f".{out_path.name}.new")
        fresh.write_bytes(_empty_qcow2(guest.root_gib * GIB))
        fresh.replace(out_path)

    # ------------------------------------------------------------------ what a guest does by itself

    def power_off_from_inside(self, guest_id: str) -> None:
        """As if somebody in the guest had typed poweroff."""
        with self._lock:
            self._move(self._known(guest_id), Power.SHUTOFF, GuestEvent.STOPPED, reason="powered off")

    def crash_from_inside(self, guest_id: str) -> None:
        """As if the hypervisor process had died."""
        with self._lock:
            self._move(self._known(guest_id), Power.SHUTOFF, GuestEvent.CRASHED, reason="crashed")

    # --------------------------------------------------------------------------------------- parts

    def _known(self, guest_id: str) -> Guest:
        _check_id(guest_id)
        try:
            return self._guests[guest_id]
        except KeyError:
            raise GuestNotFound(f"this node has no guest {guest_id}") from None

    def _expect(self, guest_id: str, *fitting: Power) -> Guest:
        guest = self._known(guest_id)
        if guest.power not in fitting:
            raise WrongState(f"guest {guest_id} is {guest.power}; this needs it {' or '.join(fitting)}")
        return guest

    def _boot(self, guest: Guest) -> None:
        self._keep(
            replace(guest, defined=True, power=Power.RUNNING, reason="booted", boots=guest.boots + 1,
                    booted_at=time.time())
        )  # fmt: skip
        self._tell(guest.id, GuestEvent.STARTED)

    def _move(self, guest: Guest, power: Power, event: GuestEvent, *, reason: str = "") -> None:
        if guest.power is not power:
            self._keep(replace(guest, power=power, reason=reason))
            self._tell(guest.id, event)

    def _keep(self, guest: Guest) -> None:
        self._guests[guest.id] = guest
        if self._folder is not None:
            fresh = self._folder / f".{guest.id}.new"
            fresh.write_bytes(msgspec.json.encode(guest))
            fresh.replace(self._folder / f"{guest.id}.json")

    def _tell(self, guest_id: str, event: GuestEvent) -> None:
        for callback in tuple(self._callbacks):
            callback(guest_id, event)


_BOOT_LOG = """\
[    0.000000] This guest is simulated: no machine runs behind these lines.
[    0.000000] Linux version 6.1.0-simulated (altostack) #{boot} SMP
[    0.000000] Command line: console=ttyS0,115200 root=LABEL=simulated
[    0.011000] Memory: {mib} MiB available
[    0.052000] smp: Brought up 1 node, {vcpus} CPUs
[    0.310000] virtio_blk virtio0: [vda] simulated disk
[    0.420000] virtio_net virtio1 eth0: simulated link up
[    0.800000] {name}: simulated boot finished
"""


def _check_id(guest_id: str) -> None:
    try:
        UUID(guest_id)
    except ValueError as error:
        raise InvalidSpec(f"{guest_id!r} is no UUID") from error


def _seen(guest: Guest) -> Observed:
    return Observed(
        power=guest.power, vcpus=guest.vcpus if guest.defined else 0,
        memory_mib=guest.memory_mib if guest.defined else 0, reason=guest.reason, defined=guest.defined,
        volumes=guest.volumes, ports=frozenset(guest.ports),
    )  # fmt: skip


def _root(guest: Guest) -> int:
    if guest.root_gib is None:
        raise ImageMissing(f"guest {guest.id} has no root disk of its own")
    return guest.root_gib


def _local(root_gib: int | None) -> tuple[str, ...]:
    return () if root_gib is None else ("/dev/vda",)


def _devices(spec: GuestSpec) -> dict[str, str]:
    taken = {*_local(1 if spec.root else None)}
    found: dict[str, str] = {}
    for volume in sorted(spec.volumes, key=lambda volume: (volume.device is None, volume.boot_index != 0)):
        found[volume.volume_id] = _pick(volume.device, taken)
        taken.add(found[volume.volume_id])
    return found


def _pick(wanted: str | None, taken: set[str]) -> str:
    if wanted is not None:
        device = "/dev/" + wanted.removeprefix("/dev/")
        if device in taken:
            raise DeviceBusy(f"{device} is taken by another disk of this guest")
        return device
    letters = "abcdefghijklmnopqrstuvwxyz"
    return next(f"/dev/vd{letter}" for letter in letters if f"/dev/vd{letter}" not in taken)


def _empty_qcow2(size: int) -> bytes:
    """An empty disk of this size that every tool takes for what it is (QEMU's docs/interop/qcow2.txt, version 3):
    one cluster each for header, refcount table, refcount block and L1 table."""
    bits, cluster = 16, 65_536
    entries = math.ceil(size / (cluster * cluster // 8))
    if entries > cluster // 8:
        raise InvalidSpec("a simulated disk holds at most 4 TiB")
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        0,
        0,
        bits,
        size,
        0,
        entries,
        3 * cluster,
        cluster,
        1,
        0,
        0,
        0,
        0,
        0,
        4,
        104,
    )
    table = struct.pack(">Q", 2 * cluster)
    counts = struct.pack(">4H", 1, 1, 1, 1)
    return b"".join(part.ljust(cluster, b"\0") for part in (head, table, counts, b""))
