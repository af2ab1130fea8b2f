"""Roles, and which role brings which others with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from altostack.identity import rules
from altostack.identity.audit import created, deleted, updated
from altostack.identity.common import (
    WORD,
    bump,
    capped,
    changeable,
    deletable,
    existing,
    free,
    options,
    peek,
    same,
    self_link,
)  # fmt: skip
from altostack.identity.dialect import inexact, own_url
from altostack.identity.domain import DOMAINS
from altostack.identity.model import Extra, IdentityRow
from altostack.kit.api import add, load, view
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, Forbidden, NotFound
from altostack.kit.resource import Resource, field, key, private
from altostack.kit.route import Route


class Role(Extra, IdentityRow):
    __tablename__ = "roles"
    __table_args__ = (
        sa.UniqueConstraint("realm", "name"),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], ondelete="CASCADE"),
    )
    noun = "role"
    id: Mapped[str] = key()
    name: Mapped[str] = field(
        required=True, update=True, filter=True, sort=True, ge=1, max_length=255, pattern=WORD
    )
    domain_id: Mapped[str | None] = field(create=True, filter=True, max_length=64, default=None)
    description: Mapped[str | None] = field(create=True, update=True, default=None, max_length=1000)
    options: Mapped[dict[str, Any]] = field(create=True, update=True, default={})
    # The domain or "": where names are unique (a null is unequal to every other).
    realm: Mapped[str] = private(default="", type_=sa.String(64))


class ImpliedRole(IdentityRow):
    __tablename__ = "implied_roles"
    prior_id: Mapped[str] = mapped_column(
        sa.String(64), sa.ForeignKey("roles.id", ondelete="CASCADE"), primary_key=True
    )
    implied_id: Mapped[str] = mapped_column(
        sa.String(64), sa.ForeignKey("roles.id", ondelete="CASCADE"), primary_key=True
    )


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Every role by id, as its JSON without links, and the ids that each implies directly."""

    roles: Mapping[str, dict[str, Any]]
    implies: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, session: Session) -> Graph:
        """The graph as it stands, in two queries."""
        roles = {
            row.id: {
                "id": row.id, "name": row.name, "domain_id": row.domain_id, "description": row.description,
                "options": row.options,
            }
            for row in session.execute(sa.select(Role)).scalars()
        }  # fmt: skip
        implies: dict[str, tuple[str, ...]] = {}
        for prior, implied in session.execute(
            sa.select(ImpliedRole.prior_id, ImpliedRole.implied_id).order_by(ImpliedRole.implied_id)
        ):
            implies[prior] = (*implies.get(prior, ()), implied)
        return cls(roles=roles, implies=implies)

    def closure(self, ids: Iterable[str]) -> list[str]:
        """``ids`` and all that they imply, each once, what implies before what is implied."""
        found: dict[str, None] = {}
        waiting = list(ids)
        while waiting:
            one = waiting.pop(0)
            if one in self.roles and one not in found:
                found[one] = None
                waiting += self.implies.get(one, ())
        return list(found)

    def granted(self, ids: Iterable[str]) -> list[dict[str, str]]:
        """What a token shows of ``ids``: implied roles too; a domain's own roles only by what they imply."""
        return [
            {"id": one, "name": self.roles[one]["name"]}
            for one in self.closure(ids)
            if self.roles[one]["domain_id"] is None
        ]


@created
def create(call: Call, fields: dict[str, Any]) -> Role:
    fields["name"] = fields["name"].strip()
    fields["options"] = options("role", ("immutable",), {}, fields.get("options", {}))
    row = Role(**fields, realm=fields.get("domain_id") or "")
    if row.domain_id is not None:
        call.require("identity:create_domain_role", row)
        load(call, DOMAINS, row.domain_id)
    free(call, Role, Role.realm == row.realm, Role.name == row.name, kind="role", name=row.name)
    made: Role = add(call, ROLES, row)
    return made


@updated
def update(call: Call, row: Role, fields: dict[str, Any]) -> None:
    if row.domain_id is not None:
        call.require("identity:update_domain_role", row)
    same(call, id=row.id, domain_id=row.domain_id)
    changeable("role", row, fields)
    if "options" in fields:
        fields["options"] = options("role", ("immutable",), row.options, fields["options"])
    if "name" in fields:
        fields["name"] = fields["name"].strip()
        free(
            call, Role, Role.realm == row.realm, Role.name == fields["name"], kind="role", name=fields["name"],
            but=row.id,
        )  # fmt: skip
    for attr, value in fields.items():
        setattr(row, attr, value)
    bump(call)


@deleted
def delete(call: Call, row: Role) -> None:
    if row.domain_id is not None:
        call.require("identity:delete_domain_role", row)
    deletable("role", row)
    call.session.delete(row)
    bump(call)


def _narrow(call: Call) -> Any:
    """Lists show the roles of the whole cloud, or with ``domain_id`` those of that domain."""
    if call.route.op == "list" and call.route.resource is ROLES:
        if not call.arg("domain_id"):
            return Role.domain_id.is_(None)
        call.require("identity:list_domain_roles")
    return sa.true()


ROLES = Resource(
    row=Role,
    name="role",
    parent=capped,
    policy=rules.ROLES,
    narrow=_narrow,
    create=create,
    update=update,
    delete=delete,
    extra="extra",
    computed={"links": self_link("/roles")},
    filters=inexact(name=Role.name),
    default_sort=(("name", False),),
    doc="What somebody may be somewhere.",
)


def show(call: Call) -> Any:
    row = peek(call, ROLES, call.params["role_id"])
    existing(call, ROLES, row, call.params["role_id"])
    call.require("identity:get_role" if row.domain_id is None else "identity:get_domain_role", row)
    return {"role": view(call, ROLES, row)}


# ---- implied roles


def _short(call: Call, role: Role) -> dict[str, Any]:
    return {"id": role.id, "name": role.name, "links": {"self": call.link(f"/roles/{role.id}")}}


def _pair(call: Call) -> tuple[Role, Role]:
    """The two roles that the path names. Raises Forbidden, then NotFound."""
    call.require(call.route.policy)
    keys = call.params["role_id"], call.params["implied_role_id"]
    prior, implied = (existing(call, ROLES, peek(call, ROLES, key), key) for key in keys)
    return prior, implied


def _inference(call: Call, prior: Role, implied: Role) -> dict[str, Any]:
    return {
        "role_inference": {"prior_role": _short(call, prior), "implies": _short(call, implied)},
        "links": {"self": own_url(call)},
    }


def _held(call: Call) -> tuple[Role, Role, ImpliedRole]:
    prior, implied = _pair(call)
    row = call.session.get(ImpliedRole, (prior.id, implied.id))
    if row is None:
        raise NotFound(f"{prior.id} does not imply {implied.id}.")
    return prior, implied, row


def show_implied(call: Call) -> Any:
    prior, implied, _ = _held(call)
    return _inference(call, prior, implied)


def check_implied(call: Call) -> None:
    _held(call)


def create_implied(call: Call) -> Any:
    prior, implied = _pair(call)
    if implied.name == "admin" and implied.domain_id is None:
        raise Forbidden(f"{implied.id} cannot be an implied role: nothing brings admin with it.")
    if implied.domain_id is not None and prior.domain_id is None:
        raise Forbidden(f"{implied.id} cannot be an implied role of the whole cloud's: it is a domain's own.")
    if prior.id in Graph.read(call.session).closure([implied.id]):
        raise BadRequest(f"Role {implied.id} already brings {prior.id} with it.", field="implied_role_id")
    if call.session.get(ImpliedRole, (prior.id, implied.id)) is not None:
        raise Conflict(f"{prior.id} already implies {implied.id}.")
    call.session.add(ImpliedRole(prior_id=prior.id, implied_id=implied.id))
    bump(call)
    return _inference(call, prior, implied)


def delete_implied(call: Call) -> None:
    call.session.delete(_held(call)[2])
    bump(call)


def list_implied(call: Call) -> Any:
    prior = load(call, ROLES, rule=call.route.policy)
    implied = call.session.execute(
        sa.select(Role)
        .join(ImpliedRole, ImpliedRole.implied_id == Role.id)
        .where(ImpliedRole.prior_id == prior.id)
        .order_by(Role.name)
    ).scalars()
    return {
        "role_inference": {
            "prior_role": _short(call, prior),
            "implies": [_short(call, role) for role in implied],
        },
        "links": {"self": own_url(call)},
    }


def list_inferences(call: Call) -> Any:
    by_id = {role.id: role for role in call.session.execute(sa.select(Role)).scalars()}
    found: dict[str, list[Any]] = {}
    pairs = call.session.execute(
        sa.select(ImpliedRole).order_by(ImpliedRole.prior_id, ImpliedRole.implied_id)
    )
    for pair in pairs.scalars():
        found.setdefault(pair.prior_id, []).append(_short(call, by_id[pair.implied_id]))
    inferences = [
        {"prior_role": _short(call, by_id[key]), "implies": implied} for key, implied in found.items()
    ]
    return {"role_inferences": inferences, "links": {"self": own_url(call)}}


_ONE = "/roles/{role_id}/implies/{implied_role_id}"
ROLE_ROUTES = tuple(
    Route(
        method=method, path=path, handler=handler, guard=path == "/role_inferences", policy=f"identity:{name}",
        check=check, status=status, resource=ROLES if handler is show else None, op="show" if handler is show else "",
    )
    for method, path, handler, name, check, status in (
        ("GET", "/roles/{role_id}", show, "get_role", rules.SHOW_ROLE, 200),
        ("GET", "/roles/{role_id}/implies", list_implied, "list_implied_roles", rules.CLOUD_READER, 200),
        ("GET", _ONE, show_implied, "get_implied_role", rules.CLOUD_READER, 200),
        ("HEAD", _ONE, check_implied, "check_implied_role", rules.CLOUD_READER, 204),
        ("PUT", _ONE, create_implied, "create_implied_role", rules.CLOUD_ADMIN, 201),
        ("DELETE", _ONE, delete_implied, "delete_implied_role", rules.CLOUD_ADMIN, 204),
        ("GET", "/role_inferences", list_inferences, "list_role_inference_rules", rules.CLOUD_READER, 200),
    )
)  # fmt: skip
DOMAIN_ROLE_RULES = {
    "identity:create_domain_role": rules.CLOUD_ADMIN,
    "identity:update_domain_role": rules.CLOUD_ADMIN,
    "identity:delete_domain_role": rules.CLOUD_ADMIN,
    "identity:get_domain_role": rules.CLOUD_READER,
    "identity:list_domain_roles": rules.CLOUD_READER,
}
