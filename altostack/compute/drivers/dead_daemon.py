"""What a killed libvirt daemon left behind that its successor would stumble over.

All of it was met with libvirt 9.0 by killing it at random.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, parse, tostring

from altostack.compute.drivers.base import Console

Ask = Callable[..., dict[str, Any]]

log = logging.getLogger(__name__)


def mend(states: Path, outside: Callable[[str], Path]) -> None:
    """Put right the guests whose state stands in ``states`` (libvirt's run/qemu), while no daemon runs.

    ``outside`` turns a path of the daemon's view into one of this process's.
    """
    for state in states.glob("*.xml"):
        try:
            root = parse(state).getroot()
        except ParseError:
            continue  # cut off while written: the daemon refuses it by itself
        if root.get("reason") == "starting up":
            _drop_half_started(state)
            continue
        monitor = root.find("monitor")
        if monitor is not None:
            _reconcile(state, root, outside(monitor.get("path", "")))


def end_jobs(ask: Ask) -> None:
    """End all block jobs of a guest, by a function that asks its QEMU."""
    for job in ask("query-jobs").get("return", []):
        ask("job-cancel", id=job["id"])
        for _ in range(50):
            ask("job-dismiss", id=job["id"])
            if all(one["id"] != job["id"] for one in ask("query-jobs").get("return", [])):
                break
            time.sleep(0.1)


def end_strays(guest_id: str) -> bool:
    """Kill QEMU processes of a guest that its daemon holds for off; whether there were any.

    A daemon killed while it starts QEMU does not write down that it did, and the process waits for it for ever.
    """
    strays = [pid for pid in _processes() if _runs(pid, guest_id)]
    for pid in strays:
        _kill(pid)
    deadline = time.monotonic() + 5
    while any(_runs(pid, guest_id) for pid in strays) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(strays)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _runs(pid: int, guest_id: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")  # empty once it has ended
    except OSError:
        return False
    return b"qemu-system" in words[0] and any(
        word.startswith(f"guest={guest_id},".encode()) for word in words
    )


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _drop_half_started(state: Path) -> None:
    """Forget a guest that was being started and ran no instruction yet.

    The daemon may find a state without a process id and then hold that guest's lock for ever.
    """
    pid_file = state.with_suffix(".pid")
    try:
        pid = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        pid = 0
    if pid and _runs(pid, state.stem):
        _kill(pid)
    pid_file.unlink(missing_ok=True)
    state.unlink()


def _reconcile(state: Path, root: Element, monitor: Path) -> None:
    """Make QEMU and what is written of it agree where the daemon cannot."""
    cards = [card.get("name", "") for card in root.iterfind("domain/devices/interface/alias")]
    disks = [disk for disk in root.iterfind("domain/devices/disk") if disk.find("mirror") is not None]
    jobs = root.find("blockjobs")
    copying = bool(disks) or (jobs is not None and len(jobs) > 0)
    if not cards and not copying:
        return
    try:
        with Console(path=monitor).connect(timeout_s=2) as stream, stream.makefile("rwb") as wire:
            talk = _Talk(wire)
            talk.ask("qmp_capabilities")
            _lend_netdevs(talk, cards)
            if copying:
                end_jobs(talk.ask)
    except (FileNotFoundError, ConnectionRefusedError):
        log.debug("no QEMU behind %s any more", monitor)
        return
    except (OSError, ValueError, KeyError) as error:
        log.warning("the monitor %s of a guest does not answer: %s", monitor, error)
        return
    if copying:
        # A job at its end is written down in several steps, not all of which the daemon can read again.
        for disk in disks:
            for mirror in disk.findall("mirror"):
                disk.remove(mirror)
        if jobs is not None:
            jobs.clear()
            jobs.set("active", "no")
        fresh = state.with_suffix(".mended")
        fresh.touch(mode=0o600)
        fresh.write_bytes(tostring(root))
        fresh.replace(state)


def _lend_netdevs(talk: _Talk, cards: list[str]) -> None:
    """Give a card that was just unplugged its netdev back for the daemon to remove.

    The daemon removes the netdev of a card that is gone, and ends the guest when that fails.
    """
    plugged = {one["name"] for one in talk.ask("qom-list", path="/machine/peripheral")["return"]}
    for alias in cards:
        if alias not in plugged:
            talk.ask("netdev_add", type="hubport", hubid=0, id=f"host{alias}")


class _Talk:
    """A conversation with QEMU's monitor (QEMU's docs/interop/qmp-spec)."""

    def __init__(self, wire: Any) -> None:
        self._wire = wire
        next(self._heard())  # the greeting

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """{"return": ...} or {"error": ...}."""
        self._wire.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._wire.flush()
        return next(answer for answer in self._heard() if "event" not in answer)

    def _heard(self) -> Iterator[dict[str, Any]]:
        for line in self._wire:
            yield json.loads(line)
        raise OSError("the connection was closed")
