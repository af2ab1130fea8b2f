"""Is the content what it was declared to be, and safe to hand to a hypervisor?

The image passes through oslo.utils' format inspectors while it streams to the store; none of it runs through
qemu-img before it was judged here. Refused: content of another format than declared, a qcow2 with a backing file, an
external data file or unknown features, a VMDK that names other files, and whatever else the inspectors' safety
checks know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from oslo_utils.imageutils.format_inspector import ImageFormatError, InspectWrapper, SafetyCheckFailed

# Declared format -> the formats that the inspectors may find. A raw disk may carry a partition table.
_ALLOWED = {
    "raw": {"raw", "gpt"},
    "ami": {"raw", "gpt"},
    "ari": {"raw"},
    "aki": {"raw"},
    "ploop": {"raw"},
    "iso": {"iso", "gpt"},
    "vhd": {"vhd"},
    "vhdx": {"vhdx"},
    "vmdk": {"vmdk"},
    "vdi": {"vdi"},
    "qcow2": {"qcow2"},
}
# What qemu would take for a disk of its own if it were left to guess, and the inspectors do not know.
_FOREIGN = (
    b"# Disk DescriptorFile",
    b"QED\0",
    b"Bochs Virtual HD Image",
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop",
)
_PARALLELS = (b"WithoutFreeSpace", b"WithouFreSpacExt")
_PIECE = 1 << 16  # the inspectors miss a region that begins and ends within the chunk that tells of it
_MAX_VIRTUAL = 1 << 50  # a disk of a pebibyte is a bomb, not a disk


class UnsafeImage(Exception):
    """The content is not what it was declared to be, or would be dangerous to open. The message says what was found."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the content is: its format, and the size in bytes of the disk inside (None where it is not known)."""

    format: str
    virtual_size: int | None


class Inspection:
    """Judges one stream. ``watch`` passes the chunks on; `finish` gives the verdict once all have passed."""

    def __init__(self, declared: str) -> None:
        if declared not in _ALLOWED:
            raise UnsafeImage(f"the format {declared!r} cannot be checked")
        self._declared = declared
        self._size = 0
        self._head = b""
        self._wrapper: InspectWrapper | None = None

    def watch(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the stream's chunks, stopping at the first that betrays another format. Raises UnsafeImage."""
        expected = self._declared if _ALLOWED[self._declared] == {self._declared} else None
        self._wrapper = InspectWrapper(_pieces(stream), expected_format=expected)  # type: ignore[arg-type]  # it iterates what has no read()
        while True:
            try:
                chunk = next(self._wrapper)
            except StopIteration:
                return
            except ImageFormatError as trouble:
                raise UnsafeImage(f"declared as {self._declared}, but {trouble}") from trouble
            self._size += len(chunk)
            if len(self._head) < 64:
                self._head += chunk[:64]
            yield chunk

    def finish(self) -> Found:
        """The verdict. Raises UnsafeImage."""
        if self._wrapper is None:
            raise UnsafeImage("no data was sent")
        if self._size == 0:
            if "raw" in _ALLOWED[self._declared]:
                return Found(format=self._declared, virtual_size=0)  # a disk of no size is still a disk
            raise UnsafeImage("the image is empty")
        formats = self._wrapper.formats or []
        names = {inspector.NAME for inspector in formats}
        allowed = _ALLOWED[self._declared]
        if not names <= allowed or (self._declared in ("iso", "qcow2") and self._declared not in names):
            raise UnsafeImage(
                f"declared as {self._declared}, but the content is {' and '.join(sorted(names))}"
            )
        foreign = _FOREIGN if self._declared == "ploop" else (*_FOREIGN, *_PARALLELS)
        if "raw" in allowed and self._head.startswith(foreign):
            raise UnsafeImage(f"declared as {self._declared}, but it begins as another format")
        virtual = self._size
        for inspector in formats:
            try:
                inspector.safety_check()
            except SafetyCheckFailed as trouble:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in trouble.failures.items())
                raise UnsafeImage(f"the {inspector.NAME} content is unsafe ({reasons})") from trouble
            except ImageFormatError as trouble:
                raise UnsafeImage(f"the {inspector.NAME} content is damaged ({trouble})") from trouble
            if inspector.NAME not in ("raw", "gpt", "iso"):
                virtual = inspector.virtual_size
        if virtual > _MAX_VIRTUAL:
            raise UnsafeImage(f"a virtual size of {virtual} bytes is beyond any disk")
        return Found(format=self._declared, virtual_size=virtual)


def _pieces(stream: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in stream:
        for at in range(0, len(chunk), _PIECE):
            yield chunk[at : at + _PIECE]
