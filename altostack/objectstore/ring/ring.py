"""A ring as everybody but its builder needs it: read from a file, and asked on every request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec

from altostack.objectstore.ring import sealed
from altostack.objectstore.storage import Device


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The header of a ring file.

    salt: hex, what names are hashed with, for as long as the cluster lives. power: there are 2**power partitions.
    version: rises with every change. devices: all that have a weight or a partition. next_power: while the number of
    partitions is being doubled, what ``power`` becomes (before) or what it is (after); else None.
    """

    salt: str
    power: int
    replicas: float
    version: int
    devices: list[Device]
    next_power: int | None = None


class Ring:
    """One ring in memory; nothing in it changes. See `storage.RingView`."""

    def __init__(self, facts: Facts, rows: Sequence[memoryview]) -> None:
        """``rows``: device ids by partition, a row for each replica; the last may end early (fractional replicas)."""
        self.facts = facts
        self.devices: Sequence[Device] = tuple(facts.devices)
        self._rows = tuple(rows)
        self._shift = 32 - facts.power
        self._hash = blake2b(digest_size=16, key=bytes.fromhex(facts.salt))
        self._by_id: list[Device | None] = [None] * (1 + max((d.id for d in facts.devices), default=-1))
        for device in facts.devices:
            self._by_id[device.id] = device
        self._loose = tuple(device for device in facts.devices if device.weight > 0)
        # What may fail as a whole around each device, the largest first; and all there are where something may go.
        self._domains: dict[int, tuple[tuple[object, ...], ...]] = {
            d.id: ((d.region,), (d.region, d.zone), (d.region, d.zone, d.host)) for d in facts.devices
        }
        self._tiers: list[set[tuple[object, ...]]] = [
            {self._domains[device.id][tier] for device in self._loose} for tier in range(3)
        ]

    @classmethod
    def load(cls, path: Path) -> Ring:
        """Read a file that `builder.Builder.save` wrote.

        Raises:
            sealed.BadFile: it is damaged or something else.
            OSError: it cannot be read.
        """
        facts, rows = sealed.read(path, "ring", Facts)
        parts = 1 << facts.power
        if not 0 <= facts.power <= 32 or any(len(row) != parts for row in rows[:-1]):
            raise sealed.BadFile(f"{path} contradicts itself: its rows do not fit its partitions")
        return cls(facts, rows)

    @property
    def replicas(self) -> int:
        """Copies of a partition, fractions rounded up."""
        return len(self._rows)

    @property
    def parts(self) -> int:
        """Partitions: a power of two."""
        return 1 << self.facts.power

    @property
    def part_power(self) -> int:
        """Partitions are 2 to this power."""
        return self.facts.power

    @property
    def next_part_power(self) -> int | None:
        """Set while the partitions are being doubled: an object's file belongs into the partitions of both powers."""
        return self.facts.next_power

    @property
    def version(self) -> int:
        """Rises with every change."""
        return self.facts.version

    def locate(
        self, account: str, container: str | None = None, object: str | None = None
    ) -> tuple[int, str]:
        """(partition, digest): 32 hex digits of a keyed BLAKE2b of the path; the top bits are the partition.

        So when partitions are doubled, those of p go to 2p and 2p + 1.
        """
        if container is None:
            name = "/" + account
        elif object is None:
            name = f"/{account}/{container}"
        else:
            name = f"/{account}/{container}/{object}"
        keyed = self._hash.copy()
        keyed.update(name.encode("utf-8", "surrogateescape"))
        digest = keyed.hexdigest()
        return int(digest[:8], 16) >> self._shift, digest

    def part_of(self, digest: str, power: int | None = None) -> int:
        """The partition of a digest, with this ring's partitions or 2**``power`` of them."""
        return int(digest[:8], 16) >> (32 - (self.facts.power if power is None else power))

    def nodes(self, part: int) -> Sequence[Device]:
        """The partition's own devices, in the order of their copies."""
        known = self._by_id
        # The last row alone may be shorter; every id in a row is a device of the ring.
        return [known[row[part]] for row in self._rows if part < len(row)]  # type: ignore[misc]

    def handoffs(self, part: int) -> Iterator[Device]:
        """The others, the best substitute first: unlike regions, zones and hosts before like ones.

        Draining devices (weight 0) are none. Which device is first differs from partition to partition, in
        proportion to how many partitions devices have.
        """
        used = {device.id for device in self.nodes(part)}
        for domains, tier in enumerate(self._tiers):
            seen = {self._domains[id][domains] for id in used}
            unseen = len(tier) - len(seen & tier)
            if not unseen:
                continue
            for device in self._walk(part):
                domain = self._domains[device.id][domains]
                if domain not in seen:
                    seen.add(domain)
                    used.add(device.id)
                    yield device
                    unseen -= 1
                    if not unseen:
                        break
        for device in self._walk(part):
            if device.id not in used:
                used.add(device.id)
                yield device

    def _walk(self, part: int) -> Iterator[Device]:
        """Devices that may stand in, with repetition: first those of some other partitions, then all."""
        start = int.from_bytes(blake2b(part.to_bytes(8, "little"), digest_size=8).digest(), "little")
        parts = self.parts
        stride = 1 + 2 * (start % 7919)  # odd, so that partitions do not repeat
        for step in range(min(parts, 128)):
            for device in self.nodes((start + step * stride) % parts):
                if device.weight > 0:
                    yield device
        loose = self._loose
        for index in range(len(loose)):
            yield loose[(start + index) % len(loose)]
