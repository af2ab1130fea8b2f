"""Tokens at the edge: whose request is this?

`AuthFilter` puts a `Context` into the WSGI environment; routes decide whether they need one. Validation is the
identity service's; its answers are kept for as long as the identity `Epoch` stands still, so a revocation, a
disabled user or a removed role takes effect with the next request, and a warm validation costs no query.
Nothing else in the request names the caller: X-Roles, X-User-Id and the like are not read anywhere.
"""

from __future__ import annotations

import hashlib
import hmac
import mmap
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from altostack.kit import context as contexts
from altostack.kit import log
from altostack.kit.context import Context
from altostack.kit.route import CHAIN_KEY, CONTEXT_KEY

NODE_HEADER = "X-Altostack-Node"
_REQUEST_ID = re.compile(r"^req-[0-9a-fA-F-]{36}$")


class Epoch:
    """A counter that moves whenever something changes what tokens are worth. Shared by the machine's processes.

    Bump it before the change commits and again after: whoever cached in between is out of date either way.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < 8:
                os.ftruncate(descriptor, 8)
            self._memory = mmap.mmap(descriptor, 8)
        finally:
            os.close(descriptor)
        self._lock = threading.Lock()

    def read(self) -> int:
        """The counter."""
        return int.from_bytes(self._memory[:8], "little")

    def bump(self) -> None:
        """Move it. The clock is part of the value, so two processes that bump at once still move it."""
        with self._lock:
            value = max(self.read() + 1, time.time_ns())
            self._memory[:8] = value.to_bytes(8, "little")


class TokenCache:
    """Validated tokens. ``validate`` asks identity: a Context, or None for a token that is worth nothing."""

    def __init__(
        self,
        validate: Callable[[str], Context | None],
        epoch: Epoch,
        *,
        size: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._validate = validate
        self._epoch = epoch
        self._size = size
        self._clock = clock
        self._known: OrderedDict[str, tuple[int, Context]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def epoch(self) -> Epoch:
        """What all that is remembered of identity goes by."""
        return self._epoch

    def get(self, token: str) -> Context | None:
        """The token's bearer, or None for an invalid, expired or revoked one."""
        now = self._epoch.read()
        held = self._known.get(token)
        if held is not None and held[0] == now:
            return held[1] if held[1].expires_at > self._clock() else None
        context = self._validate(token)
        if context is None or context.expires_at <= self._clock():
            self._known.pop(token, None)
            return None
        with self._lock:
            self._known[token] = (now, context)
            self._known.move_to_end(token)
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return context


def node_token(key: str, host: str) -> str:
    """The credential of a node's agents: good for that host's rows alone. ``key`` is the cloud's node key."""
    return f"{host}:{hmac.new(key.encode(), host.encode(), hashlib.sha256).hexdigest()}"


def node_of(key: str, credential: str) -> str | None:
    """The host that a node credential speaks for, or None."""
    host, _, _ = credential.rpartition(":")
    if not host or not key:
        return None
    return host if hmac.compare_digest(node_token(key, host).encode(), credential.encode()) else None


class AuthFilter:
    """WSGI middleware: X-Auth-Token (or "Authorization: Bearer", or the node credential) -> a Context.

    X-Service-Token beside it says that a service asks on the bearer's behalf.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], tokens: TokenCache, node_key: str) -> None:
        self._app, self._tokens, self._node_key = app, tokens, node_key

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ.pop(CONTEXT_KEY, None)
        environ.pop(CHAIN_KEY, None)
        token = environ.get("HTTP_X_AUTH_TOKEN") or _bearer(environ.get("HTTP_AUTHORIZATION", ""))
        if token:
            context = self._tokens.get(token) if len(token) < 8192 else None
            if context is not None:
                environ[CONTEXT_KEY] = context
                if context.application_credential and (beside := environ.get("HTTP_X_SERVICE_TOKEN")):
                    service = self._tokens.get(beside) if len(beside) < 8192 else None
                    environ[CHAIN_KEY] = service is not None and "service" in service.roles
            else:
                environ["altostack.auth_error"] = "The request you have made requires authentication."
        elif node := environ.get("HTTP_X_ALTOSTACK_NODE"):
            host = node_of(self._node_key, node)
            if host is not None:
                environ[CONTEXT_KEY] = Context(node=host)
        who: Context | None = environ.get(CONTEXT_KEY)
        if who is None:
            return self._app(environ, start_response)
        with log.about(user_id=who.user_id or None, project_id=who.project_id, node=who.node):
            return self._app(environ, start_response)


def _bearer(header: str) -> str:
    """The token of an OAuth 2.0 header (RFC 6750, 2.1), "" of any other."""
    kind, _, token = header.partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


class RequestIdFilter:
    """WSGI middleware: every request gets an id, and every answer says it.

    An id from a caller (X-OpenStack-Request-ID) is kept when it has the right form, so that one id runs through
    all services that a request touches.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = environ.get("HTTP_X_OPENSTACK_REQUEST_ID", "")
        request_id = given if _REQUEST_ID.match(given) else contexts.new_request_id()
        token = contexts.set_request_id(request_id)

        def respond(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if all(name.lower() != "x-openstack-request-id" for name, _ in headers):
                headers.append(("X-Openstack-Request-Id", request_id))
            return start_response(status, headers, *rest)

        try:
            return self._app(environ, respond)
        finally:
            contexts.reset_request_id(token)
