"""Objects in files: how one is read, changed, and put in its place on one device."""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from altostack.objectstore.disk import layout, record
from altostack.objectstore.disk.device import Devices, names_last_with_files
from altostack.objectstore.disk.journal import Kept
from altostack.objectstore.disk.layout import File, Files
from altostack.objectstore.files import make_folders, names, open_unseen, sync_folder, touch_above
from altostack.objectstore.http import Extent
from altostack.objectstore.storage import DeviceGone, Metadata, Missing, Spot, Superseded, Update

log = logging.getLogger(__name__)

CHECKED = 64 << 10  # content up to this size is in memory, and compared with its check sum, when it is read
_LOOKS = 100  # at a folder whose files are gone, or are set aside, when they are opened
_LEVELS = 4  # objects[-N], partition, suffix, digest

# What belongs to the content and outlives a POST (Swift API, POST object: system metadata is kept).
_OF_CONTENT = frozenset({"name", "content-length", "etag", "x-static-large-object"})
TYPED = "x-backend-content-type-timestamp"


Lasting = Callable[[], Kept | None]
"""Returns when a file lasts: the journal's entry, None if it was synced by itself. Raises OSError."""


def of_content(name: str) -> bool:
    """Whether a POST leaves this metadata as it is."""
    return name in _OF_CONTENT or name.startswith("x-object-sysmeta-")


def look(folder: str) -> Files:
    """An object's files; none when the folder is not there. Raises OSError."""
    try:
        return layout.choose(names(folder))
    except FileNotFoundError:
        return layout.choose(())


def touch(folder: str) -> None:
    """Say that something changed in an object's folder: hashes of its suffix and partition are to be made anew.

    Their folders' times of change are the log: whoever keeps sums reads them before what lies in the folders.
    """
    touch_above(folder)


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

    own: metadata of the data file; posted: what a POST set, None without one. Small content is in memory.
    """

    __slots__ = (
        "_content", "_descriptor", "changed", "durable", "frag", "length", "metadata", "own", "posted", "timestamp",
    )  # fmt: skip

    def __init__(
        self,
        descriptor: int,
        content: bytes | None,
        file: File,
        found: record.Record,
        meta: File | None,
        posted: Mapping[str, str] | None,
        durable: bool,
    ) -> None:
        self._descriptor, self._content = descriptor, content
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
        if self._content is not None:
            return iter((self._content[start:stop],))
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            raise ValueError("the content was taken or closed already")
        return Extent(descriptor, start, max(0, stop - start))

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
    """See `storage.Node.read`. What is damaged goes to quarantine, and what is left is read.

    Raises Missing, DeviceGone, OSError.
    """
    folder = layout.object_folder(device, spot)
    for _ in range(_LOOKS):
        try:
            files = layout.choose(names(folder))
        except FileNotFoundError:
            devices.ensure(device)
            raise Missing from None
        file = _wanted(files, frag, timestamp)
        meta = files.meta if files.meta is not None and files.meta.timestamp > file.timestamp else None
        path = f"{folder}/{file.name}"
        posted = None
        try:
            if meta is not None:
                path = f"{folder}/{meta.name}"
                posted = _of_now(load(path).metadata, file.timestamp)
                path = f"{folder}/{file.name}"
            descriptor = open_unseen(path)
            try:
                found = record.load(descriptor)
                content = None if found.sum is None else _checked(descriptor, found)
            except BaseException:
                os.close(descriptor)
                raise
        except FileNotFoundError:
            continue  # replaced since
        except record.Damaged as damage:
            quarantine(device, spot, path, str(damage))
            continue
        if content is not None:
            os.close(descriptor)
            descriptor = -1
        durable = file.durable or file in files.data
        return Opened(descriptor, content, file, found, meta, posted, durable)
    raise DeviceGone(f"{os.path.basename(device)}: {folder} does not keep still")


def _of_now(posted: Metadata, since: str) -> Metadata:
    """What a POST says of content that is there ``since`` then: the content type that it knew may be older."""
    if TYPED in posted and posted[TYPED] <= since:
        return {name: value for name, value in posted.items() if name not in (TYPED, "content-type")}
    return posted


def _checked(descriptor: int, found: record.Record) -> bytes:
    """Small content. Raises Damaged, OSError."""
    content = os.pread(descriptor, found.size, 0)
    if zlib.crc32(content) != found.sum:
        raise record.Damaged("the content's check sum is wrong")
    return content


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


def place(
    descriptor: int,
    temporary: str,
    folder: str,
    name: str,
    twin: str = "",
    *,
    first: bool = False,
    keep: Callable[[str], Kept | None] = lambda path: None,
) -> Lasting:
    """Move a file to its place, before that link it into the folder ``twin``. Raises OSError.

    first: nothing was in the folder, which most likely is not there. keep: has something else see to it that the file
    at a path lasts, if it can. Otherwise it is synced before this returns.
    """
    # The twin first: whoever removes what lies in old partitions finds all of it in the new ones.
    changed = link(temporary, twin, name) if twin else []
    if first:
        changed += _folders(folder)
    target = f"{folder}/{name}"
    while True:
        try:
            os.rename(temporary, target)
            break
        except FileNotFoundError:
            if not os.path.exists(temporary):
                raise
            changed += _folders(folder)
    kept = None if twin else keep(target)
    if kept is None:
        _sync(descriptor, target, changed, twin)
        return _synced
    touch(folder)

    def wait() -> Kept | None:
        if kept.wait():
            return kept
        synced_again(target, changed)
        return None

    return wait


def _synced() -> None:
    return None


def synced_again(target: str, changed: Sequence[str] = ()) -> None:
    """Make a file last that somebody put in its place, and may not have synced. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):  # a newer version has come, and this one is of no use
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _sync(descriptor, target, changed)
        finally:
            os.close(descriptor)


def _sync(descriptor: int, target: str, changed: Sequence[str], twin: str = "") -> None:
    """Make a file in its place last, and where its sync does not do it, the folders that were made for it.

    One that another writer made just before is synced by that one. Raises OSError; then the file is gone.
    """
    folder, name = os.path.split(target)
    try:
        touch(folder)
        os.fsync(descriptor)
        # Of a file with two names, a file system without a journal syncs the way to one.
        if twin or not names_last_with_files(os.fstat(descriptor).st_dev):
            sync_folders(folder, changed)
    except OSError:
        for one in (target, f"{twin}/{name}") if twin else (target,):
            with contextlib.suppress(OSError):  # the device fails: what stays there was not acknowledged
                if os.path.samestat(os.stat(one), os.fstat(descriptor)):
                    os.unlink(one)
        raise


def _folders(folder: str) -> list[str]:
    """Make an object's folder; the folders that changed. To be tried again if it is swept away meanwhile."""
    try:
        return make_folders(folder, _LEVELS)
    except FileNotFoundError:
        return []


def link(path: str, folder: str, name: str) -> list[str]:
    """Have a file in a second folder, too; the folders that changed and are to be synced.

    Nothing to do when ``path`` is gone: a newer version has come. Raises OSError.
    """
    changed: list[str] = []
    while True:
        try:
            os.link(path, f"{folder}/{name}")
            break
        except FileExistsError:
            break
        except FileNotFoundError:
            if not os.path.exists(path):
                return changed
            changed += _folders(folder)
    touch(folder)
    return [*changed, folder]


def sync_folders(folder: str, changed: Sequence[str] = ()) -> None:
    """Make folders' entries last, the innermost first. Raises OSError."""
    for one in dict.fromkeys((folder, *sorted(changed, key=len, reverse=True))):
        # A newer version may have come and gone, and the folder with it.
        with contextlib.suppress(FileNotFoundError):
            sync_folder(one)


def commit(folder: str, timestamp: str, frag: int, twin: str = "") -> None:
    """The second phase of a fragment. Nothing to do when it is done or a newer version has come. Raises OSError."""
    loose, name = layout.data_name(timestamp, frag, durable=False), layout.data_name(timestamp, frag)
    for one in (twin, folder) if twin else (folder,):
        try:
            os.rename(f"{one}/{loose}", f"{one}/{name}")
        except FileNotFoundError:
            continue
        touch(one)
        sync_folders(one)
    clean(folder, twin)


def clean(folder: str, twin: str = "") -> None:
    """Remove what a newer version made obsolete. Raises OSError."""
    for one in (folder, twin) if twin else (folder,):
        for file in look(one).obsolete:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{one}/{file.name}")


def load(path: str) -> record.Record:
    """A file's record. Raises record.Damaged, FileNotFoundError, OSError."""
    descriptor = open_unseen(path)
    try:
        return record.load(descriptor)
    finally:
        os.close(descriptor)


def update(
    devices: Devices,
    device: str,
    spot: Spot,
    timestamp: str,
    metadata: Metadata,
    updates: Sequence[Update] = (),
    twin: str = "",
) -> Lasting:
    """See `storage.Node.update`; to be waited for, and `clean`ed after.

    Raises Missing, Superseded, DeviceGone, OSError.
    """
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
    return _small(
        devices, device, spot, layout.meta_name(stamp, result.get(TYPED, "")), result, updates, twin
    )


def delete(
    devices: Devices,
    device: str,
    spot: Spot,
    timestamp: str,
    name: str,
    updates: Sequence[Update] = (),
    twin: str = "",
) -> tuple[bool, Lasting]:
    """See `storage.Node.delete`; to be waited for, and `clean`ed after. Raises Superseded, DeviceGone, OSError."""
    files = look(layout.object_folder(device, spot))
    if files.tombstone == timestamp:
        return False, partial(synced_again, f"{layout.object_folder(device, spot)}/{timestamp}.ts")
    if files.newest >= timestamp:
        raise Superseded(files.newest)
    last = _small(devices, device, spot, f"{timestamp}.ts", {"name": name}, updates, twin)
    return bool(files.data), last


def _small(
    devices: Devices,
    device: str,
    spot: Spot,
    name: str,
    metadata: Metadata,
    updates: Sequence[Update],
    twin: str,
) -> Lasting:
    """A file without content. Raises DeviceGone, OSError."""
    folder = layout.object_folder(device, spot)
    descriptor, temporary = devices.temporary(device)
    try:
        packed = record.packed(metadata, 0)
        record.store(descriptor, packed, 0)
        return place(
            descriptor, temporary, folder, name, twin,
            keep=lambda path: devices.journals.keep(device, path, packed, b"", updates),
        )  # fmt: skip
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
