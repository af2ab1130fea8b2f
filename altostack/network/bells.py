"""Bells of the network service: who is to look at what, once the transaction is committed.

A node's agent listens to ``network.node.<host>`` for what it carries, ids being ``port:<id>``, ``network:<id>`` and
``router:<id>``; every agent listens to ``network.groups`` for security groups, and ignores those it does not use.
Members come and go with every port, so their bells are gathered first (``network.members``, `loops.relay`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from altostack.kit.bus import Bus
from altostack.kit.call import Call

GROUPS = "network.groups"
MEMBERS = "network.members"
NOTICES = "network.notices"
TIDY = "network.tidy"


def node_topic(host: str) -> str:
    """The topic of one node's agent."""
    return f"network.node.{host}"


class Bells:
    """Bells that ring when ``after`` runs what it is given: `Call.after`, or a list's ``append``."""

    def __init__(self, bus: Bus, after: Callable[[Callable[[], None]], None]) -> None:
        self._bus, self._after = bus, after

    def node(self, host: str | None, *ids: str) -> None:
        """Have the node look at these; nothing happens for no host."""
        if host and ids:
            self._after(lambda: self._bus.ring(node_topic(host), *ids))

    def nodes(self, hosts: Iterable[str], *ids: str) -> None:
        """The same for several nodes."""
        for host in hosts:
            self.node(host, *ids)

    def groups(self, ids: Iterable[str]) -> None:
        """Security groups' rules changed."""
        self._groups(GROUPS, tuple(ids))

    def members(self, ids: Iterable[str]) -> None:
        """Security groups have other members."""
        self._groups(MEMBERS, tuple(ids))

    def _groups(self, topic: str, ids: tuple[str, ...]) -> None:
        if ids:
            self._after(lambda: self._bus.ring(topic, *ids))

    def notices(self) -> None:
        """There is something to tell compute."""
        self._after(lambda: self._bus.ring(NOTICES))

    def tidy(self) -> None:
        """Something wants a node."""
        self._after(lambda: self._bus.ring(TIDY))


def bells(call: Call) -> Bells:
    """The bells of a request."""
    return Bells(call.runtime.bus, call.after)
