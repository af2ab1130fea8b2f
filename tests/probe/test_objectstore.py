"""Storage nodes of real processes with faults: nothing that was acknowledged is lost, nothing deleted comes back.

ALTOSTACK_FAULTS says how many faults (default 30), ALTOSTACK_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from altostack.objectstore.storage import Missing
from tests.probe.objectstore_history import Name, Writers
from tests.probe.objectstore_stand import DEVICES, Stand, flip, standing

FAULTS = int(os.environ.get("ALTOSTACK_FAULTS", "30"))
SEED = int(os.environ.get("ALTOSTACK_SEED", str(time.time_ns() % 2**32)))
CALM = 15  # faults after which all is brought to rest and looked at
CONTAINERS = {"std": "standard", "ec": "coded"}  # in the order of their policies

pytestmark = [pytest.mark.probe, pytest.mark.timeout(120 + FAULTS * 20)]


def _opened_on(disk: Path) -> list[str]:
    """The files of a disk that this process has open, for whoever wonders why it is busy."""
    links = (os.readlink(one) for one in Path("/proc/self/fd").iterdir() if one.is_symlink())
    return [link for link in links if link.startswith(f"{disk}/")]


class Faults:
    """Does one thing after another to the stand, and undoes it. What may lose a copy is mended before the next one."""

    def __init__(self, stand: Stand, chance: Random) -> None:
        self.stand, self.chance = stand, chance
        self.done: Counter[str] = Counter()
        transient: list[Callable[[], None]] = [
            self.kill_node, self.kill_node, self.kill_proxy, self.kill_zone, self.stop_node, self.stop_zone,
            self.cut_node, self.cut_proxy, self.take_device,
        ]  # fmt: skip
        losing: list[Callable[[], None]] = [self.empty_device, self.flip_objects, self.flip_databases]
        if stand.mounted:
            transient += [self.fill_device, self.read_only]
        self.transient, self.losing = transient, losing

    def one(self) -> bool:
        """A fault; whether copies may have been lost."""
        lost = self.chance.random() < 0.3
        fault = self.chance.choice(self.losing if lost else self.transient)
        fault()
        self.done[fault.__name__] += 1
        return lost

    def pause(self) -> None:
        time.sleep(self.chance.uniform(0.1, 1.2))

    def node(self) -> str:
        return self.chance.choice(sorted(self.stand.zones))

    def zone(self) -> list[str]:
        number = self.chance.choice((1, 2))
        return [name for name, zone in self.stand.zones.items() if zone == number]

    def device(self) -> tuple[str, str]:
        return self.node(), self.chance.choice(DEVICES)

    def kill_node(self) -> None:
        name = self.node()
        self.stand.kill(name)
        self.pause()
        self.stand.start(name)

    def kill_proxy(self) -> None:
        name = self.chance.choice(("p1", "p2"))
        self.stand.kill(name)
        self.stand.start(name)

    def kill_zone(self) -> None:
        names = self.zone()
        for name in names:
            self.stand.kill(name)
        self.pause()
        for name in names:
            self.stand.start(name)

    def stop_node(self) -> None:
        name = self.node()
        self.stand.signal(name, signal.SIGSTOP)
        self.pause()
        self.stand.signal(name, signal.SIGCONT)

    def stop_zone(self) -> None:
        names = self.zone()
        for name in names:
            self.stand.signal(name, signal.SIGSTOP)
        self.pause()
        for name in names:
            self.stand.signal(name, signal.SIGCONT)

    def cut_node(self) -> None:
        """A node reaches none of the other zone's, while proxies reach all."""
        name = self.node()
        others = [one for one, zone in self.stand.zones.items() if zone != self.stand.zones[name]]
        self.stand.cut(name, others)
        self.pause()
        self.stand.cut(name, [])

    def cut_proxy(self) -> None:
        """A proxy reaches one zone alone."""
        name = self.chance.choice(("p1", "p2"))
        self.stand.cut(name, self.zone())
        self.pause()
        self.stand.cut(name, [])

    def take_device(self) -> None:
        link = self.stand.device(*self.device())
        aside = link.with_name(f".{link.name}")
        link.rename(aside)
        self.pause()
        aside.rename(link)

    def fill_device(self) -> None:
        path = self.stand.device(*self.device()) / "filler"
        with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        self.pause()
        path.unlink()

    def read_only(self) -> None:
        name, device = self.device()
        disk = self.stand.device(name, device).resolve()
        self.stand.kill(name)  # what is open for writing would keep it writable
        local = self.stand.care(name).local
        local.ledgers.close()
        local.devices.journals.close()
        for _ in range(100):  # a log may be synced just now
            done = subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, check=False)
            if done.returncode == 0:
                break
            time.sleep(0.1)
        assert done.returncode == 0, (done.stderr, _opened_on(disk))
        self.stand.start(name)
        self.pause()
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)

    # ---- what loses copies

    def empty_device(self) -> None:
        """As if the disk was replaced."""
        name, device = self.device()
        self.stand.kill(name)
        for path in self.stand.device(name, device).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.stand.start(name)

    def flip_objects(self) -> None:
        found = sorted(self.stand.device(*self.device()).glob("objects*/*/*/*/*.data"))
        self._flip(found)

    def flip_databases(self) -> None:
        found = sorted(self.stand.device(*self.device()).glob("[ac]*s/*/*/*/*.db"))
        self._flip(found)

    def _flip(self, found: list[Path]) -> None:
        for path in self.chance.sample(found, min(3, len(found))):
            with contextlib.suppress(FileNotFoundError):
                flip(path, self.chance)


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    print(f"seed {SEED}, {FAULTS} faults")
    chance = Random(SEED)
    with standing(tmp_path) as stand:
        writers = Writers(stand, SEED)
        for container, policy in CONTAINERS.items():
            made, _, _ = writers.insist("PUT", f"/v1/a/{container}", headers={"x-storage-policy": policy})
            assert made in (201, 202)
        faults = Faults(stand, chance)
        writers.start()
        for number in range(1, FAULTS + 1):
            if faults.one():
                stand.rest_while_writing()
            time.sleep(chance.uniform(0.0, 0.2))
            if number % CALM == 0 or number == FAULTS:
                with writers.paused():
                    stand.rest(full=True)
                    calm(writers, chance)
                    stand.rest()
                    check_rest(stand, writers, chance)
            assert not writers.wrong, (dict(faults.done), writers.wrong[:5])
        writers.end()
        assert not writers.wrong, writers.wrong[:5]
        print(
            f"{dict(faults.done)}; {writers.acknowledged} changes acknowledged, {writers.refused} refused, "
            f"{writers.reads} reads"
        )
        assert writers.acknowledged > FAULTS


def calm(writers: Writers, chance: Random) -> None:
    """Nothing is wrong now: everything can be read, and is what was acknowledged; what is written is read."""
    for name in writers.every:
        writers.read(name, chance, fresh=True)
        if chance.random() < 0.2:
            writers.put(name, chance)
            writers.read(name, chance, fresh=True)
    assert not writers.wrong, writers.wrong[:5]


def check_rest(stand: Stand, writers: Writers, chance: Random) -> None:
    """Every read, every copy, every listing and count says the same, and it is what was acknowledged."""
    values: dict[str, tuple[str, int]] = {}
    for name in writers.every:
        writers.read(name, chance, fresh=True)
        assert not writers.wrong, writers.wrong[:5]
        status, content, headers = writers.insist("GET", name)
        assert status in (200, 404), name.path
        if status == 200:
            values[name.path] = (headers["etag"].strip('"'), len(content))
        assert_alike(stand, name, status == 200)
    for number, container in enumerate(CONTAINERS):
        prefix = f"/v1/a/{container}/"
        wanted = {path.removeprefix(prefix): one for path, one in values.items() if path.startswith(prefix)}
        _, listed, _ = writers.insist("GET", f"/v1/a/{container}?format=json", proxy="p2")
        found = {one["name"]: (one["hash"], one["bytes"]) for one in msgspec.json.decode(listed)}
        for name in found.keys() ^ wanted.keys():
            print(container, name, describe(stand, prefix + name))
        assert found == wanted
        care = stand.care("n1")
        for home in care.homes("a", container):
            info = home.node.info(home.spot, "a", container)
            counts = (info.count, info.bytes)
            assert counts == (len(wanted), sum(size for _, size in wanted.values())), home.device
            assert info.policy == number
    for home in stand.care("n1").homes("a"):
        info = home.node.info(home.spot, "a", None)
        assert (info.count, info.bytes) == (len(values), sum(size for _, size in values.values())), (
            home.device
        )


def describe(stand: Stand, path: str) -> str:
    """What every copy and every list says of a name, for whoever looks for the mistake."""
    account, container, object = path.split("/", 4)[2:]
    care, policy = stand.care("n1"), list(CONTAINERS).index(container)
    told = []
    for home in care.homes(account, container, object, policy):
        try:
            held = home.node.read(home.spot)
            told.append(f"{home.device.port}/{home.device.device}: data {held.timestamp} {held.changed}")
            held.close()
        except Missing as missing:
            told.append(f"{home.device.port}/{home.device.device}: missing {missing.timestamp}")
    for home in care.homes(account, container):
        node = next(name for name, port in stand.ports.items() if port == home.device.port)
        with (
            stand.care(node).local.ledgers.database(home.spot, "container") as database,
            database.reading() as sql,
        ):
            for table in ("live", "gone"):
                for row in sql.execute(f"SELECT * FROM {table} WHERE name = ?", (object,)):
                    told.append(f"{home.device.port}/{home.device.device}: {table} {row}")
    return "\n   ".join(told)


def assert_alike(stand: Stand, name: Name, there: bool) -> None:
    """Every device that is to hold a copy or fragment has the same version."""
    account, container, object = name.path.split("/", 4)[2:]
    stamps = set()
    homes = stand.care("n1").homes(account, container, object, 0 if container == "std" else 1)
    for at, home in enumerate(homes):
        try:
            held = home.node.read(home.spot, frag=None if container == "std" else at)
            stamps.add((held.timestamp, held.durable))
            held.close()
        except Missing as missing:
            stamps.add((missing.timestamp or "", False))
    assert len(stamps) == 1, f"{name.path}: {stamps}"
    assert all(durable for _, durable in stamps) == there
