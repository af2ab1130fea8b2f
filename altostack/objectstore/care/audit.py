"""Reads what lies on a device and sets aside what is damaged, so that the other daemons make it anew.

Objects are looked at in two ways. The *quick* pass opens every file: its record has to be readable, to fit its length
and to belong to the place where it lies. It also clears away what nobody needs any longer: deletions that are older
than ``reclaim_age``, fragments of writes that never came to their end, temporary files that were left behind. The
*full* pass reads all content and compares its sum. Databases are checked by SQLite itself.

A pass goes on where the one before it was stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from altostack.objectstore.care import holdings
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.holdings import Place, listed
from altostack.objectstore.care.pace import Pace
from altostack.objectstore.care.report import Tally
from altostack.objectstore.disk import layout, objects, record
from altostack.objectstore.disk.device import guarded
from altostack.objectstore.files import open_unseen
from altostack.objectstore.http import CHUNK
from altostack.objectstore.stamp import of_ns
from altostack.objectstore.storage import Kind, Missing, RingView, Spot, StorageError

Mode = Literal["quick", "full"]
_BUDGET: Final = 300.0  # seconds after which a pass pauses


class _Folder(NamedTuple):
    """Where an object's files lie."""

    place: Place
    part: int
    digest: str

    @property
    def path(self) -> str:
        return f"{self.place.folder}/{self.part}/{self.digest[-3:]}/{self.digest}"

    def spot(self, device: str) -> Spot:
        return Spot(device, self.part, self.digest, self.place.policy)


@dataclass(slots=True)
class Auditor:
    """Looks at the objects of one device."""

    care: Care
    device: str
    mode: Mode
    budget: float = _BUDGET

    def run(self) -> Tally:
        """A pass, or a part of one. Raises DeviceGone."""
        care, path = self.care, self.care.path(self.device)
        settings = care.settings
        files = Pace(
            settings.audit_files if self.mode == "full" else settings.audit_zero_files, care.stopping
        )
        octets = Pace(settings.audit_bytes, care.stopping)
        position = f".audit-{self.mode}-{self.device}"
        end = time.monotonic() + self.budget
        with care.reports.tally(f"audit-{self.mode}", self.device) as tally, guarded(path):
            if self.mode == "quick":
                self._sweep(tally, path)
            at = care.reports.kept(position) or [-1, -1]
            for policy, part, folders in self._parts(path):
                if [policy, part] <= at:
                    continue
                if tally.stopped or time.monotonic() > end:
                    tally.whole = False
                    break
                for folder in folders:
                    files.take()
                    self._object(tally, folder, octets)
                care.reports.keep(position, [policy, part])
            else:
                care.reports.keep(position, [-1, -1])
        return tally

    def _parts(self, path: str) -> Iterator[tuple[int, int, Iterator[_Folder]]]:
        for policy in self.care.store.policies:
            place = Place(path, policy.index)
            for part in holdings.parts(place):
                yield policy.index, part, self._folders(place, part)

    @staticmethod
    def _folders(place: Place, part: int) -> Iterator[_Folder]:
        for suffix in holdings.suffixes(place, part):
            for digest in listed(f"{place.folder}/{part}/{suffix}"):
                if len(digest) == 32:
                    yield _Folder(place, part, digest)

    def _object(self, tally: Tally, folder: _Folder, octets: Pace) -> None:
        tally.count("objects")
        files = layout.choose(listed(folder.path))
        ring = self.care.ring(self.care.store.policy(folder.place.policy))
        names = [file.name for file in (*files.data, *files.loose)]
        if files.meta is not None:
            names.append(files.meta.name)
        if files.tombstone:
            names.append(f"{files.tombstone}.ts")
        for name in names:
            try:
                why = self._damage(tally, folder, name, ring, octets)
            except FileNotFoundError:
                continue  # replaced meanwhile
            if why:
                objects.quarantine(
                    folder.place.device, folder.spot(self.device), f"{folder.path}/{name}", why
                )
                tally.count("quarantined")
                self.care.alarm()
        if self.mode == "quick":
            self._reclaim(tally, folder, files)

    def _damage(
        self, tally: Tally, folder: _Folder, name: str, ring: RingView | None, octets: Pace
    ) -> str | None:
        """What is wrong with a file, None if nothing is. Raises FileNotFoundError, OSError."""
        descriptor = open_unseen(f"{folder.path}/{name}")
        try:
            try:
                found = record.load(descriptor)
            except record.Damaged as damage:
                return str(damage)
            if name.endswith(".data"):
                if (why := _misplaced(found, folder, ring)) is not None:
                    return why
                if self.mode == "full":
                    why = content_damage(descriptor, found, octets.take)
                    tally.count("bytes", found.size)
                    return why
            return None
        finally:
            os.close(descriptor)

    # ---- what nobody needs any longer

    def _reclaim(self, tally: Tally, folder: _Folder, files: layout.Files) -> None:
        clock, age = self.care.store.clock, self.care.store.settings.reclaim_age
        horizon = of_ns(int((clock.seconds() - age) * 1e9))
        useless = [file.name for file in files.obsolete if file.timestamp < horizon]
        useless += [file.name for file in files.loose if file.timestamp < horizon]
        if files.tombstone and files.tombstone < horizon:
            useless.append(f"{files.tombstone}.ts")
        if files.meta is not None and not files.data and not files.loose and files.meta.timestamp < horizon:
            useless.append(files.meta.name)
        for name in useless:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{folder.path}/{name}")
            tally.count("reclaimed")
        if useless or not listed(folder.path):
            holdings.rmdir(folder.path)
        if useless:
            objects.touch(folder.path)
        else:
            _noticed(folder.path)

    def _sweep(self, tally: Tally, path: str) -> None:
        """Temporary files of processes that ended long ago."""
        before = time.time() - self.care.settings.stale
        for name in listed(f"{path}/{layout.TMP}"):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(f"{path}/{layout.TMP}/{name}").st_mtime < before:
                    os.unlink(f"{path}/{layout.TMP}/{name}")
                    tally.count("swept")


def _noticed(path: str) -> None:
    """A process that was killed between a change and telling of it left the sums as they were: tell of it now."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_mtime_ns > os.stat(os.path.dirname(path)).st_mtime_ns:
            objects.touch(path)


def _misplaced(found: record.Record, folder: _Folder, ring: RingView | None) -> str | None:
    name = found.metadata.get("name", "")
    parts = name.split("/", 3)
    if len(parts) != 4 or parts[0]:
        return "its name is not an object's"
    if ring is not None and ring.locate(*parts[1:])[1] != folder.digest:
        return f"{name} does not belong there"
    return None


def content_damage(descriptor: int, found: record.Record, taken: Callable[[int], None]) -> str | None:
    """What is wrong with a file's content; ``taken`` is told how much was read. Raises OSError."""
    summed, at = hashlib.md5(usedforsecurity=False), 0
    while at < found.size:
        part = os.pread(descriptor, min(CHUNK, found.size - at), at)
        if not part:
            return f"it ends after {at} bytes"
        taken(len(part))
        summed.update(part)
        at += len(part)
    if found.metadata.get("etag", "") not in ("", summed.hexdigest()):  # a fragment's is that of the fragment
        return "the content is not what it was"
    return None


def audit_databases(care: Care, device: str) -> Tally:
    """A pass over the account and container databases of a device of this machine. Raises DeviceGone.

    Also forgets deletions that are old enough, and removes databases of which nothing else is left.
    """
    pace = Pace(care.settings.audit_databases, care.stopping)
    copies = care.near.books.copies
    kinds: tuple[Kind, ...] = ("account", "container")
    with care.reports.tally("audit-databases", device) as tally:
        care.path(device)
        for kind in kinds:
            for spot in copies.walk(device, kind):
                if tally.stopped:
                    return tally
                pace.take()
                tally.count(f"{kind}s")
                try:
                    copies.audit(spot, kind)
                    care.near.books.check(spot, kind)
                    known = copies.state(spot, kind)
                    if copies.reclaim(spot, kind) and copies.remove(spot, kind, known):
                        tally.count("reclaimed")
                except Missing:
                    continue
                except StorageError as error:
                    tally.complain(f"{device}: {error}")
                    if _set_aside(care, spot, kind):
                        tally.count("quarantined")
                        care.alarm()
    return tally


def _set_aside(care: Care, spot: Spot, kind: Kind) -> bool:
    """Whether a database is not in its place any longer: it was set aside."""
    return not os.path.exists(care.local.ledgers.folder(spot, kind))
