"""The key by which the nodes of a cluster know each other: 32 random bytes in a file that only its owner reads."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

_SIZE: Final = 32


def path_of(folder: Path) -> Path:
    """Where a cloud keeps it."""
    return folder / "objectstore" / "key"


def cluster_key(folder: Path) -> bytes:
    """The key of the cloud in ``folder``, made when there is none yet; whoever comes first makes it for all.

    Raises ValueError when the file does not hold a key or others may read it, OSError.
    """
    path = path_of(folder)
    with contextlib.suppress(FileNotFoundError):
        return read_key(path)
    keep_key(path, secrets.token_bytes(_SIZE))
    return read_key(path)


def read_key(path: Path) -> bytes:
    """Raises ValueError as `cluster_key`, FileNotFoundError, OSError."""
    with path.open() as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise ValueError(f"{path} can be read by others: chmod 600 it, and consider another key")
        text = file.read().strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _SIZE:
        raise ValueError(f"{path} does not hold a key of {_SIZE} bytes in hexadecimal digits")
    return key


def keep_key(path: Path, key: bytes) -> None:
    """Write a key where none is; one that is there stays. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # somebody was faster
            os.link(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
