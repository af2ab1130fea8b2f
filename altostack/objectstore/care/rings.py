"""Rings on their way from node to node: a newer version of the same ring replaces the one that is here.

The same ring is one with the same salt: it says where every name lies. Nodes fetch newer rings from each other
(`fetch`), and `altostack object rings --push` hands this machine's to all at once.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Final

import msgspec

from altostack.objectstore.ring.ring import Ring
from altostack.objectstore.ring.sealed import BadFile

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
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return True


def _present(path: Path) -> Ring | None:
    try:
        return Ring.load(path)
    except (FileNotFoundError, BadFile):  # a damaged one is better replaced
        return None


def _path(folder: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a ring")
    return folder / f"{name}.ring"
