"""The tasks' table."""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.image.model import ImageRow
from altostack.kit.resource import Timed, field, key, private


class TaskStatus(enum.StrEnum):
    """Where a task is."""

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILURE = "failure"


class Task(Timed, ImageRow):
    """Something that is done to an image. ``input`` and ``result`` are shown with one task, not in lists."""

    __tablename__ = "tasks"
    id: Mapped[str] = key()
    type: Mapped[str] = field(filter=True, sort=True, max_length=32)
    status: Mapped[TaskStatus] = field(default=TaskStatus.PENDING, sort=True)
    owner: Mapped[str | None] = field(filter=True, max_length=64)
    image_id: Mapped[str | None] = field(max_length=64, index=True)
    request_id: Mapped[str] = field(max_length=64)
    user_id: Mapped[str] = field(max_length=64)
    input: Mapped[dict[str, Any]] = private(default={})
    result: Mapped[dict[str, Any] | None] = private(default=None)
    message: Mapped[str] = private(default="", type_=sa.Text())
    expires_hours: Mapped[int] = private()

    def expires_at(self) -> datetime | None:
        """When a finished task may be forgotten."""
        if self.status not in (TaskStatus.SUCCESS, TaskStatus.FAILURE):
            return None
        return (self.updated_at or self.created_at) + timedelta(hours=self.expires_hours)
