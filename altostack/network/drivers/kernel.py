"""The hands of the Linux driver: namespaces, taps, sysctls, files and processes.

Everything that changes the machine passes through here, so that ``step`` sees each single operation before
it happens: tests kill the driver between any two of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from altostack.network.drivers.base import DriverError
from altostack.network.drivers.conntrack import Conntrack
from altostack.network.drivers.netlink import Link, Netlink
from altostack.network.drivers.nft import Nft, load_library

RUN = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 0x100000, 2
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI = 0x2, 0x1000
_GRATUITOUS = struct.Struct("!6s6sHHHBBH6s4s6s4s")


def nothing(_: str) -> None:
    """The default ``step``: do not look."""


class Kernel:
    """Operations of one thread on the network of this machine.

    All methods must run in one thread, whose namespace they switch; it is back in its own afterwards.
    """

    def __init__(self, *, step: Callable[[str], None] = nothing) -> None:
        self.step = step
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._library = load_library()
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._device = os.fstat(self._home).st_dev

    def close(self) -> None:
        """Forget the way home; nothing else may be called afterwards."""
        os.close(self._home)

    # Namespaces

    def namespaces(self, pattern: re.Pattern[str]) -> list[str]:
        """The names of namespaces that match as a whole, sorted; half-made ones included."""
        if not RUN.is_dir():
            return []
        return sorted(name for name in os.listdir(RUN) if pattern.fullmatch(name))

    def exists(self, name: str) -> bool:
        """Whether the namespace is there and usable."""
        try:
            return os.stat(RUN / name).st_dev == self._device
        except FileNotFoundError:
            return False

    def identity(self, name: str) -> int:
        """A number that tells the namespace of this name from one that is made in its place later."""
        return os.stat(RUN / name).st_ino

    def lives_in(self, pid: int, name: str) -> bool:
        """Whether a process is in the namespace that has this name now."""
        try:
            return os.stat(f"/proc/{pid}/ns/net").st_ino == self.identity(name)
        except FileNotFoundError:
            return False

    def create(self, name: str) -> None:
        """Make a namespace with its loopback up, visible to ip-netns(8); fine if it exists.

        :raises OSError: if this process may not.
        """
        if self.exists(name):
            return
        self.step(f"create namespace {name}")
        self._share_run()
        path = RUN / name
        path.touch(mode=0o444)
        self._call("unshare", _CLONE_NEWNET)
        try:
            self._call("mount", b"/proc/thread-self/ns/net", os.fsencode(path), b"none", _MS_BIND, None)
        finally:
            self._call("setns", self._home, _CLONE_NEWNET)

    def delete(self, name: str) -> None:
        """Remove a namespace by name; fine if it is gone. Sockets still open in it keep it alive unseen."""
        self.step(f"delete namespace {name}")
        with contextlib.suppress(OSError):  # a half-made namespace is a file that nothing is mounted on
            self._call("umount2", os.fsencode(RUN / name), _MNT_DETACH)
        (RUN / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def inside(self, name: str | None) -> Iterator[None]:
        """Be in a namespace for a while (None: in our own). Does not nest."""
        if name is None:
            yield
            return
        with self.handle(name) as handle:
            self._call("setns", handle, _CLONE_NEWNET)
            try:
                yield
            finally:
                self._call("setns", self._home, _CLONE_NEWNET)

    @contextlib.contextmanager
    def handle(self, name: str) -> Iterator[int]:
        """A file descriptor that stands for a namespace."""
        handle = os.open(RUN / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield handle
        finally:
            os.close(handle)

    def netlink(self, name: str | None) -> Netlink:
        """Links, addresses and routes of a namespace."""
        with self.inside(name):
            return Netlink(self.step)

    def nft(self, name: str) -> Nft:
        """The packet filter of a namespace."""
        with self.inside(name):
            return Nft(self._library, self.step)

    def conntrack(self, name: str) -> Conntrack:
        """The connection table of a namespace."""
        with self.inside(name):
            return Conntrack(self.step)

    def listen(self, name: str, host: str, port: int) -> socket.socket:
        """A non-blocking listening TCP socket inside a namespace."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.inside(name):
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(64)
        except OSError:
            listener.close()
            raise
        return listener

    def sysctl(self, name: str, values: Mapping[str, str]) -> None:
        """Set kernel parameters below ``/proc/sys/net`` for a namespace: ``ipv4/ip_forward`` -> ``1``."""
        with self.inside(name):
            for key, value in values.items():
                path = Path("/proc/sys/net") / key
                if path.read_text().strip() != value:
                    self.step(f"sysctl {key}={value}")
                    path.write_text(value)

    def loopback(self, netlink: Netlink) -> Link:
        """``lo``, up."""
        lo = netlink.link("lo")
        if lo is None:
            raise DriverError("this namespace has no loopback device")
        if not lo.up:
            netlink.set_link(lo.index, name="lo", up=True)
            lo = replace(lo, up=True)
        return lo

    # Devices and packets

    def tap(self, namespace: str, name: str) -> None:
        """A persistent tap device, down, that a hypervisor opens by its name later."""
        self.step(f"add tap {name}")
        with self.inside(namespace):
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
                fcntl.ioctl(device, _TUNSETPERSIST, 1)
            finally:
                os.close(device)

    def announce(self, namespace: str, device: str, mac: str, address: str) -> None:
        """Gratuitous ARP (RFC 5227 section 3): tell the neighbours where an IPv4 address lives now."""
        self.step(f"announce {address}")
        own, ip = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
        frame = _GRATUITOUS.pack(b"\xff" * 6, own, 0x0806, 1, 0x0800, 6, 4, 1, own, ip, bytes(6), ip)
        with self.inside(namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((device, 0))
            raw.send(frame)

    # Files and processes

    def write(self, path: Path, content: str) -> bool:
        """Put a file there at once and whole; False if it already says so."""
        with contextlib.suppress(FileNotFoundError):
            if path.read_text() == content:
                return False
        self.step(f"write {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(content)
        draft.chmod(0o644)
        draft.replace(path)
        return True

    def remove_tree(self, path: Path) -> None:
        """Remove a folder of plain files; fine if it is gone."""
        if not path.is_dir():
            return
        self.step(f"remove {path.name}")
        for item in path.iterdir():
            item.unlink(missing_ok=True)
        path.rmdir()

    def daemon(self, namespace: str, command: list[str]) -> None:
        """Start a program in a namespace that puts itself into the background, and wait until it did.

        :raises DriverError: with what it said, if it refuses to start.
        """
        self.step(f"start {command[0]}")
        with self.inside(namespace):
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
                )
            except FileNotFoundError as error:
                raise DriverError(f"{command[0]} is not installed") from error
            except subprocess.TimeoutExpired as error:
                raise DriverError(f"{command[0]} did not start within 20 s") from error
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise DriverError(f"{command[0]} ended with {done.returncode}: {said[-300:]}")

    def processes(self, argument: re.Pattern[str]) -> dict[int, str]:
        """Process id -> the argument that matches as a whole, of the processes that were started with one."""
        found = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError):
                for part in Path("/proc", entry, "cmdline").read_bytes().split(b"\0"):
                    if argument.fullmatch(value := os.fsdecode(part)):
                        found[int(entry)] = value
                        break
        return found

    def _share_run(self) -> None:
        """Make /run/netns a shared mount, as ip-netns(8) does, so that other mount namespaces see ours."""
        RUN.mkdir(parents=True, exist_ok=True)
        path = os.fsencode(RUN)
        try:
            self._call("mount", b"", path, b"none", _MS_SHARED | _MS_REC, None)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._call("mount", path, path, b"none", _MS_BIND | _MS_REC, None)
            self._call("mount", b"", path, b"none", _MS_SHARED | _MS_REC, None)

    def _call(self, name: str, *args: bytes | int | None) -> None:
        if getattr(self._libc, name)(*args) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")


class Daemon:
    """A background process held by a pidfd, so that a signal never reaches a stranger with the same number."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def alive(self) -> bool:
        """Whether it still runs."""
        return not self._ended(0)

    def reload(self) -> bool:
        """Ask it to read its files again; False if it is gone."""
        return self.alive() and self._signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it, by force after two seconds."""
        if self._signal(signal.SIGTERM) and not self._ended(2000):
            self._signal(signal.SIGKILL)
            self._ended(2000)

    def close(self) -> None:
        """Let go of it; it runs on."""
        os.close(self._handle)

    def _ended(self, milliseconds: int) -> bool:
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def _signal(self, number: int) -> bool:
        try:
            signal.pidfd_send_signal(self._handle, number)
        except ProcessLookupError:
            return False
        return True
