"""Tokens of the identity service: whose request is this?

X-Auth-Token (X-Storage-Token, or ``Authorization: Bearer``) becomes `Request.context`. A token that is worth nothing
makes the request an anonymous one: a public container may still be read. X-Service-Token beside it becomes the fact
"service": the `Context` of the service that asks on the bearer's behalf. No other header names the caller.
"""

from __future__ import annotations

from typing import Any, Final

from altostack.kit import log
from altostack.kit.auth import TokenCache
from altostack.kit.context import Context
from altostack.objectstore.http import Handler, Request, Response
from altostack.objectstore.middleware.options import Wrap, store_of

_LONGEST: Final = 8192  # characters


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """No options."""
    tokens = store_of(conf).tokens
    return lambda app: Tokens(app, tokens)


def token_in(request: Request) -> str:
    """The token that came with a request, "" for none."""
    token = request.header("x-auth-token") or request.header("x-storage-token")
    if not token and (said := request.header("authorization")):
        kind, _, rest = said.partition(" ")
        if kind.lower() == "bearer":  # RFC 6750, 2.1
            token = rest.strip()
    return token


class Tokens:
    """Puts the bearer into the request, unless a filter before it knows who asks."""

    def __init__(self, app: Handler, tokens: TokenCache | None) -> None:
        self._app, self._tokens = app, tokens

    def __call__(self, request: Request) -> Response:
        if request.context is None:
            request.context = self._bearer(token_in(request))
        if (service := request.header("x-service-token")) and "service" not in request.facts:
            request.facts["service"] = self._bearer(service)
        who = request.context
        if who is None:
            return self._app(request)
        with log.about(user_id=who.user_id or None, project_id=who.project_id):
            return self._app(request)

    def _bearer(self, token: str) -> Context | None:
        if not token or self._tokens is None or len(token) >= _LONGEST:
            return None
        return self._tokens.get(token)
