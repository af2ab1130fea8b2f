"""A log of what is acknowledged and not yet where it belongs: lines for a database, files whose writing may be lost.

What is acknowledged has to be durable, and bringing each thing to its place durably touches many blocks. So it goes to
a file of frames, frames are brought to the disk together, and are merged into their places later. Merging a frame twice
changes nothing, so it may stay any time after its merge is durable.

The file has two halves, so that frames can be added to one while the other is merged, and they are written over and
over in place, since bringing new blocks to the disk costs about twice as much as old ones:

    head    ``ALPM``, 4 zeros, generation, merged: 8 bytes each, little-endian; 40 zeros
    halves  frames of length, checksum (4 bytes each) and content

Frames are added in the half that the generation says: the first for even ones. Their checksum is seeded with it, so
frames of former generations do not count, and neither does a frame that was cut off. Whoever merges begins a new
generation, and says afterwards that the one before is merged; a half is not used again before.

After a sync that failed nobody knows what is on the disk, and a second one may succeed without having written anything.
So it fails for all frames written until then, and none is added behind them: that waits until they are merged.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from altostack.objectstore.seats import standing
from altostack.objectstore.storage import DeviceGone

LOCK_WAIT: Final = 20.0  # seconds after which the log counts as stuck
_FIRST: Final = 1 << 12
_MAGIC: Final = b"ALPM"
_HEAD: Final = struct.Struct("<4s4xQQ40x")
_FRAME: Final = struct.Struct("<II")
_MOSTLY: Final = 512  # bytes that hold a frame with its head, as a rule


class Appended(NamedTuple):
    """A frame that was written. number: for `FrameLog.sync`."""

    number: int
    generation: int


class FrameLog:
    """The open log."""

    def __init__(
        self, file: int, check: Callable[[], None] = lambda: None, *, half: int, shared: bool = True
    ) -> None:
        """file: the descriptor, which stays the caller's. check: called with the lock held; raises when the log is
        not the right one any longer. half: bytes in a half, the same for all who open the file. shared: others may have
        opened it, too.
        """
        self._file, self._check, self._half, self._shared = file, check, half, shared
        self._lock = threading.Lock()
        self._generation, self._end = -1, 0  # where this process knows the last frame to end, within the half
        self._size = 0  # of the file, at least, where nobody else changes it
        self._head: tuple[int, int] | None = None  # generation, merged; where nobody else changes them
        self._written = self._synced = 0  # numbers of frames of this process
        self._syncing = False
        self._lost = range(0)  # numbers of frames that may not have reached the disk, and
        self._broken = -1  # the newest generation of them
        self._turn = threading.Condition()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else records, in any process. Raises DeviceGone when that takes too long, and what `check` raises."""
        self._begin()
        try:
            yield
        finally:
            self._finish()

    def _begin(self) -> None:
        if not self._lock.acquire(blocking=False):
            with standing():
                self._lock.acquire()
        try:
            if self._shared:
                self._flock()
            try:
                self._check()
            except BaseException:
                if self._shared:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
                raise
        except BaseException:
            self._lock.release()
            raise

    def _finish(self) -> None:
        if self._shared:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._lock.release()

    def append(self, content: bytes) -> Appended | None:
        """Write a frame; None when none can be added before the log is merged. Then it may be there, never synced."""
        self._begin()
        try:
            generation, merged = self._read_head()
            if self._lost:
                self._found(merged)
                if generation == self._broken:
                    return None
            self._find_end(generation)
            frame = _FRAME.pack(len(content), zlib.crc32(content, generation & 0xFFFFFFFF)) + content
            end = self._end + len(frame)
            if end > self._half:
                return None
            start = self._start(generation)
            if self._shared or start + end > self._size:
                self._size = os.fstat(self._file).st_size
            if start + end > self._size:
                frame += bytes(min(self._half, max(_FIRST, 1 << (end - 1).bit_length())) - end)
            _write(self._file, frame, start + self._end)
            self._end = end
            with self._turn:
                if generation == self._broken:  # since it was looked at
                    return None
                self._written += 1
                return Appended(self._written, generation)
        finally:
            self._finish()

    def take(self) -> tuple[list[bytes], int | None]:
        """All frames, the oldest first, and what to tell `merged` when they are where they belong; None: nothing.

        The caller is the only one who merges.
        """
        with self.alone():
            generation, merged = self._read_head()
            new = self._frames(generation)
            if merged < generation - 1:  # somebody took frames and did not get through
                return self._frames(generation - 1) + new, generation - 1
            if not new:
                return [], None
            self._write_head(generation + 1, merged)
            return new, generation

    def turn(self) -> bool:
        """Begin a new generation, if there is a frame in this one and those before are merged; whether it did."""
        with self.alone():
            generation, merged = self._read_head()
            if merged < generation - 1 or self._frame_at(generation, 0) is None:
                return False
            self._write_head(generation + 1, merged)
            return True

    def ended(self) -> int | None:
        """The generation that is to be `merged` next, None when there is none."""
        with self.alone():
            generation, merged = self._read_head()
            return generation - 1 if merged < generation - 1 else None

    def merged(self, generation: int) -> None:
        """The frames of that generation are where they belong, durably.

        This is not brought to the disk: at worst they are merged again.
        """
        with self.alone():
            now, before = self._read_head()
            self._write_head(now, max(before, generation))
        self._found(generation)

    def filled(self) -> bool:
        """Whether there is a frame to merge. Takes no lock: a frame vanishes only after it is where it belongs."""
        head = os.pread(self._file, _HEAD.size, 0)
        if len(head) < _HEAD.size or head[:4] != _MAGIC:
            return False
        _, generation, merged = _HEAD.unpack(head)
        return merged < generation - 1 or self._frame_at(generation, 0) is not None

    def shrink(self) -> None:
        """Give the file's room back, when there is nothing to merge."""
        with self.alone():
            self._read_head()
            if not self.filled():
                os.ftruncate(self._file, _HEAD.size)
                self._size = 0

    def sync(self, number: int) -> None:
        """Return when that frame is on the disk. Threads that wait together share the effort. Raises OSError."""
        with standing():
            self._sync(number)

    def sync_all(self) -> None:
        """Return when everything that this process wrote is on the disk. Raises OSError."""
        if self._lost:
            with self.alone():
                _, merged = self._read_head()
            self._found(merged)
        with self._turn:
            number = self._written
        self.sync(number)

    def _sync(self, number: int) -> None:
        with self._turn:
            while self._syncing and self._synced < number:
                self._turn.wait()
            if number in self._lost:
                raise OSError(errno.EIO, "a sync of what was written before failed")
            if self._synced >= number:
                return
            self._syncing, goal = True, self._written
        done = False
        try:
            os.fdatasync(self._file)
            done = True
        finally:
            with self._turn:
                self._syncing = False
                if done:
                    self._synced = max(self._synced, goal)
                else:
                    first = self._lost.start if self._lost else self._synced + 1
                    self._lost, self._broken = range(first, self._written + 1), self._generation
                self._turn.notify_all()

    def _found(self, merged: int) -> None:
        """That generation is merged, durably: what was lost with it is not lost any longer."""
        with self._turn:
            if merged >= self._broken:
                self._synced, self._lost = max(self._synced, self._lost.stop - 1), range(0)

    def _read_head(self) -> tuple[int, int]:
        """Generation, and the newest that is merged."""
        if self._head is not None:
            return self._head
        head = os.pread(self._file, _HEAD.size, 0)
        if len(head) == _HEAD.size and head[:4] == _MAGIC:
            _, generation, merged = _HEAD.unpack(head)
            self._head = None if self._shared else (generation, merged)
            return generation, merged
        # New, or cut off before the first frame was on the disk. The generation is one that nobody had here.
        generation = int.from_bytes(os.urandom(6)) + 1
        os.ftruncate(self._file, 0)
        self._write_head(generation, generation - 1)
        return generation, generation - 1

    def _write_head(self, generation: int, merged: int) -> None:
        _write(self._file, _HEAD.pack(_MAGIC, generation, merged), 0)
        self._head = None if self._shared else (generation, merged)

    def _find_end(self, generation: int) -> None:
        """After the last whole frame, which another process may have written."""
        if generation != self._generation:
            self._generation, self._end = generation, 0
        elif not self._shared:
            return
        while (content := self._frame_at(generation, self._end)) is not None:
            self._end += _FRAME.size + len(content)

    def _frame_at(self, generation: int, at: int) -> bytes | None:
        place = self._start(generation) + at
        start = os.pread(self._file, _MOSTLY, place)
        if at + _FRAME.size > self._half or len(start) < _FRAME.size:
            return None
        length, checksum = _FRAME.unpack_from(start)
        if not length or at + _FRAME.size + length > self._half:
            return None
        content = start[_FRAME.size : _FRAME.size + length]
        if len(content) < length:
            content = os.pread(self._file, length, place + _FRAME.size)
        if len(content) < length or zlib.crc32(content, generation & 0xFFFFFFFF) != checksum:
            return None
        return content

    def _frames(self, generation: int) -> list[bytes]:
        data = os.pread(self._file, self._half, self._start(generation))
        found, at = [], 0
        while at + _FRAME.size <= len(data):
            length, checksum = _FRAME.unpack_from(data, at)
            content = data[at + _FRAME.size : at + _FRAME.size + length]
            if (
                not length
                or len(content) < length
                or zlib.crc32(content, generation & 0xFFFFFFFF) != checksum
            ):
                break
            found.append(content)
            at += _FRAME.size + length
        return found

    def _start(self, generation: int) -> int:
        """Where the half of a generation begins."""
        return _HEAD.size + (generation & 1) * self._half

    def _flock(self) -> None:
        if self._free():
            return
        with standing():
            pause, end = 0.00005, time.monotonic() + LOCK_WAIT
            while not self._free():
                if time.monotonic() > end:
                    raise DeviceGone("the log is locked")
                time.sleep(pause)
                pause = min(pause * 1.5, 0.02)

    def _free(self) -> bool:
        """Lock it, if nobody else has."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        done = os.pwrite(file, data, at)
        data, at = data[done:], at + done
