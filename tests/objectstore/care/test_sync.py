"""Container sync between two clusters, and files that move while partitions are doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from altostack.objectstore import sync
from altostack.objectstore.care.drives import audit_drives, examine, kernel_complaints
from altostack.objectstore.care.settings import CareSettings
from altostack.objectstore.care.shard import Shards
from altostack.objectstore.care.sync import Sender
from altostack.objectstore.http import Refusal
from altostack.objectstore.ledger import shards
from tests.objectstore.care.cluster import FAST, Cluster
from tests.objectstore.care.test_lists import Time, shard
from tests.objectstore.world import World, world


class Two:
    """A cluster that sends and one that receives."""

    def __init__(
        self,
        folder: Path,
        pipeline: str = "container_sync service",
        *,
        clock: Time | None = None,
        care: CareSettings = FAST,
        **options: dict[str, str],
    ) -> None:
        time = {} if clock is None else {"nanoseconds": clock}
        (folder / "there").mkdir()
        (folder / "here").mkdir()
        write_realms(folder / "there", "http://127.0.0.1:1")  # it needs to know the key alone
        self.there: World = world(folder / "there", pipeline="container_sync service", **time)
        write_realms(folder / "here", self.there.serve())
        self.here = Cluster(folder / "here", pipeline=pipeline, options=options, care=care, **time)
        keys = {"x_container_sync_key": "of the owner"}
        assert self.there.put("/v1/b/copy", **keys).status == 201
        to = self.here.w.put("/v1/a/c", x_container_sync_to="//shared/there/b/copy", **keys)
        assert to.status == 201
        self.sender = Sender(self.here.care)

    def send(self) -> dict[str, int]:
        did: dict[str, int] = {}
        for name in self.here.names:
            for what, number in self.sender.run(name).did.items():
                did[what] = did.get(what, 0) + number
        self.trouble = [text for one in self.here.care.reports.all() for text in one.trouble]
        return did


def write_realms(folder: Path, url: str) -> None:
    (folder / sync.FILE).write_text(f"[shared]\nkey = of the realm\ncluster_there = {url}/v1\n")


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def test_changes_arrive_with_their_times(two: Two) -> None:
    for number in range(6):
        two.here.w.put(
            f"/v1/a/c/o {number}", b"%d" % number * 70_000, x_object_meta_n=str(number), content_type="x/y"
        )
    assert two.send() == {"containers": 3, "sent": 6}, two.trouble
    for number in range(6):
        got = two.there.get(f"/v1/b/copy/o {number}")
        assert got.read() == b"%d" % number * 70_000
        assert (got.headers["x-object-meta-n"], got.headers["content-type"]) == (str(number), "x/y")
        mine = two.here.w.head(f"/v1/a/c/o {number}")
        assert got.headers["x-timestamp"] == mine.headers["x-timestamp"]
    two.here.w.delete("/v1/a/c/o 3")
    assert two.send() == {"containers": 3, "sent": 1}
    assert two.there.get("/v1/b/copy/o 3").status == 404
    assert two.send() == {"containers": 3}


def test_what_is_encrypted_here_is_sent_in_plain(tmp_path: Path) -> None:
    secret = {"encryption_root_secret": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldCE="}
    two = Two(tmp_path, "container_sync encryption service", encryption=secret)
    two.here.w.put("/v1/a/c/o", b"plain", x_object_meta_n="1")
    assert two.send()["sent"] == 1, two.trouble
    got = two.there.get("/v1/b/copy/o")
    assert (got.read(), got.headers["x-object-meta-n"]) == (b"plain", "1")


def test_a_sender_without_the_secret_does_not_send_what_it_cannot_read(tmp_path: Path) -> None:
    secret = {"encryption_root_secret": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldCE="}
    two = Two(tmp_path, "container_sync encryption service", encryption=secret)
    two.here.w.put("/v1/a/c/o", b"plain")
    two.here.w.store.handlers.clear()  # as on a storage node, which has no pipeline
    two.sender = Sender(two.here.care)
    assert "sent" not in two.send()
    assert two.trouble
    assert two.there.get("/v1/b/copy/o").status == 404


def test_what_cannot_be_sent_is_sent_later(two: Two) -> None:
    two.here.w.put("/v1/a/c/o", b"x")
    for server in two.there.servers:
        server.stop(1.0)
    two.sender = Sender(two.here.care, patience=0.3)
    did = two.send()
    assert did["failed"] >= 1
    assert "sent" not in did
    write_realms(two.here.folder, two.there.serve())
    two.sender = Sender(two.here.care)
    assert two.send()["sent"] == 1
    assert two.there.get("/v1/b/copy/o").read() == b"x"


def test_a_wrong_key_is_no_way_in(two: Two) -> None:
    two.here.w.put("/v1/a/c/o", b"x")
    assert two.there.post("/v1/b/copy", x_container_sync_key="another").status == 204
    assert "sent" not in two.send()
    assert two.there.get("/v1/b/copy/o").status == 404


def test_a_container_that_is_split_and_joined_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time()
    two = Two(tmp_path, clock=clock, care=CareSettings(shard_rows=40))
    here, there = two.here.w, two.there
    names = [f"o{number:03d}" for number in range(100)]
    for name in names[:60]:
        here.put(f"/v1/a/c/{name}", name.encode())
    assert two.send()["sent"] == 60, two.trouble
    for name in names[60:]:
        here.put(f"/v1/a/c/{name}", name.encode())
    daemon = Shards(two.here.care)

    def pass_by(rounds: int) -> None:
        for _ in range(rounds):
            clock.sleep(60)
            shard(two.here, daemon, 1)

    def listed() -> list[str]:
        return [entry["name"] for entry in there.get("/v1/b/copy").entries or ()]

    pass_by(6)
    home = two.here.care.homes("a", "c")[0]
    bounds = [one.name for one in home.node.list(home.spot, "a", "c", shards.map_query())]
    assert len(bounds) > 1
    assert two.send()["sent"] == 40, two.trouble  # and not again what was sent before
    assert listed() == names
    assert there.get("/v1/b/copy/o077").read() == b"o077"
    assert "sent" not in two.send()

    here.put("/v1/a/c/o001", b"changed")
    here.delete("/v1/a/c/o050")
    here.put("/v1/a/c/o999", b"new")
    assert two.send()["sent"] == 3, two.trouble
    assert there.get("/v1/b/copy/o001").read() == b"changed"
    assert listed() == [*(name for name in names if name != "o050"), "o999"]

    def silent(account: str, container: str) -> None:
        raise Refusal(503)

    with monkeypatch.context() as patch:
        patch.setattr(here.store.known, "container", silent)
        two.send()  # what a root says is not known: that is told, and other containers have their turn
        assert any("no copy of a/c answers" in text for text in two.trouble), two.trouble

    # Ranges that are given up are named like objects, which stay.
    kept = {*bounds, *names[:2]} - {"", "o050"}
    for name in names:
        if name not in kept and name != "o050":
            here.delete(f"/v1/a/c/{name}")
    pass_by(16)
    assert home.node.info(home.spot, "a", "c").shards <= 1
    two.send()
    assert listed() == sorted([*kept, "o999"])


# ---- drives


def test_a_drive_that_fails_is_reported(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    assert audit_drives(cluster.care).trouble == []
    (cluster.path("d2") / "tmp").mkdir(exist_ok=True)
    (cluster.path("d2") / "tmp").rmdir()
    (cluster.path("d2") / "tmp").write_text("no folder")
    tally = audit_drives(cluster.care)
    assert len(tally.trouble) == 1
    assert tally.trouble[0].startswith("d2:")
    assert examine(tmp_path, {}, True).why == "not mounted"


def test_the_kernels_complaints_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    now = 9_000 * 10**6  # microseconds
    log.write_text(
        f"3,1,{now},-;blk_update_request: I/O error, dev sdb, sector 5\n"
        f"3,2,{now},-;Buffer I/O error on dev sdb1, logical block 0\n"
        "3,3,1,-;blk_update_request: I/O error, dev sdc, sector 5\n"
        f"6,4,{now},-;sdb: all is well\n"
    )
    assert kernel_complaints(log, 9_001.0) == {"sdb": 1, "sdb1": 1}
    assert kernel_complaints(tmp_path / "none") == {}
