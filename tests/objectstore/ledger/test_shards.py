"""The map of a split container, and listings made of its shards'."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altostack.objectstore.config import Settings
from altostack.objectstore.ledger import shards
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.ledger.lines import MAP, PLAN
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import NotEmpty, Query, Row, Subdir
from tests.objectstore.ledger.conftest import at, row, spot
from tests.objectstore.ledger.test_listing import NAMES, QUERIES, _devices, expected, shown

C = spot("a/c")


def line(lower: str, container: str, second: float = 2, **more: object) -> Row:
    """A line of the map."""
    given: dict[str, object] = {"policy": MAP, "content_type": container} | more
    return Row(name=lower, timestamp=at(second), **given)  # type: ignore[arg-type] # fields of Row


class TestMap:
    def test_ranges_follow_each_other(self) -> None:
        known = shards.ranges([line("m", "two"), line("", "one"), line("t", "three")])
        assert [(one.lower, one.upper, one.container) for one in known] == [
            ("", "m", "one"), ("m", "t", "two"), ("t", None, "three")
        ]  # fmt: skip
        wanted = {"a": "one", "m": "one", "m\0": "two", "t": "two", "z": "three"}
        for name, container in wanted.items():
            found = shards.owner(known, name)
            assert found is not None and found.container == container and found.holds(name)
        assert shards.ranges([]) == [] and shards.owner([], "a") is None

    def test_a_root_keeps_and_tells_it(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("o", 2, size=50)])
        assert ledgers.info(C, "a", "c").state == "unsharded"
        ledgers.record(C, "a", "c", [line("", "one", policy=PLAN, etag=shards.CLEAVING)])
        info = ledgers.info(C, "a", "c")
        assert (info.state, info.shards, info.count) == ("sharding", 0, 1)
        ledgers.record(
            C, "a", "c",
            [
                line("", "one", 3, count=4, size=40), line("m", "two", 3, count=5, size=60),
                line("", "one", 3, policy=PLAN, deleted=True),
            ],
        )  # fmt: skip
        info = ledgers.info(C, "a", "c")
        assert (info.state, info.shards, info.count, info.bytes) == ("sharded", 2, 9, 100)
        assert [one.container for one in shards.ranges(ledgers.list(C, "a", "c", shards.map_query()))] == [
            "one",
            "two",
        ]
        for name, container in {"a": "one", "m": "one", "n": "two"}.items():
            (found,) = ledgers.list(C, "a", "c", shards.owner_query(name))
            assert isinstance(found, Row) and found.content_type == container
        with pytest.raises(NotEmpty):
            ledgers.destroy(C, "a", "c", at(9))

    def test_reports_and_places_age_on_their_own(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [line("", "one", 2, count=4, size=40, meta_timestamp=at(6))])
        ledgers.record(C, "a", "c", [line("", "other", 5, count=1, size=1, meta_timestamp=at(5))])
        (found,) = ledgers.list(C, "a", "c", shards.map_query())
        assert isinstance(found, Row)
        assert (found.content_type, found.timestamp, found.count, found.size) == ("other", at(5), 4, 40)

    def test_counts_of_zero_can_be_reported(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [line("", "one", 2, count=4, size=40, meta_timestamp=at(6))])
        ledgers.record(C, "a", "c", [line("", "one", 2, meta_timestamp=at(7))])
        assert ledgers.info(C, "a", "c").count == 0
        assert ledgers.destroy(C, "a", "c", at(9))
        assert ledgers.facts(C).gone


@given(
    names=NAMES,
    cuts=st.lists(st.text(alphabet="ab/é𐍈", min_size=1, max_size=4), max_size=5, unique=True),
    strays=st.booleans(),
    queries=st.lists(QUERIES, min_size=1, max_size=10),
)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_any_page_of_shards(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    cuts: list[str],
    strays: bool,
    queries: list[Query],
) -> None:
    ledgers = Ledgers(_devices(tmp_path_factory.mktemp("s")), Settings(), clock=Clock())
    known = shards.ranges([line(lower, f"shard {lower}") for lower in ["", *cuts]])
    for one in known:
        ledgers.create(spot(one.container), "h", one.container, at(1))
    for name in names:
        found = shards.owner(known, name)
        assert found is not None
        ledgers.record(spot(found.container), "h", found.container, [row(name)])
        if strays:  # lines that the map does not want there are not shown
            ledgers.record(spot(known[0].container), "h", known[0].container, [row(name, 2)])

    def ask(container: str, query: Query) -> Sequence[Row | Subdir]:
        return ledgers.list(spot(container), "h", container, query)

    for query in queries:
        assert shown(shards.page(query, known, ask)) == expected(names, query), query
    ledgers.close()


def test_only_the_shards_that_a_page_needs_are_asked() -> None:
    known = shards.ranges([line(lower, f"from {lower}") for lower in ("", "b", "d", "f")])
    asked: list[str] = []

    def ask(container: str, query: Query) -> Sequence[Row | Subdir]:
        asked.append(container)
        return [row(f"{container}{number}") for number in range(min(query.limit, 5))]

    def page(**query: object) -> list[str]:
        asked.clear()
        shards.page(Query(**query), known, ask)  # type: ignore[arg-type] # fields of Query
        return list(asked)

    assert page(limit=5) == ["from "]
    assert page(limit=6) == ["from ", "from b"]
    assert page(limit=5, reverse=True) == ["from f"]
    assert page(prefix="e") == ["from d"]
    assert page(prefix="d") == ["from b", "from d"]
    assert page(marker="c", end_marker="d") == ["from b"]
    assert page(marker="g") == ["from f"]
    assert page(path="c") == ["from b"]
