"""Whole copies of objects: written to a partition's devices together, read from any of them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Final

from altostack.objectstore.http import CHUNK, Content, Extent, Refusal
from altostack.objectstore.proxy.keep import Found, Upload
from altostack.objectstore.proxy.lanes import Lane, close_all, open_lanes
from altostack.objectstore.proxy.spread import Crew, Site, Target, quorum, settle
from altostack.objectstore.storage import (
    DeviceGone,
    Missing,
    StorageError,
    Stored,
    Update,
)
from altostack.objectstore.store import Store

log = logging.getLogger(__name__)

_SMALL: Final = CHUNK  # a body up to this size is read whole, then written to all at once
_PIECE: Final = 1 << 20  # bytes of a larger one that are handed on at a time


class Copies:
    """`keep.Keep` for replicated policies."""

    def __init__(self, store: Store, crew: Crew) -> None:
        self._store, self._crew = store, crew

    def needed(self, site: Site) -> int:
        """How many devices have to take a new version."""
        return quorum(len(site.primaries))

    def needed_for_change(self, site: Site) -> int:
        """How many have to take a deletion, or other metadata."""
        return quorum(len(site.primaries))

    # ---- reading

    def find(self, site: Site, *, newest: bool = False) -> Found:
        if newest and len(site.primaries) > 1:
            return self._newest(site)
        look = _Look(site, len(site.primaries))
        targets = site.readers()
        nearest = next(targets)
        targets = itertools.chain((nearest,), targets)
        delay = self._store.settings.concurrent_get_delay
        if delay > 0 and not nearest.local:
            found = self._race(look, targets, delay)
        else:
            found = next((one for one in map(look.at, targets) if one is not None), None)
        if found is not None:
            return found
        if look.missing and (look.silent == 0 or look.missing >= quorum(len(site.primaries))):
            raise Missing(look.tombstone or None)
        raise Refusal(503)

    def _race(self, look: _Look, targets: Iterator[Target], delay: float) -> Copy | None:
        """Ask one after the other, the next one when the last has not answered for ``delay`` seconds."""
        pending: set[Future[Copy | None]] = set()
        more = True
        while more or pending:
            target = next(targets, None) if more else None
            more = target is not None
            if target is not None:
                pending.add(self._crew.submit(partial(look.at, target)))
            done, pending = wait(pending, delay if more else None, return_when=FIRST_COMPLETED)
            answers = [one.result() for one in done]
            found = [one for one in answers if one is not None]
            for late in found[1:]:
                late.close()
            if found:
                for one in pending:
                    one.add_done_callback(_close_late)
                return found[0]
        return None

    def _newest(self, site: Site) -> Found:
        def read(target: Target) -> Copy:
            return Copy(site, target, target.node.read(target.spot))

        results = self._crew.run(site.primaries, read)
        found = [one for one in results if isinstance(one, Copy)]
        tombstone = max((one.timestamp or "" for one in results if isinstance(one, Missing)), default="")
        found.sort(key=lambda one: one.changed, reverse=True)
        for old in found[1:]:
            old.close()
        if found and found[0].timestamp > tombstone:
            return found[0]
        if found:
            found[0].close()
        if tombstone or any(isinstance(one, Missing) for one in results):
            if not found and sum(isinstance(one, Missing) for one in results) >= quorum(len(results)):
                return self.find(site)  # handoffs may have it
            if tombstone:
                raise Missing(tombstone)
        return self.find(site)

    # ---- writing

    def put(self, site: Site, upload: Upload) -> None:
        length = upload.body.length
        # Whether nothing is there has to be known of all devices before one of them has something.
        careful = upload.absent and len(site.primaries) > 1
        if upload.content is not None or (length is not None and length <= _SMALL and not careful):
            self._put_small(site, upload)
        else:
            self._put_large(site, upload)

    def _put_small(self, site: Site, upload: Upload) -> None:
        if upload.content is None:
            upload.content = upload.read(_SMALL) if upload.body.length else b""
            upload.finish()
        content, metadata = upload.content, upload.metadata
        updates = upload.updates(metadata)

        def write(target: Target) -> None:
            writer = target.node.write(target.spot, upload.timestamp, size=len(content), absent=upload.absent)
            try:
                if content:
                    writer.write(content)
                writer.put(metadata, updates[target.index])
            except BaseException:
                writer.abort()
                raise

        needed = self.needed(site)
        settle_put(self._crew.write(site, write, needed, anew=True), needed)

    def _put_large(self, site: Site, upload: Upload) -> None:
        needed = self.needed(site)
        lanes = open_lanes(
            self._crew, site, needed,
            lambda target: target.node.write(
                target.spot,
                upload.timestamp,
                size=None if upload.absent else upload.body.length,  # with a size it would be looked at later
                absent=upload.absent,
            ),
        )  # fmt: skip
        try:
            while part := upload.read(_PIECE):
                for lane in lanes:
                    lane.write(part)
                if sum(not lane.broken for lane in lanes) < needed:
                    settle_put([lane.error or DeviceGone("broken") for lane in lanes], needed)
            metadata = upload.finish()
            updates = upload.updates(metadata)

            def put(lane: Lane) -> None:
                lane.put(metadata, updates[lane.target.index])

            settle_put(close_all(self._crew, lanes, put, needed), needed)
        except BaseException:
            for lane in lanes:
                lane.abort()
            raise

    def post(
        self, site: Site, timestamp: str, metadata: dict[str, str], updates: Sequence[Sequence[Update]]
    ) -> None:
        def update(target: Target) -> None:
            target.node.update(target.spot, timestamp, metadata, updates[target.index])

        needed = self.needed_for_change(site)
        results = list(self._crew.write(site, update, needed))
        if any(isinstance(one, Missing) for one in results):
            self._post_elsewhere(site, results, update, needed)
        try:
            settle(results, needed)
        except Missing:
            if any(not isinstance(one, StorageError) for one in results):
                raise Refusal(503) from None  # it is somewhere, so "not found" would be wrong
            raise

    @staticmethod
    def _post_elsewhere(
        site: Site, results: list[StorageError | None], update: Callable[[Target], None], needed: int
    ) -> None:
        """A copy that is not where it belongs may be on a handoff: that one's metadata counts instead."""
        empty = [at for at, one in enumerate(results) if isinstance(one, Missing)]
        for handoff in itertools.islice(site.handoffs(), len(site.primaries)):
            if not empty or sum(one is None for one in results) >= needed:
                return
            try:
                update(site.target(handoff.device, empty[0]))
            except StorageError:
                continue
            results[empty.pop(0)] = None

    def delete(self, site: Site, timestamp: str, updates: Sequence[Sequence[Update]], name: str) -> bool:
        def delete(target: Target) -> bool:
            return target.node.delete(target.spot, timestamp, updates[target.index], name=name)

        needed = self.needed_for_change(site)
        return any(settle(self._crew.write(site, delete, needed), needed))


class _Look:
    """A search for a copy, device by device."""

    def __init__(self, site: Site, primaries: int) -> None:
        self._site, self._primaries = site, primaries
        self.tombstone = ""
        self.missing = self.silent = 0

    def at(self, target: Target) -> Copy | None:
        """What is there, unless a deletion is known that is newer."""
        try:
            stored = target.node.read(target.spot)
        except Missing as error:
            if target.index >= 0 or error.timestamp is not None:
                self.missing += 1
                self.tombstone = max(self.tombstone, error.timestamp or "")
            return None
        except DeviceGone as trouble:
            log.warning("%s/%s: %s", target.device.host, target.device.device, trouble)
            self.silent += 1
            return None
        if stored.timestamp > self.tombstone:
            return Copy(self._site, target, stored)
        stored.close()
        return None


def _close_late(one: Future[Copy | None]) -> None:
    """What was found after another had answered is of no use."""
    if one.exception() is None and (late := one.result()) is not None:
        late.close()


def settle_put(results: Sequence[object | None], needed: int) -> None:
    """Raises what a PUT that not enough nodes took says."""
    errors: list[StorageError | None] = [one if isinstance(one, StorageError) else None for one in results]
    settle(errors, needed)


class Copy:
    """`keep.Found`: one whole copy."""

    __slots__ = ("_site", "_stored", "_target", "changed", "metadata", "timestamp")

    def __init__(self, site: Site, target: Target, stored: Stored) -> None:
        self._site, self._target, self._stored = site, target, stored
        self.metadata = dict(stored.metadata)
        self.timestamp, self.changed = stored.timestamp, stored.changed

    def content(self, start: int, stop: int) -> Content:
        content = self._stored.content(start, stop)
        if isinstance(content, Extent) or len(self._site.primaries) == 1:
            return content
        return Resumed(self._site, self._target, self.timestamp, content, start, stop)

    def again(self, start: int, stop: int) -> Content:
        stored = self._target.node.read(self._target.spot, timestamp=self.timestamp)
        content = stored.content(start, stop)
        if isinstance(content, Extent) or len(self._site.primaries) == 1:
            return content
        return Resumed(self._site, self._target, self.timestamp, content, start, stop)

    def close(self) -> None:
        self._stored.close()


class Resumed:
    """A copy's bytes; when it breaks off, the rest comes from another copy of the same version."""

    def __init__(
        self, site: Site, target: Target, timestamp: str, content: Iterator[bytes], start: int, stop: int
    ) -> None:
        self._site, self._timestamp = site, timestamp
        self._content: Iterator[bytes] = content
        self._at, self._stop = start, stop
        self._tried = {(target.device.id)}

    def __iter__(self) -> Iterator[bytes]:
        while self._at < self._stop:
            try:
                for part in self._content:
                    self._at += len(part)
                    yield part
                if self._at >= self._stop:
                    return
                trouble: Exception = DeviceGone("the copy is short")
            except DeviceGone as error:
                trouble = error
            log.warning("a copy broke off at byte %d: %s", self._at, trouble)
            self._content = self._other(trouble)

    def _other(self, trouble: Exception) -> Iterator[bytes]:
        self.close()
        for target in self._site.readers():
            if target.device.id in self._tried:
                continue
            self._tried.add(target.device.id)
            try:
                stored = target.node.read(target.spot, timestamp=self._timestamp)
                return iter(stored.content(self._at, self._stop))
            except (DeviceGone, Missing) as error:
                log.warning("%s/%s: %s", target.device.host, target.device.device, error)
        raise trouble

    def close(self) -> None:
        """Let go of the copy that is open."""
        close = getattr(self._content, "close", None)
        if close is not None:
            close()
