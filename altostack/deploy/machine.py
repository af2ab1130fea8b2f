"""What this machine can and cannot do for a cloud, found by trying it."""

from __future__ import annotations

import ctypes
import glob
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from altostack.deploy.state import State

CLONE_NEWNS: Final = 0x00020000  # unshare(2)
CLONE_NEWNET: Final = 0x40000000
MS_REC_PRIVATE: Final = 0x4000 | (1 << 18)  # mount(2)

LEAST_DISK: Final = 2 * 2**30
LEAST_MEMORY: Final = 1 * 2**30


@dataclass(frozen=True, kw_only=True)
class Check:
    """One fact. needed: a real cloud cannot do without; a simulated one needs only `anyway`."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = True
    anyway: bool = False


@dataclass(frozen=True, kw_only=True)
class Package:
    name: str
    file: str
    purpose: str

    @property
    def present(self) -> bool:
        return bool(glob.glob(self.file))


def packages() -> list[Package]:
    """The Debian packages of a cloud with real drivers."""
    text = resources.files("altostack.deploy").joinpath("packages.txt").read_text()
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return [Package(name=name, file=file, purpose=purpose) for name, file, purpose in rows]


def missing(state: State) -> list[Check]:
    """What a real cloud needs here and does not find; quick, for `up`."""
    return [check for check in (*_base(state), *_packages(), *_network()) if check.needed and not check.ok]


def survey(state: State, ports: Mapping[str, tuple[str, int]]) -> Iterator[Check]:
    """Everything worth knowing, one fact after the other. `ports`: purpose -> (host, port) to be free."""
    yield from _base(state)
    yield from _packages()
    yield from _network()
    yield _libvirt()
    yield _kvm()
    yield from _ports(ports)


def _ports(ports: Mapping[str, tuple[str, int]]) -> Iterator[Check]:
    for purpose, (host, port) in ports.items():
        yield _port(purpose, host, port)


def _base(state: State) -> Iterator[Check]:
    version = platform.python_version()
    yield Check(
        name="python",
        ok=sys.version_info >= (3, 11),
        found=version,
        fix="install Python 3.11 or newer",
        anyway=True,
    )
    yield Check(
        name="system",
        ok=sys.platform == "linux" and platform.machine() == "x86_64",
        found=f"{platform.system()} {platform.release()} {platform.machine()}",
        fix="the drivers are made for Linux on x86-64",
    )
    root = os.geteuid() == 0
    yield Check(
        name="root",
        ok=root,
        found="yes" if root else f"user {os.geteuid()}",
        fix="run as root, or `altostack up --simulate`",
    )
    folder = next(path for path in (state.root, *state.root.parents) if path.exists())
    writable = os.access(folder, os.W_OK)
    yield Check(
        name="state folder",
        ok=writable,
        found=f"{state.root} ({'writable' if writable else 'not writable'})",
        fix="choose another folder with --state",
        anyway=True,
    )
    free = shutil.disk_usage(folder).free
    yield Check(
        name="disk space",
        ok=free >= LEAST_DISK,
        found=f"{free / 2**30:.1f} GiB free at {folder}",
        fix=f"free {LEAST_DISK // 2**30} GiB, or choose another folder with --state",
        needed=free < LEAST_DISK // 4,
        anyway=True,
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Check(
        name="memory",
        ok=memory >= LEAST_MEMORY,
        found=f"{memory / 2**30:.1f} GiB, {os.cpu_count()} cores",
        fix="1 GiB is the least for one small guest",
        needed=False,
    )


def _packages() -> Iterator[Check]:
    lacking = [package for package in packages() if not package.present]
    names = " ".join(package.name for package in lacking)
    purposes = ", ".join(dict.fromkeys(package.purpose for package in lacking))
    yield Check(
        name="packages",
        ok=not lacking,
        found="all there" if not lacking else f"missing for {purposes}: {names}",
        fix=f"apt-get install --no-install-recommends {names} (./alto does it as root)",
    )


def _network() -> Iterator[Check]:
    """What the kernel offers to networks, tried in a namespace that vanishes with its process."""
    results = _in_namespace(_try_network)
    if results is None:
        yield Check(
            name="network namespaces",
            ok=False,
            found="not permitted" if os.geteuid() else "not offered by this kernel",
            fix="run as root on a kernel with CONFIG_NET_NS (in a container: --privileged)",
        )
        return
    yield Check(name="network namespaces", ok=True, found="yes")
    fixes = {
        "bridges, veth and taps": "needs CONFIG_BRIDGE, CONFIG_VETH and CONFIG_TUN (modprobe bridge veth tun)",
        "nftables": "needs CONFIG_NF_TABLES for inet and bridge (modprobe nf_tables)",
        "stateful bridge filtering": "modprobe br_netfilter or nf_conntrack_bridge",
    }
    for name, fix in fixes.items():
        problem = results[name]
        yield Check(name=name, ok=not problem, found=problem or "yes", fix=fix)


def _try_network() -> dict[str, str]:
    links = (
        ["ip", "link", "add", "b0", "type", "bridge"],
        ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"],
        ["ip", "tuntap", "add", "t0", "mode", "tap"],
    )
    table = (
        "table inet a {\n chain c {\n type filter hook prerouting priority raw; ct state established accept;\n }\n}\n"
        "table bridge b {\n chain c {\n type filter hook forward priority 0; meta mark 1 accept;\n }\n}\n"
    )
    native = "table bridge n {\n chain c {\n type filter hook forward priority 0; ct state established accept;\n }\n}\n"
    bridged = "" if os.path.exists("/proc/sys/net/bridge/bridge-nf-call-iptables") else "no br_netfilter"
    if bridged and not _tried(["nft", "-f", "-"], native):
        bridged = ""
    return {
        "bridges, veth and taps": next(filter(None, (_tried(link) for link in links)), ""),
        "nftables": _tried(["nft", "-f", "-"], table),
        "stateful bridge filtering": bridged,
    }


def _tried(command: list[str], text: str = "") -> str:
    """What a command complained about; nothing when it went well."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=10, check=False, env={"PATH": path}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"{command[0]} failed"])[0]


def _in_namespace(work: Callable[[], dict[str, str]]) -> dict[str, str] | None:
    """Run `work` in a child with a network namespace of its own; None if there can be none."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) == 0:
                libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None)
                os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        text = answers.read()
    os.waitpid(pid, 0)
    return dict(json.loads(text)) if text else None


def _libvirt() -> Check:
    try:
        import libvirt  # type: ignore[import-untyped]  # it brings no types
    except ImportError as error:
        return Check(
            name="libvirt module",
            ok=False,
            found=str(error),
            fix="install python3-libvirt and run ./alto, which links it into its environment",
        )
    version = libvirt.getVersion()
    return Check(
        name="libvirt module", ok=True, found=f"{version // 10**6}.{version // 1000 % 1000}.{version % 1000}"
    )


def _kvm() -> Check:
    from altostack.compute.drivers.accel import probe_kvm

    works = probe_kvm()
    there = os.path.exists("/dev/kvm")
    return Check(
        name="kvm",
        ok=works,
        found="a guest booted"
        if works
        else "/dev/kvm is there but no guest boots"
        if there
        else "no /dev/kvm",
        fix="guests run all the same, emulated and slower; for KVM enable virtualization in the firmware or host",
        needed=False,
    )


def _port(purpose: str, host: str, port: int) -> Check:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            found, ok = error.strerror or str(error), False
        else:
            found, ok = "free", True
    return Check(
        name=f"port {port}",
        ok=ok,
        found=f"{found} ({purpose})",
        fix="choose another with --port",
        anyway=True,
    )
