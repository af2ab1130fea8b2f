"""Keeps what is ours from clients, both ways: system metadata and the headers that nodes speak among themselves.

It stands right behind `catch`: every filter inside may trust these headers.
"""

from __future__ import annotations

from typing import Any, Final

from altostack.objectstore.http import Handler, Request, Response, ask
from altostack.objectstore.middleware.options import Wrap, flag

_PREFIXES: Final = (
    "x-backend",
    "x-account-sysmeta-",
    "x-container-sysmeta-",
    "x-object-sysmeta-",
    "x-object-transient-sysmeta-",
)
_NAMES: Final = frozenset(
    f"x-{kind}-{what}"
    for kind, whats in (
        ("account", ("host", "device", "partition")),
        ("container", ("host", "device", "partition", "root-db-state")),
        ("delete-at", ("host", "device", "partition", "container")),
    )
    for what in whats
)


def is_ours(name: str) -> bool:
    """Whether no client may send or see the header. An underscore is as good as a dash to some who read headers."""
    if not name.startswith("x"):
        return False
    if "_" in name:
        name = name.replace("_", "-")
    return name.startswith(_PREFIXES) or name in _NAMES


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """shunt_inbound_x_timestamp: a client's X-Timestamp is put aside as x-backend-inbound-x-timestamp (yes)."""
    shunt = flag(local.get("shunt_inbound_x_timestamp", "yes"))
    return lambda app: Gatekeeper(app, shunt=shunt)


class Gatekeeper:
    """Takes headers that are ours off requests and answers."""

    def __init__(self, app: Handler, *, shunt: bool = True) -> None:
        self._app, self._shunt = app, shunt

    def __call__(self, request: Request) -> Response:
        headers = request.headers
        for name in [name for name in headers if is_ours(name)]:
            del headers[name]
        if self._shunt and (stamp := headers.pop("x-timestamp", None)) is not None:
            headers["x-backend-inbound-x-timestamp"] = stamp
        response = ask(self._app, request)  # a refusal's headers pass here too
        for name in [name for name in response.headers if is_ours(name)]:
            del response.headers[name]
        return response
