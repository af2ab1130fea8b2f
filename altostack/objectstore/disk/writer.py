"""Writes an object's content to a device."""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from altostack.kit import proc
from altostack.objectstore.disk import layout, objects, record
from altostack.objectstore.disk.device import Devices, trouble
from altostack.objectstore.disk.journal import Kept
from altostack.objectstore.disk.layout import File, Files
from altostack.objectstore.putoff import put_off
from altostack.objectstore.seats import standing
from altostack.objectstore.storage import DeviceFull, Exists, Metadata, Spot, Superseded, Update

_WINDOW: Final = 8 << 20  # bytes that the disk is told to write at once

Deliver = Callable[[str, Spot, Sequence[Update], Kept | None], None]


class FileWriter:
    """An object on its way to a device: `storage.Writer`.

    twin: the object's folder in the partition that it is going to be in, while partitions are being doubled.
    """

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
        twin: str = "",
    ) -> None:
        self._devices, self._device, self._spot = devices, device, spot
        self._timestamp, self._frag, self._deliver = timestamp, frag, deliver
        self._folder, self._twin = layout.object_folder(device, spot), twin
        self._absent = absent
        # Of a fragment: due when it is committed, since before it is no object.
        self._updates: Sequence[Update] = ()
        self._written = self._begun = self._waited = 0
        self._sum: int | None = 0
        self._small: list[bytes] = []  # the content, as long as it is small
        if size is None or size > objects.CHECKED:  # a small one is refused soon enough by `put`
            self._check(objects.look(self._folder))
        devices.room(device, size or 0)
        self._descriptor, self._temporary = devices.temporary(device)
        self._announced = 0
        if size is not None and size > objects.CHECKED:
            try:
                os.posix_fallocate(self._descriptor, 0, size)
            except OSError:
                self.abort()
                raise
            self._announced = size

    def _check(self, files: Files) -> None:
        """Raises Superseded, Exists."""
        if self._absent and files.data and files.newest != self._timestamp:
            raise Exists("an object is here")
        if files.newest > self._timestamp or files.tombstone == self._timestamp:
            raise Superseded(files.newest)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else who asks for nothing to be here looks and places meanwhile. Raises OSError."""
        if not self._absent:
            yield
            return
        lock = os.open(os.path.dirname(self._temporary), os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.abort()
            raise trouble(self._device, error) from error
        self._written += len(data)
        if self._written - self._begun >= _WINDOW:
            self._begin()
        if self._sum is not None:
            if self._written > objects.CHECKED:
                self._sum = None
                self._small.clear()
            else:
                self._sum = zlib.crc32(data, self._sum)
                self._small.append(data)

    def _begin(self) -> None:
        """Have the disk write the last window, so that the sync at the end has little to do, once the one before is
        written: a disk that is slower holds the content up. What is written leaves the memory to smaller content, and
        its pages to the next window. Content of unsaid length leaves the reserve alone.
        """
        before, self._begun = self._begun, self._written
        try:
            proc.write_out(self._descriptor, before, self._written - before)
            if before > self._waited:
                with standing():
                    proc.write_out(self._descriptor, self._waited, before - self._waited, wait=True)
                with contextlib.suppress(OSError):  # it is advice
                    os.posix_fadvise(
                        self._descriptor, self._waited, before - self._waited, os.POSIX_FADV_DONTNEED
                    )
                self._waited = before
            if not self._announced:
                self._devices.room(self._device, 0)
        except OSError as error:
            self.abort()
            raise trouble(self._device, error) from error
        except DeviceFull:
            self.abort()
            raise

    def put(self, metadata: Metadata, updates: Sequence[Update] = ()) -> None:
        """As `storage.Writer.put`. The same content with the same timestamp again (its size, etag and fragment's index
        are equal) changes nothing and is no error: so a push may be repeated. Other content is Superseded."""
        last: objects.Lasting | None = None
        try:
            if self._announced > self._written:
                os.ftruncate(self._descriptor, self._written)
            with self._alone():
                files = objects.look(self._folder)
                self._check(files)
                if (there := self._is_here(files, metadata)) is None:
                    last = self._place(metadata, updates, first=not files.newest)
                elif self._frag is None:
                    last = partial(objects.synced_again, f"{self._folder}/{there.name}")
        except OSError as error:
            raise trouble(self._device, error) from error
        finally:
            self.abort()
        if self._frag is None:
            put_off(lambda: self._done(last, updates))
        else:
            self._updates = updates

    def _place(self, metadata: Metadata, updates: Sequence[Update], *, first: bool) -> objects.Lasting:
        packed = record.packed(metadata, self._written, self._sum)
        record.store(self._descriptor, packed, self._written)
        if self._sum is None:
            # A file that had room made for it could show zeros after a loss of power. A small one has a check sum that
            # tells, so that it is seen to after the renaming.
            os.fsync(self._descriptor)

        def keep(path: str) -> Kept | None:
            if self._sum is None or self._frag is not None:
                return None
            content = self._small[0] if len(self._small) == 1 else b"".join(self._small)
            return self._devices.journals.keep(self._device, path, packed, content, updates)

        name = layout.data_name(self._timestamp, self._frag, durable=self._frag is None)
        last = objects.place(
            self._descriptor, self._temporary, self._folder, name, self._twin, first=first, keep=keep
        )
        self._temporary = ""
        return last

    def _done(self, last: objects.Lasting | None, updates: Sequence[Update]) -> None:
        """A whole copy is in its place."""
        kept: Kept | None = None
        try:
            if last is not None:
                kept = last()
                objects.clean(self._folder, self._twin)
        except OSError as error:
            raise trouble(self._device, error) from error
        self._deliver(self._device, self._spot, updates, kept)

    def _is_here(self, files: Files, metadata: Metadata) -> File | None:
        """What was written, if it is here already. Raises Superseded when something else of that time is."""
        for file in (*files.data, *files.loose):
            if file.timestamp == self._timestamp and file.frag == self._frag:
                try:
                    held = objects.load(f"{self._folder}/{file.name}")
                except (FileNotFoundError, record.Damaged):
                    continue
                if held.size != self._written or held.metadata.get("etag") != metadata.get("etag"):
                    raise Superseded(file.timestamp)
                return file
        return None

    def commit(self) -> None:
        if self._frag is None:
            return
        try:
            objects.commit(self._folder, self._timestamp, self._frag, self._twin)
        except OSError as error:
            raise trouble(self._device, error) from error
        self._deliver(self._device, self._spot, self._updates, None)

    def abort(self) -> None:
        descriptor = self._descriptor
        temporary, self._temporary = self._temporary, ""
        if descriptor >= 0:
            self._descriptor = -1
            os.close(descriptor)
        if temporary:
            with contextlib.suppress(OSError):  # in its place, or on a device that is gone
                os.unlink(temporary)
