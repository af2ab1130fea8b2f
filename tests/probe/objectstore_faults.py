"""Faults that a process of the probe has in itself: being cut off from some nodes."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from altostack.objectstore.disk.remote import RemoteNode
from altostack.objectstore.storage import DeviceGone

FILE = "faults.json"


@contextlib.contextmanager
def cut_off(folder: Path) -> Iterator[None]:
    """Requests to the nodes that FOLDER/faults.json names fail, as if no packet came through."""
    whole = RemoteNode.exchange

    def exchange(self: RemoteNode, *places: Any, **names: Any) -> Any:
        if f"{self.host}:{self.port}" in refused(folder):
            raise DeviceGone(f"{self.host}:{self.port} is cut off")
        return whole(self, *places, **names)

    RemoteNode.exchange = exchange  # type: ignore[method-assign] # for the life of this process
    try:
        yield
    finally:
        RemoteNode.exchange = whole  # type: ignore[method-assign] # as it was


def refused(folder: Path) -> list[str]:
    """The nodes that this process is cut off from."""
    try:
        return list(json.loads((folder / FILE).read_text())["refuse"])
    except (FileNotFoundError, ValueError, KeyError):
        return []


def stop_on_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT end the process in order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
