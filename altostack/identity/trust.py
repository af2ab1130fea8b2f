"""Trusts: a user (the trustor) lets another (the trustee) act on a project with some of its roles.

A trust is worth as much as all that it rests on: it ends with its trustor, trustee, project, any of its roles, the
trustor's having any of them, its time, its uses, and with the trust that it was made from. Source: Identity API v3,
OS-TRUST.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.identity import rules
from altostack.identity.application_credential import RoleRef, expiry
from altostack.identity.assignment import direct_roles
from altostack.identity.audit import created, deleted
from altostack.identity.common import bump
from altostack.identity.delegation import by_delegation
from altostack.identity.dialect import collection
from altostack.identity.keeper import keeper
from altostack.identity.model import IdentityRow
from altostack.identity.project import PROJECTS
from altostack.identity.role import ROLES
from altostack.identity.user import USERS
from altostack.kit.api import add, load, page, view
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Forbidden, NotFound
from altostack.kit.resource import Computed, Resource, field, key, private
from altostack.kit.route import Route

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Trust(IdentityRow):
    """``root_trustor_id``: whose roles are lent, through however many hands."""

    __tablename__ = "trusts"
    __table_args__ = (
        sa.ForeignKeyConstraint(["trustor_user_id"], ["users.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["trustee_user_id"], ["users.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["root_trustor_id"], ["users.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["redelegated_trust_id"], ["trusts.id"], ondelete="CASCADE"),
    )
    noun = "trust"
    id: Mapped[str] = key()
    trustor_user_id: Mapped[str] = field(filter=True, max_length=64, index=True)
    trustee_user_id: Mapped[str] = field(filter=True, max_length=64, index=True)
    root_trustor_id: Mapped[str] = private(type_=sa.String(64), index=True)
    project_id: Mapped[str | None] = field(default=None, max_length=64, index=True)
    impersonation: Mapped[bool] = field()
    expires_at: Mapped[datetime | None] = private(default=None)
    remaining_uses: Mapped[int | None] = field(default=None)
    redelegation_count: Mapped[int] = field(default=0)
    redelegated_trust_id: Mapped[str | None] = field(default=None, max_length=64, index=True)
    role_ids: Mapped[list[str]] = private()


class TrustIn(msgspec.Struct):
    """The body of a create request (identity API v3, OS-TRUST)."""

    trustor_user_id: _Id
    trustee_user_id: _Id
    impersonation: bool
    project_id: _Id | None = None
    expires_at: str | None = None
    remaining_uses: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    allow_redelegation: bool | None = None
    redelegation_count: _Count | None = None
    roles: list[RoleRef] = []


def pedigree(session: Session, trust: Trust) -> list[Trust]:
    """The trust, the one it was made from, and so on to the first."""
    found = [trust]
    while (above := found[-1].redelegated_trust_id) is not None:
        parent = session.get(Trust, above)
        if parent is None or len(found) > 100:
            raise LookupError(f"trust {trust.id} has lost its origin")
        found.append(parent)
    return found


def alive(trust: Trust, now: float) -> bool:
    """Whether its time has not run out."""
    return trust.expires_at is None or trust.expires_at.timestamp() > now


def consume(session: Session, trust: Trust) -> None:
    """Take one of the trust's uses, if they are numbered; exactly as many succeed. Raises Forbidden."""
    if trust.remaining_uses is None:
        return
    change = (
        sa.update(Trust)
        .where(Trust.id == trust.id, Trust.remaining_uses > 0)
        .values(remaining_uses=Trust.remaining_uses - 1)
    )
    if session.execute(change).rowcount != 1:  # type: ignore[attr-defined]  # CursorResult
        raise Forbidden(f"No remaining uses for trust: {trust.id}.")


def _undelegated(call: Call) -> None:
    """Trust-scoped tokens may go on delegating; nothing narrower may manage trusts."""
    if by_delegation(call.context.methods):
        raise Forbidden("A token issued by delegation cannot manage trusts.")


# ---- making one


@created
def create(call: Call, fields: dict[str, Any]) -> Trust:
    context = call.context
    call.require("identity:create_trust", {"target.trust.trustor_user_id": fields["trustor_user_id"]})
    if context.user_id != fields["trustor_user_id"]:
        raise Forbidden("The authenticated user should match the trustor.")
    if fields["project_id"] is not None and not fields["roles"]:
        raise Forbidden("At least one role should be specified.")
    load(call, USERS, fields["trustee_user_id"])
    parent = None
    if context.trust_id is not None:
        parent = call.session.get(Trust, context.trust_id)
        if parent is None:
            raise NotFound(f"Could not find trust: {context.trust_id}.")
    role_ids = _roles(call, fields["roles"])
    root = parent.root_trustor_id if parent is not None else context.user_id
    _held(call, root, fields["project_id"], role_ids)
    row = Trust(
        trustor_user_id=context.user_id,
        trustee_user_id=fields["trustee_user_id"],
        root_trustor_id=root,
        project_id=fields["project_id"],
        impersonation=fields["impersonation"],
        expires_at=expiry(call, fields["expires_at"]),
        remaining_uses=fields["remaining_uses"],
        role_ids=role_ids,
    )
    _depth(call, row, fields, parent)
    if parent is not None:
        row.redelegated_trust_id = parent.id
        for above in pedigree(call.session, parent):
            _within(call, above, row)
    made: Trust = add(call, TRUSTS, row)
    return made


def _roles(call: Call, asked: list[RoleRef]) -> list[str]:
    """The ids of ``asked``. Raises BadRequest, NotFound."""
    graph = keeper(call.runtime).graph(call.session)
    names: dict[str, list[str]] = {}
    for role in graph.roles.values():
        names.setdefault(role["name"], []).append(role["id"])
    found = []
    for ref in asked:
        if (ref.id is None) == (ref.name is None):
            raise BadRequest("A role is named by its id or by its name.", field="roles")
        known = (
            names.get(str(ref.name), []) if ref.id is None else [one for one in graph.roles if one == ref.id]
        )
        if not known:
            raise NotFound(f"Could not find role: {ref.id or ref.name}.", field="roles")
        if len(known) > 1:
            raise BadRequest(f"Several roles have the name {ref.name}: give its id.", field="roles")
        found.append(known[0])
    return sorted(set(found))


def _held(call: Call, user_id: str, project_id: str | None, role_ids: list[str]) -> None:
    """Raises NotFound for a role that the user does not have on the project."""
    held: list[str] = []
    if project_id is not None:
        project = load(call, PROJECTS, project_id)
        graph = keeper(call.runtime).graph(call.session)
        held = graph.closure(direct_roles(call.session, user_id, project=project))
    for one in role_ids:
        if one not in held:
            raise NotFound(f"Could not find role: {one}.", field="roles")


def _depth(call: Call, row: Trust, fields: dict[str, Any], parent: Trust | None) -> None:
    """How often the trust may be handed on. Raises BadRequest, Forbidden."""
    most = keeper(call.runtime).settings.max_redelegation_count
    asked = fields["redelegation_count"]
    if not fields["allow_redelegation"] or asked == 0:
        row.redelegation_count = 0
        return
    if row.remaining_uses is not None:
        raise BadRequest("remaining_uses must not be set if redelegation is allowed.", field="remaining_uses")
    if asked is not None and asked > most:
        raise Forbidden(
            f"Requested redelegation depth of {asked} is greater than allowed {most}.",
            field="redelegation_count",
        )
    if parent is None:
        row.redelegation_count = most if asked is None else asked
        return
    left = parent.redelegation_count - 1
    if asked is not None and asked != left:
        raise Forbidden(
            "Modifying 'redelegation_count' upon redelegation is forbidden. Omitting this parameter is advised.",
            field="redelegation_count",
        )
    row.redelegation_count = left


def _within(call: Call, above: Trust, row: Trust) -> None:
    """Raises Forbidden for a trust that would give more than the one above it, which is or becomes its origin."""
    most = keeper(call.runtime).settings.max_redelegation_count
    if not 0 < above.redelegation_count <= most:
        raise Forbidden(
            f"Remaining redelegation depth of {above.redelegation_count} out of allowed range of [0..{most}]."
        )
    if not alive(above, call.runtime.clock()):
        raise Forbidden("The trust that would be handed on has expired.")
    if row.remaining_uses is not None:
        raise Forbidden(
            "remaining_uses must not be set in order to redelegate a trust.", field="remaining_uses"
        )
    if row.expires_at is None:
        row.expires_at = above.expires_at
    elif above.expires_at is not None and above.expires_at < row.expires_at:
        raise Forbidden(
            "Requested expiration time is more than redelegated trust can provide.", field="expires_at"
        )
    graph = keeper(call.runtime).graph(call.session)
    if row.project_id != above.project_id or not set(row.role_ids) <= set(graph.closure(above.role_ids)):
        raise Forbidden("Some of requested roles are not in redelegated trust.", field="roles")
    if row.impersonation and not above.impersonation:
        raise Forbidden(
            "Impersonation is not allowed because redelegated trust does not specify impersonation. Redelegated "
            f"trust id: {above.id}.",
            field="impersonation",
        )


@deleted
def delete(call: Call, row: Trust) -> None:
    """Those that were made from it go with it."""
    call.session.delete(row)
    bump(call)


# ---- showing them


def _shown_roles(call: Call, row: Trust) -> Any:
    """Whole in a single answer, not in lists."""
    return msgspec.UNSET if call.route.op == "list" else _role_views(call, row)


def _role_views(call: Call, row: Trust) -> list[dict[str, Any]]:
    found = (call.session.get(ROLES.row, one) for one in row.role_ids)
    return [view(call, ROLES, role) for role in found if role is not None]


def _roles_links(call: Call, row: Trust) -> Any:
    if call.route.op == "list":
        return msgspec.UNSET
    return {"self": call.link(f"/OS-TRUST/trusts/{row.id}/roles"), "next": None, "previous": None}


def _expires(call: Call, row: Trust) -> str | None:
    return None if row.expires_at is None else row.expires_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _living(call: Call) -> Any:
    now = datetime.fromtimestamp(call.runtime.clock(), UTC)
    return sa.or_(Trust.expires_at.is_(None), Trust.expires_at > now)


def list_trusts(call: Call) -> Any:
    """Everybody's for an admin; otherwise those of the trustor or trustee that the query names."""
    for word in ("trustor", "trustee"):
        if who := call.arg(f"{word}_user_id"):
            call.require(f"identity:list_trusts_for_{word}", {f"target.trust.{word}_user_id": who})
            break
    else:
        call.require("identity:list_trusts")
    _undelegated(call)
    return page(call, TRUSTS)


def _loaded(call: Call) -> Trust:
    row: Trust = load(call, TRUSTS, rule=call.route.policy)
    _undelegated(call)
    return row


def list_roles(call: Call) -> Any:
    return collection(call, "roles", _role_views(call, _loaded(call)))


def show_role(call: Call) -> Any:
    row, role_id = _loaded(call), call.params["role_id"]
    role = call.session.get(ROLES.row, role_id) if role_id in row.role_ids else None
    if role is None:
        raise NotFound(f"Could not find role: {role_id}.")
    return {"role": view(call, ROLES, role)}


TRUSTS = Resource(
    row=Trust,
    name="trust",
    path="/OS-TRUST/trusts",
    policy=rules.TRUSTS,
    parent=_undelegated,
    narrow=_living,
    create=create,
    create_body=TrustIn,
    delete=delete,
    computed={
        "expires_at": Computed(get=_expires),
        "deleted_at": Computed(get=lambda call, row: None),
        "roles": Computed(get=_shown_roles),
        "roles_links": Computed(get=_roles_links),
        "links": Computed(get=lambda call, row: {"self": call.link(f"/OS-TRUST/trusts/{row.id}")}),
    },
    default_sort=(("id", False),),
    doc="A user lets another act on a project with some of its roles.",
)
TRUST_ROUTES = (
    Route(
        method="GET", path="/OS-TRUST/trusts", handler=list_trusts, guard=False, op="list",
        policy="identity:list_trusts", check=rules.LIST_TRUSTS, resource=TRUSTS,
    ),
    Route(
        method="GET", path="/OS-TRUST/trusts/{trust_id}/roles", handler=list_roles, guard=False,
        policy="identity:list_roles_for_trust", check=rules.SHOW_TRUST,
    ),
    Route(
        method="GET", path="/OS-TRUST/trusts/{trust_id}/roles/{role_id}", handler=show_role, guard=False,
        policy="identity:get_role_for_trust", check=rules.SHOW_TRUST,
    ),
)  # fmt: skip
TRUST_RULES = {
    "identity:list_trusts_for_trustor": rules.TRUSTS_FOR_TRUSTOR,
    "identity:list_trusts_for_trustee": rules.TRUSTS_FOR_TRUSTEE,
}
