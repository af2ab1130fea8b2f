"""What accounts and containers are, remembered while nobody on this machine changes one."""

from __future__ import annotations

import time
from typing import Final

from altostack.objectstore.proxy.spread import Site, Target, first
from altostack.objectstore.storage import Info, Missing
from altostack.objectstore.store import Store

_AGE: Final = 5.0  # seconds; changes made by other machines are seen after that
_ABSENT_AGE: Final = 0.5  # seconds that "there is none" is believed
_SIZE: Final = 20_000


class KnownInfo:
    """`altostack.objectstore.store.Known`, read from the first copy that answers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[tuple[str, str | None], tuple[int, float, Info | None]] = {}

    def account(self, account: str) -> Info | None:
        """None when there is none. Raises Refusal(503) when no copy answers."""
        return self._get(account, None)

    def container(self, account: str, container: str) -> Info | None:
        """None when there is none. Raises Refusal(503) when no copy answers."""
        found = self._get(account, container)
        # What a deleted account still holds is as good as gone; hidden accounts come with their containers.
        return found if found is None or account[0] == "." or self._get(account, None) is not None else None

    def forget(self, account: str, container: str | None = None) -> None:
        """It changed: every process of this machine looks anew."""
        self._held.pop((account, container), None)
        self._store.epoch.bump()

    def _get(self, account: str, container: str | None) -> Info | None:
        key = (account, container)
        epoch, now = self._store.epoch.read(), time.monotonic()
        held = self._held.get(key)
        if held is not None and held[0] == epoch and now < held[1]:
            return held[2]
        info = look_up(self._store, account, container)
        if len(self._held) >= _SIZE:
            self._held.clear()
        self._held[key] = (epoch, now + (_AGE if info is not None else _ABSENT_AGE), info)
        return info


def site_of(store: Store, account: str, container: str | None = None) -> Site:
    """Where the copies of an account or a container lie."""
    ring = store.rings.account if container is None else store.rings.container
    return Site(store, ring, *ring.locate(account, container))


def look_up(store: Store, account: str, container: str | None = None) -> Info | None:
    """What it is now, None when it is not there. Raises Refusal(503)."""
    try:
        return read_info(store, account, container)
    except Missing:
        return None


def read_info(store: Store, account: str, container: str | None = None) -> Info:
    """What it is now. Raises Missing (with the time of its deletion if it is deleted), Refusal(503)."""

    def ask(target: Target) -> Info:
        info = target.node.info(target.spot, account, container)
        if info.gone:
            raise Missing(info.deleted)
        return info

    return first(site_of(store, account, container), ask, lambda info: info.put)
