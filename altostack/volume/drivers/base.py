"""The seam between the volume service and what keeps the bytes.

Every verb is keyed by the id of the volume or snapshot and idempotent: killed at any moment and called again, it ends
as if it had been called once. What is not complete is never seen under its id.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Mode = Literal["rw", "ro"]


class DriverError(Exception):
    """The backend could not do what it was asked. The message is fit for an operator."""


class VolumeNotFound(DriverError):
    """No complete volume of that id exists."""


class SnapshotNotFound(DriverError):
    """No complete snapshot of that id exists."""


class SourceUnusable(DriverError):
    """The image cannot become a volume: missing, not of the format it is said to be, unsafe, or too large."""


class VolumeBusy(DriverError):
    """A guest writes to the volume, and this backend cannot copy it consistently meanwhile."""


class BackendFull(DriverError):
    """No space is left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FromImage:
    """Source of a volume: a local file in one of the image formats ("raw", "qcow2", "vmdk", "vdi", "vhd", ...)."""

    path: Path
    format: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FromSnapshot:
    """Source of a volume: a snapshot of this backend."""

    snapshot_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FromVolume:
    """Source of a volume: another volume of this backend."""

    volume_id: str


Source = FromImage | FromSnapshot | FromVolume


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """Capacity in GiB: the backend's whole and free space, and the sum of the sizes promised to volumes and
    snapshots, which may exceed the whole, because space is taken only when written."""

    total_gib: float
    free_gib: float
    provisioned_gib: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Existing:
    """Ids of everything complete that the backend holds: what no row owns is an orphan."""

    volumes: frozenset[str]
    snapshots: frozenset[str]


class VolumeDriver(Protocol):
    """What keeps volumes. Verbs block, may be called from any thread or process, and raise DriverError."""

    def ensure(self, volume_id: str, *, gib: int, source: Source | None = None) -> None:
        """Have a volume of ``gib`` GiB: filled from ``source`` and zeros behind it, or all zeros.

        One that is there keeps its content; it grows when it is smaller. Raises SourceUnusable, VolumeNotFound or
        SnapshotNotFound (the source), VolumeBusy (the source volume), BackendFull.
        """

    def remove(self, volume_id: str) -> None:
        """Have no such volume, nor anything half-made of it. Volumes and snapshots made from it live on."""

    def extend(self, volume_id: str, *, gib: int) -> None:
        """Have the volume at least ``gib`` GiB large, also while a guest uses it.

        Raises VolumeNotFound, BackendFull.
        """

    def snapshot(self, snapshot_id: str, *, volume_id: str) -> None:
        """Have a snapshot of the volume, as it is at one moment. One that is there stays as it is.

        Raises VolumeNotFound, VolumeBusy, BackendFull.
        """

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Have no such snapshot. Volumes made from it live on."""

    def connection(self, volume_id: str, *, mode: Mode = "rw") -> dict[str, Any]:
        """How a guest's host reaches the volume, as the Block Storage API's connection_info:
        {"driver_volume_type": ..., "data": {...}}. Raises VolumeNotFound."""

    def terminate(self, volume_id: str) -> None:
        """End what `connection` began. Nothing there is no error."""

    def copy_to_image(self, volume_id: str, out: Path, *, format: str) -> None:
        """Write the volume, as it is at one moment, into the file ``out`` in an image format; it appears whole.

        Raises VolumeNotFound, VolumeBusy, BackendFull, or DriverError for a format that cannot be written.
        """

    def stats(self) -> Stats:
        """Capacity now."""

    def list(self) -> Existing:
        """All that is there."""
