"""Volumes that are only remembered: no bytes, but every rule of a real backend, with delays and faults one can set.

Each volume and snapshot is a small file that tells its size, so that what was promised survives a restart, and several
processes may use one folder.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from altostack.volume.drivers.base import (
    BackendFull,
    DriverError,
    Existing,
    FromImage,
    FromSnapshot,
    FromVolume,
    Mode,
    SnapshotNotFound,
    Source,
    SourceUnusable,
    Stats,
    VolumeNotFound,
)

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


class Faults:
    """Delays and faults, set from any thread. Verbs are named as in VolumeDriver."""

    def __init__(self) -> None:
        self.delays: dict[str, float] = {}
        self._next: dict[str, list[DriverError]] = {}
        self._lock = threading.Lock()

    def fail_next(self, verb: str, *, times: int = 1, error: DriverError | None = None) -> None:
        """The next ``times`` calls of the verb raise ``error``."""
        with self._lock:
            self._next.setdefault(verb, []).extend(
                [error or DriverError(f"simulated fault of {verb}")] * times
            )

    def meet(self, verb: str) -> None:
        """Live through what is set for the verb. Raises DriverError."""
        time.sleep(self.delays.get(verb, 0.0))
        with self._lock:
            if errors := self._next.get(verb):
                raise errors.pop(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """What is kept of a volume or snapshot: its size in GiB, and what it was made from, to be looked at by tests."""

    gib: int
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class SimulatedDriver:
    """A VolumeDriver that pretends to hold ``capacity_gib`` GiB, remembering in ``folder``.

    ``thin``: more may be promised than there is, as with sparse files; else a promise takes its space at once.
    """

    folder: Path
    capacity_gib: int = 10_000
    thin: bool = True
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        for kind in ("volumes", "snapshots"):
            (self.folder / kind).mkdir(parents=True, exist_ok=True)

    def ensure(self, volume_id: str, *, gib: int, source: Source | None = None) -> None:
        """See `VolumeDriver.ensure`."""
        self.faults.meet("ensure")
        there = self._read("volumes", volume_id)
        if there is not None:
            self._grow(volume_id, there, gib)
            return
        needed, name = self._needed(source)
        if needed > gib:
            raise SourceUnusable(f"the source needs {needed} GiB, the volume has {gib} GiB")
        self._take(gib)
        self._write("volumes", volume_id, Remembered(gib=gib, source=name))

    def remove(self, volume_id: str) -> None:
        """See `VolumeDriver.remove`."""
        self.faults.meet("remove")
        self._path("volumes", volume_id).unlink(missing_ok=True)

    def extend(self, volume_id: str, *, gib: int) -> None:
        """See `VolumeDriver.extend`."""
        self.faults.meet("extend")
        self._grow(volume_id, self._volume(volume_id), gib)

    def snapshot(self, snapshot_id: str, *, volume_id: str) -> None:
        """See `VolumeDriver.snapshot`."""
        self.faults.meet("snapshot")
        if self._read("snapshots", snapshot_id) is None:
            volume = self._volume(volume_id)
            self._take(volume.gib)
            self._write("snapshots", snapshot_id, Remembered(gib=volume.gib, source=f"volume {volume_id}"))

    def remove_snapshot(self, snapshot_id: str) -> None:
        """See `VolumeDriver.remove_snapshot`."""
        self.faults.meet("remove_snapshot")
        self._path("snapshots", snapshot_id).unlink(missing_ok=True)

    def connection(self, volume_id: str, *, mode: Mode = "rw") -> dict[str, Any]:
        """See `VolumeDriver.connection`. Shaped like the local driver's; the path is the file that remembers."""
        self.faults.meet("connection")
        self._volume(volume_id)
        path = self._path("volumes", volume_id)
        return {
            "driver_volume_type": "local",
            "data": {"path": str(path.absolute()), "format": "raw", "access_mode": mode},
        }

    def terminate(self, volume_id: str) -> None:
        """See `VolumeDriver.terminate`."""
        self.faults.meet("terminate")
        self._path("volumes", volume_id)

    def copy_to_image(self, volume_id: str, out: Path, *, format: str) -> None:
        """See `VolumeDriver.copy_to_image`. The image is raw: one MiB of zeros."""
        self.faults.meet("copy_to_image")
        if format != "raw":
            raise DriverError(f"a simulated volume cannot be written as {format!r}, only as raw")
        self._volume(volume_id)
        _appear(out, bytes(1 << 20))

    def stats(self) -> Stats:
        """See `VolumeDriver.stats`."""
        self.faults.meet("stats")
        promised = self._promised()
        return Stats(
            total_gib=self.capacity_gib,
            free_gib=max(0, self.capacity_gib - promised),
            provisioned_gib=promised,
        )

    def list(self) -> Existing:
        """See `VolumeDriver.list`."""
        self.faults.meet("list")
        return Existing(
            volumes=frozenset(self._names("volumes")), snapshots=frozenset(self._names("snapshots"))
        )

    def remembered(self, volume_id: str) -> Remembered:
        """What is kept of a volume. Raises VolumeNotFound."""
        return self._volume(volume_id)

    def _needed(self, source: Source | None) -> tuple[int, str]:
        """Size in GiB and name of a source."""
        match source:
            case None:
                return 0, ""
            case FromVolume(volume_id=volume_id):
                return self._volume(volume_id).gib, f"volume {volume_id}"
            case FromSnapshot(snapshot_id=snapshot_id):
                snapshot = self._read("snapshots", snapshot_id)
                if snapshot is None:
                    raise SnapshotNotFound(f"there is no snapshot {snapshot_id}")
                return snapshot.gib, f"snapshot {snapshot_id}"
            case FromImage(path=path):
                if not path.exists():
                    raise SourceUnusable(f"the image {path} cannot be read")
                return 0, f"image {path.name}"

    def _grow(self, volume_id: str, there: Remembered, gib: int) -> None:
        if there.gib < gib:
            self._take(gib - there.gib)
            self._write("volumes", volume_id, Remembered(gib=gib, source=there.source))

    def _take(self, gib: int) -> None:
        if self.thin:
            return
        promised = self._promised()
        if promised + gib > self.capacity_gib:
            raise BackendFull(
                f"{gib} GiB wanted, {self.capacity_gib - promised} GiB of {self.capacity_gib} left"
            )

    def _promised(self) -> int:
        kept = (self._read(kind, name) for kind in ("volumes", "snapshots") for name in self._names(kind))
        return sum(each.gib for each in kept if each is not None)

    def _names(self, kind: str) -> Iterator[str]:
        return (name for name in os.listdir(self.folder / kind) if not name.startswith("."))

    def _path(self, kind: str, name: str) -> Path:
        if not _ID.fullmatch(name):  # ids become file names
            raise DriverError(f"{name!r} is not an id")
        return self.folder / kind / name

    def _volume(self, volume_id: str) -> Remembered:
        volume = self._read("volumes", volume_id)
        if volume is None:
            raise VolumeNotFound(f"there is no volume {volume_id}")
        return volume

    def _read(self, kind: str, name: str) -> Remembered | None:
        try:
            return msgspec.json.decode(self._path(kind, name).read_bytes(), type=Remembered)
        except FileNotFoundError:
            return None

    def _write(self, kind: str, name: str, kept: Remembered) -> None:
        _appear(self._path(kind, name), msgspec.json.encode(kept))


def _appear(path: Path, content: bytes) -> None:
    """Have a file whole or not at all, also when several threads write it at once."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    new.write_bytes(content)
    new.replace(path)
