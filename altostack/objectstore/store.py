"""The object store of one process: what is handed to the pipeline, the proxy and the daemons."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from altostack.kit.auth import Epoch, TokenCache
from altostack.kit.clients import Client
from altostack.kit.policy import Policy
from altostack.objectstore.config import Settings
from altostack.objectstore.http import Handler, Request, Response
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import Device, Info, Node, RingView, StoragePolicy


class Rings(Protocol):
    """The rings in force. Files that change are read anew within a few seconds."""

    @property
    def account(self) -> RingView: ...

    @property
    def container(self) -> RingView: ...

    def object(self, policy: int) -> RingView:
        """Raises LookupError for a policy that has no ring."""
        ...


class Known(Protocol):
    """What accounts and containers are, remembered for as long as nobody on this machine changes one."""

    def account(self, account: str) -> Info | None:
        """None when there is none. Raises Refusal(503) when no copy answers."""
        ...

    def container(self, account: str, container: str) -> Info | None:
        """None when there is none. Raises Refusal(503) when no copy answers."""
        ...

    def forget(self, account: str, container: str | None = None) -> None:
        """It changed."""
        ...


@dataclass(kw_only=True)
class Store:
    """What one process holds of the object store.

    folder: the cloud's folder. local: this machine's devices; remote: makes the client of another node's. key: what
    the nodes of the cluster know each other by. region: the cloud's. tokens, rules: None where no identity service
    is. epoch: moves when an account or a container changes, so that what is remembered of them is looked up again.
    clients: the identity service and others, for handlers that ask them. app: the whole pipeline, set when it is
    made. facts: what /info tells, section -> words; each handler adds its own when it is made. handlers: what
    handlers leave for the daemons, by their names.
    """

    folder: Path
    settings: Settings
    policies: tuple[StoragePolicy, ...]
    rings: Rings
    local: Node
    remote: Callable[[str, int], Node]
    key: bytes
    clock: Clock
    epoch: Epoch
    url: str = ""
    region: str = ""
    tokens: TokenCache | None = None
    rules: Policy | None = None
    clients: Mapping[str, Client] = field(default_factory=dict)
    app: Handler | None = None
    known: Known = field(init=False)
    facts: dict[str, dict[str, object]] = field(default_factory=dict)
    handlers: dict[str, object] = field(default_factory=dict)
    _nodes: dict[tuple[str, int], Node] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def node(self, device: Device) -> Node:
        """The node that holds a device: this process itself, or a client of another."""
        return self.node_at(device.host, device.port)

    def node_at(self, host: str, port: int) -> Node:
        """The node that answers there."""
        if self.is_local(host, port):
            return self.local
        found = self._nodes.get((host, port))
        if found is None:
            with self._lock:
                found = self._nodes.setdefault((host, port), self.remote(host, port))
        return found

    def is_local(self, host: str, port: int) -> bool:
        """Whether that node is this machine's own."""
        return port == self.settings.node_port and host == (self.settings.node_host or "127.0.0.1")

    def policy(self, index: int) -> StoragePolicy:
        """Raises LookupError."""
        for one in self.policies:
            if one.index == index:
                return one
        raise LookupError(f"there is no storage policy {index}")

    def policy_named(self, name: str) -> StoragePolicy | None:
        """By name or alias, in any case."""
        wanted = name.lower()
        return next((p for p in self.policies if wanted in (n.lower() for n in (p.name, *p.aliases))), None)

    @property
    def default_policy(self) -> StoragePolicy:
        """What containers get that ask for none."""
        return next(one for one in self.policies if one.default)

    def ask(self, request: Request) -> Response:
        """Send a request of our own through the whole pipeline. Raises RuntimeError before the pipeline is made."""
        from altostack.objectstore.http import ask

        if self.app is None:
            raise RuntimeError("the pipeline is not made yet")
        return ask(self.app, request)
