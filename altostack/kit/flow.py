"""Durable lifecycles: what takes longer than a request.

A flow belongs to one row and has named steps; the database holds the name of the current one. A worker claims a
flow by a lease with a fencing token, runs the step outside of any transaction, and commits the step's changes to
the row together with the next step's name. So a worker may die anywhere: whoever claims the flow next runs the
same step again, and every side effect is idempotent and keyed by the row's id. ``destroy`` is reachable from every
step, so undo is delete.

A step reads only its row and frame, mutates them, and returns `hop`, `later`, `wait`, `sleep`, `fail` or `done`. An
exception means retry with back-off until the step's deadline; passing it fails the flow with the step's name.

Invariants: (1) results of a step are committed only under the token that the step was claimed with; (2) a poke
that arrives while a step runs is never lost: ``wait`` becomes "run again"; (3) a signal is consumed in the
transaction that commits what was done with it; (4) a doomed flow runs no step but ``destroy``.
"""

from __future__ import annotations

import logging
import os
import platform
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit import context as contexts
from altostack.kit.db import Database, utcnow

if TYPE_CHECKING:
    from altostack.kit.service import Runtime

log = logging.getLogger(__name__)
R = TypeVar("R")
DESTROY = "destroy"
REST = "rest"
LEASE = 30.0  # seconds; renewed while a step runs


# ---- what a step may return


@dataclass(frozen=True, kw_only=True)
class Next:
    """A step's end. Made by the functions below."""

    kind: str  # hop | later | wait | sleep | fail | done
    step: str = ""
    seconds: float | None = None
    reason: str = ""
    keep: bool = False


def hop(step: Callable[..., Next]) -> Next:
    """Go on with another step of the same flow (a bound method), at once."""
    return Next(kind="hop", step=step.__name__)


def later(step: Callable[..., Next], *, seconds: float | None = None) -> Next:
    """Go on with another step when poked (a signal, an observation), or after ``seconds`` if given: not before, so
    what was asked already must not be waited for."""
    return Next(kind="later", step=step.__name__, seconds=seconds)


def wait(*, seconds: float | None = None) -> Next:
    """Run this step again when poked (a signal, an observation), or after ``seconds`` if given."""
    return Next(kind="wait", seconds=seconds)


def sleep(seconds: float) -> Next:
    """Run this step again after ``seconds``, poked or not."""
    return Next(kind="sleep", seconds=seconds)


def fail(reason: str) -> Next:
    """End in error: ``failed`` decides what becomes of the row."""
    return Next(kind="fail", reason=reason)


def done(*, keep: bool = False) -> Next:
    """The lifecycle is over; the row goes with it unless ``keep``."""
    return Next(kind="done", keep=keep)


class Failed(Exception):
    """Raised in a step (or by what it calls): no retry will help. The message is the reason."""


def step(*, deadline: float | None) -> Callable[[Callable[..., Next]], Callable[..., Next]]:
    """Give a step its own deadline in seconds (None: it may stay for ever, as resting does)."""

    def mark(method: Callable[..., Next]) -> Callable[..., Next]:
        method.__dict__["deadline"] = deadline
        return method

    return mark


@dataclass(kw_only=True)
class Signal:
    """Something that was asked of a flow."""

    id: int
    name: str
    body: dict[str, Any]
    request_id: str


class Flow(Generic[R]):
    """A lifecycle. Subclasses define steps as methods; ``first`` names where it begins.

    ``row_class`` is needed only for flows that no `Resource` declares. ``deadline`` is every step's default, in
    seconds. In a step: ``self.row`` (detached; assigned attributes are committed), ``self.frame`` (JSON, kept
    between steps), ``self.runtime``, ``self.clients``; ``self.say`` adds a line to the row's story.
    """

    first: ClassVar[str] = "provision"
    deadline: ClassVar[float] = 300.0
    row_class: ClassVar[Any] = None

    def __init__(
        self, runtime: Runtime, row: R, frame: dict[str, Any], signals: list[Signal], *, doomed: bool
    ) -> None:
        self.runtime = runtime
        self.row = row
        self.frame = frame
        self.signals = signals
        self.doomed = doomed
        self.attempt = 0
        self._taken: list[int] = []
        self._said: list[tuple[str, str]] = []
        self._writes: list[Callable[[Session], object]] = []
        self._after: list[Callable[[], None]] = []

    @property
    def clients(self) -> Mapping[str, Any]:
        """Clients of the other services, by service name."""
        return self.runtime.clients

    def take(self, name: str) -> dict[str, Any] | None:
        """The oldest signal of that name, consumed when this step commits; None when there is none.

        The request that sent it becomes the one this flow works for.
        """
        for one in self.signals:
            if one.name == name:
                self.signals.remove(one)
                self._taken.append(one.id)
                if one.request_id:
                    contexts.set_request_id(one.request_id)
                return one.body
        return None

    def say(self, message: str, *, level: str = "info") -> None:
        """A line for the row's story, committed with the step."""
        self._said.append((level, message))

    def write(self, work: Callable[[Session], object]) -> None:
        """Further changes to the service's own database, in the step's own transaction."""
        self._writes.append(work)

    def after(self, work: Callable[[], None]) -> None:
        """Do ``work`` once the step is committed: ring a bell. Losing it must cost latency and nothing else."""
        self._after.append(work)

    def failed(self, name: str, reason: str) -> Next:
        """What becomes of the row when step ``name`` failed. Default: status "error" where there is one, and rest."""
        if hasattr(self.row, "status"):
            self.row.status = "error"
        rest = getattr(self, "rest", None)
        return hop(rest) if rest is not None else wait()

    def destroy(self) -> Next:
        """Undo everything, idempotently. Reachable from every step."""
        return done()


# ---- tables and the verbs that requests use


def tables(metadata: sa.MetaData) -> None:
    """Add the engine's tables to a service's metadata."""
    sa.Table(
        "flows",
        metadata,
        sa.Column("id", sa.String(64), primary_key=True),  # the row's id
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("step", sa.String(64), nullable=False),
        sa.Column("frame", sa.JSON(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("pokes", sa.Integer(), nullable=False),
        sa.Column("wake_at", sa.Double(), index=True),  # epoch seconds; null: only a poke wakes it
        sa.Column("deadline_at", sa.Double(), index=True),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),  # the process that holds the lease
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("doomed", sa.Boolean(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("error", sa.Text()),
    )
    sa.Table(
        "signals",
        metadata,
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("flow_id", sa.String(64), nullable=False, index=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
    )
    sa.Table(
        "story",
        metadata,
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False, index=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("resource_id", sa.String(64), nullable=False, index=True),
        sa.Column("step", sa.String(64), nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
    )


# The same three tables stand in every service's database: these copies are for building statements.
_SHAPES = sa.MetaData()
tables(_SHAPES)
_FLOWS, _SIGNALS, _STORY = (_SHAPES.tables[name] for name in ("flows", "signals", "story"))


def _due(now: Any) -> Any:
    return (_FLOWS.c.wake_at <= now) | (_FLOWS.c.deadline_at <= now)


# The engine's statements, built once: SQLAlchemy spends more time on building one than SQLite on running it.
_p = sa.bindparam
_CLAIM = (
    _FLOWS.update()
    .where(_FLOWS.c.id == _p("key"), _FLOWS.c.lease_until <= _p("now"), _due(_p("now")))
    .values(token=_FLOWS.c.token + 1, lease_until=_p("until"), owner=_p("holder"))
)
_FIND = (
    sa.select(_FLOWS.c.id)
    .where(_due(_p("now")), _FLOWS.c.lease_until <= _p("now"), _FLOWS.c.kind.in_(_p("kinds", expanding=True)))
    # What was begun is ended before more is begun: in a burst the first are ready soon.
    .order_by(_FLOWS.c.token == 0, _FLOWS.c.wake_at)
    .limit(_p("most"))
)
_SLEEPING = sa.select(sa.func.min(_FLOWS.c.wake_at)).where(_FLOWS.c.wake_at > _p("now"))
_POKE = (
    _FLOWS.update()
    .where(_FLOWS.c.id.in_(_p("keys", expanding=True)))
    .values(pokes=_FLOWS.c.pokes + 1, wake_at=_p("now"))
)
_TAKEN = _SIGNALS.delete().where(_SIGNALS.c.id.in_(_p("keys", expanding=True)))
_GONE = (
    _FLOWS.delete().where(_FLOWS.c.id == _p("key")), _SIGNALS.delete().where(_SIGNALS.c.flow_id == _p("key")),
)  # fmt: skip
_BEGIN, _ASK = _FLOWS.insert(), _SIGNALS.insert()
_FLOW = sa.select(_FLOWS).where(_FLOWS.c.id == _p("key"))
_ASKED = sa.select(_SIGNALS).where(_SIGNALS.c.flow_id == _p("key")).order_by(_SIGNALS.c.id)
_WAKE: dict[str, Any] = {
    "plain": _p("wake", type_=sa.Double()),
    # A poke that came while the step ran would be lost by waiting now.
    "unless poked": sa.case(
        (_FLOWS.c.pokes == _p("seen"), _p("wake", type_=sa.Double())), else_=_p("now", type_=sa.Double())
    ),
    # A delete cuts a pause short.
    "unless doomed": sa.case(
        (_FLOWS.c.doomed, _p("now", type_=sa.Double())), else_=_p("wake", type_=sa.Double())
    ),
}
_END = {
    how: _FLOWS.update()
    .where(_FLOWS.c.id == _p("key"), _FLOWS.c.token == _p("fence"))
    .values(
        step=_p("at"), frame=_p("memory"), attempt=_p("tries"), wake_at=wake, deadline_at=_p("limit"),
        lease_until=_p("until"), error=_p("trouble"), request_id=_p("request"),
    )
    for how, wake in _WAKE.items()
}  # fmt: skip
_END_PARAMS = {how: frozenset(statement.compile().params) for how, statement in _END.items()}
_SAY = _STORY.insert()


def start(
    session: Session, kind: str, flow: type[Flow[Any]], row: Any, frame: Mapping[str, Any] | None = None
) -> None:
    """Begin the row's lifecycle, in the transaction that adds the row."""
    now = time.time()
    session.connection().execute(
        _BEGIN,
        {
            "id": row.id, "kind": kind, "step": flow.first, "frame": dict(frame or {}), "attempt": 0, "pokes": 0,
            "wake_at": now, "deadline_at": _deadline(flow, flow.first, now), "lease_until": 0.0, "owner": "",
            "token": 0, "doomed": False, "request_id": contexts.request_id(),
        },
    )  # fmt: skip


def poke(session: Session, *ids: str) -> None:
    """Wake flows: what they wait for may have happened. Unknown ids are ignored."""
    session.connection().execute(_POKE, {"keys": ids, "now": time.time()})


def signal(session: Session, flow_id: str, name: str, body: Mapping[str, Any] | None = None) -> None:
    """Ask a flow for something; it is kept until a step takes it."""
    session.connection().execute(
        _ASK,
        {"flow_id": flow_id, "name": name, "body": dict(body or {}), "request_id": contexts.request_id()},
    )
    poke(session, flow_id)


def doom(session: Session, flow_id: str) -> None:
    """Delete: from its next step on the flow runs nothing but ``destroy``."""
    session.execute(
        _FLOWS.update().where(_FLOWS.c.id == flow_id).values(
            doomed=True, pokes=_FLOWS.c.pokes + 1, wake_at=time.time(), request_id=contexts.request_id()
        )
    )  # fmt: skip


def narrate(
    session: Session, *, kind: str, resource_id: str, step: str, message: str, level: str = "info"
) -> None:
    """Add a line to a resource's story from outside of its flow (an action, an observation)."""
    session.connection().execute(
        _SAY,
        {
            "at": time.time(), "request_id": contexts.request_id(), "kind": kind, "resource_id": resource_id,
            "step": step, "level": level, "message": message,
        },
    )  # fmt: skip


def story(session: Session, key: str) -> list[dict[str, Any]]:
    """What happened to a resource, or under a request: by either one's id, oldest first."""
    here = (_STORY.c.resource_id == key) | (_STORY.c.request_id == key)
    rows = session.execute(sa.select(_STORY).where(here).order_by(_STORY.c.id)).mappings()
    return [dict(row) for row in rows]


def state(session: Session, flow_id: str) -> dict[str, Any] | None:
    """The flow as it stands (step, attempt, error, ...), or None."""
    row = session.execute(sa.select(_FLOWS).where(_FLOWS.c.id == flow_id)).mappings().first()
    return dict(row) if row else None


def _deadline(flow: type[Flow[Any]], name: str, now: float) -> float | None:
    if name in (DESTROY, REST):
        return None
    limit = getattr(getattr(flow, name, None), "deadline", flow.deadline)
    return None if limit is None else now + float(limit)


# ---- the engine


@dataclass(kw_only=True)
class _Claim:
    """A flow in a worker's hands."""

    id: str
    kind: str
    step: str
    frame: dict[str, Any]
    attempt: int
    pokes: int
    deadline_at: float | None
    token: int
    doomed: bool
    request_id: str
    row: Any
    signals: list[Signal]


class Engine:
    """Runs one service's flows. ``threads`` workers claim what is due; a bell makes them look at once.

    ``probe`` is called with a name at every point where a crash would matter ("kind.step before", "kind.step
    after", "kind.step committed"): tests raise from it to stand for a kill.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        threads: int = 4,
        poll: float = 5.0,
        lease: float = LEASE,
        probe: Callable[[str], None] | None = None,
    ) -> None:
        self._runtime = runtime
        self._db: Database = runtime.db
        self._kinds = runtime.kinds()
        self._rows = {name: _row_query(row) for name, (_, row) in self._kinds.items()}
        self._updates: dict[tuple[Any, ...], Any] = {}
        self._threads_wanted = threads
        self._poll = poll
        self._lease = lease
        self._probe = probe or (lambda point: None)
        self._owner = own_process()
        self._stop = threading.Event()
        self._bell = threading.Event()
        self._due: queue.Queue[str | None] = queue.Queue()
        self._queued: set[str] = set()
        self._running: dict[str, int] = {}  # flow id -> token, for lease renewal
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    # ---- running

    def start(self) -> None:
        """Start the worker threads."""
        if not self._kinds:
            return
        self.recover()
        name = self._runtime.service.name
        self._runtime.bus.listen(f"{name}.flows", lambda ids: self._bell.set())
        self._threads = [threading.Thread(target=self._look, name=f"{name}-flows", daemon=True)]
        self._threads += [
            threading.Thread(target=self._work, name=f"{name}-flow-{n}", daemon=True)
            for n in range(self._threads_wanted)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Let running steps end, start no new ones."""
        self._stop.set()
        self._bell.set()
        for _ in self._threads:
            self._due.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def drain(self, *, limit: int = 10_000) -> int:
        """Run everything that is due now in this thread (tests, and simulated time); the number of steps run."""
        ran = 0
        while ran < limit:
            due = self._find(64, self._runtime.clock())
            if not due:
                return ran
            for flow_id in due:
                ran += self.run(flow_id)
        raise RuntimeError(f"flows still due after {limit} steps")

    def _look(self) -> None:
        """Find due flows and queue a few; renew the leases of long steps."""
        renewed = time.monotonic()
        batch = 4 * self._threads_wanted
        while not self._stop.is_set():
            pause = self._poll
            try:
                if (
                    self._due.qsize() < self._threads_wanted
                ):  # else whoever takes the last but few rings again
                    now = self._runtime.clock()
                    # Other processes look at the same flows: a random few of the first are seldom theirs as well.
                    found = self._find(4 * batch, now)
                    for flow_id in random.sample(found, min(batch, len(found))):
                        with self._lock:
                            if flow_id in self._queued:
                                continue
                            self._queued.add(flow_id)
                        self._due.put(flow_id)
                    if len(found) <= batch:
                        pause = min(pause, self._next_due(now))
                if time.monotonic() - renewed > self._lease / 3:
                    self._renew()
                    renewed = time.monotonic()
            except Exception:
                log.exception("cannot look for due flows; trying again")
                pause = 1.0
            self._bell.wait(pause)
            self._bell.clear()

    def _work(self) -> None:
        while not self._stop.is_set():
            flow_id = self._due.get()
            if flow_id is None:
                return
            with self._lock:
                self._queued.discard(flow_id)
            if self._due.qsize() < self._threads_wanted:
                self._bell.set()
            try:
                self.run(flow_id)
            except Exception:
                # Whatever went wrong here (the database is away, say), the flow is still due.
                log.exception("flow %s: worker trouble; it will be claimed again", flow_id)
                self._stop.wait(0.5)

    def _find(self, most: int, now: float) -> list[str]:
        with self._db.engine.connect() as connection:
            found = connection.execute(_FIND, {"now": now, "kinds": list(self._kinds), "most": most})
            return [key for (key,) in found]

    def _next_due(self, now: float) -> float:
        """Seconds until the next flow wakes that slept at ``now``, the moment of the last look."""
        with self._db.engine.connect() as connection:
            at = connection.execute(_SLEEPING, {"now": now}).scalar()
        return self._poll if at is None else max(0.002, at - self._runtime.clock())

    def _renew(self) -> None:
        with self._lock:
            running = dict(self._running)
        if not running:
            return
        until = self._runtime.clock() + self._lease

        def extend(session: Session) -> None:
            for flow_id, token in running.items():
                # A step that ended meanwhile gave its lease back: nobody would ever end a renewed one.
                held = (_FLOWS.c.id == flow_id) & (_FLOWS.c.token == token) & (_FLOWS.c.lease_until > 0)
                session.execute(_FLOWS.update().where(held).values(lease_until=until))

        self._db.write(extend)

    # ---- one flow

    def run(self, flow_id: str) -> int:
        """Claim the flow and run its steps until it waits; the number of steps run (0: somebody else has it)."""
        claim = self._db.write(lambda session: self._claim(session, flow_id))
        ran = 0
        while claim is not None:
            ran += 1
            claim = self._step(claim)
            if claim is not None and self._stop.is_set():
                self._release(claim)
                break
        return ran

    def _release(self, claim: _Claim) -> None:
        mine = (_FLOWS.c.id == claim.id) & (_FLOWS.c.token == claim.token)
        self._db.write(lambda session: session.execute(_FLOWS.update().where(mine).values(lease_until=0.0)))

    def recover(self) -> int:
        """Release the leases of processes of this machine that are no more; how many. Others' leases run out."""

        def release(session: Session) -> int:
            held = session.execute(
                sa.select(_FLOWS.c.owner).where(_FLOWS.c.lease_until > self._runtime.clock()).distinct()
            ).scalars()
            dead = [owner for owner in held if not process_alive(owner)]
            if not dead:
                return 0
            freed = session.execute(_FLOWS.update().where(_FLOWS.c.owner.in_(dead)).values(lease_until=0.0))
            return int(freed.rowcount)  # type: ignore[attr-defined]  # CursorResult

        return self._db.write(release)

    def _claim(self, session: Session, flow_id: str) -> _Claim | None:
        now = self._runtime.clock()
        taken = session.connection().execute(
            _CLAIM, {"key": flow_id, "now": now, "until": now + self._lease, "holder": self._owner}
        )
        return self._load(session, flow_id) if taken.rowcount == 1 else None

    def _load(self, session: Session, flow_id: str) -> _Claim | None:
        connection = session.connection()
        found = connection.execute(_FLOW, {"key": flow_id}).mappings().one()
        row = session.execute(
            self._rows[found["kind"]], {"key": flow_id}, execution_options={"populate_existing": True}
        ).scalar_one_or_none()
        if row is None:  # a row was removed by hand: its lifecycle is over
            session.execute(_FLOWS.delete().where(_FLOWS.c.id == flow_id))
            return None
        session.flush()
        session.expunge(row)
        signals = connection.execute(_ASKED, {"key": flow_id}).mappings()
        return _Claim(
            **{
                name: found[name]
                for name in ("id", "kind", "attempt", "pokes", "deadline_at", "token", "request_id")
            },
            step=DESTROY if found["doomed"] else found["step"],
            doomed=bool(found["doomed"]),
            frame=dict(found["frame"]),
            row=row,
            signals=[
                Signal(id=s["id"], name=s["name"], body=s["body"], request_id=s["request_id"])
                for s in signals
            ],
        )

    def _step(self, claim: _Claim) -> _Claim | None:
        """Run one step and commit it; the claim for the next one when the flow goes on at once."""
        kind = self._kinds[claim.kind][0]
        flow = kind(self._runtime, claim.row, claim.frame, claim.signals, doomed=claim.doomed)
        flow.attempt = claim.attempt
        context = contexts.set_request_id(claim.request_id)
        with self._lock:
            self._running[claim.id] = claim.token
        error: str | None = None
        try:
            self._probe(f"{claim.kind}.{claim.step} before")
            result, error = self._result(flow, claim)
            self._probe(f"{claim.kind}.{claim.step} after")
            request_id = contexts.request_id()
            following = self._db.write(
                lambda session: self._commit(session, flow, claim, result, error, request_id)
            )
            self._probe(f"{claim.kind}.{claim.step} committed")
            for work in flow._after:
                work()
            if following is None and result.kind != "done":
                self._bell.set()  # it pauses, or was poked meanwhile: when it is due is to be seen anew
            return following
        finally:
            with self._lock:
                self._running.pop(claim.id, None)
            contexts.reset_request_id(context)

    def _result(self, flow: Flow[Any], claim: _Claim) -> tuple[Next, str | None]:
        overdue = claim.deadline_at is not None and claim.deadline_at <= self._runtime.clock()
        method = getattr(flow, claim.step, None)
        try:
            if method is None:
                raise Failed(f"there is no step {claim.step!r} any more")
            result: Next = method()
        except Failed as trouble:
            result = fail(str(trouble))
        except Exception as trouble:
            log.info("%s %s: step %s failed, attempt %d: %s", claim.kind, claim.id, claim.step, claim.attempt + 1,
                     trouble, exc_info=not _expected(trouble))  # fmt: skip
            pause = min(0.2 * 2 ** min(claim.attempt, 8), 30.0)
            result = Next(kind="retry", seconds=pause, reason=_text(trouble))
        if result.kind in ("wait", "sleep", "retry") and overdue and claim.step != DESTROY:
            result = fail(
                f"step {claim.step} passed its deadline" + (f": {result.reason}" if result.reason else "")
            )
        if result.kind == "fail":
            reason = result.reason
            flow.say(reason, level="error")
            if claim.step == DESTROY:  # a delete always completes: it is tried for ever
                return Next(
                    kind="retry", seconds=min(0.2 * 2 ** min(claim.attempt, 8), 30.0), reason=reason
                ), reason
            try:
                return flow.failed(claim.step, reason), reason
            except Exception as trouble:
                log.exception("%s %s: failed() itself failed", claim.kind, claim.id)
                return Next(kind="retry", seconds=5.0, reason=_text(trouble)), reason
        return result, result.reason or None

    def _commit(
        self,
        session: Session,
        flow: Flow[Any],
        claim: _Claim,
        result: Next,
        error: str | None,
        request_id: str,
    ) -> _Claim | None:
        now = self._runtime.clock()
        going = result.kind == "hop"
        moved = result.kind in ("hop", "later") and result.step != claim.step
        wake: float | None = now
        how, attempt, step, deadline = "plain", 0, claim.step, claim.deadline_at
        if result.kind in ("hop", "later"):
            step, deadline = result.step, _deadline(type(flow), result.step, now)
        if result.kind in ("wait", "later"):
            how, wake = "unless poked", None if result.seconds is None else now + result.seconds
        elif result.kind == "sleep":
            how, wake = "unless doomed", now + (result.seconds or 0.0)
        elif result.kind == "retry":
            again = now + (result.seconds or 1.0)
            wake = again if deadline is None else min(again, deadline + 0.001)
            how, attempt = "unless doomed", claim.attempt + 1
        if claim.step == DESTROY:  # nothing comes after it but the end
            how, step = "plain" if how == "unless doomed" else how, DESTROY
        connection = session.connection()
        values = {
            "key": claim.id, "fence": claim.token, "now": now, "seen": claim.pokes, "wake": wake, "at": step,
            "memory": flow.frame, "tries": attempt, "limit": deadline, "trouble": error, "request": request_id,
            "until": now + self._lease if going else 0.0,
        }  # fmt: skip
        needed = _END_PARAMS[how]
        ended = connection.execute(_END[how], {name: values[name] for name in needed})
        if ended.rowcount != 1:
            log.warning(
                "%s %s: lease lost during step %s; its result is dropped", claim.kind, claim.id, claim.step
            )
            return None
        self._write_row(session, flow, result)
        for work in flow._writes:
            work(session)
        if flow._taken:
            connection.execute(_TAKEN, {"keys": flow._taken})
        said = list(flow._said)
        if moved:
            said.append(("info", f"{claim.step} done, next {result.step}"))
        elif result.kind == "done":
            said.append(("info", f"{claim.step} done"))
        elif result.kind == "retry" and claim.attempt in (0, 3):
            said.append(("warning", f"attempt {claim.attempt + 1} failed: {result.reason}"))
        if said:
            at = time.time()
            connection.execute(
                _SAY,
                [
                    {
                        "at": at, "request_id": request_id, "kind": claim.kind, "resource_id": claim.id,
                        "step": claim.step, "level": level, "message": message,
                    }
                    for level, message in said
                ],
            )  # fmt: skip
        if result.kind == "done":
            for statement in _GONE:
                connection.execute(statement, {"key": claim.id})
            return None
        session.flush()
        return self._load(session, claim.id) if going else None

    def _write_row(self, session: Session, flow: Flow[Any], result: Next) -> None:
        """Write the attributes that the step assigned, and no others: requests may have changed those."""
        row = flow.row
        mapper = sa.inspect(type(row))
        if result.kind == "done" and not result.keep:
            session.execute(sa.delete(mapper.local_table).where(mapper.primary_key[0] == row.id))
            return
        state = sa.inspect(row)
        changed = {
            mapper.columns[name]: getattr(row, name)
            for name in state.committed_state  # the attributes that were assigned
            if name in mapper.column_attrs and state.attrs[name].history.has_changes()
        }
        if changed:
            if "updated_at" in mapper.columns:
                changed.setdefault(mapper.columns["updated_at"], utcnow())
            # Built once for every set of columns that a step changes.
            which = (mapper, *changed)
            statement = self._updates.get(which)
            if statement is None:
                statement = self._updates[which] = (
                    sa.update(mapper.local_table)
                    .where(mapper.primary_key[0] == sa.bindparam("row_id"))
                    .values({column: sa.bindparam(f"new_{column.key}") for column in changed})
                )
            values = {f"new_{column.key}": value for column, value in changed.items()}
            session.connection().execute(statement, {"row_id": row.id, **values})


def _row_query(row: Any) -> Any:
    return sa.select(row).where(sa.inspect(row).primary_key[0] == sa.bindparam("key"))


def own_process() -> str:
    """This process, unmistakably: machine, pid and the moment it started (proc(5), stat field 22)."""
    return f"{platform.node()}:{os.getpid()}:{_started(os.getpid())}"


def process_alive(owner: str) -> bool:
    """Whether the process that `own_process` named still runs; True for other machines', which we cannot know."""
    node, _, rest = owner.rpartition(":")[0].rpartition(":")
    started = owner.rpartition(":")[2]
    if node != platform.node():
        return True
    return rest.isdigit() and _started(int(rest)) == started


def _started(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]


def _expected(trouble: Exception) -> bool:
    """Errors that services answer in the ordinary course of things need no traceback."""
    return bool(getattr(trouble, "expected", False))


def _text(trouble: Exception) -> str:
    return str(trouble) or type(trouble).__name__
