"""What the libvirt driver adds to QEMU's own start: ``python -m tests.compute.drivers.measure_start`` (root).

Each round starts one guest twice, in turns: through the driver (disk and all), and by hand with the very command line
that libvirt used, its inherited descriptors replaced by names. The clock stops at the guest's first byte on the serial
port (a boot sector that does nothing else) or, with ``--system``, at the starter image's first line of user space.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from altostack.compute.drivers.base import GuestSpec, ImageRoot, Nic
from altostack.compute.drivers.libvirt import LibvirtDriver
from altostack.compute.drivers.libvirtd import PrivateLibvirtd

# Real mode: mov dx,0x3f8 ; mov al,'!' ; out dx,al ; cli ; hlt
SECTOR = bytes([0xBA, 0xF8, 0x03, 0xB0, 0x21, 0xEE, 0xFA, 0xF4]).ljust(510, b"\0") + b"\x55\xaa"


def by_hand(log: Path, console: Path, tap: str, folder: Path) -> list[str]:
    """The command line in libvirt's log of a guest, made to run by itself."""
    text = log.read_text()
    words = shlex.split(text[text.rindex("/usr/bin/qemu-system") :].split("\n20")[0].replace("\\\n", " "))
    command, skip = [words[0]], ""
    for word in words[1:]:
        if word.startswith("-"):
            skip = ""
        if word == "-S" or skip:
            continue
        if word in ("-add-fd", "-mon"):
            skip = word
            continue
        if (command[-1] == "-object" and '"secret"' in word) or (
            command[-1] == "-chardev" and "id=charmonitor" in word
        ):
            command.pop()
        elif command[-1] == "-chardev" and "id=charserial0" in word:
            command.append(f"file,id=charserial0,path={console},append=on")
        elif command[-1] == "-chardev" and "id=charchannel0" in word:
            command.append("null,id=charchannel0")
        elif command[-1] == "-netdev":
            card = json.loads(word)
            command.append(f"tap,id={card['id']},ifname={tap},script=no,downscript=no")
        elif command[-1] == "-vnc":
            command.append(f"vnc=unix:{folder}/vnc.sock,audiodev=audio1")
        else:
            command.append(word)
    return command


def until(console: Path, mark: bytes) -> None:
    while not console.exists() or mark not in console.read_bytes():
        time.sleep(0.002)


def measure(rounds: int, *, system: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="altocd-measure-"))
    netns, tap = folder.name[:14], "tapcd"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    subprocess.run(["ip", "-n", netns, "tuntap", "add", tap, "mode", "tap"], check=True)
    subprocess.run(["ip", "-n", netns, "link", "set", tap, "up"], check=True)
    host = PrivateLibvirtd(root=folder / "libvirt", netns=netns, hostname="measure")
    driver = LibvirtDriver(root=folder, host=host)
    try:
        began = time.monotonic()
        driver.host_info()
        print(f"first connection, cold cache: {time.monotonic() - began:.2f} s")
        host.stop()
        began = time.monotonic()
        driver.host_info()
        print(f"first connection, warm cache: {time.monotonic() - began:.2f} s")
        if system:
            from altostack.image.starter import build

            image, mark = ImageRoot(base=build(folder / "starter.qcow2").path, format="qcow2"), b"user space"
        else:
            sector = folder / "sector.raw"
            sector.write_bytes(SECTOR.ljust(1 << 20, b"\0"))
            image, mark = ImageRoot(base=sector, format="raw"), b"!"
        times: dict[str, list[float]] = {"driver": [], "of which start()": [], "by hand": []}
        for _ in range(rounds):
            nic = Nic(port_id=str(uuid.uuid4()), mac="52:54:00:0c:d0:ff", tap=tap, mtu=1450)
            spec = GuestSpec(
                id=str(uuid.uuid4()), name="measured", vcpus=1, memory_mib=128, root=image, nics=(nic,)
            )
            console = folder / "guests" / spec.id / "console.log"
            began = time.monotonic()
            driver.prepare_disk(spec)
            driver.start(spec)
            times["of which start()"].append(time.monotonic() - began)
            until(console, mark)
            times["driver"].append(time.monotonic() - began)
            command = by_hand(
                host.outside(f"/var/log/libvirt/qemu/{spec.id}.log"), folder / "hand", tap, folder
            )
            driver.stop(spec.id, timeout_s=0)
            (folder / "hand").unlink(missing_ok=True)
            began = time.monotonic()
            process = subprocess.Popen(["nsenter", f"--net=/run/netns/{netns}", *command])
            until(folder / "hand", mark)
            times["by hand"].append(time.monotonic() - began)
            process.kill()
            process.wait()
            driver.destroy(spec.id)
        for name, values in times.items():
            listed = " ".join(f"{value:.2f}" for value in values)
            print(f"{name:18} median {statistics.median(values):.3f} s   ({listed})")
        added = [one - other for one, other in zip(times["driver"], times["by hand"], strict=True)]
        print(f"{'added':18} median {statistics.median(added):.3f} s")
    finally:
        for guest_id in driver.guests():
            driver.destroy(guest_id)
        driver.close()
        host.stop()
        subprocess.run(["ip", "netns", "delete", netns], check=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--system", action="store_true", help="boot the starter image instead of a boot sector"
    )
    options = parser.parse_args()
    measure(options.rounds, system=options.system)
