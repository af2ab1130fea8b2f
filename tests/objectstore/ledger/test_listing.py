"""Listings equal what looking at every name yields."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altostack.objectstore.config import Settings
from altostack.objectstore.ledger import listing
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import Query, Row, Subdir
from tests.objectstore.ledger.conftest import at, row, spot

C = spot("a/c")


def expected(names: list[str], query: Query) -> list[str]:
    """The page by brute force; subdirs as "dir:NAME"."""
    prefix, delimiter = query.prefix, query.delimiter
    if query.path is not None:
        prefix = query.path.rstrip("/") + "/" if query.path else ""
        delimiter = "/"
    low, high = (query.end_marker, query.marker) if query.reverse else (query.marker, query.end_marker)
    found: list[str] = []
    for name in sorted(names, reverse=query.reverse):
        if not name.startswith(prefix) or name <= low or (high and name >= high):
            continue
        at_ = name.find(delimiter, len(prefix)) if delimiter else -1
        if query.path is not None:
            if name != prefix and (at_ < 0 or at_ + 1 == len(name)):
                found.append(name)
        elif at_ < 0:
            found.append(name)
        else:
            subdir = name[: at_ + len(delimiter)]
            if subdir != low and f"dir:{subdir}" not in found:
                found.append(f"dir:{subdir}")
    return found[: query.limit]


def shown(page: object) -> list[str]:
    return [f"dir:{one.name}" if isinstance(one, Subdir) else one.name for one in page]  # type: ignore[attr-defined]


LETTERS = st.text(alphabet="ab/é𐍈", max_size=5)
NAMES = st.lists(st.text(alphabet="ab/é𐍈", min_size=1, max_size=6), max_size=40, unique=True)
QUERIES = st.builds(
    Query,
    limit=st.integers(1, 12),
    marker=LETTERS,
    end_marker=LETTERS,
    prefix=st.one_of(st.just(""), LETTERS),
    delimiter=st.sampled_from(["", "/", "b/", "a", "é", "𐍈"]),
    reverse=st.booleans(),
) | st.builds(Query, limit=st.integers(1, 12), marker=LETTERS, path=LETTERS, reverse=st.booleans())


@given(names=NAMES, gone=NAMES, queries=st.lists(QUERIES, min_size=1, max_size=8))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_any_page(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], gone: list[str], queries: list[Query]
) -> None:
    ledgers = Ledgers(_devices(tmp_path_factory.mktemp("l")), Settings(), clock=Clock())
    ledgers.create(C, "a", "c", at(1))
    ledgers.record(C, "a", "c", [row(name, 2) for name in names + gone if name])
    ledgers.record(C, "a", "c", [row(name, 3, deleted=True) for name in gone])
    left = [name for name in names if name not in gone]
    for query in queries:
        assert shown(ledgers.list(C, "a", "c", query)) == expected(left, query), query
    ledgers.close()


def _devices(folder: Path) -> Path:
    (folder / "d1").mkdir()
    return folder


@pytest.fixture
def full(ledgers: Ledgers) -> Ledgers:
    ledgers.create(C, "a", "c", at(1))
    ledgers.record(C, "a", "c", [row(f"{d}/{n:02}") for d in ("a", "b", "c") for n in range(40)] + [row("b")])
    return ledgers


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("delimiter", ["", "/"])
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_page_after_page_is_the_whole(full: Ledgers, reverse: bool, delimiter: str, limit: int) -> None:
    whole = full.list(C, "a", "c", Query(delimiter=delimiter, reverse=reverse))
    seen: list[Row | Subdir] = []
    while page := full.list(
        C,
        "a",
        "c",
        Query(limit=limit, marker=seen[-1].name if seen else "", delimiter=delimiter, reverse=reverse),
    ):
        seen += page
        assert len(page) <= limit
    assert seen == whole
    assert len(seen) == (4 if delimiter else 121)


def test_no_page(full: Ledgers) -> None:
    assert full.list(C, "a", "c", Query(limit=0)) == []


def test_subdirs_are_skipped_by_seeking(full: Ledgers) -> None:
    """Reads hardly more lines than it shows, however many the subdirs hold."""
    full.record(C, "a", "c", [row(f"b/{n:06}") for n in range(20_000)])
    with full.database(C, "container") as database, database.reading() as sql:
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        sql.set_progress_handler(step, 1)
        page = listing.page(sql, Query(delimiter="/"), container=True)
        sql.set_progress_handler(None, 0)
    assert shown(page) == ["dir:a/", "b", "dir:b/", "dir:c/"]
    assert steps < 2000


def test_accounts_list_alike(ledgers: Ledgers) -> None:
    account = spot("a")
    ledgers.record(account, "a", None, [row(name, 1, count=2) for name in ("x-1", "x-2", "y")])
    assert shown(ledgers.list(account, "a", None, Query(delimiter="-"))) == ["dir:x-", "y"]
    assert shown(ledgers.list(account, "a", None, Query(prefix="x", reverse=True, limit=1))) == ["x-2"]


def test_after() -> None:
    assert listing.after("a") == "b"
    assert listing.after("a\U0010ffff") == "b"
    assert listing.after("\ud7ff") == "\ue000"
    assert listing.after("\U0010ffff") is None
    assert listing.after("") is None
