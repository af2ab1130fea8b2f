"""A filter alone, with an inner handler that notes what it was asked; and people with tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

from altostack.kit.auth import Epoch, TokenCache
from altostack.kit.context import Context
from altostack.kit.policy import Policy
from altostack.objectstore.config import Settings
from altostack.objectstore.http import Body, Bytes, Refusal, Request, Response
from altostack.objectstore.middleware.acl import RULES
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import Info
from altostack.objectstore.store import Store
from tests.objectstore.world import World, world

PEOPLE = {
    "anna": Context(
        user_id="u-anna", user_name="anna", user_domain_id="default", project_id="p1", project_name="one",
        project_domain_id="default", roles=frozenset({"member"}), token="anna", expires_at=9e9,
    ),
    "rita": Context(
        user_id="u-rita", user_name="rita", user_domain_id="default", project_id="p1", project_name="one",
        project_domain_id="default", roles=frozenset({"reader"}), token="rita", expires_at=9e9,
    ),
    "bert": Context(
        user_id="u-bert", user_name="bert", user_domain_id="default", project_id="p2", project_name="two",
        project_domain_id="default", roles=frozenset({"member", "Auditor"}), token="bert", expires_at=9e9,
    ),
    "dora": Context(  # the same names as bert's, in another domain
        user_id="u-dora", user_name="bert", user_domain_id="d2", project_id="p3", project_name="two",
        project_domain_id="d2", roles=frozenset({"member"}), token="dora", expires_at=9e9,
    ),
    "carl": Context(
        user_id="u-carl", user_name="carl", user_domain_id="default", project_id="p1", project_name="one",
        project_domain_id="default", roles=frozenset({"auditor"}), token="carl", expires_at=9e9,
    ),
    "root": Context(
        user_id="u-root", user_name="root", project_id="p9", roles=frozenset({"ResellerAdmin"}), token="root",
        expires_at=9e9,
    ),
    "nova": Context(
        user_id="u-nova", user_name="nova", project_id="svc", roles=frozenset({"service"}), token="nova",
        expires_at=9e9,
    ),
}  # fmt: skip


def tokens(folder: Path) -> TokenCache:
    """The people's names are their tokens."""
    return TokenCache(PEOPLE.get, Epoch(folder / "epoch"))


def rules() -> Policy:
    return Policy(RULES)


@dataclass
class Known:
    accounts: dict[str, Info] = field(default_factory=dict)
    containers: dict[tuple[str, str], Info] = field(default_factory=dict)

    def account(self, account: str) -> Info | None:
        return self.accounts.get(account)

    def container(self, account: str, container: str) -> Info | None:
        return self.containers.get((account, container))

    def forget(self, account: str, container: str | None = None) -> None:
        raise AssertionError("no filter of the gates changes what is known")


def store(folder: Path, *, with_people: bool = False, **settings: Any) -> Store:
    """A store without disks."""
    chosen = Settings(**settings)
    nothing = cast(Any, None)
    made = Store(
        folder=folder, settings=chosen, policies=chosen.storage_policies(), rings=nothing, local=nothing,
        remote=nothing, key=b"key", clock=Clock(), epoch=Epoch(folder / "objects-epoch"),
        tokens=tokens(folder) if with_people else None, rules=rules() if with_people else None,
    )  # fmt: skip
    made.known = Known()
    return made


def peopled(folder: Path, pipeline: str, **more: Any) -> World:
    """A whole store, with the people's tokens."""
    return world(folder, pipeline=pipeline, tokens=tokens(folder), rules=rules(), **more)


def known(made: Store) -> Known:
    found = made.known
    assert isinstance(found, Known)
    return found


def dated(**metadata: str) -> dict[str, tuple[str, str]]:
    return {name.replace("_", "-"): (value, "0000000001.000000000") for name, value in metadata.items()}


@dataclass
class Inner:
    """The handler inside. ``answer``: what it says; ``asked``: the requests it got, bodies read."""

    answer: Callable[[Request], Response] = lambda request: Response(200, {"x-inner": "1"}, b"inner")
    acl: str | None = None
    asked: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        if request.authorize is not None:
            request.authorize(request, self.acl)
        self.bodies.append(request.body.read())
        return self.answer(request)


def request(
    method: str,
    path: str,
    body: bytes | Body = b"",
    *,
    query: Mapping[str, str] | str = "",
    who: str | None = None,
    remote: str = "127.0.0.1",
    **headers: str,
) -> Request:
    """``path`` is decoded; ``who`` is a name of `PEOPLE`."""
    content = Bytes(body) if isinstance(body, bytes) else body
    made = Request(
        method, quote(path, safe="/~"), query_string=query if isinstance(query, str) else urlencode(query),
        headers={name.replace("_", "-").lower(): value for name, value in headers.items()}, body=content,
        remote=remote,
    )  # fmt: skip
    if content.length:
        made.headers.setdefault("content-length", str(content.length))
    if who is not None:
        made.headers["x-auth-token"] = who
        made.context = PEOPLE[who]
    return made


def ask(app: Callable[[Request], Response], *args: Any, **more: Any) -> Response:
    try:
        return app(request(*args, **more))
    except Refusal as refusal:
        return refusal.response()


def build(
    factory: Callable[..., Any], made: Store, inner: Callable[[Request], Response], **local: str
) -> Any:
    """The filter as the paste file makes it."""
    return factory({"altostack": {"store": made}}, **local)(inner)
