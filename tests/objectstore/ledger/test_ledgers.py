"""Accounts and containers as `storage.Node` wants them."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import msgspec
import pytest

from altostack.objectstore.config import Policy, Settings
from altostack.objectstore.ledger.database import Corrupt, translated
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import (
    DeviceFull,
    DeviceGone,
    Missing,
    NotEmpty,
    Query,
    Row,
    Superseded,
)
from tests.objectstore.ledger.conftest import Time, at, row, spot

C = spot("a/c")
A = spot("a")


def names(ledgers: Ledgers, **query: object) -> list[str]:
    return [one.name for one in ledgers.list(C, "a", "c", Query(**query))]  # type: ignore[arg-type] # fields


class TestContainers:
    def test_create_says_whether_it_was_not_there(self, ledgers: Ledgers) -> None:
        assert ledgers.create(C, "a", "c", at(1), metadata={"x-container-meta-k": ("v", at(1))})
        assert not ledgers.create(C, "a", "c", at(2))
        info = ledgers.info(C, "a", "c")
        assert (info.created, info.put, info.deleted, info.gone) == (at(1), at(2), "", False)
        assert (info.account, info.container, info.policy, info.count, info.bytes) == ("a", "c", 0, 0, 0)
        assert info.metadata == {"x-container-meta-k": ("v", at(1))}
        assert len(info.id) == 32 and info.state == "unsharded"

    def test_an_older_put_changes_nothing(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(5))
        assert not ledgers.create(C, "a", "c", at(3))
        assert ledgers.info(C, "a", "c").put == at(5)

    def test_the_file_lies_where_others_look_for_it(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.create(A, "a", None, at(1))
        top = ledgers.devices / "d1"
        assert (top / f"containers/7/{C.digest[-3:]}/{C.digest}/{C.digest}.db").is_file()
        assert (top / f"accounts/7/{A.digest[-3:]}/{A.digest}/{A.digest}.db").is_file()
        assert not list((top / "tmp").iterdir())

    def test_missing(self, ledgers: Ledgers) -> None:
        for ask in (
            lambda: ledgers.info(C, "a", "c"),
            lambda: ledgers.change(C, "a", "c", at(1), {}),
            lambda: ledgers.destroy(C, "a", "c", at(1)),
            lambda: ledgers.list(C, "a", "c", Query()),
            lambda: ledgers.record(C, "a", "c", [row("o")]),
        ):
            with pytest.raises(Missing) as caught:
                ask()
            assert caught.value.timestamp is None

    def test_a_device_that_is_not_there(self, ledgers: Ledgers) -> None:
        with pytest.raises(DeviceGone):
            ledgers.create(spot("a/c", "d9"), "a", "c", at(1))
        with pytest.raises(DeviceGone):
            ledgers.info(spot("a/c", "d9"), "a", "c")
        assert not (ledgers.devices / "d9").exists()

    def test_a_folder_is_no_mount_point(self, ledgers: Ledgers) -> None:
        strict = Ledgers(ledgers.devices, Settings(mount_check=True), clock=Clock())
        with pytest.raises(DeviceGone):
            strict.create(C, "a", "c", at(1))

    def test_metadata_goes_by_its_own_time(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1), metadata={"k": ("one", at(1)), "l": ("x", at(5))})
        ledgers.change(C, "a", "c", at(3), {"K": ("three", at(3)), "l": ("y", at(3))})
        ledgers.change(C, "a", "c", at(2), {"k": ("two", at(2)), "m": ("", at(2))})
        assert ledgers.info(C, "a", "c").metadata == {
            "k": ("three", at(3)), "l": ("x", at(5)), "m": ("", at(2))
        }  # fmt: skip

    def test_destroy(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1), metadata={"k": ("v", at(1))})
        ledgers.record(C, "a", "c", [row("o", 2)])
        with pytest.raises(NotEmpty):
            ledgers.destroy(C, "a", "c", at(3))
        ledgers.record(C, "a", "c", [row("o", 3, deleted=True)])
        with pytest.raises(Superseded) as newer:
            ledgers.destroy(C, "a", "c", at(1))
        assert newer.value.timestamp == at(1)
        assert ledgers.destroy(C, "a", "c", at(4))
        assert not ledgers.destroy(C, "a", "c", at(5))
        with pytest.raises(Missing) as gone:
            ledgers.info(C, "a", "c")
        assert gone.value.timestamp == at(5)
        assert ledgers.facts(C).metadata == {"k": ("", at(4))}

    def test_created_again(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1), metadata={"k": ("v", at(1))})
        ledgers.destroy(C, "a", "c", at(4))
        with pytest.raises(Superseded) as older:
            ledgers.create(C, "a", "c", at(3))
        assert older.value.timestamp == at(4)
        assert ledgers.create(C, "a", "c", at(6))
        info = ledgers.info(C, "a", "c")
        assert (info.created, info.put, info.deleted, info.changed) == (at(1), at(6), at(4), at(6))
        assert info.metadata["k"] == ("", at(4))

    def test_an_object_that_came_too_late_keeps_its_container(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.destroy(C, "a", "c", at(4))
        ledgers.record(C, "a", "c", [row("o", 3)])
        assert not ledgers.info(C, "a", "c").gone
        assert names(ledgers) == ["o"]

    def test_policies(self, tmp_path: Path, ledgers: Ledgers) -> None:
        policies = {"one": Policy(index=0), "two": Policy(index=2, default=True)}
        ledgers = Ledgers(ledgers.devices, Settings(policies=policies), clock=Clock())
        ledgers.create(C, "a", "c", at(1))
        assert ledgers.info(C, "a", "c").policy == 2
        assert not ledgers.create(C, "a", "c", at(2), policy=2)
        with pytest.raises(Superseded):
            ledgers.create(C, "a", "c", at(3), policy=0)
        assert ledgers.info(C, "a", "c").put == at(2)
        ledgers.destroy(C, "a", "c", at(4))
        assert ledgers.create(C, "a", "c", at(5), policy=0)
        assert ledgers.info(C, "a", "c").policy == 0

    def test_lines_of_another_policy_are_not_listed_but_keep_the_container(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("o", 2, policy=1), row("p", 2)])
        assert names(ledgers) == ["p"] and names(ledgers, policy=1) == ["o"]
        assert ledgers.info(C, "a", "c").count == 1
        ledgers.record(C, "a", "c", [row("p", 3, deleted=True)])
        with pytest.raises(NotEmpty):
            ledgers.destroy(C, "a", "c", at(5))


class TestLines:
    def test_counts_follow_the_lines(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("o", 2, size=10), row("p", 2, size=5)])
        ledgers.record(
            C, "a", "c", [row("o", 3, size=1), row("p", 4, deleted=True), row("q", 2, deleted=True)]
        )
        info = ledgers.info(C, "a", "c")
        assert (info.count, info.bytes) == (1, 1)
        ledgers.record(C, "a", "c", [row("p", 5, size=7)])
        info = ledgers.info(C, "a", "c")
        assert (info.count, info.bytes) == (2, 8)

    def test_an_older_line_changes_nothing(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("o", 3, size=10), row("o", 2, size=4), row("o", 1, deleted=True)])
        assert ledgers.list(C, "a", "c", Query()) == [row("o", 3, size=10)]

    def test_a_post_changes_type_and_time(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        posted = row("o", 2, content_type="image/png", type_timestamp=at(4), meta_timestamp=at(6))
        ledgers.record(C, "a", "c", [posted, row("o", 3, size=9, content_type="text/html", etag="new")])
        (found,) = ledgers.list(C, "a", "c", Query())
        assert found == row(
            "o", 3, size=9, etag="new", content_type="image/png", type_timestamp=at(4), meta_timestamp=at(6)
        )
        ledgers.record(C, "a", "c", [row("o", 7)])
        assert ledgers.list(C, "a", "c", Query()) == [row("o", 7)]

    def test_at_one_instant_a_deletion_wins(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("o", 2, deleted=True), row("o", 2)])
        assert names(ledgers) == []

    def test_names_of_any_kind(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        wanted = ["\x00v", "a'; --", "a\nb", "a\x00b", "é", "\ud7ff", "\ue000", "𐍈", "\U0010ffff"]
        ledgers.record(C, "a", "c", [row(name) for name in wanted])
        assert names(ledgers) == sorted(wanted)

    def test_many_at_once(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", (row(f"{number:05}") for number in range(12_000)))
        assert ledgers.info(C, "a", "c").count == 12_000


class TestAccounts:
    def test_made_by_its_first_container(self, ledgers: Ledgers) -> None:
        ledgers.record(A, "a", None, [row("c", 2, size=9, count=3, meta_timestamp=at(4))])
        info = ledgers.info(A, "a", None)
        assert (info.containers, info.count, info.bytes, info.policy) == (1, 3, 9, None)
        assert info.per_policy == {0: (1, 3, 9)}

    def test_counts_by_policy(self, ledgers: Ledgers) -> None:
        ledgers.create(A, "a", None, at(1))
        ledgers.record(A, "a", None, [row("c", 2, size=9, count=3), row("d", 2, size=1, count=1, policy=1)])
        ledgers.record(A, "a", None, [row("d", 2, size=4, count=2, policy=1)])
        info = ledgers.info(A, "a", None)
        assert info.per_policy == {0: (1, 3, 9), 1: (1, 2, 4)}
        assert (info.containers, info.count, info.bytes) == (2, 5, 13)
        assert [one.name for one in ledgers.list(A, "a", None, Query(policy=1))] == ["d"]

    def test_newer_counts_win_whatever_comes_first(self, ledgers: Ledgers) -> None:
        ledgers.record(A, "a", None, [row("c", 2, size=9, count=3, meta_timestamp=at(8))])
        ledgers.record(A, "a", None, [row("c", 2, size=5, count=1, meta_timestamp=at(7))])
        assert ledgers.info(A, "a", None).count == 3

    def test_a_put_that_counts_nothing_leaves_counts_as_they_are(self, ledgers: Ledgers) -> None:
        ledgers.record(A, "a", None, [row("c", 2, size=9, count=3)])
        ledgers.record(A, "a", None, [row("c", 5, size=0, count=0)])
        (found,) = ledgers.list(A, "a", None, Query())
        assert isinstance(found, Row)
        assert (found.timestamp, found.count, found.size) == (at(5), 3, 9)

    def test_account_row_follows_the_container(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("o", 2)])
        ledgers.record(A, "a", None, [ledgers.account_row(C, "a", "c")])
        assert ledgers.info(A, "a", None).count == 1
        ledgers.record(C, "a", "c", [row("o", 3, deleted=True)])
        ledgers.record(A, "a", None, [ledgers.account_row(C, "a", "c")])
        info = ledgers.info(A, "a", None)
        assert (info.containers, info.count) == (1, 0)
        ledgers.destroy(C, "a", "c", at(9))
        ledgers.record(A, "a", None, [ledgers.account_row(C, "a", "c")])
        assert ledgers.info(A, "a", None).containers == 0
        assert ledgers.list(A, "a", None, Query()) == []

    def test_a_deleted_account_can_be_walked_and_comes_back_when_it_is_empty(self, ledgers: Ledgers) -> None:
        ledgers.create(A, "a", None, at(1))
        ledgers.record(A, "a", None, [row("c", 2)])
        assert ledgers.destroy(A, "a", None, at(5))
        with pytest.raises(Missing):
            ledgers.list(A, "a", None, Query())
        assert [one.name for one in ledgers.list(A, "a", None, Query(), gone=True)] == ["c"]
        with pytest.raises(Superseded):
            ledgers.create(A, "a", None, at(8))
        ledgers.record(A, "a", None, [row("c", 6, deleted=True)])
        assert ledgers.create(A, "a", None, at(8))


class TestFiles:
    def test_a_damaged_database_is_put_aside(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.close()
        path = ledgers.folder(C, "container") / f"{C.digest}.db"
        path.write_bytes(b"no database at all" * 500)
        with pytest.raises(DeviceGone):
            ledgers.info(C, "a", "c")
        aside = ledgers.devices / "d1/quarantined/containers" / C.digest
        assert (aside / f"{C.digest}.db").exists() and not path.exists()
        with pytest.raises(Missing):
            ledgers.info(C, "a", "c")
        assert ledgers.create(C, "a", "c", at(2))

    def test_damage_that_shows_while_it_is_open(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row(f"{number:05}" * 5) for number in range(3000)])
        assert ledgers.info(C, "a", "c").count == 3000
        ledgers.close()
        path = ledgers.folder(C, "container") / f"{C.digest}.db"
        with open(path, "r+b") as file:
            file.seek(12 * 4096)
            file.write(os.urandom(os.path.getsize(path) - 12 * 4096))
        with pytest.raises(DeviceGone):
            ledgers.list(C, "a", "c", Query())
        assert not path.exists()

    @pytest.mark.parametrize("column", ["etag", "content_type"])
    def test_damage_inside_of_a_text(self, ledgers: Ledgers, column: str) -> None:
        """Its structure is sound, and SQLite finds nothing wrong; but what is to be text is none."""
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("o", 2)])
        assert ledgers.info(C, "a", "c").count == 1
        ledgers.close()
        path = ledgers.folder(C, "container") / f"{C.digest}.db"
        with sqlite3.connect(path) as sql:
            sql.execute(f"UPDATE live SET {column} = CAST(x'd8ff41' AS TEXT)")
        sql.close()
        with pytest.raises(DeviceGone):
            ledgers.list(C, "a", "c", Query())
        assert not path.exists()

    def test_what_sqlite_says_of_damage_need_not_be_text(self) -> None:
        with pytest.raises(Corrupt), translated():
            b"row 5 missing from index \xd8\xff".decode()

    def test_another_file_in_its_place(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        first = ledgers.info(C, "a", "c").id
        folder = ledgers.folder(C, "container")
        folder.rename(folder.with_name("elsewhere"))
        with pytest.raises(Missing):
            ledgers.info(C, "a", "c")
        ledgers.create(C, "a", "c", at(2))
        assert ledgers.info(C, "a", "c").id != first

    def test_many_databases_are_not_all_kept_open(self, ledgers: Ledgers) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(150):
            ledgers.create(spot(f"a/{number}"), "a", str(number), at(1))
            ledgers.record(spot(f"a/{number}"), "a", str(number), [row("o")])
        assert len(os.listdir("/proc/self/fd")) - before <= 64 * 4
        for number in range(150):
            assert ledgers.info(spot(f"a/{number}"), "a", str(number)).count == 1

    def test_forked_processes_open_their_own(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("before")])
        child = os.fork()
        if not child:
            status = 1
            try:
                ledgers.record(C, "a", "c", [row("child")])
                status = 0 if names(ledgers) == ["before", "child"] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        ledgers.record(C, "a", "c", [row("parent")])
        assert names(ledgers) == ["before", "child", "parent"]

    def test_a_full_disk(self, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
        ledgers.create(C, "a", "c", at(1))

        def full(*arguments: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(DeviceFull):
                ledgers.record(C, "a", "c", [row("o")])
        ledgers.record(C, "a", "c", [row("p")])
        assert names(ledgers) == ["p"]

    def test_a_full_disk_can_be_read(self, ledgers: Ledgers) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.record(C, "a", "c", [row("first")])
        assert names(ledgers) == ["first"]
        ledgers.record(C, "a", "c", [row(f"{number:03}", content_type="x" * 200) for number in range(200)])
        with ledgers.database(C, "container") as database:
            sql = database._sql
            pages = sql.execute("PRAGMA page_count").fetchone()[0]
            sql.execute(f"PRAGMA max_page_count = {pages}")
            assert names(ledgers) == ["first"]
            with pytest.raises(DeviceFull):
                ledgers.change(C, "a", "c", at(2), {"k": ("v" * 9000, at(2))})
            sql.execute("PRAGMA max_page_count = 1000000")
            assert len(names(ledgers)) == 201

    def test_it_is_an_ordinary_database(self, ledgers: Ledgers, time: Time) -> None:
        ledgers.create(C, "a", "c", at(1))
        ledgers.close()
        with sqlite3.connect(ledgers.folder(C, "container") / f"{C.digest}.db") as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def test_rows_travel(self) -> None:
        sent = msgspec.msgpack.encode(row("o"))
        assert msgspec.msgpack.decode(sent, type=Row) == row("o")
