"""The starter guest: a small bootable Linux disk image made from Debian's own packages.

The image holds a kernel (``linux-image-cloud-amd64``), busybox and dropbear, on a DOS partition table: partition 1
is FAT with the boot loader, the kernel and an initramfs, partition 2 is the ext4 root, last so that it can grow with
the disk. Its scripts are the files of ``guest/``. What it does when it boots: DHCP on every network card (also those
plugged in later), hostname, SSH keys and user-data from a config drive or from the metadata service, once for each
instance; SSH as ``root`` by key; a root shell on the serial and the graphical console; the power button powers off.
Each step is one line on the serial console, ``altostack: [seconds since the kernel started] step``; the first is
``user space``, the last ``boot finished``.

Building needs no root, and the same packages give the same bytes (see `altostack.image.guestdisk`). Sources: the
kernel's documentation of its command line (admin-guide/kernel-parameters), modules.dep(5).
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from altostack.image.guestdisk import (
    MBR,
    MIB,
    BuildError,
    Node,
    Tree,
    boot_partition,
    cpio,
    file,
    folder,
    join,
    link,
    root_partition,
    run,
    which,
    with_folders,
)

__all__ = [
    "PACKAGES",
    "BuildError",
    "Kernel",
    "StarterImage",
    "build",
    "fetch_kernel",
    "find_kernel",
    "missing",
]

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


Progress = Callable[[str], None]


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


def missing() -> tuple[str, ...]:
    """Debian packages that :func:`build` needs and that this machine lacks, sorted."""
    lacking = {package for tool, package in TOOLS.items() if which(tool) is None}
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
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(made), cwd=work)
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
    depends = run("apt-cache", "depends", KERNEL_PACKAGE, cwd=work)
    match = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends)
    if match is None:
        raise BuildError(f"apt knows no kernel package {KERNEL_PACKAGE}: run apt-get update, or install it")
    progress(f"downloading {match[1]}")
    run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", match[1], cwd=work)
    for package in work.glob("*.deb"):
        run("dpkg-deb", "-x", package.name, "kernel", cwd=work)
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
    tree = {f"{folder}/{name}.ko": file(unsigned(paths[name].read_bytes())) for name in sorted(needs)}
    return {**tree, f"{folder}/modules.dep": file("".join(lines))}


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
    return with_folders(
        {
            "/init": _script("init.sh"),
            "/lib/say.sh": _script("say.sh"),
            "/bin/busybox": _program("busybox"),
            "/bin/sh": link("busybox"),
            # The kernel opens it for the first process before anything is mounted.
            "/dev": folder(),
            "/proc": folder(),
            "/sys": folder(),
            "/root": folder(),
            **modules(kernel, ROOT_MODULES),
        }
    )


def system(kernel: Kernel) -> Tree:
    """The root filesystem: busybox with a link for each of its programs, dropbear, e2fsprogs, our scripts."""
    busybox = which("busybox")
    assert busybox is not None  # checked by missing()
    tree: Tree = {f"/bin/{name}": link("busybox") for name in run(busybox, "--list").split()}
    tree["/bin/busybox"] = _program("busybox")
    tree["/sbin/init"] = link("../bin/busybox")
    for name in ("dropbear", "dropbearkey", "resize2fs", "resizepart", "mke2fs"):
        tree |= _with_libraries(name)
    del tree["/bin/mke2fs"]  # the real one makes ext4 too
    tree["/usr/sbin/mkfs.ext4"] = link("mke2fs")
    for name in ("say", "boot", "nic", "lease", "ssh", "instance"):
        tree[f"/lib/{name}.sh"] = _script(f"{name}.sh")
    tree["/etc/acpi/PWRF/00000080"] = _script(
        "power.sh"
    )  # the name busybox acpid looks up for the power button
    for name, text in ETC.items():
        tree[f"/etc/{name}"] = file(text)
    tree["/etc/shadow"] = file("root:*:19000:0:99999:7:::\n", 0o600)
    tree["/etc/mke2fs.conf"] = file(Path("/etc/mke2fs.conf").read_bytes())
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
        tree[path] = folder()
    tree |= {"/root": folder(0o700), "/root/.ssh": folder(0o700), "/tmp": folder(0o1777)}
    return with_folders({**tree, **modules(kernel, (*ROOT_MODULES, *MODULES))})


def _script(name: str) -> Node:
    return file(resources.files("altostack.image").joinpath("guest", name).read_bytes(), 0o755)


def _program(name: str) -> Node:
    path = which(name)
    assert path is not None  # checked by missing()
    return file(Path(path).read_bytes(), 0o755)


def _with_libraries(name: str) -> Tree:
    """A program under /usr/sbin, and the shared libraries that ldd(1) names, where it names them."""
    path = which(name)
    assert path is not None  # checked by missing()
    found = re.findall(r"(/\S+) \(0x", run("ldd", path))
    return {
        f"/usr/sbin/{name}": _program(name),
        **{library: file(Path(library).read_bytes(), 0o755) for library in found},
    }


def unified_kernel(work: Path, kernel: Kernel, initrd: bytes) -> bytes:
    """Kernel, initramfs and command line in one UEFI program. Raises BuildError when the packages are missing."""
    if not EFI_STUB.exists() or which("objcopy") is None:
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
    run("objcopy", *arguments, str(EFI_STUB), "unified.efi", cwd=work)
    return (work / "unified.efi").read_bytes()
