"""The XML a guest becomes, judged without a hypervisor."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest

from altostack.compute.drivers import domain_xml
from altostack.compute.drivers.base import (
    DeviceBusy,
    DeviceNotFound,
    GuestSpec,
    ImageRoot,
    InvalidSpec,
    Nic,
    VolumeDisk,
)
from altostack.compute.drivers.guest_files import GuestFiles

MACHINE = domain_xml.Machine(virt_type="qemu", owner="/node")


@pytest.fixture
def spec(tmp_path: Path) -> GuestSpec:
    return GuestSpec(
        id=str(uuid.uuid4()), name="one", vcpus=2, memory_mib=256,
        root=ImageRoot(base=tmp_path / "base.qcow2", format="qcow2", size_gib=1),
    )  # fmt: skip


@pytest.fixture
def volume(tmp_path: Path) -> VolumeDisk:
    path = tmp_path / "volume.raw"
    path.touch()
    connection = {"driver_volume_type": "local", "data": {"path": str(path), "format": "raw"}}
    return VolumeDisk(volume_id=str(uuid.uuid4()), connection=connection)


def build(spec: GuestSpec, *, machine: domain_xml.Machine = MACHINE) -> str:
    return domain_xml.build(spec, machine=machine, files=GuestFiles(Path("/g")), serial=Path("/s"))


def tree(spec: GuestSpec) -> Element:
    return fromstring(build(spec))


def test_hostile_names_stay_text(spec: GuestSpec) -> None:
    evil = "</title><devices/>\x00\x1b&\ud7ff\n'\""
    made = build(replace(spec, name=evil, metadata={evil: evil}))
    assert len(fromstring(made).findall("devices")) == 1
    assert "<devices/>" in (fromstring(made).findtext("title") or "")
    assert domain_xml.owner(made) == "/node"


def test_formats_are_never_guessed(spec: GuestSpec, volume: VolumeDisk) -> None:
    for disk in tree(replace(spec, volumes=(volume,), swap_mib=1)).iterfind("devices/disk"):
        driver = disk.find("driver")
        assert driver is not None
        assert driver.get("type") in ("qcow2", "raw")
    backing = tree(spec).find("devices/disk/backingStore")
    assert backing is not None
    assert backing.find("format") is not None
    assert backing.find("backingStore") is not None, "a base image has no base of its own"


def test_names_of_disks(spec: GuestSpec, volume: VolumeDisk) -> None:
    volumes = tuple(
        replace(volume, volume_id=str(uuid.uuid4()), device=device) for device in (None, "/dev/vdb", None)
    )
    found = domain_xml.read_devices(build(replace(spec, volumes=volumes, swap_mib=1)))
    assert [found.volumes[one.volume_id] for one in volumes] == ["/dev/vdd", "/dev/vdb", "/dev/vde"]
    assert found.targets == {"vda", "vdb", "vdc", "vdd", "vde"}
    with pytest.raises(DeviceBusy, match="vdb"):
        build(replace(spec, volumes=(volumes[1], replace(volumes[1], volume_id="x"))))
    for bad in ("sda", "vd", "vdA", "../vdb", "/dev/vd1"):
        with pytest.raises(InvalidSpec):
            build(replace(spec, volumes=(replace(volume, device=bad),)))


def test_boot_order(spec: GuestSpec, volume: VolumeDisk) -> None:
    first, second = replace(volume, boot_index=0), replace(volume, volume_id=str(uuid.uuid4()), boot_index=1)
    from_volume = tree(replace(spec, root=None, volumes=(second, first)))
    orders = {
        serial.text: boot.get("order")
        for disk in from_volume.iterfind("devices/disk")
        if (serial := disk.find("serial")) is not None and (boot := disk.find("boot")) is not None
    }
    assert orders == {first.volume_id[:20]: "1", second.volume_id[:20]: "2"}
    assert (
        domain_xml.read_devices(build(replace(spec, root=None, volumes=(second, first)))).volumes[
            first.volume_id
        ]
        == "/dev/vda"
    )


def test_a_card_on_a_tap_that_is_there(spec: GuestSpec) -> None:
    nic = Nic(port_id=str(uuid.uuid4()), mac="52:54:00:00:00:01", tap="tap1", mtu=1450)
    card = tree(replace(spec, nics=(nic,))).find("devices/interface")
    assert card is not None
    assert card.get("type") == "ethernet"
    assert {child.tag: dict(child.attrib) for child in card} == {
        "mac": {"address": nic.mac},
        "target": {"dev": "tap1", "managed": "no"},
        "model": {"type": "virtio"},
        "mtu": {"size": "1450"},
        "rom": {"enabled": "no"},
        "alias": {"name": f"ua-port-{nic.port_id}"},
    }


def test_kvm_shows_the_host_cpu(spec: GuestSpec) -> None:
    made = fromstring(build(spec, machine=replace(MACHINE, virt_type="kvm")))
    cpu = made.find("cpu")
    assert cpu is not None
    assert (made.get("type"), cpu.get("mode")) == ("kvm", "host-passthrough")
    assert made.find("features/tcg") is None


def test_a_connection_must_name_a_file(spec: GuestSpec, volume: VolumeDisk) -> None:
    for data in ({}, {"path": "/x"}, {"path": "/x", "format": "vmdk"}):
        broken = replace(volume, connection={"driver_volume_type": "local", "data": data})
        with pytest.raises(InvalidSpec, match=volume.volume_id):
            build(replace(spec, volumes=(broken,)))
    gone = replace(
        volume, connection={"driver_volume_type": "local", "data": {"path": "/nowhere", "format": "raw"}}
    )
    with pytest.raises(DeviceNotFound, match="/nowhere"):
        build(replace(spec, volumes=(gone,)))
