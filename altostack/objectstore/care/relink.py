"""Moves objects' files to their partitions while a policy's ring doubles the number of partitions, and after it.

While the doubling is being prepared (``next_part_power`` is one more than ``part_power``) every file is linked into
the partition that it is going to be in; nodes write new files to both places. Once the ring has the new partitions,
what lies in an old partition and in its new one, too, is removed from the old one. A partition's devices stay the
same, so files never leave their device. A power that is not being raised has nothing to be linked; then only what was
forgotten in a wrong partition is brought home.
"""

from __future__ import annotations

import contextlib
import os

from altostack.objectstore.care import holdings
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.holdings import Place, listed
from altostack.objectstore.care.report import Tally
from altostack.objectstore.disk import layout, objects
from altostack.objectstore.disk.device import guarded
from altostack.objectstore.files import sync_disk, sync_folder
from altostack.objectstore.storage import RingView


def relink(care: Care, device: str) -> Tally:
    """A pass over a device of this machine. Raises DeviceGone."""
    path = care.path(device)
    name = f".relink-{device}"
    done: dict[str, list[int]] = care.reports.kept(name) or {}
    with care.reports.tally("relink", device) as tally, guarded(path):
        for policy in care.store.policies:
            ring = care.ring(policy)
            if ring is None:
                continue
            power, coming = _powers(ring)
            state = [power, coming]
            if done.get(str(policy.index)) == state:
                continue  # nothing has been in a wrong place since
            place = Place(path, policy.index)
            target = max(power, coming)
            sync_disk(path)  # a journal knows files by the names that they have now
            for part in holdings.parts(place):
                if tally.stopped:
                    return tally
                _partition(tally, place, part, target, remove=target == power)
            done[str(policy.index)] = state
            care.reports.keep(name, done)
    return tally


def _powers(ring: RingView) -> tuple[int, int]:
    """(the ring's power, the one that is prepared or the same)."""
    power = ring.parts.bit_length() - 1
    return power, getattr(ring, "next_part_power", None) or power


def _partition(tally: Tally, place: Place, part: int, power: int, *, remove: bool) -> None:
    for suffix in holdings.suffixes(place, part):
        for digest in listed(f"{place.folder}/{part}/{suffix}"):
            if len(digest) != 32:
                continue
            right = layout.part_of(digest, power)
            if right == part:
                continue
            old = f"{place.folder}/{part}/{suffix}/{digest}"
            new = f"{place.folder}/{right}/{suffix}/{digest}"
            changed = {new}
            for name in listed(old):
                if layout.parse(name) is None:
                    continue
                if not os.path.exists(f"{new}/{name}"):
                    changed |= set(objects.link(f"{old}/{name}", new, name))
                    tally.count("linked")
            for folder in sorted(changed, key=len, reverse=True):
                with contextlib.suppress(FileNotFoundError):
                    sync_folder(folder)
            objects.clean(new)
            if remove:
                for name in listed(old):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{old}/{name}")
                holdings.rmdir(old)
                tally.count("moved")
    if remove:
        holdings.sweep(place, part)
