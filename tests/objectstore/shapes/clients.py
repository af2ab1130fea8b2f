"""Clients that may do some things and not others, and how patient tests with random input are."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import quote, urlencode

from hypothesis import HealthCheck

from altostack.objectstore.http import Bytes, Refusal, Request, Response, ask
from tests.objectstore.world import World

LENIENT: Final = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def limited(
    store: World, *, read: Collection[str] = (), write: Collection[str] = (), account: str = "a"
) -> Callable[..., Response]:
    """Requests of somebody who may read the objects of some containers of ``account`` and write those of others."""

    def asked(
        method: str, path: str, body: bytes = b"", query: dict[str, str] | None = None, **headers: str
    ) -> Response:
        request = Request(
            method, quote(path), query_string=urlencode(query or {}), body=Bytes(body),
            headers={"content-length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()},
        )  # fmt: skip

        def authorize(asking: Request, acl: str | None) -> None:
            place = asking.place
            assert place is not None
            allowed = read if asking.method in ("GET", "HEAD") else write
            if place.account != account or place.container not in allowed:
                raise Refusal(403)

        request.authorize = authorize
        assert store.store.app is not None
        return ask(store.store.app, request)

    return asked
