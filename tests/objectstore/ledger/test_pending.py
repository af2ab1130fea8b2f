"""The log beside the database: nothing acknowledged is lost, whoever is killed when."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altostack.objectstore.ledger import database as database_module
from altostack.objectstore.ledger import pending as pending_module
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.ledger.pending import FULL, Pending
from altostack.objectstore.storage import DeviceGone, Query
from tests.objectstore.ledger.conftest import at, row, spot

C = spot("a/c")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def names(ledgers: Ledgers) -> list[str]:
    return [one.name for one in ledgers.list(C, "a", "c", Query(limit=100_000))]


class TestLog:
    def test_frames_come_back_in_order(self, file: int) -> None:
        log = Pending(file)
        assert not log.filled()
        for number in range(3):
            log.append(b"%d" % number * 100)
        assert log.filled()
        assert [frame[:1] for frame in Pending(file).frames()] == [b"0", b"1", b"2"]

    def test_two_who_append_see_each_other(self, file: int) -> None:
        one, two = Pending(file), Pending(file)
        for number in range(10):
            (one if number % 2 else two).append(b"%d" % number)
        assert one.frames() == two.frames() == [b"%d" % number for number in range(10)]
        two.clear()
        assert not one.filled()
        one.append(b"new")
        assert two.frames() == [b"new"]

    def test_what_was_there_before_does_not_come_back(self, file: int) -> None:
        log = Pending(file)
        for number in range(20):
            log.append(b"old%02d" % number)
        log.clear()
        log.append(b"new00")  # of the same length: the next frame begins where an old one does
        assert log.frames() == [b"new00"]
        assert Pending(file).frames() == [b"new00"]

    def test_full(self, file: int) -> None:
        log = Pending(file)
        count = 0
        while log.append(bytes(1000)) is not None:
            count += 1
        assert count == (FULL - 16) // 1008
        assert os.fstat(file).st_size <= FULL
        log.clear()
        assert log.append(bytes(1000)) is not None
        log.clear()
        log.shrink()
        assert os.fstat(file).st_size == 16 and not log.filled()
        assert log.append(b"x") is not None

    @given(
        frames=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=10),
        cut=st.integers(1, 400),
        noise=st.binary(max_size=80),
    )
    @settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
    def test_a_torn_tail_is_dropped(
        self, tmp_path: Path, frames: list[bytes], cut: int, noise: bytes
    ) -> None:
        opened = os.open(tmp_path / "torn", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            log, ends = Pending(opened), []
            for frame in frames:
                log.append(frame)
                ends.append((ends[-1] if ends else 16) + 8 + len(frame))
            os.ftruncate(opened, 16 + cut)
            os.pwrite(opened, noise, 16 + cut)
            whole = [frame for frame, end in zip(frames, ends, strict=True) if end <= 16 + cut]
            found = Pending(opened).frames()
            assert found[: len(whole)] == whole
            assert found == frames[: len(found)]  # noise may happen to be what was cut off
            other = Pending(opened)
            other.append(b"after")
            assert Pending(opened).frames() == [*found, b"after"]
        finally:
            os.close(opened)

    def test_threads_share_bringing_frames_to_the_disk(
        self, file: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log, synced, lock = Pending(file), [], threading.Lock()

        def slow(descriptor: int) -> None:
            time.sleep(0.02)
            synced.append(descriptor)

        monkeypatch.setattr(os, "fdatasync", slow)

        def work() -> None:
            with lock:
                number = log.append(b"frame")
            assert number is not None
            log.sync(number)

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(synced) < 8

    def test_a_failed_sync_is_nobodys_success(self, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        log = Pending(file)
        number = log.append(b"frame")
        assert number is not None

        def fails(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            with pytest.raises(OSError, match="Input/output"):
                log.sync(number)
            with pytest.raises(OSError, match="Input/output"):
                log.sync(number)
        log.sync(number)


class TestProcesses:
    def test_several_record_at_the_same_time(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))

        def work(number: int) -> None:
            for line in range(150):
                ledgers.record(C, "a", "c", [row(f"{number}-{line}", 2, content_type="x" * 200)])
                if line % 40 == 0:
                    ledgers.list(C, "a", "c", Query(limit=5))

        children = [Child(work, number) for number in range(3)]
        assert [child.wait() for child in children] == [0, 0, 0]
        assert len(names(ledgers)) == 450
        assert ledgers.info(C, "a", "c").count == 450

    def test_killed_at_any_moment(self, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every line whose `record` returned is there, and counts are right."""
        monkeypatch.setattr(pending_module, "FULL", 1 << 13)  # so that it merges again and again
        ledgers.create(C, "a", "c", at(1))
        chance = random.Random(7)
        told = 0
        for life in range(6):
            read, write = os.pipe()

            def work(_: int, life: int = life, write: int = write) -> None:
                for line in range(100_000):
                    ledgers.record(C, "a", "c", [row(f"{life}-{line:06}", 2, content_type="x" * 900)])
                    os.write(write, b".")

            child = Child(work, 0)
            os.close(write)
            done, wanted = 0, chance.randrange(10, 90)
            while done < wanted and (part := os.read(read, 1 << 16)):
                done += len(part)
            time.sleep(chance.random() * 0.01)
            child.kill()
            while part := os.read(read, 1 << 16):
                done += len(part)
            os.close(read)
            told += done
            found = [name for name in names(ledgers) if name.startswith(f"{life}-")]
            assert len(found) - done in (0, 1)  # one may have been recorded but not acknowledged
            assert found == [f"{life}-{line:06}" for line in range(len(found))]
        assert told >= 60
        assert ledgers.info(C, "a", "c").count == len(names(ledgers))

    def test_killed_between_merging_and_emptying_the_log(
        self, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("o"), row("p")])

        def dies(self: Pending) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def work(_: int) -> None:
            Pending.clear = dies  # type: ignore[method-assign] # in this child alone
            ledgers.info(C, "a", "c")

        assert Child(work, 0).wait() == -signal.SIGKILL
        assert names(ledgers) == ["o", "p"]
        assert ledgers.info(C, "a", "c").count == 2

    def test_a_stuck_process_does_not_hold_others_for_good(
        self, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledgers.create(C, "a", "c", at(1))
        monkeypatch.setattr(database_module, "LOCK_WAIT", 0.1)
        read, write = os.pipe()

        def work(_: int) -> None:
            with ledgers.database(C, "container") as database, database.writing():
                os.write(write, b".")
                time.sleep(60)

        child = Child(work, 0)
        os.read(read, 1)
        with pytest.raises(DeviceGone):
            ledgers.record(C, "a", "c", [row("o")])
        child.kill()
        ledgers.record(C, "a", "c", [row("o")])
        assert names(ledgers) == ["o"]

    def test_threads(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))

        def work(number: int) -> None:
            for line in range(60):
                ledgers.record(C, "a", "c", [row(f"{number}-{line}", 2)])
                if line % 20 == 0:
                    assert ledgers.info(C, "a", "c").count >= line

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(names(ledgers)) == 480


class Child:
    """A process of its own that does ``work(number)``."""

    def __init__(self, work: Callable[[int], None], number: int) -> None:
        self.number = number
        self.id = os.fork()
        if not self.id:
            status = 1
            try:
                work(number)
                status = 0
            finally:
                os._exit(status)

    def wait(self) -> int:
        """Its exit code; minus the signal's number when it was killed."""
        return os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])

    def kill(self) -> None:
        os.kill(self.id, signal.SIGKILL)
        self.wait()
