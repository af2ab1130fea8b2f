"""What was done to a server, request by request, and the steps that each took."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.compute.dialect import micro
from altostack.compute.model import ComputeRow
from altostack.kit import context as contexts
from altostack.kit import flow
from altostack.kit.call import Call
from altostack.kit.db import utcnow
from altostack.kit.resource import private

# ---- row


class InstanceAction(ComputeRow):
    """One request's work on one server. ``message`` is "Error" once it failed."""

    __tablename__ = "instance_actions"
    __table_args__ = (sa.Index("ix_instance_actions_request", "server_id", "request_id"),)
    number: Mapped[int] = private(primary_key=True, autoincrement=True)
    server_id: Mapped[str] = private(type_=sa.String(64))
    project_id: Mapped[str] = private(type_=sa.String(64))
    user_id: Mapped[str] = private(type_=sa.String(64))
    request_id: Mapped[str] = private(type_=sa.String(64))
    action: Mapped[str] = private(type_=sa.String(64))
    host: Mapped[str | None] = private(default=None)
    message: Mapped[str | None] = private(default=None)
    started_at: Mapped[datetime] = private(default=utcnow, index=True)
    updated_at: Mapped[datetime | None] = private(default=None)


def begin(call: Call, row: Any, action: str) -> None:
    """Note, in the call's transaction, that it does ``action`` to the server."""
    call.session.add(
        InstanceAction(
            server_id=row.id, project_id=row.project_id, user_id=call.context.user_id, action=action,
            request_id=call.request_id, host=row.host, started_at=utcnow(),
        )
    )  # fmt: skip


def finish(session: Session, server_id: str, request_id: str, error: str | None = None) -> None:
    """The request's work on the server is over."""
    session.execute(
        sa.update(InstanceAction)
        .where(InstanceAction.server_id == server_id, InstanceAction.request_id == request_id)
        .values(updated_at=utcnow(), message="Error" if error else None)
    )


def current() -> str:
    """The request that this thread works for."""
    return contexts.request_id()


def events(session: Session, action: InstanceAction) -> list[dict[str, Any]]:
    """The steps that the request took on the server, oldest first, out of the server's story.

    Each is {"event", "start_time", "finish_time", "result", "traceback", "message"}; the last three are null while
    the step runs.
    """
    lines = [
        line for line in flow.story(session, action.request_id) if line["resource_id"] == action.server_id
    ]
    found: list[dict[str, Any]] = []
    began = action.started_at
    for line in lines:
        at = datetime.fromtimestamp(line["at"], UTC)
        if line["level"] == "warning":
            continue  # an attempt that was tried again
        name = f"compute_{line['step']}"
        failed = line["level"] == "error"
        if not found or found[-1]["event"] != name:
            found.append(
                {
                    "event": name, "start_time": micro(began), "result": "Success", "traceback": None, "message": None,
                }
            )  # fmt: skip
        found[-1]["finish_time"] = micro(at)
        if failed:
            found[-1] |= {"result": "Error", "message": line["message"]}
        began = at
    return found
