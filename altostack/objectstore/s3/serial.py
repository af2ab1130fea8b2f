"""One after the other: changes that first look and then write, within one machine.

Stripes of locks in files, so that threads and processes exclude each other; two machines do not. What only has to be
first (If-None-Match: *) needs none of this: the disks decide it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_STRIPES: Final = 64


@contextlib.contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Nobody else on this machine changes what is called ``name`` meanwhile. folder: the cloud's."""
    place = folder / "run" / "s3"
    place.mkdir(parents=True, exist_ok=True)
    number = zlib.crc32(name.encode("utf-8", "surrogatepass")) % _STRIPES
    descriptor = os.open(place / f"lock-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
