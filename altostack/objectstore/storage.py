"""What a storage node offers to the proxy and to the daemons, whether it is in this process or reached over HTTP.

`Node` is the seam: `disk.local.LocalNode` works on this machine's devices, `disk.remote.RemoteNode` asks another
machine's. Nothing here knows of tenants, tokens or ACLs. Every write carries its timestamp (`stamp`), the newest wins,
and the same call made twice changes nothing: so calls may be repeated in any order, by anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from altostack.objectstore.http import Extent

Kind = Literal["account", "container"]


class StorageError(Exception):
    """A node could not do what it was asked; the subclasses say why."""


class Missing(StorageError):
    """There is no such object, container or account. ``timestamp``: when it was deleted, None if it never was here."""

    def __init__(self, timestamp: str | None = None) -> None:
        self.timestamp = timestamp
        super().__init__("not here" if timestamp is None else f"deleted at {timestamp}")


class Superseded(StorageError):
    """Something as new or newer is here. ``timestamp``: its own."""

    def __init__(self, timestamp: str) -> None:
        self.timestamp = timestamp
        super().__init__(f"a version of {timestamp} is here")


class Exists(StorageError):
    """The write was to happen only if nothing is here (If-None-Match: *)."""


class NotEmpty(StorageError):
    """A container with objects, or an account with containers, cannot be deleted."""


class DeviceGone(StorageError):
    """The device is not mounted, fails to read or write, or its node does not answer: use another."""


class DeviceFull(StorageError):
    """No space is left on the device."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where something lies on a node: a device's name, a partition, and the hash of what is there (32 hex digits).

    ``policy``: the storage policy's index; 0 for accounts and containers.
    """

    device: str
    part: int
    digest: str
    policy: int = 0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a container's list of objects, or of an account's list of containers.

    timestamp: of the version listed. size: bytes (an account's row: bytes in the container). count: objects (account
    rows alone). deleted: the line says that the name is gone since ``timestamp``. For objects a POST changes
    content_type at ``type_timestamp`` and is known to be as new as ``meta_timestamp``; empty means `timestamp`.
    """

    name: str
    timestamp: str
    size: int = 0
    content_type: str = ""
    etag: str = ""
    deleted: bool = False
    policy: int = 0
    count: int = 0
    type_timestamp: str = ""
    meta_timestamp: str = ""


@dataclass(frozen=True, slots=True)
class Update:
    """A line for a container (or account) on another device, to be delivered by the node that made it true.

    host, port: of the node that holds the copy; spot: the copy. What cannot be delivered at once is kept on the
    device and delivered later.
    """

    host: str
    port: int
    spot: Spot
    kind: Kind
    account: str
    container: str | None  # None: the line is of an account's list
    row: Row


@dataclass(frozen=True, slots=True)
class Query:
    """Which names of a list are wanted (object storage API, listings). Names between markers exclude the markers.

    path: only names directly below it, None for no such wish. limit: how many at most. Deleted names are left out.
    """

    limit: int = 10_000
    marker: str = ""
    end_marker: str = ""
    prefix: str = ""
    delimiter: str = ""
    path: str | None = None
    reverse: bool = False
    policy: int | None = None


@dataclass(frozen=True, slots=True)
class Subdir:
    """A common prefix in a listing with a delimiter."""

    name: str


Metadata = Mapping[str, str]
Dated = Mapping[
    str, tuple[str, str]
]  # lower-case name -> (value, timestamp); an empty value says: removed then


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What an account or container is. counts are of this copy.

    metadata: headers as set by users and by us, lower-case, each with its timestamp. shards: 0 for a container that is
    not split. policy: None for accounts.
    """

    account: str
    container: str | None = None
    id: str = ""  # of this copy of the database
    created: str = ""  # first put
    put: str = ""  # newest put
    deleted: str = ""  # newest delete
    changed: str = ""  # newest change of status
    count: int = 0  # objects; for an account, objects in all containers
    bytes: int = 0
    containers: int = 0  # accounts alone
    policy: int | None = None
    metadata: dict[str, tuple[str, str]] = {}
    per_policy: dict[int, tuple[int, int, int]] = {}  # accounts: policy -> (containers, objects, bytes)
    state: str = "unsharded"
    shards: int = 0

    @property
    def gone(self) -> bool:
        """Whether its newest word is that it is deleted. A deleted container that has objects nevertheless is there."""
        return bool(self.deleted) and self.deleted > self.put and (self.container is None or not self.count)


class Stored(Protocol):
    """An object (or one fragment of it) found on a device and held open. Whoever gets one closes it.

    timestamp: of the data. changed: of the newest change, data or metadata. metadata: lower-case names; always there:
    "name" (the path /account/container/object), "content-length", "content-type", "etag". length: bytes in the file.
    frag: a fragment's index, None for a whole copy. durable: False for a fragment whose second phase was not seen.
    """

    timestamp: str
    changed: str
    metadata: Metadata
    length: int
    frag: int | None
    durable: bool

    def content(self, start: int = 0, stop: int | None = None) -> Extent | Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``; takes over the file: close what this returns, or read it whole.

        Damage that shows while reading (short file, wrong sum over a whole read) is quarantined; raises DeviceGone.
        """
        ...

    def close(self) -> None: ...


class Writer(Protocol):
    """An object on its way to a device. Ends with `put` (and `commit`) or `abort`."""

    def write(self, data: bytes) -> None:
        """Raises DeviceFull, DeviceGone."""
        ...

    def put(self, metadata: Metadata, updates: Sequence[Update] = ()) -> None:
        """All is written: make it last and, for a replicated policy, visible; then deliver or keep ``updates``.

        The same content with the same timestamp again changes nothing and is no error. Raises Superseded when
        something else as new is here, Exists (a node over HTTP says so here for small content), DeviceFull, DeviceGone.
        """
        ...

    def commit(self) -> None:
        """Second phase of an erasure-coded write: enough fragments are on disk. Nothing to do for whole copies.

        Only now the object is there, and the updates that `put` was given are delivered or kept.
        """
        ...

    def abort(self) -> None:
        """Leave nothing behind. May be called at any time, also after `put` (then it does nothing)."""
        ...


class Node(Protocol):
    """A storage node. Every method may raise DeviceGone."""

    # ---- objects

    def read(self, spot: Spot, *, frag: int | None = None, timestamp: str | None = None) -> Stored:
        """The newest version, or the one of ``timestamp``; for erasure coding the fragment ``frag`` or any.

        Raises Missing (with the tombstone's time when there is one).
        """
        ...

    def write(
        self,
        spot: Spot,
        timestamp: str,
        *,
        size: int | None = None,
        frag: int | None = None,
        absent: bool = False,
    ) -> Writer:
        """Begin to write. ``size``: bytes to come, if known: room is made sure of first. ``absent``: only if nothing
        is here. Raises Superseded, Exists, DeviceFull."""
        ...

    def update(self, spot: Spot, timestamp: str, metadata: Metadata, updates: Sequence[Update] = ()) -> None:
        """Replace the object's own metadata (POST); system metadata of the data stays. Raises Missing, Superseded."""
        ...

    def delete(self, spot: Spot, timestamp: str, updates: Sequence[Update] = (), *, name: str = "") -> bool:
        """Write a tombstone, whether anything is here or not. Whether there was. Raises Superseded."""
        ...

    # ---- accounts and containers: ``container`` None is the account itself

    def create(
        self,
        spot: Spot,
        account: str,
        container: str | None,
        timestamp: str,
        *,
        policy: int | None = None,
        metadata: Dated | None = None,
        updates: Sequence[Update] = (),
    ) -> bool:
        """Make it, or bring it back, or touch it; True when it was not there. Raises Superseded for another policy
        (the timestamp is the existing container's)."""
        ...  # fmt: skip

    def info(self, spot: Spot, account: str, container: str | None) -> Info:
        """Raises Missing."""
        ...

    def change(
        self, spot: Spot, account: str, container: str | None, timestamp: str, metadata: Dated
    ) -> None:
        """Merge metadata; the newest value of a name wins. Raises Missing."""
        ...

    def destroy(
        self,
        spot: Spot,
        account: str,
        container: str | None,
        timestamp: str,
        *,
        updates: Sequence[Update] = (),
    ) -> bool:
        """Mark as deleted; whether it was there. Raises NotEmpty, Superseded."""
        ...

    def list(self, spot: Spot, account: str, container: str | None, query: Query) -> Sequence[Row | Subdir]:
        """Names in byte order of their UTF-8 form. Raises Missing."""
        ...

    def record(self, spot: Spot, account: str, container: str | None, rows: Iterable[Row]) -> None:
        """Add or supersede lines. An account is made when it is missing; raises Missing for a container."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the ring knows it. ``host``, ``port``: where its node answers."""

    id: int
    region: int
    zone: int
    host: str
    port: int
    device: str
    weight: float = 1.0
    meta: str = ""
    replication_host: str = ""  # where daemons reach it; the same by default
    replication_port: int = 0


class RingView(Protocol):
    """What everybody but the builder needs of a ring."""

    @property
    def replicas(self) -> int:
        """How many copies (or fragments) a partition has, fractions rounded up."""
        ...

    @property
    def parts(self) -> int:
        """How many partitions: a power of two."""
        ...

    @property
    def next_part_power(self) -> int | None:
        """While the partitions are being doubled: of two, how many they are going to be (or are already)."""
        ...

    @property
    def version(self) -> int:
        """Rises with every rebalance."""
        ...

    @property
    def devices(self) -> Sequence[Device]:
        """Every device that has a weight or a partition."""
        ...

    def locate(
        self, account: str, container: str | None = None, object: str | None = None
    ) -> tuple[int, str]:
        """(partition, digest) of a name. The digest is keyed with the ring's salt."""
        ...

    def nodes(self, part: int) -> Sequence[Device]:
        """The partition's own devices, in the order of their copies (or fragment indexes)."""
        ...

    def handoffs(self, part: int) -> Iterator[Device]:
        """The others, the best substitute first: unlike regions, zones and hosts before like ones."""
        ...


@dataclass(frozen=True, slots=True)
class StoragePolicy:
    """How objects of a container are kept. ``erasure``: None for whole copies."""

    name: str
    index: int
    default: bool = False
    deprecated: bool = False
    aliases: tuple[str, ...] = ()
    erasure: Erasure | None = None


@dataclass(frozen=True, slots=True)
class Erasure:
    """type: a liberasurecode code. data + parity fragments; segment: bytes that are coded at a time."""

    type: str
    data: int
    parity: int
    segment: int = 1 << 20
    duplication: int = field(default=1)
