"""Erasure-coded objects: round trips, missing and broken fragments, two phases."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.objectstore.http import Stream
from tests.objectstore.proxy.scene import erasure, faulty, holders
from tests.objectstore.world import World, run_together

BODY = random.Random(1).randbytes(7321)


@pytest.fixture
def ec(tmp_path: Path) -> Iterator[World]:
    made = erasure(tmp_path)
    assert made.put("/v1/a/c").status == 201
    yield made
    made.close()


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 7321])
def test_round_trip_of_sizes_around_segments(ec: World, size: int) -> None:
    body = BODY[:size]
    made = ec.put("/v1/a/c/o", body, x_object_meta_color="red")
    assert made.status == 201
    assert made.headers["etag"] == hashlib.md5(body).hexdigest()
    got = ec.get("/v1/a/c/o")
    assert (got.status, got.headers["content-length"], got.headers["etag"]) == (
        200, str(size), hashlib.md5(body).hexdigest(),
    )  # fmt: skip
    assert got.headers["x-object-meta-color"] == "red"
    assert not any(name.startswith("x-object-sysmeta-ec-") for name in got.headers)
    assert got.read() == body
    head = ec.head("/v1/a/c/o")
    assert (head.status, head.headers["content-length"]) == (200, str(size))
    (entry,) = ec.get("/v1/a/c").entries or []
    assert (entry["bytes"], entry["hash"]) == (size, hashlib.md5(body).hexdigest())


def test_any_two_fragments_may_be_missing(ec: World) -> None:
    assert ec.put("/v1/a/c/o", BODY).status == 201
    node = faulty(ec)
    devices = holders(ec, "a", "c", "o")
    assert len(set(devices)) == 6
    for lost in itertools.combinations(devices, 2):
        node.gone = set(lost)
        assert ec.get("/v1/a/c/o").read() == BODY
        assert ec.get("/v1/a/c/o", range="bytes=990-2010").read() == BODY[990:2011]
    node.gone = set(devices[:3])
    assert ec.get("/v1/a/c/o").status == 503


def test_a_body_of_unknown_length(ec: World) -> None:
    pieces = [BODY[at : at + 333] for at in range(0, len(BODY), 333)]
    assert ec.put("/v1/a/c/o", Stream(pieces)).status == 201
    assert ec.get("/v1/a/c/o").read() == BODY


def test_ranges_equal_slices(ec: World) -> None:
    ec.put("/v1/a/c/o", BODY)
    chance = random.Random(2)
    for _ in range(60):
        start = chance.randrange(len(BODY))
        stop = chance.randrange(start, len(BODY))
        got = ec.get("/v1/a/c/o", range=f"bytes={start}-{stop}")
        assert got.status == 206
        assert got.read() == BODY[start : stop + 1]
    got = ec.get("/v1/a/c/o", range="bytes=0-9,3000-3999,-5")
    text = got.read()
    assert got.headers["content-length"] == str(len(text))
    assert all(part in text for part in (BODY[:10], BODY[3000:4000], BODY[-5:]))


def test_a_fragment_that_breaks_off_is_replaced(ec: World) -> None:
    ec.put("/v1/a/c/o", BODY)
    node = faulty(ec)
    devices = holders(ec, "a", "c", "o")
    for after in (0, 100, 400, 1200):
        node.breaks = {devices[0]: after, devices[2]: after + 200}
        assert ec.get("/v1/a/c/o").read() == BODY
        assert ec.get("/v1/a/c/o", range="bytes=1500-6999").read() == BODY[1500:7000]
    node.breaks = dict.fromkeys(devices[:3], 100)
    broken = ec.get("/v1/a/c/o")
    with pytest.raises(Exception, match="too few fragments"):
        broken.read()


def test_writes_need_five_fragments_and_use_handoffs(ec: World) -> None:
    node = faulty(ec)
    devices = holders(ec, "a", "c", "o")
    node.gone = {devices[1], devices[4]}
    assert ec.put("/v1/a/c/o", BODY).status == 201  # two more devices are there
    assert ec.get("/v1/a/c/o").read() == BODY
    node.gone = set()
    assert ec.get("/v1/a/c/o").read() == BODY  # two fragments lie on handoffs
    node.gone = {devices[0], devices[2]}
    assert ec.get("/v1/a/c/o").read() == BODY
    node.gone = set(devices[:4])
    assert ec.put("/v1/a/c/p", BODY).status == 503
    node.gone = set()
    assert ec.get("/v1/a/c/p").status == 404


def test_too_few_durable_fragments_leave_the_old_version(ec: World) -> None:
    assert ec.put("/v1/a/c/o", BODY).status == 201
    node = faulty(ec)
    node.breaks_writing = dict.fromkeys(holders(ec, "a", "c", "o")[:2], 300)
    assert ec.put("/v1/a/c/o", BODY[::-1]).status in (503, 507)
    node.breaks_writing = {}
    assert ec.get("/v1/a/c/o").read() == BODY


def test_metadata_and_deletion(ec: World) -> None:
    ec.put("/v1/a/c/o", BODY, x_object_meta_color="red")
    assert ec.post("/v1/a/c/o", x_object_meta_shape="round", content_type="text/x").status == 202
    got = ec.get("/v1/a/c/o")
    assert "x-object-meta-color" not in got.headers
    assert (got.headers["x-object-meta-shape"], got.headers["content-type"]) == ("round", "text/x")
    assert got.read() == BODY
    assert (ec.get("/v1/a/c").entries or [])[0]["bytes"] == len(BODY)
    assert ec.delete("/v1/a/c/o").status == 204
    assert ec.get("/v1/a/c/o").status == 404
    assert ec.get("/v1/a/c").entries == []


def test_a_fragment_that_missed_a_version_is_not_mixed_in(ec: World) -> None:
    node = faulty(ec)
    devices = holders(ec, "a", "c", "o")
    every = {f"d{number}" for number in range(1, 9)}
    assert ec.put("/v1/a/c/o", BODY).status == 201
    node.gone = {devices[0]} | (every - set(devices))
    assert ec.put("/v1/a/c/o", BODY[::-1]).status == 201
    node.gone = set()
    assert ec.get("/v1/a/c/o").read() == BODY[::-1]
    node.gone = {devices[1]}
    assert ec.get("/v1/a/c/o").read() == BODY[::-1]
    node.gone = {devices[0]} | (every - set(devices))
    assert ec.delete("/v1/a/c/o").status == 204
    node.gone = set()
    assert ec.get("/v1/a/c/o").status == 404


def test_only_one_of_many_makes_what_is_not_there(ec: World) -> None:
    for turn in range(4):
        codes: list[int] = []

        def work(number: int, turn: int = turn, codes: list[int] = codes) -> None:
            codes.append(ec.put(f"/v1/a/c/only{turn}", BODY[number:], if_none_match="*").status)

        run_together(4, work)
        assert sorted(codes) == [201, 412, 412, 412]


def test_duplicated_fragments(tmp_path: Path) -> None:
    policy = {
        "index": 0, "default": True, "type": "erasure_coding", "data": 2, "parity": 1, "segment_size": 1000,
        "duplication_factor": 2,
    }  # fmt: skip
    made = erasure(tmp_path, settings={"policies": {"twice": policy}})
    made.put("/v1/a/c")
    assert made.put("/v1/a/c/o", BODY).status == 201
    node = faulty(made)
    devices = holders(made, "a", "c", "o")
    assert len(devices) == 6
    for lost in itertools.combinations(devices, 3):
        node.gone = set(lost)
        assert made.get("/v1/a/c/o").read() == BODY
    made.close()


def test_a_turned_bit_in_a_fragment_is_noticed_before_it_is_sent(ec: World) -> None:
    body = random.Random(2).randbytes(400_000)
    assert ec.put("/v1/a/c/o", body).status == 201
    fragments = sorted((ec.store.folder / "objectstore" / "devices").rglob("*#*.data"))
    assert len(fragments) == 6
    for broken in fragments[:2]:  # of 4 + 2
        content = bytearray(broken.read_bytes())
        content[len(content) // 2] ^= 1
        with broken.open("r+b") as file:  # the attributes stay
            file.write(content)
    assert ec.get("/v1/a/c/o").read() == body
    assert ec.get("/v1/a/c/o", range="bytes=1000-250000").read() == body[1000:250001]
