"""Looks whether devices can be written and read, and whether the kernel complained of them.

A device that fails is reported; with ``drives_unmount`` one that is a mount point is unmounted, so that it counts as
gone (``mount_check``) and handoffs stand in for it until an operator has replaced it. Requests notice errors by
themselves; this finds the device that fails when nobody looks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import subprocess
import time
from pathlib import Path
from typing import Final

import msgspec

from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.report import Tally
from altostack.objectstore.disk import layout

log = logging.getLogger(__name__)

KERNEL_LOG: Final = Path("/dev/kmsg")
_WINDOW: Final = 3600.0  # seconds for which the kernel's complaints count
_TROUBLE: Final = re.compile(
    r"\berror\b|\bremounting filesystem read-only\b",
    re.IGNORECASE,
)


class Drive(msgspec.Struct, frozen=True, kw_only=True):
    """How a device is. why: what is wrong, "" when nothing is. latency: seconds that a synced write took."""

    device: str
    size: int = 0
    free: int = 0
    latency: float = 0.0
    kernel: int = 0  # complaints within the last hour
    why: str = ""


def audit_drives(care: Care, *, kernel_log: Path = KERNEL_LOG) -> Tally:
    """A pass over every device folder of this machine."""
    with care.reports.tally("drives") as tally:
        complaints = kernel_complaints(kernel_log)
        found = []
        for name in care.local.devices.names():
            drive = examine(Path(care.local.devices.root) / name, complaints, care.local.devices.mount_check)
            found.append(drive)
            tally.count("devices")
            if drive.why:
                tally.complain(f"{name}: {drive.why}")
                log.error("the device %s fails: %s", name, drive.why)
                if care.settings.drives_unmount and drive.why != "not mounted":
                    _unmount(tally, Path(care.local.devices.root) / name)
        care.reports.keep(".drives", found)
    return tally


def examine(path: Path, complaints: dict[str, int], mount_check: bool) -> Drive:
    """Write, sync and read a little."""
    name = path.name
    if mount_check and not os.path.ismount(path):
        return Drive(device=name, why="not mounted")
    said = complaints.get(block_device(path), 0)
    try:
        room = os.statvfs(path)
        size, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
        began = time.perf_counter()
        why = _try(path)
        latency = time.perf_counter() - began
    except OSError as error:
        return Drive(device=name, kernel=said, why=error.strerror or str(error))
    if not why and said >= 3:
        why = f"the kernel complained {said} times within the last hour"
    return Drive(device=name, size=size, free=free, latency=latency, kernel=said, why=why)


def _try(path: Path) -> str:
    """What is wrong, "" for nothing. A full device is none that fails. Raises OSError."""
    folder = path / layout.TMP
    folder.mkdir(exist_ok=True)
    place, content = folder / f"drive-{secrets.token_hex(8)}", secrets.token_bytes(512)
    try:
        with place.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return "" if place.read_bytes() == content else "what is written is not what is read"
    except OSError as error:
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            return ""
        raise
    finally:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)


def block_device(path: Path) -> str:
    """The block device that a folder lies on, as the kernel's log calls it (``sda1``); "" for none."""
    try:
        number = os.stat(path).st_dev
        link = os.readlink(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    except OSError:
        return ""
    return link.rpartition("/")[2]


def kernel_complaints(source: Path, now: float | None = None) -> dict[str, int]:
    """How often the kernel's log of the last hour speaks of errors, by block device; nothing where it cannot be read.

    now: seconds since boot, by default what the kernel says. A record (kmsg(4) of Linux):
    ``priority,sequence,microseconds since boot,flags;text``.
    """
    found: dict[str, int] = {}
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return found
    since = ((time.clock_gettime(time.CLOCK_BOOTTIME) if now is None else now) - _WINDOW) * 1e6
    try:
        while True:
            try:
                read = os.read(descriptor, 8192)
            except BrokenPipeError:
                continue  # older records were overwritten while we read
            except OSError:
                break  # no more for now
            if not read:
                break
            for line in read.decode(errors="replace").splitlines():
                head, _, text = line.partition(";")
                when = head.split(",")[2:3]
                if when and when[0].isdigit() and int(when[0]) >= since and _TROUBLE.search(text):
                    for name in set(
                        re.findall(r"\b(?:sd[a-z]+\d*|vd[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|dm-\d+)\b", text)
                    ):
                        found[name] = found.get(name, 0) + 1
    finally:
        os.close(descriptor)
    return found


def _unmount(tally: Tally, path: Path) -> None:
    if not os.path.ismount(path):
        return
    done = subprocess.run(["umount", "-l", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        tally.complain(f"{path.name} cannot be unmounted: {done.stderr.strip()}")
    else:
        tally.count("unmounted")
