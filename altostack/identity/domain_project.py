"""Projects that act as domains: every domain is shown, made, changed and deleted as a project too.

The domain's row is the truth; here it is only told in a project's words. Source: Identity API v3.6, ``is_domain``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from altostack.identity import domain as domains
from altostack.identity.common import peek
from altostack.identity.dialect import DIALECT
from altostack.identity.domain import DOMAINS, Domain
from altostack.identity.project import PROJECTS, Project
from altostack.kit import listing
from altostack.kit.api import routes_of, view
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest
from altostack.kit.resource import given
from altostack.kit.route import Route


def acting(domain: Domain) -> Project:
    """The project that acts as ``domain``; it never enters the session."""
    return Project(
        id=domain.id, name=domain.name, description=domain.description, enabled=domain.enabled,
        options=domain.options, tags=domain.tags, extra=domain.extra, domain_id=None, parent_id=None, path="",
    )  # fmt: skip


def create(call: Call) -> Any:
    fields = given(call.body)
    fields.pop("is_domain")
    for name in ("domain_id", "parent_id"):
        if fields.pop(name, None) is not None:
            raise BadRequest(f"A project that acts as a domain has no {name}.", field=name)
    call.require("identity:create_domain")
    row = domains.create(call, fields | {"extra": dict(call.extra)})
    return {"project": view(call, PROJECTS, acting(row), op="create")}


def show(call: Call, row: Domain) -> Any:
    return {"project": view(call, PROJECTS, acting(row))}


def update(call: Call, row: Domain) -> Any:
    fields = given(call.body)
    if call.extra.pop("is_domain", True) is not True:
        raise BadRequest("Cannot change is_domain.", field="is_domain")
    if call.extra:
        fields["extra"] = row.extra | call.extra
    domains.update(call, row, fields)
    return {"project": view(call, PROJECTS, acting(row), op="update")}


def delete(call: Call, row: Domain) -> None:
    domains.delete(call, row)


def list_acting(call: Call) -> Any:
    rows: list[Any] = []
    more = False
    if call.arg("domain_id") is None and call.arg("parent_id") is None:
        rows, more = listing.fetch(call, DOMAINS)
    found = [view(call, PROJECTS, acting(row), op="list") for row in rows]
    return {"projects": found, **DIALECT.page_links(call, DOMAINS, rows, more)}


_ONE: dict[str, Callable[[Call, Domain], Any]] = {"show": show, "update": update, "delete": delete}


def _either(route: Route) -> Route:
    """``route`` as it is for projects, and for those that act as domains."""

    def handler(call: Call) -> Any:
        if route.op == "create" and getattr(call.body, "is_domain", None) is True:
            return create(call)
        if route.op == "list" and "is_domain" in call.query and call.flag("is_domain"):
            return list_acting(call)
        if route.op in _ONE:
            key = call.params["project_id"]
            row = peek(call, DOMAINS, key) if peek(call, PROJECTS, key) is None else None
            if row is not None:
                call.require(route.policy, acting(row))
                return _ONE[route.op](call, row)
        return route.handler(call)

    return replace(route, handler=handler)


PROJECT_ROUTES = tuple(_either(route) for route in routes_of(PROJECTS, DIALECT))
