"""Members: the projects that an image is shared with. Source: Image Service API v2, image sharing."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.image.model import ImageRow
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, Forbidden, NotFound, TooLarge
from altostack.kit.resource import Timed, field, private
from altostack.kit.route import Route


class Acceptance(enum.StrEnum):
    """What the project made of the offer."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Member(Timed, ImageRow):
    """An image offered to a project."""

    __tablename__ = "image_members"
    id: Mapped[int] = private(primary_key=True, autoincrement=True)
    image_id: Mapped[str] = field(max_length=64)
    member_id: Mapped[str] = field(max_length=64, index=True)
    status: Mapped[Acceptance] = field(default=Acceptance.PENDING)

    __table_args__ = (sa.UniqueConstraint("image_id", "member_id"),)


class NewMember(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST."""

    member: str


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT. member: openstacksdk repeats here whom the path names."""

    status: Literal["pending", "accepted", "rejected"]
    member: str | msgspec.UnsetType = msgspec.UNSET


def _show(call: Call, row: Member) -> dict[str, Any]:
    time = call.runtime.service.dialect.time
    return {
        "image_id": row.image_id,
        "member_id": row.member_id,
        "status": row.status.value,
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at or row.created_at),
        "schema": "/v2/schemas/member",
    }


def _image(call: Call, rule: str) -> Any:
    from altostack.image.image import load

    return load(call, rule)


def _own(call: Call, image: Any) -> bool:
    return call.context.is_admin or image.owner == call.context.project_id


def _find(call: Call, image: Any) -> Member:
    row = call.session.execute(
        sa.select(Member).where(Member.image_id == image.id, Member.member_id == call.params["member_id"])
    ).scalars().first()  # fmt: skip
    if row is None or not (_own(call, image) or row.member_id == call.context.project_id):
        raise NotFound(f"{call.params['member_id']} not found in the member list of the image {image.id}.")
    return row


def list_members(call: Call) -> dict[str, Any]:
    """GET /v2/images/{id}/members: all for the owner, one's own for others."""
    image = _image(call, "get_members")
    query = sa.select(Member).where(Member.image_id == image.id).order_by(Member.id)
    if not _own(call, image):
        query = query.where(Member.member_id == call.context.project_id)
    rows = call.session.execute(query).scalars()
    return {"members": [_show(call, row) for row in rows], "schema": "/v2/schemas/members"}


def show_member(call: Call) -> dict[str, Any]:
    """GET /v2/images/{id}/members/{member}."""
    return _show(call, _find(call, _image(call, "get_member")))


def add_member(call: Call) -> dict[str, Any]:
    """POST: offer the image to a project."""
    image = _image(call, "add_member")
    if image.visibility != "shared":
        raise Forbidden(
            f"Only shared images have members; this one is {image.visibility}.", field="visibility"
        )
    member = call.body.member
    if not member or len(member) > 64:
        raise BadRequest("A member is a project id of 1 to 64 characters.", field="member")
    known = (
        call.session.execute(sa.select(Member.member_id).where(Member.image_id == image.id)).scalars().all()
    )
    if member in known:
        raise Conflict(f"Member {member} is duplicated for image {image.id}.", field="member")
    if len(known) >= call.runtime.settings.max_members:
        raise TooLarge("The limit of image members would be passed.", field="member")
    row = Member(image_id=image.id, member_id=member)
    call.session.add(row)
    call.session.flush()
    return _show(call, row)


def update_member(call: Call) -> dict[str, Any]:
    """PUT: the project accepts or rejects; the owner may not answer for it."""
    image = _image(call, "modify_member")
    row = _find(call, image)
    if not (call.context.is_admin or row.member_id == call.context.project_id):
        raise Forbidden("Only the member itself may accept or reject.")
    if call.body.member not in (msgspec.UNSET, row.member_id):
        raise BadRequest("The body names another member than the path.", field="member")
    row.status = Acceptance(call.body.status)
    call.session.flush()
    return _show(call, row)


def remove_member(call: Call) -> None:
    """DELETE: withdraw the offer."""
    image = _image(call, "delete_member")
    call.session.delete(_find(call, image))


_OWNER = "role:admin or (role:member and project_id:%(owner)s)"
_SEEN = "role:admin or role:service or (role:reader and (project_id:%(owner)s or project_id:%(member_id)s))"
_ASKED = "role:admin or (role:member and project_id:%(member_id)s)"
_ALL = "/images/{image_id}/members"
_ONE = "/images/{image_id}/members/{member_id}"


def _route(
    method: str, path: str, handler: Callable[[Call], Any], policy: str, check: str, **more: Any
) -> Route:
    return Route(method=method, path=path, handler=handler, policy=policy, check=check, guard=False, **more)


ROUTES = (
    _route("GET", _ALL, list_members, "get_members", _SEEN),
    _route("POST", _ALL, add_member, "add_member", _OWNER, body=NewMember),
    _route("GET", _ONE, show_member, "get_member", _SEEN),
    _route("PUT", _ONE, update_member, "modify_member", _ASKED, body=Answer),
    _route("DELETE", _ONE, remove_member, "delete_member", _OWNER, status=204),
)
