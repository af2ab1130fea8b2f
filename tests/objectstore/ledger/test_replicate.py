"""Copies end up alike, whatever was told to which of them and in which order they meet."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altostack.objectstore.config import Policy, Settings
from altostack.objectstore.ledger import lines, replicate
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.ledger.lines import Line
from altostack.objectstore.ledger.replicate import Replication, State
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import (
    DeviceGone,
    Kind,
    Missing,
    Query,
    Row,
    Spot,
    StorageError,
)
from tests.objectstore.ledger.conftest import Time, at, row, spot

ONE, TWO, THREE = (spot("a/c", device) for device in ("d1", "d2", "d3"))
KIND: Kind = "container"


class Far:
    """A copy on another device; what is sent goes through the wire's form. calls: what was asked."""

    def __init__(self, replication: Replication, there: Spot, kind: Kind = KIND) -> None:
        self.replication, self.there, self.kind = replication, there, kind
        self.calls: list[str] = []

    def offer(self, state: State) -> State | None:
        self.calls.append("offer")
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)
        return self.replication.offer(self.there, self.kind, sent)

    def accept(self, lines: Sequence[Line], source: str, point: int) -> None:
        self.calls.append(f"accept {len(lines)}")
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(lines), type=list[Line])
        self.replication.accept(self.there, self.kind, sent, source, point)

    def confirm(self, source: str, points: dict[str, int]) -> None:
        self.calls.append("confirm")
        self.replication.confirm(self.there, self.kind, source, points)

    def install(self, path: Path) -> None:
        self.calls.append("install")
        self.replication.install(self.there, self.kind, path)


@pytest.fixture
def replication(ledgers: Ledgers) -> Replication:
    return Replication(ledgers)


def alike(replication: Replication, *spots: Spot, kind: Kind = KIND) -> bool:
    states = [replication.state(one, kind) for one in spots]
    facts = {
        (
            s.created,
            s.put,
            s.deleted,
            s.policy,
            s.policy_since,
            s.mark,
            s.lines,
            str(sorted(s.metadata.items())),
        )
        for s in states
    }
    return len(facts) == 1


def content(ledgers: Ledgers, where: Spot) -> list[object]:
    return list(ledgers.list(where, "a", "c", Query()))


class TestPush:
    def test_a_copy_that_is_missing_gets_the_file(self, ledgers: Ledgers, replication: Replication) -> None:
        ledgers.create(ONE, "a", "c", at(1), metadata={"k": ("v", at(1))})
        ledgers.record(ONE, "a", "c", [row(f"{n:03}") for n in range(50)] + [row("x", deleted=True)])
        far = Far(replication, TWO)
        assert replication.push(ONE, KIND, far)
        assert far.calls == ["offer", "install"]
        assert alike(replication, ONE, TWO)
        assert content(ledgers, ONE) == content(ledgers, TWO)
        one, two = replication.state(ONE, KIND), replication.state(TWO, KIND)
        assert one.id != two.id and two.points == {one.id: one.seq}
        assert not list((ledgers.devices / "d1/tmp").iterdir())
        far.calls.clear()
        assert not replication.push(ONE, KIND, far)
        assert far.calls == ["offer"]

    def test_only_what_is_new_goes(self, ledgers: Ledgers, replication: Replication) -> None:
        ledgers.create(ONE, "a", "c", at(1))
        ledgers.record(ONE, "a", "c", [row(f"{n:03}") for n in range(50)])
        far = Far(replication, TWO)
        replication.push(ONE, KIND, far)
        ledgers.record(ONE, "a", "c", [row("new"), row("001", 3, deleted=True)])
        far.calls.clear()
        assert replication.push(ONE, KIND, far)
        assert far.calls == ["offer", "accept 2", "confirm"]
        assert alike(replication, ONE, TWO)

    def test_in_pieces(self, ledgers: Ledgers, replication: Replication) -> None:
        ledgers.create(ONE, "a", "c", at(1))
        ledgers.create(TWO, "a", "c", at(2))
        ledgers.record(ONE, "a", "c", [row(f"{n:05}") for n in range(2500)])
        far = Far(replication, TWO)
        replication.push(ONE, KIND, far)
        assert far.calls == ["offer", "accept 1000", "accept 1000", "accept 500", "confirm"]
        assert alike(replication, ONE, TWO)

    def test_facts_go_both_ways(self, ledgers: Ledgers, replication: Replication) -> None:
        ledgers.create(ONE, "a", "c", at(1), metadata={"k": ("one", at(1)), "l": ("one", at(4))})
        ledgers.create(TWO, "a", "c", at(3), metadata={"k": ("two", at(3)), "l": ("two", at(3))})
        replication.push(ONE, KIND, Far(replication, TWO))
        assert alike(replication, ONE, TWO)
        info = ledgers.info(ONE, "a", "c")
        assert (info.created, info.put) == (at(1), at(3))
        assert info.metadata == {"k": ("two", at(3)), "l": ("one", at(4))}

    def test_far_behind_gets_the_file_and_keeps_its_own(
        self, ledgers: Ledgers, replication: Replication, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replicate, "FAR", 100)
        ledgers.create(ONE, "a", "c", at(1))
        ledgers.create(TWO, "a", "c", at(2))
        ledgers.record(ONE, "a", "c", [row(f"{n:05}") for n in range(300)])
        ledgers.record(TWO, "a", "c", [row("mine"), row("00001", 5, deleted=True)])
        far = Far(replication, TWO)
        replication.push(ONE, KIND, far)
        assert far.calls == ["offer", "install"]
        assert ledgers.info(TWO, "a", "c").count == 300
        replication.push(TWO, KIND, Far(replication, ONE))
        assert alike(replication, ONE, TWO)

    def test_what_came_by_a_third_is_not_sent_again(self, ledgers: Ledgers, replication: Replication) -> None:
        for where in (ONE, TWO, THREE):
            ledgers.create(where, "a", "c", at(1))
        ledgers.record(ONE, "a", "c", [row("o")])
        replication.push(ONE, KIND, Far(replication, TWO))
        replication.push(TWO, KIND, Far(replication, THREE))
        ledgers.record(THREE, "a", "c", [row("p")])
        far = Far(replication, THREE)
        assert not replication.push(ONE, KIND, far)
        assert far.calls == ["offer"]

    def test_accounts(self, ledgers: Ledgers, replication: Replication) -> None:
        one, two = spot("a", "d1"), spot("a", "d2")
        ledgers.record(one, "a", None, [row("c", 2, count=3, size=9, meta_timestamp=at(5))])
        ledgers.record(two, "a", None, [row("c", 2, count=2, size=4, meta_timestamp=at(4)), row("d", 3)])
        replication.push(one, "account", Far(replication, two, "account"))
        replication.push(two, "account", Far(replication, one, "account"))
        assert alike(replication, one, two, kind="account")
        assert ledgers.info(one, "a", None).per_policy == {0: (2, 3, 12)}


OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which copy
        st.builds(
            lambda name, second, deleted, size, typed, meta: row(
                name, second, deleted=deleted, **({} if deleted else {"size": size, "content_type": f"t{typed}"}),
                type_timestamp=at(typed) if typed > second else "",
                meta_timestamp=at(max(meta, typed)) if max(meta, typed) > second else "",
            ),
            st.sampled_from("abc"), st.integers(1, 6), st.booleans(), st.integers(0, 3), st.integers(1, 8),
            st.integers(1, 9),
        ),
    ),
    max_size=25,
)  # fmt: skip
MEETINGS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=8)


@given(operations=OPERATIONS, meetings=MEETINGS, facts=st.permutations([0, 1, 2]))
@settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
def test_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    operations: list[tuple[int, Row]],
    meetings: list[tuple[int, int]],
    facts: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("l")
    for device in ("d1", "d2", "d3", "d4"):
        (folder / device).mkdir()
    ledgers = Ledgers(folder, Settings(), clock=Clock())
    replication = Replication(ledgers)
    copies = [ONE, TWO, THREE]
    for second, number in enumerate(facts, 1):
        ledgers.create(copies[number], "a", "c", at(second), metadata={"k": (str(number), at(second))})
    half = len(operations) // 2
    for number, line in operations[:half]:
        ledgers.record(copies[number], "a", "c", [line])
    for one, two in meetings:
        if one != two:
            replication.push(copies[one], KIND, Far(replication, copies[two]))
    for number, line in operations[half:]:
        ledgers.record(copies[number], "a", "c", [line])
    for _ in range(2):
        for one in copies:
            for two in copies:
                if one != two:
                    replication.push(one, KIND, Far(replication, two))
    assert alike(replication, *copies)
    alone = spot("a/c", "d4")  # as if one copy had been told everything, in another order
    ledgers.create(alone, "a", "c", at(1))
    ledgers.record(alone, "a", "c", [line for _, line in reversed(operations)])
    assert replication.state(alone, KIND).mark == replication.state(ONE, KIND).mark
    assert content(ledgers, alone) == content(ledgers, THREE)
    replication.audit(ONE, KIND)
    ledgers.close()


LINES = st.builds(
    lambda name, ts, size, etag, deleted, typed, meta: (
        "n", at(ts), size, name, etag, deleted, 0, 0, at(typed) if typed > ts else "",
        at(max(meta, typed)) if max(meta, typed) > ts else "",
    ),
    st.sampled_from(["x", "y"]), st.integers(1, 4), st.integers(0, 2), st.sampled_from(["", "e", "f"]),
    st.booleans(), st.integers(1, 6), st.integers(1, 7),
)  # fmt: skip


@pytest.mark.parametrize("join", [lines.join_objects, lines.join_containers, lines.join_ranges])
@given(one=LINES, two=LINES, three=LINES)
@settings(deadline=None, max_examples=150)
def test_joins_are_joins(join: Callable[[Line, Line], Line], one: Line, two: Line, three: Line) -> None:
    assert join(one, two) == join(two, one)
    assert join(join(one, two), three) == join(one, join(two, three))
    assert join(join(one, two), two) == join(one, two)


class TestPolicies:
    def state(self, policy: int, since: float, *, put: float = 0, deleted: float = 0) -> State:
        return State(
            account="a", container="c", id="", created=at(1), put=at(put or since),
            deleted=at(deleted) if deleted else "", changed=at(since), policy=policy, policy_since=at(since),
            metadata={}, seq=0, mark="", lines=0, points={},
        )  # fmt: skip

    def test_the_earlier_of_two_that_are_there_wins(self) -> None:
        early, late = self.state(1, 2), self.state(0, 3)
        assert replicate.decide(early, late) == replicate.decide(late, early) == (1, at(2))

    def test_the_one_made_after_the_deletion_wins(self) -> None:
        before, after = self.state(1, 2), self.state(0, 5, deleted=4)
        assert replicate.decide(before, after) == replicate.decide(after, before) == (0, at(5))

    def test_of_two_deleted_the_later_wins(self) -> None:
        one, other = self.state(1, 2, deleted=9), self.state(0, 3, deleted=8)
        assert replicate.decide(one, other) == replicate.decide(other, one) == (0, at(3))

    def test_lines_of_the_losing_policy_are_misplaced(self, ledgers: Ledgers) -> None:
        policies = {"zero": Policy(index=0, default=True), "one": Policy(index=1)}
        ledgers = Ledgers(ledgers.devices, Settings(policies=policies), clock=Clock())
        replication = Replication(ledgers)
        ledgers.create(ONE, "a", "c", at(2), policy=1)
        ledgers.create(TWO, "a", "c", at(3), policy=0)
        ledgers.record(TWO, "a", "c", [row("o", 4, policy=0)])
        replication.push(TWO, KIND, Far(replication, ONE))
        assert ledgers.info(TWO, "a", "c").policy == ledgers.info(ONE, "a", "c").policy == 1
        assert [line[0] for line in replication.misplaced(ONE)] == ["o"]
        ledgers.record(ONE, "a", "c", [row("o", 4, policy=1), row("o", 4, policy=0, deleted=True)])
        assert replication.misplaced(ONE) == []
        assert [one.name for one in ledgers.list(ONE, "a", "c", Query())] == ["o"]


class TestForgetting:
    def test_old_deletions_are_forgotten(
        self, ledgers: Ledgers, replication: Replication, time: Time
    ) -> None:
        ledgers.create(ONE, "a", "c", at(1), metadata={"k": ("", at(1)), "l": ("x", at(1))})
        ledgers.record(ONE, "a", "c", [row("o", 2, deleted=True), row("p", 2), row("q", 5000, deleted=True)])
        assert not replication.reclaim(ONE, KIND)
        assert len(replication.since(ONE, KIND, 0).lines) == 3
        time.forward(ledgers.settings.reclaim_age)
        assert not replication.reclaim(ONE, KIND)
        assert sorted(line[0] for line in replication.since(ONE, KIND, 0).lines) == ["p", "q"]
        assert ledgers.info(ONE, "a", "c").metadata == {"l": ("x", at(1))}
        ledgers.create(TWO, "a", "c", at(1))
        ledgers.record(TWO, "a", "c", [row("p", 2), row("q", 5000, deleted=True)])
        assert replication.state(ONE, KIND).mark == replication.state(TWO, KIND).mark
        replication.audit(ONE, KIND)

    def test_a_container_deleted_long_ago_can_go(
        self, ledgers: Ledgers, replication: Replication, time: Time
    ) -> None:
        ledgers.create(ONE, "a", "c", at(1))
        ledgers.record(ONE, "a", "c", [row("o", 1), row("o", 2, deleted=True)])
        ledgers.destroy(ONE, "a", "c", at(3))
        assert not replication.reclaim(ONE, KIND)
        time.forward(ledgers.settings.reclaim_age)
        assert replication.reclaim(ONE, KIND)
        assert replication.remove(ONE, KIND, replication.state(ONE, KIND))
        assert list(replication.walk("d1", KIND)) == []
        assert list((ledgers.devices / "d1/containers").iterdir()) == []
        with pytest.raises(Missing) as gone:
            ledgers.info(ONE, "a", "c")
        assert gone.value.timestamp is None

    def test_what_changed_meanwhile_is_not_removed(self, ledgers: Ledgers, replication: Replication) -> None:
        ledgers.create(ONE, "a", "c", at(1))
        known = replication.state(ONE, KIND)
        ledgers.record(ONE, "a", "c", [row("o", 2)])
        assert not replication.remove(ONE, KIND, known)
        known = replication.state(ONE, KIND)
        ledgers.change(ONE, "a", "c", at(3), {"k": ("v", at(3))})
        assert not replication.remove(ONE, KIND, known)
        assert ledgers.info(ONE, "a", "c").count == 1

    def test_whoever_had_it_open_notices(self, ledgers: Ledgers, replication: Replication) -> None:
        ledgers.create(ONE, "a", "c", at(1))
        other = Ledgers(ledgers.devices, ledgers.settings, clock=Clock())
        other.record(ONE, "a", "c", [row("o", 2)])
        with other.database(ONE, KIND) as held:
            assert replication.remove(ONE, KIND, replication.state(ONE, KIND))
            with pytest.raises(StorageError):
                held.record([lines.of_row(row("p"))], at(3))
        with pytest.raises(Missing):
            other.record(ONE, "a", "c", [row("q", 2)])
        other.close()


class TestWalkingAndAuditing:
    def test_walk(self, ledgers: Ledgers, replication: Replication) -> None:
        wanted = []
        for part, name in ((12, "x"), (3, "y"), (3, "z")):
            where = Spot("d1", part, spot(name).digest)
            ledgers.create(where, "a", name, at(1))
            wanted.append(where)
        ledgers.create(spot("a"), "a", None, at(1))
        assert sorted(replication.walk("d1", KIND), key=str) == sorted(wanted, key=str)
        assert [one.part for one in replication.walk("d1", KIND)] == [3, 3, 12]
        assert list(replication.walk("d1", "account")) == [spot("a")]
        assert list(replication.walk("d2", KIND)) == []

    def test_wrong_totals_are_found(self, ledgers: Ledgers, replication: Replication) -> None:
        ledgers.create(ONE, "a", "c", at(1))
        ledgers.record(ONE, "a", "c", [row("o")])
        replication.audit(ONE, KIND)
        ledgers.close()
        with sqlite3.connect(ledgers.folder(ONE, KIND) / f"{ONE.digest}.db") as file:
            file.execute("UPDATE totals SET lines = 5")
        with pytest.raises(DeviceGone):
            replication.audit(ONE, KIND)
        with pytest.raises(Missing):
            ledgers.info(ONE, "a", "c")

    def test_a_file_that_is_no_database_is_not_taken(
        self, ledgers: Ledgers, replication: Replication
    ) -> None:
        file = ledgers.devices / "d1" / "broken"
        file.write_bytes(b"nothing" * 1000)
        with pytest.raises(DeviceGone):
            replication.install(ONE, KIND, file)
        assert not file.exists()
        with pytest.raises(Missing):
            ledgers.info(ONE, "a", "c")

    def test_room_is_given_back(self, ledgers: Ledgers, replication: Replication, time: Time) -> None:
        ledgers.create(ONE, "a", "c", at(1))
        ledgers.record(ONE, "a", "c", [row(f"{n:05}", content_type="x" * 300) for n in range(6000)])
        ledgers.record(ONE, "a", "c", [row(f"{n:05}", 2, deleted=True) for n in range(5900)])
        assert ledgers.info(ONE, "a", "c").count == 100
        time.forward(ledgers.settings.reclaim_age)
        replication.reclaim(ONE, KIND)
        ledgers.close()
        assert (ledgers.folder(ONE, KIND) / f"{ONE.digest}.db").stat().st_size < 200_000
        assert ledgers.info(ONE, "a", "c").count == 100
        replication.audit(ONE, KIND)

    def test_only_so_many_other_copies_are_remembered(
        self, ledgers: Ledgers, replication: Replication
    ) -> None:
        ledgers.create(ONE, "a", "c", at(1))
        for number in range(70):
            replication.accept(ONE, KIND, [], f"copy{number}", number)
        replication.reclaim(ONE, KIND)
        points = replication.state(ONE, KIND).points
        assert len(points) == 64 and "copy69" in points and "copy0" not in points
