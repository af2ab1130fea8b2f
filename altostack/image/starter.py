"""The starter guest: a small bootable Linux disk image made from Debian's own packages.

The image holds a kernel (``linux-image-cloud-amd64``), busybox and dropbear, on a DOS partition table: partition 1
is FAT with the boot loader, the kernel and an initramfs, partition 2 is the ext4 root, last so that it can grow with
the disk. Its scripts are the files of ``guest/``. What it does when it boots: DHCP on every network card (also those
plugged in later), hostname, SSH keys and user-data from a config drive or from the metadata service, once for each
instance; SSH as ``root`` by key; a root shell on the serial and the graphical console; the power button powers off.
Each step is one line on the serial console, ``altostack: [seconds since the kernel started] step``; the first is
``user space``, the last ``boot finished``.

Nothing here needs root, a loop device or a mount, and the same packages give the same bytes. Sources: the manual pages
of debugfs(8), mke2fs(8), mkfs.fat(8), mtools(1), syslinux(1), the kernel's documentation of the initramfs buffer format
and of the command line (admin-guide/kernel-parameters), Arch specification of modules.dep(5).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

TOOLS: Mapping[str, str] = {
    "busybox": "busybox-static",
    "dropbear": "dropbear-bin",
    "dropbearkey": "dropbear-bin",
    "debugfs": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "mkfs.fat": "dosfstools",
    "mcopy": "mtools",
    "syslinux": "syslinux",
    "qemu-img": "qemu-utils",
    "resizepart": "util-linux",
}
"""Program -> the Debian package that brings it. The first lines go into the image, the others make it."""

PACKAGES: tuple[str, ...] = (*sorted(set(TOOLS.values())), "syslinux-common")
"""Every Debian package that must be installed before :func:`build`. The kernel's is not among them: it is taken from
/boot when it is installed, else downloaded and unpacked aside, because installing a kernel would change how the host
boots."""

KERNEL_PACKAGE = "linux-image-cloud-amd64"

MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
EFI_STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")

# What the root disk needs, loaded in the initramfs; and what the running system asks for.
ROOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ata_piix")
MODULES = (
    *("virtio_net", "virtio_rng", "virtio_balloon", "virtio_console", "button", "evdev", "sr_mod"),
    *("isofs", "vfat", "nls_cp437", "nls_iso8859-1", "nls_ascii"),
)

COMMAND_LINE = (
    # The last console is /dev/console, where our scripts write.
    "console=tty0 console=ttyS0,115200 loglevel=4 panic=10 net.ifnames=0 "
    # An emulated processor takes over a second for these: self-tests of ciphers, the signing key of modules (they come
    # unsigned), tracing probes, security modules without a policy, memory zeroed twice, and defences against
    # neighbours on a real processor (the host has its own).
    "cryptomgr.notests initcall_blacklist=init_kprobe_trace,load_system_certificate_list lsm= init_on_alloc=0 "
    "mitigations=off nokaslr no_timer_check tsc=reliable random.trust_cpu=on"
)

SYSLINUX_CONFIG = f"""\
SERIAL 0 115200
DEFAULT altostack
PROMPT 0
TIMEOUT 0
LABEL altostack
  LINUX /vmlinuz
  INITRD /initrd
  APPEND {COMMAND_LINE}
"""

ETC: Mapping[str, str] = {
    "altostack": "starter\n",  # by this file the initramfs knows the root filesystem
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "shells": "/bin/sh\n",
    "hostname": "starter\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin PS1='\\h:\\w\\$ '\n",
    "inittab": (
        "::sysinit:/lib/boot.sh\n"
        "::once:/lib/instance.sh\n"
        "ttyS0::askfirst:-/bin/sh\n"
        "tty1::askfirst:-/bin/sh\n"
        "::ctrlaltdel:/sbin/reboot\n"
        "::shutdown:/bin/umount -a -r\n"
    ),
}

EPOCH = 1704067200  # 2024-01-01: every date in the image, so that the same packages give the same bytes
MIB = 1 << 20
SECTOR = 512
VOLUME_ID = "616c746f"
FILESYSTEM_ID = "a1705a2c-0000-4000-8000-00000000a170"
ROOT_MIB = 64

Progress = Callable[[str], None]


class BuildError(Exception):
    """The image cannot be built; the message says what is missing or which command failed with what."""


@dataclass(frozen=True, kw_only=True)
class StarterImage:
    """What :func:`build` made. ``size`` is the file's in bytes, ``virtual_size`` the disk's in bytes."""

    path: Path
    size: int
    virtual_size: int
    sha512: str
    kernel: str
    disk_format: str = "qcow2"
    min_disk_gib: int = 1
    min_ram_mib: int = 96
    user: str = "root"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel's version, its bzImage and the folder with its modules."""

    version: str
    image: Path
    modules: Path


@dataclass(frozen=True, kw_only=True)
class Node:
    """One entry of a filesystem to be written: ``mode`` with its type bits, ``content`` a file's bytes or a link's
    target."""

    mode: int
    content: bytes = b""


Tree = dict[str, Node]


def missing() -> tuple[str, ...]:
    """Debian packages that :func:`build` needs and that this machine lacks, sorted."""
    lacking = {package for tool, package in TOOLS.items() if _which(tool) is None}
    if not MBR.exists():
        lacking.add("syslinux-common")
    return tuple(sorted(lacking))


def build(out: Path, *, progress: Progress = lambda line: None, uefi: bool = False) -> StarterImage:
    """Make the image at ``out`` (qcow2), replacing what stood there only once the new one is whole.

    ``progress`` is told each step in a few words. With ``uefi`` the disk boots from UEFI as well as from BIOS; it is
    then twice as large and needs the packages systemd-boot-efi and binutils. Raises BuildError.
    """
    if lacking := missing():
        raise BuildError(f"not installed: {', '.join(lacking)} (apt-get install --no-install-recommends ...)")
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".starter-", dir=out.parent) as folder:
        work = Path(folder)
        kernel = find_kernel() or fetch_kernel(work, progress)
        progress(f"kernel {kernel.version}")
        boot = {
            "vmlinuz": kernel.image.read_bytes(),
            "initrd": cpio(initramfs(kernel)),
            "syslinux.cfg": SYSLINUX_CONFIG.encode(),
        }
        progress(f"initramfs of {len(boot['initrd']) / MIB:.1f} MiB")
        if uefi:
            boot["EFI/BOOT/BOOTX64.EFI"] = unified_kernel(work, kernel, boot["initrd"])
        first = boot_partition(work, boot)
        second = root_partition(work, system(kernel))
        progress("partitions written")
        disk = join(work, first, second)
        made = work / "disk.qcow2"
        # Not compressed: 12 MiB less on disk cost every boot half a second under emulation.
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(made), cwd=work)
        with made.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha512").hexdigest()
        image = StarterImage(
            path=out,
            size=made.stat().st_size,
            virtual_size=disk.stat().st_size,
            sha512=digest,
            kernel=kernel.version,
        )
        made.replace(out)
    progress(f"{out.name}: {image.size / MIB:.1f} MiB")
    return image


# The kernel.


def find_kernel(root: Path = Path("/")) -> Kernel | None:
    """The newest cloud kernel installed under ``root`` whose files can be read, or None."""
    found = []
    for image in root.glob("boot/vmlinuz-*-cloud-amd64"):
        version = image.name.removeprefix("vmlinuz-")
        modules = root / "lib/modules" / version
        if modules.is_dir() and os.access(image, os.R_OK):
            found.append(Kernel(version=version, image=image, modules=modules))
    return max(
        found, key=lambda kernel: [int(part) for part in re.findall(r"\d+", kernel.version)], default=None
    )


def fetch_kernel(work: Path, progress: Progress) -> Kernel:
    """Download the kernel's package with apt and unpack it under ``work``. Raises BuildError."""
    depends = _run("apt-cache", "depends", KERNEL_PACKAGE, cwd=work)
    match = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends)
    if match is None:
        raise BuildError(f"apt knows no kernel package {KERNEL_PACKAGE}: run apt-get update, or install it")
    progress(f"downloading {match[1]}")
    _run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", match[1], cwd=work)
    for package in work.glob("*.deb"):
        _run("dpkg-deb", "-x", package.name, "kernel", cwd=work)
        package.unlink()
    kernel = find_kernel(work / "kernel")
    if kernel is None:
        raise BuildError(f"the package {match[1]} holds no kernel image")
    return kernel


def modules(kernel: Kernel, names: Iterable[str]) -> Tree:
    """The named modules and all they need, flat in one folder, with the modules.dep that modprobe reads."""
    paths = {path.stem.replace("-", "_"): path for path in kernel.modules.rglob("*.ko")}
    needs: dict[str, list[str]] = {}

    def visit(name: str) -> list[str]:
        """All that ``name`` needs, each before what it needs itself, as modules.dep wants it."""
        key = name.replace("-", "_")
        if key not in needs:
            if key not in paths:
                raise BuildError(f"kernel {kernel.version} has no module {name}")
            match = re.search(rb"\0depends=([^\0]*)\0", paths[key].read_bytes())
            direct = match[1].decode().split(",") if match and match[1] else []
            closure = [needed for other in direct for needed in (other.replace("-", "_"), *visit(other))]
            # Of one needed twice the last stands, behind all that need it.
            needs[key] = list(reversed(dict.fromkeys(reversed(closure))))
        return needs[key]

    for name in names:
        visit(name)
    folder = f"/lib/modules/{kernel.version}"
    lines = [f"{name}.ko: {' '.join(f'{other}.ko' for other in needs[name])}\n" for name in sorted(needs)]
    tree = {f"{folder}/{name}.ko": _file(unsigned(paths[name].read_bytes())) for name in sorted(needs)}
    return {**tree, f"{folder}/modules.dep": _file("".join(lines))}


def unsigned(module: bytes) -> bytes:
    """A module without the signature appended to it: checking it costs an emulated processor 0.1 s for each.

    Format: module, PKCS#7 message, 12 bytes of which the last 4 are the message's length, a marker line.
    """
    marker = b"~Module signature appended~\n"
    if not module.endswith(marker):
        return module
    end = len(module) - len(marker)
    length: int = struct.unpack(">I", module[end - 4 : end])[0]
    return module[: end - 12 - length]


# The two filesystems' contents.


def initramfs(kernel: Kernel) -> Tree:
    """What the kernel unpacks into memory: busybox, the modules for the root disk and guest/init.sh."""
    return _with_folders(
        {
            "/init": _script("init.sh"),
            "/lib/say.sh": _script("say.sh"),
            "/bin/busybox": _program("busybox"),
            "/bin/sh": _link("busybox"),
            # The kernel opens it for the first process before anything is mounted.
            "/dev": _folder(),
            "/proc": _folder(),
            "/sys": _folder(),
            "/root": _folder(),
            **modules(kernel, ROOT_MODULES),
        }
    )


def system(kernel: Kernel) -> Tree:
    """The root filesystem: busybox with a link for each of its programs, dropbear, e2fsprogs, our scripts."""
    busybox = _which("busybox")
    assert busybox is not None  # checked by missing()
    tree: Tree = {f"/bin/{name}": _link("busybox") for name in _run(busybox, "--list").split()}
    tree["/bin/busybox"] = _program("busybox")
    tree["/sbin/init"] = _link("../bin/busybox")
    for name in ("dropbear", "dropbearkey", "resize2fs", "resizepart", "mke2fs"):
        tree |= _with_libraries(name)
    del tree["/bin/mke2fs"]  # the real one makes ext4 too
    tree["/usr/sbin/mkfs.ext4"] = _link("mke2fs")
    for name in ("say", "boot", "nic", "lease", "ssh", "instance"):
        tree[f"/lib/{name}.sh"] = _script(f"{name}.sh")
    tree["/etc/acpi/PWRF/00000080"] = _script(
        "power.sh"
    )  # the name busybox acpid looks up for the power button
    for name, text in ETC.items():
        tree[f"/etc/{name}"] = _file(text)
    tree["/etc/shadow"] = _file("root:*:19000:0:99999:7:::\n", 0o600)
    tree["/etc/mke2fs.conf"] = _file(Path("/etc/mke2fs.conf").read_bytes())
    for path in (
        "/dev",
        "/proc",
        "/sys",
        "/run",
        "/mnt",
        "/home",
        "/etc/dropbear",
        "/var/log",
        "/var/lib/altostack",
    ):
        tree[path] = _folder()
    tree |= {"/root": _folder(0o700), "/root/.ssh": _folder(0o700), "/tmp": _folder(0o1777)}
    return _with_folders({**tree, **modules(kernel, (*ROOT_MODULES, *MODULES))})


def _file(content: str | bytes, mode: int = 0o644) -> Node:
    return Node(mode=stat.S_IFREG | mode, content=content.encode() if isinstance(content, str) else content)


def _folder(mode: int = 0o755) -> Node:
    return Node(mode=stat.S_IFDIR | mode)


def _link(target: str) -> Node:
    return Node(mode=stat.S_IFLNK | 0o777, content=target.encode())


def _script(name: str) -> Node:
    return _file(resources.files("altostack.image").joinpath("guest", name).read_bytes(), 0o755)


def _program(name: str) -> Node:
    path = _which(name)
    assert path is not None  # checked by missing()
    return _file(Path(path).read_bytes(), 0o755)


def _with_libraries(name: str) -> Tree:
    """A program under /usr/sbin, and the shared libraries that ldd(1) names, where it names them."""
    path = _which(name)
    assert path is not None  # checked by missing()
    found = re.findall(r"(/\S+) \(0x", _run("ldd", path))
    return {
        f"/usr/sbin/{name}": _program(name),
        **{library: _file(Path(library).read_bytes(), 0o755) for library in found},
    }


def _with_folders(tree: Tree) -> Tree:
    """The tree with every parent folder, sorted so that each stands before what is in it."""
    parents = {str(parent): _folder() for path in tree for parent in Path(path).parents if str(parent) != "/"}
    return dict(sorted((parents | tree).items()))


# The filesystems' bytes.


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
    _run(
        *(
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            "altostack",
            "-U",
            FILESYSTEM_ID,
            "-b",
            "4096",
            "-i",
            "16384",
        ),
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
    said = _run("debugfs", "-w", "-f", "debugfs.commands", "root.ext4", cwd=work)
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
    _run("mkfs.fat", "-F", "16", "-n", "ALTOSTACK", "-i", VOLUME_ID, "--invariant", part.name, cwd=work)
    for path, content in files.items():
        (work / "content").write_bytes(content)
        for parent in list(reversed(Path(path).parents))[1:]:
            _run("mmd", "-D", "s", "-i", part.name, f"::/{parent}", cwd=work)
        _run("mcopy", "-i", part.name, "content", f"::/{path}", cwd=work)
    _run("syslinux", "--install", part.name, cwd=work)
    return part


def unified_kernel(work: Path, kernel: Kernel, initrd: bytes) -> bytes:
    """Kernel, initramfs and command line in one UEFI program. Raises BuildError when the packages are missing."""
    if not EFI_STUB.exists() or _which("objcopy") is None:
        raise BuildError("UEFI needs the packages systemd-boot-efi and binutils")
    (work / "command-line").write_text(COMMAND_LINE)
    (work / "initrd").write_bytes(initrd)
    (work / "release").write_text("ID=altostack\n")
    sections = {
        ".osrel": (work / "release", 0x20000),
        ".cmdline": (work / "command-line", 0x30000),
        ".linux": (kernel.image, 0x2000000),
        ".initrd": (work / "initrd", 0x4000000),
    }
    arguments = [
        argument
        for name, (file, address) in sections.items()
        for argument in ("--add-section", f"{name}={file}", "--change-section-vma", f"{name}={address:#x}")
    ]
    _run("objcopy", *arguments, str(EFI_STUB), "unified.efi", cwd=work)
    return (work / "unified.efi").read_bytes()


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


def _which(tool: str) -> str | None:
    # A user's PATH may lack the folders of administration.
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")


def _run(tool: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run a tool without a shell; its output, or BuildError with what it said."""
    path = _which(tool)
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
