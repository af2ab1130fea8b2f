"""Rate limits for changes to accounts and containers, listings, and single verbs: one tenant leaves room for others.

Nothing is limited unless an option says so. A request over its rate waits for its turn; one that would wait too long is
answered 498. The rates are this machine's: each machine of a cluster keeps its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response
from altostack.objectstore.middleware.buckets import Buckets, TooFast
from altostack.objectstore.middleware.options import Wrap, store_of, words
from altostack.objectstore.store import Store

log = logging.getLogger(__name__)

_WRITES: Final = ("PUT", "POST", "DELETE", "COPY")
_VERBS: Final = ("GET", "HEAD", *_WRITES)
_ACCOUNT: Final = "x-account-sysmeta-global-write-ratelimit"  # a rate, or WHITELIST or BLACKLIST
Steps = list[tuple[int, float]]  # (objects in a container, requests a second), sorted


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """All rates are requests a second.

    account_ratelimit: containers made and deleted in one account. container_ratelimit_N: changes to one container's
    objects once it has N of them; between two such sizes the rate is in between. container_listing_ratelimit_N:
    listings likewise. account_verb_ratelimit_VERB: requests of one verb in one account. max_sleep_time_seconds (5): the
    longest wait. rate_buffer_seconds (5): unused time that may be caught up. account_whitelist, account_blacklist.
    """
    store = store_of(conf)
    limits = Limits(local)
    store.facts["ratelimit"] = {
        "account_ratelimit": limits.account,
        "max_sleep_time_seconds": limits.most,
        "container_ratelimits": [list(step) for step in limits.containers],
        "container_listing_ratelimits": [list(step) for step in limits.listings],
    }
    return lambda app: RateLimit(app, store, limits)


def _positive(local: dict[str, str], name: str, default: str) -> float:
    try:
        value = float(local.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} = {local.get(name)}: a number of 0 or more is expected")
    return value


def _steps(local: dict[str, str], prefix: str) -> Steps:
    found = []
    for name in local:
        if name.startswith(prefix):
            size = name[len(prefix) :]
            if not (size.isascii() and size.isdecimal()):
                raise ValueError(f"{name}: a number of objects is expected at its end")
            found.append((int(size), _positive(local, name, "0")))
    return sorted(found)


class Limits:
    """The options, checked. Raises ValueError."""

    def __init__(self, local: dict[str, str]) -> None:
        self.account = _positive(local, "account_ratelimit", "0")
        self.most = _positive(local, "max_sleep_time_seconds", "5")
        self.burst = _positive(local, "rate_buffer_seconds", "5")
        self.containers = _steps(local, "container_ratelimit_")
        self.listings = _steps(local, "container_listing_ratelimit_")
        self.verbs = {
            verb: _positive(local, name, "0")
            for verb in _VERBS
            if (name := f"account_verb_ratelimit_{verb.lower()}") in local
        }
        self.white = frozenset(words(local.get("account_whitelist", "")))
        self.black = frozenset(words(local.get("account_blacklist", "")))


def rate_at(steps: Steps, size: int) -> float:
    """The rate for a container of ``size`` objects, 0 for no limit."""
    below = [step for step in steps if step[0] <= size]
    if not below:
        return 0.0
    low, rate = below[-1]
    above = steps[len(below) :]
    if not above:
        return rate
    high, next_rate = above[0]
    return rate + (size - low) * (next_rate - rate) / (high - low)


class RateLimit:
    """Makes requests wait for their turn."""

    def __init__(
        self, app: Handler, store: Store, limits: Limits, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._app, self._store, self._limits, self._sleep = app, store, limits, sleep
        self._buckets = Buckets(
            store.folder / "run" / "objectstore-rates", store.clock.seconds, burst=limits.burst
        )
        # Who waits holds a thread: never so many that nobody else is served.
        self._seats = threading.Semaphore(max(1, store.settings.threads // 4))

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is not None and request.method in _VERBS:
            self._pace(request, place)
        return self._app(request)

    def _pace(self, request: Request, place: Place) -> None:
        """Wait for a turn. Raises Refusal: 498, or 497 for an account that is kept out."""
        limits = self._limits
        account = self._store.known.account(place.account)
        said = account.metadata.get(_ACCOUNT, ("", ""))[0] if account is not None else ""
        if place.account in limits.white or said == "WHITELIST":
            return
        if place.account in limits.black or said == "BLACKLIST":
            raise Refusal(497, "Your account has been blacklisted")
        for name, rate in self._rates(request.method, place, said):
            if rate > 0:
                self._wait(request, name, rate)

    def _rates(self, method: str, place: Place, said: str) -> list[tuple[str, float]]:
        limits, account, container = self._limits, place.account, place.container
        found: list[tuple[str, float]] = []
        if limits.account and container is not None and place.object is None and method in ("PUT", "DELETE"):
            found.append((f"account/{account}", limits.account))
        if limits.containers and place.object is not None and method in _WRITES:
            rate = rate_at(limits.containers, self._size(place))
            found.append((f"container/{account}/{container}", rate))
        if limits.listings and container is not None and place.object is None and method == "GET":
            rate = rate_at(limits.listings, self._size(place))
            found.append((f"listing/{account}/{container}", rate))
        if method in limits.verbs:
            found.append((f"verb/{method}/{account}", limits.verbs[method]))
        if said and method in _WRITES:
            try:
                found.append((f"writes/{account}", float(said)))
            except ValueError:
                log.warning("the write rate of account %s is no number: %s", account, said)
        return found

    def _size(self, place: Place) -> int:
        held = self._store.known.container(place.account, str(place.container))
        return held.count if held is not None else 0

    def _wait(self, request: Request, name: str, rate: float) -> None:
        most = self._limits.most
        try:
            seconds = self._buckets.take(name, rate, most)
        except TooFast as error:
            log.info("%s is too fast: %s", name, error)
            raise _slow_down(error.seconds) from None
        if seconds <= 0:
            return
        if not self._seats.acquire(blocking=False):
            raise _slow_down(seconds)
        try:
            self._sleep(seconds)
        finally:
            self._seats.release()


def _slow_down(seconds: float) -> Refusal:
    return Refusal(498, "Slow down", headers={"retry-after": str(max(1, round(seconds)))})
