"""What imports may do to bits before they are kept: unpacking and converting them.

Both work on the staged file, which `life` has judged before qemu-img opens it, and replace it whole or not at all.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from altostack.image.drivers.base import ImageTooLarge, StoreFull

_CHUNK = 1 << 20
_MAGIC: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)
_QEMU = {"vhd": "vpc"}  # where qemu-img has another word for the format
_FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "ploop")
_SECONDS = 6 * 3600


class ConversionFailed(Exception):
    """The image could not be unpacked or converted."""


def unpack(file: Path, max_bytes: int) -> bool:
    """Replace a packed file by what is in it; whether it was packed. Raises ConversionFailed or ImageTooLarge."""
    with file.open("rb") as packed:
        head = packed.read(6)
    opener = next((one for magic, one in _MAGIC if head.startswith(magic)), None)
    if opener is None:
        return False
    part = _part(file)
    try:
        with opener(file, "rb") as source, part.open("wb") as target:
            for chunk in _chunks(source, max_bytes):
                target.write(chunk)
        part.rename(file)
    except (OSError, EOFError, lzma.LZMAError) as trouble:
        if getattr(trouble, "errno", None) == 28:
            raise StoreFull("no space left while unpacking") from trouble
        raise ConversionFailed(f"it cannot be unpacked: {trouble}") from trouble
    finally:
        part.unlink(missing_ok=True)
    return True


def _chunks(source: IO[bytes], most: int) -> Iterator[bytes]:
    size = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > most:
            raise ImageTooLarge(f"The unpacked image is larger than {most} bytes.")
        yield chunk


def convertible(source: str, target: str) -> bool:
    """Whether an image of the format is converted: discs stay discs, and parts of one kernel stay apart."""
    return bool(target) and source != target and source in _FORMATS


def convert(file: Path, source: str, target: str) -> None:
    """Replace the file by its conversion. Raises ConversionFailed. The formats are said, never guessed."""
    part = _part(file)
    command = [
        "prlimit", f"--as={2 << 30}", f"--cpu={_SECONDS}", "--core=0", "qemu-img", "convert",
        "-f", _QEMU.get(source, source), "-O", target, str(file), str(part),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode:
            why = done.stderr.replace(str(file), "the image").replace(str(part), "its conversion").strip()
            raise ConversionFailed(f"it cannot be converted: {why[:300]}")
        part.rename(file)
    except (OSError, subprocess.TimeoutExpired) as trouble:
        raise ConversionFailed(f"it cannot be converted: {type(trouble).__name__}") from trouble
    finally:
        part.unlink(missing_ok=True)


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
