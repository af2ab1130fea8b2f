"""The flow engine: leases, fencing, pokes, signals, deadlines, dooms and crashes at every point."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.kit import flow
from altostack.kit.flow import Engine, Failed, Flow, Next, done, fail, hop, sleep, wait
from tests.kit.toy import Status, Toy, Widget, WidgetLife

pytestmark = pytest.mark.everywhere


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path)
    yield toy
    toy.close()


def create(toy: Toy) -> str:
    return str(toy.call("POST", "/v1/widgets", {"widget": {"size": 1}}, version="1.3")["widget"]["id"])


def row(toy: Toy, key: str) -> Widget | None:
    with toy.db.read() as session:
        return session.get(Widget, key)


def use(toy: Toy, monkeypatch: pytest.MonkeyPatch, life: type[Flow[Any]]) -> None:
    monkeypatch.setattr(toy.runtime, "kinds", lambda: {"widget": (life, Widget)})


POINTS = [
    f"widget.{step} {when}"
    for step in ("provision", "settle", "rest", "extend", "destroy")
    for when in ("before", "after", "committed")
]


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_anywhere_changes_nothing(toy: Toy, point: str) -> None:
    """Crash once at the point; a new engine (whose lease is free at once) carries on to the same end."""
    crashed: list[str] = []

    def probe(here: str) -> None:
        if here == point and not crashed:
            crashed.append(here)
            raise Killed

    def drain() -> None:
        for _ in range(3):
            try:
                Engine(toy.runtime, lease=0.0, probe=probe).drain()
                return
            except Killed:
                continue

    key = create(toy)
    drain()
    found = row(toy, key)
    assert found is not None
    assert found.status == Status.AVAILABLE
    toy.call("POST", f"/v1/widgets/{key}/action", {"os-extend": {"new_size": 5}})
    drain()
    found = row(toy, key)
    assert found is not None
    assert (found.size, found.status) == (5, Status.AVAILABLE)
    assert toy.runtime.drivers["toy"] == {key: 5}
    toy.call("DELETE", f"/v1/widgets/{key}")
    drain()
    assert crashed == [point]
    assert row(toy, key) is None
    assert toy.runtime.drivers["toy"] == {}
    with toy.db.read() as session:
        assert flow.state(session, key) is None


def test_delete_wins_from_any_step(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(WidgetLife):
        def provision(self) -> Next:
            raise RuntimeError("the backend is away")

    use(toy, monkeypatch, Stuck)
    key = create(toy)
    engine = Engine(toy.runtime)
    engine.drain()
    toy.call("DELETE", f"/v1/widgets/{key}")
    engine.drain()
    assert row(toy, key) is None


def test_retry_backs_off_then_the_deadline_names_the_step(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(WidgetLife):
        def provision(self) -> Next:
            raise RuntimeError("the backend is away")

    use(toy, monkeypatch, Failing)
    now = [time.time()]
    toy.runtime.clock = lambda: now[0]
    key = create(toy)
    engine = Engine(toy.runtime)
    steps = 0
    for _ in range(310):
        steps += engine.drain()
        now[0] += 1.0
    found = row(toy, key)
    assert found is not None
    assert found.status == Status.ERROR
    assert 10 <= steps <= 25
    with toy.db.read() as session:
        story = flow.story(session, key)
    errors = [line for line in story if line["level"] == "error"]
    assert len(errors) == 1
    assert "step provision passed its deadline" in errors[0]["message"]
    assert "the backend is away" in errors[0]["message"]


@pytest.mark.parametrize("how", ["raise", "return"])
def test_failed_needs_no_retry(toy: Toy, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    class Hopeless(WidgetLife):
        def provision(self) -> Next:
            if how == "raise":
                raise Failed("no such pool")
            return fail("no such pool")

    use(toy, monkeypatch, Hopeless)
    key = create(toy)
    assert Engine(toy.runtime).drain() == 2
    found = row(toy, key)
    assert found is not None
    assert found.status == Status.ERROR


def test_a_poke_during_a_step_is_not_lost(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    class Poked(WidgetLife):
        def provision(self) -> Next:
            ran.append(1)
            if len(ran) == 1:
                toy.db.write(lambda session: flow.poke(session, self.row.id))
                return wait()
            return hop(self.settle)

    use(toy, monkeypatch, Poked)
    key = create(toy)
    Engine(toy.runtime).drain()
    found = row(toy, key)
    assert len(ran) == 2
    assert found is not None
    assert found.status == Status.AVAILABLE


def test_a_step_writes_only_what_it_assigned(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(WidgetLife):
        def provision(self) -> Next:
            toy.call("PUT", f"/v1/widgets/{self.row.id}", {"widget": {"name": "renamed meanwhile"}})
            return super().provision()

    use(toy, monkeypatch, Slow)
    key = create(toy)
    Engine(toy.runtime).drain()
    found = row(toy, key)
    assert found is not None
    assert (found.name, found.pool) == ("renamed meanwhile", "pool-a")


def test_a_lost_lease_drops_the_result(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was away longer than its lease must not overwrite its successor."""
    order: list[str] = []

    class Contended(WidgetLife):
        def provision(self) -> Next:
            if not order:
                order.append("slow")
                Engine(toy.runtime, lease=0.0).drain()  # the successor, while the first is still inside
                self.row.name = "from the dead"
                return hop(self.settle)
            order.append("fast")
            return super().provision()

    use(toy, monkeypatch, Contended)
    key = create(toy)
    Engine(toy.runtime, lease=0.0).drain()
    found = row(toy, key)
    assert order == ["slow", "fast"]
    assert found is not None
    assert (found.name, found.status) == (None, Status.AVAILABLE)


def test_a_lease_that_was_given_back_is_not_renewed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewing runs in a thread of its own, so it may come when a step has just ended."""

    class Waiting(WidgetLife):
        def provision(self) -> Next:
            return wait()

    def renew(point: str) -> None:
        leases.append((point.rpartition(" ")[2], until()))
        engine._renew()
        leases.append(("renewed", until()))

    def until() -> float:
        with toy.db.read() as session:
            found = flow.state(session, key)
        assert found is not None
        return float(found["lease_until"])

    use(toy, monkeypatch, Waiting)
    key = create(toy)
    leases: list[tuple[str, float]] = []
    engine = Engine(toy.runtime, probe=renew)
    engine.drain()
    held = [end > time.time() for _, end in leases]
    assert [name for name, _ in leases] == ["before", "renewed", "after", "renewed", "committed", "renewed"]
    assert held == [True, True, True, True, False, False]


def test_sleep_and_wake(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sleepy(WidgetLife):
        def provision(self) -> Next:
            self.frame["naps"] = self.frame.get("naps", 0) + 1
            return sleep(10) if self.frame["naps"] < 3 else hop(self.settle)

    use(toy, monkeypatch, Sleepy)
    now = [time.time() + 1]
    toy.runtime.clock = lambda: now[0]
    create(toy)
    engine = Engine(toy.runtime)
    assert engine.drain() == 1
    assert engine.drain() == 0
    now[0] += 10.1
    assert engine.drain() == 1
    now[0] += 10.1
    assert engine.drain() == 3


def test_dead_processes_leases_are_released(toy: Toy) -> None:
    key = create(toy)
    table = Widget.metadata.tables["flows"]
    owner = flow.own_process().rpartition(":")[0] + ":1"  # this pid, but started at another time
    with toy.db.begin() as session:
        session.execute(table.update().values(owner=owner, lease_until=time.time() + 3600))
    engine = Engine(toy.runtime)
    assert engine.drain() == 0
    assert engine.recover() == 1
    assert engine.drain() == 3
    assert row(toy, key) is not None
    assert flow.process_alive(flow.own_process())
    assert flow.process_alive("another-machine:1:1")


def test_threads_run_flows_once_each(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[str, int] = {}
    lock = threading.Lock()

    class Counted(WidgetLife):
        def provision(self) -> Next:
            with lock:
                ran[self.row.id] = ran.get(self.row.id, 0) + 1
            return super().provision()

        def rest(self) -> Next:
            return done(keep=True)

    use(toy, monkeypatch, Counted)
    engines = [Engine(toy.runtime, threads=3), Engine(toy.runtime, threads=3)]
    keys = [create(toy) for _ in range(10)]
    for engine in engines:
        engine.start()
    until = time.monotonic() + 20
    while time.monotonic() < until and len(ran) < 10:
        time.sleep(0.01)
    for engine in engines:
        engine.stop()
    assert ran == dict.fromkeys(keys, 1)


def test_story_is_found_by_request_and_resource(toy: Toy) -> None:
    key = create(toy)
    Engine(toy.runtime).drain()
    with toy.db.read() as session:
        lines = flow.story(session, key)
        again = flow.story(session, lines[0]["request_id"])
    told = toy.call("GET", f"/internal/story/{key}", who="admin")
    assert told["story"] == lines
    assert told["flow"]["step"] == "rest"
    assert [line["step"] for line in lines] == ["provision", "settle"]
    assert again == lines


def test_a_pause_is_kept_to_the_moment_by_threads(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that looks for due flows must not sleep through a pause that began after it looked."""

    class Napping(WidgetLife):
        def provision(self) -> Next:
            self.frame["naps"] = self.frame.get("naps", 0) + 1
            return wait(seconds=0.05) if self.frame["naps"] < 4 else hop(self.settle)

    use(toy, monkeypatch, Napping)
    engine = Engine(toy.runtime, poll=60.0)
    engine.start()
    key = create(toy)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = row(toy, key)
        assert found is not None
        if found.status == Status.AVAILABLE:
            break
        time.sleep(0.02)
    engine.stop()
    assert found.status == Status.AVAILABLE
