"""The auditors: what is damaged is set aside and made anew; what nobody needs is cleared away."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from altostack.objectstore.care.audit import Auditor, Mode, audit_databases
from altostack.objectstore.care.databases import Databases
from altostack.objectstore.care.loops import loops
from altostack.objectstore.care.settings import CareSettings
from altostack.objectstore.storage import Kind
from tests.objectstore.care.cluster import Cluster

PATH = "/v1/a/c/o"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    assert made.w.put("/v1/a/c").status == 201
    return made


def data_of(cluster: Cluster, device: str) -> Path:
    return next(path for path in cluster.folder_of(device, PATH).iterdir() if path.suffix == ".data")


def audit(cluster: Cluster, mode: Mode) -> dict[str, int]:
    did: dict[str, int] = {}
    for name in cluster.names:
        for what, number in Auditor(cluster.care, name, mode).run().did.items():
            did[what] = did.get(what, 0) + number
    return did


@pytest.mark.parametrize("size", [1, 500, 100_000])
def test_a_flipped_bit_is_found_and_the_copy_made_anew(cluster: Cluster, size: int) -> None:
    body = os.urandom(size)
    cluster.w.put(PATH, body)
    alarms: list[int] = []
    cluster.care.alarms.append(lambda: alarms.append(1))
    data = data_of(cluster, cluster.home(PATH)[1])
    with data.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes([body[size // 2] ^ 16]))
    assert audit(cluster, "full")["quarantined"] == 1
    assert alarms
    assert not data.exists()
    cluster.replicate()
    assert data.read_bytes() == body
    assert "quarantined" not in audit(cluster, "full")


def test_the_quick_pass_sees_cut_off_files(cluster: Cluster) -> None:
    cluster.w.put(PATH, b"x" * 1000)
    cluster.w.put("/v1/a/c/empty", b"")
    data = data_of(cluster, cluster.home(PATH)[0])
    os.truncate(data, 0)
    assert audit(cluster, "quick")["quarantined"] == 1
    cluster.replicate()
    assert data.stat().st_size == 1000


def test_a_file_that_belongs_elsewhere_is_found(cluster: Cluster) -> None:
    cluster.w.put(PATH, b"x")
    data = data_of(cluster, cluster.home(PATH)[0])
    wrong = data.parents[1] / ("0" * 29 + data.parent.name[-3:])
    data.parent.rename(wrong)
    assert audit(cluster, "quick")["quarantined"] == 1


def test_old_deletions_and_leftovers_are_cleared_away(tmp_path: Path) -> None:
    now = [time.time_ns()]
    cluster = Cluster(tmp_path, nanoseconds=lambda: now[0])
    cluster.w.put("/v1/a/c")
    cluster.w.put(PATH, b"x")
    cluster.w.delete(PATH)
    left = cluster.path("d1") / "tmp" / "left-behind"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    assert audit(cluster, "quick") == {"objects": 3, "swept": 1}
    now[0] += int((cluster.w.store.settings.reclaim_age + 10) * 1e9)
    assert audit(cluster, "quick")["reclaimed"] == 3
    cluster.replicate()
    assert not any(cluster.every().values())
    assert not left.exists()


def test_a_pass_goes_on_where_it_was_stopped(cluster: Cluster) -> None:
    for number in range(20):
        cluster.w.put(f"/v1/a/c/o{number}", b"x")
    first = Auditor(cluster.care, "d1", "full", budget=-1.0).run()
    assert not first.whole
    seen = 0
    for _ in range(3):
        cluster.care.reports.keep(".audit-full-d1", [0, 20])
        seen = Auditor(cluster.care, "d1", "full").run().did.get("objects", 0)
    assert 0 < seen < len(cluster.files("d1"))
    assert Auditor(cluster.care, "d1", "full").run().did["objects"] == len(cluster.files("d1"))


def test_damage_of_databases_is_found_and_they_come_back(cluster: Cluster) -> None:
    for number in range(300):
        cluster.w.put(f"/v1/a/c/object-{number:04d}", b"x", content_type="text/x-unlikely")
    home = cluster.care.homes("a", "c")[1]
    assert home.node.info(home.spot, "a", "c").count == 300  # all lines are in the file
    path = cluster.care.local.ledgers.folder(home.spot, "container") / f"{home.spot.digest}.db"
    cluster.care.local.ledgers.close()
    sql = sqlite3.connect(path)
    sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sql.close()
    content = path.read_bytes()
    at = content.rindex(b"text/x-unlikely")
    with path.open("r+b") as file:  # SQLite itself cannot see this
        file.seek(at)
        file.write(b"t")
        file.seek(at + 5)
        file.write(b"y")
    tally = audit_databases(cluster.care, home.spot.device)
    assert tally.did["quarantined"] == 1
    databases = Databases(cluster.care)
    for name in cluster.names:
        databases.run(name)
    kind: Kind = "container"
    sums = {cluster.care.near.books.known(one.spot, kind) for one in cluster.care.homes("a", "c")}
    assert len({one.sum for one in sums if one is not None}) == 1
    assert None not in sums
    for name in cluster.names:
        assert "quarantined" not in audit_databases(cluster.care, name).did


def test_the_loops_do_it_all(cluster: Cluster) -> None:
    cluster.w.put(PATH, b"x" * 1000)
    data = data_of(cluster, cluster.home(PATH)[0])
    with data.open("r+b") as file:
        file.write(b"y")
    fast = CareSettings(audit_files=0, audit_bytes=0, audit_zero_files=0, audit_databases=0)
    made = {loop.name: loop for loop in loops(cluster.w.store, settings=fast)}
    for name in ("object-audit-full", "object-replicate"):
        made[name].once()
    assert data.read_bytes() == b"x" * 1000
    for loop in made.values():
        loop.once()
    reports = {one.daemon for one in cluster.care.reports.all()}
    assert reports >= {
        "replicate",
        "databases",
        "deliver",
        "numbers",
        "audit-quick",
        "expire",
        "drives",
        "reap",
        "shard",
    }
    assert all(not one.trouble for one in cluster.care.reports.all()), cluster.care.reports.all()
