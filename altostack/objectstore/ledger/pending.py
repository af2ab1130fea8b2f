"""The log of lines that are not in the database yet.

Recording a line has to be durable when it returns, and a commit of SQLite for each would touch many pages. So lines go
to a file of frames beside the database, are brought to the disk together, and are merged into the database before
somebody reads it or when the file is full. Merging a line twice changes nothing, so the file may be emptied any time
after the merge is committed.

The file is written over and over in place, since bringing new blocks to the disk costs about twice as much as old ones:
a head of 16 bytes (``ALPL``, generation, both 4 bytes, little-endian, then zeros) and frames of length, checksum
(4 bytes each) and content. The checksum is seeded with the generation: frames of former generations do not count, and
neither does a frame that was cut off. Emptying the file raises the generation.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from typing import Final

FULL: Final = 1 << 17  # bytes after which the file is merged
_FIRST: Final = 1 << 12
_MAGIC: Final = b"ALPL"
_HEAD: Final = struct.Struct("<4sI8x")
_FRAME: Final = struct.Struct("<II")
_START: Final = _HEAD.size


class Pending:
    """The open log. All but `filled` and `sync` are called by the one who holds the database's lock."""

    def __init__(self, file: int) -> None:
        """file: the descriptor, which stays the caller's."""
        self._file = file
        self._generation, self._end = 0, _START
        self._written = self._synced = 0  # numbers of frames of this process
        self._syncing = False
        self._turn = threading.Condition()

    def append(self, content: bytes) -> int | None:
        """Write a frame; the number to `sync`, None when there is no room before the file is emptied."""
        self._find_end()
        frame = _FRAME.pack(len(content), zlib.crc32(content, self._generation)) + content
        end = self._end + len(frame)
        if end > FULL:
            return None
        size = os.fstat(self._file).st_size
        if end > size:
            room = max(_FIRST, 1 << (end - 1).bit_length())
            frame += bytes(room - end)
        _write(self._file, frame, self._end)
        self._end = end
        self._written += 1
        return self._written

    def frames(self) -> list[bytes]:
        """The content of all frames, the oldest first."""
        self._read_head()
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        found, at = [], _START
        while (content := _frame(data, at, self._generation)) is not None:
            found.append(content)
            at += _FRAME.size + len(content)
        self._end = at
        return found

    def clear(self) -> None:
        """All frames are merged. Not brought to the disk: until then they would be merged again."""
        self._generation = (self._generation + 1) & 0xFFFFFFFF
        _write(self._file, _HEAD.pack(_MAGIC, self._generation), 0)
        self._end = _START

    def shrink(self) -> None:
        """Give the file's room back, when it is empty."""
        if not self.frames():
            os.ftruncate(self._file, _START)

    def filled(self) -> bool:
        """Whether there is a frame. Needs no lock: a frame vanishes only after its lines are in the database."""
        head = os.pread(self._file, _START + _FRAME.size, 0)
        if len(head) < _START + _FRAME.size or head[:4] != _MAGIC:
            return False
        length, checksum = _FRAME.unpack_from(head, _START)
        content = os.pread(self._file, length, _START + _FRAME.size) if length and length < FULL else b""
        return bool(content) and zlib.crc32(content, _HEAD.unpack_from(head)[1]) == checksum

    def sync(self, number: int) -> None:
        """Return when that frame is on the disk. Threads that wait at the same time share the effort."""
        with self._turn:
            while self._syncing and self._synced < number:
                self._turn.wait()
            if self._synced >= number:
                return
            self._syncing, goal = True, self._written
        try:
            os.fdatasync(self._file)
        except BaseException:
            goal = 0
            raise
        finally:
            with self._turn:
                self._syncing, self._synced = False, max(self._synced, goal)
                self._turn.notify_all()

    def _read_head(self) -> None:
        head = os.pread(self._file, _START, 0)
        if len(head) < _START or head[:4] != _MAGIC:  # new, or cut off before the first frame was on the disk
            self._generation = int.from_bytes(os.urandom(4))
            os.ftruncate(self._file, 0)
            _write(self._file, _HEAD.pack(_MAGIC, self._generation), 0)
            self._end = _START
            return
        generation = _HEAD.unpack(head)[1]
        if generation != self._generation:
            self._generation, self._end = generation, _START

    def _find_end(self) -> None:
        """After the last whole frame, which another process may have written."""
        self._read_head()
        while True:
            head = os.pread(self._file, _FRAME.size, self._end)
            if len(head) < _FRAME.size:
                return
            length, checksum = _FRAME.unpack(head)
            if not length or length > FULL:
                return
            content = os.pread(self._file, length, self._end + _FRAME.size)
            if len(content) < length or zlib.crc32(content, self._generation) != checksum:
                return
            self._end += _FRAME.size + length


def _frame(data: bytes, at: int, generation: int) -> bytes | None:
    if at + _FRAME.size > len(data):
        return None
    length, checksum = _FRAME.unpack_from(data, at)
    content = data[at + _FRAME.size : at + _FRAME.size + length]
    if not length or len(content) < length or zlib.crc32(content, generation) != checksum:
        return None
    return content


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        done = os.pwrite(file, data, at)
        data, at = data[done:], at + done
