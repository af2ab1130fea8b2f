"""Whether this machine truly runs guests on KVM, found by running one."""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path

# A boot sector in real mode: mov al,0x10 ; out 0xf4,al ; hlt. Port 0xf4 is QEMU's isa-debug-exit device, which
# ends the process with (value << 1) | 1. The firmware runs first, so it is exercised too: there are machines
# whose /dev/kvm runs these three instructions and hangs in the firmware.
_SECTOR = bytes([0xB0, 0x10, 0xE6, 0xF4, 0xF4]).ljust(510, b"\0") + b"\x55\xaa"
_EXIT = (0x10 << 1) | 1
_SOON = 0.5  # seconds


def probe_kvm(*, timeout_s: float = 2.0, emulator: str = "qemu-system-x86_64") -> bool:
    """True when a guest booted on KVM within ``timeout_s``."""
    return probe("kvm", timeout_s=timeout_s, emulator=emulator)


def probe(accel: str, *, timeout_s: float, emulator: str = "qemu-system-x86_64") -> bool:
    """True when a guest booted on this QEMU accelerator ("kvm", "tcg") within ``timeout_s``."""
    if accel == "kvm" and not Path("/dev/kvm").exists():
        return False
    with tempfile.TemporaryDirectory(prefix="altostack-probe-") as folder:
        disk = Path(folder) / "sector"
        disk.write_bytes(_SECTOR)
        command = [
            emulator,
            "-accel",
            accel,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]
        command += ["-m", "16", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
        command += ["-drive", f"file={disk},format=raw,if=ide"]
        try:
            ended = subprocess.run(
                command, timeout=timeout_s, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
        except (subprocess.TimeoutExpired, OSError):
            return False
    return ended.returncode == _EXIT


def _patience(most: float) -> float:
    """Seconds in which KVM has to boot to be worth using: there are machines whose /dev/kvm takes twenty times as long
    as QEMU's own emulation, which takes less than a tenth of a second unless the machine is busy."""
    began = time.monotonic()
    if not probe("tcg", timeout_s=most):
        return most
    return min(most, max(_SOON, 3 * (time.monotonic() - began)))


def virt_type(root: Path, *, timeout_s: float = 2.0) -> str:
    """libvirt's domain type for this machine, "kvm" or "qemu"; probed once a kernel and kept in ``root``."""
    kernel = platform.release() + " " + platform.version()
    cache = root / "virt-type.json"
    try:
        known = json.loads(cache.read_text())
        if known["kernel"] == kernel and known["type"] in ("kvm", "qemu"):
            return str(known["type"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # never probed, or not by this version: probe
    found = "kvm" if probe_kvm(timeout_s=_patience(timeout_s)) else "qemu"
    root.mkdir(parents=True, exist_ok=True)
    fresh = cache.with_suffix(".new")
    fresh.write_text(json.dumps({"kernel": kernel, "type": found}))
    fresh.replace(cache)
    return found
