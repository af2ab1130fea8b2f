"""Who asks, and under which request id."""

from __future__ import annotations

import contextvars
import re
import uuid
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import msgspec


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """A validated token's bearer, as the policy engine sees it (identity API v3, token object)."""

    user_id: str = ""
    user_name: str = ""
    user_domain_id: str = ""
    user_domain_name: str = ""
    project_id: str | None = None
    project_name: str | None = None
    project_domain_id: str | None = None
    project_domain_name: str | None = None
    domain_id: str | None = None
    domain_name: str | None = None
    system: bool = False
    roles: frozenset[str] = frozenset()
    token: str = ""
    expires_at: float = 0.0
    methods: tuple[str, ...] = ()
    audit_ids: tuple[str, ...] = ()
    trust_id: str | None = None
    application_credential: dict[str, Any] | None = None
    node: str | None = None  # set instead of a user when a node's agent asks

    @property
    def is_admin(self) -> bool:
        """True for the admin role in any scope (the field's long-standing meaning of admin)."""
        return "admin" in self.roles

    def may_call(self, services: Collection[str], method: str, path: str) -> bool:
        """Whether the access rules of the bearer's application credential, if it has any, allow the call.

        ``services``: the names of the called service's type. ``path``: below the service's prefix. In a rule's path
        ``*`` and ``{name}`` stand for one segment, ``**`` for any number (identity API v3.13, access rules).
        """
        rules = (self.application_credential or {}).get("access_rules")
        return not rules or any(
            rule["service"] in services
            and rule["method"] == method
            and _pattern(rule["path"]).fullmatch(path)
            for rule in rules
        )

    @property
    def scope(self) -> str:
        """What the token is for: "project", "domain", "system", or "none"."""
        if self.project_id:
            return "project"
        return "domain" if self.domain_id else "system" if self.system else "none"

    def credentials(self) -> dict[str, Any]:
        """The ``creds`` mapping of oslo.policy's rule language; ``scope`` is a word of ours."""
        return {
            "scope": self.scope,
            "user_id": self.user_id,
            "user_domain_id": self.user_domain_id,
            "project_id": self.project_id,
            "tenant_id": self.project_id,
            "project_domain_id": self.project_domain_id,
            "domain_id": self.domain_id,
            "system_scope": "all" if self.system else None,
            "system": {"all": True} if self.system else None,
            "roles": sorted(self.roles),
            "is_admin": self.is_admin,
            "trust_id": self.trust_id,
            # identity's own rules look into the token: token.domain.id, token.project.domain.id
            "token": {
                "domain": {"id": self.domain_id},
                "project": {"domain": {"id": self.project_domain_id}},
            },
        }


@lru_cache(maxsize=1024)
def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*|\{[^}]*\})", path)
    return re.compile(
        "".join(
            ".*" if part == "**" else "[^/]+" if part[:1] in ("*", "{") else re.escape(part) for part in parts
        )
    )


NOBODY = Context()

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def new_request_id() -> str:
    """A fresh id in the field's form, ``req-<uuid4>``."""
    return f"req-{uuid.uuid4()}"


def request_id() -> str:
    """The id of the request or flow step this thread works for ("" outside of one)."""
    return _request_id.get()


def set_request_id(value: str) -> contextvars.Token[str]:
    """Work for ``value`` from here on; hand the result to `reset_request_id`."""
    return _request_id.set(value)


def reset_request_id(token: contextvars.Token[str]) -> None:
    _request_id.reset(token)
