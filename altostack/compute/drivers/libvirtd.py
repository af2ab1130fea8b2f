"""Where a libvirt daemon is: a private one for each node of a cloud, or a server's own."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from altostack.compute.drivers import dead_daemon
from altostack.compute.drivers.base import HypervisorUnavailable

# Folder inside the daemon's view -> folder under the node's root. The daemon's own paths stay short that way,
# however deep the root is: unix addresses hold 107 bytes.
_BINDS = {
    "/run/libvirt": "run",
    "/var/lib/libvirt": "lib",
    "/etc/libvirt": "etc",
    "/var/cache/libvirt": "cache",
    "/var/log/libvirt": "log",
}

# Files named after a guest, whose name here is its id; libvirt shortens names of folders.
_TRACES = (
    "log/qemu/{id}.log*",
    "run/altostack/{id}",
    "run/qemu/{id}.*",
    "etc/qemu/{id}.xml*",
    "lib/qemu/save/{id}.save*",
    "lib/qemu/domain-*-{short}",
    "lib/qemu/channel/target/domain-*-{short}",
)

# libvirt probes every QEMU binary it finds; the 32-bit one costs as much time as the one we use.
_UNUSED_EMULATORS = ("/usr/bin/qemu-system-i386",)

_LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 0
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
unix_sock_admin_perms = "0700"
host_uuid = "{host_uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

# stdio_handler "file": no virtlogd. namespaces and cgroup controllers: the node has namespaces of its own, and
# the daemon may run where it owns no cgroup tree. remember_owner: its extended attributes would outlive a kill.
# capability_filters: with it libvirt asks QEMU for the CPU's features as CPUID words, two questions, instead of by
# name, some four hundred, which is half of the time a start takes.
_QEMU_CONF = """\
security_driver = "none"
user = "{user}"
group = "{user}"
dynamic_ownership = 1
namespaces = []
cgroup_controllers = []
remember_owner = 0
stdio_handler = "file"
vnc_listen = "127.0.0.1"
capability_filters = [{filters}]
"""

_LAUNCH = """\
set -e
root=$1 name=$2 own_net=$3; shift 3
if [ "$own_net" = 1 ]; then umount -l /sys; mount -t sysfs sysfs /sys; fi
for pair in run:/run/libvirt lib:/var/lib/libvirt etc:/etc/libvirt cache:/var/cache/libvirt log:/var/log/libvirt
do mkdir -p "${pair#*:}"; mount --bind "$root/${pair%%:*}" "${pair#*:}"; done
# Debian's libvirt does not start without the user it was compiled for, which another package makes. Guests run as
# whom qemu.conf names, so this one is nobody but a name, and for this daemon alone.
for file in passwd group; do
    if grep -q ^libvirt-qemu: /etc/$file; then continue; fi
    { cat /etc/$file; case $file in
        passwd) echo libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin ;;
        group) echo libvirt-qemu:x:64055: ;;
    esac; } >"$root/etc/$file"
    mount --bind "$root/etc/$file" /etc/$file
done
for emulator; do if [ -e "$emulator" ]; then mount --bind /dev/null "$emulator"; fi; done
hostname "$name"
exec libvirtd --daemon --pid-file "$root/run/libvirtd.pid" --config /etc/libvirt/libvirtd.conf
"""


class LibvirtHost(Protocol):
    """A libvirt daemon and how its file paths look from here."""

    @property
    def uri(self) -> str: ...
    def start(self) -> None:
        """See that the daemon runs, if that is ours to do. Raises HypervisorUnavailable."""
        ...

    def serial_socket(self, guest_dir: Path) -> Path:
        """Where, as the daemon sees it, the unix socket of a guest's serial port goes. The folder of the guest is
        named after it."""
        ...

    def outside(self, path: str) -> Path:
        """A path the daemon named, as this process sees it."""
        ...

    def forget(self, guest_id: str) -> None:
        """Remove what the daemon keeps of a guest that it no longer knows."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemLibvirt:
    """A daemon somebody else runs, found by its URI ("qemu:///system")."""

    uri: str = "qemu:///system"

    def start(self) -> None:
        """Nothing: it is not ours."""

    def serial_socket(self, guest_dir: Path) -> Path:
        return guest_dir / "serial"

    def outside(self, path: str) -> Path:
        return Path(path)

    def forget(self, guest_id: str) -> None:
        """Nothing: its files are not ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivateLibvirtd:
    """A daemon of our own, in a network namespace and a mount namespace, with all it writes under ``root``.

    ``netns``: name under /run/netns or a path to a namespace, None for this process's own. Needs root and the
    commands nsenter, unshare and mount. Guests outlive both the daemon and this process. ``qemu_user``: whom QEMU runs
    as; None is Debian's "libvirt-qemu" where that user exists and may pass through the folders above ``root``, else
    root.
    """

    root: Path
    netns: str | None = None
    hostname: str = "altostack"
    qemu_user: str | None = None
    capability_filters: tuple[str, ...] = ("cpu-unavailable-features",)

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self._socket}"

    @property
    def _socket(self) -> Path:
        return self.root / "run" / "libvirt-sock"

    def serial_socket(self, guest_dir: Path) -> Path:
        return Path("/run/libvirt/altostack") / guest_dir.name

    def outside(self, path: str) -> Path:
        for inside, folder in _BINDS.items():
            if path.startswith(inside + "/"):
                return self.root / folder / path[len(inside) + 1 :]
        return Path(path)

    def forget(self, guest_id: str) -> None:
        # A daemon that was killed leaves more than one that was asked to undefine a guest.
        for pattern in _TRACES:
            for path in self.root.glob(pattern.format(id=guest_id, short=guest_id[:20])):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def pid(self) -> int | None:
        """The daemon's process id, None unless the process under that number really is our daemon."""
        pid_file = self.root / "run" / "libvirtd.pid"
        try:
            pid = int(pid_file.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        ours = words[0].endswith(b"libvirtd") and os.fsencode(pid_file) in words
        return pid if ours else None

    def start(self) -> None:
        """Start the daemon unless it runs; returns when it answers. Raises HypervisorUnavailable."""
        with self._locked():
            if self.pid() is None:
                self._launch()

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """End the daemon, by force after ``timeout_s``. Guests keep running."""
        with self._locked():
            pid = self.pid()
            if pid is None:
                return
            for number, patience in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
                _kill(pid, number)
                deadline = time.monotonic() + patience
                while time.monotonic() < deadline:
                    if self.pid() is None:
                        return
                    time.sleep(0.02)
            raise HypervisorUnavailable(f"libvirtd {pid} of {self.root} does not end, even by SIGKILL")

    def _launch(self) -> None:
        etc = self.root / "etc"
        for folder in (*_BINDS.values(), "run/altostack"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        id_file = etc / "host-uuid"
        if not id_file.exists():
            _write(id_file, str(uuid.uuid4()))
        _write(etc / "libvirtd.conf", _LIBVIRTD_CONF.format(host_uuid=id_file.read_text()))
        dead_daemon.mend(self.root / "run" / "qemu", self.outside)
        filters = ", ".join(f'"{name}"' for name in self.capability_filters)
        _write(
            etc / "qemu.conf",
            _QEMU_CONF.format(user=self.qemu_user or _qemu_user(self.root), filters=filters),
        )
        command = ["unshare", "--mount", "--uts", "--propagation", "slave", "sh", "-c", _LAUNCH, "sh"]
        command += [str(self.root), self.hostname, "1" if self.netns else "0", *_UNUSED_EMULATORS]
        if self.netns:
            path = self.netns if "/" in self.netns else f"/run/netns/{self.netns}"
            command = ["nsenter", f"--net={path}", *command]
        said = self.root / "log" / "launch.log"
        try:
            with said.open("wb") as log:
                code = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", timeout=60, check=False,
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                ).returncode  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HypervisorUnavailable(f"libvirtd could not be started: {error}") from error
        if code != 0:
            words = said.read_text(errors="replace").strip()[-500:]
            raise HypervisorUnavailable(f"libvirtd could not be started (exit {code}): {words}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One starter or stopper at a time, across processes."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "libvirtd.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _qemu_user(root: Path) -> str:
    try:
        pwd.getpwnam("libvirt-qemu")
    except KeyError:
        return "root"
    passable = all(folder.stat().st_mode & stat.S_IXOTH for folder in root.resolve().parents)
    return "libvirt-qemu" if passable else "root"


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)
