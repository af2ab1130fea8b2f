"""What is remembered of accounts and containers, and for how long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.objectstore.http import Refusal
from tests.objectstore.proxy.scene import Faulty, faulty, single
from tests.objectstore.world import World, run_together


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    made = single(tmp_path)
    made.put("/v1/a/c", x_container_meta_color="red")
    yield made
    made.close()


def asked(node: Faulty) -> int:
    found = sum(call == "info" for call, _ in node.asked)
    node.asked.clear()
    return found


def test_looked_up_once_while_nothing_changes(one: World) -> None:
    node = faulty(one)
    for _ in range(3):
        info = one.store.known.container("a", "c")
        assert info is not None
        assert info.metadata["x-container-meta-color"][0] == "red"
        assert one.store.known.container("a", "none") is None
    assert asked(node) == 3  # the account, and either container
    one.post("/v1/a/c", x_container_meta_color="blue")
    asked(node)
    info = one.store.known.container("a", "c")
    assert info is not None
    assert info.metadata["x-container-meta-color"][0] == "blue"
    assert asked(node) == 2


def test_another_process_of_the_machine_changes_it(one: World, tmp_path: Path) -> None:
    other = single(tmp_path)
    assert one.store.known.container("a", "d") is None
    assert other.put("/v1/a/d").status == 201
    assert one.store.known.container("a", "d") is not None
    other.delete("/v1/a/d")
    assert one.store.known.container("a", "d") is None
    assert one.put("/v1/a/d/o", b"x").status == 404
    other.close()


def test_it_is_looked_up_again_after_a_while(one: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node = faulty(one)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    one.store.known.container("a", "c")
    asked(node)
    one.store.known.container("a", "c")
    assert asked(node) == 0
    now += 6
    one.store.known.container("a", "c")
    assert asked(node) == 2


def test_no_answer_is_not_remembered(one: World) -> None:
    node = faulty(one, lists=True)
    one.store.epoch.bump()
    node.gone = {"d1"}
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            one.store.known.container("a", "c")
        assert refused.value.status == 503
    node.gone = set()
    assert one.store.known.container("a", "c") is not None


def test_many_at_once(one: World) -> None:
    """Whatever happens at the same time, the list says what is there in the end, and every read is whole."""
    bodies = {bytes([65 + number]) * (5_000 + number) for number in range(8)}

    def work(number: int) -> None:
        body = bytes([65 + number]) * (5_000 + number)
        for turn in range(12):
            name = f"/v1/a/c/o{turn % 4}"
            assert one.put(name, body).status in (201, 202)
            got = one.get(name)
            if got.status == 200:
                assert got.read() in bodies
            if turn % 3 == 2:
                assert one.delete(name).status in (204, 404, 409)

    run_together(8, work)
    listed = {entry["name"]: entry["hash"] for entry in one.get("/v1/a/c").entries or []}
    there = {}
    for number in range(4):
        head = one.head(f"/v1/a/c/o{number}")
        if head.status == 200:
            there[f"o{number}"] = head.headers["etag"]
    assert listed == there
    counts = one.head("/v1/a").headers
    assert counts["x-account-object-count"] == str(len(there))


def test_only_one_of_many_makes_what_is_not_there(one: World) -> None:
    for turn in range(10):
        codes: list[int] = []

        def work(number: int, turn: int = turn, codes: list[int] = codes) -> None:
            made = one.put(f"/v1/a/c/only{turn}", str(number).encode(), if_none_match="*")
            codes.append(made.status)

        run_together(6, work)
        assert sorted(codes) == [201, 412, 412, 412, 412, 412]


def test_nobody_changes_what_somebody_else_changed(one: World) -> None:
    """Adding one to a number with If-Match loses no addition."""
    one.put("/v1/a/c/number", b"0")
    done: list[int] = []

    def work(number: int) -> None:
        for _ in range(6):
            while True:
                seen = one.get("/v1/a/c/number")
                made = one.put(
                    "/v1/a/c/number", str(int(seen.read()) + 1).encode(), if_match=seen.headers["etag"]
                )
                if made.status == 201:
                    done.append(number)
                    break
                assert made.status == 412

    run_together(4, work)
    assert len(done) == 24
    assert one.get("/v1/a/c/number").read() == b"24"
