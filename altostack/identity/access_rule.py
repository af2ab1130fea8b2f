"""Access rules: the single API calls to which an application credential may be held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.identity import rules
from altostack.identity.common import existing, peek
from altostack.identity.delegation import refuse_delegated
from altostack.identity.model import IdentityRow
from altostack.identity.user import USERS
from altostack.kit.api import load
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Forbidden
from altostack.kit.resource import Computed, Resource, field, key

if TYPE_CHECKING:
    from altostack.identity.application_credential import RuleIn

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class AccessRule(IdentityRow):
    __tablename__ = "access_rules"
    __table_args__ = (
        sa.UniqueConstraint("user_id", "service", "method", "path"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
    )
    noun = "access_rule"
    id: Mapped[str] = key()
    user_id: Mapped[str] = field(max_length=64, show=False)
    service: Mapped[str] = field(filter=True, sort=True, max_length=64)
    method: Mapped[str] = field(filter=True, sort=True, max_length=16)
    path: Mapped[str] = field(filter=True, sort=True, max_length=255)


def wanted_rules(call: Call, user_id: str, asked: Sequence[RuleIn]) -> list[dict[str, Any]]:
    """``asked`` as JSON with ids; a rule that the user has already is used again. Raises BadRequest."""
    if not asked:
        return []
    query = sa.select(AccessRule).where(AccessRule.user_id == user_id)
    known = list(call.session.execute(query).scalars())
    by_id = {row.id: row for row in known}
    by_content = {(row.service, row.method, row.path): row for row in known}
    found: dict[str, AccessRule] = {}
    for one in asked:
        if one.id is not None and one.service is None:
            row = by_id.get(one.id)
            if row is None:
                raise BadRequest(f"Could not find Access Rule: {one.id}.", field="access_rules")
        else:
            if one.service is None or one.path is None or one.method not in METHODS:
                raise BadRequest(
                    f"An access rule needs a service, a path and a method of {', '.join(METHODS)}.",
                    field="access_rules",
                )
            content = (one.service, one.method, one.path)
            row = by_content.get(content)
            if row is None:
                row = AccessRule(
                    id=call.runtime.service.dialect.new_id(), user_id=user_id, service=one.service,
                    method=one.method, path=one.path,
                )  # fmt: skip
                call.session.add(row)
                by_content[content] = row
        found[row.id] = row
    return [
        {"id": row.id, "service": row.service, "method": row.method, "path": row.path}
        for row in found.values()
    ]


def _parent(call: Call) -> None:
    if "application_credential" not in call.context.methods:
        refuse_delegated(call.context, "manage access rules")
    if call.route.op == "list":
        call.require(call.route.policy, {"target.user.id": call.params["user_id"]})
        load(call, USERS, call.params["user_id"])
    elif call.context.user_id == call.params["user_id"]:
        # One's own rule that is not there is a plain 404.
        existing(
            call,
            ACCESS_RULES,
            peek(call, ACCESS_RULES, call.params["access_rule_id"]),
            call.params["access_rule_id"],
        )


def delete(call: Call, row: AccessRule) -> None:
    from altostack.identity.application_credential import in_use

    if in_use(call, row):
        raise Forbidden(f"Access rule {row.id} is in use by an application credential.")
    call.session.delete(row)


ACCESS_RULES = Resource(
    row=AccessRule,
    name="access_rule",
    policy=rules.ACCESS_RULES,
    path="/users/{user_id}/access_rules",
    parent=_parent,
    narrow=lambda call: AccessRule.user_id == call.params["user_id"],
    delete=delete,
    computed={
        "links": Computed(
            get=lambda call, row: {"self": call.link(f"/users/{row.user_id}/access_rules/{row.id}")}
        )
    },
    doc="A single API call to which an application credential may be held.",
)
