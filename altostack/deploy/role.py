"""What a process of a cloud does, and what it is given."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from altostack.deploy.state import State

Progress = Callable[[str], None]
"""Takes one line for people about how far things are."""


@dataclass(frozen=True, kw_only=True)
class RoleContext:
    """What a role's process is given.

    process: its name ("api-1"), unique in the cloud. index: 1 and up among processes of its role. stop: set when
    the process shall end. listeners: the sockets that its `Role.listen` asked for, by that name; each process of a
    role has its own. ready: call it once the process does its work; `altostack up` waits for that.
    """

    process: str
    index: int
    state: State
    stop: threading.Event
    listeners: Mapping[str, socket.socket]
    ready: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Role:
    """A kind of process: `count` of them each call `run`, which returns after `context.stop` is set.

    listen: name -> (host, port) of TCP sockets to listen on, bound before any process starts.
    """

    name: str
    run: Callable[[RoleContext], None]
    count: int = 1
    listen: Mapping[str, tuple[str, int]] = field(default_factory=dict)


class Composition(Protocol):
    """A cloud as the starter sees it; `altostack.app.compose` makes one without touching anything."""

    @property
    def roles(self) -> Mapping[str, Role]:
        """The processes, by role name, in the order in which they start."""

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Service -> public URL."""

    def prepare(self, progress: Progress) -> None:
        """Databases and first contents; idempotent, may be killed anywhere. Runs before any role."""

    def after_start(self, progress: Progress) -> None:
        """What needs a running cloud (images, flavors, the demo project); idempotent like `prepare`."""

    def teardown(self) -> None:
        """Remove from the host what the cloud made outside its folder; runs when no role runs; idempotent."""
