"""Steps that begin when poked, and what is done once a step is committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.kit import flow
from altostack.kit.flow import Engine, Next, done, hop, later
from tests.kit.toy import Status, Toy, Widget, WidgetLife


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path)
    yield toy
    toy.close()


def create(toy: Toy) -> str:
    return str(toy.call("POST", "/v1/widgets", {"widget": {"size": 1}}, version="1.3")["widget"]["id"])


def status(toy: Toy, key: str) -> Status:
    with toy.db.read() as session:
        row = session.get(Widget, key)
        assert row is not None
        return row.status


def test_a_later_step_begins_when_poked(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(WidgetLife):
        def provision(self) -> Next:
            return later(self.settle)

    monkeypatch.setattr(toy.runtime, "kinds", lambda: {"widget": (Patient, Widget)})
    key = create(toy)
    engine = Engine(toy.runtime)
    assert engine.drain() == 1
    assert status(toy, key) == Status.CREATING
    toy.db.write(lambda session: flow.poke(session, key))
    engine.drain()
    assert status(toy, key) == Status.AVAILABLE


def test_a_poke_before_the_commit_begins_it_at_once(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poked(WidgetLife):
        def provision(self) -> Next:
            toy.db.write(lambda session: flow.poke(session, self.row.id))
            return later(self.settle)

    monkeypatch.setattr(toy.runtime, "kinds", lambda: {"widget": (Poked, Widget)})
    key = create(toy)
    Engine(toy.runtime).drain()
    assert status(toy, key) == Status.AVAILABLE


def test_a_later_step_begins_by_itself_when_its_time_has_come(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Timed(WidgetLife):
        def provision(self) -> Next:
            return later(self.settle, seconds=5.0)

    monkeypatch.setattr(toy.runtime, "kinds", lambda: {"widget": (Timed, Widget)})
    key = create(toy)
    now = toy.runtime.clock()
    engine = Engine(toy.runtime)
    engine.drain()
    assert status(toy, key) == Status.CREATING
    toy.runtime.clock = lambda: now + 10.0
    engine.drain()
    assert status(toy, key) == Status.AVAILABLE


def test_a_delete_does_not_wait_for_a_later_step(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(WidgetLife):
        def provision(self) -> Next:
            return later(self.settle)

    monkeypatch.setattr(toy.runtime, "kinds", lambda: {"widget": (Patient, Widget)})
    key = create(toy)
    engine = Engine(toy.runtime)
    engine.drain()
    toy.call("DELETE", f"/v1/widgets/{key}")
    engine.drain()
    with toy.db.read() as session:
        assert session.get(Widget, key) is None


def test_what_follows_a_step_sees_it_committed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Status] = []

    class Telling(WidgetLife):
        def provision(self) -> Next:
            self.row.status = Status.AVAILABLE
            self.after(lambda: seen.append(status(toy, self.row.id)))
            return hop(self.rest)

        def destroy(self) -> Next:
            return done()

    monkeypatch.setattr(toy.runtime, "kinds", lambda: {"widget": (Telling, Widget)})
    create(toy)
    Engine(toy.runtime).drain()
    assert seen == [Status.AVAILABLE]
