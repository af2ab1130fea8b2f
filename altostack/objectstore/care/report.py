"""What the daemons did, in small JSON files: one a daemon and device, replaced as a whole after each pass.

They lie in ``objectstore/recon`` of the cloud's folder. A report is numbers of one pass and when it was; whoever
wants to know how a node is reads them (`Reports.all`), here or over the node's HTTP.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One pass. began, ended: seconds since 1970. whole: it came to its end. did: what it counted, by name.

    trouble: what went wrong, at most the first few; such a pass is repeated.
    """

    daemon: str
    device: str
    began: float
    ended: float
    whole: bool = True
    did: dict[str, int] = {}
    trouble: list[str] = []

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(slots=True)
class Tally:
    """Counts what a pass does. ``stopped`` tells it to end early."""

    daemon: str
    device: str
    began: float
    stopping: threading.Event | None = None
    did: dict[str, int] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    whole: bool = True

    def count(self, name: str, number: int = 1) -> None:
        """Add to a number."""
        self.did[name] = self.did.get(name, 0) + number

    def complain(self, text: object) -> None:
        """Remember what went wrong."""
        self.count("failed")
        if len(self.trouble) < 10:
            self.trouble.append(str(text))

    @property
    def stopped(self) -> bool:
        """Whether the pass is to end here; it counts as not whole then."""
        if self.stopping is not None and self.stopping.is_set():
            self.whole = False
        return not self.whole


class Reports:
    """The reports of one machine."""

    def __init__(self, folder: Path, stopping: threading.Event | None = None) -> None:
        self.folder = folder / "objectstore" / "recon"
        self._stopping = stopping

    @contextlib.contextmanager
    def tally(self, daemon: str, device: str = "") -> Iterator[Tally]:
        """A pass: what it counted is written when it ends, also when it fails."""
        made = Tally(daemon, device, time.time(), self._stopping)
        try:
            yield made
        except BaseException as error:
            made.whole = False
            made.complain(f"{type(error).__name__}: {error}")
            raise
        finally:
            self.write(
                Report(
                    daemon=daemon, device=device, began=made.began, ended=time.time(), whole=made.whole,
                    did=made.did, trouble=made.trouble,
                )
            )  # fmt: skip

    def write(self, report: Report) -> None:
        """Replace the report of this daemon and device."""
        name = f"{report.daemon}-{report.device}" if report.device else report.daemon
        self.keep(name, report)

    def keep(self, name: str, value: Any) -> None:
        """Replace a file; ``value`` is written as JSON."""
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = self.folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
        scratch.write_bytes(msgspec.json.encode(value))
        scratch.replace(self.folder / f"{name}.json")

    def kept(self, name: str) -> Any:
        """What `keep` wrote; None when there is nothing readable: a cut-off or damaged file is as good as none."""
        try:
            return msgspec.json.decode((self.folder / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def all(self) -> list[Report]:
        """Every report that can be read, by daemon and device."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append(msgspec.json.decode(path.read_bytes(), type=Report))
        return found
