"""How routes below a server get at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from altostack.compute.server import SERVERS
from altostack.compute.server_row import Server
from altostack.kit.api import load
from altostack.kit.call import Call
from altostack.kit.route import Route
from altostack.kit.versions import Version, parse


def server_of(call: Call, rule: str | None = None, *, lock: bool = False) -> Server:
    """The server that the path names, if the caller may see it and policy allows ``rule`` on it."""
    row: Server = load(call, SERVERS, call.params["server_id"], lock=lock)
    call.require(rule or call.route.policy, row)
    return row


def below(
    path: str, handler: Callable[[Call], Any], rule: str, check: str, *, method: str = "GET", since: str | None = None,
    until: str | None = None, **more: Any,
) -> Route:  # fmt: skip
    """A route below ``/servers/{server_id}`` whose handler checks policy on the server's row."""
    return Route(
        method=method, path="/servers/{server_id}" + path, handler=handler, policy=f"os_compute_api:{rule}",
        check=check, guard=False, since=_version(since), until=_version(until), **more,
    )  # fmt: skip


def _version(text: str | None) -> Version | None:
    return parse(text) if text else None
