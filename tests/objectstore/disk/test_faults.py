"""What is left when a write is cut off, a device fails, or bits turn."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from altostack.kit import proc
from altostack.objectstore.disk import layout, pending, record
from altostack.objectstore.storage import (
    DeviceFull,
    DeviceGone,
    Missing,
    Row,
    Spot,
    StorageError,
    Superseded,
    Update,
)
from tests.objectstore.disk.conftest import Rig, content, facts, make_local
from tests.objectstore.world import run_together

LARGE = os.urandom(200_000)
CALLS = ("open", "write", "pwrite", "setxattr", "fsync", "mkdir", "rename", "link", "utime", "unlink", "ftruncate",
         "posix_fallocate")  # fmt: skip


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that dies, as by SIGKILL, after as many system calls; whether it came to the end."""
    child = os.fork()
    if child == 0:
        left = [step]

        def counted(function: Any) -> Any:
            def call(*arguments: Any, **more: Any) -> Any:
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
                return function(*arguments, **more)

            return call

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 0


def found(rig: Rig) -> tuple[bytes, dict[str, str]] | None:
    try:
        return rig.get(), rig.metadata()
    except Missing:
        return None


MANY = {f"x_object_meta_{number}": "v" * 250 for number in range(20)}
WRITES: dict[str, Callable[[Rig], object]] = {
    "small": lambda rig: rig.put(b"new"),
    "large": lambda rig: rig.put(LARGE),
    "much metadata": lambda rig: rig.put(b"new", **MANY),
    "delete": lambda rig: rig.node.delete(rig.spot, rig.clock.now()),
    "update": lambda rig: rig.node.update(rig.spot, rig.clock.now(), {"x-object-meta-new": "yes"}),
    "fragment": lambda rig: rig.put(b"new", frag=1),
}


@pytest.mark.parametrize("what", list(WRITES))
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("doubling", [True, False])
def test_a_kill_leaves_the_old_or_the_new(tmp_path: Path, what: str, before: bool, doubling: bool) -> None:
    if what == "update" and not before:
        pytest.skip("nothing to update")
    reference = Rig(tmp_path / "reference", local := make_local(tmp_path / "reference"), local)
    policy = 1 if what == "fragment" else 0
    states = []
    for rig in (reference,):
        rig.spot = replace(rig.spot, policy=policy)
        if before:
            rig.put(b"old", frag=0 if policy else None, x_object_meta_old="yes")
        states.append(found(rig))
        WRITES[what](rig)
        states.append(found(rig))
    seen = set()
    for step in range(200):
        root = tmp_path / str(step)
        local = make_local(root)
        rig = Rig(root, local, local, spot=reference.spot)
        if before:
            rig.put(b"old", frag=0 if policy else None, x_object_meta_old="yes")
        if doubling:
            local.rings = Doubling()  # type: ignore[assignment] # all that is asked of it
        ended = killed_at(step, lambda rig=rig: WRITES[what](rig))
        now = found(rig)
        if policy and not before and now is not None and now[0] == b"new":
            pass  # not committed perhaps, and never in the way of something that is
        else:
            assert now in states
        seen.add(now == states[1])
        # Whatever was left, it goes on: the next write is seen, and nothing is damaged.
        rig.put(b"next", frag=1 if policy else None)
        assert rig.get() == b"next"
        assert not (root / "d1" / "quarantined").exists()
        if ended:
            assert now == states[1]
            break
    else:
        pytest.fail("the write never came to its end")
    assert seen == {True, False} or states[0] == states[1]


class Doubling:
    """Rings whose partitions are being doubled."""

    next_part_power = 7

    def object(self, policy: int) -> Doubling:
        return self


def test_both_places_while_partitions_are_doubled(local: Rig) -> None:
    local.local.rings = Doubling()  # type: ignore[assignment] # all that is asked of it
    twin = Path(layout.object_folder(str(local.device), local.spot, layout.part_of(local.spot.digest, 7)))
    assert twin != local.folder
    stamps = [local.put(b"one"), local.clock.now(), local.clock.now()]
    local.node.update(local.spot, stamps[1], {"x-object-meta-a": "b"})
    assert sorted(os.listdir(twin)) == local.files() == [f"{stamps[0]}.data", f"{stamps[1]}.meta"]
    assert (twin / f"{stamps[0]}.data").samefile(local.folder / f"{stamps[0]}.data")
    local.node.delete(local.spot, stamps[2])
    assert sorted(os.listdir(twin)) == local.files() == [f"{stamps[2]}.ts"]
    local.spot = replace(local.spot, policy=1)
    twin = Path(layout.object_folder(str(local.device), local.spot, layout.part_of(local.spot.digest, 7)))
    stamp = local.put(b"one", frag=4, commit=False)
    assert os.listdir(twin) == local.files() == [f"{stamp}#4.data"]
    local.put(b"one", stamp, frag=4)
    assert os.listdir(twin) == local.files() == [f"{stamp}#4#d.data"]


# ---- devices that fail


def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int, after: int = 0) -> None:
    """Let a function of the operating system fail with ``code`` from its call number ``after`` on.

    Where fsync fails, fdatasync does.
    """
    if name == "fsync":
        failing(monkeypatch, "fdatasync", code, after)
    real, left = getattr(os, name), [after]

    def call(*arguments: Any, **more: Any) -> Any:
        if left[0] <= 0:
            raise OSError(code, os.strerror(code))
        left[0] -= 1
        return real(*arguments, **more)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["write", "setxattr", "fsync", "posix_fallocate", "mkdir"])
def test_a_full_device(rig: Rig, monkeypatch: pytest.MonkeyPatch, code: int, where: str) -> None:
    rig.put(b"warm", spot=Spot("d1", 1, "12" * 16))
    known = rig.everything()
    with monkeypatch.context() as patch:
        failing(patch, where, code)
        with pytest.raises(DeviceFull):
            rig.put(LARGE)
    assert (rig.files(), rig.everything()) == ([], known)
    rig.put(LARGE)
    assert rig.get() == LARGE


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.ENODEV])
@pytest.mark.parametrize("where", ["write", "setxattr", "fsync", "rename", "open", "mkdir"])
def test_a_broken_device(local: Rig, monkeypatch: pytest.MonkeyPatch, code: int, where: str) -> None:
    with monkeypatch.context() as patch:
        failing(patch, where, code)
        with pytest.raises(DeviceGone, match="d1"):
            local.put()
    assert (local.files(), local.everything()) == ([], [])
    local.put()
    for where, work in (
        ("listdir", local.put),
        ("listdir", local.get),
        ("getxattr", local.get),
        ("open", local.get),
        ("pread", local.get),
        ("fsync", lambda: local.node.delete(local.spot, local.clock.now())),
        ("setxattr", lambda: local.node.update(local.spot, local.clock.now(), {})),
    ):
        with monkeypatch.context() as patch:
            failing(patch, where, code)
            with pytest.raises(DeviceGone, match="d1"):
                work()


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize(("code", "trouble"), [(errno.EIO, DeviceGone), (errno.ENOSPC, DeviceFull)])
def test_content_that_cannot_be_written_while_it_comes_in(
    local: Rig, monkeypatch: pytest.MonkeyPatch, code: int, trouble: type[StorageError], waiting: bool
) -> None:
    write_out = proc.write_out

    def call(descriptor: int, offset: int, length: int, *, wait: bool = False) -> None:
        if wait is waiting:
            raise OSError(code, os.strerror(code))
        write_out(descriptor, offset, length, wait=wait)

    content, size = os.urandom(1 << 20), 40 << 20
    with monkeypatch.context() as patch:
        patch.setattr(proc, "write_out", call)
        with pytest.raises(trouble):
            local.put(content * 40)
    assert (local.files(), local.everything()) == ([], [])
    writer = local.node.write(local.spot, local.clock.now())
    for _ in range(40):
        writer.write(content)
    writer.put(facts(b"") | {"content-length": str(size)})
    assert local.node.read(local.spot).length == size


def test_a_limit_on_files_sizes(local: Rig) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError):
            local.put(LARGE)
        with pytest.raises(StorageError):
            local.put(LARGE, size=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (local.files(), local.everything()) == ([], [])


def test_an_update_that_cannot_be_kept_is_no_success(local: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Update(
        "127.0.0.1", 1, Spot("d2", 5, "ef" * 16), "container", "a", "c", Row(name="o", timestamp="1")
    )
    writer = local.node.write(local.spot, local.clock.now(), size=1)
    writer.write(b"x")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(pending, "keep", full)
    with pytest.raises(DeviceFull):
        writer.put(facts(b"x"), [lost])


def test_a_file_system_without_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d1").mkdir()
    failing(monkeypatch, "setxattr", errno.EOPNOTSUPP)
    with pytest.raises(ValueError, match="extended attributes"):
        make_local(tmp_path)


# ---- bits


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def spoil_attribute(path: Path) -> None:
    (name,) = os.listxattr(path)
    value = bytearray(os.getxattr(path, name))
    value[-1] ^= 1
    os.setxattr(path, name, bytes(value))


SPOILT: dict[str, Callable[[Path], object]] = {
    "shorter": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 1),
    "no attribute": lambda path: [os.removexattr(path, name) for name in os.listxattr(path)],
    "attribute": spoil_attribute,
    "attribute's head": lambda path: [os.setxattr(path, name, b"I") for name in os.listxattr(path)],
    "content": lambda path: flip(path, 1),
}


@pytest.mark.parametrize("how", list(SPOILT))
@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("metadata", [{}, MANY], ids=["little", "much"])
def test_damage_is_set_aside(rig: Rig, how: str, data: bytes, metadata: dict[str, str]) -> None:
    if how == "content" and data is LARGE:
        pytest.skip("large content is read by the auditor")
    stamp = rig.put(data, **metadata)
    SPOILT[how](rig.folder / f"{stamp}.data")
    with pytest.raises(Missing):
        rig.get()
    assert rig.files() == []
    assert rig.everything() == [f"quarantined/objects/{rig.spot.digest}/{stamp}.data"]
    rig.put(data, stamp)
    assert rig.get() == data


def test_the_version_before_a_damaged_one(local: Rig) -> None:
    """As after a loss of power: the new version came into its place, its content did not, the old one is there."""
    old = local.put(b"old")
    kept = (local.folder / f"{old}.data").read_bytes()
    new = local.put(b"new content")
    (local.folder / f"{old}.data").write_bytes(kept)
    with (local.folder / f"{old}.data").open("rb") as file:
        record.store(file.fileno(), record.packed(facts(b"old"), 3), 3)
    os.truncate(local.folder / f"{new}.data", 0)
    assert local.get() == b"old"


def test_a_damaged_post(local: Rig) -> None:
    local.put(b"one", x_object_meta_a="b")
    stamp = local.clock.now()
    local.node.update(local.spot, stamp, {"x-object-meta-c": "d"})
    spoil_attribute(local.folder / f"{stamp}.meta")
    assert local.metadata() == facts(b"one") | {"x-object-meta-a": "b"}
    assert local.everything() == [f"quarantined/objects/{local.spot.digest}/{stamp}.meta"]


def test_files_that_are_not_ours_are_left_alone(local: Rig) -> None:
    stamp = local.put(b"one")
    for name in ("x.data", "1.data", f"{stamp}.data~", f"{stamp}#x.data", f"{stamp}#1#e.data", "core"):
        (local.folder / name).write_bytes(b"?")
    assert local.get() == b"one"
    local.put(b"two")
    assert len(local.files()) == 7


def test_files_are_for_their_owner_alone(local: Rig) -> None:
    stamp = local.put(b"one")
    assert stat.S_IMODE((local.folder / f"{stamp}.data").stat().st_mode) == 0o600


# ---- many at a time


def test_writers_at_once(rig: Rig) -> None:
    results: list[str] = []

    def work(number: int) -> None:
        for turn in range(10):
            data = f"{number}-{turn}".encode() * (1 if turn % 2 else 20_000)
            with contextlib.suppress(Superseded):
                results.append(rig.put(data))
            stored = rig.node.read(rig.spot)
            assert stored.metadata == facts(content(stored))

    run_together(6, work)
    assert rig.node.read(rig.spot).timestamp == max(results)
    assert len(rig.files()) == 1
    assert rig.everything() == []


def test_processes_at_once(tmp_path: Path) -> None:
    """Writers, posters and deleters in several processes; readers see whole versions alone."""
    root = tmp_path / "devices"
    make_local(root)
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            try:
                local = make_local(root)
                rig = Rig(root, local, local)
                for turn in range(60):
                    data = bytes([65 + number]) * (1 + 3000 * (turn % 30))
                    try:
                        if turn % 7 == 3:
                            rig.node.delete(rig.spot, rig.clock.now())
                        elif turn % 5 == 3:
                            rig.node.update(rig.spot, rig.clock.now(), {"x-object-meta-who": str(number)})
                        else:
                            rig.put(data)
                        stored = rig.node.read(rig.spot)
                        whole = b"".join(stored.content())
                        assert str(len(whole)) == stored.metadata["content-length"]
                        assert len(set(whole)) == 1
                        assert stored.metadata["etag"] == facts(whole)["etag"]
                    except (Superseded, Missing):
                        pass
                local.ledgers.close()
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    local = make_local(root)
    rig = Rig(root, local, local)
    rig.put(b"last")
    assert (rig.get(), len(rig.files()), rig.everything()) == (b"last", 1, [])


def test_folders_that_are_swept_away_meanwhile(local: Rig) -> None:
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            for folder, _, files in os.walk(local.device / "objects", topdown=False):
                if not files:
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:

        def work(number: int) -> None:
            for turn in range(60):
                spot = Spot("d1", number, f"{turn:032x}")
                stamp = local.put(spot=spot)
                assert local.get(spot) == b"content"
                os.unlink(f"{layout.object_folder(str(local.device), spot)}/{stamp}.data")

        run_together(4, work)
    finally:
        done.set()
        sweeper.join()
    assert local.everything() == []
