"""Expiry, the account reaper and the sharder: what changes lists."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from altostack.objectstore.care import queue
from altostack.objectstore.care.databases import Databases
from altostack.objectstore.care.deliver import Numbers, deliver
from altostack.objectstore.care.expire import Expirer
from altostack.objectstore.care.reap import reap
from altostack.objectstore.care.settings import CareSettings
from altostack.objectstore.care.shard import Shards
from altostack.objectstore.http import Request
from altostack.objectstore.proxy.backend import RESELLER
from altostack.objectstore.storage import Missing
from tests.objectstore.care.cluster import Cluster


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = time.time_ns()

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


@pytest.fixture
def clock() -> Time:
    return Time()


def make(tmp_path: Path, clock: Time, **care: float) -> Cluster:
    made = Cluster(tmp_path, nanoseconds=clock, care=CareSettings(**care))  # type: ignore[arg-type] # numbers
    assert made.w.put("/v1/a/c").status == 201
    return made


def delivered(cluster: Cluster) -> None:
    for name in cluster.names:
        deliver(cluster.care, name)


# ---- expiry


def test_what_has_expired_is_deleted(tmp_path: Path, clock: Time) -> None:
    cluster = make(tmp_path, clock)
    assert cluster.w.put("/v1/a/c/soon", b"x", x_delete_after="60").status == 201
    assert cluster.w.put("/v1/a/c/later", b"x", x_delete_after="6000").status == 201
    delivered(cluster)
    expirer = Expirer(cluster.care)
    assert "deleted" not in expirer.run().did
    clock.sleep(61)
    assert expirer.run().did["deleted"] == 1
    assert all(not cluster.holds(device, "/v1/a/c/soon") for device in cluster.home("/v1/a/c/soon"))
    assert [one["name"] for one in cluster.w.get("/v1/a/c").entries or ()] == ["later"]
    assert expirer.run().did == {}
    assert cluster.w.get("/v1/a/c/later").status == 200


def test_what_was_written_anew_stays(tmp_path: Path, clock: Time) -> None:
    cluster = make(tmp_path, clock)
    cluster.w.put("/v1/a/c/o", b"old", x_delete_after="60")
    cluster.w.put("/v1/a/c/p", b"old", x_delete_after="60")
    cluster.w.put("/v1/a/c/o", b"new")
    assert cluster.w.post("/v1/a/c/p", x_delete_after="6000").status == 202
    delivered(cluster)
    clock.sleep(61)
    expirer = Expirer(cluster.care)
    assert "deleted" not in expirer.run().did
    assert cluster.w.get("/v1/a/c/o").read() == b"new"
    assert cluster.w.get("/v1/a/c/p").status == 200
    clock.sleep(6000)
    assert expirer.run().did["deleted"] == 1
    assert cluster.w.get("/v1/a/c/p").status == 404


def test_an_object_that_was_written_after_its_expiry_stays(tmp_path: Path, clock: Time) -> None:
    cluster = make(tmp_path, clock)
    cluster.w.put("/v1/a/c/o", b"old", x_delete_after="60")
    delivered(cluster)
    clock.sleep(61)
    cluster.w.put("/v1/a/c/o", b"new")
    Expirer(cluster.care).run()
    assert cluster.w.get("/v1/a/c/o").read() == b"new"


def test_an_empty_day_of_the_queue_goes(tmp_path: Path, clock: Time) -> None:
    cluster = make(tmp_path, clock)
    cluster.w.put("/v1/a/c/o", b"x", x_delete_after="60")
    delivered(cluster)
    clock.sleep(61)
    expirer = Expirer(cluster.care)
    expirer.run()
    assert cluster.w.get(f"/v1/{queue.ACCOUNT}").entries
    clock.sleep(3 * 86400)
    expirer.run()
    assert cluster.w.get(f"/v1/{queue.ACCOUNT}").entries == []


# ---- reaping


def test_a_deleted_account_is_emptied(tmp_path: Path, clock: Time) -> None:
    cluster = make(tmp_path, clock, reap_delay=3600.0)
    for container in ("c", "d"):
        cluster.w.put(f"/v1/a/{container}")
        for number in range(5):
            cluster.w.put(f"/v1/a/{container}/o{number}", b"x")
    cluster.w.put("/v1/b/kept")
    cluster.w.put("/v1/b/kept/o", b"x")
    request = Request("DELETE", "/v1/a")
    request.facts[RESELLER] = True
    assert cluster.w.store.app is not None
    assert cluster.w.store.app(request).status == 204
    for name in cluster.names:
        assert "objects" not in reap(cluster.care, name).did, "the delay is not over"
    clock.sleep(3601)
    done = sum(reap(cluster.care, name).did.get("objects", 0) for name in cluster.names)
    assert done == 10
    for container in ("c", "d"):
        for number in range(5):
            path = f"/v1/a/{container}/o{number}"
            assert all(not cluster.holds(device, path) for device in cluster.home(path))
        for home in cluster.care.homes("a", container):
            with pytest.raises(Missing):
                home.node.info(home.spot, "a", container)
    for home in cluster.care.homes("a"):
        assert cluster.care.local.ledgers.facts(home.spot, "account").containers == 0
    assert cluster.w.get("/v1/b/kept/o").read() == b"x"
    for name in cluster.names:
        assert "objects" not in reap(cluster.care, name).did


# ---- sharding


def names_of(cluster: Cluster, **query: str) -> list[str]:
    found: list[str] = []
    while True:
        page = cluster.w.get(
            "/v1/a/c", query={"limit": "173", "marker": found[-1] if found else "", **query}
        ).entries
        if not page:
            return found
        found += [one["name"] for one in page]


def shard(cluster: Cluster, daemon: Shards, rounds: int) -> dict[str, int]:
    did: dict[str, int] = {}
    for _ in range(rounds):
        for name in cluster.names:
            for what, number in daemon.run(name).did.items():
                did[what] = did.get(what, 0) + number
    return did


def test_a_large_container_is_split_and_listed_as_before(tmp_path: Path, clock: Time) -> None:
    cluster = make(tmp_path, clock, shard_rows=200)
    wanted = sorted(f"dir{n % 7}/object-{n:05d}" for n in range(600))
    for name in wanted:
        assert cluster.w.put(f"/v1/a/c/{name}", b"12").status == 201
    assert names_of(cluster) == wanted
    daemon = Shards(cluster.care)
    for step in range(8):
        clock.sleep(60)
        shard(cluster, daemon, 1)
        assert names_of(cluster) == wanted, f"after round {step}"
        extra = f"dir3/new-{step}"
        assert cluster.w.put(f"/v1/a/c/{extra}", b"12").status == 201
        assert cluster.w.delete(f"/v1/a/c/{wanted[step * 7]}").status == 204
        wanted.remove(wanted[step * 7])
        wanted = sorted([*wanted, extra])
        assert names_of(cluster) == wanted, f"after writing in round {step}"
    info = cluster.care.homes("a", "c")[0]
    assert info.node.info(info.spot, "a", "c").shards > 1
    assert sorted(names_of(cluster, prefix="dir3/")) == [name for name in wanted if name.startswith("dir3/")]
    databases, numbers = Databases(cluster.care), Numbers(cluster.care)
    for _ in range(3):
        clock.sleep(60)
        shard(cluster, daemon, 1)
        for name in cluster.names:
            databases.run(name)
            numbers.run(name)
    head = cluster.w.head("/v1/a/c")
    assert int(head.headers["x-container-object-count"]) == len(wanted)
    assert int(head.headers["x-container-bytes-used"]) == 2 * len(wanted)
    assert int(cluster.w.head("/v1/a").headers["x-account-object-count"]) == len(wanted)


def test_shards_of_a_container_that_was_emptied_are_given_up(tmp_path: Path, clock: Time) -> None:
    cluster = make(tmp_path, clock, shard_rows=50)
    names = [f"o{n:03d}" for n in range(120)]
    for name in names:
        cluster.w.put(f"/v1/a/c/{name}", b"1")
    daemon = Shards(cluster.care)
    for _ in range(4):
        clock.sleep(60)
        shard(cluster, daemon, 1)
    for name in names[5:]:
        assert cluster.w.delete(f"/v1/a/c/{name}").status == 204
    assert names_of(cluster) == names[:5]
    for _ in range(16):
        clock.sleep(60)
        shard(cluster, daemon, 1)
        assert names_of(cluster) == names[:5]
    home = cluster.care.homes("a", "c")[0]
    assert home.node.info(home.spot, "a", "c").shards <= 1


def test_small_containers_cost_nothing_the_second_time(tmp_path: Path, clock: Time) -> None:
    cluster = make(tmp_path, clock, shard_rows=200)
    cluster.w.put("/v1/a/c/o", b"1")
    daemon = Shards(cluster.care)
    assert shard(cluster, daemon, 2) == {"containers": 6}
