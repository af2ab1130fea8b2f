"""Containers split, grow, shrink and come back together, and nothing is lost whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from altostack.objectstore.config import Settings
from altostack.objectstore.ledger import shards
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.ledger.replicate import Replication
from altostack.objectstore.ledger.sharder import Done, Sharder, root_of
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import (
    Dated,
    DeviceGone,
    Missing,
    NotEmpty,
    Query,
    Row,
    Spot,
    Subdir,
)
from tests.objectstore.ledger.conftest import row
from tests.objectstore.ledger.test_replicate import Far

DEVICES = ("d1", "d2", "d3")


class Cluster:
    """Three devices with a copy of everything on each. down: those that do not answer."""

    def __init__(self, folder: Path, split: int = 40) -> None:
        for device in DEVICES:
            (folder / device).mkdir()
        self.clock = Clock()
        self.ledgers = Ledgers(folder, Settings(), clock=self.clock)
        self.replication = Replication(self.ledgers)
        self.sharder = Sharder(self.ledgers, self, split=split)
        self.down: set[str] = set()
        self.fail_at = 0  # the number of a call of `record` that fails, to be cut off in the middle
        self.create("a", "c", 0, {})

    # ---- what the sharder asks for

    def create(self, account: str, container: str, policy: int, metadata: Dated) -> None:
        for where in self.spots(account, container):
            self.ledgers.create(where, account, container, self.clock.now(), policy=policy, metadata=metadata)

    def record(self, account: str, container: str, rows: Sequence[Row]) -> None:
        if self.fail_at:
            self.fail_at -= 1
            if not self.fail_at:
                raise DeviceGone("cut off")
        for where in self.spots(account, container):
            self.ledgers.record(where, account, container, rows)

    def list(self, account: str, container: str, query: Query) -> Sequence[Row | Subdir] | None:
        try:
            return self.ledgers.list(self.spots(account, container)[0], account, container, query)
        except Missing:
            return None

    def destroy(self, account: str, container: str) -> None:
        for where in self.spots(account, container):
            try:
                self.ledgers.destroy(where, account, container, self.clock.now())
            except NotEmpty:
                continue

    # ---- what the tests do

    def spots(self, account: str, container: str) -> list[Spot]:
        digest = hashlib.md5(f"{account}/{container}".encode(), usedforsecurity=False).hexdigest()
        return [Spot(device, 1, digest) for device in DEVICES if device not in self.down]

    def put(self, *names: str, deleted: bool = False, stale: Sequence[shards.Range] | None = None) -> None:
        """As the proxy: to the root or, by the map (an old one perhaps), to the shard."""
        known = self.map() if stale is None else stale
        for name in names:
            line = Row(name=name, timestamp=self.clock.now(), size=0 if deleted else 3, deleted=deleted)
            one = shards.owner(known, name)
            if one is None:
                self.record("a", "c", [line])
            else:
                self.record(shards.hidden("a"), one.container, [line])

    def map(self) -> list[shards.Range]:
        return shards.ranges(self.list("a", "c", shards.map_query()) or [])

    def names(self, **query: object) -> list[str]:
        """The listing that a client gets."""
        asked = Query(**query)  # type: ignore[arg-type] # fields of Query
        known = self.map()
        if not known:
            page = list(self.list("a", "c", asked) or [])
        else:
            page = shards.page(
                asked, known, lambda container, query: self.list(shards.hidden("a"), container, query) or []
            )
        return [one.name for one in page]

    def all(self) -> Iterator[Spot]:
        for device in DEVICES:
            if device not in self.down:
                yield from self.replication.walk(device, "container")

    def tend(self) -> list[Done]:
        """A look at every copy; the first device's copies lead."""
        leader = next(device for device in DEVICES if device not in self.down)
        return [self.sharder.tend(where, leads=where.device == leader) for where in self.all()]

    def settle(self) -> None:
        """Look until there is nothing to do."""
        for _ in range(30):
            before = [self.replication.state(where, "container") for where in self.all()]
            self.tend()
            if before == [self.replication.state(where, "container") for where in self.all()]:
                return
        raise AssertionError("it does not settle")

    def replicate(self) -> None:
        for where in list(self.all()):
            for device in DEVICES:
                if device != where.device and device not in self.down:
                    there = Spot(device, where.part, where.digest)
                    self.replication.push(where, "container", Far(self.replication, there))

    def states(self) -> set[str]:
        return {self.ledgers.facts(where).state for where in self.spots("a", "c")}

    def live_shards(self) -> list[str]:
        infos = [self.ledgers.facts(where) for where in self.all() if where.device == DEVICES[0]]
        return [one.container or "" for one in infos if one.account == ".shards_a" and not one.gone]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "devices").mkdir()
    made = Cluster(tmp_path / "devices")
    yield made
    made.ledgers.close()


def numbered(*which: int) -> list[str]:
    return [f"{number:04}" for number in which]


def test_small_containers_are_left_alone(cluster: Cluster) -> None:
    cluster.put(*numbered(*range(40)))
    assert all(one == Done() for one in cluster.tend())
    assert cluster.states() == {"unsharded"}


def test_split(cluster: Cluster) -> None:
    wanted = numbered(*range(100))
    cluster.put(*wanted)
    done = cluster.tend()
    assert sum(one.activated for one in done) == 5
    assert cluster.names() == wanted  # at once, before anything was taken from the root
    cluster.settle()
    assert cluster.states() == {"sharded"}
    assert cluster.names() == wanted
    assert cluster.names(reverse=True, limit=30) == wanted[:69:-1]
    for where in cluster.spots("a", "c"):
        assert cluster.ledgers.list(where, "a", "c", Query()) == []
        info = cluster.ledgers.info(where, "a", "c")
        assert (info.shards, info.count, info.bytes) == (5, 100, 300)
        row_ = cluster.ledgers.account_row(where, "a", "c")
        assert (row_.count, row_.size) == (100, 300)
    for one in cluster.map():
        for where in cluster.spots(".shards_a", one.container):
            info = cluster.ledgers.info(where, ".shards_a", one.container)
            assert info.count == 20 and root_of(info) == ("a", "c")


def test_new_objects_go_to_shards_and_are_counted(cluster: Cluster) -> None:
    cluster.put(*numbered(*range(100)))
    cluster.settle()
    cluster.put("0000a", "0099a")
    cluster.put("0050", deleted=True)
    cluster.settle()
    assert cluster.ledgers.info(cluster.spots("a", "c")[0], "a", "c").count == 101
    names = cluster.names()
    assert "0000a" in names and "0099a" in names and "0050" not in names


def test_lines_that_still_come_to_the_root(cluster: Cluster) -> None:
    cluster.put(*numbered(*range(100)))
    cluster.settle()
    cluster.put("0042a", stale=[])
    cluster.put("0010", deleted=True, stale=[])
    cluster.settle()
    assert "0042a" in cluster.names() and "0010" not in cluster.names()
    assert cluster.ledgers.list(cluster.spots("a", "c")[0], "a", "c", Query()) == []


def test_a_shard_is_split_again(cluster: Cluster) -> None:
    cluster.put(*numbered(*range(100)))
    cluster.settle()
    old = cluster.map()
    cluster.put(*(f"0030-{number:03}" for number in range(60)))
    cluster.settle()
    assert len(cluster.map()) > len(old)
    cluster.put("0030-059a", "0031a", stale=old)
    cluster.put("0030-007", deleted=True, stale=old)
    cluster.settle()
    wanted = sorted(
        [*numbered(*range(100)), *(f"0030-{n:03}" for n in range(60) if n != 7), "0030-059a", "0031a"]
    )
    assert cluster.names() == wanted
    assert cluster.ledgers.info(cluster.spots("a", "c")[0], "a", "c").count == len(wanted)


def test_shards_that_empty_are_given_up_until_the_root_has_all(cluster: Cluster) -> None:
    cluster.put(*numbered(*range(100)))
    cluster.settle()
    cluster.put(*numbered(*range(100, 130)))
    old = cluster.map()
    cluster.put(*numbered(*range(3, 128)), deleted=True)
    cluster.settle()
    left = numbered(0, 1, 2, 128, 129)
    assert cluster.names() == left
    assert cluster.map() == [] and cluster.states() == {"unsharded"}
    assert cluster.live_shards() == []
    assert cluster.ledgers.info(cluster.spots("a", "c")[0], "a", "c").count == 5
    cluster.put("0050a", stale=old)  # to a shard that is gone
    cluster.settle()
    assert cluster.names() == sorted([*left, "0050a"])
    assert cluster.live_shards() == []


def test_the_first_range_is_given_up_to_the_second(cluster: Cluster) -> None:
    cluster.put(*numbered(*range(100)))
    cluster.settle()
    first, second = (one.container for one in cluster.map()[:2])
    cluster.put(*numbered(*range(18)), deleted=True)
    cluster.put(*numbered(*range(30, 40)), deleted=True)
    cluster.settle()
    assert cluster.map()[0].container == second and first not in cluster.live_shards()
    assert cluster.names() == numbered(18, 19, *range(20, 30), *range(40, 100))


@pytest.mark.parametrize("call", [1, 2, 4, 6, 7, 8, 10])
def test_cut_off_anywhere(cluster: Cluster, call: int) -> None:
    wanted = numbered(*range(100))
    cluster.put(*wanted)
    cluster.fail_at = call
    try:
        for _ in range(6):
            cluster.tend()
    except DeviceGone:
        assert cluster.names() == wanted
    cluster.fail_at = 0
    cluster.put("0055a")
    cluster.settle()
    assert cluster.names() == sorted([*wanted, "0055a"])
    assert len(cluster.map()) == len(cluster.live_shards()) in (5, 6)


def test_a_device_that_was_away(cluster: Cluster) -> None:
    cluster.put(*numbered(*range(60)))
    cluster.down = {"d1"}
    cluster.put(*numbered(*range(60, 100)))
    cluster.settle()
    assert cluster.names() == numbered(*range(100))
    cluster.put(*numbered(*range(0, 100, 2)), deleted=True)
    cluster.down = {"d3"}
    cluster.put("0001a")  # to the copies that do not know yet
    cluster.down = set()
    for _ in range(3):
        cluster.replicate()
        cluster.settle()
    wanted = sorted([*numbered(*range(1, 100, 2)), "0001a"])
    for down in ({"d2", "d3"}, {"d1", "d3"}, {"d1", "d2"}):
        cluster.down = down
        assert cluster.names() == wanted


def test_deleted_containers_take_their_shards_along(cluster: Cluster) -> None:
    cluster.put(*numbered(*range(100)))
    cluster.settle()
    root = cluster.spots("a", "c")[0]
    with pytest.raises(NotEmpty):
        cluster.ledgers.destroy(root, "a", "c", cluster.clock.now())
    known = cluster.map()
    for name in numbered(*range(100)):
        cluster.put(name, deleted=True, stale=known)
    for one in known:  # as if only the reports had come
        for where in cluster.spots("a", "c"):
            cluster.ledgers.record(
                where, "a", "c",
                [Row(name=one.lower, timestamp=one.row.timestamp, policy=-1, content_type=one.container,
                     meta_timestamp=cluster.clock.now())],
            )  # fmt: skip
    cluster.destroy("a", "c")
    cluster.settle()
    assert cluster.live_shards() == [] and cluster.map() == []
    assert all(cluster.replication.state(where, "container").gone for where in cluster.all())


def test_a_line_that_comes_between_reading_and_dropping_stays(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.put(*numbered(*range(100)))
    cluster.tend()
    record, late = cluster.record, []

    def slow(account: str, container: str, rows: Sequence[Row]) -> None:
        record(account, container, rows)
        if not late and rows and rows[0].policy >= 0:
            late.append(rows[0].name)
            record("a", "c", [row(rows[0].name, 10**9, size=77)])

    cluster.put("0033b", stale=[])
    monkeypatch.setattr(cluster, "record", slow)
    cluster.settle()
    assert late
    sizes = {
        one.name: one.size
        for known in cluster.map()
        for one in cluster.list(".shards_a", known.container, Query()) or []
        if isinstance(one, Row)
    }
    assert sizes[late[0]] == 77


def test_random_lives(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    cluster = Cluster(tmp_path / "devices", split=12)
    chance, there, maps = random.Random(3), set[str](), [cluster.map()]
    for step in range(40):
        grow = chance.random() < (0.8 if step % 20 < 10 else 0.15)
        for _ in range(6):
            name = f"{chance.randrange(80):02}"
            cluster.put(name, deleted=not grow, stale=chance.choice([*maps, cluster.map(), cluster.map()]))
            (there.add if grow else there.discard)(name)
        cluster.fail_at = chance.choice([0, 0, 0, 2, 5, 9])
        with contextlib.suppress(DeviceGone):
            cluster.tend()
        cluster.fail_at = 0
        maps = [*maps[-3:], cluster.map()]
        if step % 10 == 9:
            cluster.settle()
            assert cluster.names() == sorted(there), step
            cluster.replicate()
            assert cluster.ledgers.info(cluster.spots("a", "c")[0], "a", "c").count == len(there)
    cluster.ledgers.close()


def test_split_points_are_even(cluster: Cluster) -> None:
    cluster.put(*numbered(*range(90)))
    pieces = cluster.sharder.split_points(cluster.spots("a", "c")[0])
    assert [count for _, count, _ in pieces] == [18] * 5
    assert [lower for lower, _, _ in pieces] == ["", *numbered(17, 35, 53, 71)]
    inner = cluster.sharder.split_points(cluster.spots("a", "c")[0], "0009", "0049")
    assert [(lower, count) for lower, count, _ in inner] == [("0009", 20), ("0029", 20)]
