"""What only a real guest can show: devices seen from inside, bytes that stay, daemons that die."""

from __future__ import annotations

import os
import pwd
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from altostack.compute.drivers.base import (
    DeviceBusy,
    DeviceNotFound,
    DriverError,
    GuestEvent,
    GuestSpec,
    ImageMissing,
    ImageRoot,
    InvalidSpec,
    Power,
    Unsupported,
)
from altostack.compute.drivers.guest_files import CONSOLE_KEEP, CONSOLE_MAX
from altostack.compute.drivers.libvirt import LibvirtDriver
from altostack.compute.drivers.libvirtd import SystemLibvirt
from tests.compute.drivers.bench import LibvirtBench

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]  # emulated boots, on a machine shared with others


def until(done: Callable[[], bool], *, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_daemon(bench: LibvirtBench) -> None:
    """As by kill -9, and gone when this returns: what follows rewrites what it left."""
    os.kill(bench.host.pid(), signal.SIGKILL)
    until(lambda: bench.host.pid() is None)


def test_devices_are_seen_inside(libvirt: LibvirtBench) -> None:
    """Hot-plug, growth and unplug of disks and cards, the disks made for the guest, and a snapshot that boots."""
    driver = libvirt.driver
    spec = libvirt.started(ephemerals_gib=(1,), swap_mib=32, nics=(libvirt.nic(),))
    libvirt.booted(spec)
    shell = libvirt.shell(spec)
    assert shell.run("cat /sys/block/vdb/serial; echo; cat /sys/block/vdc/serial").split() == [
        "ephemeral0",
        "swap",
    ]
    assert shell.run("findfs LABEL=ephemeral0") == "/dev/vdb"

    volume, nic = libvirt.volume(), libvirt.nic()
    assert driver.attach_volume(spec.id, volume) == "/dev/vdd"
    until(lambda: shell.run("cat /sys/block/vdd/serial") == volume.volume_id[:20])
    assert shell.run("cat /sys/block/vdd/size") == str(2 * 1024**2)
    driver.extend_volume(spec.id, volume.volume_id, 3)
    until(lambda: shell.run("cat /sys/block/vdd/size") == str(6 * 1024**2))
    shell.run("echo kept-on-volume | dd of=/dev/vdd conv=sync,fsync 2>/dev/null")
    driver.attach_nic(spec.id, nic)
    until(lambda: nic.mac in shell.run("cat /sys/class/net/eth1/address"))
    assert shell.run("cat /sys/class/net/eth1/mtu") == "1450"
    driver.detach_nic(spec.id, nic.port_id)
    driver.detach_volume(spec.id, volume.volume_id)
    until(lambda: shell.run("ls /sys/block /sys/class/net | grep -c -e vdd -e eth1") == "0")

    shell.run("echo kept-on-root > /root/kept; sync")
    image = libvirt.folder / "snapshot.qcow2"
    driver.snapshot(spec.id, image)
    shell.run("echo after-the-snapshot > /root/kept; sync")
    shell.close()
    driver.destroy(spec.id)

    copy = libvirt.started(root=ImageRoot(base=image, format="qcow2", size_gib=2), volumes=(volume,))
    libvirt.booted(copy)
    shell = libvirt.shell(copy)
    assert shell.run("cat /root/kept") == "kept-on-root"
    assert shell.run("head -n 1 /dev/vdb") == "kept-on-volume"
    shell.close()


def test_resize_keeps_and_reverts_bytes(libvirt: LibvirtBench) -> None:
    driver, spec = libvirt.driver, libvirt.started()
    libvirt.booted(spec)
    shell = libvirt.shell(spec)
    shell.run("echo before > /root/kept; sync")
    shell.close()
    driver.stop(spec.id)
    driver.keep_old_disk(spec.id)
    driver.grow_disk(spec.id, 2)
    driver.start(replace(spec, vcpus=2, memory_mib=192))
    libvirt.booted(spec, times=2)
    shell = libvirt.shell(spec)
    assert shell.run("cat /root/kept; grep -c ^processor /proc/cpuinfo").split() == ["before", "2"]
    assert int(shell.run("cat /sys/block/vda/size")) == 4 * 1024**2
    shell.run("echo after > /root/kept; sync")
    shell.close()
    driver.stop(spec.id, timeout_s=0)
    driver.revert_disk(spec.id)
    driver.start(spec)
    libvirt.booted(spec, times=3)
    shell = libvirt.shell(spec)
    assert shell.run("cat /root/kept; grep -c ^processor /proc/cpuinfo").split() == ["before", "1"]
    shell.close()


def test_guests_outlive_a_killed_daemon(libvirt: LibvirtBench) -> None:
    driver, spec = libvirt.driver, libvirt.started()
    libvirt.booted(spec)
    shell = libvirt.shell(spec)
    shell.run("echo in-memory > /run/kept")
    heard: list[tuple[str | None, GuestEvent]] = []
    stop = driver.events(lambda guest_id, event: heard.append((guest_id, event)))
    pid = libvirt.host.pid()
    os.kill(pid, signal.SIGKILL)
    assert shell.run("cat /run/kept") == "in-memory"
    until(lambda: (None, GuestEvent.RESYNC) in heard)
    assert driver.guest(spec.id).power is Power.RUNNING
    assert libvirt.host.pid() not in (None, pid)
    assert shell.run("cat /run/kept") == "in-memory"
    volume = libvirt.volume()
    assert driver.attach_volume(spec.id, volume) == "/dev/vdb"
    driver.detach_volume(spec.id, volume.volume_id)

    heard.clear()
    shell.run("poweroff")
    shell.close()
    until(lambda: (spec.id, GuestEvent.STOPPED) in heard)
    assert driver.guest(spec.id).power is Power.SHUTOFF
    stop()


def test_a_daemon_killed_at_any_moment(libvirt: LibvirtBench) -> None:
    """Each verb is broken off by a kill somewhere within it, then called again until it succeeds."""
    chance = random.Random(7)
    driver = libvirt.driver
    out = libvirt.folder / "killed.qcow2"

    def insist(verb: Callable[[], object]) -> None:
        """Call in a thread, kill the daemon meanwhile, then repeat as a flow would."""
        started = threading.Event()

        def once() -> None:
            started.set()
            try:
                verb()
            except DriverError:
                return

        thread = threading.Thread(target=once)
        thread.start()
        started.wait()
        time.sleep(chance.uniform(0, 0.5))
        if (pid := libvirt.host.pid()) is not None:
            os.kill(pid, signal.SIGKILL)
        thread.join()
        for attempt in range(20):
            try:
                verb()
                return
            except DriverError:
                assert attempt < 19
                time.sleep(0.5)

    def life() -> None:
        spec, volume = libvirt.spec(nics=(libvirt.nic(),)), libvirt.volume()

        def begin() -> None:
            driver.prepare_disk(spec)
            driver.start(spec)

        insist(begin)
        assert driver.guest(spec.id).power is Power.RUNNING
        driver.stop(spec.id, timeout_s=0)
        insist(lambda: driver.attach_volume(spec.id, volume))
        insist(lambda: driver.start(replace(spec, volumes=(volume,))))
        insist(lambda: driver.snapshot(spec.id, out))
        subprocess.run(["qemu-img", "check", "-q", out], check=True)
        insist(lambda: driver.suspend(spec.id))
        assert driver.guest(spec.id).power is Power.SUSPENDED
        insist(lambda: driver.resume(spec.id))
        seen = driver.guest(spec.id)
        assert seen.power is Power.RUNNING
        assert list(seen.volumes) == [volume.volume_id]
        insist(lambda: driver.destroy(spec.id))
        assert spec.id not in driver.guests()
        assert not libvirt.processes(spec.id)
        assert not [path for path in libvirt.folder.rglob("*") if spec.id in path.name]

    for _ in range(3):
        life()


def test_power_button_is_heard_and_noticed(libvirt: LibvirtBench) -> None:
    driver, spec = libvirt.driver, libvirt.started()
    libvirt.booted(spec)
    console = driver.vnc(spec.id)
    with console.connect() as screen:
        assert screen.recv(12) == b"RFB 003.008\n"
    assert driver.screenshot(spec.id).startswith((b"\x89PNG", b"P6"))
    driver.stop(spec.id, timeout_s=60)
    assert driver.guest(spec.id).reason == "powered off"
    assert not libvirt.processes(spec.id)


def test_a_guest_that_keeps_its_device(libvirt: LibvirtBench) -> None:
    """A guest without a system to answer: the error says so and the volume stays attached."""
    driver = libvirt.driver
    hasty = LibvirtDriver(root=libvirt.folder, host=libvirt.host, release_timeout_s=2)
    try:
        spec, volume = libvirt.started(), libvirt.volume()
        driver.attach_volume(spec.id, volume)
        driver.pause(spec.id)
        with pytest.raises(DeviceBusy, match="does not release"):
            hasty.detach_volume(spec.id, volume.volume_id)
        assert volume.volume_id in driver.guest(spec.id).volumes
    finally:
        hasty.close()


def test_no_port_is_open_and_no_stranger_counted(libvirt: LibvirtBench) -> None:
    spec = libvirt.started()
    listening = subprocess.run(
        ["ip", "netns", "exec", libvirt.netns, "ss", "-Hltn"], check=True, capture_output=True, text=True
    ).stdout
    assert listening == ""
    other = LibvirtDriver(root=libvirt.folder / "other", host=libvirt.host)
    try:
        assert spec.id not in other.guests()
        assert spec.id in libvirt.driver.guests()
    finally:
        other.close()


def test_the_hypervisor_is_not_root_and_shares_only_what_it_reads(libvirt: LibvirtBench) -> None:
    user = pwd.getpwnam("libvirt-qemu").pw_uid
    spec = libvirt.started()
    (pid,) = libvirt.processes(spec.id)
    assert Path(f"/proc/{pid}").stat().st_uid == user
    assert (libvirt.folder / "guests" / spec.id / "disk.qcow2").stat().st_uid == user
    assert libvirt.image.stat().st_uid == 0


def test_what_is_missing_is_named(libvirt: LibvirtBench) -> None:
    driver = libvirt.driver

    def prepared(**changes: object) -> GuestSpec:
        spec = libvirt.spec(**changes)
        driver.prepare_disk(spec)
        return spec

    gone = libvirt.folder / "gone.qcow2"
    with pytest.raises(ImageMissing, match=r"gone\.qcow2"):
        prepared(root=ImageRoot(base=gone, format="qcow2"))
    with pytest.raises(InvalidSpec, match="qcow2"):
        prepared(root=ImageRoot(base=libvirt.image, format="vmdk"))
    text = libvirt.folder / "text.qcow2"
    text.write_text("no disk")
    with pytest.raises(InvalidSpec, match="does not start as one"):
        prepared(root=ImageRoot(base=text, format="qcow2"))
    big = libvirt.folder / "big.raw"
    with big.open("wb") as file:
        file.truncate(2 * 1024**3)
    with pytest.raises(InvalidSpec, match="smaller than its image"):
        prepared(root=ImageRoot(base=big, format="raw", size_gib=1))
    spec = prepared()
    volume = libvirt.volume()
    Path(volume.connection["data"]["path"]).unlink()
    with pytest.raises(DeviceNotFound, match=volume.volume_id):
        driver.start(replace(spec, volumes=(volume,)))
    with pytest.raises(Unsupported, match="iscsi"):
        driver.start(replace(spec, volumes=(replace(volume, connection={"driver_volume_type": "iscsi"}),)))


def test_the_console_log_stays_small(libvirt: LibvirtBench) -> None:
    driver, spec = libvirt.driver, libvirt.started()
    libvirt.booted(spec)
    shell = libvirt.shell(spec)
    log = libvirt.folder / "guests" / spec.id / "console.log"
    with log.open("ab") as file:
        file.write(b"x" * CONSOLE_MAX)
    driver.guests()
    assert log.stat().st_size <= CONSOLE_KEEP + 4096
    shell.run("echo still-written")
    shell.close()
    assert "still-written" in driver.console_log(spec.id)
    assert b"\0" not in log.read_bytes()


def test_a_daemon_of_somebody_else(libvirt: LibvirtBench) -> None:
    """By its URI alone, as on a server with libvirt of its own; a root of its own keeps the guests apart."""
    theirs = LibvirtDriver(root=libvirt.folder / "theirs", host=SystemLibvirt(uri=libvirt.host.uri))
    spec = libvirt.spec()
    try:
        theirs.prepare_disk(spec)
        theirs.start(spec)
        theirs.start(spec)
        assert theirs.guest(spec.id).power is Power.RUNNING
        theirs.serial(spec.id).connect().close()
        assert spec.id not in libvirt.driver.guests()
    finally:
        theirs.destroy(spec.id)
        theirs.close()
    assert not list((libvirt.folder / "theirs/guests").iterdir())
    assert not libvirt.processes(spec.id)


def test_a_guest_half_started_by_a_dead_daemon(libvirt: LibvirtBench) -> None:
    """The state that a daemon leaves when killed between writing it and starting QEMU."""
    driver, spec, other = libvirt.driver, libvirt.started(), libvirt.started()
    kill_daemon(libvirt)
    state = libvirt.folder / "libvirt/run/qemu" / f"{spec.id}.xml"
    head = "<domstatus state='paused' reason='starting up' pid='0'>"
    state.write_text(re.sub("<domstatus [^>]*>", head, state.read_text()))
    driver.start(spec)
    assert driver.guest(spec.id).power is Power.RUNNING
    assert len(libvirt.processes(spec.id)) == 1
    assert driver.guest(other.id).power is Power.RUNNING


def test_a_card_half_unplugged_by_a_dead_daemon(libvirt: LibvirtBench) -> None:
    """QEMU has let go of card and netdev, the daemon died before it wrote that down; the guest must live on."""
    nic = libvirt.nic()
    driver, spec = libvirt.driver, libvirt.started(nics=(nic,))
    libvirt.booted(spec)
    state = libvirt.folder / "libvirt/run/qemu" / f"{spec.id}.xml"
    plugged = state.read_text()
    driver.detach_nic(spec.id, nic.port_id)
    kill_daemon(libvirt)
    state.write_text(plugged)
    assert driver.guest(spec.id).power is Power.RUNNING
    driver.detach_nic(spec.id, nic.port_id)
    assert not driver.guest(spec.id).ports
    driver.attach_nic(spec.id, nic)
    assert driver.guest(spec.id).ports == {nic.port_id}


def test_a_volume_half_attached_by_a_dead_daemon(libvirt: LibvirtBench) -> None:
    """QEMU has the disk, the daemon died before it wrote that down; attaching and detaching must work again."""
    driver, spec, volume = libvirt.driver, libvirt.started(), libvirt.volume()
    libvirt.booted(spec)
    state = libvirt.folder / "libvirt/run/qemu" / f"{spec.id}.xml"
    config = libvirt.folder / "libvirt/etc/qemu" / f"{spec.id}.xml"
    before, defined = state.read_text(), config.read_text()
    for verb in (
        lambda: driver.attach_volume(spec.id, volume),
        lambda: driver.detach_volume(spec.id, volume.volume_id),
    ):
        driver.attach_volume(spec.id, volume)
        kill_daemon(libvirt)
        state.write_text(before)
        config.write_text(defined)
        assert not driver.guest(spec.id).volumes
        verb()
    assert not driver.guest(spec.id).volumes
    path = volume.connection["data"]["path"]
    subprocess.run(["qemu-img", "resize", "-q", path, "2G"], check=True)  # fails while a guest holds it


def test_the_daemon_is_started_once(libvirt: LibvirtBench) -> None:
    host = libvirt.host
    pid = host.pid()
    host.start()
    assert host.pid() == pid
    spec = libvirt.started()
    host.stop()
    assert host.pid() is None
    host.stop()
    (libvirt.folder / "libvirt/run/libvirtd.pid").write_text(str(os.getpid()))
    assert host.pid() is None
    assert libvirt.driver.guest(spec.id).power is Power.RUNNING
    assert host.pid() not in (None, pid, os.getpid())
