"""What keeps the copies of an account's or container's database alike, one copy on each of its devices.

Every copy has an id, and numbers the changes of its lines. A copy remembers of each other one how far it has that one's
lines (an incoming point), and how far that one has its own (an outgoing point); so an exchange carries what came
since. Lines, metadata and facts are joined, and joining is commutative, associative and idempotent: the copies end up
alike whatever the order of exchanges. Equal marks say that two copies hold the same lines.

`Replication.push` is one exchange as the owner of a database drives it; `Replica` is the other side, of which
everything can be called over the network: arguments and answers are plain or msgspec's.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from altostack.objectstore.ledger import schema
from altostack.objectstore.ledger.database import Corrupt, Database, connect, examine, translated
from altostack.objectstore.ledger.ledgers import Ledgers, put_new, remove
from altostack.objectstore.ledger.lines import Line
from altostack.objectstore.stamp import of_ns
from altostack.objectstore.storage import DeviceGone, Kind, Missing, Spot

BATCH: Final = 1000  # lines sent at a time
_KNOWN: Final = 64  # other copies that a copy remembers
FAR: Final = 50_000  # lines behind which a copy gets the whole file
_COLUMNS: Final = (
    "name, timestamp, size, content_type, etag, {}, policy, count, type_timestamp, meta_timestamp, seq"
)
_SINCE: Final = (
    f"SELECT {_COLUMNS.format(0)} FROM (SELECT * FROM live WHERE seq > ?1 ORDER BY seq LIMIT ?2)"
    f" UNION ALL SELECT {_COLUMNS.format(1)} FROM (SELECT * FROM gone WHERE seq > ?1 ORDER BY seq LIMIT ?2)"
    " ORDER BY seq LIMIT ?2"
)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A copy, but for its lines.

    id: of the copy. created: first put; put, deleted: newest; changed: newest change between being and not being.
    policy_since: when it came to be with that policy. seq: number of its newest line. mark: 32 hex digits that stand
    for all its lines. lines, tombstones: how many there are. points: id of another copy -> how far its lines are here.
    """

    account: str
    container: str | None
    id: str
    created: str
    put: str
    deleted: str
    changed: str
    policy: int | None
    policy_since: str
    metadata: dict[str, tuple[str, str]]
    seq: int
    mark: str
    lines: int
    points: dict[str, int]

    @property
    def gone(self) -> bool:
        """Deleted, and without lines."""
        return self.deleted > self.put and not self.lines


class Batch(msgspec.Struct, frozen=True):
    """Lines in the order of their numbers. seq: of the last one, or what was asked for when there are none."""

    seq: int
    lines: list[Line]


class Replica(Protocol):
    """Another copy: `Replication` of another node, with spot and kind given."""

    def offer(self, state: State) -> State | None:
        """Join facts and metadata; how it is there now. None when there is no database: send the file."""
        ...

    def accept(self, lines: Sequence[Line], source: str, point: int) -> None:
        """Join lines of the copy ``source``, which now is known up to ``point``."""
        ...

    def confirm(self, source: str, points: dict[str, int]) -> None:
        """All lines of copies that ``source`` knows are there now."""
        ...

    def install(self, path: Path) -> None:
        """Take the file (a `snapshot`) for a copy, or join its content with what is there."""
        ...


class Replication:
    """The databases of this machine's devices, as copies. Every method raises DeviceGone."""

    def __init__(self, ledgers: Ledgers) -> None:
        self._ledgers = ledgers

    # ---- looking

    def walk(self, device: str, kind: Kind) -> Iterator[Spot]:
        """Every database of a device, by partition."""
        top = self._ledgers.devices / device / f"{kind}s"
        with translated():
            for part in sorted(int(name) for name in _names(top) if name.isdigit()):
                for suffix in sorted(_names(top / str(part))):
                    for digest in sorted(_names(top / str(part) / suffix)):
                        if (top / str(part) / suffix / digest / f"{digest}.db").exists():
                            yield Spot(device, part, digest)

    def state(self, spot: Spot, kind: Kind) -> State:
        """How a copy is; also a deleted one. Raises Missing."""
        with self._ledgers.database(spot, kind) as database:
            return state(database)

    def since(self, spot: Spot, kind: Kind, point: int, limit: int = BATCH) -> Batch:
        """Lines and tombstones that changed after the change ``point``. Raises Missing."""
        with self._ledgers.database(spot, kind) as database, database.reading() as sql:
            found = sql.execute(_SINCE, (point, limit)).fetchall()
            return Batch(found[-1][-1] if found else point, [_line(one) for one in found])

    # ---- the side that is pushed to

    def offer(self, spot: Spot, kind: Kind, theirs: State) -> State | None:
        """As `Replica.offer`."""
        try:
            with self._ledgers.database(spot, kind) as database:
                join_state(database, theirs)
                return state(database)
        except Missing:
            return None

    def accept(self, spot: Spot, kind: Kind, lines: Sequence[Line], source: str, point: int) -> None:
        """As `Replica.accept`. Raises Missing."""
        now = self._ledgers.clock.now()
        with self._ledgers.database(spot, kind) as database, database.transaction():
            database.merge(lines, now)
            database.set_point(source, "in", point, now)

    def confirm(self, spot: Spot, kind: Kind, source: str, points: dict[str, int]) -> None:
        """As `Replica.confirm`. Raises Missing."""
        now = self._ledgers.clock.now()
        with self._ledgers.database(spot, kind) as database, database.transaction():
            mine = database.info().id
            for id, point in points.items():
                if id != mine:
                    database.set_point(id, "in", point, now)

    def install(self, spot: Spot, kind: Kind, path: Path) -> None:
        """As `Replica.install`. ``path``: on the same device; it is gone afterwards."""
        target = self._ledgers.folder(spot, kind) / f"{spot.digest}.db"
        try:
            if said := examine(path):
                raise Corrupt(said)
            with translated(), contextlib.closing(connect(path)) as file:
                if (state_of(file).container is None) != (kind == "account"):
                    raise Corrupt("another kind of database")
                if not target.exists():
                    self._adopt(file)
            with translated():
                if target.exists() or not put_new(target, path, self._ledgers.devices / spot.device):
                    with contextlib.closing(connect(path)) as file:
                        self._join_file(spot, kind, file)
        except Corrupt as trouble:
            raise DeviceGone(f"what was sent for {spot.digest} is damaged: {trouble}") from trouble
        finally:
            path.unlink(missing_ok=True)

    def _adopt(self, file: sqlite3.Connection) -> None:
        """Make a snapshot a copy of its own: what its origin knows of others' lines is true of it."""
        origin, seq = file.execute("SELECT id, seq FROM facts").fetchone()
        file.execute("DELETE FROM points WHERE direction != 'in'")
        file.execute(
            "INSERT OR REPLACE INTO points (id, direction, point, seen) VALUES (?, 'in', ?, ?)",
            (origin, seq, self._ledgers.clock.now()),
        )
        file.execute("UPDATE facts SET id = ?", (schema.new_id(),))
        file.execute("PRAGMA journal_mode = WAL")

    def _join_file(self, spot: Spot, kind: Kind, file: sqlite3.Connection) -> None:
        theirs = state_of(file)
        with self._ledgers.database(spot, kind) as database:
            join_state(database, theirs)
        point = 0
        while found := file.execute(_SINCE, (point, 5 * BATCH)).fetchall():
            point = found[-1][-1]
            self.accept(spot, kind, [_line(one) for one in found], theirs.id, point)
        self.confirm(spot, kind, theirs.id, theirs.points)

    # ---- the side that pushes

    def push(self, spot: Spot, kind: Kind, other: Replica, *, folder: Path | None = None) -> bool:
        """Bring everything that is here to another copy, and its facts here; whether lines or a file went.

        folder: where a snapshot may lie meanwhile; the device's ``tmp`` by default. Raises Missing, and what ``other``
        raises.
        """
        mine = self.state(spot, kind)
        theirs = other.offer(mine)
        if theirs is None:
            self._send_file(spot, kind, other, folder)
            return True
        with self._ledgers.database(spot, kind) as database:
            join_state(database, theirs)
            point = max(database.point(theirs.id, "out"), theirs.points.get(mine.id, 0))
        moved = False
        if theirs.mark != mine.mark:
            if mine.seq - point > FAR and theirs.lines < mine.lines // 2:
                self._send_file(spot, kind, other, folder)
                return True
            while point < mine.seq:
                batch = self.since(spot, kind, point)
                if not batch.lines:
                    break
                other.accept(batch.lines, mine.id, batch.seq)
                point, moved = batch.seq, True
        if (
            point < mine.seq
            or moved
            or any(theirs.points.get(id, 0) < at for id, at in mine.points.items() if id != theirs.id)
        ):
            other.confirm(mine.id, mine.points | {mine.id: mine.seq})
        with self._ledgers.database(spot, kind) as database:
            if database.point(theirs.id, "out") < mine.seq:
                with database.transaction():
                    database.set_point(theirs.id, "out", mine.seq, self._ledgers.clock.now())
        return moved

    def snapshot(self, spot: Spot, kind: Kind, target: Path) -> None:
        """The whole database as one file, which must not be there yet. Raises Missing."""
        with self._ledgers.database(spot, kind) as database:
            with database.reading():
                pass  # what is recorded is merged
            with translated():  # by a connection of its own: meanwhile others read and write
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.closing(connect(database.path)) as file:
                    file.execute("VACUUM INTO ?", (str(target),))

    def _send_file(self, spot: Spot, kind: Kind, other: Replica, folder: Path | None) -> None:
        target = (folder or self._ledgers.devices / spot.device / "tmp") / f"ledger-{schema.new_id()}"
        try:
            self.snapshot(spot, kind, target)
            other.install(target)
        finally:
            target.unlink(missing_ok=True)

    # ---- forgetting

    def reclaim(self, spot: Spot, kind: Kind, *, before: str | None = None) -> bool:
        """Forget deletions before a time; whether the whole copy is one of them and may be removed.

        before: the reclaim age ago by default. Also gives back the room of an emptied log. Raises Missing.
        """
        if before is None:
            age = self._ledgers.settings.reclaim_age
            before = of_ns(int((self._ledgers.clock.seconds() - age) * 1e9))
        with self._ledgers.database(spot, kind) as database:
            last: tuple[int, str] = (-(1 << 31), "")
            while True:
                with database.transaction() as sql:
                    found = sql.execute(
                        "SELECT shelf, name, timestamp, meta_timestamp, type_timestamp FROM gone"
                        " WHERE (shelf, name) > (?, ?) ORDER BY shelf, name LIMIT 5000", last,
                    ).fetchall()  # fmt: skip
                    database.drop("gone", [one[:2] for one in found if max(one[2:]) < before])
                if not found:
                    break
                last = found[-1][:2]
            with database.transaction() as sql:
                sql.execute("DELETE FROM metadata WHERE value = '' AND timestamp < ?", (before,))
                sql.execute("DELETE FROM points WHERE direction = 'fill' AND seen < ?", (before,))
                for direction in (
                    "in",
                    "out",
                ):  # copies do not meet while they are alike, so age says nothing
                    newest = "SELECT id FROM points WHERE direction = ?1 ORDER BY seen DESC LIMIT ?2"
                    sql.execute(
                        f"DELETE FROM points WHERE direction = ?1 AND id NOT IN ({newest})",
                        (direction, _KNOWN),
                    )
                known = state(database)
            database.shrink()
        return known.gone and known.deleted < before

    def remove(self, spot: Spot, kind: Kind, known: State) -> bool:
        """Remove a copy that is not to be here, if it still is as it was ``known``; whether it was."""
        folder = self._ledgers.folder(spot, kind)
        try:
            with self._ledgers.database(spot, kind) as database, database.alone():
                now = state(database)
                same = (now.id, now.seq, now.mark, now.put, now.deleted, now.metadata) == (
                    known.id, known.seq, known.mark, known.put, known.deleted, known.metadata
                )  # fmt: skip
                if not same or database.recorded():
                    return False
                with translated():
                    remove(folder, self._ledgers.devices / spot.device)
        except Missing:
            return False
        with translated():
            for parent in (folder.parent, folder.parent.parent):
                try:
                    parent.rmdir()
                except OSError:  # it holds others
                    break
        return True

    def audit(self, spot: Spot, kind: Kind) -> None:
        """Read the whole file, and compare totals with the lines.

        A damaged one is put aside (DeviceGone). Raises Missing.
        """
        with self._ledgers.database(spot, kind) as database:
            with database.reading():
                pass  # what is recorded is merged
            with translated(), contextlib.closing(connect(database.path)) as sql:  # others go on meanwhile
                sql.execute("BEGIN")
                if said := schema.damage(sql):
                    raise Corrupt(said)
                found = sql.execute(
                    "SELECT policy, COUNT(*), SUM(count), SUM(size) FROM live GROUP BY policy ORDER BY policy"
                ).fetchall()
                totals = sql.execute(
                    "SELECT policy, lines, objects, bytes FROM totals WHERE lines ORDER BY policy"
                ).fetchall()
                if totals != found:
                    raise Corrupt(f"totals are {totals}, lines make {found}")

    def misplaced(self, spot: Spot, limit: int = BATCH) -> list[Line]:
        """Lines of objects that have another policy than their container. Raises Missing.

        Whoever moves the object records it with the right policy, and takes the line back by a deleted one with the
        same timestamp and the old policy.
        """
        with self._ledgers.database(spot, "container") as database, database.reading() as sql:
            found = sql.execute(
                f"SELECT {_COLUMNS.format(0)} FROM live WHERE shelf IN (SELECT totals.policy FROM totals, facts"
                " WHERE totals.lines AND totals.policy >= 0 AND totals.policy != facts.policy) LIMIT ?",
                (limit,),
            ).fetchall()
        return [_line(one) for one in found]


def state(database: Database) -> State:
    """How a copy is."""
    with database.reading() as sql:
        return state_of(sql)


def state_of(sql: sqlite3.Connection) -> State:
    """How the copy in an open file is. Raises msgspec.ValidationError for what cannot be in one."""
    account, container, id, created, put, deleted, changed, policy, since, seq, mark = sql.execute(
        "SELECT account, container, id, created, put, deleted, changed, policy, policy_since, seq, mark FROM facts"
    ).fetchone()
    found = {
        "account": account, "container": container, "id": id, "created": created, "put": put, "deleted": deleted,
        "changed": changed, "policy": policy, "policy_since": since, "seq": seq, "mark": mark.hex(),
        "metadata": {name: (value, at) for name, value, at in sql.execute("SELECT * FROM metadata")},
        "lines": sql.execute("SELECT coalesce(sum(lines), 0) FROM totals").fetchone()[0],
        "points": dict(sql.execute("SELECT id, point FROM points WHERE direction = 'in'").fetchall()),
    }  # fmt: skip
    checked: State = msgspec.convert(found, State)
    return checked


def join_state(database: Database, theirs: State) -> None:
    """Join facts and metadata of another copy."""
    mine = state(database)
    policy, since = decide(mine, theirs)
    new = {
        "created": min(mine.created, theirs.created),
        "put": max(mine.put, theirs.put),
        "deleted": max(mine.deleted, theirs.deleted),
        "changed": max(mine.changed, theirs.changed),
        "policy": policy,
        "policy_since": since,
    }
    same = all(getattr(mine, name) == value for name, value in new.items())
    if same and theirs.metadata.items() <= mine.metadata.items():
        return
    with database.transaction():
        database.set_facts(**new)
        database.set_metadata(theirs.metadata)


def decide(one: State, other: State) -> tuple[int | None, str]:
    """The policy of a container whose copies differ, and since when: the same whichever is asked first.

    What came to be after the newest deletion counts before what came to be before it; of those that count, the
    earliest, for objects went there first. Source: the rules of the reference implementation's reconciler.
    """
    deleted = max(one.deleted, other.deleted)
    claims = {(one.policy_since, one.policy), (other.policy_since, other.policy)}
    valid = {claim for claim in claims if claim[0] > deleted}
    since, policy = min(valid, key=_order) if valid else max(claims, key=_order)
    return policy, since


def _order(claim: tuple[str, int | None]) -> tuple[str, int]:
    return claim[0], -1 if claim[1] is None else claim[1]


def _line(found: tuple[object, ...]) -> Line:
    """Raises msgspec.ValidationError for what cannot be in a line: damage is not handed on to other copies."""
    name, timestamp, size, content_type, etag, deleted, *rest = found[:-1]
    checked: Line = msgspec.convert((name, timestamp, size, content_type, etag, bool(deleted), *rest), Line)
    return checked


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
