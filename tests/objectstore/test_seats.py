"""A few threads work at a time, and nobody who waits keeps others from working."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from altostack.objectstore.putoff import collected, put_off
from altostack.objectstore.seats import Seats, standing


class Crowd:
    """Threads that take turns on some seats; ``work`` is what each does with a piece of work."""

    def __init__(
        self, seats: int, threads: int, work: Callable[[Crowd], object], *, watched: bool = False
    ) -> None:
        self.seats, self.work = Seats(seats), work
        self.offered = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.seated = self.most = self.done = 0
        self.ending = False
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        if watched:
            self.threads.append(threading.Thread(target=self.seats.watch, daemon=True))
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        sitter = self.seats.sitter()
        while True:
            sitter.sit()
            self.offered.acquire()
            if self.ending:
                return
            sitter.begin()
            try:
                self.here(1)
                self.work(self)
                self.here(-1)
            finally:
                sitter.end()
                with self.lock:
                    self.done += 1

    def here(self, change: int) -> None:
        """Somebody works on a seat, or does so no longer."""
        with self.lock:
            self.seated += change
            self.most = max(self.most, self.seated)

    def give(self, pieces: int) -> None:
        """Offer work, and wait until it is done."""
        wanted = self.done + pieces
        for _ in range(pieces):
            self.offered.release()
        end = time.monotonic() + 30
        while self.done < wanted:
            assert time.monotonic() < end, f"{self.done} of {wanted}"
            time.sleep(0.002)

    def close(self) -> None:
        self.ending = True
        self.seats.close()
        for _ in self.threads:
            self.offered.release()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_more_work_than_there_are_seats(count: int) -> None:
    chance = random.Random(count)

    def work(crowd: Crowd) -> None:
        time.sleep(chance.random() * 0.002)
        for _ in range(chance.randrange(3)):
            crowd.here(-1)
            with standing():
                time.sleep(chance.random() * 0.004)
            crowd.here(1)
            time.sleep(chance.random() * 0.001)

    crowd = Crowd(count, 12, work)
    crowd.give(200)
    assert crowd.most == count
    crowd.close()


def test_those_who_wait_let_others_work() -> None:
    together = threading.Barrier(8, timeout=20)

    def work(crowd: Crowd) -> None:
        with standing():
            together.wait()  # passes only when all are here

    crowd = Crowd(1, 8, work)
    crowd.give(8)
    crowd.give(8)
    crowd.close()


def test_who_needs_long_is_taken_off() -> None:
    together = threading.Barrier(4, timeout=20)
    crowd = Crowd(1, 4, lambda crowd: together.wait(), watched=True)
    crowd.give(4)
    crowd.close()


def test_standing_without_a_seat_is_nothing() -> None:
    with standing(), standing():
        pass


def test_what_is_put_off_is_done_by_whoever_collects() -> None:
    did: list[str] = []
    put_off(lambda: did.append("now"))
    with collected() as outer:
        put_off(lambda: did.append("later"))
        with collected() as inner:
            put_off(lambda: did.append("inside"))
        put_off(lambda: did.append("last"))
    assert did == ["now"]
    for work in (*outer, *inner):
        work()
    assert did == ["now", "later", "last", "inside"]
    other = threading.Thread(target=put_off, args=(lambda: did.append("elsewhere"),))
    with collected() as none:
        other.start()
        other.join()
    assert did[-1] == "elsewhere" and not none
