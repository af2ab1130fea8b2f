"""Tasks: imports and what else is done to images in their own time.

A task is a row with a lifecycle (`life`); the image that it works on names it in ``task_id``, so that two do not meet.
Source: Image Service API v2, tasks; image tasks (v2.12 and later).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from altostack.image.image import Image, load
from altostack.image.life import TaskLife
from altostack.image.tasks import Task, TaskStatus
from altostack.kit import api, flow
from altostack.kit.call import Call
from altostack.kit.policy import ADMIN, READER_ANY
from altostack.kit.resource import Computed, Resource
from altostack.kit.route import Route


def begin(
    call: Call,
    image: Image,
    kind: str,
    about: Mapping[str, Any],
    frame: Mapping[str, Any] | None = None,
) -> Task:
    """Start a task on the image, in the call's transaction."""
    hours = call.runtime.settings.task_hours
    task = Task(
        id=call.runtime.service.dialect.new_id(),
        type=kind,
        input=dict(about),
        owner=call.context.project_id,
        user_id=call.context.user_id,
        image_id=image.id,
        request_id=call.request_id,
        expires_hours=hours,
    )
    call.session.add(task)
    image.task_id = task.id
    call.session.flush()
    flow.start(
        call.session, "task", TaskLife, task, {"roles": sorted(call.context.roles), **dict(frame or {})}
    )
    api.wake(call)
    return task


def image_tasks(call: Call) -> dict[str, Any]:
    """GET /v2/images/{id}/tasks: what was and is done to the image, the newest first."""
    image = load(call, "get_image")
    query = sa.select(Task).where(Task.image_id == image.id).order_by(Task.created_at.desc(), Task.id)
    return {"tasks": [api.view(call, TASKS, row) for row in call.session.execute(query).scalars()]}


def _shown(attr: str) -> Computed:
    return Computed(get=lambda call, row: getattr(row, attr), detail=False)


def _status(call: Call, values: list[str]) -> Any:
    known = set(TaskStatus)
    return Task.status == TaskStatus(values[-1]) if values[-1] in known else sa.false()


_ACCESS = dict.fromkeys(("list", "show", "all"), "tasks_api_access")

TASKS = Resource(
    row=Task,
    name="task",
    policy={"list": ADMIN, "show": ADMIN, "all": ADMIN},
    rules=_ACCESS,
    flow=TaskLife,
    filters={"status": _status},
    computed={
        "input": _shown("input"),
        "result": _shown("result"),
        "message": _shown("message"),
        "self": Computed(get=lambda call, row: f"/v2/tasks/{row.id}"),
        "schema": Computed(get=lambda call, row: "/v2/schemas/task"),
        "expires_at": Computed(
            get=lambda call, row: (
                call.runtime.service.dialect.time(row.expires_at()) if row.expires_at() else msgspec.UNSET
            )
        ),
    },
)
ROUTES = (
    Route(
        method="GET",
        path="/images/{image_id}/tasks",
        handler=image_tasks,
        policy="get_image",
        check=READER_ANY,
        guard=False,
    ),
)
RULES = dict.fromkeys(("get_task", "get_tasks", "add_task", "modify_task"), ADMIN)
