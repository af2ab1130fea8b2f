"""What a compute driver is: the specs it takes, the facts it reports, the verbs it knows.

A driver owns the guests of one node. Every verb is keyed by the guest's id and may be called again after a
crash at any moment: it looks at what is there and does what is left. Verbs block. Verbs for different guests
may run in parallel threads; the caller runs one verb at a time for one guest.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

# --------------------------------------------------------------------------------------------- errors


class DriverError(Exception):
    """Base of what a driver raises on purpose. ``retryable``: the same call may succeed later, unchanged."""

    retryable = False


class GuestNotFound(DriverError):
    """The node has no guest with this id."""


class DeviceNotFound(DriverError):
    """The guest has no such volume or port, or the file behind a device does not exist."""


class DeviceBusy(DriverError):
    """A device name is taken, a port is not free, or the guest does not release a device."""

    retryable = True


class ImageMissing(DriverError):
    """The base image, or a disk that an earlier step should have made, is not there."""


class WrongState(DriverError):
    """The verb does not fit the guest's power state."""


class InvalidSpec(DriverError):
    """The description cannot be built: contradictory, too small, or of an unknown kind."""


class Unsupported(DriverError):
    """This driver cannot do that."""


class OperationTimeout(DriverError):
    """The hypervisor or the guest did not finish in the time given."""

    retryable = True


class HypervisorUnavailable(DriverError):
    """The hypervisor's daemon does not answer."""

    retryable = True


class HypervisorError(DriverError):
    """The hypervisor refused or failed; the message holds its own words."""


# ---------------------------------------------------------------------------------------------- specs


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRoot:
    """A root disk made as a copy-on-write layer over a base image on the node.

    ``size_gib`` 0 means: as large as the image.
    """

    base: Path
    format: str
    size_gib: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeDisk:
    """A volume as a guest's disk.

    ``device``: the name in the guest ("vdb" or "/dev/vdb"), or None to let the driver choose the next free one.
    ``connection``: what the volume service hands out, {"driver_volume_type": "local", "data": {"path": ...,
    "format": "qcow2" | "raw"}}. ``boot_index``: 0 for the boot disk, None for not bootable.
    """

    volume_id: str
    connection: Mapping[str, Any]
    device: str | None = None
    boot_index: int | None = None
    read_only: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Nic:
    """A port as a guest's network card. The tap device exists before the guest starts; ``mtu`` in bytes."""

    port_id: str
    mac: str
    tap: str
    mtu: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestSpec:
    """All that is needed to build one guest.

    ``root`` None: the guest boots from the volume with ``boot_index`` 0. ``ephemerals_gib``: one empty disk each,
    with an ext4 file system labelled ephemeral0, ephemeral1, ... ``metadata``: facts written beside the guest for
    those who look at the hypervisor directly ("project", "flavor", ...); nothing is decided by them.
    """

    id: str
    name: str
    vcpus: int
    memory_mib: int
    root: ImageRoot | None
    ephemerals_gib: tuple[int, ...] = ()
    swap_mib: int = 0
    volumes: tuple[VolumeDisk, ...] = ()
    nics: tuple[Nic, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


# -------------------------------------------------------------------------------------------- reports


class Power(StrEnum):
    """SUSPENDED is on disk (memory saved, no process); PAUSED is in memory."""

    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    SHUTOFF = "shutoff"


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What the node sees of one guest, now.

    ``reason``: the hypervisor's word for how it came to this state ("booted", "crashed", "io error", ...).
    ``defined``: False when only files of the guest exist (a disk prepared, never started, or half destroyed).
    ``volumes``: volume id -> device path in the guest. ``vnc``: address of the console, None when off.
    """

    power: Power
    vcpus: int
    memory_mib: int
    reason: str = ""
    defined: bool = True
    volumes: Mapping[str, str] = field(default_factory=dict)
    ports: frozenset[str] = frozenset()
    vnc: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HostInfo:
    """The node's capacity and kind.

    ``disk_gib``: size of the file system that holds the guests. ``hypervisor_version``: major * 1,000,000 +
    minor * 1,000 + micro. ``cpu``: {"arch", "model", "vendor", "features": [...], "topology": {"sockets", "cores",
    "threads"}}. ``virt_type``: "kvm", "qemu" or "simulated".
    """

    hostname: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    disk_free_gib: int
    hypervisor_type: str
    hypervisor_version: int
    virt_type: str
    cpu: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Console:
    """Where a console listens: a unix socket, or host and port."""

    path: Path | None = None
    host: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

    def connect(self, *, timeout_s: float = 5.0) -> socket.socket:
        """A connected stream socket. Raises OSError.

        A unix address holds 107 bytes (unix(7)); longer paths are reached through their folder's descriptor.
        """
        if self.path is None:
            if self.host is None or self.port is None:
                raise OSError("this console has no address")
            return socket.create_connection((self.host, self.port), timeout=timeout_s)
        folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY)
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.settimeout(timeout_s)
            stream.connect(f"/proc/self/fd/{folder}/{self.path.name}")
        except OSError:
            stream.close()
            raise
        finally:
            os.close(folder)
        return stream


class GuestEvent(StrEnum):
    """What happened to a guest. RESYNC carries no guest: events may have been missed, look at ``guests()``."""

    STARTED = "started"
    STOPPED = "stopped"
    CRASHED = "crashed"
    PAUSED = "paused"
    RESUMED = "resumed"
    SUSPENDED = "suspended"
    REBOOTED = "rebooted"
    RESYNC = "resync"


EventCallback = Callable[[str | None, GuestEvent], None]


# ---------------------------------------------------------------------------------------------- verbs


@runtime_checkable
class ComputeDriver(Protocol):
    """The verbs. Each may raise HypervisorUnavailable, HypervisorError and OperationTimeout; further errors are
    named. Unless said otherwise a verb whose work is already done returns at once, and a verb on an unknown
    guest raises GuestNotFound.
    """

    def host_info(self) -> HostInfo:
        """Capacity and kind of the node. The first call of a node's life may take seconds (probing)."""
        ...

    def guests(self) -> dict[str, Observed]:
        """All guests of this node and cloud by id, those with nothing but files included."""
        ...

    def guest(self, guest_id: str) -> Observed:
        """One guest, now."""
        ...

    def prepare_disk(self, spec: GuestSpec) -> None:
        """Make the local disks that are missing. Existing ones are left alone. Raises ImageMissing, InvalidSpec."""
        ...

    def start(self, spec: GuestSpec) -> None:
        """Make it run: defined anew when off, restored when suspended, continued when paused.

        Raises ImageMissing (no prepared disk), DeviceNotFound (no file behind a volume), InvalidSpec.
        """
        ...

    def stop(self, guest_id: str, *, timeout_s: float = 60.0) -> None:
        """Power button, and after ``timeout_s`` the plug (0: the plug at once). A suspended guest loses its
        saved memory."""
        ...

    def reboot(self, guest_id: str, *, hard: bool, spec: GuestSpec, timeout_s: float = 60.0) -> None:
        """Soft: power button and boot again, falling to hard after ``timeout_s``. Hard: off, defined anew from
        ``spec``, on. Not idempotent by its nature: two calls are two reboots."""
        ...

    def pause(self, guest_id: str) -> None:
        """Raises WrongState when neither running nor paused."""
        ...

    def unpause(self, guest_id: str) -> None:
        """Raises WrongState when neither running nor paused."""
        ...

    def suspend(self, guest_id: str) -> None:
        """Save the memory to disk and end the process. Raises WrongState when off."""
        ...

    def resume(self, guest_id: str) -> None:
        """Undo suspend. Raises WrongState when off."""
        ...

    def attach_volume(self, guest_id: str, disk: VolumeDisk) -> str:
        """Plug the volume in, live and for the next start; returns its device path ("/dev/vdb").

        Raises DeviceBusy (name taken, no free port), DeviceNotFound (no file), WrongState (suspended),
        Unsupported (kind of connection).
        """
        ...

    def detach_volume(self, guest_id: str, volume_id: str) -> None:
        """Pull the volume out and wait until the guest let go of it. Raises DeviceBusy when it does not,
        WrongState (suspended). A volume or guest that is not there is already detached."""
        ...

    def attach_nic(self, guest_id: str, nic: Nic) -> None:
        """Plug a network card in, live and for the next start. Raises DeviceBusy, WrongState (suspended)."""
        ...

    def detach_nic(self, guest_id: str, port_id: str) -> None:
        """Pull a network card out. Errors as in detach_volume."""
        ...

    def keep_old_disk(self, guest_id: str) -> None:
        """Before a resize: keep a copy of the root disk, if the guest has one of its own. Raises WrongState
        unless off."""
        ...

    def grow_disk(self, guest_id: str, size_gib: int) -> None:
        """Make the root disk at least this large, on or off. Raises ImageMissing, WrongState (suspended)."""
        ...

    def revert_disk(self, guest_id: str) -> None:
        """Put the kept root disk back, if there is one. Raises WrongState unless off."""
        ...

    def confirm_disk(self, guest_id: str) -> None:
        """Drop the kept root disk, if there is one."""
        ...

    def snapshot(self, guest_id: str, out_path: Path) -> None:
        """Write the root disk as it is at one moment into a flat qcow2 file, replacing ``out_path`` at the end.

        Raises Unsupported for a guest that boots from a volume.
        """
        ...

    def extend_volume(self, guest_id: str, volume_id: str, size_gib: int) -> None:
        """Make an attached volume at least this large and let the running guest see it. Raises DeviceNotFound,
        WrongState (suspended)."""
        ...

    def console_log(self, guest_id: str, *, lines: int | None = None, max_bytes: int = 102_400) -> str:
        """The tail of what the guest wrote to its serial port."""
        ...

    def vnc(self, guest_id: str) -> Console:
        """The screen. Raises WrongState when the guest has no process."""
        ...

    def serial(self, guest_id: str) -> Console:
        """The serial port, both ways, one client at a time. Raises WrongState when the guest has no process."""
        ...

    def diagnostics(self, guest_id: str) -> dict[str, Any]:
        """Counters in the shape of libvirt's domain statistics ("cpu.time", "block.0.rd.bytes", ...)."""
        ...

    def screenshot(self, guest_id: str) -> bytes:
        """The screen as an image file (PNG or PPM). Raises WrongState when the guest has no process."""
        ...

    def destroy(self, guest_id: str) -> None:
        """Remove the guest and every file of it. An unknown guest is already destroyed."""
        ...

    def events(self, callback: EventCallback) -> Callable[[], None]:
        """Call back on every change of power; returns the function that ends it. The callback runs in the
        driver's own thread: it must be short and must not call the driver. Events come from the first verb on."""
        ...

    def close(self) -> None:
        """Let go of the hypervisor. Guests keep running."""
        ...
