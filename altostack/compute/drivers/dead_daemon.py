"""What a killed libvirt daemon left behind that its successor would stumble over; put right before that one starts.

Both cases were met with libvirt 9.0 by killing it at random.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError, parse

from altostack.compute.drivers.base import Console

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
        cards = [card.get("name", "") for card in root.iterfind("domain/devices/interface/alias")]
        monitor = root.find("monitor")
        if cards and monitor is not None:
            _lend_netdevs(cards, outside(monitor.get("path", "")))


def _drop_half_started(state: Path) -> None:
    """Forget a guest that was being started and ran no instruction yet.

    The daemon may find a state without a process id and then hold that guest's lock for ever.
    """
    pid_file = state.with_suffix(".pid")
    try:
        pid = int(pid_file.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        words = b""
    if f"guest={state.stem},".encode() in words:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            log.debug("guest %s ended by itself", state.stem)
    pid_file.unlink(missing_ok=True)
    state.unlink()


def _lend_netdevs(cards: list[str], monitor: Path) -> None:
    """Give a card that was just unplugged its netdev back for the daemon to remove.

    The daemon removes the netdev of a card that is gone, and ends the guest when that fails.
    """
    try:
        with Console(path=monitor).connect(timeout_s=2) as stream, stream.makefile("rwb") as wire:
            talk = _Talk(wire)
            talk.ask("qmp_capabilities")
            plugged = {one["name"] for one in talk.ask("qom-list", path="/machine/peripheral")["return"]}
            for alias in cards:
                if alias not in plugged:
                    talk.ask("netdev_add", type="hubport", hubid=0, id=f"host{alias}")
    except (OSError, ValueError, KeyError) as error:
        log.warning("the monitor %s of a guest does not answer: %s", monitor, error)


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
