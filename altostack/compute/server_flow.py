"""What every part of a server's lifecycle uses: its rows, its neighbours, and how to ask its node for something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.compute import instance_action
from altostack.compute.host import Host, alive, by_name
from altostack.compute.neighbours import Neighbours, RemoteError, neighbours
from altostack.compute.server_row import (
    ACTIVE,
    ERROR,
    PAUSED,
    POWER_PAUSED,
    RUNNING,
    SHUTDOWN,
    STOPPED,
    SUSPENDED,
    Disk,
    Interface,
    Server,
)
from altostack.kit import context as contexts
from altostack.kit.db import utcnow
from altostack.kit.dialect import iso
from altostack.kit.flow import Failed, Flow, Next, hop, later, wait

# Statements of every step, built once.
_CARDS: Any
_DISKS: Any
_CARDS, _DISKS = (
    sa.select(kind).where(kind.server_id == sa.bindparam("server")).order_by(kind.position, kind.id)
    for kind in (Interface, Disk)
)
# What the node may be asked to make of a guest -> (vm_state, power_state) once it is so.
LEVELS = {
    "running": (ACTIVE, RUNNING),
    "paused": (PAUSED, POWER_PAUSED),
    "suspended": (SUSPENDED, SHUTDOWN),
    "shutoff": (STOPPED, SHUTDOWN),
}
# Seconds after which a bell that may have been lost is rung again; agents look at everything once a minute anyway.
AGAIN = 20.0
# Refusals that may turn into consent: no answer, an expired token, too many requests.
_PASSING = (401, 408, 429)


class ServerFlow(Flow[Server]):
    """The base of the parts of `ServerLife`."""

    deadline = 300.0

    def rest(self) -> Next:
        """Where every part ends: nothing is being done, whatever is asked is taken here."""
        raise NotImplementedError

    # ---- rows

    def interfaces(self) -> list[Interface]:
        """The server's network cards, in order."""
        with self.runtime.db.read() as session:
            return list(session.execute(_CARDS, {"server": self.row.id}).scalars())

    def disks(self) -> list[Disk]:
        """The server's block devices, in order."""
        with self.runtime.db.read() as session:
            return list(session.execute(_DISKS, {"server": self.row.id}).scalars())

    def disk(self, disk_id: str) -> Disk | None:
        """One block device."""
        with self.runtime.db.read() as session:
            return session.get(Disk, disk_id)

    def interface(self, interface_id: str) -> Interface | None:
        """One network card."""
        with self.runtime.db.read() as session:
            return session.get(Interface, interface_id)

    def put(self, kind: type[Any], key: str, **values: Any) -> None:
        """Change columns of another of the server's rows, with the step's end."""
        self.write(lambda session: session.execute(sa.update(kind).where(kind.id == key).values(**values)))

    def drop(self, kind: type[Any], key: str) -> None:
        """Remove another of the server's rows, with the step's end."""
        self.write(lambda session: session.execute(sa.delete(kind).where(kind.id == key)))

    # ---- neighbours

    @property
    def near(self) -> Neighbours:
        """The other services."""
        return neighbours(self.clients)

    @contextmanager
    def final(self) -> Iterator[None]:
        """A neighbour's refusal in this block ends the step: trying again would be refused again. Raises Failed."""
        try:
            yield
        except RemoteError as error:
            if 400 <= error.status < 500 and error.status not in _PASSING:
                raise Failed(str(error)) from error
            raise

    # ---- the node

    def want(self, power: str | None = None, **verb: Any) -> None:
        """Ask the node for a level of power, for something to be done once (``name=``), or both."""
        wanted = dict(self.row.wanted)
        self.row.generation += 1
        if power is not None:
            wanted["power"] = power
        if verb:
            wanted["verb"] = {"serial": self.row.generation, **verb}
        self.row.wanted = wanted

    def give_up(self) -> None:
        """Stop asking for what did not work: the guest may stay as the node sees it."""
        wanted = {**self.row.wanted, "verb": None}
        power = self.row.seen.get("power")
        if power in LEVELS:
            wanted["power"] = power
        self.row.wanted = wanted
        self.row.generation += 1

    def settled(self) -> bool:
        """Whether the node has done all it was asked. Raises Failed when it could not."""
        seen = self.row.seen
        if seen.get("generation", -1) < self.row.generation:
            return False
        if seen.get("error"):
            raise Failed(f"host {self.row.host}: {seen['error']}")
        return True

    def ring(self) -> None:
        """Tell the node to look at this server."""
        if self.row.host:
            self.runtime.bus.ring(f"compute.node.{self.row.host}", self.row.id)

    def observed(self, step: Callable[..., Next], *, seconds: float = AGAIN) -> Next:
        """Go on with ``step`` when the node has observed something, after telling it to look."""
        self.after(self.ring)
        return later(step, seconds=seconds)

    def pending(self, seconds: float = AGAIN) -> Next:
        """Wait for the node's observation, and tell it again."""
        self.after(self.ring)
        return wait(seconds=seconds)

    def resting(self) -> Next:
        """Nothing is being done any more: whatever was asked meanwhile is taken at once, else when it is asked."""
        return hop(self.rest) if self.signals else later(self.rest)

    def home(self) -> Host | None:
        """The host's row."""
        with self.runtime.db.read() as session:
            return by_name(session, self.row.host)

    def home_alive(self) -> bool:
        """Whether the server's host reports."""
        host = self.home()
        return host is not None and alive(self.runtime, host)

    # ---- how it stands

    def stand(self, power: str) -> None:
        """Set the server's states to those of a level of power, with nothing being done."""
        self.row.vm_state, self.row.power_state = LEVELS[power]
        self.row.task_state = None

    def stand_as_seen(self) -> None:
        """Set the server's states to what the node sees; ERROR when it sees no guest."""
        power = self.row.seen.get("power")
        if power in LEVELS:
            self.stand(str(power))
        else:
            self.row.vm_state, self.row.task_state = ERROR, None

    def blame(self, message: str, details: str = "") -> None:
        """Record a fault, as the API shows it."""
        self.row.fault = {
            "code": 500,
            "created": iso(utcnow()),
            "message": message[:4000],
            "details": details or message,
        }

    def finished(self, error: str | None = None) -> None:
        """The action that the current request asked for is over."""
        server_id, request_id = self.row.id, contexts.request_id()

        def note(session: Session) -> None:
            instance_action.finish(session, server_id, request_id, error)

        self.write(note)
