"""Server groups: servers that shall run together, or apart."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.compute.model import ComputeRow, Stamped
from altostack.compute.server_row import Server
from altostack.compute.values import Name, check_name
from altostack.kit.api import add
from altostack.kit.call import Call
from altostack.kit.policy import ADMIN, MEMBER, READER
from altostack.kit.resource import Computed, Resource, field, key, private, struct
from altostack.kit.versions import Version

# ---- row


class ServerGroup(Stamped, ComputeRow):
    """A group. ``rules`` holds max_server_per_host for anti-affinity."""

    __tablename__ = "server_groups"
    id: Mapped[str] = key()
    project_id: Mapped[str] = private(type_=sa.String(64), index=True)
    user_id: Mapped[str] = private(type_=sa.String(64))
    name: Mapped[str] = field()
    policy: Mapped[str] = field(since="2.64", type_=sa.String(32))
    rules: Mapped[dict[str, Any]] = field(since="2.64", default={})


# ---- actions

_OLD = Literal["affinity", "anti-affinity"]
_NEW = Literal["affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"]


class Rules(msgspec.Struct, forbid_unknown_fields=True):
    max_server_per_host: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET


def create_body(version: Version | None) -> Any:
    """``policies`` (a list of one) until 2.63, ``policy`` and ``rules`` since."""
    fields: list[tuple[str, Any, bool]] = [("name", Name, True)]
    if version is None or version >= (2, 64):
        fields += [("policy", _NEW, True), ("rules", Rules, False)]
    else:
        one = _NEW if version >= (2, 15) else _OLD
        fields += [("policies", Annotated[list[one], msgspec.Meta(min_length=1, max_length=1)], True)]  # type: ignore[valid-type]  # chosen at run time
    return struct("ServerGroupCreate", fields)


def create(call: Call, fields: dict[str, Any]) -> ServerGroup:
    """A new group of the caller's project."""
    from altostack.kit.errors import BadRequest

    policy = fields.get("policy") or fields["policies"][0]
    given = fields.get("rules")
    most = given.max_server_per_host if given is not None else msgspec.UNSET
    if most is not msgspec.UNSET and policy != "anti-affinity":
        raise BadRequest(
            f"Invalid input for field/attribute rules. Only the policy anti-affinity takes them, not {policy}.",
            field="rules",
        )
    row: ServerGroup = add(
        call,
        SERVER_GROUPS,
        ServerGroup(
            name=check_name(fields["name"]), policy=policy, user_id=call.context.user_id,
            rules={} if most is msgspec.UNSET else {"max_server_per_host": most},
        ),
    )  # fmt: skip
    return row


def delete(call: Call, row: ServerGroup) -> None:
    """Its servers go on without it."""
    call.session.execute(sa.update(Server).where(Server.group_id == row.id).values(group_id=None))
    call.session.delete(row)
    call.session.flush()


def members(session: Session, group_id: str) -> list[str]:
    """The ids of a group's servers."""
    query = sa.select(Server.id).where(Server.group_id == group_id).order_by(Server.created_at)
    return list(session.execute(query).scalars())


# ---- table

_UNTIL = Version(2, 63)
SERVER_GROUPS = Resource(
    row=ServerGroup,
    name="server_group",
    path="/os-server-groups",
    owner=ServerGroup.project_id,
    policy={"list": READER, "show": READER, "create": MEMBER, "delete": MEMBER, "all": ADMIN},
    rules={"all": "os_compute_api:os-server-groups:index:all_projects"},
    status={"create": 200},
    create_body=create_body,
    create=create,
    delete=delete,
    quota={"server_groups": 1},
    filters={
        "all_projects": lambda call, values: None,
        "offset": lambda call, values: None,
    },
    computed={
        "members": Computed(get=lambda call, row: members(call.session, row.id)),
        "policies": Computed(get=lambda call, row: [row.policy], until=_UNTIL),
        "metadata": Computed(get=lambda call, row: {}, until=_UNTIL),
        "project_id": Computed(get=lambda call, row: row.project_id, since=Version(2, 13)),
        "user_id": Computed(get=lambda call, row: row.user_id, since=Version(2, 13)),
    },
    default_sort=(("created_at", False),),
)
