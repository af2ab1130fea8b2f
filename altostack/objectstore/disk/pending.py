"""Updates of lists that could not be delivered: kept on the device until the care daemons deliver them.

DEVICE/async_pending[-N]/<suffix>/<timestamp>-<something unique>: the msgpack form of `Update`s.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from altostack.objectstore.disk import layout
from altostack.objectstore.disk.device import Devices
from altostack.objectstore.files import make_folders, sync_folder
from altostack.objectstore.storage import Update

_encode = msgspec.msgpack.Encoder().encode
_updates = msgspec.msgpack.Decoder(list[Update])
_FOLDER = re.compile(r"async_pending(?:-(\d+))?")


class Pending(NamedTuple):
    """Updates that wait in a file."""

    path: str
    policy: int
    updates: list[Update]


def keep(devices: Devices, device: str, policy: int, digest: str, updates: Sequence[Update]) -> None:
    """Make updates last on the device at the path ``device``. Raises OSError, DeviceGone."""
    folder = f"{device}/{layout.named('async_pending', policy)}/{digest[-3:]}"
    descriptor, temporary = devices.temporary(device)
    try:
        try:
            os.write(descriptor, _encode(list(updates)))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        changed = make_folders(folder, 2)
        os.rename(temporary, f"{folder}/{updates[0].row.timestamp}-{secrets.token_hex(6)}")
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    for one in (folder, *reversed(changed)):
        sync_folder(one)


def waiting(device: str) -> Iterator[Pending]:
    """What waits on the device at the path ``device``, of all policies; oldest first within a suffix.

    A file that is not readable is moved to the device's quarantine.
    """
    for base in sorted(os.listdir(device)):
        if (found := _FOLDER.fullmatch(base)) is None:
            continue
        policy = int(found[1] or 0)
        for suffix in sorted(os.listdir(f"{device}/{base}")):
            folder = f"{device}/{base}/{suffix}"
            for name in sorted(os.listdir(folder)):
                path = f"{folder}/{name}"
                try:
                    with open(path, "rb") as file:
                        yield Pending(path, policy, _updates.decode(file.read()))
                except FileNotFoundError:
                    continue  # somebody else delivered it
                except ValueError:
                    target = f"{device}/{layout.QUARANTINED}/{base}"
                    os.makedirs(target, exist_ok=True)
                    os.rename(path, f"{target}/{name}")


def remove(pending: Pending) -> None:
    """All of it is delivered. May be called again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(pending.path)


def shrink(devices: Devices, device: str, pending: Pending, rest: Sequence[Update]) -> None:
    """Only ``rest`` is still to be delivered. Raises OSError, DeviceGone."""
    if not rest:
        remove(pending)
    elif len(rest) < len(pending.updates):
        keep(devices, device, pending.policy, rest[0].spot.digest, rest)
        remove(pending)
