"""Splits containers that grew large, moves lines to where the map wants them, and gives small shards up (`shards`).

`Sharder.tend` is one look at one copy; the daemon calls it for every container's copy again and again, and says of one
copy of each container that it leads. Whatever is cut off is taken up by the next look:

- Splitting (the leader): plan the ranges, make their shards, fill them from here, and again with what came meanwhile,
  until little comes; then put them into the map and take them out of the plan, by one record. Nothing is taken away
  from anybody before the map says so.
- Giving up a shard (its leader): plan it, bring its lines to its neighbour (or to the root, when it is the last), then
  take it out of the map and the plan.
- Strays (every copy): lines that the map wants elsewhere are recorded there and, when they did not change meanwhile,
  dropped here. What was brought to a new shard already is dropped at once.
- Reporting (the leader): the root learns what its shard counts.

Everything recorded elsewhere has to be there on most copies before it counts: that is what `Others` promises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import quote, unquote

from altostack.objectstore.ledger import lines, shards
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.ledger.lines import MAP, PLAN
from altostack.objectstore.ledger.moving import batches, changes, drop, measure, some
from altostack.objectstore.ledger.shards import CLEAVING, SHRINKING, Range
from altostack.objectstore.storage import Dated, Info, Query, Row, Spot, Subdir

_FEW: Final = 1000  # changes after which filling is as good as done
_ROUNDS: Final = 10  # of filling in one look


class Others(Protocol):
    """Containers wherever their copies are: what the daemon lends. Every method raises StorageError."""

    def create(self, account: str, container: str, policy: int, metadata: Dated) -> None:
        """Make it on most of its devices; nothing is wrong when it is there."""
        ...

    def record(self, account: str, container: str, rows: Sequence[Row]) -> None:
        """Record lines on most of its copies: all of them in one call of `Node.record` each. Raises Missing."""
        ...

    def list(self, account: str, container: str, query: Query) -> Sequence[Row | Subdir] | None:
        """As a copy lists it; None when most copies say that there is no such container."""
        ...

    def destroy(self, account: str, container: str) -> None:
        """Delete it on all copies that can be reached, but for those that still have lines."""
        ...


@dataclass
class Done:
    """What one look did. state: as `Info.state`. trouble: what needs a person."""

    state: str = "unsharded"
    planned: int = 0
    filled: int = 0  # lines brought to shards that are not in the map yet, or from one that leaves it
    activated: int = 0
    moved: int = 0  # strays brought to where they belong
    dropped: int = 0
    shrunk: int = 0
    destroyed: int = 0
    reported: int = 0
    trouble: list[str] = field(default_factory=list)

    @property
    def changed_map(self) -> bool:
        """Whether those who remember the container have to look anew (`Store.epoch`)."""
        return bool(self.activated or self.shrunk)


@dataclass(frozen=True)
class _Place:
    """What the look is at. root: account and container of the root, which may be the container itself."""

    spot: Spot
    info: Info
    root: tuple[str, str]
    known: list[Range]
    plan: list[Row]

    @property
    def is_root(self) -> bool:
        return (self.info.account, self.info.container) == self.root

    @property
    def account(self) -> str:
        return shards.hidden(self.root[0])

    @property
    def own(self) -> list[Range]:
        """The ranges that are this shard's; none of a root, or of a shard that is given up."""
        return [] if self.is_root else [one for one in self.known if one.container == self.info.container]

    @property
    def given_up(self) -> bool:
        """Whether it was a shard. One that is not in the map may as well be new, or the map that was told be old."""
        return not self.own and bool(self.info.metadata.get(shards.GIVEN_UP, ("", ""))[0])


class Sharder:
    """split: objects over which a container is split. shrink: objects under which a shard is given up."""

    def __init__(self, ledgers: Ledgers, others: Others, *, split: int, shrink: int | None = None) -> None:
        if split < 2:
            raise ValueError("a container cannot be split at fewer than two objects")
        self._ledgers, self._others = ledgers, others
        self._split = split
        self._shrink = split // 5 if shrink is None else shrink

    def tend(self, spot: Spot, *, leads: bool) -> Done:
        """Look at a copy of a container. leads: no other copy of it does what only one is to do.

        Raises Missing, and what `Others` raises: then a later look goes on.
        """
        info = self._ledgers.facts(spot)
        done = Done(info.state)
        place = self._place(spot, info)
        if place is None:
            self._orphan(spot, info, leads, done)
            return done
        if not place.is_root and not place.own and not place.given_up:
            return done
        self._move_strays(place, done)
        if info.gone and place.is_root:
            if leads:
                self._clear_map(place, done)
        elif leads:
            self._lead(place, done)
        return done

    def _place(self, spot: Spot, info: Info) -> _Place | None:
        """None for a shard whose root is not there."""
        root = root_of(info)
        if root == (info.account, info.container):
            plan = self._own(spot, PLAN)
            return _Place(spot, info, root, shards.ranges(self._own(spot, MAP)), plan)
        planned = self._others.list(*root, shards.plan_query())
        told = self._others.list(*root, shards.map_query())
        if told is None or planned is None:
            return None
        return _Place(spot, info, root, shards.ranges(told), _rows(planned))

    def _own(self, spot: Spot, shelf: int) -> list[Row]:
        with self._ledgers.database(spot, "container") as database:
            return _rows(database.list(Query(limit=1_000_000_000, policy=shelf)))

    # ---- what every copy does

    def _move_strays(self, place: _Place, done: Done) -> None:
        if place.is_root and not place.known:
            return
        targets: list[tuple[str, str | None, tuple[str, str]]] = [
            (one.lower, one.upper, (place.account, one.container))
            for one in place.known
            if place.is_root or one.container != place.info.container
        ]
        if not place.known:  # everything went back to the root
            targets = [("", None, place.root)]
        for lower, upper, target in targets:
            with self._ledgers.database(place.spot, "container") as database:
                brought = database.point(_filled(CLEAVING, lower, upper, target), "fill")
                for table, batch in batches(database, lower, upper):
                    fresh = [line for line, seq in batch if seq > brought]
                    if fresh:
                        self._others.record(*target, [lines.to_row(line) for line in fresh])
                        done.moved += len(fresh)
                    done.dropped += drop(database, table, batch)

    # ---- what one copy does

    def _lead(self, place: _Place, done: Done) -> None:
        if place.given_up:
            if not place.info.gone:
                self._others.destroy(place.account, place.info.container or "")
                done.destroyed += 1
            return
        if not place.is_root:
            self._report(place, done)
        mine = [row for row in place.plan if self._is_mine(place, row)]
        if mine:
            self._go_on(place, mine, done)
        elif not place.plan and (not place.is_root or not place.known):
            if place.info.count > self._split:
                self._plan_split(place, done)
            elif not place.is_root and place.info.count < self._shrink:
                self._plan_shrinking(place, done)

    def _is_mine(self, place: _Place, row: Row) -> bool:
        """Whether the plan's line is carried out from here."""
        if row.etag == SHRINKING:
            return row.content_type == place.info.container
        source = shards.owner(place.known, row.name) if row.name else None
        if source is None:
            return place.is_root
        return source.container == place.info.container and not place.is_root

    def _plan_split(self, place: _Place, done: Done) -> None:
        bounds: list[tuple[str, str | None]] = [(one.lower, one.upper) for one in place.own] or [("", None)]
        now = self._ledgers.clock.now()
        planned: list[Row] = []
        for lower, upper in bounds:
            pieces = self.split_points(place.spot, lower, upper)
            for name, count, size in pieces if place.is_root else pieces[1:]:
                planned.append(
                    Row(
                        name=name, timestamp=now, policy=PLAN, etag=CLEAVING, count=count, size=size,
                        content_type=_shard_name(place.root, name, now), meta_timestamp=now,
                    )
                )  # fmt: skip
        if planned:
            self._others.record(*place.root, planned)
            done.planned += len(planned)
            self._go_on(place, planned, done)

    def split_points(
        self, spot: Spot, lower: str = "", upper: str | None = None
    ) -> list[tuple[str, int, int]]:
        """Pieces of about equal count, none over half of what makes a container be split.

        (Lower bound, objects, bytes) of each; the first lower bound is the one given. Raises Missing.
        """
        with self._ledgers.database(spot, "container") as database:
            with database.reading() as sql:
                policy = sql.execute("SELECT policy FROM facts").fetchone()[0]
                whole = measure(sql, policy, lower, upper)
            if not whole[0]:
                return [(lower, 0, 0)]
            pieces = -(-whole[0] // max(1, self._split // 2))
            size = -(-whole[0] // pieces)
            found, start = [], lower
            while True:  # each piece by itself, so that others get their turn
                with database.reading() as sql:
                    last = sql.execute(
                        "SELECT name FROM live WHERE shelf = ? AND name > ? ORDER BY shelf, name LIMIT 1 OFFSET ?",
                        (policy, start, size - 1),
                    ).fetchone()
                    end = last[0] if last is not None and (upper is None or last[0] < upper) else upper
                    if end is not None and not some(sql, policy, end, upper):
                        end = upper  # nothing comes after it
                    found.append((start, *measure(sql, policy, start, end)))
                if end == upper or end is None:
                    return found
                start = end

    def _plan_shrinking(self, place: _Place, done: Done) -> None:
        own = place.own[0]
        target = _neighbour(place, own)
        if target is not None and target.row.count + place.info.count > self._split // 2:
            return
        now = self._ledgers.clock.now()
        planned = Row(
            name=own.lower, timestamp=now, policy=PLAN, etag=SHRINKING, content_type=own.container,
            meta_timestamp=now,
        )  # fmt: skip
        self._others.record(*place.root, [planned])
        done.planned += 1
        self._go_on(place, [planned], done)

    def _go_on(self, place: _Place, plan: list[Row], done: Done) -> None:
        shrinking = [row for row in plan if row.etag == SHRINKING]
        cleaving = [row for row in plan if row.etag == CLEAVING]
        if shrinking:
            self._give_up(place, shrinking, done)
        if cleaving:
            self._cleave(place, cleaving, done)

    def _cleave(self, place: _Place, plan: list[Row], done: Done) -> None:
        """Fill the planned shards, and put them into the map when they have everything but a little."""
        wanted = shards.ranges([*plan, *(one.row for one in place.known)])
        planned = {row.content_type for row in plan}
        metadata = {shards.ROOT: ("/".join(quote(one, safe="") for one in place.root), plan[0].timestamp)}
        filled = True
        for one in wanted:
            if one.container in planned:
                target = (place.account, one.container)
                self._others.create(*target, place.info.policy or 0, metadata)
                filled = self._fill(CLEAVING, place.spot, one.lower, one.upper, target, done) and filled
        if not filled:
            return
        now = self._ledgers.clock.now()
        rows = [_renewed(row, now, MAP) for row in plan] + [
            _renewed(row, now, PLAN, deleted=True) for row in plan
        ]
        self._others.record(*place.root, rows)
        done.activated += len(plan)

    def _give_up(self, place: _Place, plan: list[Row], done: Done) -> None:
        if not place.own:
            return
        own = place.own[0]
        neighbour = _neighbour(place, own)
        target = place.root if neighbour is None else (place.account, neighbour.container)
        if not self._fill(SHRINKING, place.spot, own.lower, own.upper, target, done):
            return
        now = self._ledgers.clock.now()
        self._others.create(
            place.account, own.container, place.info.policy or 0, {shards.GIVEN_UP: ("true", now)}
        )
        again = self._place(place.spot, place.info)
        if again is None or again.known != place.known:
            return  # somebody else may have to take it over now
        rows = [_renewed(row, now, PLAN, deleted=True) for row in plan]
        if neighbour is None or own.lower:
            rows.append(_renewed(own.row, now, MAP, deleted=True))
        else:  # the first range: the next one begins where it began
            rows.append(_renewed(own.row, now, MAP, container=neighbour.container))
            rows.append(_renewed(neighbour.row, now, MAP, deleted=True))
        self._others.record(*place.root, rows)
        done.shrunk += 1

    def _fill(
        self, purpose: str, spot: Spot, lower: str, upper: str | None, target: tuple[str, str], done: Done
    ) -> bool:
        """Bring the range's lines to a container; whether it has all but a few that come right now."""
        name = _filled(purpose, lower, upper, target)
        with self._ledgers.database(spot, "container") as database:
            point = database.point(name, "fill")
            for _ in range(_ROUNDS):
                with database.reading() as sql:
                    newest = sql.execute("SELECT seq FROM facts").fetchone()[0]
                source = changes(database, point, lower, upper) if point else batches(database, lower, upper)
                for _, batch in source:
                    self._others.record(*target, [lines.to_row(line) for line, _ in batch])
                    done.filled += len(batch)
                with database.transaction():
                    database.set_point(name, "fill", newest, self._ledgers.clock.now())
                if newest - point <= _FEW and point:
                    return True
                point = newest
                with database.reading() as sql:
                    if sql.execute("SELECT seq FROM facts").fetchone()[0] == newest:
                        return True
        return False

    def _report(self, place: _Place, done: Done) -> None:
        own = place.own[0]
        if (own.row.count, own.row.size) != (place.info.count, place.info.bytes):
            now, count, size = self._ledgers.clock.now(), place.info.count, place.info.bytes
            row = _renewed(own.row, now, MAP, touch=False, count=count, size=size)
            self._others.record(*place.root, [row])
            done.reported += 1

    def _clear_map(self, place: _Place, done: Done) -> None:
        """The root is deleted: so are its shards, unless something came into one after all."""
        for one in place.known:
            if self._others.list(place.account, one.container, Query(limit=1)):
                done.trouble.append(
                    f"{'/'.join(place.root)} is deleted, its shard {one.container} has objects"
                )
                return
        now = self._ledgers.clock.now()
        rows = [_renewed(one.row, now, MAP, deleted=True) for one in place.known]
        rows += [_renewed(row, now, PLAN, deleted=True) for row in place.plan]
        if rows:
            self._others.record(*place.root, rows)
            done.shrunk += len(place.known)

    def _orphan(self, spot: Spot, info: Info, leads: bool, done: Done) -> None:
        with self._ledgers.database(spot, "container") as database:
            empty = database.empty()
        if not empty:
            done.trouble.append(f"{info.account}/{info.container} has objects, but its root is not there")
        elif leads and not info.gone:
            self._others.destroy(info.account, info.container or "")
            done.destroyed += 1


def root_of(info: Info) -> tuple[str, str]:
    """Account and container of a shard's root; of any other container its own."""
    said = info.metadata.get(shards.ROOT, ("", ""))[0]
    if said and info.account.startswith(shards.HIDDEN):
        account, _, container = said.partition("/")
        return unquote(account), unquote(container)
    return info.account, info.container or ""


def _neighbour(place: _Place, own: Range) -> Range | None:
    """Whoever takes over a range: the one before, of the first the one after; None when it is the last range."""
    at = place.known.index(own)
    if len(place.known) == 1:
        return None
    return place.known[at - 1] if at else place.known[1]


def _shard_name(root: tuple[str, str], lower: str, now: str) -> str:
    summed = hashlib.md5(f"{root[0]}/{root[1]}\0{lower}".encode(), usedforsecurity=False).hexdigest()
    return f"{summed}-{now}"


def _filled(purpose: str, lower: str, upper: str | None, target: tuple[str, str]) -> str:
    """How the point is called up to which a range's lines were brought to a container."""
    return "\n".join((purpose, lower, "" if upper is None else f"up to {upper}", *target))


def _renewed(
    row: Row,
    now: str,
    shelf: int,
    *,
    deleted: bool = False,
    container: str = "",
    touch: bool = True,
    count: int | None = None,
    size: int | None = None,
) -> Row:
    """The line of a range anew; ``touch``: its place changes, not what it counts alone."""
    return Row(
        name=row.name, timestamp=now if touch else row.timestamp, policy=shelf, deleted=deleted,
        content_type=container or row.content_type, etag=row.etag if shelf == PLAN else "",
        count=row.count if count is None else count, size=row.size if size is None else size, meta_timestamp=now,
    )  # fmt: skip


def _rows(found: Iterable[Row | Subdir]) -> list[Row]:
    return [one for one in found if isinstance(one, Row)]
