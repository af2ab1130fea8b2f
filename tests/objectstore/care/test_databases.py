"""Copies of account and container databases: kept alike, given home, counted, delivered to."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from altostack.objectstore.care.audit import audit_databases
from altostack.objectstore.care.databases import Databases
from altostack.objectstore.care.deliver import Numbers, deliver
from altostack.objectstore.stamp import of_ns
from altostack.objectstore.storage import Kind, Row
from tests.objectstore.care.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    assert made.w.put("/v1/a/c", x_container_meta_color="red").status == 201
    return made


def passes(cluster: Cluster, rounds: int = 2) -> dict[str, int]:
    did: dict[str, int] = {}
    databases = Databases(cluster.care)
    for _ in range(rounds):
        for name in cluster.names:
            for what, number in databases.run(name).did.items():
                did[what] = did.get(what, 0) + number
    return did


def marks(cluster: Cluster, account: str, container: str | None) -> set[str]:
    """What the copies' sums are; one when all are alike."""
    kind: Kind = "account" if container is None else "container"
    known = [
        cluster.care.near.books.known(home.spot, kind) for home in cluster.care.homes(account, container)
    ]
    return {"none" if one is None else one.sum for one in known}


def lose(cluster: Cluster, device: str) -> None:
    for kind in ("accounts", "containers"):
        shutil.rmtree(cluster.path(device) / kind, ignore_errors=True)


def test_copies_that_missed_lines_get_them(cluster: Cluster) -> None:
    away = cluster.care.homes("a", "c")[0].spot.device
    cluster.take_away(away)
    for number in range(20):
        assert cluster.w.put(f"/v1/a/c/o{number}", b"x").status == 201
    cluster.w.post("/v1/a/c", x_container_meta_color="blue")
    cluster.bring_back(away)
    assert len(marks(cluster, "a", "c")) > 1
    passes(cluster)
    assert len(marks(cluster, "a", "c")) == 1
    home = cluster.care.homes("a", "c")[0]
    info = home.node.info(home.spot, "a", "c")
    assert (info.count, info.metadata["x-container-meta-color"][0]) == (20, "blue")


def test_a_lost_copy_comes_back_as_a_whole(cluster: Cluster) -> None:
    for number in range(20):
        cluster.w.put(f"/v1/a/c/o{number}", b"x")
    lose(cluster, cluster.care.homes("a", "c")[1].spot.device)
    passes(cluster)
    assert len(marks(cluster, "a", "c")) == 1
    assert "none" not in marks(cluster, "a", "c")
    assert len(marks(cluster, "a", None)) == 1


def test_nothing_to_do_is_nothing(cluster: Cluster) -> None:
    cluster.w.put("/v1/a/c/o", b"x")
    passes(cluster)
    databases = Databases(cluster.care)
    for name in cluster.names:
        databases.run(name)
    for name in cluster.names:
        assert "pushed" not in databases.run(name).did


def test_a_handoffs_database_goes_home(cluster: Cluster) -> None:
    away = cluster.care.homes("a", "new")[0].spot.device
    cluster.take_away(away)
    assert cluster.w.put("/v1/a/new").status == 201
    spare = (set(cluster.names) - {home.spot.device for home in cluster.care.homes("a", "new")}).pop()
    part = cluster.care.homes("a", "new")[0].spot.part
    assert (cluster.path(spare) / "containers" / str(part)).exists()
    passes(cluster)
    assert (cluster.path(spare) / "containers" / str(part)).exists(), "it was given up too early"
    cluster.bring_back(away)
    passes(cluster)
    assert not (cluster.path(spare) / "containers" / str(part)).exists()
    assert len(marks(cluster, "a", "new")) == 1


def test_updates_that_waited_are_delivered(cluster: Cluster) -> None:
    homes = cluster.care.homes("a", "c")
    aways = [home.spot.device for home in homes]
    path = next(
        f"/v1/a/c/o{n}" for n in range(1000) if cluster.home(f"/v1/a/c/o{n}").count(aways[0]) == 0
    )  # so that the copies' devices are all there
    cluster.take_away(aways[0])
    assert cluster.w.put(path, b"xyz").status == 201
    cluster.bring_back(aways[0])
    first = homes[0]
    assert first.node.info(first.spot, "a", "c").count == 0
    did = {"delivered": 0, "waiting": 0}
    for name in cluster.names:
        for what, number in deliver(cluster.care, name).did.items():
            did[what] = did.get(what, 0) + number
    assert did == {"delivered": 1, "waiting": 0}
    assert first.node.info(first.spot, "a", "c").count == 1


def test_accounts_hear_what_their_containers_count(cluster: Cluster) -> None:
    home = cluster.care.homes("a", "c")[0]
    for one in cluster.care.homes("a", "c"):
        one.node.record(one.spot, "a", "c", [Row(name="o", timestamp=cluster.w.store.clock.now(), size=5)])
    numbers = Numbers(cluster.care)
    told = [numbers.run(name).did.get("told", 0) for name in cluster.names]
    assert sum(told) == 3
    for account in cluster.care.homes("a"):
        info = account.node.info(account.spot, "a", None)
        assert (info.count, info.bytes, info.containers) == (1, 5, 1)
    assert [numbers.run(name).did.get("told", 0) for name in cluster.names] == [0, 0, 0, 0]
    assert home.node.info(home.spot, "a", "c").count == 1


def test_what_a_clock_that_is_ahead_told_is_put_right(cluster: Cluster) -> None:
    for one in cluster.care.homes("a", "c"):
        one.node.record(one.spot, "a", "c", [Row(name="o", timestamp=cluster.w.store.clock.now(), size=5)])
    ahead = of_ns(time.time_ns() + 100 * 10**9)
    wrong = Row(name="c", timestamp=of_ns(0), count=7, size=70, meta_timestamp=ahead)
    for account in cluster.care.homes("a"):
        account.node.record(account.spot, "a", None, [wrong])
    numbers = Numbers(cluster.care)
    for _ in range(2):
        for name in cluster.names:
            numbers.run(name)
    for account in cluster.care.homes("a"):
        info = account.node.info(account.spot, "a", None)
        assert (info.count, info.bytes) == (1, 5)


def test_a_database_that_was_forgotten_is_not_sent_again(tmp_path: Path) -> None:
    now = [time.time_ns()]
    cluster = Cluster(tmp_path, nanoseconds=lambda: now[0])
    cluster.w.put("/v1/a/c")
    assert cluster.w.delete("/v1/a/c").status == 204
    passes(cluster)
    now[0] += int((cluster.w.store.settings.reclaim_age + 10) * 1e9)
    homes = cluster.care.homes("a", "c")
    first = homes[0].spot.device
    assert audit_databases(cluster.care, first).did["reclaimed"] == 1
    passes(cluster)  # what accounts still know of it may be told
    assert "none" in marks(cluster, "a", "c")
    for name in cluster.names:
        audit_databases(cluster.care, name)
    assert marks(cluster, "a", "c") == {"none"}
