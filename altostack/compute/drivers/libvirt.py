"""Guests by libvirt and QEMU: on KVM where the machine truly has it, else emulated."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree.ElementTree import Element, fromstring, tostring

import libvirt  # type: ignore[import-untyped]  # the binding ships no types

from altostack.compute.drivers import dead_daemon, domain_xml, guest_files, leftovers
from altostack.compute.drivers.accel import virt_type
from altostack.compute.drivers.base import (
    Console,
    DeviceBusy,
    DeviceNotFound,
    EventCallback,
    GuestEvent,
    GuestNotFound,
    GuestSpec,
    HostInfo,
    HypervisorError,
    ImageMissing,
    InvalidSpec,
    Nic,
    Observed,
    OperationTimeout,
    Power,
    Unsupported,
    VolumeDisk,
    WrongState,
)
from altostack.compute.drivers.guest_files import GIB, GuestFiles
from altostack.compute.drivers.libvirtd import LibvirtHost, PrivateLibvirtd
from altostack.compute.drivers.link import Link

_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG

# virDomainState and its reasons, in words.
_REASONS = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR): "io error",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER): "asked",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN): "powered off",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED): "forced off",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED): "crashed",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED): "failed to start",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED): "booted",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_RESTORED): "restored",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED): "unpaused",
}


class LibvirtDriver:
    """The compute driver of a node with libvirt. See ComputeDriver for the verbs.

    ``root``: folder of the node; guests live under ``root/guests``. ``host``: the daemon; by default a private
    one under ``root/libvirt``. ``kind``: "kvm" or "qemu", found by a probe when None.
    """

    def __init__(
        self,
        *,
        root: Path,
        host: LibvirtHost | None = None,
        kind: str | None = None,
        release_timeout_s: float = 60.0,
        spare_ports: int = 8,
    ) -> None:
        self._root = root.absolute()
        self._guests = self._root / "guests"
        self._guests.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._host = host or PrivateLibvirtd(root=self._root / "libvirt")
        self._machine = domain_xml.Machine(
            virt_type=kind or virt_type(self._root), owner=str(self._root), spare_ports=spare_ports
        )
        self._release_timeout_s = release_timeout_s
        self._link = Link(self._host)

    # ------------------------------------------------------------------------------------- facts

    def host_info(self) -> HostInfo:
        with self._link.speaking():
            connection = self._link.connection()
            info = connection.getInfo()
            # getInfo adds up NUMA nodes and so misses memory that was added later.
            memory = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            host = fromstring(connection.getCapabilities()).find("host")
            version, hypervisor = connection.getVersion(), connection.getType()
        cpu = host.find("cpu") if host is not None else None
        topology = cpu.find("topology") if cpu is not None else None
        disk = os.statvfs(self._guests)
        return HostInfo(
            hostname=getattr(self._host, "hostname", None) or socket.gethostname(),
            vcpus=info[2],
            memory_mib=memory["total"] // 1024,
            disk_gib=disk.f_blocks * disk.f_frsize // GIB,
            disk_free_gib=disk.f_bavail * disk.f_frsize // GIB,
            hypervisor_type=hypervisor,
            hypervisor_version=version,
            virt_type=self._machine.virt_type,
            cpu={
                "arch": info[0],
                "model": cpu.findtext("model", "") if cpu is not None else "",
                "vendor": cpu.findtext("vendor", "") if cpu is not None else "",
                "features": sorted(f.get("name", "") for f in cpu.findall("feature"))
                if cpu is not None
                else [],
                "topology": {
                    key: int(topology.get(key, "1")) if topology is not None else 1
                    for key in ("sockets", "cores", "threads")
                },
            },
        )

    def guests(self) -> dict[str, Observed]:
        found: dict[str, Observed] = {}
        with self._link.speaking():
            for domain in self._link.connection().listAllDomains(0):
                seen = self._seen(domain)
                if seen is not None:
                    found[domain.UUIDString()] = seen
        for folder in self._guests.iterdir():
            guest_id = folder.name.removeprefix(".").removesuffix(".gone")
            GuestFiles(folder).trim_console()
            if guest_id not in found:
                found[guest_id] = Observed(
                    power=Power.SHUTOFF, vcpus=0, memory_mib=0, defined=False, reason="files only"
                )
        return found

    def guest(self, guest_id: str) -> Observed:
        with self._link.speaking(guest_id):
            domain = self._find(guest_id)
            seen = self._seen(domain) if domain is not None else None
        if seen is not None:
            return seen
        if self._files(guest_id).folder.exists():
            return Observed(power=Power.SHUTOFF, vcpus=0, memory_mib=0, defined=False, reason="files only")
        raise GuestNotFound(f"this node has no guest {guest_id}")

    def console_log(self, guest_id: str, *, lines: int | None = None, max_bytes: int = 102_400) -> str:
        return self._kept(guest_id).console_tail(lines=lines, max_bytes=max_bytes)

    def vnc(self, guest_id: str) -> Console:
        with self._link.speaking(guest_id):
            devices = domain_xml.read_devices(self._running(guest_id, "has no screen").XMLDesc(0))
        if devices.vnc_socket:
            return Console(path=self._host.outside(devices.vnc_socket))
        if devices.vnc_address:
            return Console(host=devices.vnc_address[0], port=devices.vnc_address[1])
        raise HypervisorError(f"guest {guest_id} runs without a VNC server")

    def serial(self, guest_id: str) -> Console:
        with self._link.speaking(guest_id):
            devices = domain_xml.read_devices(self._running(guest_id, "has no serial port").XMLDesc(0))
        if devices.serial_socket:
            return Console(path=self._host.outside(devices.serial_socket))
        raise HypervisorError(f"guest {guest_id} runs without a serial socket")

    def diagnostics(self, guest_id: str) -> dict[str, Any]:
        with self._link.speaking(guest_id):
            domain = self._known(guest_id)
            stats = self._link.connection().domainListGetStats([domain], 0, 0)
        return dict(stats[0][1]) if stats else {}

    def screenshot(self, guest_id: str) -> bytes:
        with self._link.speaking(guest_id):
            domain = self._running(guest_id, "has no screen")
            stream = self._link.connection().newStream(0)
            image = bytearray()
            domain.screenshot(stream, 0, 0)
            stream.recvAll(lambda _stream, data, _opaque: image.extend(data), None)
            stream.finish()
        return bytes(image)

    def events(self, callback: EventCallback) -> Callable[[], None]:
        return self._link.listen(callback)

    def close(self) -> None:
        self._link.close()

    # ------------------------------------------------------------------------------------- power

    def prepare_disk(self, spec: GuestSpec) -> None:
        self._files(spec.id).prepare(spec)

    def start(self, spec: GuestSpec) -> None:
        with self._link.speaking(spec.id):
            domain = self._find(spec.id)
            power = self._power(domain) if domain is not None else Power.SHUTOFF
            if domain is not None and power is Power.RUNNING:
                return
            if domain is not None and power is Power.PAUSED:
                domain.resume()
            elif domain is not None and power is Power.SUSPENDED:
                self._run(domain)
            else:
                files = self._files(spec.id)
                files.require(spec)
                files.console.touch(mode=0o600)
                xml = domain_xml.build(
                    spec, machine=self._machine, files=files, serial=self._host.serial_socket(files.folder)
                )
                self._run(self._link.connection().defineXML(xml))

    def stop(self, guest_id: str, *, timeout_s: float = 60.0) -> None:
        with self._link.speaking(guest_id):
            domain = self._known(guest_id)
            power = self._power(domain)
            if power is Power.SUSPENDED:
                domain.managedSaveRemove(0)
            elif power is Power.RUNNING and timeout_s > 0:
                self._press_power(domain, lambda: not domain.isActive(), timeout_s, domain.shutdownFlags)
            self._force_off(domain)

    def reboot(self, guest_id: str, *, hard: bool, spec: GuestSpec, timeout_s: float = 60.0) -> None:
        with self._link.speaking(guest_id):
            domain = self._known(guest_id)
            if not hard and self._power(domain) is Power.RUNNING and self._soft_reboot(domain, timeout_s):
                return
            if domain.hasManagedSaveImage(0):
                domain.managedSaveRemove(0)
            self._force_off(domain)
        self.start(spec)

    def pause(self, guest_id: str) -> None:
        with self._link.speaking(guest_id):
            domain = self._known(guest_id)
            if self._expect(domain, guest_id, Power.RUNNING, Power.PAUSED) is Power.RUNNING:
                domain.suspend()

    def unpause(self, guest_id: str) -> None:
        with self._link.speaking(guest_id):
            domain = self._known(guest_id)
            if self._expect(domain, guest_id, Power.RUNNING, Power.PAUSED) is Power.PAUSED:
                domain.resume()

    def suspend(self, guest_id: str) -> None:
        with self._link.speaking(guest_id):
            domain = self._known(guest_id)
            if (
                self._expect(domain, guest_id, Power.RUNNING, Power.PAUSED, Power.SUSPENDED)
                is not Power.SUSPENDED
            ):
                domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)

    def resume(self, guest_id: str) -> None:
        with self._link.speaking(guest_id):
            domain = self._known(guest_id)
            power = self._expect(domain, guest_id, Power.RUNNING, Power.PAUSED, Power.SUSPENDED)
            if power is Power.SUSPENDED:
                self._run(domain)
            elif power is Power.PAUSED:
                domain.resume()

    def destroy(self, guest_id: str) -> None:
        with self._link.speaking(guest_id):
            domain = self._find(guest_id)
            if domain is not None:
                self._force_off(domain)
                domain.undefineFlags(
                    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
                )
        files = self._files(guest_id)
        if files.folder.exists():
            dead_daemon.end_strays(guest_id)
        files.remove()
        self._host.forget(guest_id)

    # ------------------------------------------------------------------------------------ devices

    def attach_volume(self, guest_id: str, disk: VolumeDisk) -> str:
        with self._link.speaking(guest_id):
            domain = self._pluggable(guest_id)
            now, later = self._devices(domain)
            have = {**(later.volumes), **(now.volumes if now else {})}
            taken = later.targets | (now.targets if now else frozenset())
            if disk.volume_id in have:
                target = have[disk.volume_id].removeprefix("/dev/")
            else:
                target = domain_xml.pick_target(disk.device, taken, disk.volume_id)
            device = domain_xml.disk_element(disk, target=target)
            missing = [
                devices is not None and disk.volume_id not in devices.volumes for devices in (now, later)
            ]
            self._plug(
                domain, device, now, live=missing[0], config=missing[1], what=f"volume {disk.volume_id}"
            )
        return f"/dev/{target}"

    def detach_volume(self, guest_id: str, volume_id: str) -> None:
        self._unplug(guest_id, domain_xml.volume_alias(volume_id), f"volume {volume_id}")

    def attach_nic(self, guest_id: str, nic: Nic) -> None:
        with self._link.speaking(guest_id):
            domain = self._pluggable(guest_id)
            now, later = self._devices(domain)
            device = domain_xml.nic_element(nic)
            missing = [devices is not None and nic.port_id not in devices.ports for devices in (now, later)]
            self._plug(domain, device, now, live=missing[0], config=missing[1], what=f"port {nic.port_id}")

    def detach_nic(self, guest_id: str, port_id: str) -> None:
        self._unplug(guest_id, domain_xml.port_alias(port_id), f"port {port_id}")

    def extend_volume(self, guest_id: str, volume_id: str, size_gib: int) -> None:
        with self._link.speaking(guest_id):
            domain = self._pluggable(guest_id)
            now, later = self._devices(domain)
            devices = now or later
            if volume_id not in devices.volumes:
                raise DeviceNotFound(f"guest {guest_id} has no volume {volume_id}")
            if now is not None:
                self._grow_live(domain, now.volumes[volume_id].removeprefix("/dev/"), size_gib)
                return
            path = devices.volume_paths[volume_id]
            form = domain_xml.volume_format(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), volume_id)
        guest_files.grow(Path(path), form, size_gib * GIB)

    # ------------------------------------------------------------------------------------ root disk

    def keep_old_disk(self, guest_id: str) -> None:
        files = self._resting(guest_id)
        if files.root.exists():
            guest_files.copy(files.root, files.old_root)

    def grow_disk(self, guest_id: str, size_gib: int) -> None:
        files = self._kept(guest_id)
        if not files.root.exists():
            raise ImageMissing(f"guest {guest_id} has no root disk of its own")
        with self._link.speaking(guest_id):
            domain = self._find(guest_id)
            if domain is not None and self._expect(
                domain, guest_id, Power.RUNNING, Power.PAUSED, Power.SHUTOFF
            ) in (Power.RUNNING, Power.PAUSED):
                self._grow_live(domain, domain_xml.root_target(domain.XMLDesc(0)), size_gib)
                return
        guest_files.grow(files.root, "qcow2", size_gib * GIB)

    def revert_disk(self, guest_id: str) -> None:
        files = self._resting(guest_id)
        if files.old_root.exists():
            files.old_root.replace(files.root)

    def confirm_disk(self, guest_id: str) -> None:
        self._kept(guest_id).old_root.unlink(missing_ok=True)

    def snapshot(self, guest_id: str, out_path: Path) -> None:
        files = self._kept(guest_id)
        if not files.root.exists():
            raise Unsupported(f"guest {guest_id} boots from a volume: snapshot the volume")
        with self._link.speaking(guest_id):
            domain = self._find(guest_id)
            if domain is None or not domain.isActive():
                guest_files.flatten(files.root, out_path)
                return
            target = domain_xml.root_target(domain.XMLDesc(0))
            self._end_copy(domain, target)
            try:
                mirrored = self._mirror(domain, target, files.scratch)
                guest_files.flatten(files.scratch if mirrored else files.root, out_path)
            finally:
                self._end_copy(domain, target)
                files.scratch.unlink(missing_ok=True)

    # --------------------------------------------------------------------------------------- parts

    def _files(self, guest_id: str) -> GuestFiles:
        try:
            return GuestFiles(self._guests / str(UUID(guest_id)))
        except ValueError as error:
            raise InvalidSpec(f"{guest_id!r} is no UUID") from error

    def _kept(self, guest_id: str) -> GuestFiles:
        files = self._files(guest_id)
        if not files.folder.exists():
            raise GuestNotFound(f"this node has no guest {guest_id}")
        return files

    def _find(self, guest_id: str) -> Any:
        """The domain, or None."""
        try:
            return self._link.connection().lookupByUUID(UUID(guest_id).bytes)
        except ValueError as error:
            raise InvalidSpec(f"{guest_id!r} is no UUID") from error
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _known(self, guest_id: str) -> Any:
        domain = self._find(guest_id)
        if domain is None:
            raise GuestNotFound(f"this node has no guest {guest_id}")
        return domain

    def _running(self, guest_id: str, so: str) -> Any:
        domain = self._known(guest_id)
        if not domain.isActive():
            raise WrongState(f"guest {guest_id} is {self._power(domain)} and {so}")
        return domain

    def _pluggable(self, guest_id: str) -> Any:
        domain = self._known(guest_id)
        self._expect(domain, guest_id, Power.RUNNING, Power.PAUSED, Power.SHUTOFF)
        return domain

    def _resting(self, guest_id: str) -> GuestFiles:
        if (power := self.guest(guest_id).power) is not Power.SHUTOFF:
            raise WrongState(
                f"guest {guest_id} is {power}; its root disk can be exchanged only when it is off"
            )
        return self._files(guest_id)

    @staticmethod
    def _power(domain: Any) -> Power:
        state = domain.state()[0]
        if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_SHUTDOWN):
            return Power.RUNNING
        if state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
            return Power.PAUSED
        return Power.SUSPENDED if domain.hasManagedSaveImage(0) else Power.SHUTOFF

    def _expect(self, domain: Any, guest_id: str, *fitting: Power) -> Power:
        power = self._power(domain)
        if power not in fitting:
            raise WrongState(f"guest {guest_id} is {power}; this needs it {' or '.join(fitting)}")
        return power

    def _seen(self, domain: Any) -> Observed | None:
        """None for a domain of somebody else, or one that went away meanwhile."""
        try:
            xml = domain.XMLDesc(0)
            if domain_xml.owner(xml) != self._machine.owner:
                return None
            state, reason = domain.state()
            power, info = self._power(domain), domain.info()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise
        devices = domain_xml.read_devices(xml)
        vnc: Console | None = None
        if power in (Power.RUNNING, Power.PAUSED):
            if devices.vnc_socket:
                vnc = Console(path=self._host.outside(devices.vnc_socket))
            elif devices.vnc_address:
                vnc = Console(host=devices.vnc_address[0], port=devices.vnc_address[1])
        return Observed(
            power=power, vcpus=info[3], memory_mib=info[1] // 1024, reason=_REASONS.get((state, reason), ""),
            volumes=devices.volumes, ports=devices.ports, vnc=str(vnc) if vnc else None,
        )  # fmt: skip

    def _press_power(
        self, domain: Any, done: Callable[[], bool], timeout_s: float, press: Callable[[int], Any]
    ) -> None:
        """Press the power button, and again every ten seconds: a guest that still boots does not hear it."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                press(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            except libvirt.libvirtError:
                if domain.isActive():
                    raise
            if self._link.wait(done, min(10.0, left)):
                return

    def _soft_reboot(self, domain: Any, timeout_s: float) -> bool:
        rebooted = threading.Event()
        guest_id = domain.UUIDString()

        def hear(whom: str | None, event: GuestEvent) -> None:
            if whom == guest_id and event is GuestEvent.REBOOTED:
                rebooted.set()

        silence = self._link.listen(hear)
        try:
            self._press_power(
                domain, lambda: rebooted.is_set() or not domain.isActive(), timeout_s, domain.reboot
            )
            return rebooted.is_set()
        finally:
            silence()

    @staticmethod
    def _run(domain: Any) -> None:
        try:
            domain.create()
        except libvirt.libvirtError:
            if domain.isActive() or not dead_daemon.end_strays(domain.UUIDString()):
                raise
            domain.create()

    @staticmethod
    def _force_off(domain: Any) -> None:
        try:
            domain.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_DEFAULT)
        except libvirt.libvirtError:
            if domain.isActive():
                raise

    @staticmethod
    def _devices(domain: Any) -> tuple[domain_xml.Devices | None, domain_xml.Devices]:
        """Those of the running guest (None when off) and those of its next start."""
        now = domain_xml.read_devices(domain.XMLDesc(0)) if domain.isActive() else None
        return now, domain_xml.read_devices(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def _plug(
        self,
        domain: Any,
        device: Element,
        now: domain_xml.Devices | None,
        *,
        live: bool,
        config: bool,
        what: str,
    ) -> None:
        if live and now is not None and now.free_ports == 0:
            raise DeviceBusy(
                f"guest {domain.UUIDString()} has no free hot-plug port for {what}; restart it to get more"
            )
        if not live and not config:
            return
        flags, xml = (_LIVE if live else 0) | (_CONFIG if config else 0), tostring(device, encoding="unicode")
        try:
            domain.attachDeviceFlags(xml, flags)
        except libvirt.libvirtError:
            alias = domain_xml.alias_of(device)
            if not live or not self._drop_leftover(domain, alias):
                raise
            domain.attachDeviceFlags(xml, flags)
            if not domain_xml.has_alias(domain.XMLDesc(0), alias):
                raise DeviceBusy(
                    f"guest {domain.UUIDString()} lost {what} again while it was attached"
                ) from None

    def _drop_leftover(self, domain: Any, alias: str) -> bool:
        return leftovers.drop(domain, alias, wait=self._link.wait, timeout_s=self._release_timeout_s)

    def _unplug(self, guest_id: str, alias: str, what: str) -> None:
        """Live first: a guest that keeps its device keeps it at the next start too."""
        with self._link.speaking(guest_id):
            domain = self._find(guest_id)
            if domain is None:
                return
            self._expect(domain, guest_id, Power.RUNNING, Power.PAUSED, Power.SHUTOFF)
            if domain.isActive():
                self._drop_leftover(domain, alias)
                self._release(domain, alias, what)
            if domain_xml.has_alias(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), alias):
                domain.detachDeviceAlias(alias, _CONFIG)

    def _release(self, domain: Any, alias: str, what: str) -> None:
        def gone() -> bool:
            return not domain.isActive() or not domain_xml.has_alias(domain.XMLDesc(0), alias)

        deadline = time.monotonic() + self._release_timeout_s
        words = "no answer from the guest"
        while not gone():
            if (left := deadline - time.monotonic()) <= 0:
                raise DeviceBusy(
                    f"guest {domain.UUIDString()} does not release {what} within {self._release_timeout_s:g} s"
                    f" ({words}); is its system running, and is the device in use?"
                )
            try:
                domain.detachDeviceAlias(alias, _LIVE)
            except libvirt.libvirtError as error:
                words = str(error.get_error_message())  # an unplug under way, or the device just gone
            self._link.wait(gone, min(5.0, left))

    @staticmethod
    def _grow_live(domain: Any, target: str, size_gib: int) -> None:
        if domain.blockInfo(target)[0] < size_gib * GIB:
            domain.blockResize(target, size_gib * GIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def _mirror(self, domain: Any, target: str, scratch: Path) -> bool:
        """Copy a disk in use until both are alike, then let go: the copy is the disk as it was at that moment.

        False when the guest went off meanwhile. A mirror and not libvirt's backup job, because that one is lost for
        good, with the guest locked, when the daemon dies at its beginning (libvirt 9.0).
        """
        leftovers.drop_copies(domain)
        scratch.unlink(missing_ok=True)
        domain.blockCopy(target, domain_xml.mirror(scratch), {}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)

        def settled() -> bool:
            return not domain.blockJobInfo(target, 0) or domain_xml.is_mirrored(domain.XMLDesc(0), target)

        try:
            if not self._link.wait(settled, 3600):
                raise OperationTimeout(
                    f"guest {domain.UUIDString()}: its root disk was not copied within an hour"
                )
            if domain_xml.is_mirrored(domain.XMLDesc(0), target):
                self._end_copy(domain, target)
                return True
        except libvirt.libvirtError:
            if domain.isActive():
                raise
        if domain.isActive():
            raise HypervisorError(f"guest {domain.UUIDString()}: the copy of its root disk was broken off")
        return False

    def _end_copy(self, domain: Any, target: str) -> None:
        """End a copy, also one that an earlier, interrupted call left running."""
        try:
            domain.blockJobAbort(target, 0)
        except libvirt.libvirtError as error:
            # An invalid argument is its word for: there is no such job.
            if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG and domain.isActive():
                raise
