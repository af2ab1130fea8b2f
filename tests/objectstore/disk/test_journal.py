"""The journal of small files: whatever was acknowledged is there after a loss of power."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from altostack.kit import proc
from altostack.objectstore.config import Settings
from altostack.objectstore.disk import journal, layout, pending
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.framelog import FrameLog
from altostack.objectstore.http import Extent
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import Missing, Query, Row, Spot, Update

DEVICES = ("d1", "d2")


@dataclass
class Machine:
    """A folder of devices whose power can be cut: what was not synced by name is lost as chance has it."""

    root: Path
    monkeypatch: pytest.MonkeyPatch
    node: LocalNode
    clock: Clock
    boots: int = 0
    safe: frozenset[Path] = frozenset()  # what has reached the disk

    def put(self, name: str, content: bytes, device: str = "d1", updates: Sequence[Update] = ()) -> str:
        stamp = self.clock.now()
        writer = self.node.write(spot(name, device), stamp, size=len(content))
        writer.write(content)
        writer.put({"name": f"/a/c/{name}", "content-length": str(len(content)), "etag": "e"}, updates)
        return stamp

    def get(self, name: str, device: str = "d1") -> bytes:
        found = self.node.read(spot(name, device))
        content = found.content()
        assert not isinstance(content, Extent)
        return b"".join(content)

    def files(self) -> list[Path]:
        return sorted(path for device in DEVICES for path in (self.root / device).rglob("objects*/*/*/*/*"))

    def again(self) -> None:
        """As another process would begin."""
        self.node.devices.journals.close()
        self.node = LocalNode(self.root, Settings(), Settings().storage_policies(), clock=self.clock)
        self.node.devices.recover()
        self.safe = frozenset(self.files())

    def cut_power(self, chance: random.Random) -> int:
        """Files vanish, or lose their content, or their attributes; how many."""
        lost = 0
        for path in self.files():
            if path in self.safe:
                continue
            what = chance.choice(("nothing", "file", "zeros", "short", "attributes"))
            lost += what != "nothing"
            if what == "file":
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # and its folders, unless there is something else
                    path.parent.rmdir()
                    path.parent.parent.rmdir()
            elif path.exists() and what == "zeros":
                path.write_bytes(bytes(path.stat().st_size))
            elif path.exists() and what == "short":
                os.truncate(path, path.stat().st_size // 2)
            elif path.exists() and what == "attributes":
                os.removexattr(path, "user.altostack")
        self.boots += 1
        self.monkeypatch.setattr(proc, "boot_id", lambda: f"boot {self.boots}")
        self.again()
        return lost


def spot(name: str, device: str = "d1") -> Spot:
    digest = f"{abs(hash(name)):032x}"[-32:]
    return Spot(device, 5, digest, 0)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(journal, "SETTLE", 3600.0)  # what is not synced stays so
    for device in DEVICES:
        (tmp_path / device).mkdir()
    clock = Clock()
    return Machine(
        tmp_path,
        monkeypatch,
        LocalNode(tmp_path, Settings(), Settings().storage_policies(), clock=clock),
        clock,
    )


@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_loss_of_power_takes_is_made_again(machine: Machine, seed: int) -> None:
    chance = random.Random(seed)
    held: dict[tuple[str, str], bytes] = {}
    for _ in range(3):
        for _ in range(60):
            name, device = f"o{chance.randrange(25)}", chance.choice(DEVICES)
            if (name, device) in held and chance.random() < 0.25:
                machine.node.delete(spot(name, device), machine.clock.now(), name=f"/a/c/{name}")
                del held[name, device]
            else:
                held[name, device] = chance.randbytes(chance.choice((0, 1, 4096, 65536)))
                machine.put(name, held[name, device], device)
        assert machine.cut_power(chance) > 0
        for number in range(25):
            for device in DEVICES:
                name = f"o{number}"
                if (name, device) in held:
                    assert machine.get(name, device) == held[name, device]
                else:
                    with pytest.raises(Missing):
                        machine.get(name, device)


def test_metadata_of_a_post_is_made_again(machine: Machine) -> None:
    machine.put("o", b"content")
    machine.node.update(spot("o"), machine.clock.now(), {"x-object-meta-color": "red"})
    for path in machine.files():
        path.unlink()
    machine.boots += 1
    machine.again()
    found = machine.node.read(spot("o"))
    assert (found.metadata["x-object-meta-color"], found.metadata["name"]) == ("red", "/a/c/o")


def test_what_a_newer_version_replaced_does_not_come_back(machine: Machine) -> None:
    machine.put("o", b"old")
    machine.put("o", b"new")
    machine.again()
    assert [path.suffix for path in machine.files()] == [".data"] and machine.get("o") == b"new"
    stamp = machine.clock.now()
    machine.node.delete(spot("o"), stamp)
    machine.again()
    assert [path.name for path in machine.files()] == [f"{stamp}.ts"]


def test_lists_are_told_again_after_a_loss_of_power(machine: Machine) -> None:
    there = Spot("d2", 1, "cd" * 16)
    machine.node.create(Spot("d2", 1, "ab" * 16), "a", None, machine.clock.now())
    machine.node.create(there, "a", "c", machine.clock.now())
    row = Row(name="o", timestamp=machine.clock.now(), size=7)
    told = [Update("127.0.0.1", 1, there, "container", "a", "c", row)]
    machine.put("before", b"content", updates=told)
    assert [one.name for one in machine.node.list(there, "a", "c", Query())] == ["o"]
    machine.again()
    assert list(pending.waiting(str(machine.root / "d1"))) == []  # nothing is lost when a process ends
    machine.put("o", b"content", updates=told)
    machine.cut_power(random.Random(1))
    (waits,) = pending.waiting(str(machine.root / "d1"))
    assert [(one.spot, one.row) for one in waits.updates] == [(there, row)]


def test_what_is_settled_is_on_the_disk_with_its_lines(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Spot("d2", 1, "cd" * 16)
    machine.node.create(there, "a", "c", machine.clock.now())
    synced: list[str] = []
    inner = machine.node.ledgers.sync
    monkeypatch.setattr(machine.node.devices.journals, "_before", lambda: (synced.append("lines"), inner()))
    log = machine.root / ".journal" / "0"

    def syncfs(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), log.stat()):  # others may be at it, too
            synced.append("disk")

    monkeypatch.setattr(proc, "syncfs", syncfs)
    monkeypatch.setattr(journal, "SETTLE", 0.05)
    row = Row(name="o", timestamp=machine.clock.now(), size=7)
    machine.put("o", b"content", updates=[Update("127.0.0.1", 1, there, "container", "a", "c", row)])
    for _ in range(2000):
        if synced and log.stat().st_size == 64:
            break
        time.sleep(0.01)
    assert synced[:2] == ["lines", "disk"]
    assert log.stat().st_size == 64  # and its room is given back
    monkeypatch.setattr(journal, "SETTLE", 3600.0)
    machine.put("p", b"more")
    assert log.stat().st_size > 64


def test_lines_that_come_while_the_log_is_settled_are_synced(machine: Machine) -> None:
    machine.put("o", b"content")
    journals = machine.node.devices.journals
    (held,) = journals._open.values()
    kept = journals.keep(
        str(machine.root / "d1"), str(machine.root / "d1/objects/1/abc/d/1.data"), b"", b"", ()
    )
    assert kept is not None and not kept.over
    held.settle(lambda: None, everything=True)
    assert kept.over


def test_when_both_halves_are_full_files_are_synced_by_themselves(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "HALF", 1 << 14)
    monkeypatch.setattr(journal.Journals, "_settle", lambda self: None)  # it does not get round to it
    machine.put("warm", b"x")
    real, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    for number in range(3):
        machine.put(f"o{number}", bytes(4000))
    assert not synced
    for number in range(3, 12):
        machine.put(f"o{number}", bytes(4000))
    assert len(synced) >= 3
    assert all(machine.get(f"o{number}") == bytes(4000) for number in range(12))


def test_after_a_sync_that_failed_files_are_made_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may call pages clean that it could not write: what can be read is not what is on the disk."""
    syncfs, failing, told = proc.syncfs, True, []

    def sync(file: int) -> None:
        told.append(file)
        if failing:
            raise OSError(5, "Input/output error")
        syncfs(file)

    monkeypatch.setattr(proc, "syncfs", sync)
    machine.put("o", b"content")
    machine.put("gone", b"content")
    machine.node.delete(spot("gone"), machine.clock.now())
    before = {path: path.stat().st_ino for path in machine.files()}
    for path in before:
        os.link(path, machine.root / path.name)  # its inode's number stays taken
    journals = machine.node.devices.journals
    with monkeypatch.context() as patch:
        patch.setattr(journal, "SETTLE", 0.0)
        journals._settle_some()
    assert told
    journals._failed[str(machine.root)] = time.monotonic() + 3600
    machine.put("alone", b"content")  # synced by itself
    with pytest.raises(OSError, match="Input/output"):
        journals.recover(str(machine.root / "d1"))
    failing = False
    journals.recover(str(machine.root / "d1"))
    after = {path: path.stat().st_ino for path in machine.files() if path in before}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert machine.get("o") == b"content"
    with pytest.raises(Missing):
        machine.get("gone")
    journals._failed.clear()  # time passes
    machine.put("o", b"kept again")
    assert (machine.root / ".journal").is_dir() and machine.get("o") == b"kept again"


def test_a_log_that_takes_no_more_is_no_reason_to_make_files_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk they could not be."""
    machine.put("o", b"content")
    (file,) = machine.files()
    os.link(file, machine.root / "its inode")
    with monkeypatch.context() as patch:

        def full(log: FrameLog, content: bytes) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(FrameLog, "append", full)
        machine.put("alone", b"content")
    machine.node.devices.journals.recover(str(machine.root / "d1"))
    assert file.stat().st_ino == (machine.root / "its inode").stat().st_ino


def test_files_that_could_not_be_synced_when_they_were_looked_at_are_made_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.put("o", b"content")
    (file,) = machine.files()
    os.link(file, machine.root / "its inode")
    journals = machine.node.devices.journals
    journals.close()

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(proc, "syncfs", fails)
        with pytest.raises(OSError, match="Input/output"):
            journals.recover(str(machine.root / "d1"))
    journals.recover(str(machine.root / "d1"))
    assert file.stat().st_ino != (machine.root / "its inode").stat().st_ino
    assert machine.get("o") == b"content"


def test_large_files_go_without(machine: Machine) -> None:
    machine.put("o", bytes(65537))
    assert not (machine.root / ".journal").exists()


def test_a_disk_of_its_own_has_a_log_of_its_own(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal.Journals, "_base", lambda self, device: device)
    machine.put("o", b"one")
    machine.put("o", b"two", "d2")
    assert [(machine.root / name / layout.JOURNAL / "0").exists() for name in DEVICES] == [True, True]
    machine.cut_power(random.Random(3))
    assert (machine.get("o"), machine.get("o", "d2")) == (b"one", b"two")


def test_a_device_that_is_emptied_meanwhile(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal.Journals, "_base", lambda self, device: device)
    machine.put("o", b"one")
    shutil.rmtree(machine.root / "d1")
    (machine.root / "d1").mkdir()
    machine.put("p", b"two")  # synced by itself
    assert machine.get("p") == b"two"
    machine.node.devices.journals._failed.clear()  # some time later
    machine.put("q", b"three")
    machine.cut_power(random.Random(4))
    assert machine.get("q") == b"three"


def test_processes_have_logs_of_their_own_and_look_after_those_of_the_dead(machine: Machine) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            machine.put("child", b"child")
            os.write(write, b".")
            time.sleep(60)
        os._exit(1)
    os.close(write)
    assert os.read(read, 1) == b"."
    machine.put("parent", b"parent")
    assert {path.name for path in (machine.root / ".journal").iterdir()} == {"0", "1", "lock"}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in machine.files():
        path.unlink()
    machine.again()
    assert (machine.get("child"), machine.get("parent")) == (b"child", b"parent")


def test_threads_share_a_sync(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.put("warm", b"x")
    synced: list[int] = []

    def slow(descriptor: int) -> None:
        time.sleep(0.02)
        synced.append(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    threads = [
        threading.Thread(target=machine.put, args=(f"o{number}", b"x", DEVICES[number % 2]))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(synced) < 10
