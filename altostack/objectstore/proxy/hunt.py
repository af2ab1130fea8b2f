"""The search for fragments: enough of one version, the newest that is durable."""

from __future__ import annotations

import logging

from altostack.objectstore.http import Refusal
from altostack.objectstore.proxy import coding
from altostack.objectstore.proxy.coding import Coder
from altostack.objectstore.proxy.spread import Crew, Site, Target
from altostack.objectstore.storage import Missing, StorageError, Stored

log = logging.getLogger(__name__)


class Source:
    """One fragment that is open."""

    def __init__(self, target: Target, stored: Stored) -> None:
        self.target, self.stored = target, stored
        self.index = stored.frag if stored.frag is not None else int(stored.metadata[coding.INDEX])

    def close(self) -> None:
        self.stored.close()


class Hunt:
    """The search for enough fragments of one version."""

    def __init__(self, coder: Coder, site: Site) -> None:
        self._coder, self._site = coder, site
        self._found: dict[str, dict[int, Source]] = {}  # timestamp -> index -> fragment
        self._durable: set[str] = set()
        self._tombstone = ""
        self._missing = self._silent = 0

    def run(self, crew: Crew, newest: bool, patience: float | None) -> dict[int, Source]:
        """The fragments, by index. Raises Missing, Refusal(503). The others are closed.

        patience: seconds after which the first nodes count as silent when others can be asked.
        """
        data = self._coder.erasure.data
        own = self._site.primaries
        count = len(own) if newest else data
        for result in crew.run(own[:count], self._own, within=patience, late=Source.close):
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

    def version(self, timestamp: str) -> dict[int, Source]:
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

    def _own(self, target: Target) -> Source:
        """The fragment that belongs there, or another one that is there instead."""
        try:
            stored = target.node.read(target.spot, frag=target.index % self._coder.fragments)
        except Missing:
            stored = target.node.read(target.spot)
        return Source(target, stored)

    def _look(self, target: Target, frag: int | None, timestamp: str | None) -> None:
        try:
            if frag is None and target.index >= 0:
                self._take(self._own(target))
            else:
                self._take(Source(target, target.node.read(target.spot, frag=frag, timestamp=timestamp)))
        except StorageError as error:
            self._take(error)

    def _take(self, result: Source | StorageError) -> None:
        if isinstance(result, Source):
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
