"""Image files made to attack, and honest ones, through the inspection that every upload passes."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from altostack.image.inspect import Found, Inspection, UnsafeImage

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
MIB = 1 << 20


def judge(content: bytes, declared: str, *, chunk: int = 65536) -> Found:
    """Stream the content through the inspection; what passed must be what came in."""

    def stream() -> Iterator[bytes]:
        for at in range(0, len(content), chunk):
            yield content[at : at + chunk]

    inspection = Inspection(declared)
    passed = b"".join(inspection.watch(stream()))
    assert passed == content
    return inspection.finish()


def made(path: Path, format: str, *options: str) -> bytes:
    subprocess.run(["qemu-img", "create", "-q", "-f", format, *options, str(path), "10M"], check=True)
    return path.read_bytes()


def patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def gpt() -> bytes:
    """A disk with a protective MBR and the header of a GUID partition table."""
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, 0xFFFFFFFF)
    mbr = bytes(446) + entry + bytes(48) + b"\x55\xaa"
    return (mbr + b"EFI PART" + bytes(504)).ljust(MIB, b"\0")


def iso() -> bytes:
    """The volume descriptors of an ISO 9660 file system (ECMA-119): they begin at 32 KiB."""
    primary = (b"\x01CD001\x01\0" + bytes(32) + b"DISC").ljust(80, b"\0") + struct.pack("<I", 512)
    primary = primary.ljust(128, b"\0") + struct.pack("<H", 2048)
    return (bytes(32768) + primary.ljust(2048, b"\0") + b"\xffCD001\x01".ljust(2048, b"\0")).ljust(MIB, b"\0")


@pytest.mark.parametrize("chunk", [511, 65536, 4 * MIB])
@pytest.mark.parametrize(
    ("declared", "format"), [("qcow2", "qcow2"), ("vdi", "vdi"), ("vhdx", "vhdx"), ("vmdk", "vmdk")]
)
def test_honest_images_pass(tmp_path: Path, declared: str, format: str, chunk: int) -> None:
    options = ("-o", "subformat=streamOptimized") if format == "vmdk" else ()
    content = made(tmp_path / "image", format, *options)
    if chunk == 511:
        content = content[: 4 * MIB]  # the headers are what matters; thousands of small steps are slow
    assert judge(content, declared, chunk=chunk) == Found(format=declared, virtual_size=10 * MIB)


@pytest.mark.parametrize(("declared", "content"), [("raw", bytes(MIB)), ("raw", gpt()), ("iso", iso())])
def test_honest_disks_without_a_header_pass(declared: str, content: bytes) -> None:
    assert judge(content, declared) == Found(format=declared, virtual_size=len(content))


Attack = Callable[[Path], bytes]

# Name -> declared format, what is sent, what the refusal must name.
ATTACKS: dict[str, tuple[str, Attack, str]] = {
    "a backing file": (
        "qcow2", lambda path: made(path, "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw"), "backing",
    ),
    "a backing file, sent as raw": (
        "raw", lambda path: made(path, "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw"), "raw.*qcow2",
    ),
    "a backing file over the network": (
        "qcow2", lambda path: made(path, "qcow2", "-u", "-b", "nbd://127.0.0.1:1/x", "-F", "raw"), "backing",
    ),
    "an external data file": (
        "qcow2", lambda path: made(path, "qcow2", "-o", f"data_file={path}.data"), "data",
    ),
    "an unknown feature": (
        "qcow2", lambda path: patched(made(path, "qcow2"), 72, struct.pack(">Q", 1 << 60)), "feature",
    ),
    "a disk of ten exabytes": (
        "qcow2", lambda path: patched(made(path, "qcow2"), 24, struct.pack(">Q", 10 << 60)), "virtual size",
    ),
    "a descriptor that names a host's file": (
        "vmdk",
        lambda path: (
            b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
            b'RW 8 FLAT "/etc/passwd" 0\n'
        ).ljust(MIB, b"\0"),
        "vmdk",
    ),
    "a sparse image whose descriptor names a host's file": (
        "vmdk",
        lambda path: made(path, "vmdk", "-o", "subformat=monolithicSparse").replace(
            b"SPARSE \"image\"", b"FLAT \"/etc/p\"", 1
        ),
        "unsafe",
    ),
    "a qcow2 sent as an iso": ("iso", lambda path: made(path, "qcow2"), "iso.*qcow2"),
    "a vdi sent as raw": ("raw", lambda path: made(path, "vdi"), "raw.*vdi"),
    "an iso sent as raw": ("raw", lambda path: iso(), "raw.*iso"),
    "an iso that is a qcow2 too": (
        "iso", lambda path: made(path, "qcow2")[:32768].ljust(32768, b"\0") + iso()[32768:], "iso.*qcow2",
    ),
    "a partition table sent as qcow2": ("qcow2", lambda path: gpt(), "qcow2"),
    "text sent as qcow2": ("qcow2", lambda path: b"<html>404 Not Found</html>\n" * 1000, "qcow2"),
    "a header cut off": ("qcow2", lambda path: made(path, "qcow2")[:100], "qcow2"),
    "nothing": ("qcow2", lambda path: b"", "empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("chunk", [700, 65536, 4 * MIB])
def test_attacks_are_refused_and_named(tmp_path: Path, name: str, chunk: int) -> None:
    declared, attack, said = ATTACKS[name]
    content = attack(tmp_path / "image")[: 4 * MIB]
    with pytest.raises(UnsafeImage, match=said):
        judge(content, declared, chunk=chunk)


def test_a_format_that_nobody_can_check_is_refused() -> None:
    with pytest.raises(UnsafeImage, match="docker"):
        Inspection("docker")


def test_an_upload_of_the_wrong_format_is_stopped_early() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 65536
            assert taken < 64 * MIB, "it would have read for ever"
            yield b"x" * 65536

    with pytest.raises(UnsafeImage, match="qcow2"):
        for _ in Inspection("qcow2").watch(endless()):
            pass
    assert taken <= MIB
