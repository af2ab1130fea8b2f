"""Rings on their way from node to node: a newer version of the same ring replaces the one that is here.

The same ring is one with the same salt: it says where every name lies. Nodes fetch newer rings from each other
(`fetch`), and `altostack object rings --push` hands this machine's to all at once.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from altostack.objectstore import compose
from altostack.objectstore.files import sync_folder
from altostack.objectstore.ring.ring import Ring
from altostack.objectstore.ring.sealed import BadFile
from altostack.objectstore.storage import Device, StorageError

if TYPE_CHECKING:
    from altostack.objectstore.care.daemon import Care
    from altostack.objectstore.care.report import Tally

_ASKED: Final = 3  # nodes a pass
_NAME: Final = re.compile(r"account|container|object(-[1-9]\d{0,5})?")


class Held(msgspec.Struct, frozen=True):
    """A ring file. digest: SHA-256 of its bytes."""

    version: int
    salt: str
    digest: str


def held(folder: Path) -> dict[str, Held]:
    """The ring files in a folder by name; one that cannot be read is left out."""
    found = {}
    for path in sorted(folder.glob("*.ring")):
        if _NAME.fullmatch(path.stem):
            try:
                ring = Ring.load(path)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            except (BadFile, OSError):
                continue
            found[path.stem] = Held(ring.version, ring.facts.salt, digest)
    return found


def content(folder: Path, name: str) -> bytes:
    """A ring file's bytes. Raises ValueError for what is no ring's name, OSError."""
    return _path(folder, name).read_bytes()


def accept(folder: Path, name: str, data: bytes) -> bool:
    """Take a ring over if it is newer than the one here, or none is here; whether it was.

    Raises ValueError for a ring that is damaged, or of another cluster; OSError. The old file stays then.
    """
    path = _path(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        with scratch.open("xb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        given = Ring.load(scratch)
        here = _present(path)
        if here is not None:
            if here.facts.salt != given.facts.salt:
                raise ValueError(
                    f"the ring {name} that was sent belongs to another cluster: its salt differs"
                )
            if given.version <= here.version:
                return False
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(folder)
    return True


def fetch(care: Care, *, everybody: bool = False) -> Tally:
    """Ask some other nodes, or all, for newer rings and take them over."""
    folder = compose.rings_folder(care.store.folder)
    with care.reports.tally("rings") as tally:
        others = nodes(care)
        random.shuffle(others)
        for device in others if everybody else others[:_ASKED]:
            if tally.stopped:
                break
            peer = care.peer(device)
            try:
                theirs, mine = peer.rings(), held(folder)
                for name, one in theirs.items():
                    here = mine.get(name)
                    wanted = here is None or (one.salt == here.salt and one.version > here.version)
                    if wanted and accept(folder, name, peer.ring(name)):
                        tally.count("fetched")
            except (StorageError, ValueError, OSError) as error:
                tally.complain(f"{device.host}:{device.port}: {error}")
    return tally


def nodes(care: Care) -> list[Device]:
    """One device of every other node that the rings know."""
    found: dict[tuple[str, int], Device] = {}
    for _, ring in care.rings():
        for device in ring.devices:
            if not care.is_mine(device):
                found.setdefault((device.host, device.port), device)
    return list(found.values())


def _present(path: Path) -> Ring | None:
    try:
        return Ring.load(path)
    except (FileNotFoundError, BadFile):  # a damaged one is better replaced
        return None


def _path(folder: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a ring")
    return folder / f"{name}.ring"
