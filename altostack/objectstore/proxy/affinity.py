"""Which devices a proxy prefers: those of its own region or zone, to read from and to write to first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from altostack.objectstore.config import Settings
from altostack.objectstore.storage import Device

_PLACE: Final = re.compile(r"r(\d+)(?:z(\d+))?")
_FAR: Final = 1 << 31  # of a device that nothing is said about


@dataclass(frozen=True, slots=True)
class _Place:
    region: int
    zone: int | None  # None: the whole region

    def holds(self, device: Device) -> bool:
        return device.region == self.region and self.zone in (None, device.zone)


class Affinity:
    """[objectstore] read_affinity and write_affinity. copies: how many of a new version go to preferred devices."""

    def __init__(self, settings: Settings) -> None:
        """Raises ValueError for settings that cannot be read."""
        self._read: list[tuple[_Place, int]] = []
        for text in _words(settings.read_affinity):
            place, _, said = text.partition("=")
            if not said.strip().isdecimal():
                raise ValueError(f"[objectstore] read_affinity: {text!r} is not of the form r1z2=100")
            self._read.append((_place(place.strip(), "read_affinity"), int(said)))
        self._write = [_place(text, "write_affinity") for text in _words(settings.write_affinity)]
        self.copies = settings.write_affinity_copies

    @property
    def writes(self) -> bool:
        """Whether some devices are preferred for writing."""
        return bool(self._write)

    @property
    def any(self) -> bool:
        """Whether anything is preferred at all."""
        return bool(self._read or self._write)

    def distance(self, device: Device) -> int:
        """How far away it counts as, for reading."""
        return min((far for place, far in self._read if place.holds(device)), default=_FAR)

    def prefers(self, device: Device) -> bool:
        """Whether new versions go there first."""
        return any(place.holds(device) for place in self._write)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _place(text: str, setting: str) -> _Place:
    found = _PLACE.fullmatch(text)
    if found is None:
        raise ValueError(f"[objectstore] {setting}: {text!r} is not of the form r1 or r1z2")
    return _Place(int(found[1]), None if found[2] is None else int(found[2]))
