"""Small files that are acknowledged before they are on the disk: a log has them until then.

To sync a new file alone is to wait for its content, its inode, its folder and the folders that were new. A log that is
written over in place is synced in one go, for all who wait. So a small file is put in its place without a sync and kept
in a log on its disk; now and then the whole file system is synced at leisure, and what the log has begins anew. After a
loss of power, whatever the log has and the disk has not is made again, before anything else is done with the device.

    DEVICE/journal/<number>            a `FrameLog` of msgpack `Entry`s
    .journal/<number> beside DEVICEs   of all that are folders on one disk: copies there are synced together

Each process has logs of its own, locked (flock) as long as it lives; whoever opens a disk looks through those that
nobody holds. A log that is busy or fails is no reason to wait: the file is then synced by itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from altostack.kit import proc
from altostack.objectstore.disk import layout, record
from altostack.objectstore.files import names, open_unseen, sync_disk, sync_folder, touch_above
from altostack.objectstore.framelog import LOCK_WAIT, Appended, FrameLog
from altostack.objectstore.storage import DeviceGone, Update

log = logging.getLogger(__name__)

HALF: Final = 16 << 20  # bytes in a half of a log
SETTLE: Final = 10.0
"""Seconds after which what a log has is brought to its place even if there is room for more."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A file.

    path: below the device, or the folder of devices. record: as `record.store` takes it. updates: of lists that were
    told of it. boot: since when the machine has been up; while it is, nothing is lost that was told.
    """

    path: str
    record: bytes
    content: bytes
    updates: tuple[Update, ...]
    boot: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


class Kept:
    """A file that a log has."""

    __slots__ = ("_appended", "_journal", "_journals")

    def __init__(self, journals: Journals, journal: _Journal, appended: Appended) -> None:
        self._journals, self._journal, self._appended = journals, journal, appended

    def wait(self) -> bool:
        """Return when it lasts; False: it has to be synced by itself."""
        return self._journals.sync(self._journal, self._appended.number)

    @property
    def over(self) -> bool:
        """Whether the log may not remember it for long: what its updates did from now on has to last by itself."""
        return self._journal.settling >= self._appended.generation


class Journals:
    """The logs of this process for devices in the folder ``root``, one a disk.

    before: called before what logs have is taken for done; makes last what entries' updates did. announce: called with
    a device, a policy and its updates that a loss of power may have taken.
    """

    def __init__(
        self, root: str, *, before: Callable[[], None], announce: Callable[[str, int, Sequence[Update]], None]
    ) -> None:
        self._root, self._before, self._announce = root, before, announce
        self._boot = proc.boot_id()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._open: dict[str, _Journal] = {}  # by the folder that an entry's path is below
        self._failed: dict[str, float] = {}  # such a folder -> when it may be tried again
        self._doubted: set[str] = set()  # such folders where a sync failed
        self._lock = threading.Lock()
        self._turn = threading.Condition()
        self._dirty: set[_Journal] = set()
        self._full = False
        self._thread: threading.Thread | None = None

    def keep(
        self, device: str, path: str, packed: bytes, content: bytes, updates: Sequence[Update]
    ) -> Kept | None:
        """Have a file last that was put at ``path`` on the device. None: it has to be synced by itself."""
        base = device
        try:
            base = self._base(device)
            if self._failed and self._failed.get(base, 0.0) > time.monotonic():
                return None
            journal = self._of(base)
            entry = _encode(Entry(path[len(base) + 1 :], packed, content, tuple(updates), self._boot))
            appended, full = journal.keep(entry)
        except (OSError, DeviceGone) as trouble:
            self._drop(base, trouble)
            return None
        if full or journal not in self._dirty:
            self._note(journal, full)
        return None if appended is None else Kept(self, journal, appended)

    def sync(self, journal: _Journal, number: int) -> bool:
        """Return when a frame is on the disk; False when that failed."""
        try:
            journal.sync(number)
        except OSError as trouble:
            self._drop(journal.base, trouble, doubted=True)
            return False
        return True

    def recover(self, device: str) -> None:
        """Make again what a loss of power took. Raises OSError, DeviceGone."""
        self._of(self._base(device))

    def close(self) -> None:
        """Forget all logs. What they have is looked through by whoever comes next."""
        with self._lock:
            self._open.clear()
        with self._turn:
            self._dirty.clear()

    def _drop(self, base: str, trouble: Exception, *, doubted: bool = False) -> None:
        """Let a log alone for a while; then it is opened anew, and looked through like that of a dead process.

        doubted: a sync failed.
        """
        # Its text alone: whoever keeps the exception keeps the log open, and locked.
        log.warning("the journal of %s is not used: %s", base, str(trouble))
        self._failed[base] = time.monotonic() + SETTLE
        with self._lock:
            self._open.pop(base, None)
            if doubted:
                self._doubted.add(base)
        with self._turn:
            self._dirty = {one for one in self._dirty if one.base != base}
        self._before()  # nothing else may remember what its entries' updates did

    def _base(self, device: str) -> str:
        """The folder that has the log for a device. Raises OSError."""
        return self._root if os.stat(device).st_dev == os.stat(self._root).st_dev else device

    def _of(self, base: str) -> _Journal:
        if self._pid != os.getpid():  # logs are locked by the process that opened them
            self._begin()
        journal = self._open.get(base)
        if journal is None:
            with self._lock:
                journal = self._open.get(base)
                if journal is None:
                    name = f".{layout.JOURNAL}" if base == self._root else layout.JOURNAL
                    journal = self._open[base] = _Journal(base, f"{base}/{name}", self._look)
                    self._doubted.discard(base)
        return journal

    def _note(self, journal: _Journal, full: bool) -> None:
        with self._turn:
            self._dirty.add(journal)
            if self._thread is None:
                self._thread = threading.Thread(target=self._settle, daemon=True, name="object-journal")
                self._thread.start()
            if full:
                self._full = True
                self._turn.notify()

    def _settle(self) -> None:
        """Bring to the disk what logs have. Ends when there is nothing left to do."""
        while self._settle_some():
            pass
        for journal in list(self._open.values()):
            with contextlib.suppress(OSError, DeviceGone):
                journal.shrink()

    def _settle_some(self) -> bool:
        """Wait until there is something to do, and do it; False when there is nothing."""
        with self._turn:
            if not self._full:
                self._turn.wait(SETTLE)
            everything, self._full = not self._full, False
            if not self._dirty:
                self._thread = None
                return False
            dirty = list(self._dirty)
            if everything:
                self._dirty.clear()  # what is kept from now on is noted again
        for journal in dirty:
            try:
                journal.settle(self._before, everything=everything)
            except (OSError, DeviceGone) as trouble:
                self._drop(journal.base, trouble, doubted=isinstance(trouble, OSError))
        return True

    def _look(self, base: str, file: int) -> None:
        """Make again whatever a log has and the disk has not. Raises OSError, DeviceGone.

        After a sync that failed that is everything: what can be read may be in memory alone, and no later sync would
        write it.
        """
        began, log_of_it = time.monotonic(), FrameLog(file, half=HALF, shared=False)
        frames, generation = log_of_it.take()
        if generation is None:
            return
        made, told = 0, defaultdict[tuple[str, int], list[Update]](list)
        for entry in map(_decode, frames):
            device, policy = layout.device_and_policy(f"{base}/{entry.path}")
            if not os.path.isdir(device):  # it is not on this disk any longer
                continue
            made += _restore(device, f"{base}/{entry.path}", entry, anew=base in self._doubted)
            if entry.boot != self._boot and entry.updates:
                told[device, policy] += entry.updates
        for (device, policy), updates in told.items():
            self._announce(device, policy, updates)
        for name in os.listdir(self._root):  # what updates did may be on any of them
            with contextlib.suppress(OSError):
                sync_disk(f"{self._root}/{name}")
        try:
            proc.syncfs(file)
        except OSError:
            self._doubted.add(base)
            raise
        log_of_it.merged(generation)
        if made:
            log.warning(
                "%s: %d files were made again that the journal has and the disk had not, in %.1f s",
                base, made, time.monotonic() - began,
            )  # fmt: skip


class _Journal:
    """The log of one disk, in ``folder``."""

    def __init__(self, base: str, folder: str, look: Callable[[str, int], None]) -> None:
        """Open a log that nobody holds, and ``look`` through those without a holder. Raises OSError, DeviceGone."""
        self.base, self._path = base, ""
        self.settling = -1  # the newest generation that is about to be forgotten
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        with _Held(f"{folder}/lock", wait=LOCK_WAIT):  # nobody works with a disk that is being looked through
            for number in itertools.count():
                path = f"{folder}/{number}"
                if self._path and not os.path.exists(path):
                    break
                try:
                    held = _Held(path)
                except BlockingIOError:
                    continue
                look(base, held.file)
                if not self._path:
                    self._path, self._held = path, held
        os.fsync(self._held.file)
        for one in (folder, base):  # it has to be found again
            sync_folder(one)
        found = os.fstat(self._held.file)
        # Not a method of ours: whoever refers to the lock in a circle holds it for too long.
        self._log = FrameLog(
            self._held.file,
            partial(_in_place, self._path, (found.st_dev, found.st_ino)),
            half=HALF,
            shared=False,
        )

    def keep(self, frame: bytes) -> tuple[Appended | None, bool]:
        """(the frame, None if there is no room; whether the log is to be settled now). Raises OSError, DeviceGone."""
        appended = self._log.append(frame)
        full = appended is None
        if appended is None:
            self._log.turn()
            appended = self._log.append(frame)
        return appended, full

    def sync(self, number: int) -> None:
        """Wait until it is on the disk. Raises OSError."""
        self._log.sync(number)

    def shrink(self) -> None:
        """Give room back that nobody has needed for a while. Raises OSError, DeviceGone."""
        self._log.shrink()

    def settle(self, before: Callable[[], None], *, everything: bool) -> None:
        """Bring what was kept to the disk: the half that is full, or everything. Raises OSError, DeviceGone."""
        for again in (True, False):
            ended = self._log.ended()
            if ended is not None:
                self.settling = ended
                before()
                proc.syncfs(self._held.file)
                self._log.merged(ended)
            if not (everything and again and self._log.turn()):
                break


def _in_place(path: str, inode: tuple[int, int]) -> None:
    """Raises OSError, DeviceGone when an open log is not the device's any longer."""
    found = os.stat(path)
    if (found.st_dev, found.st_ino) != inode:
        raise DeviceGone("another disk is in its place")


class _Held:
    """An open file, locked until nobody refers to it any longer, whoever is told first that it is of no use."""

    def __init__(self, path: str, *, wait: float = 0.0) -> None:
        """wait: seconds. Raises BlockingIOError when somebody else holds it for longer, OSError."""
        self.file = -1
        self.file = open_unseen(path, os.O_RDWR | os.O_CREAT)
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.01)

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)


def _restore(device: str, path: str, entry: Entry, *, anew: bool) -> bool:
    """Make a file again unless it is out of date, or there and whole (``anew``: also then). Raises OSError."""
    folder, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError):
        here = names(folder)
        if name not in here and any(one.name == name for one in layout.choose([*here, name]).obsolete):
            return False
        if name in here and not anew and _whole(path, entry):
            return False
    os.makedirs(folder, exist_ok=True)
    os.makedirs(f"{device}/{layout.TMP}", exist_ok=True)
    scratch = f"{device}/{layout.TMP}/{layout.JOURNAL}-{os.getpid():x}"
    descriptor = os.open(scratch, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        if os.write(descriptor, entry.content) != len(entry.content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        record.store(descriptor, entry.record, len(entry.content))
    finally:
        os.close(descriptor)
    os.rename(scratch, path)
    touch_above(folder)
    return True


def _whole(path: str, entry: Entry) -> bool:
    descriptor = open_unseen(path)
    try:
        found = record.load(descriptor)
        content = os.pread(descriptor, found.size, 0)
    except record.Damaged:
        return False
    finally:
        os.close(descriptor)
    return found == record.unpacked(entry.record) and content == entry.content
