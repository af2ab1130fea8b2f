"""Logs of frames, and the one beside a database: nothing acknowledged is lost, whoever is killed when."""

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

from altostack.objectstore import framelog
from altostack.objectstore.framelog import FrameLog
from altostack.objectstore.ledger import database
from altostack.objectstore.ledger.database import HALF
from altostack.objectstore.ledger.ledgers import Ledgers
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


def fails(descriptor: int) -> None:
    raise OSError(5, "Input/output error")


def frames(log: FrameLog) -> list[bytes]:
    """All frames, which then count as merged."""
    found, generation = log.take()
    if generation is not None:
        log.merged(generation)
    return found


def half(file: int) -> int:
    """Where frames are added now."""
    return 64 + HALF * (os.pread(file, 9, 0)[8] & 1)


class TestLog:
    def test_frames_come_back_in_order(self, file: int) -> None:
        log = FrameLog(file, half=HALF)
        assert not log.filled()
        for number in range(3):
            log.append(b"%d" % number * 100)
        assert log.filled()
        assert [frame[:1] for frame in frames(FrameLog(file, half=HALF))] == [b"0", b"1", b"2"]
        assert not log.filled() and frames(log) == []

    def test_two_who_append_see_each_other(self, file: int) -> None:
        one, two = FrameLog(file, half=HALF), FrameLog(file, half=HALF)
        for number in range(10):
            (one if number % 2 else two).append(b"%d" % number)
        assert frames(one) == [b"%d" % number for number in range(10)]
        assert not two.filled()
        one.append(b"new")
        assert frames(two) == [b"new"]

    def test_what_was_there_before_does_not_come_back(self, file: int) -> None:
        log = FrameLog(file, half=HALF)
        for turn in range(6):
            for number in range(20 - turn):
                log.append(b"%d/%03d" % (turn, number))  # of one length: new frames begin where old ones do
            assert frames(log) == [b"%d/%03d" % (turn, number) for number in range(20 - turn)]

    def test_others_record_while_somebody_merges(self, file: int) -> None:
        merging, other = FrameLog(file, half=HALF), FrameLog(file, half=HALF)
        other.append(b"one")
        found, generation = merging.take()
        assert found == [b"one"] and generation is not None
        other.append(b"two")
        assert other.filled()
        merging.merged(generation)
        assert other.filled()
        assert frames(other) == [b"two"]

    def test_who_merges_and_dies_leaves_the_frames_to_the_next(self, file: int) -> None:
        log = FrameLog(file, half=HALF)
        log.append(b"one")
        log.take()
        log.append(b"two")
        for _ in range(2):  # nothing is written over as long as nobody gets through
            assert FrameLog(file, half=HALF).take()[0] == [b"one", b"two"]
            log.append(b"three")
            assert frames(FrameLog(file, half=HALF)) == [b"one", b"two", b"three"]
            assert frames(log) == [b"two", b"three"]
            log.append(b"one")
            log.take()
            log.append(b"two")

    def test_full(self, file: int) -> None:
        log = FrameLog(file, half=HALF)
        for _ in range(3):
            count = 0
            while log.append(bytes(1000)) is not None:
                count += 1
            assert count == HALF // 1008
            assert os.fstat(file).st_size <= 64 + 2 * HALF
            assert len(frames(log)) == count
        log.shrink()
        assert os.fstat(file).st_size == 64 and not log.filled()
        assert log.append(b"x") is not None
        log.shrink()
        assert frames(log) == [b"x"]

    @given(
        given=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=10),
        cut=st.integers(1, 400),
        noise=st.binary(max_size=80),
        turns=st.integers(0, 2),
    )
    @settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
    def test_a_torn_tail_is_dropped(
        self, tmp_path: Path, given: list[bytes], cut: int, noise: bytes, turns: int
    ) -> None:
        opened = os.open(tmp_path / "torn", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            log = FrameLog(opened, half=HALF)
            for _ in range(turns):
                for frame in given:
                    log.append(frame)
                frames(log)
            ends = [0]
            for frame in given:
                log.append(frame)
                ends.append(ends[-1] + 8 + len(frame))
            start = half(opened)
            os.pwrite(opened, bytes(1000), start + cut)
            os.pwrite(opened, noise, start + cut)
            whole = [frame for frame, end in zip(given, ends[1:], strict=True) if end <= cut]
            other = FrameLog(opened, half=HALF)
            other.append(b"after")
            found = frames(FrameLog(opened, half=HALF))
            assert found[: len(whole)] == whole and found[-1] == b"after"
            assert found[:-1] == given[: len(found) - 1]  # noise may happen to be what was cut off
        finally:
            os.close(opened)

    def test_threads_share_bringing_frames_to_the_disk(
        self, file: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log, synced, together = FrameLog(file, half=HALF), [], threading.Barrier(16)

        def slow(descriptor: int) -> None:
            time.sleep(0.01)
            if descriptor == file:  # of other tests' threads there may be some left
                synced.append(descriptor)

        monkeypatch.setattr(os, "fdatasync", slow)

        def work() -> None:
            frame = log.append(b"frame")
            assert frame is not None
            together.wait()
            log.sync(frame.number)

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(synced) <= 2

    def test_a_failed_sync_is_nobodys_success(self, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        log = FrameLog(file, half=HALF)
        frame = log.append(b"frame")
        assert frame is not None

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            with pytest.raises(OSError, match="Input/output"):
                log.sync(frame.number)
        with pytest.raises(OSError, match="failed"):  # the disk may say that nothing is left to be written
            log.sync(frame.number)
        with pytest.raises(OSError, match="failed"):
            log.sync_all()

    def test_nothing_is_added_behind_what_may_be_a_hole(
        self, file: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = FrameLog(file, half=HALF)
        assert log.append(b"one") is not None
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            with pytest.raises(OSError, match="Input/output"):
                log.sync_all()
        assert log.append(b"two") is None
        found, generation = log.take()
        assert found == [b"one"]
        assert generation is not None
        three = log.append(b"three")  # the half is another one
        assert three is not None
        log.sync(three.number)
        with pytest.raises(OSError, match="failed"):  # the first is nowhere yet
            log.sync(three.number - 1)
        log.merged(generation)
        log.sync(three.number - 1)
        log.sync_all()

    def test_another_merges_what_may_be_lost(self, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        log, other = FrameLog(file, half=HALF), FrameLog(file, half=HALF)
        assert log.append(b"one") is not None
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            with pytest.raises(OSError, match="Input/output"):
                log.sync_all()
        assert frames(other) == [b"one"]
        log.sync_all()
        assert log.append(b"two") is not None

    def test_a_frame_that_was_under_way_when_a_sync_failed(
        self, file: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = FrameLog(file, half=HALF)
        assert log.append(b"one") is not None
        write = framelog._write

        def late(descriptor: int, data: bytes, at: int) -> None:
            write(descriptor, data, at)
            patch.setattr(os, "fdatasync", fails)
            with pytest.raises(OSError, match="Input/output"):
                log.sync(1)

        with monkeypatch.context() as patch:
            patch.setattr(framelog, "_write", late)
            assert log.append(b"two") is None


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
        monkeypatch.setattr(database, "HALF", 1 << 13)  # so that it merges again and again
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

        def dies(self: FrameLog, generation: int) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def work(_: int) -> None:
            FrameLog.merged = dies  # type: ignore[method-assign] # in this child alone
            ledgers.info(C, "a", "c")

        assert Child(work, 0).wait() == -signal.SIGKILL
        assert names(ledgers) == ["o", "p"]
        assert ledgers.info(C, "a", "c").count == 2

    def test_a_stuck_process_does_not_hold_others_for_good(
        self, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledgers.create(C, "a", "c", at(1))
        monkeypatch.setattr(framelog, "LOCK_WAIT", 0.1)
        read, write = os.pipe()

        def work(_: int) -> None:
            with ledgers.database(C, "container") as database, database.alone():
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
