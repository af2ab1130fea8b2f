"""Erasure coding of one policy: segments of an object to fragments and back.

An object is cut into segments of `Erasure.segment` bytes, the last may be shorter. Each segment is coded to ``data`` +
``parity`` pieces; what a device holds, a fragment, is the pieces of one index, one segment after the other. With a
duplication factor the same fragments lie on several devices: index ``i`` on the ring's nodes i, i + data + parity, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, cast

from pyeclib.ec_iface import ECDriver, ECDriverError

from altostack.objectstore.storage import DeviceGone, Erasure

ETAG: Final = "x-object-sysmeta-ec-etag"
LENGTH: Final = "x-object-sysmeta-ec-content-length"
INDEX: Final = "x-object-sysmeta-ec-frag-index"
SCHEME: Final = "x-object-sysmeta-ec-scheme"
SEGMENT: Final = "x-object-sysmeta-ec-segment-size"
PREFIX: Final = "x-object-sysmeta-ec-"


class Coder:
    """Codes and decodes. May be used by several threads at once."""

    def __init__(self, erasure: Erasure) -> None:
        """Raises ValueError for a code that is not there."""
        self.erasure = erasure
        try:
            self._driver = ECDriver(
                k=erasure.data, m=erasure.parity, ec_type=erasure.type, chksum_type="inline_crc32"
            )
        except ECDriverError as error:
            raise ValueError(f"erasure code {erasure.type}: {error}") from error
        self._size = lru_cache(maxsize=256)(self._measure)

    @property
    def fragments(self) -> int:
        """How many different fragments there are."""
        return self.erasure.data + self.erasure.parity

    @property
    def quorum(self) -> int:
        """How many devices must have a fragment before a write counts."""
        parity = cast(
            int, self._driver.min_parity_fragments_needed()
        )  # pyeclib calls it a list; it is a number
        return (self.erasure.data + parity) * self.erasure.duplication

    @property
    def scheme(self) -> str:
        """What the fragments say they are."""
        return f"{self.erasure.type} {self.erasure.data}+{self.erasure.parity}"

    def encode(self, segment: bytes) -> list[bytes]:
        """A segment's pieces, by index."""
        return list(self._driver.encode(segment))

    def check(self, piece: bytes) -> bytes:
        """The piece, if it is what was written. Raises DeviceGone for a damaged one.

        Pieces carry a sum of their own: decoding damaged ones gives wrong bytes and says nothing.
        """
        try:
            found = cast("dict[str, int]", self._driver.get_metadata(piece, 1))
        except ECDriverError as error:
            raise DeviceGone(f"a fragment is damaged: {error}") from error
        if found["chksum_mismatch"]:
            raise DeviceGone("a fragment is damaged: its sum is wrong")
        return piece

    def decode(self, pieces: Sequence[bytes]) -> bytes:
        """The segment of ``data`` or more pieces of different indexes. Raises DeviceGone for damaged ones."""
        try:
            return bytes(self._driver.decode(list(pieces)))
        except ECDriverError as error:
            raise DeviceGone(f"fragments cannot be decoded: {error}") from error

    def rebuild(self, pieces: Sequence[bytes], index: int) -> bytes:
        """The piece ``index`` of ``data`` or more others. Raises DeviceGone for damaged ones."""
        try:
            return bytes(self._driver.reconstruct(list(pieces), [index])[0])
        except ECDriverError as error:
            raise DeviceGone(f"fragments cannot be decoded: {error}") from error

    def piece(self, length: int) -> int:
        """Bytes of each piece of a segment of ``length`` bytes."""
        return self._size(length) if length else 0

    def _measure(self, length: int) -> int:
        return int(self._driver.get_segment_info(length, length)["fragment_size"])

    def fragment(self, length: int, segment: int) -> int:
        """Bytes of each fragment of an object of ``length`` bytes, cut into segments of ``segment``."""
        whole, rest = divmod(length, segment)
        return whole * self.piece(segment) + self.piece(rest)


def whole_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What is known of an object, from the metadata of one of its fragments."""
    found = {name: value for name, value in metadata.items() if not name.startswith(PREFIX)}
    found["etag"] = metadata[ETAG]
    found["content-length"] = metadata[LENGTH]
    return found
