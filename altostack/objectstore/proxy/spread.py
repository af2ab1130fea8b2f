"""Where the copies of an account, container or object lie, and calls to all of them side by side."""

from __future__ import annotations

import contextvars
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final, TypeVar

from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.http import Refusal
from altostack.objectstore.proxy.affinity import Affinity
from altostack.objectstore.putoff import Work, collected
from altostack.objectstore.storage import (
    Device,
    DeviceFull,
    DeviceGone,
    Exists,
    Missing,
    Node,
    NotEmpty,
    RingView,
    Spot,
    StorageError,
    Superseded,
)
from altostack.objectstore.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS: Final = 128  # calls to other machines that run at a time
_GRACE: Final = 0.5  # seconds that slow nodes get once enough have answered


@dataclass(frozen=True, slots=True)
class Target:
    """One copy: on which device, by which node. ``index``: which of the copies (fragments) it is."""

    device: Device
    spot: Spot
    node: Node
    local: bool
    index: int


class Site:
    """Where the copies of one thing lie. affinity: what is preferred for objects; None for lists."""

    __slots__ = ("_affinity", "_store", "digest", "part", "policy", "primaries", "ring")

    def __init__(
        self,
        store: Store,
        ring: RingView,
        part: int,
        digest: str,
        policy: int = 0,
        affinity: Affinity | None = None,
    ) -> None:
        self._store, self.ring, self.part, self.digest, self.policy = store, ring, part, digest, policy
        self._affinity = affinity
        self.primaries = [self.target(device, at) for at, device in enumerate(ring.nodes(part))]

    def target(self, device: Device, index: int) -> Target:
        """The copy ``index`` on a device."""
        store = self._store
        local = store.is_local(device.host, device.port)
        node = store.local if local else store.node_at(device.host, device.port)
        return Target(device, Spot(device.device, self.part, self.digest, self.policy), node, local, index)

    def handoffs(self) -> Iterator[Target]:
        """Substitutes, the best first."""
        for device in self.ring.handoffs(self.part):
            yield self.target(device, -1)

    def readers(self) -> Iterator[Target]:
        """Where to look for a copy, the likeliest and nearest first: all primaries, then as many handoffs."""
        own = self.primaries
        if len(own) > 1:
            own = sorted(own, key=self._distance)
        yield from own
        yield from itertools.islice(self.handoffs(), len(own))

    def _distance(self, target: Target) -> tuple[int, bool, float]:
        near = 0 if self._affinity is None else self._affinity.distance(target.device)
        return (near, not target.local, 0.0 if target.local else random.random())

    def writers(self) -> tuple[list[Target], Iterator[Target]]:
        """Where a new version goes, copy by copy, and the substitutes."""
        affinity = self._affinity
        if affinity is None or not affinity.writes:
            return self.primaries, self.handoffs()
        most = affinity.copies or 2 * len(self.primaries)
        near = [one for one in self.handoffs() if affinity.prefers(one.device)]
        held = sum(affinity.prefers(one.device) for one in self.primaries)
        near = near[: max(0, most - held)]
        chosen: list[Target] = []
        away: list[Target] = []
        for own in self.primaries:
            if affinity.prefers(own.device) or not near:
                chosen.append(own)
            else:
                chosen.append(self.target(near.pop(0).device, own.index))
                away.append(own)
        used = {one.device.id for one in chosen}
        rest = (one for one in self.handoffs() if one.device.id not in used)
        return chosen, itertools.chain(away, rest)


def quorum(copies: int) -> int:
    """How many of ``copies`` have to succeed: more than half."""
    return copies // 2 + 1


class Crew:
    """Makes calls to nodes side by side: what waits for another machine or for a disk to sync has a thread."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Made when it is first needed: where there is one copy of everything, on this machine, it never is."""
        if self._pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="nodes")
        return self._pool

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run it in a thread, with the caller's context."""
        return self.pool.submit(contextvars.copy_context().run, call)

    def run(
        self,
        targets: Sequence[Target],
        call: Callable[[Target], T],
        enough: int | None = None,
        *,
        within: float | None = None,
        late: Callable[[T], None] | None = None,
        apart: bool = False,
    ) -> list[T | StorageError]:
        """``call`` for each target; StorageErrors are results. In the order of the targets.

        Once ``enough`` have succeeded, those that still run get a moment more. What is late then, or after ``within``
        seconds, counts as DeviceGone; it goes on, and ``late`` is called with what it returns. apart: calls to local
        devices take long, too, and get threads of their own.
        """
        away = [apart or not one.local for one in targets]
        if len(targets) == 1 or not any(away):
            return _in_turn(call, targets)
        results: list[T | StorageError] = [DeviceGone("too slow")] * len(targets)
        pending: dict[Future[T | StorageError], int] = {}
        for at, target in enumerate(targets):
            if away[at]:
                pending[self.submit(_bound(call, target))] = at
        for at, target in enumerate(targets):
            if not away[at]:
                results[at] = _attempt(call, target)
        until = None if within is None else time.monotonic() + within
        while pending:
            left = None if until is None else max(0.0, until - time.monotonic())
            done, _ = wait(pending, left, return_when=FIRST_COMPLETED)
            if not done:
                break
            for one in done:
                results[pending.pop(one)] = one.result()
            good = sum(not isinstance(one, StorageError) for one in results)
            if enough is not None and until is None and good >= enough:
                until = time.monotonic() + _GRACE
        if late is not None:
            for one in pending:
                one.add_done_callback(_handler(late))
        return results

    def write(
        self,
        site: Site,
        call: Callable[[Target], T],
        enough: int,
        *,
        anew: bool = False,
        late: Callable[[T], None] | None = None,
    ) -> list[T | StorageError]:
        """``call`` for each primary; a device that fails is replaced by the next handoff.

        anew: a new version is written, so preferred devices come first. late: as for `run`.
        """
        targets, others = site.writers() if anew else (site.primaries, site.handoffs())
        substitutes = _Shared(others)

        def one(target: Target) -> T:
            tried = target
            while True:
                try:
                    return call(tried)
                except (DeviceGone, DeviceFull) as trouble:
                    log.warning("%s/%s: %s", tried.device.host, tried.device.device, trouble)
                    other = substitutes.next()
                    if other is None:
                        raise
                    tried = Target(other.device, other.spot, other.node, other.local, target.index)

        # Each waits for its disk. Where that is one disk for all, they are waited for together.
        return self.run(targets, one, enough, late=late, apart=not _on_one_disk(targets))


class _Shared:
    """Handoffs that several threads take from; each is given once, and not endlessly many."""

    def __init__(self, handoffs: Iterator[Target]) -> None:
        self._handoffs = handoffs
        self._lock = threading.Lock()

    def next(self) -> Target | None:
        with self._lock:
            return next(self._handoffs, None)


def _on_one_disk(targets: Sequence[Target]) -> bool:
    disks = {one.node.disk(one.device.device) for one in targets if isinstance(one.node, LocalNode)}
    return len(disks) == 1 and None not in disks


def _in_turn(call: Callable[[Target], T], targets: Sequence[Target]) -> list[T | StorageError]:
    """One after the other; but what waits for a disk is waited for when all is under way."""
    results: list[T | StorageError] = []
    rest: list[list[Work]] = []
    for target in targets:
        with collected() as works:
            results.append(_attempt(call, target))
        rest.append(works)
    for at, works in enumerate(rest):
        try:
            for work in works:
                work()
        except StorageError as error:
            log.warning("%s/%s: %s", targets[at].device.host, targets[at].device.device, error)
            results[at] = error
    return results


def _attempt(call: Callable[[Target], T], target: Target) -> T | StorageError:
    try:
        return call(target)
    except StorageError as error:
        return error


def _handler(late: Callable[[T], None]) -> Callable[[Future[T | StorageError]], None]:
    def handle(one: Future[T | StorageError]) -> None:
        if one.exception() is None and not isinstance(result := one.result(), StorageError):
            late(result)

    return handle


def _bound(call: Callable[[Target], T], target: Target) -> Callable[[], T | StorageError]:
    return lambda: _attempt(call, target)


def settle(results: Sequence[T | StorageError], needed: int) -> list[T]:
    """The successes, when there are enough.

    Raises the error that most speaks for what is so: Missing, Exists, Superseded or NotEmpty when enough nodes say so,
    else Refusal 507 when space is what is missing, 503.
    """
    good = [one for one in results if not isinstance(one, StorageError)]
    if len(good) >= needed:
        return good
    for kind in (Exists, NotEmpty, Superseded, Missing):
        said = [one for one in results if isinstance(one, kind)]
        if len(said) >= needed:
            raise max(said, key=lambda one: getattr(one, "timestamp", None) or "")
    newer = [one for one in results if isinstance(one, Superseded)]
    if newer and len(good) + len(newer) >= needed:  # enough have this or what came after it
        raise max(newer, key=lambda one: one.timestamp)
    full = sum(isinstance(one, DeviceFull) for one in results)
    if full and full >= len(results) - len(good) - full:
        raise Refusal(507)
    raise Refusal(503)


def first(site: Site, call: Callable[[Target], T], stamp: Callable[[T], str] | None = None) -> T:
    """The first answer. Raises Missing when enough nodes say so, Refusal(503) when too few answer.

    stamp: says when an answer was true; one from before a deletion that another copy knows of does not count.
    """
    missing: list[Missing] = []
    silent = 0
    for at, target in enumerate(site.readers()):
        try:
            found = call(target)
            if stamp is None or not missing or stamp(found) > max(one.timestamp or "" for one in missing):
                return found
        except Missing as error:
            if at < len(site.primaries) or error.timestamp is not None:
                missing.append(error)
        except (DeviceGone, DeviceFull) as trouble:
            log.warning("%s/%s: %s", target.device.host, target.device.device, trouble)
            silent += 1
    if missing and (silent == 0 or len(missing) >= quorum(len(site.primaries))):
        raise max(missing, key=lambda one: one.timestamp or "")
    raise Refusal(503)
