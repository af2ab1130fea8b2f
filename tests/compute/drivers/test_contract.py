"""What every compute driver does, each verb called twice where a second call must change nothing."""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from altostack.compute.drivers.base import (
    ComputeDriver,
    DeviceBusy,
    DeviceNotFound,
    GuestEvent,
    GuestNotFound,
    ImageMissing,
    InvalidSpec,
    Power,
    Unsupported,
    WrongState,
)
from tests.compute.drivers.bench import Bench

GIB = 1024**3


def disk_size(path: Path) -> int:
    """Virtual size of a qcow2 file, which must stand alone."""
    head = path.read_bytes()[:32]
    magic, _version, backing, _length, _bits, size = struct.unpack(">4sIQIIQ", head)
    assert magic == b"QFI\xfb"
    assert backing == 0
    return int(size)


def test_speaks_the_protocol(bench: Bench) -> None:
    assert isinstance(bench.driver, ComputeDriver)


def test_tells_its_capacity(bench: Bench) -> None:
    info = bench.driver.host_info()
    assert info.vcpus >= 1
    assert info.memory_mib > 500
    assert info.disk_gib >= info.disk_free_gib > 0
    assert info.hypervisor_version >= 1_000_000
    assert info.cpu["arch"] == "x86_64"
    assert set(info.cpu["topology"]) == {"sockets", "cores", "threads"}


def test_a_prepared_guest_is_seen_before_it_is_defined(bench: Bench) -> None:
    spec = bench.spec()
    bench.driver.prepare_disk(spec)
    bench.driver.prepare_disk(spec)
    seen = bench.driver.guests()[spec.id]
    assert (seen.power, seen.defined) == (Power.SHUTOFF, False)
    bench.driver.destroy(spec.id)
    assert spec.id not in bench.driver.guests()


def test_start_twice_is_one_guest(bench: Bench) -> None:
    nic, volume = bench.nic(), bench.volume()
    spec = bench.started(nics=(nic,), volumes=(volume,), name='<a & "b">', metadata={"project": "p<>"})
    bench.driver.start(spec)
    seen = bench.driver.guests()[spec.id]
    assert seen == bench.driver.guest(spec.id)
    assert (seen.power, seen.defined, seen.vcpus, seen.memory_mib) == (Power.RUNNING, True, 1, 128)
    assert seen.ports == {nic.port_id}
    assert dict(seen.volumes) == {volume.volume_id: "/dev/vdb"}


def test_start_needs_disks(bench: Bench) -> None:
    with pytest.raises(ImageMissing, match="prepared"):
        bench.driver.start(bench.spec())


def test_a_guest_needs_something_to_boot_from(bench: Bench) -> None:
    spec = bench.spec(root=None, volumes=(bench.volume(),))
    bench.driver.prepare_disk(spec)
    with pytest.raises(InvalidSpec, match="boot"):
        bench.driver.start(spec)


def test_boot_from_volume(bench: Bench) -> None:
    spec = bench.started(root=None, volumes=(bench.volume(), bench.volume(boot_index=0)))
    assert bench.driver.guest(spec.id).volumes[spec.volumes[1].volume_id] == "/dev/vda"
    with pytest.raises(Unsupported, match="volume"):
        bench.driver.snapshot(spec.id, bench.folder / "no.qcow2")
    bench.driver.stop(spec.id, timeout_s=0)
    bench.driver.keep_old_disk(spec.id)
    bench.driver.revert_disk(spec.id)
    with pytest.raises(ImageMissing):
        bench.driver.grow_disk(spec.id, 2)


def test_pause_and_unpause(bench: Bench) -> None:
    driver, spec = bench.driver, bench.started()
    for verb, power in ((driver.pause, Power.PAUSED), (driver.unpause, Power.RUNNING)):
        verb(spec.id)
        verb(spec.id)
        assert driver.guest(spec.id).power is power
    driver.pause(spec.id)
    driver.start(spec)
    assert driver.guest(spec.id).power is Power.RUNNING


def test_suspend_and_resume(bench: Bench) -> None:
    driver, spec = bench.driver, bench.started()
    driver.suspend(spec.id)
    driver.suspend(spec.id)
    assert driver.guest(spec.id).power is Power.SUSPENDED
    with pytest.raises(WrongState, match="suspended"):
        driver.pause(spec.id)
    with pytest.raises(WrongState, match="suspended"):
        driver.attach_volume(spec.id, bench.volume())
    driver.resume(spec.id)
    driver.resume(spec.id)
    assert driver.guest(spec.id).power is Power.RUNNING
    driver.pause(spec.id)
    driver.suspend(spec.id)
    driver.start(spec)
    assert driver.guest(spec.id).power is Power.RUNNING
    driver.suspend(spec.id)
    driver.stop(spec.id)
    assert driver.guest(spec.id).power is Power.SHUTOFF


def test_stop_by_force_and_start_again(bench: Bench) -> None:
    driver, spec = bench.driver, bench.started()
    driver.stop(spec.id, timeout_s=0)
    driver.stop(spec.id, timeout_s=0)
    assert driver.guest(spec.id).power is Power.SHUTOFF
    for verb in (driver.pause, driver.unpause, driver.suspend, driver.resume):
        with pytest.raises(WrongState, match="shutoff"):
            verb(spec.id)
    for console in (driver.vnc, driver.serial, driver.screenshot):
        with pytest.raises(WrongState, match="shutoff"):
            console(spec.id)
    driver.start(spec)
    assert driver.guest(spec.id).power is Power.RUNNING


def test_hard_reboot_takes_the_new_spec(bench: Bench) -> None:
    spec = bench.started()
    bench.driver.reboot(spec.id, hard=True, spec=replace(spec, vcpus=2))
    seen = bench.driver.guest(spec.id)
    assert (seen.power, seen.vcpus) == (Power.RUNNING, 2)
    bench.driver.stop(spec.id, timeout_s=0)
    bench.driver.reboot(spec.id, hard=True, spec=spec)
    assert bench.driver.guest(spec.id).vcpus == 1


def test_volumes_of_a_guest_that_is_off(bench: Bench) -> None:
    driver, spec, volume = bench.driver, bench.started(), bench.volume()
    driver.stop(spec.id, timeout_s=0)
    assert driver.attach_volume(spec.id, volume) == "/dev/vdb"
    assert driver.attach_volume(spec.id, volume) == "/dev/vdb"
    assert dict(driver.guest(spec.id).volumes) == {volume.volume_id: "/dev/vdb"}
    driver.extend_volume(spec.id, volume.volume_id, 2)
    driver.extend_volume(spec.id, volume.volume_id, 2)
    driver.start(replace(spec, volumes=(replace(volume, device="/dev/vdc"),)))
    assert dict(driver.guest(spec.id).volumes) == {volume.volume_id: "/dev/vdc"}
    driver.stop(spec.id, timeout_s=0)
    driver.detach_volume(spec.id, volume.volume_id)
    driver.detach_volume(spec.id, volume.volume_id)
    assert not driver.guest(spec.id).volumes


def test_plugging_into_a_running_guest(bench: Bench) -> None:
    driver, spec = bench.driver, bench.started()
    bench.booted(spec)
    first, second, nic = bench.volume(), bench.volume(device="/dev/vdx"), bench.nic()
    for _ in range(2):
        assert driver.attach_volume(spec.id, first) == "/dev/vdb"
        assert driver.attach_volume(spec.id, second) == "/dev/vdx"
        driver.attach_nic(spec.id, nic)
    with pytest.raises(DeviceBusy, match="vdx"):
        driver.attach_volume(spec.id, bench.volume(device="vdx"))
    driver.extend_volume(spec.id, first.volume_id, 2)
    seen = driver.guest(spec.id)
    assert dict(seen.volumes) == {first.volume_id: "/dev/vdb", second.volume_id: "/dev/vdx"}
    assert seen.ports == {nic.port_id}
    for _ in range(2):
        driver.detach_volume(spec.id, first.volume_id)
        driver.detach_nic(spec.id, nic.port_id)
    seen = driver.guest(spec.id)
    assert dict(seen.volumes) == {second.volume_id: "/dev/vdx"}
    assert not seen.ports
    with pytest.raises(DeviceNotFound):
        driver.extend_volume(spec.id, first.volume_id, 3)


def test_soft_reboot_and_graceful_stop(bench: Bench) -> None:
    driver, spec = bench.driver, bench.started()
    bench.booted(spec)
    driver.reboot(spec.id, hard=False, spec=spec)
    bench.booted(spec, times=2)
    driver.stop(spec.id)
    seen = driver.guest(spec.id)
    assert (seen.power, seen.reason) == (Power.SHUTOFF, "powered off")


def test_resize_and_back(bench: Bench) -> None:
    driver, spec, out = bench.driver, bench.started(), bench.folder / "resize.qcow2"
    with pytest.raises(WrongState, match="running"):
        driver.keep_old_disk(spec.id)
    driver.stop(spec.id, timeout_s=0)
    for _ in range(2):
        driver.keep_old_disk(spec.id)
        driver.grow_disk(spec.id, 3)
    driver.start(replace(spec, vcpus=2))
    driver.snapshot(spec.id, out)
    assert disk_size(out) == 3 * GIB
    with pytest.raises(WrongState, match="running"):
        driver.revert_disk(spec.id)
    driver.stop(spec.id, timeout_s=0)
    driver.revert_disk(spec.id)
    driver.revert_disk(spec.id)
    driver.snapshot(spec.id, out)
    assert disk_size(out) == 1 * GIB


def test_resize_and_stay(bench: Bench) -> None:
    driver, spec, out = bench.driver, bench.started(), bench.folder / "stay.qcow2"
    driver.stop(spec.id, timeout_s=0)
    driver.keep_old_disk(spec.id)
    driver.grow_disk(spec.id, 2)
    driver.start(spec)
    driver.confirm_disk(spec.id)
    driver.confirm_disk(spec.id)
    driver.grow_disk(spec.id, 4)
    driver.stop(spec.id, timeout_s=0)
    driver.revert_disk(spec.id)
    driver.snapshot(spec.id, out)
    assert disk_size(out) == 4 * GIB


def test_snapshot_in_every_state(bench: Bench) -> None:
    driver, spec = bench.driver, bench.started()

    def shoot(name: str) -> None:
        out = bench.folder / f"{name}.qcow2"
        for _ in range(2):
            driver.snapshot(spec.id, out)
            assert disk_size(out) == GIB
        assert not list(bench.folder.glob(".*.new"))

    shoot("running")
    driver.pause(spec.id)
    shoot("paused")
    assert driver.guest(spec.id).power is Power.PAUSED
    driver.suspend(spec.id)
    shoot("suspended")
    driver.stop(spec.id)
    shoot("off")


def test_the_console_is_kept(bench: Bench) -> None:
    spec = bench.started()
    bench.booted(spec)
    log = bench.driver.console_log(spec.id)
    assert bench.driver.console_log(spec.id, lines=3) == "".join(log.splitlines(keepends=True)[-3:])
    assert bench.driver.console_log(spec.id, lines=0) == ""
    assert len(bench.driver.console_log(spec.id, max_bytes=100)) <= 100
    bench.driver.stop(spec.id, timeout_s=0)
    assert bench.driver.console_log(spec.id).startswith(log[:100])


def test_diagnostics(bench: Bench) -> None:
    spec = bench.started()
    stats = bench.driver.diagnostics(spec.id)
    assert stats["state.state"] == 1
    assert stats["vcpu.current"] == 1
    assert stats["balloon.maximum"] == 128 * 1024


def test_destroy_leaves_nothing(bench: Bench) -> None:
    spec = bench.started(nics=(bench.nic(),), ephemerals_gib=(1,), swap_mib=32, volumes=(bench.volume(),))
    bench.driver.suspend(spec.id)
    bench.driver.destroy(spec.id)
    bench.driver.destroy(spec.id)
    assert spec.id not in bench.driver.guests()
    assert not [path for path in bench.folder.rglob("*") if spec.id in path.name]


def test_events_arrive(bench: Bench) -> None:
    heard: list[tuple[str | None, GuestEvent]] = []
    news = threading.Event()

    def hear(guest_id: str | None, event: GuestEvent) -> None:
        heard.append((guest_id, event))
        news.set()

    stop = bench.driver.events(hear)
    spec = bench.started()
    bench.driver.pause(spec.id)
    bench.driver.unpause(spec.id)
    bench.driver.stop(spec.id, timeout_s=0)
    wanted = {GuestEvent.STARTED, GuestEvent.PAUSED, GuestEvent.RESUMED, GuestEvent.STOPPED}
    deadline = time.monotonic() + 5
    while not wanted <= {event for guest_id, event in heard if guest_id == spec.id}:
        assert time.monotonic() < deadline, heard
        news.wait(0.1)
    stop()
    heard.clear()
    bench.driver.start(spec)
    time.sleep(0.2)
    assert not heard


def test_guests_outlive_the_driver(bench: Bench) -> None:
    spec, off = bench.started(volumes=(bench.volume(),)), bench.started()
    bench.driver.stop(off.id, timeout_s=0)
    before = bench.driver.guests()
    again = bench.reopened()
    try:
        assert again.guests() == before
        assert again.guest(spec.id).power is Power.RUNNING
        assert again.guest(off.id).power is Power.SHUTOFF
    finally:
        again.close()


def test_unknown_guests(bench: Bench) -> None:
    driver, nobody, spec = bench.driver, str(uuid.uuid4()), bench.spec()
    calls: list[Callable[[], object]] = [
        lambda: driver.guest(nobody), lambda: driver.stop(nobody), lambda: driver.pause(nobody),
        lambda: driver.unpause(nobody), lambda: driver.suspend(nobody), lambda: driver.resume(nobody),
        lambda: driver.reboot(nobody, hard=True, spec=spec), lambda: driver.attach_volume(nobody, bench.volume()),
        lambda: driver.attach_nic(nobody, bench.nic()), lambda: driver.snapshot(nobody, bench.folder / "no"),
        lambda: driver.console_log(nobody), lambda: driver.vnc(nobody), lambda: driver.diagnostics(nobody),
        lambda: driver.extend_volume(nobody, nobody, 1), lambda: driver.keep_old_disk(nobody),
        lambda: driver.revert_disk(nobody), lambda: driver.grow_disk(nobody, 1), lambda: driver.confirm_disk(nobody),
        lambda: driver.serial(nobody), lambda: driver.screenshot(nobody),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(GuestNotFound):
            call()
    driver.detach_volume(nobody, nobody)
    driver.detach_nic(nobody, nobody)
    driver.destroy(nobody)


@pytest.mark.parametrize("bad", ["", "..", "../../etc", "x" * 36])
def test_an_id_is_a_uuid(bench: Bench, bad: str) -> None:
    for call in (bench.driver.destroy, bench.driver.stop, bench.driver.console_log):
        with pytest.raises(InvalidSpec):
            call(bad)
    with pytest.raises(InvalidSpec):
        bench.driver.prepare_disk(bench.spec(id=bad))
