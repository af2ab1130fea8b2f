"""Erasure-coded objects: written in two phases, read from any ``data`` fragments of one version."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence

from altostack.objectstore.http import Content, Extent, Refusal
from altostack.objectstore.proxy import coding
from altostack.objectstore.proxy.coding import Coder
from altostack.objectstore.proxy.copies import Copies, settle_put
from altostack.objectstore.proxy.keep import Found, Upload
from altostack.objectstore.proxy.lanes import Lane, close_all, open_lanes
from altostack.objectstore.proxy.spread import Crew, Site, Target
from altostack.objectstore.storage import DeviceGone, Missing, StorageError, Stored
from altostack.objectstore.store import Store

log = logging.getLogger(__name__)


class Fragments(Copies):
    """`keep.Keep` for an erasure-coded policy. Metadata and deletions go to all devices as those of whole copies."""

    def __init__(self, store: Store, crew: Crew, coder: Coder) -> None:
        super().__init__(store, crew)
        self._coder = coder

    def needed(self, site: Site) -> int:
        return self._coder.quorum

    def needed_for_change(self, site: Site) -> int:
        # Whoever reads must meet one device at least that knows of a deletion.
        return max(super().needed_for_change(site), len(site.primaries) - self._coder.erasure.data + 1)

    # ---- reading

    def find(self, site: Site, *, newest: bool = False) -> Found:
        hunt = _Hunt(self._coder, site)
        try:
            chosen = hunt.run(self._crew, newest, self._store.settings.concurrent_get_delay or None)
        except BaseException:
            hunt.close()
            raise
        return Whole(self._coder, site, chosen)

    # ---- writing

    def put(self, site: Site, upload: Upload) -> None:
        coder, crew = self._coder, self._crew
        needed = self.needed(site)
        length = upload.body.length
        size = None if length is None or upload.absent else coder.fragment(length, coder.erasure.segment)
        lanes = open_lanes(
            crew, site, needed,
            lambda target: target.node.write(
                target.spot, upload.timestamp, size=size, frag=target.index % coder.fragments, absent=upload.absent
            ),
        )  # fmt: skip
        try:
            sums = self._send(upload, lanes, needed)
            metadata = upload.finish()
            updates = upload.updates(metadata)
            common = {
                **metadata,
                coding.ETAG: metadata["etag"],
                coding.LENGTH: metadata["content-length"],
                coding.SCHEME: coder.scheme,
                coding.SEGMENT: str(coder.erasure.segment),
                "content-length": str(coder.fragment(int(metadata["content-length"]), coder.erasure.segment)),
            }

            def put(lane: Lane) -> None:
                index = lane.target.index % coder.fragments
                own = common | {"etag": sums[index].hexdigest(), coding.INDEX: str(index)}
                lane.put(own, updates[lane.target.index])

            results = close_all(crew, lanes, put, needed)
            settle_put(results, needed)
            durable = [
                lane for lane, one in zip(lanes, results, strict=True) if not isinstance(one, StorageError)
            ]
            settle_put(close_all(crew, durable, lambda lane: lane.writer.commit(), needed), needed)
        except BaseException:
            for lane in lanes:
                lane.abort()
            raise

    def _send(self, upload: Upload, lanes: Sequence[Lane], needed: int) -> list[hashlib._Hash]:
        """Code the body and hand it on; the sums of the fragments."""
        coder = self._coder
        sums = [hashlib.md5(usedforsecurity=False) for _ in range(coder.fragments)]
        while segment := upload.read(coder.erasure.segment):
            pieces = coder.encode(segment)
            for sum_, piece in zip(sums, pieces, strict=True):
                sum_.update(piece)
            for lane in lanes:
                lane.write(pieces[lane.target.index % coder.fragments])
            if sum(not lane.broken for lane in lanes) < needed:
                settle_put([lane.error for lane in lanes], needed)
            if len(segment) < coder.erasure.segment:
                break
        return sums


class _Source:
    """One fragment that is open."""

    def __init__(self, target: Target, stored: Stored) -> None:
        self.target, self.stored = target, stored
        self.index = stored.frag if stored.frag is not None else int(stored.metadata[coding.INDEX])

    def close(self) -> None:
        self.stored.close()


class _Hunt:
    """The search for enough fragments of one version."""

    def __init__(self, coder: Coder, site: Site) -> None:
        self._coder, self._site = coder, site
        self._found: dict[str, dict[int, _Source]] = {}  # timestamp -> index -> fragment
        self._durable: set[str] = set()
        self._tombstone = ""
        self._missing = self._silent = 0

    def run(self, crew: Crew, newest: bool, patience: float | None) -> dict[int, _Source]:
        """The fragments, by index. Raises Missing, Refusal(503). The others are closed.

        patience: seconds after which the first nodes count as silent when others can be asked.
        """
        data = self._coder.erasure.data
        own = self._site.primaries
        count = len(own) if newest else data
        for result in crew.run(own[:count], self._own, within=patience, late=_Source.close):
            self._take(result)
        for target in own[count:]:
            if self._agreed():
                break
            self._look(target, None, None)
        chosen = self._choose()
        if chosen is None:
            # Fragments may lie where a device's substitute or an older ring put them.
            for target in self._site.readers():
                self._look(target, None, None)
                if (chosen := self._choose()) is not None:
                    break
        if chosen is None:
            chosen = self._one_by_one()
        if chosen is not None:
            wanted = self._found.pop(chosen)
            self.close()
            return wanted
        if any(stamp > self._tombstone for stamp in self._durable):
            raise Refusal(503)  # it is there, but too little of it can be read
        if self._silent and 2 * self._missing < len(own):
            raise Refusal(503)
        raise Missing(self._tombstone or None)

    def version(self, timestamp: str) -> dict[int, _Source]:
        """Enough fragments of one version. Raises Missing."""
        self._durable.add(timestamp)
        for target in self._site.readers():
            if len(self._found.get(timestamp, ())) >= self._coder.erasure.data:
                break
            self._look(target, None, None)
        found = self._one_by_one()
        wanted = {} if found is None else self._found.pop(timestamp)
        self.close()
        if found is None:
            raise Missing
        return wanted

    def close(self) -> None:
        """Close all that was found."""
        for sources in self._found.values():
            for source in sources.values():
                source.close()
        self._found.clear()

    def _own(self, target: Target) -> _Source:
        """The fragment that belongs there, or another one that is there instead."""
        try:
            stored = target.node.read(target.spot, frag=target.index % self._coder.fragments)
        except Missing:
            stored = target.node.read(target.spot)
        return _Source(target, stored)

    def _look(self, target: Target, frag: int | None, timestamp: str | None) -> None:
        try:
            if frag is None and target.index >= 0:
                self._take(self._own(target))
            else:
                self._take(_Source(target, target.node.read(target.spot, frag=frag, timestamp=timestamp)))
        except StorageError as error:
            self._take(error)

    def _take(self, result: _Source | StorageError) -> None:
        if isinstance(result, _Source):
            stored = result.stored
            if stored.durable:
                self._durable.add(stored.timestamp)
            held = self._found.setdefault(stored.timestamp, {})
            known = held.get(result.index)
            if known is None or known.stored.changed < stored.changed:
                held[result.index] = result
                result = known if known is not None else result
                if known is None:
                    return
            result.close()
        elif isinstance(result, Missing):
            self._missing += 1
            self._tombstone = max(self._tombstone, result.timestamp or "")
        else:
            log.warning("a fragment cannot be read: %s", result)
            self._silent += 1

    def _agreed(self) -> bool:
        """Whether all that was seen is of one version, and enough of it."""
        return len(self._found) == 1 and self._choose() is not None

    def _choose(self) -> str | None:
        """The newest version that can be read; only if no newer one is known to be whole somewhere."""
        stamps = [stamp for stamp in self._durable if stamp > self._tombstone]
        if not stamps:
            return None
        newest = max(stamps)
        return newest if len(self._found.get(newest, ())) >= self._coder.erasure.data else None

    def _one_by_one(self) -> str | None:
        """Ask every device for every fragment that is missing, newest version first."""
        for stamp in sorted(self._durable, reverse=True):
            if stamp <= self._tombstone:
                break
            for target in self._site.readers():
                for index in range(self._coder.fragments):
                    held = self._found.get(stamp, {})
                    if len(held) >= self._coder.erasure.data:
                        return stamp
                    if index not in held:
                        self._look(target, index, stamp)
            if len(self._found.get(stamp, ())) >= self._coder.erasure.data:
                return stamp
        return None


class Whole:
    """`keep.Found`: an object that is in fragments."""

    def __init__(self, coder: Coder, site: Site, sources: dict[int, _Source]) -> None:
        self._coder, self._site, self._sources = coder, site, sources
        newest = max(sources.values(), key=lambda one: one.stored.changed).stored
        self.timestamp, self.changed = newest.timestamp, newest.changed
        self.metadata = coding.whole_metadata(newest.metadata)
        self._size = int(self.metadata["content-length"])
        self._segment = int(newest.metadata[coding.SEGMENT])

    def content(self, start: int, stop: int) -> Content:
        sources, self._sources = self._sources, {}
        if start >= stop:
            for source in sources.values():
                source.close()
            return b""
        return Decoded(
            self._coder, self._site, self.timestamp, sources, self._size, self._segment, start, stop
        )

    def again(self, start: int, stop: int) -> Content:
        self._sources = _Hunt(self._coder, self._site).version(self.timestamp)
        return self.content(start, stop)

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
        self._sources = {}


class Decoded:
    """Bytes of an object, decoded segment by segment; a fragment that breaks off is replaced by another."""

    def __init__(
        self, coder: Coder, site: Site, timestamp: str, sources: dict[int, _Source], size: int, segment: int,
        start: int, stop: int,
    ) -> None:  # fmt: skip
        self._coder, self._site, self._timestamp = coder, site, timestamp
        self._size, self._segment, self._start, self._stop = size, segment, start, stop
        self._first = start // segment
        best = sorted(sources)[: coder.erasure.data]  # pieces of data need no arithmetic
        self._spare = {index: source for index, source in sources.items() if index not in best}
        self._failed: set[tuple[int, int]] = set()  # (device, index)
        self._readers = {index: _Pieces(sources[index], *self._bounds(self._first)) for index in best}

    def _bounds(self, segment: int) -> tuple[int, int]:
        """Where in a fragment the pieces from a segment on lie, as far as they are wanted."""
        piece = self._coder.piece(self._segment)
        last = (self._stop - 1) // self._segment
        end = (last + 1) * piece
        if (last + 1) * self._segment > self._size:
            end = last * piece + self._coder.piece(self._size - last * self._segment)
        return segment * piece, end

    def __iter__(self) -> Iterator[bytes]:
        try:
            for number in range(self._first, (self._stop - 1) // self._segment + 1):
                at = number * self._segment
                length = min(self._segment, self._size - at)
                segment = self._decode(number, self._coder.piece(length))
                begin, end = max(0, self._start - at), min(length, self._stop - at)
                yield segment if end - begin == len(segment) else segment[begin:end]
        finally:
            self.close()

    def _decode(self, number: int, size: int) -> bytes:
        pieces: list[bytes] = []
        waiting = list(self._readers)
        while waiting:
            index = waiting.pop(0)
            reader = self._readers[index]
            try:
                pieces.append(reader.read(size))
            except DeviceGone as error:
                log.warning("fragment %d broke off: %s", index, error)
                self._failed.add((reader.source.target.device.id, index))
                reader.close()
                del self._readers[index]
                waiting.append(self._replace(number))
        return self._coder.decode(pieces)

    def _replace(self, number: int) -> int:
        """Another fragment from a segment on; its index. Raises DeviceGone when there is none."""
        while self._spare:
            index = min(self._spare)
            source = self._spare.pop(index)
            if index not in self._readers and (source.target.device.id, index) not in self._failed:
                self._readers[index] = _Pieces(source, *self._bounds(number))
                return index
            source.close()
        for target in self._site.readers():
            for index in range(self._coder.fragments):
                if index in self._readers or (target.device.id, index) in self._failed:
                    continue
                try:
                    stored = target.node.read(target.spot, frag=index, timestamp=self._timestamp)
                except Missing:
                    continue
                except DeviceGone:
                    break
                self._readers[index] = _Pieces(_Source(target, stored), *self._bounds(number))
                return index
        raise DeviceGone("too few fragments are left")

    def close(self) -> None:
        """Let go of all fragments."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}
        for source in self._spare.values():
            source.close()
        self._spare = {}


class _Pieces:
    """A run of one fragment, read in pieces of exact size."""

    def __init__(self, source: _Source, start: int, stop: int) -> None:
        self.source = source
        self._content: Extent | Iterator[bytes] | None = None
        self._trouble: DeviceGone | None = None
        self._rest = b""
        try:
            self._content = source.stored.content(start, stop)
        except DeviceGone as error:
            self._trouble = error

    def read(self, size: int) -> bytes:
        """Raises DeviceGone."""
        if self._trouble is not None or self._content is None:
            raise self._trouble or DeviceGone("closed")
        if isinstance(self._content, Extent):
            return self._read_extent(self._content, size)
        parts, missing = [self._rest[:size]], size - min(size, len(self._rest))
        self._rest = self._rest[size:]
        while missing:
            part = next(self._content, b"")
            if not part:
                raise DeviceGone("the fragment is short")
            parts.append(part[:missing])
            self._rest = part[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)

    @staticmethod
    def _read_extent(extent: Extent, size: int) -> bytes:
        try:
            part = os.pread(extent.descriptor, size, extent.offset)
        except OSError as error:
            raise DeviceGone(str(error)) from error
        if len(part) < size:
            raise DeviceGone("the fragment is short")
        extent.offset += size
        extent.length -= size
        return part

    def close(self) -> None:
        """Let go of the fragment."""
        close = getattr(self._content, "close", None)
        if close is not None:
            close()
        self._content = None
        self.source.close()
