"""`altostack ring`, as typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from altostack.cli import main
from altostack.objectstore.ring.builder import Builder
from altostack.objectstore.ring.ring import Ring

Ask = Callable[..., str]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """``ask("add", "r1z1-h:1/d", "100")`` on a ring of this test; its output. ``code``: the expected exit code."""

    def asked(verb: str, *words: str, ring: str = "x.builder", code: int = 0) -> str:
        capsys.readouterr()
        path = ring if ring == "object" else str(tmp_path / ring)
        assert main(["ring", verb, path, *words]) == code
        out = capsys.readouterr()
        return out.err if code else out.out

    return asked


@pytest.fixture
def ring(ask: Ask) -> Ask:
    ask("create", "--part-power", "6", "--replicas", "3", "--min-part-hours", "1")
    ask("add", *(word for n in range(1, 5) for word in (f"r1z{n}-10.0.0.{n}:6200/sdb", "100")))
    ask("rebalance", "--seed", "1")
    return ask


def test_a_ring_is_made_and_used(ring: Ask, tmp_path: Path) -> None:
    assert "sound: balance 0.00 %" in ring("validate")
    shown = ring("show")
    assert "64 partitions (2^6), 3 replicas, 4 devices" in shown
    assert "10.0.0.3" in shown and "48" in shown
    assert Ring.load(tmp_path / "x.ring").parts == 64
    found = ring("show", "--of", "AUTH_test/c/o")
    assert "partition" in found and "handoff" in found
    spread = ring("dispersion", "--nodes")
    assert "dispersion 0.00 %" in spread and "10.0.0.2" in spread


def test_devices_change(ring: Ask, tmp_path: Path) -> None:
    assert "weight 100 -> 50" in ring("set-weight", "d2", "50")
    assert "-> r1z9-10.0.0.1:6200/sdb" in ring("set-info", "r1z1", "--zone", "9", "--meta", "old")
    ring("add", "r2z1-[fe80::1]:6200R[fe80::2]:6300/sdc_new disk", "10")
    ring("remove", "10.0.0.2:6200/sdb")
    one = Builder.load(tmp_path / "x.builder")
    assert (one.devices[2].weight, one.devices[0].zone, one.devices[0].meta) == (50, 9, "old")
    added = one.devices[4]
    assert (added.host, added.replication_host, added.replication_port) == ("fe80::1", "fe80::2", 6300)
    assert (added.device, added.meta, added.region) == ("sdc", "new disk", 2)
    assert one.state.removed == [1]
    assert "goes at the next rebalance" in ring("show")
    assert "48 replicas moved" in ring("rebalance")
    assert "there is no device" not in ring("validate")


def test_what_moved_lately_stays(ring: Ask) -> None:
    ring("add", "r1z5-10.0.0.5:6200/sdb", "100")
    told = ring("rebalance")
    assert "0 replicas moved" in told and re.search(r"rebalance again in (0:59|1:00)", told)
    ring("pretend-min-part-hours-passed")
    assert "0 replicas moved" not in ring("rebalance")


def test_settings(ring: Ask, tmp_path: Path) -> None:
    ring("set-overload", "10%")
    ring("set-min-part-hours", "0")
    ring("set-replicas", "2.5")
    state = Builder.load(tmp_path / "x.builder").state
    assert (state.overload, state.min_part_hours, state.replicas) == (0.1, 0, 2.5)
    ring("rebalance")
    assert Ring.load(tmp_path / "x.ring").facts.replicas == 2.5


def test_partitions_are_doubled(ring: Ask, tmp_path: Path) -> None:
    assert "power 6, next 7" in ring("increase-partition-power", "prepare")
    assert "next 7" in ring("show")
    assert "power 7, next 7" in ring("increase-partition-power", "increase")
    assert "doubled" in ring("rebalance", code=1)
    assert "power 7, next none" in ring("increase-partition-power", "finish")
    assert Ring.load(tmp_path / "x.ring").parts == 128


def test_composed(ring: Ask, tmp_path: Path) -> None:
    ring("create", "--part-power", "6", "--replicas", "1", ring="y.builder")
    ring("add", "r2z1-10.0.1.1:6200/sdb", "100", ring="y.builder")
    ring("rebalance", ring="y.builder")
    parts = (str(tmp_path / "x.builder"), str(tmp_path / "y.builder"))
    assert "2 builders, version 1" in ring("compose", *parts, ring="all.builder")
    assert Ring.load(tmp_path / "all.ring").replicas == 4
    assert "version 2" in ring("compose", ring="all.builder")
    assert "another than" in ring("compose", *reversed(parts), ring="all.builder", code=1)
    assert "composed, version 3" in ring("rebalance", ring="all.builder")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add", "r1z1-10.0.0.9:6200/sdb"), "weight"),
        (("add", "sdb", "100"), "'sdb' is no device"),
        (("add", "r1z1-10.0.0.9:6200/sdb", "much"), "'much' is no weight"),
        (("add", "r1z1-10.0.0.9:6200/sdb", "-1"), "weight"),
        (("add", "r1z1-10.0.0.1:6200/sdb", "1"), "device 0 is sdb on 10.0.0.1:6200 already"),
        (("set-weight", "d9", "1"), "no device of the ring is d9"),
        (("set-weight", "r1", "1"), "4 devices are r1"),
        (("remove", "?"), "describes no device"),
        (("set-info", "d1"), "nothing is to be changed"),
        (("set-replicas", "0"), "replicas"),
        (("increase-partition-power", "finish"), "no increase"),
        (("create",), "is there already"),
        (("compose", "x"), "another name"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(
    ring: Ask, tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert why in ring(*words, code=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_all_devices_that_are_meant(ring: Ask, tmp_path: Path) -> None:
    ring("set-weight", "r1", "7", "--all")
    assert {one.weight for one in Builder.load(tmp_path / "x.builder").devices} == {7}


def test_unsound_rings_are_told(ring: Ask, tmp_path: Path) -> None:
    one = Builder.load(tmp_path / "x.builder")
    one.table[1] = one.table[0]
    one.save()
    assert "64 partitions have replica 1 on a device that has another" in ring("validate", code=1)


def test_old_ring_files_are_told(ring: Ask, tmp_path: Path) -> None:
    old = (tmp_path / "x.ring").read_bytes()
    ring("set-weight", "d1", "99")
    (tmp_path / "x.ring").write_bytes(old)
    assert "altostack ring write" in ring("validate", code=1)
    ring("write")
    ring("validate")


def test_damaged_and_missing_builders(ask: Ask, tmp_path: Path) -> None:
    assert f"there is no {tmp_path / 'x.builder'}" in ask("show", code=1)
    (tmp_path / "x.builder").write_bytes(b"nothing of the kind that is long enough")
    assert "no file of a ring" in ask("show", code=1)


def test_names_need_a_cloud(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTOSTACK_STATE", str(tmp_path / "cloud"))
    assert "there is no cloud" in ask("show", ring="object", code=1)
