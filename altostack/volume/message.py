"""Messages: what went wrong with something of mine, in words for its owner."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.kit import context as contexts
from altostack.kit.call import Call
from altostack.kit.db import utcnow
from altostack.kit.dialect import dashed_uuid
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import Computed, Resource, field, key, private
from altostack.kit.versions import Version
from altostack.volume.dialect import ALL, links
from altostack.volume.model import VolumeRow

_KEPT = timedelta(days=30)


class Message(VolumeRow):
    __tablename__ = "messages"
    id: Mapped[str] = key()
    project_id: Mapped[str] = private(index=True)
    request_id: Mapped[str] = field(filter=True)
    resource_type: Mapped[str] = field(filter=True)
    resource_uuid: Mapped[str] = field(filter=True, sort=True)
    event_id: Mapped[str] = field(filter=True)
    message_level: Mapped[str] = field(filter=True, default="ERROR")
    user_message: Mapped[str] = field(max_length=2000)
    created_at: Mapped[datetime] = field(sort=True, default=utcnow)
    guaranteed_until: Mapped[datetime] = field(default=lambda: utcnow() + _KEPT)


def tell(session: Session, *, project_id: str, kind: str, resource_id: str, what: str, reason: str) -> None:
    """Leave a message for the owner of a volume or snapshot."""
    session.add(
        Message(
            id=dashed_uuid(), project_id=project_id, request_id=contexts.request_id(),
            resource_type=kind.upper(), resource_uuid=resource_id, event_id=f"VOLUME_{kind.upper()}_001_001",
            user_message=f"{what}:{reason}"[:2000],
        )
    )  # fmt: skip


def sweep(session: Session) -> None:
    """Forget messages past their time."""
    session.execute(sa.delete(Message).where(Message.guaranteed_until < utcnow()))


def _links(call: Call, row: Message) -> Any:
    return links(call, f"/messages/{row.id}")


_SINCE = Version(3, 3)
MESSAGES = Resource(
    row=Message,
    name="message",
    owner=Message.project_id,
    policy={"list": READER, "show": READER, "delete": MEMBER},
    rules={"list": "message:get_all", "show": "message:get", "delete": "message:delete", **ALL},
    since={"list": _SINCE, "show": _SINCE, "delete": _SINCE},
    status={"delete": 204},
    computed={"links": Computed(get=_links)},
)
