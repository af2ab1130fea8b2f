"""dnsmasq processes: started in a namespace, found again after a restart, told of changes, ended.

Each has a folder with its configuration, by whose path in the command line it is known, and files that it
reads again at a SIGHUP. It runs on when this process ends. Source: dnsmasq(8).
"""

from __future__ import annotations

import contextlib
import pwd
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from altostack.network.drivers.base import DriverError
from altostack.network.drivers.kernel import Daemon, Kernel

_OWN_FILES = ("log", "pid")


class Servers:
    """The dnsmasq processes of one purpose. ``folder`` holds a folder for each, named by its key."""

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        self._kernel = kernel
        self._folder = folder
        self._running: dict[str, Daemon] = {}
        self._adopted: set[str] = set()
        self._known: set[str] = set()

    def open(self) -> None:
        """Find the servers that run already, and what files there are."""
        self._known = {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else set()
        for key, pids in self.processes().items():
            for pid in pids[1:]:
                self._end(pid)
            with contextlib.suppress(ProcessLookupError):
                self._running[key] = Daemon(pids[0])
                self._adopted.add(key)
                self._known.add(key)

    def close(self) -> None:
        """Let go of the servers; they run on."""
        for server in self._running.values():
            server.close()
        self._running, self._adopted = {}, set()

    def processes(self) -> dict[str, list[int]]:
        """Key -> process ids, found by their command lines."""
        pattern = re.compile(rf"--conf-file={re.escape(str(self._folder))}/([^/]+)/dnsmasq\.conf")
        found: dict[str, list[int]] = {}
        for pid, argument in sorted(self._kernel.processes(pattern).items()):
            if match := pattern.fullmatch(argument):
                found.setdefault(match[1], []).append(pid)
        return found

    def known(self) -> set[str]:
        """The keys that files or servers exist for, by what this process remembers."""
        return set(self._known)

    def files(self) -> dict[str, str]:
        """What the files say, by ``key/name``; not what servers write themselves."""
        paths = sorted(self._folder.glob("*/*")) if self._folder.is_dir() else []
        return {f"{p.parent.name}/{p.name}": p.read_text() for p in paths if p.name not in _OWN_FILES}

    def folder(self, key: str) -> Path:
        """Where a server's files are."""
        return self._folder / key

    def alive(self, key: str) -> bool:
        """Whether a server still runs, if one was started."""
        server = self._running.get(key)
        return server is None or server.alive()

    def running(self, key: str) -> bool:
        """Whether a server runs."""
        return key in self._running and self._running[key].alive()

    def converge(
        self, key: str, space: str, configuration: Iterable[str], files: Mapping[str, Iterable[str]]
    ) -> None:
        """Have a server run in a namespace with these lines of configuration and these files beside it.

        It is restarted if its configuration changed, and reads its files again if only they did.

        :raises DriverError: if it does not start.
        """
        folder = self._folder / key
        if any(character.isspace() or character in '#,"' for character in str(folder)):
            raise DriverError(f"{folder} holds characters that dnsmasq does not take in a path")
        self._known.add(key)
        text = _text([*configuration, *self._common(folder)])
        path = folder / "dnsmasq.conf"
        server = self._running.get(key)
        same = path.is_file() and path.read_text() == text
        if server is not None and not (same and server.alive() and self._kernel.lives_in(server.pid, space)):
            # Before the file is written: a server beside a new file is taken for one that has read it.
            self._stop(key)
        changed = [self._kernel.write(folder / name, _text(lines)) for name, lines in files.items()]
        self._kernel.write(path, text)
        server = self._running.get(key)
        if server is None:
            self._start(key, space)
        elif any(changed) or key in self._adopted:
            # A server found running may have missed the signal for the last change.
            self._kernel.step(f"reload dnsmasq {key}")
            server.reload()
        self._adopted.discard(key)

    def remove(self, key: str) -> None:
        """End a server and remove its files; fine if there are none."""
        self._stop(key)
        self._kernel.remove_tree(self._folder / key)
        self._known.discard(key)

    def remove_all(self) -> None:
        """End every server below this folder and remove all files."""
        for pids in self.processes().values():
            for pid in pids:
                self._end(pid)
        for path in list(self._folder.iterdir()) if self._folder.is_dir() else []:
            self.remove(path.name)
        if self._folder.is_dir():
            self._folder.rmdir()

    def _common(self, folder: Path) -> list[str]:
        user = "root"
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam("dnsmasq").pw_name if _open_to_all(self._folder) else "root"
        own = [f"log-facility={folder}/log", f"pid-file={folder}/pid", f"user={user}", "group="]
        return ["no-hosts", "no-resolv", "bind-interfaces", "except-interface=lo", "leasefile-ro", *own]

    def _start(self, key: str, space: str) -> None:
        folder = self._folder / key
        self._kernel.daemon(space, ["dnsmasq", f"--conf-file={folder}/dnsmasq.conf"])
        try:
            self._running[key] = Daemon(int((folder / "pid").read_text()))
        except (OSError, ValueError) as error:
            raise DriverError(f"dnsmasq started and ended at once: {_tail(folder / 'log')}") from error

    def _stop(self, key: str) -> None:
        self._adopted.discard(key)
        server = self._running.pop(key, None)
        if server is not None:
            self._kernel.step(f"stop dnsmasq {key}")
            server.stop()
            server.close()

    def _end(self, pid: int) -> None:
        self._kernel.step(f"stop dnsmasq {pid}")
        with contextlib.suppress(ProcessLookupError):
            server = Daemon(pid)
            server.stop()
            server.close()


def _text(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _open_to_all(folder: Path) -> bool:
    """Whether an unprivileged server can reach its files: it reads them again after it gave up being root."""
    existing = (path for path in (folder, *folder.parents) if path.exists())
    return all(path.stat().st_mode & 0o001 for path in existing)


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")[-300:].strip()
    return "it wrote no log"
