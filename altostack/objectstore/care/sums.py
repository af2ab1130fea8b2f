"""Sums over what lies in partitions, so that two devices find out by few words what is different.

A partition's total stands for the sums of its suffixes, a suffix's sum for its objects' `holdings.Holding`. Whoever
changes an object touches the folders of its suffix and partition (`disk.objects.touch`); a sum holds for as long as
the folder's time is what it was before the sum was made, so a change that comes between is seen by the next look.

Totals are remembered in memory. The sums of suffixes are many: they stand in files, DEVICE/hashes[-N]/<part>, which
hold for one boot of the machine, since a loss of power may take back what the folders' times tell.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from pathlib import Path
from typing import Final

import msgspec

from altostack.objectstore.care.holdings import Place, holdings, suffixes
from altostack.objectstore.disk import layout

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_MOST: Final = 500_000  # totals in memory


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """A file of sums, behind its CRC-32. suffixes: suffix -> (time of its folder, sum)."""

    boot: str
    suffixes: dict[str, tuple[int, str]]


_decoder = msgspec.msgpack.Decoder(_Kept)


class Sums:
    """The sums of this machine's devices. Several processes may make the same ones."""

    def __init__(self) -> None:
        self._totals: dict[tuple[Place, int, int | None], tuple[int, str]] = {}
        self._boot = _BOOT.read_text().strip()

    def total(self, place: Place, part: int, frag: int | None) -> str:
        """Of a partition; ``frag``: the index of the fragments that are looked at. Raises OSError."""
        changed = _changed(f"{place.folder}/{part}")
        known = self._totals.get((place, part, frag))
        if known is not None and known[0] == changed:
            return known[1]
        self.suffixes(place, part, frag)
        return self._totals[place, part, frag][1]

    def suffixes(self, place: Place, part: int, frag: int | None) -> dict[str, str]:
        """Sum by suffix; those where nothing lies are left out. Raises OSError."""
        top = f"{place.folder}/{part}"
        changed = _changed(top)
        before = self._load(place, part, frag) if changed else {}
        after: dict[str, tuple[int, str]] = {}
        for suffix in suffixes(place, part) if changed else ():
            when = _changed(f"{top}/{suffix}")
            if when:
                known = before.get(suffix)
                if known is None or known[0] != when:
                    known = (when, _sum(place, part, suffix, frag))
                after[suffix] = known
        if after != before:
            self._keep(place, part, frag, after)
        found = {suffix: one for suffix, (_, one) in after.items() if one}
        if len(self._totals) >= _MOST:
            self._totals.clear()
        self._totals[place, part, frag] = (changed, _total(found))
        return found

    def _load(self, place: Place, part: int, frag: int | None) -> dict[str, tuple[int, str]]:
        try:
            content = Path(_file(place, part, frag)).read_bytes()
            if zlib.crc32(content[4:]).to_bytes(4) != content[:4]:  # a wrong sum would never equal another's
                return {}
            kept = _decoder.decode(content[4:])
        except (OSError, ValueError):
            return {}
        return kept.suffixes if kept.boot == self._boot else {}

    def _keep(self, place: Place, part: int, frag: int | None, found: dict[str, tuple[int, str]]) -> None:
        path = _file(place, part, frag)
        with contextlib.suppress(OSError):  # a device that is full or cannot be written is read all the same
            if not found:
                os.unlink(path)
                return
            os.makedirs(os.path.dirname(path), exist_ok=True)
            scratch = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}.{id(self)}"
            content = msgspec.msgpack.encode(_Kept(self._boot, found))
            Path(scratch).write_bytes(zlib.crc32(content).to_bytes(4) + content)
            os.replace(scratch, path)


def _file(place: Place, part: int, frag: int | None) -> str:
    name = str(part) if frag is None else f"{part}#{frag}"
    return f"{place.device}/{layout.named('hashes', place.policy)}/{name}"


def _sum(place: Place, part: int, suffix: str, frag: int | None) -> str:
    """Empty when nothing that counts lies there."""
    summed, some = hashlib.md5(usedforsecurity=False), False
    for digest, found in holdings(place, part, suffix):
        piece = found.piece(frag)
        if piece is None and not found.tombstone:
            continue
        some = True
        said = "" if piece is None else piece.timestamp
        summed.update(f"{digest}|{said}|{found.meta}|{found.typed}|{found.tombstone}\n".encode())
    return summed.hexdigest() if some else ""


def _total(found: dict[str, str]) -> str:
    text = "".join(f"{suffix}{one}" for suffix, one in sorted(found.items()))
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _changed(folder: str) -> int:
    """A folder's time, 0 when it is not there."""
    try:
        return os.stat(folder).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0
