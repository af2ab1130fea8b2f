"""Local volumes: their bytes."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from altostack.volume.drivers.base import (
    BackendFull,
    DriverError,
    FromImage,
    FromSnapshot,
    FromVolume,
    SourceUnusable,
    VolumeBusy,
)
from altostack.volume.drivers.local import GIB, LocalDriver

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
MIB = 1 << 20


@pytest.fixture
def driver(tmp_path: Path) -> LocalDriver:
    return LocalDriver(tmp_path / "state")


def path_of(driver: LocalDriver, volume_id: str) -> Path:
    return Path(driver.connection(volume_id)["data"]["path"])


def write(driver: LocalDriver, volume_id: str, at: int, content: bytes) -> None:
    with path_of(driver, volume_id).open("r+b") as file:
        file.seek(at)
        file.write(content)


def read(driver: LocalDriver, volume_id: str, at: int, length: int) -> bytes:
    with path_of(driver, volume_id).open("rb") as file:
        file.seek(at)
        return file.read(length)


def qcow2(path: Path, size: str = "64M", *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True)
    return path


def test_a_new_volume_is_zeros_and_takes_no_space(driver: LocalDriver) -> None:
    driver.ensure("old", gib=1)
    write(driver, "old", 0, b"secret" * 100_000)
    driver.remove("old")
    driver.ensure("new", gib=1)
    status = path_of(driver, "new").stat()
    assert (status.st_size, status.st_blocks, status.st_mode & 0o777) == (GIB, 0, 0o600)
    assert read(driver, "new", 0, MIB) == bytes(MIB)


def test_what_is_grown_reads_as_zeros_and_keeps_its_content(driver: LocalDriver) -> None:
    driver.ensure("v1", gib=1)
    write(driver, "v1", GIB - 4, b"last")
    driver.extend("v1", gib=2)
    assert read(driver, "v1", GIB - 4, 8) == b"last\0\0\0\0"
    assert path_of(driver, "v1").stat().st_size == 2 * GIB


def test_copies_are_independent(driver: LocalDriver) -> None:
    driver.ensure("v1", gib=1)
    write(driver, "v1", 5 * MIB, b"first")
    driver.snapshot("s1", volume_id="v1")
    write(driver, "v1", 5 * MIB, b"later")
    driver.snapshot("s1", volume_id="v1")  # called again: stays as it was
    driver.ensure("v2", gib=2, source=FromSnapshot(snapshot_id="s1"))
    driver.ensure("v3", gib=1, source=FromVolume(volume_id="v1"))
    driver.remove_snapshot("s1")
    driver.remove("v1")
    assert read(driver, "v2", 5 * MIB, 5) == b"first"
    assert read(driver, "v3", 5 * MIB, 5) == b"later"
    assert path_of(driver, "v2").stat().st_size == 2 * GIB
    assert path_of(driver, "v2").stat().st_blocks * 512 < 10 * MIB, "a copy stays sparse"


def test_a_volume_from_a_qcow2_image_and_back(driver: LocalDriver, tmp_path: Path) -> None:
    image = qcow2(tmp_path / "image")
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 0x41 1M 64k", str(image)], check=True, capture_output=True
    )
    driver.ensure("v1", gib=1, source=FromImage(path=image, format="qcow2"))
    assert read(driver, "v1", MIB, 65536) == b"A" * 65536
    assert read(driver, "v1", 2 * MIB, 4096) == bytes(4096)
    out = tmp_path / "out.qcow2"
    for _ in range(2):
        driver.copy_to_image("v1", out, format="qcow2")
    raw = path_of(driver, "v1")
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", str(raw), str(out)], check=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["image", "out.qcow2", "state"]


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_backing_file_is_refused(driver: LocalDriver, tmp_path: Path, format: str) -> None:
    image = qcow2(tmp_path / "image", "1M", "-u", "-b", "/etc/passwd", "-F", "raw")
    with pytest.raises(SourceUnusable, match=r"backing|said to be raw, but it is qcow2"):
        driver.ensure("v1", gib=1, source=FromImage(path=image, format=format))
    assert not driver.list().volumes


def test_a_data_file_is_refused(driver: LocalDriver, tmp_path: Path) -> None:
    image = qcow2(tmp_path / "image", "1M", "-o", f"data_file={tmp_path / 'data'}")
    with pytest.raises(SourceUnusable, match="data"):
        driver.ensure("v1", gib=1, source=FromImage(path=image, format="qcow2"))


def test_a_vmdk_that_names_a_host_file_is_refused(driver: LocalDriver, tmp_path: Path) -> None:
    descriptor = (
        '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        'RW 8 FLAT "/etc/passwd" 0\n'
    )
    (tmp_path / "image").write_text(descriptor.ljust(65536, "\0"))
    with pytest.raises(SourceUnusable):
        driver.ensure("v1", gib=1, source=FromImage(path=tmp_path / "image", format="vmdk"))


def test_an_image_of_ten_exabytes_is_refused(driver: LocalDriver, tmp_path: Path) -> None:
    image = qcow2(tmp_path / "image", "1M")
    with image.open("r+b") as file:
        file.seek(24)
        file.write(struct.pack(">Q", 10 << 60))
    with pytest.raises(SourceUnusable, match="the volume has 1 GiB"):
        driver.ensure("v1", gib=1, source=FromImage(path=image, format="qcow2"))


def test_a_raw_volume_is_raw_whatever_a_guest_writes_into_it(driver: LocalDriver, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"host secret".ljust(MIB, b"\0"))
    evil = qcow2(tmp_path / "evil", "1M", "-u", "-b", str(secret), "-F", "raw").read_bytes()
    driver.ensure("v1", gib=1)
    write(driver, "v1", 0, evil)
    driver.snapshot("s1", volume_id="v1")
    driver.ensure("v2", gib=1, source=FromSnapshot(snapshot_id="s1"))
    assert read(driver, "v2", 0, len(evil)) == evil
    assert driver.connection("v2")["data"]["format"] == "raw"
    driver.copy_to_image("v1", tmp_path / "out", format="raw")
    content = (tmp_path / "out").open("rb").read(2 * MIB)
    assert content.startswith(evil)
    assert b"host secret" not in content


@pytest.mark.parametrize("gib", [(1 << 33) - 1, 1 << 33])
def test_a_volume_too_large_for_any_file_system(driver: LocalDriver, gib: int) -> None:
    with pytest.raises(BackendFull):
        driver.ensure("v1", gib=gib)
    assert not driver.list().volumes
    driver.ensure("v2", gib=1)
    with pytest.raises(BackendFull):
        driver.extend("v2", gib=gib)
    assert path_of(driver, "v2").stat().st_size == GIB


def test_a_format_that_cannot_be_written(driver: LocalDriver, tmp_path: Path) -> None:
    driver.ensure("v1", gib=1)
    with pytest.raises(DriverError, match="iso"):
        driver.copy_to_image("v1", tmp_path / "out", format="iso")


def test_a_volume_that_a_guest_writes_to_is_busy(driver: LocalDriver, tmp_path: Path) -> None:
    driver.ensure("v1", gib=1)
    socket = tmp_path / "nbd"
    holder = subprocess.Popen(
        [
            *("qemu-storage-daemon", "--blockdev", f"file,node-name=v,filename={path_of(driver, 'v1')}"),
            *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
            *("--export", "nbd,id=e,node-name=v,writable=on"),
        ]
    )
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert time.monotonic() < deadline
            assert holder.poll() is None
            time.sleep(0.02)
        time.sleep(0.1)  # the export, which takes the lock, comes after the socket
        try:
            driver.snapshot("s1", volume_id="v1")
            clones = True
        except VolumeBusy as trouble:
            assert "detach it first" in str(trouble)
            clones = False
        assert driver.list().snapshots == ({"s1"} if clones else set())
        driver.extend("v1", gib=2)
        assert path_of(driver, "v1").stat().st_size == 2 * GIB
    finally:
        holder.kill()
        holder.wait()
    driver.snapshot("s2", volume_id="v1")


KILLED = """
import sys, pathlib
from altostack.volume.drivers.base import FromVolume
from altostack.volume.drivers.local import LocalDriver
driver = LocalDriver(pathlib.Path(sys.argv[1]))
print("go", flush=True)
driver.ensure("copy", gib=1, source=FromVolume(volume_id="v1"))
driver.snapshot("s1", volume_id="v1")
driver.copy_to_image("v1", pathlib.Path(sys.argv[1]) / "out", format="qcow2")
driver.remove("copy")
"""


@pytest.mark.timeout(180)
def test_killed_at_any_moment_and_called_again(driver: LocalDriver, tmp_path: Path) -> None:
    driver.ensure("v1", gib=1)
    content = os.urandom(1 << 20) * 48
    write(driver, "v1", MIB, content)
    folder = tmp_path / "state"
    partly = 0
    for kill in range(12):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        # Half of the kills at any moment, half while something is half-made.
        deadline = time.monotonic() + 5
        while kill % 2 and not list(folder.glob("**/.*.new/*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01 * (kill // 2))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        partly += bool(list(folder.glob("**/.*.new")))
        for volume in driver.list().volumes - {"v1"}:
            assert read(driver, volume, MIB, len(content)) == content
        assert (folder / "volumes/v1.raw").exists()
        driver.remove("copy")
        driver.remove_snapshot("s1")
    assert partly, "no kill came in the middle: the test proves nothing"
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=True, stdout=subprocess.DEVNULL)
    assert driver.list().volumes == {"v1"}
    assert driver.list().snapshots == {"s1"}
    assert not list(folder.glob("**/.*.new")), "nothing half-made is left"
