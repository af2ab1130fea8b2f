"""What a process of the identity service keeps at hand: token keys, right passwords, roles, the catalogue."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy.orm import Session

from altostack.identity import jws
from altostack.identity.config import IdentitySettings
from altostack.identity.keys import KeyRing
from altostack.identity.password import Passwords
from altostack.identity.role import Graph
from altostack.identity.service_catalog import Catalog
from altostack.identity.vault import FOLDER, Vault
from altostack.kit.service import Runtime

T = TypeVar("T")
Reader = Callable[[], AbstractContextManager[Session]]


class Keeper:
    """Roles, catalogue and validated tokens are kept for as long as the cloud's epoch stands still."""

    def __init__(self, runtime: Runtime, *, remember: int = 5_000) -> None:
        self.settings: IdentitySettings = runtime.settings or IdentitySettings()
        self.keys = KeyRing(Path(runtime.cloud["keys"]))
        self.jws = jws.JwsRing(Path(runtime.cloud["keys"]) / jws.FOLDER)
        self.vault = Vault(Path(runtime.cloud["keys"]) / FOLDER)
        self.passwords = Passwords(self.settings.password_rounds)
        self._epoch = runtime.cloud["epoch"]
        self._held: dict[str, tuple[int, Any]] = {}
        self._tokens: OrderedDict[str, tuple[int, Any]] = OrderedDict()
        self._most = remember
        self._found: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()
        self._lock = threading.Lock()
        self.passwords.elsewhere = lambda password, stored: _elsewhere(runtime, password, stored)

    def graph(self, session: Session) -> Graph:
        """Every role and what it implies."""
        return self._keep("graph", lambda: Graph.read(session))

    def catalog(self, session: Session) -> Catalog:
        """The service catalogue."""
        return self._keep("catalog", lambda: Catalog.read(session))

    def _keep(self, name: str, read: Callable[[], T]) -> T:
        now = self._epoch.read()  # before reading: a change meanwhile makes this out of date, not too new
        held = self._held.get(name)
        if held is None or held[0] != now:
            held = self._held[name] = (now, read())
        found: T = held[1]
        return found

    def known(self, key: Hashable, read: Callable[[], T]) -> T:
        """What ``read`` finds, kept under ``key`` for as long as the epoch stands still. None is not kept: what is new
        does not move the epoch."""
        now = self._epoch.read()
        held = self._found.get(key)
        if held is not None and held[0] == now:
            kept: T = held[1]
            return kept
        found = read()
        if found is not None:
            with self._lock:
                self._found[key] = (now, found)
                self._found.move_to_end(key)
                while len(self._found) > self._most:
                    self._found.popitem(last=False)
        return found

    def offers(self, read: Reader, user_id: str, project_id: str | None) -> msgspec.Raw:
        """The catalogue as the user sees it in the project, as JSON."""

        def write() -> msgspec.Raw:
            with read() as session:
                return msgspec.Raw(msgspec.json.encode(self.catalog(session).seen_by(user_id, project_id)))

        return self.known(("catalog", user_id, project_id), write)

    def recall(self, token: str) -> Any:
        """What `remember` was told of ``token`` since the epoch last moved, or None."""
        held = self._tokens.get(token)
        return held[1] if held is not None and held[0] == self._epoch.read() else None

    def now(self) -> int:
        """The epoch, to hand to `remember` with what is read after this call."""
        return int(self._epoch.read())

    def remember(self, token: str, epoch: int, found: Any) -> None:
        """Keep what validating ``token`` found, read since ``epoch``."""
        with self._lock:
            self._tokens[token] = (epoch, found)
            self._tokens.move_to_end(token)
            while len(self._tokens) > self._most:
                self._tokens.popitem(last=False)


def _elsewhere(runtime: Runtime, password: str, stored: str) -> bool:
    from altostack.identity.mirror import accepts  # which knows users, who know the keeper

    return accepts(runtime, password, stored)


def keeper(runtime: Runtime) -> Keeper:
    """The runtime's keeper, made when first needed."""
    found = runtime.memo.get("keeper")
    if found is None:
        found = runtime.memo.setdefault("keeper", Keeper(runtime))
    kept: Keeper = found
    return kept
