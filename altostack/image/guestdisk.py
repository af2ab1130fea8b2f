"""Trees of files, and the disk they become: a cpio archive, a FAT and an ext4 filesystem, a partition table.

Nothing here needs root, a loop device or a mount, and the same tree gives the same bytes. Sources: the manual pages of
debugfs(8), mke2fs(8), mkfs.fat(8), mtools(1), syslinux(1), and the kernel's documentation of the initramfs buffer
format.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
EPOCH = 1704067200  # 2024-01-01: every date in the image, so that the same packages give the same bytes
MIB = 1 << 20
SECTOR = 512
VOLUME_ID = "616c746f"
FILESYSTEM_ID = "a1705a2c-0000-4000-8000-00000000a170"
ROOT_MIB = 64


class BuildError(Exception):
    """The image cannot be built; the message says what is missing or which command failed with what."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One entry of a filesystem to be written: ``mode`` with its type bits, ``content`` a file's bytes or a link's
    target."""

    mode: int
    content: bytes = b""


Tree = dict[str, Node]


def file(content: str | bytes, mode: int = 0o644) -> Node:
    """A file of these bytes."""
    return Node(mode=stat.S_IFREG | mode, content=content.encode() if isinstance(content, str) else content)


def folder(mode: int = 0o755) -> Node:
    """A folder, empty but for the nodes under its path."""
    return Node(mode=stat.S_IFDIR | mode)


def link(target: str) -> Node:
    """A symbolic link."""
    return Node(mode=stat.S_IFLNK | 0o777, content=target.encode())


def with_folders(tree: Tree) -> Tree:
    """The tree with every parent folder, sorted so that each stands before what is in it."""
    parents = {str(parent): folder() for path in tree for parent in Path(path).parents if str(parent) != "/"}
    return dict(sorted((parents | tree).items()))


def cpio(tree: Tree) -> bytes:
    """The tree as a cpio archive in the "newc" format the kernel unpacks; everything belongs to root."""
    archive = bytearray()

    def add(name: str, mode: int, content: bytes, links: int, inode: int) -> None:
        fields = (inode, mode, 0, 0, links, EPOCH if links else 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive.extend(
            b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name.encode() + b"\0"
        )
        archive.extend(bytes(-len(archive) % 4) + content)
        archive.extend(bytes(-len(archive) % 4))

    for inode, (path, node) in enumerate(tree.items(), start=1):
        add(path.lstrip("/"), node.mode, node.content, 2 if stat.S_ISDIR(node.mode) else 1, inode)
    add("TRAILER!!!", 0, b"", 0, 0)
    return bytes(archive)


def root_partition(work: Path, tree: Tree) -> Path:
    """An ext4 filesystem holding the tree, written by debugfs so that no user's id gets into it."""
    part = work / "root.ext4"
    run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-L", "altostack", "-U", FILESYSTEM_ID),
        *("-b", "4096", "-i", "16384"),  # small files, yet fit to grow to a large disk
        *("-J", "size=4", "-E", f"lazy_itable_init=0,root_owner=0:0,hash_seed={FILESYSTEM_ID}"),
        *("root.ext4", f"{ROOT_MIB}M"),
        cwd=work,
    )
    commands = []
    for number, (path, node) in enumerate(tree.items()):
        if stat.S_ISDIR(node.mode):
            commands.append(f"mkdir {path}")
        elif stat.S_ISLNK(node.mode):
            commands.append(f"symlink {path} {node.content.decode()}")
            continue
        else:
            (work / f"content-{number}").write_bytes(node.content)
            commands.append(f"write content-{number} {path}")
        commands.append(f"set_inode_field {path} mode 0{node.mode:o}")
        commands += [f"set_inode_field {path} {owner} 0" for owner in ("uid", "gid")]
    (work / "debugfs.commands").write_text("\n".join(commands) + "\n")
    said = run("debugfs", "-w", "-f", "debugfs.commands", "root.ext4", cwd=work)
    # debugfs exits 0 whatever happens; all it should say is which commands it ran, and inode numbers.
    wrong = [line for line in said.splitlines() if not line.startswith(("debugfs: ", "Allocated inode: "))]
    if wrong:
        raise BuildError(f"debugfs: {'; '.join(wrong[:3])}")
    return part


def boot_partition(work: Path, files: Mapping[str, bytes]) -> Path:
    """A FAT filesystem with the boot loader and the given files (path -> bytes)."""
    part = work / "boot.fat"
    mib = sum(map(len, files.values())) // MIB + 3
    # A volume of at least 16 MiB is FAT16 whatever its content.
    _truncate(part, max(mib, 17) * MIB)
    run("mkfs.fat", "-F", "16", "-n", "ALTOSTACK", "-i", VOLUME_ID, "--invariant", part.name, cwd=work)
    for path, content in files.items():
        (work / "content").write_bytes(content)
        for parent in list(reversed(Path(path).parents))[1:]:
            run("mmd", "-D", "s", "-i", part.name, f"::/{parent}", cwd=work)
        run("mcopy", "-i", part.name, "content", f"::/{path}", cwd=work)
    run("syslinux", "--install", part.name, cwd=work)
    return part


def join(work: Path, first: Path, second: Path) -> Path:
    """The whole disk: partition table and boot code, then the two partitions, each aligned to 1 MiB."""
    disk = work / "disk.raw"
    starts = (MIB, MIB + first.stat().st_size)
    _truncate(disk, starts[1] + second.stat().st_size)
    table = bytearray(SECTOR)
    table[:440] = MBR.read_bytes()[:440].ljust(440, b"\0")
    table[440:444] = bytes.fromhex(VOLUME_ID)
    entries = zip((0x80, 0), (0x0C, 0x83), starts, (first, second), strict=True)
    for number, (active, kind, start, part) in enumerate(entries):
        # Addresses by cylinder are left at their "see the sector numbers" value.
        entry = struct.pack(
            "<B3sB3sII",
            active,
            b"\xfe\xff\xff",
            kind,
            b"\xfe\xff\xff",
            start // SECTOR,
            part.stat().st_size // SECTOR,
        )
        table[446 + 16 * number : 462 + 16 * number] = entry
    table[510:] = b"\x55\xaa"
    with disk.open("r+b") as file:
        file.write(table)
        for start, part in zip(starts, (first, second), strict=True):
            file.seek(start)
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, MIB)
    return disk


def _truncate(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def which(tool: str) -> str | None:
    """The path of an installed program, or None."""
    # A user's PATH may lack the folders of administration.
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")


def run(tool: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run a tool without a shell; its output, or BuildError with what it said."""
    path = which(tool)
    if path is None:
        raise BuildError(f"the program {tool} is not installed")
    environment = {
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin",
        "LC_ALL": "C",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(EPOCH),  # mtools
        "E2FSPROGS_FAKE_TIME": str(EPOCH),
        "MTOOLS_SKIP_CHECK": "1",
        "DEBUGFS_PAGER": "cat",
    }
    command: Sequence[str] = (path, *arguments)
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{tool} did not end in {error.timeout:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BuildError(
            f"{tool} {' '.join(arguments[:2])} failed ({done.returncode}): {'; '.join(said[-3:])}"
        )
    # Debugfs reports its errors on standard error and still exits 0.
    return done.stdout if tool != "debugfs" else done.stdout + _after_banner(done.stderr)


def _after_banner(said: str) -> str:
    """What debugfs wrote to standard error, without its first line, the version."""
    return said.partition("\n")[2]
