"""Erasure-coded objects: written in two phases, read from any ``data`` fragments of one version."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence

from altostack.objectstore.http import Content, Extent
from altostack.objectstore.proxy import coding
from altostack.objectstore.proxy.coding import Coder
from altostack.objectstore.proxy.copies import Copies, settle_put
from altostack.objectstore.proxy.hunt import Hunt, Source
from altostack.objectstore.proxy.keep import Found, Upload
from altostack.objectstore.proxy.lanes import Lane, close_all, open_lanes
from altostack.objectstore.proxy.spread import Crew, Site
from altostack.objectstore.storage import DeviceGone, Missing
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
        hunt = Hunt(self._coder, site)
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

            stored = close_all(crew, lanes, put, needed)
            settle_put(stored, needed)
            durable = [one for one in stored if isinstance(one, Lane)]
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


class Whole:
    """`keep.Found`: an object that is in fragments."""

    def __init__(self, coder: Coder, site: Site, sources: dict[int, Source]) -> None:
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
        self._sources = Hunt(self._coder, self._site).version(self.timestamp)
        return self.content(start, stop)

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
        self._sources = {}


class Decoded:
    """Bytes of an object, decoded segment by segment; a fragment that breaks off is replaced by another."""

    def __init__(
        self, coder: Coder, site: Site, timestamp: str, sources: dict[int, Source], size: int, segment: int,
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
                pieces.append(self._coder.check(reader.read(size)))
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
                self._readers[index] = _Pieces(Source(target, stored), *self._bounds(number))
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

    def __init__(self, source: Source, start: int, stop: int) -> None:
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
