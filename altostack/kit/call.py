"""One request in the hands of a handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import falcon
import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit import context as contexts
from altostack.kit.context import Context
from altostack.kit.errors import BadRequest
from altostack.kit.resource import Resource
from altostack.kit.versions import Version

if TYPE_CHECKING:
    from altostack.kit.route import Route
    from altostack.kit.service import Runtime


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer that is more than a JSON body. ``stream`` yields bytes and needs ``headers``' own type."""

    body: Any = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Iterable[bytes] | None = None


class Call:
    """A request: who asks, at which version, for what, and the one transaction it may use.

    The session opens when it is first touched (as a writer unless the method is GET or HEAD) and is committed after
    the handler returns, so calls to other services belong before the first touch. A handler may be run again when
    the database says that transactions collided.
    """

    __slots__ = (
        "_after", "_session", "body", "context", "document", "extra", "headers", "memo", "params", "request",
        "resource", "route", "runtime", "version", "write",
    )  # fmt: skip

    def __init__(
        self,
        runtime: Runtime,
        route: Route,
        request: falcon.Request,
        context: Context,
        params: dict[str, str],
        version: Version | None,
    ) -> None:
        self.runtime = runtime
        self.route = route
        self.resource: Resource | None = route.resource
        self.request = request
        self.context = context
        self.params = params
        self.version = version
        self.body: Any = None  # what stands inside the envelope
        self.document: Any = None  # the whole body
        self.extra: dict[str, Any] = {}  # what the envelope holds beyond the schema (`Resource.extra`)
        self.headers: dict[str, str] = {}
        self.memo: dict[Any, Any] = {}  # per-request facts, e.g. policy answers
        self.write = request.method not in ("GET", "HEAD")
        self._session: Session | None = None
        self._after: list[Callable[[], None]] = []

    # ---- the transaction

    @property
    def session(self) -> Session:
        """The request's one transaction."""
        if self._session is None:
            self._session = self.runtime.db.session(write=self.write)
        return self._session

    def after(self, work: Callable[[], None]) -> None:
        """Do ``work`` once the transaction is committed (ring a bell); never before, never without."""
        self._after.append(work)

    def commit(self) -> None:
        """Commit and do what waited for it."""
        if self._session is not None:
            if self.write:
                self._session.commit()
            self._session.close()
            self._session = None
        waiting, self._after = self._after, []
        for work in waiting:
            work()

    def rollback(self) -> None:
        """Forget everything that this attempt did."""
        self._after.clear()
        if self._session is not None:
            self._session.close()
            self._session = None

    # ---- the query string

    @property
    def query(self) -> dict[str, list[str]]:
        """Every query parameter -> its values, in order."""
        found = self.memo.get("query")
        if found is None:
            found = {}
            for name, value in falcon.uri.parse_query_string(
                self.request.query_string, keep_blank=True, csv=False
            ).items():
                values = value if isinstance(value, list) else [value]
                if any("\x00" in text for text in (name, *values)):
                    raise BadRequest(f"Query parameter {name!r} holds a NUL character.", field=name)
                found[name] = values
            self.memo["query"] = found
        return found

    def arg(self, name: str) -> str | None:
        """The last value of a query parameter, or None."""
        values = self.query.get(name)
        return values[-1] if values else None

    def flag(self, name: str, default: bool = False) -> bool:
        """A query parameter as a boolean, in the words that the field accepts. Raises BadRequest."""
        text = self.arg(name)
        if text is None:
            return default
        if text.lower() in ("1", "true", "t", "yes", "y", "on", ""):
            return True
        if text.lower() in ("0", "false", "f", "no", "n", "off"):
            return False
        raise BadRequest(f"Invalid value for {name}: {text!r} is not a boolean.", field=name)

    def number(self, name: str, default: int | None = None) -> int | None:
        """A query parameter as a non-negative integer. Raises BadRequest."""
        text = self.arg(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise BadRequest(f"{name} must be a non-negative integer, not {text!r}.", field=name)
        return int(text)

    # ---- policy

    def allows(self, rule: str, target: Any = None) -> bool:
        """Whether policy lets the caller do ``rule`` to ``target`` (a row, a mapping, or the caller's own scope)."""
        if target is None:
            key = ("policy", rule)
            if key not in self.memo:
                self.memo[key] = self.runtime.policy.allows(rule, self.context, self._target(None))
            return bool(self.memo[key])
        return self.runtime.policy.allows(rule, self.context, self._target(target))

    def require(self, rule: str, target: Any = None) -> None:
        """Raises Forbidden unless `allows`."""
        self.runtime.policy.require(rule, self.context, self._target(target))

    def _target(self, target: Any) -> Mapping[str, Any]:
        if isinstance(target, Mapping):
            return target
        if (own := self.runtime.service.dialect.target) is not None:
            return own(self, target)
        return own_scope(self.context) if target is None else policy_target(target)

    def at_least(self, version: str) -> bool:
        """Whether the caller speaks ``version`` or a newer one (always, where there are no versions)."""
        if self.version is None:
            return True
        major, minor = version.split(".")
        return self.version >= (int(major), int(minor))

    # ---- facts for answers

    def link(self, path: str) -> str:
        """An absolute URL below the service's versioned root."""
        return self.runtime.root_url + path

    @property
    def request_id(self) -> str:
        return contexts.request_id()

    def header(self, name: str) -> str | None:
        """A request header, by any case."""
        return self.request.get_header(name)


def own_scope(context: Context) -> dict[str, Any]:
    """The policy target of an operation on nothing in particular: the caller's own scope."""
    return {
        "project_id": context.project_id,
        "tenant_id": context.project_id,
        "user_id": context.user_id,
        "domain_id": context.domain_id,
    }


def policy_target(row: Any) -> Mapping[str, Any]:
    """A row as oslo.policy's target: its columns by attribute name."""
    return {attribute.key: getattr(row, attribute.key) for attribute in sa.inspect(type(row)).column_attrs}
