"""Rings as others see them: where names lie, who stands in, and files that change or are damaged."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altostack.objectstore.ring import sealed
from altostack.objectstore.ring.builder import Builder
from altostack.objectstore.ring.ring import Ring
from altostack.objectstore.ring.rings import FileRings, NoRing
from altostack.objectstore.ring.sealed import BadFile
from altostack.objectstore.storage import Device, StoragePolicy
from tests.objectstore.ring.hand import add, builder, even


@pytest.fixture
def saved(tmp_path: Path) -> Builder:
    made = builder(even(3, 2, 2), path=tmp_path / "object.builder")
    made.rebalance(1)
    made.save()
    return made


class TestLocate:
    def test_names_are_spread_and_keyed(self) -> None:
        ring, other = builder(even(3, 1, 1), power=4), builder(even(3, 1, 1), power=4)
        ring.rebalance(1)
        other.rebalance(1)
        one, two = ring.ring(), other.ring()
        places = [one.locate("a", "c", f"o{n}") for n in range(2000)]
        assert set(np.bincount([part for part, _ in places], minlength=16) // 75) <= {1, 2}
        assert len({digest for _, digest in places}) == 2000
        assert all(len(digest) == 32 and int(digest[0], 16) == part for part, digest in places)
        assert one.locate("a", "c", "o1")[1] != two.locate("a", "c", "o1")[1]

    def test_kinds_of_names_differ(self) -> None:
        made = builder(even(3, 1, 1))
        made.rebalance(1)
        ring = made.ring()
        digests = [ring.locate(*name)[1] for name in (("a",), ("a", "c"), ("a", "c", "o"), ("a", "c", "ö/x"))]
        assert len(set(digests)) == 4

    def test_names_stay_where_they_are(self, saved: Builder) -> None:
        again = Builder.load(saved.path)
        add(again, 1, 7, 99, 100.0)
        again.rebalance(1)
        assert again.ring().locate("a", "c", "o") == saved.ring().locate("a", "c", "o")


class TestHandoffs:
    def test_all_others_once(self, saved: Builder) -> None:
        ring = saved.ring()
        for part in range(0, ring.parts, 16):
            own = {one.id for one in ring.nodes(part)}
            rest = [one.id for one in ring.handoffs(part)]
            assert sorted(rest) == sorted({one.id for one in ring.devices} - own)

    def test_unlike_before_like(self) -> None:
        devices = [
            (region, zone, 10 * region + zone, 1.0) for region in (1, 2, 3) for zone in (1, 2, 3, 4)
        ] * 2
        made = builder(devices, replicas=2)
        made.rebalance(1)
        ring = made.ring()
        for part in range(0, ring.parts, 8):
            own, rest = list(ring.nodes(part)), list(ring.handoffs(part))
            assert rest[0].region not in {one.region for one in own}
            zones = [(one.region, one.zone) for one in [*own, *rest]]
            assert len(set(zones[:12])) == 12  # every zone before any zone twice
            assert len({(one.region, one.zone, one.host) for one in [*own, *rest][:12]}) == 12

    def test_the_first_differs(self) -> None:
        made = builder(even(1, 12, 1))
        made.rebalance(1)
        firsts = [next(iter(made.ring().handoffs(part))).id for part in range(256)]
        assert min(np.bincount(firsts, minlength=12)) > 5

    def test_draining_devices_do_not_stand_in(self) -> None:
        made = builder([*even(3, 1, 1), (1, 9, 9, 0.0)])
        made.rebalance(1)
        assert list(made.ring().handoffs(3)) == []
        assert [one.id for one in made.ring().devices] == [0, 1, 2]


class TestFile:
    def test_round_trip(self, saved: Builder) -> None:
        ring, again = Ring.load(saved.path.with_suffix(".ring")), Builder.load(saved.path)
        assert (again.table == saved.table).all() and (again.moved == saved.moved).all()
        assert again.state == saved.state
        assert list(ring.devices) == saved.devices
        assert [tuple(one.id for one in ring.nodes(part)) for part in range(ring.parts)] == [
            tuple(column) for column in saved.table.T.tolist()
        ]
        assert again.rebalance(1).moved == 0

    def test_fractions_and_many_devices(self, tmp_path: Path) -> None:
        made = builder(even(3, 1, 1), path=tmp_path / "x.builder", replicas=2.25)
        made.state.devices[70_000] = Device(70_000, 1, 8, "h", 1, "sdb", 100.0)
        made.rebalance(1)
        made.save()
        ring = Ring.load(tmp_path / "x.ring")
        assert (Builder.load(tmp_path / "x.builder").table == made.table).all()
        assert [len(ring.nodes(part)) for part in range(256)] == [3] * 64 + [2] * 192
        assert 70_000 in {one.id for part in range(256) for one in ring.nodes(part)}
        assert ring.replicas == 3

    def test_a_builder_that_was_never_rebalanced(self, tmp_path: Path) -> None:
        made = builder(even(3, 1, 1), path=tmp_path / "x.builder")
        made.save()
        assert not (tmp_path / "x.ring").exists()
        again = Builder.load(tmp_path / "x.builder")
        assert len(again.devices) == 3 and not again.balanced

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_damage_is_refused(self, saved: Builder, tmp_path: Path, data: st.DataObject) -> None:
        for suffix, read in ((".ring", Ring.load), (".builder", Builder.load)):
            path = tmp_path / f"bad{suffix}"
            whole = saved.path.with_suffix(suffix).read_bytes()
            place = data.draw(st.integers(0, len(whole) - 1))
            kind = data.draw(st.sampled_from(["flip", "cut", "add"]))
            bad = bytearray(whole)
            if kind == "flip":
                bad[place] ^= 1 << data.draw(st.integers(0, 7))
            elif kind == "cut":
                del bad[place:]
            else:
                bad += whole[: place + 1]
            path.write_bytes(bad)
            with pytest.raises(BadFile, match=str(path)):
                read(path)

    def test_other_files_are_refused(self, saved: Builder, tmp_path: Path) -> None:
        with pytest.raises(BadFile, match="is the file of a builder, not of a ring"):
            Ring.load(saved.path)
        (tmp_path / "text").write_text("a text that is long enough to be a header of some kind")
        with pytest.raises(BadFile, match="no file of a ring"):
            Ring.load(tmp_path / "text")
        data = bytearray(saved.path.read_bytes())
        data[8] = 9
        saved.path.write_bytes(data)
        with pytest.raises(BadFile, match="version 9 of the format"):
            Builder.load(saved.path)

    def test_a_failed_write_leaves_the_old_file(
        self, saved: Builder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = {path.name: path.read_bytes() for path in saved.path.parent.iterdir()}

        def broken(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="No space"):
            saved.save()
        assert {path.name: path.read_bytes() for path in saved.path.parent.iterdir()} == before


class TestFileRings:
    POLICIES = (StoragePolicy("standard", 0, True), StoragePolicy("coded", 2))

    def test_names(self, tmp_path: Path) -> None:
        for name in ("account", "container", "object", "object-2"):
            made = builder(even(3, 1, 1), path=tmp_path / f"{name}.builder")
            made.rebalance(1)
            made.save()
        rings = FileRings(tmp_path, self.POLICIES)
        found = [rings.account, rings.container, rings.object(0), rings.object(2)]
        assert len({ring.facts.salt for ring in found}) == 4
        with pytest.raises(LookupError, match="no storage policy 1"):
            rings.object(1)

    def test_missing(self, tmp_path: Path, saved: Builder) -> None:
        rings = FileRings(tmp_path, self.POLICIES)
        with pytest.raises(NoRing, match=r"account\.ring"):
            _ = rings.account
        with pytest.raises(LookupError, match=r"object-2\.ring"):
            rings.object(2)

    def test_a_changed_file_is_read_again(self, tmp_path: Path, saved: Builder) -> None:
        time = [0.0]
        rings = FileRings(tmp_path, self.POLICIES, period=2.0, monotonic=lambda: time[0])
        first = rings.object(0)
        add(saved, 1, 7, 99, 100.0)
        saved.rebalance(1)
        saved.save()
        assert rings.object(0) is first
        time[0] = 2.0
        second = rings.object(0)
        assert second.version > first.version
        time[0] = 4.0
        assert rings.object(0) is second

    def test_damaged_or_lost_files_leave_the_ring_in_force(
        self, tmp_path: Path, saved: Builder, caplog: pytest.LogCaptureFixture
    ) -> None:
        time = [0.0]
        rings = FileRings(tmp_path, self.POLICIES, period=2.0, monotonic=lambda: time[0])
        first = rings.object(0)
        path = tmp_path / "object.ring"
        whole = path.read_bytes()
        path.write_bytes(whole[:-3])
        time[0] = 3.0
        with caplog.at_level(logging.WARNING):
            assert rings.object(0) is first
            time[0] = 6.0
            assert rings.object(0) is first
        assert len(caplog.records) == 1 and "damaged" in caplog.text
        path.unlink()
        time[0] = 9.0
        assert rings.object(0) is first
        path.write_bytes(whole)
        time[0] = 12.0
        assert rings.object(0).version == first.version
        assert rings.object(0) is not first

    def test_damage_at_first_is_told(self, tmp_path: Path, saved: Builder) -> None:
        (tmp_path / "object.ring").write_bytes(b"ALTORING and nothing else that is of use")
        with pytest.raises(BadFile):
            FileRings(tmp_path, self.POLICIES).object(0)


def test_sealed_files_hold_what_was_written(tmp_path: Path) -> None:
    numbers = np.arange(5, dtype=np.uint16)
    sealed.write(
        tmp_path / "x", "ring", {"word": "é"}, [("H", numbers.data), ("I", numbers.astype(np.uint32).data)]
    )
    facts, arrays = sealed.read(tmp_path / "x", "ring", dict[str, str])
    assert facts == {"word": "é"}
    assert [list(array) for array in arrays] == [[0, 1, 2, 3, 4]] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
