"""Attachments: which server has which volume. What they do to the volume is in `actions.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.kit.call import Call
from altostack.kit.db import utcnow
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import Action, Computed, Resource, field, key, private
from altostack.kit.versions import Version
from altostack.volume.dialect import ALL
from altostack.volume.model import VolumeRow

RESERVED, ATTACHING, ATTACHED = "reserved", "attaching", "attached"


class Attachment(VolumeRow):
    __tablename__ = "attachments"
    id: Mapped[str] = key()
    status: Mapped[str] = field(default=RESERVED, brief=True, filter=True, sort=True)
    instance: Mapped[str | None] = field(default=None, brief=True, index=True)
    volume_id: Mapped[str] = field(brief=True, filter=True, sort=True, index=True)
    attach_mode: Mapped[str] = field(default="null")
    connection_info: Mapped[dict[str, Any]] = field(default={})
    project_id: Mapped[str] = private(index=True)
    connector: Mapped[dict[str, Any]] = private(default=dict)
    host: Mapped[str | None] = private(default=None)
    mountpoint: Mapped[str | None] = private(default=None)
    attached_at: Mapped[datetime | None] = private(default=None)
    created_at: Mapped[datetime] = private(default=utcnow)


def _when(call: Call, row: Attachment) -> str:
    time = call.runtime.service.dialect.time
    return time(row.attached_at) if row.attached_at else ""


_SINCE = Version(3, 27)
_OWNER = f"role:service or {MEMBER}"  # compute attaches for the owner of a server


def resource(complete: Any, **functions: Any) -> Resource:
    """The table."""
    return Resource(
        row=Attachment,
        name="attachment",
        owner=Attachment.project_id,
        policy={
            "list": READER, "show": READER, "create": _OWNER, "update": _OWNER, "delete": _OWNER,
        },
        rules={
            "list": "volume:attachment_get_all", "show": "volume:attachment_get",
            "create": "volume:attachment_create", "update": "volume:attachment_update",
            "delete": "volume:attachment_delete", "admin_fields": "volume:attachment_host", **ALL,
        },
        since=dict.fromkeys(("list", "show", "create", "update", "delete"), _SINCE),
        status={"create": 200, "update": 200, "delete": 200},
        computed={
            "attached_at": Computed(get=_when),
            "detached_at": Computed(get=lambda call, row: ""),
        },
        filters={
            "instance_id": lambda call, values: Attachment.instance == values[-1],
            "attach_status": lambda call, values: Attachment.status == values[-1],
        },
        actions={
            "os-complete": Action(
                run=complete, status=204, since=Version(3, 44), policy=_OWNER, rule="volume:attachment_complete"
            )
        },
        default_sort=(("created_at", True),),
        **functions,
    )  # fmt: skip


def of(session: Any, volume_id: str) -> list[Attachment]:
    """A volume's attachments, oldest first."""
    mine = sa.select(Attachment).where(Attachment.volume_id == volume_id)
    return list(session.scalars(mine.order_by(Attachment.created_at, Attachment.id)))
