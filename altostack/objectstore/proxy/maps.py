"""Maps of split containers (`ledger.shards`), remembered for a few seconds: where an object's line belongs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from altostack.objectstore.http import Refusal
from altostack.objectstore.ledger import shards
from altostack.objectstore.ledger.shards import Range
from altostack.objectstore.proxy.known import site_of
from altostack.objectstore.proxy.spread import Target, first
from altostack.objectstore.storage import Info, Missing, Query, Row, Subdir
from altostack.objectstore.store import Store

_AGE: Final = 10.0  # seconds; a line that goes by an old map finds its way later
_SIZE: Final = 1000


class Maps:
    """Where lines of split containers are read and written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[tuple[str, str], tuple[float, list[Range]]] = {}

    def home(self, info: Info, name: str) -> tuple[str, str]:
        """(account, container) whose list has the object's line: a shard's, or the container's own."""
        account, container = info.account, str(info.container)
        if not info.shards:
            return account, container
        key, now = (account, container), time.monotonic()
        held = self._held.get(key)
        if held is None or now >= held[0]:
            if len(self._held) >= _SIZE:
                self._held.clear()
            held = self._held[key] = (now + _AGE, self._read(info))
        found = shards.owner(held[1], name)
        return (account, container) if found is None else (shards.hidden(account), found.container)

    def page(self, info: Info, query: Query) -> Sequence[Row | Subdir]:
        """A page of the listing. Raises Refusal(503)."""
        known = self._read(info)
        if not known:
            return _list(self._store, info.account, str(info.container), query)
        hidden = shards.hidden(info.account)

        def ask(container: str, asked: Query) -> Sequence[Row | Subdir]:
            try:
                return _list(self._store, hidden, container, asked)
            except Missing:
                raise Refusal(503) from None  # what the map names has to be there

        return shards.page(query, known, ask)

    def _read(self, info: Info) -> list[Range]:
        try:
            return shards.ranges(_list(self._store, info.account, str(info.container), shards.map_query()))
        except Missing:
            return []


def _list(store: Store, account: str, container: str, query: Query) -> Sequence[Row | Subdir]:
    """From the first copy that answers. Raises Missing, Refusal(503)."""

    def ask(target: Target) -> Sequence[Row | Subdir]:
        return target.node.list(target.spot, account, container, query)

    return first(site_of(store, account, container), ask)
