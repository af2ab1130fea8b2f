"""Every method of `storage.Node`, in this process and over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from altostack.objectstore.disk import pending
from altostack.objectstore.storage import (
    DeviceFull,
    DeviceGone,
    Exists,
    Missing,
    NotEmpty,
    Query,
    Row,
    Spot,
    Subdir,
    Superseded,
    Update,
)
from tests.objectstore.disk.conftest import Rig, Serve, content, facts, make_local

LARGE = os.urandom(300_000)


@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("said", [True, False])
def test_what_is_written_is_read(rig: Rig, data: bytes, said: bool) -> None:
    stamp = rig.put(data, size=-1 if said else None, x_object_meta_color="rot, grün")
    stored = rig.node.read(rig.spot)
    assert (stored.timestamp, stored.changed, stored.length) == (stamp, stamp, len(data))
    assert (stored.frag, stored.durable) == (None, True)
    assert dict(stored.metadata) == facts(data) | {"x-object-meta-color": "rot, grün"}
    assert content(stored) == data
    assert rig.files() == [f"{stamp}.data"]
    assert rig.everything() == []


@pytest.mark.parametrize("size", [1000, 3_000_000])
@pytest.mark.parametrize(
    "bounds", [(0, 0), (0, 10), (10, 20), (990, 1000), (500, None), (10, 10**9), (2000, 2010)]
)
def test_parts_are_read(rig: Rig, size: int, bounds: tuple[int, int | None]) -> None:
    data = os.urandom(1000) * (size // 1000)
    rig.put(data)
    assert content(rig.node.read(rig.spot), *bounds) == data[bounds[0] : bounds[1]]


def test_the_end_of_a_large_object_is_read(rig: Rig) -> None:
    data = os.urandom(3_000_000)
    rig.put(data)
    assert content(rig.node.read(rig.spot), 2_999_000) == data[2_999_000:]


def test_what_is_held_open_can_be_read_though_it_was_replaced(rig: Rig) -> None:
    data = os.urandom(3_000_000)
    rig.put(data)
    whole, end = rig.node.read(rig.spot), rig.node.read(rig.spot)
    rig.put(b"new")
    assert content(whole) == data
    assert content(end, 2_999_000) == data[2_999_000:]
    assert rig.get() == b"new"


def test_reading_may_be_given_up(rig: Rig) -> None:
    rig.put(os.urandom(3_000_000))
    for _ in range(20):
        stored = rig.node.read(rig.spot)
        next(iter(stored.content()))
        stored.close()
        rig.node.read(rig.spot).close()
    assert len(rig.get()) == 3_000_000


def test_metadata_too_large_for_an_attribute(rig: Rig) -> None:
    more = {f"x-object-meta-{number}": "é" * 200 for number in range(90)}
    rig.put(LARGE, **more)
    assert rig.metadata() == facts(LARGE) | more
    assert rig.get() == LARGE
    stamp = rig.clock.now()
    rig.node.update(rig.spot, stamp, more)
    assert rig.metadata() == facts(LARGE) | more


def test_nothing_here(rig: Rig) -> None:
    with pytest.raises(Missing) as caught:
        rig.node.read(rig.spot)
    assert caught.value.timestamp is None
    with pytest.raises(Missing):
        rig.node.update(rig.spot, rig.clock.now(), {})


def test_no_such_device(rig: Rig) -> None:
    gone = replace(rig.spot, device="d9")
    stamp = rig.clock.now()
    for attempt in (
        lambda: rig.node.read(gone),
        lambda: rig.put(spot=gone),
        lambda: rig.put(LARGE, spot=gone),
        lambda: rig.node.update(gone, stamp, {}),
        lambda: rig.node.delete(gone, stamp),
        lambda: rig.node.read(replace(gone, device="../devices/d1")),
    ):
        with pytest.raises(DeviceGone):
            attempt()
    assert sorted(os.listdir(rig.root)) == ["d1", "d2", "d3"]


def test_what_is_no_place(rig: Rig) -> None:
    rig.put()
    good, bad = rig.clock.now(), "../../../x"
    for attempt in (
        lambda: rig.put(spot=replace(rig.spot, digest="../" * 10 + "ab")),
        lambda: rig.put(spot=replace(rig.spot, part=-1)),
        lambda: rig.put(timestamp=bad),
        lambda: rig.put(timestamp="1700000000.1"),
        lambda: rig.put(frag=-1),
        lambda: rig.node.read(rig.spot, timestamp=bad),
        lambda: rig.node.update(rig.spot, bad, {}),
        lambda: rig.node.delete(rig.spot, bad),
        lambda: rig.node.delete(replace(rig.spot, digest="x"), good),
    ):
        with pytest.raises(ValueError, match=" is no "):
            attempt()
    assert rig.everything() == []


def test_the_newest_wins(rig: Rig) -> None:
    old = rig.clock.now()
    new = rig.put(b"new")
    for data in (b"old", LARGE):
        with pytest.raises(Superseded) as caught:
            rig.put(data, old)
        assert caught.value.timestamp == new
    assert rig.get() == b"new"
    newer = rig.put(b"newer")
    assert (rig.get(), rig.files()) == (b"newer", [f"{newer}.data"])
    assert rig.everything() == []


def test_the_same_again_changes_nothing(rig: Rig) -> None:
    stamp = rig.put(b"one")
    before = (rig.folder / f"{stamp}.data").stat()
    rig.put(b"one", stamp)
    assert (rig.folder / f"{stamp}.data").stat() == before
    with pytest.raises(Superseded):
        rig.put(b"two", stamp)
    assert rig.get() == b"one"
    assert rig.everything() == []


def test_only_if_nothing_is_here(rig: Rig) -> None:
    stamp = rig.put(b"one", absent=True)
    rig.put(b"one", stamp, absent=True)
    for data in (b"two", LARGE):
        with pytest.raises(Exists):
            rig.put(data, absent=True)
    rig.node.delete(rig.spot, rig.clock.now())
    rig.put(b"three", absent=True)
    assert rig.get() == b"three"


def test_a_writer_that_was_overtaken(rig: Rig) -> None:
    stamp = rig.clock.now()
    writer = rig.node.write(rig.spot, stamp)
    writer.write(b"slow")
    new = rig.put(b"new")
    with pytest.raises(Superseded) as caught:
        writer.put(facts(b"slow"))
    assert caught.value.timestamp == new
    writer.abort()
    assert (rig.get(), rig.everything()) == (b"new", [])


def test_abort_leaves_nothing(rig: Rig) -> None:
    for data in (b"some", LARGE):
        writer = rig.node.write(rig.spot, rig.clock.now(), size=len(data))
        writer.write(data)
        writer.abort()
        writer.abort()
    with pytest.raises(Missing):
        rig.get()
    rig.put(b"x")  # the node has seen the connection's end by now, or will: wait for it
    for _ in range(100):
        if not rig.everything():
            break
        os.sched_yield()
    writer = rig.node.write(rig.spot, rig.clock.now(), size=1)
    writer.write(b"y")
    writer.put(facts(b"y"))
    writer.abort()
    assert rig.get() == b"y"


def test_less_than_was_said(rig: Rig) -> None:
    writer = rig.node.write(rig.spot, rig.clock.now(), size=1_000_000)
    writer.write(LARGE)
    writer.put(facts(LARGE))
    assert rig.get() == LARGE


# ---- deletion


def test_deletion(rig: Rig) -> None:
    rig.put()
    stamp = rig.clock.now()
    assert rig.node.delete(rig.spot, stamp, name="/a/c/o") is True
    with pytest.raises(Missing) as caught:
        rig.get()
    assert caught.value.timestamp == stamp
    assert rig.files() == [f"{stamp}.ts"]
    assert rig.node.delete(rig.spot, stamp) is False
    with pytest.raises(Superseded):
        rig.put(b"late", stamp)
    later = rig.clock.now()
    assert rig.node.delete(rig.spot, later) is False
    assert rig.files() == [f"{later}.ts"]
    with pytest.raises(Superseded):
        rig.node.delete(rig.spot, stamp)
    assert rig.put(b"again") and rig.get() == b"again"


def test_deletion_of_what_is_newer(rig: Rig) -> None:
    old = rig.clock.now()
    new = rig.put(b"new")
    for stamp in (old, new):
        with pytest.raises(Superseded) as caught:
            rig.node.delete(rig.spot, stamp)
        assert caught.value.timestamp == new
    assert rig.get() == b"new"


# ---- metadata


def test_post_replaces_what_is_the_users(rig: Rig) -> None:
    stamp = rig.put(
        b"one",
        x_object_meta_color="red",
        x_object_sysmeta_kept="yes",
        x_object_transient_sysmeta_gone="yes",
        x_delete_at="2000000000",
        x_static_large_object="True",
    )
    later = rig.clock.now()
    rig.node.update(
        rig.spot,
        later,
        {"x-object-meta-size": "big", "x-object-sysmeta-kept": "no", "etag": "no", "name": "no"},
    )
    stored = rig.node.read(rig.spot)
    assert (stored.timestamp, stored.changed) == (stamp, later)
    kept = {"x-object-sysmeta-kept": "yes", "x-static-large-object": "True"}
    assert dict(stored.metadata) == facts(b"one") | kept | {"x-object-meta-size": "big"}
    assert content(stored) == b"one"
    latest = rig.clock.now()
    rig.node.update(rig.spot, latest, {"x-object-meta-a": "b"})
    assert rig.files() == [f"{stamp}.data", f"{latest}.meta"]
    with pytest.raises(Superseded):
        rig.node.update(rig.spot, later, {})
    with pytest.raises(Superseded):
        rig.node.update(rig.spot, latest, {})


def test_post_before_the_content(rig: Rig) -> None:
    early = rig.clock.now()
    stamp = rig.put()
    with pytest.raises(Superseded) as caught:
        rig.node.update(rig.spot, early, {"x-object-meta-a": "b"})
    assert caught.value.timestamp == stamp


def test_content_types_have_a_time_of_their_own(rig: Rig) -> None:
    rig.put()
    first, second, third = (rig.clock.now() for _ in range(3))
    rig.node.update(rig.spot, third, {"x-object-meta-a": "third"})
    rig.node.update(rig.spot, first, {"x-object-meta-a": "first", "content-type": "text/first"})
    assert rig.metadata() == facts(b"content") | {"x-object-meta-a": "third", "content-type": "text/first"}
    assert rig.node.read(rig.spot).changed == third
    rig.node.update(rig.spot, second, {"content-type": "text/second"})
    assert rig.metadata()["content-type"] == "text/second"
    with pytest.raises(Superseded):
        rig.node.update(rig.spot, first, {"content-type": "text/first"})
    fourth = rig.clock.now()
    rig.node.update(rig.spot, fourth, {"x-object-meta-a": "fourth"})
    assert rig.metadata() == facts(b"content") | {"x-object-meta-a": "fourth", "content-type": "text/second"}


def test_a_post_of_old_content_is_gone_with_it(rig: Rig) -> None:
    rig.put()
    rig.node.update(rig.spot, rig.clock.now(), {"x-object-meta-a": "b"})
    stamp = rig.put(b"new")
    assert rig.metadata() == facts(b"new")
    assert rig.files() == [f"{stamp}.data"]


# ---- fragments


def test_two_phases(rig: Rig) -> None:
    rig.spot = replace(rig.spot, policy=1)
    stamp = rig.put(b"one", frag=2, commit=False)
    stored = rig.node.read(rig.spot)
    assert (stored.frag, stored.durable, content(stored)) == (2, False, b"one")
    with pytest.raises(Missing):
        rig.node.update(rig.spot, rig.clock.now(), {})
    rig.put(b"one", stamp, frag=2)
    assert rig.files() == [f"{stamp}#2#d.data"]
    assert rig.node.read(rig.spot).durable
    rig.put(b"one", stamp, frag=2)
    assert rig.files() == [f"{stamp}#2#d.data"]


def test_what_is_not_committed_hides_nothing(rig: Rig) -> None:
    rig.spot = replace(rig.spot, policy=1)
    old = rig.put(b"old", frag=2)
    new = rig.put(b"new", frag=2, commit=False)
    assert rig.get() == b"old"
    stored = rig.node.read(rig.spot, timestamp=new)
    assert (stored.durable, content(stored)) == (False, b"new")
    assert rig.files() == [f"{old}#2#d.data", f"{new}#2.data"]
    rig.put(b"new", new, frag=2)
    assert (rig.get(), rig.files()) == (b"new", [f"{new}#2#d.data"])
    with pytest.raises(Missing):
        rig.node.read(rig.spot, timestamp=old)


def test_several_fragments_on_one_device(rig: Rig) -> None:
    rig.spot = replace(rig.spot, policy=1)
    stamp = rig.put(b"two", frag=2)
    rig.put(b"five", stamp, frag=5)
    rig.put(b"seven", stamp, frag=7, commit=False)
    assert [rig.get(frag=frag) for frag in (2, 5, 7)] == [b"two", b"five", b"seven"]
    assert rig.node.read(rig.spot, frag=7).durable  # one committed fragment says so for all of its time
    assert rig.get() == b"two"
    with pytest.raises(Missing):
        rig.get(frag=3)
    gone = rig.clock.now()
    assert rig.node.delete(rig.spot, gone) is True
    assert rig.files() == [f"{gone}.ts"]


def test_a_late_fragment_of_an_old_version(rig: Rig) -> None:
    rig.spot = replace(rig.spot, policy=1)
    old = rig.clock.now()
    writer = rig.node.write(rig.spot, old, frag=1)
    writer.write(b"old")
    writer.put(facts(b"old"))
    new = rig.put(b"new", frag=1)
    writer.commit()
    assert rig.files() == [f"{new}#1#d.data"]
    gone = rig.clock.now()
    rig.node.delete(rig.spot, gone)
    with pytest.raises(Superseded):
        rig.put(b"new", new, frag=3)


# ---- accounts and containers


A = Spot("d1", 3, "cd" * 16)
C = Spot("d2", 5, "ef" * 16)


def test_containers(rig: Rig) -> None:
    node, now = rig.node, rig.clock.now
    with pytest.raises(Missing):
        node.info(C, "a", "c")
    assert node.create(C, "a", "c", now(), policy=0, metadata={"x-container-meta-a": ("b", now())}) is True
    assert node.create(C, "a", "c", now(), policy=0) is False
    node.change(C, "a", "c", now(), {"x-container-meta-d": ("e", now())})
    info = node.info(C, "a", "c")
    assert (info.account, info.container, info.policy) == ("a", "c", 0)
    assert {name: value for name, (value, _) in info.metadata.items()} == {
        "x-container-meta-a": "b", "x-container-meta-d": "e",
    }  # fmt: skip
    rows = [
        Row(name=name, timestamp=now(), size=3, content_type="t", etag="e")
        for name in ("x", "y/1", "y/2", "ü")
    ]
    node.record(C, "a", "c", iter(rows))
    found = node.list(C, "a", "c", Query(delimiter="/"))
    assert [type(one) for one in found] == [Row, Subdir, Row]
    assert [one.name for one in found] == ["x", "y/", "ü"]
    assert found[0].size == 3  # type: ignore[union-attr] # a row, as was seen
    with pytest.raises(NotEmpty):
        node.destroy(C, "a", "c", now())
    node.record(C, "a", "c", [Row(name=row.name, timestamp=now(), deleted=True) for row in rows])
    assert node.destroy(C, "a", "c", now()) is True
    with pytest.raises(Missing):
        node.list(C, "a", "c", Query())


def account(rig: Rig, host: str = "127.0.0.1", port: int = 1) -> Update:
    return Update(host, port, A, "account", "a", None, Row(name="c", timestamp=rig.clock.now()))


def test_an_account_hears_of_its_containers(rig: Rig) -> None:
    node, now = rig.node, rig.clock.now
    node.create(C, "a", "c", now(), policy=0, updates=[account(rig)])
    (row,) = node.list(A, "a", None, Query())
    assert (row.name, row.count) == ("c", 0)  # type: ignore[union-attr] # a row
    node.record(C, "a", "c", [Row(name="o", timestamp=now(), size=7, content_type="t", etag="e")])
    node.create(C, "a", "c", now(), policy=0, updates=[account(rig)])
    (row,) = node.list(A, "a", None, Query())
    assert (row.count, row.size) == (1, 7)  # type: ignore[union-attr] # a row
    node.record(C, "a", "c", [Row(name="o", timestamp=now(), deleted=True)])
    node.destroy(C, "a", "c", now(), updates=[account(rig)])
    assert node.list(A, "a", None, Query()) == []


def update(rig: Rig, **row: object) -> Update:
    known = {"name": "o", "timestamp": rig.clock.now(), "size": 1, "content_type": "t", "etag": "e"} | row
    return Update("127.0.0.1", 1, C, "container", "a", "c", Row(**known))  # type: ignore[arg-type] # as given


def test_containers_hear_of_their_objects(rig: Rig) -> None:
    node = rig.node
    node.create(C, "a", "c", rig.clock.now(), policy=0)
    rig.put(updates=[update(rig)])
    (row,) = node.list(C, "a", "c", Query())
    assert isinstance(row, Row) and row.content_type == "t"
    stamp = rig.clock.now()
    node.update(
        rig.spot, stamp, {"content-type": "u"},
        [update(rig, timestamp=row.timestamp, content_type="u", type_timestamp=stamp, meta_timestamp=stamp)],
    )  # fmt: skip
    (row,) = node.list(C, "a", "c", Query())
    assert isinstance(row, Row) and row.content_type == "u"
    node.delete(rig.spot, rig.clock.now(), [update(rig, deleted=True)])
    assert node.list(C, "a", "c", Query()) == []
    assert list(pending.waiting(str(rig.device))) == []


def test_what_cannot_be_delivered_is_kept(rig: Rig) -> None:
    lost = update(rig)  # there is no such container
    rig.put(updates=[lost])
    rig.put(updates=[lost, replace(lost, spot=replace(C, device="d9"))])
    waiting = sorted(pending.waiting(str(rig.device)), key=lambda one: len(one.updates))
    assert [len(one.updates) for one in waiting] == [1, 2]
    assert waiting[0].updates == [lost]
    rig.node.create(C, "a", "c", lost.row.timestamp, policy=0)
    pending.shrink(rig.local.devices, str(rig.device), waiting[1], waiting[1].updates[1:])
    pending.remove(waiting[0])
    pending.remove(waiting[0])
    (left,) = pending.waiting(str(rig.device))
    assert left.updates[0].spot.device == "d9"
    pending.shrink(rig.local.devices, str(rig.device), left, ())
    assert list(pending.waiting(str(rig.device))) == []


def test_damaged_updates_go_to_quarantine(rig: Rig) -> None:
    rig.put(updates=[update(rig)])
    (waiting,) = pending.waiting(str(rig.device))
    Path(waiting.path).write_bytes(b"\xc1")
    assert list(pending.waiting(str(rig.device))) == []
    assert any(name.startswith("quarantined/async_pending/") for name in rig.everything())


# ---- what devices refuse


def test_room_is_left(tmp_path: Path, serve: Serve) -> None:
    local = make_local(tmp_path, fallocate_reserve=1 << 60)
    for node in (local, serve(local)):
        rig = Rig(tmp_path, local, node)
        for data in (b"x", LARGE):
            with pytest.raises(DeviceFull):
                rig.put(data)
        assert rig.everything() == []


def test_devices_that_are_not_mounted(tmp_path: Path, serve: Serve) -> None:
    local = make_local(tmp_path, mount_check=True)
    for node in (local, serve(local)):
        rig = Rig(tmp_path, local, node)
        with pytest.raises(DeviceGone, match="not mounted"):
            rig.put()
        with pytest.raises(DeviceGone, match="not mounted"):
            rig.get()
        assert rig.everything() == []


# ---- what keepers of sums look at


def gone(rig: Rig) -> None:
    with pytest.raises(Missing):
        rig.get()


def test_every_change_shows_in_the_folders_times(rig: Rig) -> None:
    rig.spot = replace(rig.spot, policy=1)
    seen: set[tuple[int, int]] = set()
    stamp = rig.clock.now()
    steps: list[Callable[[], object]] = [
        lambda: rig.put(b"one", stamp, frag=1, commit=False),
        lambda: rig.put(b"one", stamp, frag=1),
        lambda: rig.put(b"one", stamp, frag=2),
        lambda: rig.node.update(rig.spot, rig.clock.now(), {"x-object-meta-a": "b"}),
        lambda: rig.put(b"two", frag=1),
        lambda: os.truncate(next(rig.folder.iterdir()), 1),
        lambda: gone(rig),  # it goes to quarantine
        lambda: rig.node.delete(rig.spot, rig.clock.now()),
    ]
    for number, step in enumerate(steps):
        step()
        if number != 5:
            suffix = rig.folder.parent
            times = (suffix.stat().st_mtime_ns, suffix.parent.stat().st_mtime_ns)
            assert all(times[0] != one[0] and times[1] != one[1] for one in seen)
            seen.add(times)
    before = rig.folder.parent.stat().st_mtime_ns
    with pytest.raises(Superseded):
        rig.put(b"one", stamp, frag=1)
    assert rig.folder.parent.stat().st_mtime_ns == before
