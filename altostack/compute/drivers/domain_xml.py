"""A guest as libvirt's domain XML, both ways (libvirt.org/formatdomain.html)."""

from __future__ import annotations

import stat
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from altostack.compute.drivers.base import DeviceBusy, GuestSpec, InvalidSpec, Nic, VolumeDisk
from altostack.compute.drivers.guest_files import GuestFiles, volume_file

NAMESPACE = "urn:altostack:guest:1"

# libvirt keeps aliases of ours when they start with "ua-": they find a device by our id, live and at rest.
_VOLUME, _PORT = "ua-volume-", "ua-port-"

# Without KVM: the x86-64-v2 instructions, which today's distributions ask for. "maximum" offers more and boots
# up to a quarter slower (AVX and XSAVE are slow to emulate).
_TCG_CPU = ("ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "lahf_lm")

# Slots on the root bus for what is never unplugged; volumes and cards get hot-plug ports from libvirt.
_FIRST_SLOT = 0x10


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What all guests of a node share. ``spare_ports``: how many devices can be plugged in while it runs;
    each costs some ten milliseconds of boot time without KVM. ``tb_cache_mib``: translation cache (TCG only)."""

    virt_type: str
    owner: str
    spare_ports: int = 8
    tb_cache_mib: int = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """What a domain's XML says of its devices. Volumes and ports by our ids; ``targets`` are the disk names."""

    volumes: Mapping[str, str]
    volume_paths: Mapping[str, str]
    ports: frozenset[str]
    targets: frozenset[str]
    vnc_socket: str | None
    vnc_address: tuple[str, int] | None
    serial_socket: str | None
    free_ports: int


def build(spec: GuestSpec, *, machine: Machine, files: GuestFiles, serial: Path) -> str:
    """The whole domain. Raises InvalidSpec, DeviceBusy (a device name given twice), DeviceNotFound, Unsupported."""
    kvm = machine.virt_type == "kvm"
    domain = Element("domain", type=machine.virt_type)
    _text(domain, "uuid", spec.id)
    _text(domain, "name", spec.id)
    _text(domain, "title", _printable(spec.name) or spec.id)
    _metadata(SubElement(domain, "metadata"), spec, machine.owner)
    _text(domain, "memory", str(spec.memory_mib), unit="MiB")
    _text(domain, "vcpu", str(spec.vcpus))
    _smbios(SubElement(domain, "sysinfo", type="smbios"), spec)
    system = SubElement(domain, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    SubElement(system, "smbios", mode="sysinfo")
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    SubElement(features, "vmport", state="off")
    if not kvm:
        _text(SubElement(features, "tcg"), "tb-cache", str(machine.tb_cache_mib), unit="MiB")
    _cpu(domain, kvm=kvm, vcpus=spec.vcpus)
    clock = SubElement(domain, "clock", offset="utc")
    SubElement(clock, "timer", name="pit", tickpolicy="delay")
    SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
    SubElement(clock, "timer", name="hpet", present="no")
    for event, then in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _text(domain, f"on_{event}", then)
    devices = SubElement(domain, "devices")
    _disks(devices, spec, files)
    for nic in spec.nics:
        devices.append(nic_element(nic))
    _ports(devices, machine.spare_ports + len(spec.volumes) + len(spec.nics))
    _platform(devices, files, serial)
    return tostring(domain, encoding="unicode")


def disk_element(disk: VolumeDisk, *, target: str, order: int | None = None) -> Element:
    """A volume as <disk>. Raises DeviceNotFound, InvalidSpec, Unsupported."""
    path, form = volume_file(disk)
    element = _disk(path, form, target=target, alias=_VOLUME + disk.volume_id, serial=disk.volume_id[:20])
    if disk.read_only:
        SubElement(element, "readonly")
    if order is not None:
        SubElement(element, "boot", order=str(order))
    return element


def nic_element(nic: Nic) -> Element:
    """A port as <interface>, on a tap device that is there already."""
    element = Element("interface", type="ethernet")
    SubElement(element, "mac", address=nic.mac)
    SubElement(element, "target", dev=nic.tap, managed="no")
    SubElement(element, "model", type="virtio")
    SubElement(element, "mtu", size=str(nic.mtu))
    SubElement(element, "rom", enabled="no")
    SubElement(element, "alias", name=_PORT + nic.port_id)
    return element


def volume_alias(volume_id: str) -> str:
    return _VOLUME + volume_id


def port_alias(port_id: str) -> str:
    return _PORT + port_id


def alias_of(device: Element) -> str:
    """The alias of a device made here."""
    return _attribute(device, "alias", "name") or ""


def pick_target(wanted: str | None, taken: frozenset[str] | set[str], volume_id: str) -> str:
    """The disk name for a volume: the wanted one, or the first free. Raises DeviceBusy, InvalidSpec."""
    if wanted is not None:
        name = wanted.removeprefix("/dev/")
        if not name.startswith("vd") or not name[2:].isalpha() or not name.islower():
            raise InvalidSpec(f"volume {volume_id}: {wanted!r} is no virtio disk name such as /dev/vdb")
        if name in taken:
            raise DeviceBusy(f"volume {volume_id}: /dev/{name} is taken by another disk of this guest")
        return name
    return next(name for name in _names() if name not in taken)


def read_devices(xml: str) -> Devices:
    """Read back what libvirt holds."""
    devices = fromstring(xml).find("devices")
    volumes: dict[str, str] = {}
    paths: dict[str, str] = {}
    targets: set[str] = set()
    vnc_socket = vnc_address = serial_socket = None
    ports: set[str] = set()
    bridges: set[str] = set()
    used: set[str] = set()
    for element in devices if devices is not None else ():
        alias = _attribute(element, "alias", "name") or ""
        address = element.find("address")
        if address is not None and address.get("type") == "pci":
            used.add(str(int(address.get("bus", "0"), 16)))
        if element.tag == "disk":
            target = _attribute(element, "target", "dev") or ""
            targets.add(target)
            if alias.startswith(_VOLUME):
                volume_id = alias.removeprefix(_VOLUME)
                volumes[volume_id] = f"/dev/{target}"
                paths[volume_id] = (
                    _attribute(element, "source", "file") or _attribute(element, "source", "dev") or ""
                )
        elif element.tag == "interface" and alias.startswith(_PORT):
            ports.add(alias.removeprefix(_PORT))
        elif element.tag == "controller" and element.get("model") == "pcie-root-port":
            bridges.add(element.get("index", ""))
        elif element.tag == "graphics" and element.get("type") == "vnc":
            listen = element.find("listen")
            vnc_socket = element.get("socket") or (listen.get("socket") if listen is not None else None)
            if vnc_socket is None and element.get("port", "-1") != "-1":
                vnc_address = (element.get("listen") or "127.0.0.1", int(element.get("port", "0")))
        elif element.tag == "serial":
            serial_socket = _attribute(element, "source", "path")
    return Devices(
        volumes=volumes, volume_paths=paths, ports=frozenset(ports), targets=frozenset(targets),
        vnc_socket=vnc_socket, vnc_address=vnc_address, serial_socket=serial_socket,
        free_ports=len(bridges - used),
    )  # fmt: skip


def has_alias(xml: str, alias: str) -> bool:
    """Whether a device of this alias is there."""
    return any(element.get("name") == alias for element in fromstring(xml).iterfind("devices/*/alias"))


def root_target(xml: str) -> str:
    """The disk name of the root disk made from an image. Raises InvalidSpec."""
    for disk in fromstring(xml).iterfind("devices/disk"):
        if _attribute(disk, "alias", "name") == "ua-root":
            return _attribute(disk, "target", "dev") or ""
    raise InvalidSpec("the guest has no root disk of its own")


def volume_format(xml: str, volume_id: str) -> str:
    """The file format of an attached volume. Raises InvalidSpec."""
    for disk in fromstring(xml).iterfind("devices/disk"):
        if _attribute(disk, "alias", "name") == _VOLUME + volume_id:
            return _attribute(disk, "driver", "type") or ""
    raise InvalidSpec(f"the guest has no volume {volume_id}")


def owner(xml: str) -> str | None:
    """The node root written into the domain's metadata, None for a domain that is not ours."""
    return fromstring(xml).findtext(f"metadata/{{{NAMESPACE}}}guest/{{{NAMESPACE}}}owner")


def mirror(scratch: Path) -> str:
    """The target of a copy of a disk in use: a new qcow2 file."""
    disk = Element("disk", type="file")
    SubElement(disk, "source", file=str(scratch))
    SubElement(disk, "driver", type="qcow2")
    return tostring(disk, encoding="unicode")


def is_mirrored(xml: str, target: str) -> bool:
    """Whether the copy of a disk has caught up with it."""
    for disk in fromstring(xml).iterfind("devices/disk"):
        if _attribute(disk, "target", "dev") == target:
            return _attribute(disk, "mirror", "ready") == "yes"
    return False


# ---------------------------------------------------------------------------------------------- parts


def _metadata(parent: Element, spec: GuestSpec, owner_name: str) -> None:
    guest = SubElement(parent, f"{{{NAMESPACE}}}guest")
    SubElement(guest, f"{{{NAMESPACE}}}owner").text = owner_name
    SubElement(guest, f"{{{NAMESPACE}}}name").text = _printable(spec.name)
    for key, value in sorted(spec.metadata.items()):
        SubElement(guest, f"{{{NAMESPACE}}}fact", name=_printable(key)).text = _printable(value)


def _smbios(sysinfo: Element, spec: GuestSpec) -> None:
    # cloud-init knows by the product name that a metadata service answers (cloud-init: ds-identify).
    system = SubElement(sysinfo, "system")
    entries = {
        "manufacturer": "Altostack",
        "product": "OpenStack Compute",
        "serial": spec.id,
        "uuid": spec.id,
    }
    for name, value in entries.items():
        _text(system, "entry", value, name=name)


def _cpu(domain: Element, *, kvm: bool, vcpus: int) -> None:
    if kvm:
        cpu = SubElement(domain, "cpu", mode="host-passthrough", check="none")
    else:
        cpu = SubElement(domain, "cpu", mode="custom", match="exact", check="none")
        _text(cpu, "model", "qemu64", fallback="allow")
    SubElement(cpu, "topology", sockets=str(vcpus), dies="1", cores="1", threads="1")
    if not kvm:
        for feature in _TCG_CPU:
            SubElement(cpu, "feature", policy="require", name=feature)


def _disks(devices: Element, spec: GuestSpec, files: GuestFiles) -> None:
    boot_volumes = [
        volume for volume in spec.volumes if volume.boot_index is not None and volume.boot_index >= 0
    ]
    if spec.root is None and not any(volume.boot_index == 0 for volume in boot_volumes):
        raise InvalidSpec(f"guest {spec.id} has neither a root disk nor a volume with boot index 0")
    slots = iter(range(_FIRST_SLOT, 0x1D))
    fixed: list[tuple[Path, str, str]] = [(files.root, "qcow2", "root")] if spec.root else []
    fixed += [(files.ephemeral(i), "raw", f"ephemeral{i}") for i in range(len(spec.ephemerals_gib))]
    fixed += [(files.swap, "raw", "swap")] if spec.swap_mib else []
    if len(fixed) > 9:
        raise InvalidSpec(f"guest {spec.id}: {len(fixed)} local disks, at most 9 fit")
    taken: set[str] = set()
    names: dict[str, str] = {}
    for volume in spec.volumes:
        if volume.device is not None:
            names[volume.volume_id] = pick_target(volume.device, taken, volume.volume_id)
            taken.add(names[volume.volume_id])
    if spec.root is None:
        boot = next(volume for volume in boot_volumes if volume.boot_index == 0)
        if boot.volume_id not in names:
            names[boot.volume_id] = pick_target(None, taken, boot.volume_id)
            taken.add(names[boot.volume_id])
    for path, form, label in fixed:
        target = pick_target(None, taken, label)
        taken.add(target)
        element = _disk(path, form, target=target, alias=f"ua-{label}", serial=label)
        if label == "root":
            base = spec.root
            assert base is not None
            SubElement(element, "boot", order="1")
            element.append(_backing(base.base, base.format))
        _slot(element, next(slots))
        devices.append(element)
    for volume in spec.volumes:
        name = names.get(volume.volume_id) or pick_target(None, taken, volume.volume_id)
        taken.add(name)
        order = None
        if volume in boot_volumes and volume.boot_index is not None:
            order = volume.boot_index + (2 if spec.root else 1)
        devices.append(disk_element(volume, target=name, order=order))


def _disk(path: Path, form: str, *, target: str, alias: str, serial: str) -> Element:
    disk = Element("disk", type="file", device="disk")
    SubElement(disk, "driver", name="qemu", type=form, discard="unmap")
    SubElement(disk, "source", file=str(path))
    SubElement(disk, "target", dev=target, bus="virtio")
    _text(disk, "serial", serial)
    SubElement(disk, "alias", name=alias)
    return disk


def _backing(path: Path, form: str) -> Element:
    """The base image, named outright so that nobody guesses a format from bytes that a tenant wrote.

    One that everybody may read keeps its owner: guests share it, and none should be able to write it.
    """
    backing = Element("backingStore", type="file")
    SubElement(backing, "format", type=form)
    source = SubElement(backing, "source", file=str(path))
    if path.exists() and path.stat().st_mode & stat.S_IROTH:
        SubElement(source, "seclabel", model="dac", relabel="no")
    SubElement(backing, "backingStore")
    return backing


def _ports(devices: Element, count: int) -> None:
    SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
    for index in range(1, count + 1):
        SubElement(devices, "controller", type="pci", index=str(index), model="pcie-root-port")
    SubElement(devices, "controller", type="usb", model="none")


def _platform(devices: Element, files: GuestFiles, socket: Path) -> None:
    serial = SubElement(devices, "serial", type="unix")
    SubElement(serial, "source", mode="bind", path=str(socket))
    SubElement(serial, "log", file=str(files.console), append="on")
    SubElement(serial, "target", type="isa-serial", port="0")
    controller = SubElement(devices, "controller", type="virtio-serial", index="0")
    _slot(controller, 0x1A)
    channel = SubElement(devices, "channel", type="unix")
    SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    graphics = SubElement(devices, "graphics", type="vnc")
    SubElement(graphics, "listen", type="socket")
    SubElement(SubElement(devices, "video"), "model", type="vga", vram="16384", heads="1")
    balloon = SubElement(devices, "memballoon", model="virtio")
    SubElement(balloon, "stats", period="10")
    _slot(balloon, 0x1B)
    rng = SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    _slot(rng, 0x1C)


def _slot(device: Element, slot: int) -> None:
    SubElement(
        device, "address", type="pci", domain="0x0000", bus="0x00", slot=f"0x{slot:02x}", function="0x0"
    )


def _text(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    element.text = text
    return element


def _attribute(element: Element, tag: str, name: str) -> str | None:
    found = element.find(tag)
    return None if found is None else found.get(name)


def _printable(text: str) -> str:
    """XML 1.0 has no control characters."""
    return "".join(character for character in text if character.isprintable())


def _names() -> Iterator[str]:
    letters = string.ascii_lowercase
    yield from (f"vd{letter}" for letter in letters)
    yield from (f"vd{first}{second}" for first in letters for second in letters)
