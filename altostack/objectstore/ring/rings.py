"""The rings of a cluster, read from a folder, and read again when their files change."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from altostack.objectstore.ring.ring import Ring
from altostack.objectstore.ring.sealed import BadFile
from altostack.objectstore.storage import StoragePolicy

_log = logging.getLogger(__name__)
_PERIOD: Final = 2.0  # seconds between looks at a file


class NoRing(LookupError):
    """There is no such ring file; the text names it."""


class FileRings:
    """``account.ring``, ``container.ring``, ``object.ring`` (policy 0) and ``object-N.ring`` of one folder.

    A ring is read when it is first asked for. A file that changed is read again within two seconds; when it cannot
    be read then, the ring in memory stays in force and the log says why.
    """

    def __init__(
        self,
        folder: Path,
        policies: Sequence[StoragePolicy] = (),
        *,
        period: float = _PERIOD,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``period``: seconds for which a file is not looked at again. ``monotonic``: gives seconds."""
        self.folder = folder
        self._account = _Watched(folder / "account.ring", period, monotonic)
        self._container = _Watched(folder / "container.ring", period, monotonic)
        self._objects = {
            policy.index: _Watched(folder / f"{object_ring_name(policy.index)}.ring", period, monotonic)
            for policy in policies
        }

    @property
    def account(self) -> Ring:
        """Raises NoRing, sealed.BadFile."""
        return self._account.ring()

    @property
    def container(self) -> Ring:
        """Raises NoRing, sealed.BadFile."""
        return self._container.ring()

    def object(self, policy: int) -> Ring:
        """Raises NoRing (a LookupError) for a policy that is unknown or has no ring file, sealed.BadFile."""
        watched = self._objects.get(policy)
        if watched is None:
            raise NoRing(f"there is no storage policy {policy}")
        return watched.ring()


def object_ring_name(policy: int) -> str:
    """What the ring of a policy's objects is called: ``object``, ``object-1``, ..."""
    return "object" if policy == 0 else f"object-{policy}"


class _Watched:
    """One file, and the ring read from it."""

    def __init__(self, path: Path, period: float, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._period = period
        self._monotonic = monotonic
        self._ring: Ring | None = None
        self._seen: tuple[int, ...] = ()  # how the file looked when it was last tried
        self._until = float("-inf")  # no look at the file before
        self._lock = threading.Lock()

    def ring(self) -> Ring:
        ring = self._ring
        if ring is not None and self._monotonic() < self._until:
            return ring
        if ring is not None:
            if self._lock.acquire(blocking=False):  # one looks; the others go on with what there is
                try:
                    return self._look()
                finally:
                    self._lock.release()
            return ring
        with self._lock:
            return self._look()

    def _look(self) -> Ring:
        self._until = self._monotonic() + self._period
        try:
            stat = os.stat(self._path)
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._ring is None or seen != self._seen:
                self._seen = seen
                self._ring = Ring.load(self._path)
        except FileNotFoundError:
            if self._ring is None:
                raise NoRing(f"there is no ring file {self._path}") from None
            self._keep("it is gone", ())
        except (BadFile, OSError) as error:
            if self._ring is None:
                raise
            self._keep(str(error), self._seen)
        assert self._ring is not None
        return self._ring

    def _keep(self, why: str, seen: tuple[int, ...]) -> None:
        self._seen = seen
        _log.warning("%s: %s; the ring read before stays in force", self._path, why)
