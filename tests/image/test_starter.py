"""The starter image: its parts by themselves, and the whole booted in QEMU."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from altostack.image import guestdisk, starter
from altostack.image.guestdisk import BuildError
from tests.image.machine import Machine, metadata_service

needs_tools = pytest.mark.skipif(
    bool(starter.missing()) or starter.find_kernel() is None or shutil.which("qemu-system-x86_64") is None,
    reason="needs qemu-system-x86, a cloud kernel and the packages of starter.PACKAGES",
)


def test_every_tool_names_a_package_that_is_listed() -> None:
    assert set(starter.TOOLS.values()) < set(starter.PACKAGES)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tools = {**starter.TOOLS, "altostack-no-such-tool": "no-such-package"}
    monkeypatch.setattr(starter, "TOOLS", tools)
    with pytest.raises(BuildError, match="no-such-package"):
        starter.build(tmp_path / "image.qcow2")
    assert list(tmp_path.iterdir()) == []


def test_failing_tool_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"qemu-img convert.* failed \(1\): .*nowhere"):
        guestdisk.run("qemu-img", "convert", "nowhere", "there", cwd=tmp_path)


def test_debugfs_error_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"debugfs: .*missing"):
        guestdisk.root_partition(tmp_path, {"/missing/file": guestdisk.file("x")})


def test_newest_kernel_is_taken(tmp_path: Path) -> None:
    for version in ("6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-60-cloud-amd64"):
        image = tmp_path / "boot" / f"vmlinuz-{version}"
        image.parent.mkdir(exist_ok=True)
        image.touch()
    for version in ("6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64"):  # the newest has lost its modules
        (tmp_path / "lib/modules" / version).mkdir(parents=True)
    kernel = starter.find_kernel(tmp_path)
    assert kernel is not None
    assert kernel.version == "6.1.0-56-cloud-amd64"
    assert starter.find_kernel(tmp_path / "boot") is None


def test_modules_come_before_what_they_need_and_unsigned(tmp_path: Path) -> None:
    signature = b"S" * 20 + b"\0" * 8 + struct.pack(">I", 20) + b"~Module signature appended~\n"
    for name, depends in {"top": "middle-one,base", "middle-one": "base", "base": ""}.items():
        (tmp_path / f"{name}.ko").write_bytes(f"ELF\0depends={depends}\0code".encode() + signature)
    kernel = starter.Kernel(version="1", image=tmp_path, modules=tmp_path)
    tree = starter.modules(kernel, ["top"])
    assert tree["/lib/modules/1/modules.dep"].content.decode().splitlines() == [
        "base.ko: ",
        "middle_one.ko: base.ko",
        "top.ko: middle_one.ko base.ko",
    ]
    assert tree["/lib/modules/1/base.ko"].content == b"ELF\0depends=\0code"
    with pytest.raises(BuildError, match="no module bottom"):
        starter.modules(kernel, ["bottom"])


def test_cpio_is_what_others_read(tmp_path: Path) -> None:
    tree = guestdisk.with_folders(
        {"/a/b/file": guestdisk.file("hello", 0o640), "/a/link": guestdisk.link("b/file")}
    )
    busybox = guestdisk.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox")
    listed = subprocess.run(
        [busybox, "cpio", "-tv"], input=guestdisk.cpio(tree), capture_output=True, check=True
    )
    lines = [line.split() for line in listed.stdout.decode().splitlines()]
    assert [(line[0], line[1], line[-1]) for line in lines] == [
        ("drwxr-xr-x", "0/0", "a"),
        ("drwxr-xr-x", "0/0", "a/b"),
        ("-rw-r-----", "0/0", "a/b/file"),
        ("lrwxrwxrwx", "0/0", "b/file"),
    ]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> starter.StarterImage:
    return starter.build(tmp_path_factory.mktemp("starter") / "image.qcow2")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A private key's file and the public key's line."""
    path = tmp_path_factory.mktemp("key") / "id"
    said = subprocess.run(
        ["dropbearkey", "-t", "ed25519", "-f", str(path)], check=True, capture_output=True, text=True
    ).stdout
    return path, next(line for line in said.splitlines() if line.startswith("ssh-ed25519"))


def disk_of(image: starter.StarterImage, path: Path) -> Path:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image.path), "-F", "qcow2", str(path), "1G"],
        check=True,
    )
    return path


def document(uuid: str, hostname: str, key: str) -> bytes:
    return json.dumps(
        {
            "uuid": uuid,
            "meta": {"hostname": "not-this", "note": "ssh-rsa AAAAnotthis"},
            "hostname": hostname,
            "public_keys": {"mine": f"{key}\n"},
        }
    ).encode()


@pytest.mark.real
@needs_tools
def test_same_packages_same_bytes(image: starter.StarterImage, tmp_path: Path) -> None:
    again = starter.build(tmp_path / "again.qcow2")
    assert again.sha512 == image.sha512
    assert [file.name for file in tmp_path.iterdir()] == ["again.qcow2"]


@pytest.mark.real
@needs_tools
def test_root_filesystem_is_sound_and_belongs_to_root(image: starter.StarterImage, tmp_path: Path) -> None:
    kernel = starter.find_kernel()
    assert kernel is not None
    part = guestdisk.root_partition(tmp_path, starter.system(kernel))
    subprocess.run(["/sbin/e2fsck", "-f", "-n", str(part)], check=True, capture_output=True)
    for path, mode in (
        ("/root/.ssh", "0700"),
        ("/etc/shadow", "0600"),
        ("/bin/busybox", "0755"),
        ("/tmp", "01777"),
    ):
        shown = guestdisk.run("debugfs", "-R", f"stat {path}", str(part))
        assert re.search(rf"Mode: +{mode} ", shown), shown
        assert re.search(r"User: +0 +Group: +0 ", shown), shown


@pytest.mark.real
@needs_tools
@pytest.mark.timeout(300)
def test_boots_and_does_what_the_cloud_says(
    image: starter.StarterImage, key: tuple[Path, str], tmp_path: Path
) -> None:
    private, public = key
    disk = disk_of(image, tmp_path / "disk.qcow2")
    documents = {
        "meta_data.json": document("uuid-1", "first.example", public),
        "user_data": b"#!/bin/sh\necho ran on $(hostname) >>/root/ran\n",
    }

    with metadata_service(documents) as port, Machine(tmp_path / "1", disk, metadata_port=port) as machine:
        steps = machine.wait_console("boot finished", 90)
        lines = re.findall(r"altostack: \[\d+\.\d+\] (.*?)\r?\n", steps)
        assert lines[0] == "user space"
        assert lines[-1] == "boot finished"
        assert {"hostname first.example", "SSH keys: 1", "user-data ended with status 0"} < set(lines)
        done = machine.ssh(
            private, "hostname; cat /root/ran; df -m / | tail -1; cat /root/.ssh/authorized_keys"
        )
        hostname, ran, space, authorized = done.stdout.splitlines()
        assert (hostname, ran) == ("first.example", "ran on first.example")
        assert int(space.split()[1]) > 900, "the root filesystem did not grow to the disk"
        assert authorized.split()[:2] == public.split()[:2]

        # A disk and a network card plugged in while it runs.
        (tmp_path / "data").write_bytes(b"payload of the volume\n" + bytes(1 << 20))
        machine.qmp(
            "blockdev-add",
            driver="raw",
            **{"node-name": "v1"},
            file={"driver": "file", "filename": str(tmp_path / "data")},
        )
        machine.qmp("device_add", driver="virtio-blk-pci", drive="v1", id="v1", bus="p1")
        machine.qmp("netdev_add", type="user", id="n1", net="10.77.0.0/24")
        machine.qmp("device_add", driver="virtio-net-pci", netdev="n1", id="n1", bus="p2", romfile="")
        machine.wait_console("eth1 has 10.77.0.15/24", 30)
        assert machine.ssh(private, "head -c 21 /dev/vdb").stdout == "payload of the volume"
        made = machine.ssh(private, "mkfs.ext4 -q -F /dev/vdb 512 && mount /dev/vdb /mnt && echo mounted")
        assert made.stdout == "mounted\n", made.stderr

        # The power button.
        machine.qmp("system_powerdown")
        machine.wait_end(30)

    # The same instance again: nothing is done twice, the host key stays.
    with metadata_service(documents) as port, Machine(tmp_path / "2", disk, metadata_port=port) as machine:
        assert "instance uuid-1, known" in machine.wait_console("boot finished", 90)
        ran, host_key = machine.ssh(
            private, "wc -l </root/ran; md5sum /etc/dropbear/*key"
        ).stdout.splitlines()
        assert ran.strip() == "1"

    # A copy of its disk as another instance, with a config drive and no metadata service.
    drive = tmp_path / "drive.fat"
    drive.write_bytes(bytes(4 << 20))
    (tmp_path / "meta_data.json").write_bytes(document("uuid-2", "second", public))
    (tmp_path / "user_data").write_bytes(b"#cloud-config\n{}\n")
    guestdisk.run("mkfs.fat", "-n", "CONFIG-2", str(drive))
    guestdisk.run("mmd", "-i", str(drive), "::/openstack", "::/openstack/latest")
    for name in ("meta_data.json", "user_data"):
        guestdisk.run("mcopy", "-i", str(drive), str(tmp_path / name), "::/openstack/latest/")
    options = (
        "-drive",
        f"file={drive},format=raw,if=none,id=c,readonly=on",
        "-device",
        "virtio-blk-pci,drive=c",
    )
    with Machine(tmp_path / "3", disk, *options) as machine:
        steps = machine.wait_console("boot finished", 90)
        assert "config drive on /dev/vdb" in steps
        assert "user-data is no script" in steps
        hostname, other_key = machine.ssh(private, "hostname; md5sum /etc/dropbear/*key").stdout.splitlines()
        assert hostname == "second"
        assert other_key != host_key, "a copied disk must not keep the first instance's host key"


@pytest.mark.real
@needs_tools
def test_ssh_does_not_wait_for_the_network(image: starter.StarterImage, tmp_path: Path) -> None:
    disk = disk_of(image, tmp_path / "disk.qcow2")
    with Machine(tmp_path / "1", disk) as machine:
        machine.qmp("set_link", name="n0", up=False)
        steps = machine.wait_console("ssh server started", 60)
        assert "eth0 has" not in steps
        # It comes late, and is taken all the same.
        machine.qmp("set_link", name="n0", up=True)
        machine.wait_console("eth0 has 169.254.169.15/24", 30)
