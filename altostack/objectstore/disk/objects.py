"""Objects in files: reading and writing one of them on one device."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from altostack.objectstore.disk import layout, record
from altostack.objectstore.disk.device import Devices, make_folders, sync_folder, trouble
from altostack.objectstore.disk.layout import File, Files
from altostack.objectstore.http import Extent
from altostack.objectstore.storage import (
    DeviceGone,
    Exists,
    Metadata,
    Missing,
    Spot,
    Superseded,
    Update,
)

log = logging.getLogger(__name__)

_CHECKED = (
    64 << 10
)  # content up to this size has a check sum of its own, which is looked at when it is read whole
_LEVELS = 4  # objects[-N], partition, suffix, digest

# What belongs to the content and outlives a POST (Swift API, POST object: system metadata is kept).
_OF_CONTENT = frozenset({"name", "content-length", "etag", "x-static-large-object"})
TYPED = "x-backend-content-type-timestamp"

Deliver = Callable[[str, Spot, Sequence[Update]], None]


def of_content(name: str) -> bool:
    """Whether a POST leaves this metadata as it is."""
    return name in _OF_CONTENT or name.startswith("x-object-sysmeta-")


def look(folder: str) -> Files:
    """An object's files; none when the folder is not there. Raises OSError."""
    try:
        return layout.choose(os.listdir(folder))
    except FileNotFoundError:
        return layout.choose(())


def touch(folder: str) -> None:
    """Say that something changed in an object's folder: hashes of its suffix and partition are to be made anew.

    Their folders' times of change are the log: see `hashes`.
    """
    now = time.time_ns()
    suffix = os.path.dirname(folder)
    os.utime(suffix, ns=(now, now))
    os.utime(os.path.dirname(suffix), ns=(now, now))


def quarantine(device: str, spot: Spot, path: str, why: str) -> None:
    """Put a damaged file where nobody reads it. Raises OSError."""
    log.error("%s is damaged and goes to quarantine: %s", path, why)
    target = f"{device}/{layout.QUARANTINED}/{layout.named('objects', spot.policy)}/{spot.digest}"
    os.makedirs(target, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # somebody else saw it, too
        os.rename(path, f"{target}/{os.path.basename(path)}")
        touch(os.path.dirname(path))


class Opened:
    """A version that is held open: `storage.Stored`.

    own: metadata of the data file; posted: what a POST set, None without one.
    """

    __slots__ = (
        "_descriptor", "_device", "_path", "_spot", "_sum", "changed", "durable", "frag", "length", "metadata", "own",
        "posted", "timestamp",
    )  # fmt: skip

    def __init__(
        self,
        descriptor: int,
        device: str,
        spot: Spot,
        path: str,
        file: File,
        found: record.Record,
        meta: File | None,
        posted: Mapping[str, str] | None,
        durable: bool,
    ) -> None:
        self._descriptor, self._device, self._spot, self._path = descriptor, device, spot, path
        self._sum = found.sum
        self.timestamp = file.timestamp
        self.changed = file.timestamp if meta is None else meta.timestamp
        self.length = found.size
        self.frag = file.frag
        self.durable = durable
        self.own: Metadata = found.metadata
        self.posted = posted
        self.metadata: Metadata = found.metadata if posted is None else merged(found.metadata, posted)

    def content(self, start: int = 0, stop: int | None = None) -> Extent | Iterator[bytes]:
        stop = self.length if stop is None else min(stop, self.length)
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            raise ValueError("the content was taken or closed already")
        if self._sum is None or start > 0 or stop < self.length:
            return Extent(descriptor, start, max(0, stop - start))
        try:
            data = os.pread(descriptor, self.length, 0)
        except OSError as error:
            raise trouble(self._device, error) from error
        finally:
            os.close(descriptor)
        if zlib.crc32(data) != self._sum:
            quarantine(self._device, self._spot, self._path, "the content's check sum is wrong")
            raise DeviceGone(f"{os.path.basename(self._device)}: the object is damaged")
        return iter((data,))

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def merged(own: Metadata, posted: Metadata) -> dict[str, str]:
    """What an object's metadata is after a POST."""
    result = {name: value for name, value in own.items() if of_content(name)}
    result |= {name: value for name, value in posted.items() if name != TYPED}
    result.setdefault("content-type", own.get("content-type", "application/octet-stream"))
    return result


def read(
    devices: Devices, device: str, spot: Spot, *, frag: int | None = None, timestamp: str | None = None
) -> Opened:
    """See `storage.Node.read`. Raises Missing, DeviceGone, OSError."""
    folder = layout.object_folder(device, spot)
    while True:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            devices.ensure(device)
            raise Missing from None
        files = layout.choose(names)
        file = _wanted(files, frag, timestamp)
        path = f"{folder}/{file.name}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # replaced since
        try:
            found = record.load(descriptor)
            posted = None
            meta = files.meta if files.meta is not None and files.meta.timestamp > file.timestamp else None
            if meta is not None:
                posted = _posted(device, spot, f"{folder}/{meta.name}")
                if posted is None:
                    os.close(descriptor)
                    continue
            durable = file.durable or file in files.data
            return Opened(descriptor, device, spot, path, file, found, meta, posted, durable)
        except record.Damaged as damage:
            os.close(descriptor)
            quarantine(device, spot, path, str(damage))
        except BaseException:
            os.close(descriptor)
            raise


def _wanted(files: Files, frag: int | None, timestamp: str | None) -> File:
    """Raises Missing."""
    candidates = files.data or (() if files.tombstone else files.loose)
    if timestamp is not None:
        candidates = tuple(file for file in (*files.data, *files.loose) if file.timestamp == timestamp)
    if frag is not None:
        candidates = tuple(file for file in candidates if file.frag == frag)
    if not candidates:
        raise Missing(files.tombstone or None)
    return candidates[0]


def _posted(device: str, spot: Spot, path: str) -> dict[str, str] | None:
    """What a ``.meta`` holds; None when it is gone or damaged: look again. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return record.load(descriptor).metadata
    except record.Damaged as damage:
        quarantine(device, spot, path, str(damage))
        return None
    finally:
        os.close(descriptor)


class FileWriter:
    """An object on its way to a device: `storage.Writer`."""

    def __init__(
        self,
        devices: Devices,
        device: str,
        spot: Spot,
        timestamp: str,
        deliver: Deliver,
        *,
        size: int | None,
        frag: int | None,
        absent: bool,
    ) -> None:
        self._devices, self._device, self._spot = devices, device, spot
        self._timestamp, self._frag, self._deliver = timestamp, frag, deliver
        self._folder = layout.object_folder(device, spot)
        self._absent = absent
        self._written = 0
        self._sum: int | None = 0
        self._visible = ""
        self._check(look(self._folder))
        devices.room(device, size or 0)
        self._descriptor, self._temporary = devices.temporary(device)
        self._announced = 0
        if size is not None and size > _CHECKED:
            try:
                os.posix_fallocate(self._descriptor, 0, size)
            except OSError:
                self.abort()
                raise
            self._announced = size

    def _check(self, files: Files) -> None:
        """Raises Superseded, Exists."""
        if files.newest > self._timestamp or files.tombstone == self._timestamp:
            raise Superseded(files.newest)
        if self._absent and files.data and files.newest != self._timestamp:
            raise Exists("an object is here")

    def write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.abort()
            raise trouble(self._device, error) from error
        self._written += len(data)
        if self._sum is not None:
            self._sum = None if self._written > _CHECKED else zlib.crc32(data, self._sum)

    def put(self, metadata: Metadata, updates: Sequence[Update] = ()) -> None:
        try:
            if self._announced > self._written:
                os.ftruncate(self._descriptor, self._written)
            record.store(self._descriptor, metadata, self._written, self._sum)
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            files = look(self._folder)
            self._check(files)
            durable = self._frag is None
            name = layout.data_name(self._timestamp, self._frag, durable=durable)
            place(self._temporary, self._folder, name)
            self._temporary = ""
            self._visible = name
            if durable:
                clean(self._folder)
        except OSError as error:
            self.abort()
            raise trouble(self._device, error) from error
        except BaseException:
            self.abort()
            raise
        self._deliver(self._device, self._spot, updates)

    def commit(self) -> None:
        if self._frag is None:
            return
        try:
            commit(self._folder, self._timestamp, self._frag)
        except OSError as error:
            raise trouble(self._device, error) from error

    def abort(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        temporary, self._temporary = self._temporary, ""
        if descriptor >= 0:
            os.close(descriptor)
        if temporary:
            with contextlib.suppress(OSError):  # a device that is gone keeps it; the folder is swept later
                os.unlink(temporary)


def place(temporary: str, folder: str, name: str) -> None:
    """Move a synced file to its place and make that last. Raises OSError."""
    changed: list[str] = []
    target = f"{folder}/{name}"
    while True:
        try:
            os.rename(temporary, target)
            break
        except FileNotFoundError:
            changed += make_folders(folder, _LEVELS)
    touch(folder)
    for one in (folder, *reversed(changed)):
        sync_folder(one)


def commit(folder: str, timestamp: str, frag: int) -> None:
    """The second phase of a fragment. Nothing to do when it is done or a newer version has come. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(
            f"{folder}/{layout.data_name(timestamp, frag, durable=False)}",
            f"{folder}/{layout.data_name(timestamp, frag)}",
        )
        touch(folder)
        sync_folder(folder)
        clean(folder)


def clean(folder: str) -> None:
    """Remove what a newer version made obsolete. Raises OSError."""
    for file in look(folder).obsolete:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{folder}/{file.name}")


def update(devices: Devices, device: str, spot: Spot, timestamp: str, metadata: Metadata) -> None:
    """See `storage.Node.update`. Raises Missing, Superseded, DeviceGone, OSError."""
    with contextlib.closing(read(devices, device, spot)) as held:
        if not held.durable:
            raise Missing
        posted = dict(held.posted or {})
        newest, data_at = held.changed, held.timestamp
    typed = posted.get(TYPED, data_at)
    wants = metadata.get(TYPED, timestamp) if "content-type" in metadata else ""
    if timestamp <= newest and wants <= typed:
        raise Superseded(newest)
    result = dict(metadata) if timestamp > newest else posted
    result.pop("content-type", None)
    result.pop(TYPED, None)
    result = {name: value for name, value in result.items() if not of_content(name)}
    if wants > typed:
        result |= {"content-type": metadata["content-type"], TYPED: wants}
    elif TYPED in posted:
        result |= {"content-type": posted["content-type"], TYPED: posted[TYPED]}
    stamp = max(timestamp, newest)
    _small(devices, device, spot, layout.meta_name(stamp, result.get(TYPED, "")), result)


def delete(devices: Devices, device: str, spot: Spot, timestamp: str, name: str) -> bool:
    """See `storage.Node.delete`. Raises Superseded, DeviceGone, OSError."""
    files = look(layout.object_folder(device, spot))
    if files.tombstone == timestamp:
        return False
    if files.newest >= timestamp:
        raise Superseded(files.newest)
    _small(devices, device, spot, f"{timestamp}.ts", {"name": name})
    return bool(files.data)


def _small(devices: Devices, device: str, spot: Spot, name: str, metadata: Metadata) -> None:
    """A file without content. Raises DeviceGone, OSError."""
    folder = layout.object_folder(device, spot)
    descriptor, temporary = devices.temporary(device)
    try:
        try:
            record.store(descriptor, metadata, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        place(temporary, folder, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    clean(folder)
