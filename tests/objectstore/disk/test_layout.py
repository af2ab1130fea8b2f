"""Which files count, whatever came first."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from altostack.objectstore.disk import layout
from altostack.objectstore.disk.layout import File, choose, data_name, meta_name, parse
from altostack.objectstore.storage import Missing, Spot, Superseded
from tests.objectstore.disk.conftest import Rig, make_local

STAMPS = [f"17000000{number:02d}.000000000" for number in range(6)]
stamps = st.sampled_from(STAMPS)
whole = st.one_of(
    stamps.map(data_name), stamps.map(lambda stamp: f"{stamp}.ts"), st.builds(meta_name, stamps, stamps)
)
pieces = st.one_of(
    st.builds(
        lambda stamp, frag, durable: data_name(stamp, frag, durable=durable),
        stamps,
        st.integers(0, 3),
        st.booleans(),
    ),
    stamps.map(lambda stamp: f"{stamp}.ts"),
    st.builds(meta_name, stamps),
)


@given(st.one_of(st.lists(whole, unique=True), st.lists(pieces, unique=True)), st.randoms())
def test_choosing(names: list[str], random: object) -> None:
    files = choose(names)
    random.shuffle(names)  # type: ignore[attr-defined] # a Random
    again = choose(names)
    assert again[:-1] == files[:-1]
    assert set(again.obsolete) == set(files.obsolete)
    gone = {file.name for file in files.obsolete}
    left = [name for name in names if name not in gone]
    again = choose(left)
    assert again == files._replace(obsolete=())  # nothing that counts was obsolete
    kept = {file.name for file in files.kept} | ({f"{files.tombstone}.ts"} if files.tombstone else set())
    assert kept == set(left)
    for file in files.data:
        assert file.timestamp > files.tombstone
    if files.data:
        assert len({file.timestamp for file in files.data}) == 1
        assert all(file.timestamp > files.newest for file in files.loose)


def test_names() -> None:
    stamp = STAMPS[0]
    for name, file in {
        f"{stamp}.data": File(f"{stamp}.data", stamp, "data"),
        f"{stamp}#3.data": File(f"{stamp}#3.data", stamp, "data", 3, False),
        f"{stamp}#12#d.data": File(f"{stamp}#12#d.data", stamp, "data", 12, True),
        f"{stamp}.ts": File(f"{stamp}.ts", stamp, "ts"),
        f"{stamp}.meta": File(f"{stamp}.meta", stamp, "meta"),
        f"{stamp}#{STAMPS[1]}.meta": File(f"{stamp}#{STAMPS[1]}.meta", stamp, "meta", typed=STAMPS[1]),
    }.items():
        assert parse(name) == file
    for name in (
        "", ".data", "x", f"{stamp}", f"{stamp}.db", f"{stamp}.data.x", f"{stamp}#.data", f"{stamp}##d.data",
        f"{stamp}#1#x.data", f"{stamp}#-1.data", f"{stamp}#1#d#d.data", f"{stamp}#1.ts", "1700000000.0.data",
        "1700000000x000000000.data", f"{stamp}#1#2.meta",
    ):  # fmt: skip
        assert parse(name) is None, name


def test_partitions() -> None:
    digest = "8fffffff" + "0" * 24
    assert [layout.part_of(digest, power) for power in (0, 1, 2, 4, 32)] == [0, 1, 2, 8, 0x8FFFFFFF]
    spot = Spot("d1", 8, digest, 2)
    assert layout.object_folder("/srv/d1", spot) == f"/srv/d1/objects-2/8/000/{digest}"
    assert layout.object_folder("/srv/d1", replace(spot, policy=0), 17) == f"/srv/d1/objects/17/000/{digest}"


def kept(rig: Rig) -> list[tuple[str, ...]]:
    """What copies are compared by."""
    files = layout.choose(rig.files())
    return [(file.timestamp, file.kind, file.typed) for file in files.kept] + [(files.tombstone,)]


change = st.tuples(st.sampled_from(["put", "delete", "post", "type"]), st.integers(0, 9))


@settings(max_examples=20, deadline=None)
@example(changes=[("put", 0), ("type", 1), ("put", 2), ("post", 3)], random=Random(3))
@given(st.lists(change, unique_by=lambda one: one[1], min_size=1, max_size=6), st.randoms())
def test_every_order_of_changes_ends_the_same(changes: list[tuple[str, int]], random: object) -> None:
    """Changes are repeated, as daemons do, until nothing is new; so those that came too early get their turn."""
    with tempfile.TemporaryDirectory() as folder:
        local = make_local(Path(folder))
        rig = Rig(Path(folder), local, local)
        ends = []
        for device in ("d1", "d2"):
            rig.spot = replace(rig.spot, device=device)
            for _ in range(4):
                random.shuffle(changes)  # type: ignore[attr-defined] # a Random
                for what, number in changes:
                    stamp = f"17000000{number:02d}.000000000"
                    with contextlib.suppress(Superseded, Missing):
                        if what == "put":
                            rig.put(b"content %d" % number, stamp)
                        elif what == "delete":
                            rig.node.delete(rig.spot, stamp)
                        elif what == "post":
                            rig.node.update(rig.spot, stamp, {"x-object-meta-at": stamp})
                        else:
                            kind = {"content-type": f"text/{number}", "x-object-meta-at": stamp}
                            rig.node.update(rig.spot, stamp, kind)
            try:
                ends.append((kept(rig), rig.get(), rig.metadata()))
            except Missing:
                ends.append((kept(rig), b"", {}))
        assert ends[0] == ends[1]
        local.ledgers.close()
