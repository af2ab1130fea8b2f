"""A short run of the fuzzer, and what longer ones have found."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from altostack.objectstore.http import Refusal, Request
from altostack.objectstore.proxy.spread import settle
from altostack.objectstore.storage import DeviceGone, Superseded
from tests.objectstore.fuzz import Answer, Fuzzer, judge, leftovers
from tests.objectstore.s3.signer import Signer
from tests.objectstore.wild import Wild, wild
from tests.objectstore.world import world


def test_wild_requests_find_no_fault(tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path, seed=1)
    try:
        report = fuzzer.run(1500, threads=4)
    finally:
        fuzzer.close()
    assert report.faults == [], report.text()
    assert sum(report.statuses.values()) == 1500
    assert {200, 201, 202, 204, 400, 401, 403, 404, 405, 409, 412} <= set(report.statuses)
    assert all(report.good[kind] for kind in ("swift", "plain", "slo", "bulk delete", "archive", "s3")), (
        report.text()
    )


def test_the_same_seed_makes_the_same_requests() -> None:
    first, second = ([wild(Random(f"3 {number}"), "token").kind for number in range(200)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 12


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, {"content-type": "text/plain"}, b"An error occurred"),
        Answer(503, {"content-type": "text/plain"}, b"later"),
        Answer(0),
        Answer(404, {"content-type": "application/octet-stream"}, b"nothing"),
        Answer(404, {"content-type": "application/xml"}, b"<html/>"),
        Answer(404, {}, b""),
        Answer(
            400, {"content-type": "text/plain"}, b'Traceback (most recent call last):\n  File "/x.py", line 3'
        ),
        Answer(400, {"content-type": "text/plain"}, b"the key is secret-key-of-the-fuzzers-alice"),
        Answer(200, {"x-where": "/folder/objectstore"}, b""),
        Answer(200, trouble="an answer without a length"),
    ],
)
def test_the_judge_sees_faults(answer: Answer) -> None:
    assert judge(Wild("swift", headers=[]), answer, Path("/folder"))


def test_the_judge_sees_what_is_left_behind(tmp_path: Path) -> None:
    device = tmp_path / "objectstore" / "devices" / "d1"
    (device / "tmp").mkdir(parents=True)
    folder = device / "objects" / "5" / "abc" / ("0" * 29 + "abc")
    folder.mkdir(parents=True)
    (folder / "1700000000.000000000.data").touch()
    assert leftovers(tmp_path) == []
    (device / "tmp" / "half").touch()
    (folder / "1700000000.000000000.part").touch()
    (device / "quarantined" / "objects" / "digest").mkdir(parents=True)
    assert len(leftovers(tmp_path)) == 3


def test_a_path_of_bytes_that_are_no_text_is_refused() -> None:
    """A form's file name of broken UTF-8 went on as a request of our own."""
    request = Request("POST", "/v1/a/c/")
    for path in ("/v1/a/c/\udca7", "/v1/a/c/\ud800"):
        with pytest.raises(Refusal) as refused:
            request.sub("PUT", path)
        assert refused.value.status == 412
        with pytest.raises(Refusal):
            request.rewrite(path=path)


def test_a_script_asks_for_a_bucket_of_no_possible_name(tmp_path: Path) -> None:
    """What rules for scripts a bucket has was looked up outside of where refusals become S3's errors."""
    here = world(
        tmp_path,
        pipeline="catch gatekeeper s3 service",
        options={"s3": {"key_alice": "alice-secret AUTH_a alice"}},
    )
    headers = Signer("http://h").headers("GET", "/%00", more={"origin": "http://page"})
    answer = here.ask("GET", "/%00", **headers)
    assert 400 <= answer.status < 500
    assert answer.headers["content-type"] == "application/xml"
    here.close()


@pytest.mark.parametrize("size", range(11))
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2"])
def test_an_archive_that_breaks_off_in_its_first_bytes(tmp_path: Path, kind: str, size: int) -> None:
    here = world(tmp_path, pipeline="catch bulk service")
    content = {"tar": b"x" * 10, "tar.gz": b"\x1f\x8b\x08\x1c\0\0\0\0\0\x03\0", "tar.bz2": b"BZh91AY&SY\0"}[
        kind
    ]
    answer = here.put("/v1/a", content[:size], query={"extract-archive": kind})
    assert answer.status == 200
    assert b"Response Status: 400" in answer.read()
    here.close()


def test_a_copy_of_what_breaks_off_is_a_conflict(tmp_path: Path) -> None:
    here = world(tmp_path, pipeline="catch copy slo service")
    for path in ("/v1/a", "/v1/a/c"):
        here.put(path)
    for name in ("1", "2"):
        here.put(f"/v1/a/c/{name}", name.encode() * 1000)
    manifest = json.dumps([{"path": "/c/1"}, {"path": "/c/2"}]).encode()
    assert here.put("/v1/a/c/both", manifest, query={"multipart-manifest": "put"}).status == 201
    assert here.delete("/v1/a/c/2").status == 204
    assert here.put("/v1/a/c/copy", x_copy_from="c/both").status == 409
    assert here.head("/v1/a/c/copy").status == 404
    assert leftovers(tmp_path) == []
    here.close()


def test_two_writes_at_once_that_each_win_on_one_device_of_two() -> None:
    """The older one is superseded, which is no failure of the store."""
    with pytest.raises(Superseded) as newer:
        settle([True, Superseded("0000000002.000000000")], 2)
    assert newer.value.timestamp == "0000000002.000000000"
    with pytest.raises(Refusal) as refused:
        settle([True, DeviceGone("unmounted")], 2)
    assert refused.value.status == 503
    with pytest.raises(Refusal):
        settle([DeviceGone("unmounted"), Superseded("0000000002.000000000")], 2)
