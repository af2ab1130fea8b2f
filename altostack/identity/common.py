"""What several resources of the identity service do alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from altostack.kit.api import load
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, Forbidden, Unimplemented
from altostack.kit.resource import Computed, Resource

DEFAULT_DOMAIN = "default"
ID = r"^[a-zA-Z0-9-]+$"
WORD = r"\S"


def self_link(path: str) -> Computed:
    """``links.self`` of rows below ``path``, which may name columns in braces."""

    def get(call: Call, row: Any) -> dict[str, str]:
        return {"self": call.link(f"{path}/{row.id}")}

    return Computed(get=get)


def bump(call: Call) -> None:
    """What tokens are worth changes with this request: forget validations now, and once it is committed."""
    epoch = call.runtime.cloud.get("epoch")
    if epoch is not None:
        epoch.bump()
        call.after(epoch.bump)


def same(call: Call, **fixed: Any) -> None:
    """Raises BadRequest when the body would change what never changes (wire name -> its value)."""
    for name, value in {"id": fixed.pop("id"), **fixed}.items():
        if call.extra.get(name) is not None and call.extra[name] != value:
            label = "ID" if name == "id" else "Domain ID" if name == "domain_id" else name
            raise BadRequest(f"Cannot change {label}.", field=name)


def free(
    call: Call,
    row: type[Any],
    *conditions: Any,
    kind: str,
    name: str,
    where: str = "",
    but: str | None = None,
) -> None:
    """Raises Conflict when a row other than ``but`` meets ``conditions``; the unique constraint catches races."""
    query = sa.select(row.id).where(*conditions)
    if but is not None:
        query = query.where(row.id != but)
    if call.session.execute(query.limit(1)).first() is not None:
        raise Conflict(
            f"Conflict occurred attempting to store {kind} - Duplicate entry found with name {name}{where}.",
            field="name",
        )


def options(kind: str, known: tuple[str, ...], before: Mapping[str, Any], sent: Any) -> dict[str, Any]:
    """Resource options after a change: booleans by name, null takes one away. Raises BadRequest."""
    if not isinstance(sent, dict):
        raise BadRequest(
            f"Invalid input for field/attribute options. Expected an object for {kind}.", field="options"
        )
    for name, value in sent.items():
        if name not in known:
            raise BadRequest(
                f"Invalid input for field/attribute options. Additional properties are not allowed ('{name}' was "
                f"unexpected).",
                field=f"options.{name}",
            )
        if value is not None and not isinstance(value, bool):
            raise BadRequest(
                f"Invalid input for field/attribute {name}. Expected a boolean.", field=f"options.{name}"
            )
    return {name: value for name, value in {**before, **sent}.items() if value is not None}


def changeable(kind: str, row: Any, fields: Mapping[str, Any]) -> None:
    """Raises Forbidden for a change of an immutable row, other than making it mutable and nothing else."""
    if not row.options.get("immutable"):
        return
    if set(fields) == {"options"} and fields["options"].get("immutable", True) in (False, None):
        return
    raise Forbidden(
        f"{kind.title()} {row.id} is immutable: set its option 'immutable' to false first, and nothing else with it."
    )


def deletable(kind: str, row: Any) -> None:
    """Raises Forbidden for an immutable row."""
    if row.options.get("immutable"):
        raise Forbidden(f"{kind.title()} {row.id} is immutable: set its option 'immutable' to false first.")


def domain_of(call: Call, fields: dict[str, Any], rule: str) -> None:
    """Fill in the domain that a body leaves out: the token's, else the default one.

    Upstream's rule sees the body as it came, so a domain's manager must name the domain. Raises Forbidden.
    """
    if fields.get("domain_id") is None:
        call.require(rule, {})
        fields["domain_id"] = call.context.domain_id or DEFAULT_DOMAIN


def in_scope(column: Any) -> Callable[[Call], Any]:
    """A domain's token lists that domain's rows alone."""

    def narrow(call: Call) -> Any:
        if call.route.op == "list" and call.context.domain_id is not None:
            return column == call.context.domain_id
        return sa.true()

    return narrow


def capped(call: Call, most: int | None = None) -> None:
    """A list is no longer than ``most`` (default: the cloud's ``list_limit``); it says so when it is cut."""
    if most is None and call.runtime.settings is not None:
        most = call.runtime.settings.list_limit
    if call.route.op == "list" and most:
        call.query["limit"] = [str(min(most, call.number("limit") or most))]


def peek(call: Call, resource: Resource, key: str) -> Any:
    """The row that ``key`` names or None, without asking policy: for building a policy target of several rows."""
    if "\x00" in key or len(key) > 255:
        return None
    return call.session.get(resource.row, key)


def existing(call: Call, resource: Resource, row: Any, key: str) -> Any:
    """``row`` unless it is None. Raises the 404."""
    if row is None:
        raise call.runtime.service.dialect.not_found(resource, key)
    return row


def child(call: Call, resource: Resource, key: str, rule: str) -> Any:
    """A row that the path names, loaded under ``rule``."""
    return load(call, resource, key, rule=rule)


def unbuilt(what: str) -> Unimplemented:
    """The 501 for what the API has and Altostack does not have yet."""
    return Unimplemented(f"{what} is not available in this cloud.")
