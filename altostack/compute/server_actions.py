"""What can be done to a server at once or as a signal to its lifecycle. Source: the Compute API reference, "Run an
action"."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from altostack.compute import instance_action
from altostack.compute.server_row import (
    ACTIVE,
    ERROR,
    PAUSED,
    RESIZED,
    STOPPED,
    SUSPENDED,
    Server,
)
from altostack.kit.api import signal
from altostack.kit.call import Call
from altostack.kit.errors import Conflict

_UNLOCK = "os_compute_api:os-lock-server:unlock:unlock_override"


def unlocked(call: Call, row: Server) -> None:
    """Raises Conflict when somebody locked the server and the caller may not pass."""
    if row.locked_by is not None and not call.context.is_admin:
        raise Conflict(f"Instance {row.id} is locked", field="locked")


def ready(
    call: Call, row: Server, action: str, states: Collection[str], *, tasks: Collection[str | None] = (None,)
) -> None:
    """Raises Conflict unless the server is in one of ``states`` with one of ``tasks`` being done, and not locked."""
    unlocked(call, row)
    if row.vm_state not in states:
        raise Conflict(
            f"Cannot '{action}' instance {row.id} while it is in vm_state {row.vm_state}", field="vm_state"
        )
    if row.task_state not in tasks:
        raise Conflict(
            f"Cannot '{action}' instance {row.id} while it is in task_state {row.task_state}",
            field="task_state",
        )


def ask(call: Call, row: Server, action: str, task: str | None, name: str | None = None, **body: Any) -> None:
    """Note the action, show the task, and signal the lifecycle."""
    row.task_state = task if task is not None else row.task_state
    instance_action.begin(call, row, action)
    signal(call, row, name or action, body)


def start(call: Call, row: Server) -> None:
    ready(call, row, "start", (STOPPED,))
    ask(call, row, "start", "powering-on")


def stop(call: Call, row: Server) -> None:
    ready(call, row, "stop", (ACTIVE, ERROR), tasks=(None,))
    if row.host is None:
        raise Conflict(f"Instance {row.id} is not ready", field="vm_state")
    ask(call, row, "stop", "powering-off")


def reboot(call: Call, row: Server) -> None:
    hard = call.body.type.upper() == "HARD"
    if hard:
        ready(
            call, row, "reboot", (ACTIVE, STOPPED, PAUSED, SUSPENDED, ERROR),
            tasks=(None, "rebooting", "reboot_pending", "reboot_started", "resuming", "unpausing", "suspending"),
        )  # fmt: skip
        if row.host is None:
            raise Conflict(f"Cannot 'reboot' instance {row.id}: it never ran", field="vm_state")
    else:
        ready(call, row, "reboot", (ACTIVE,))
    ask(call, row, "reboot", "rebooting_hard" if hard else "rebooting", hard=hard)


def pause(call: Call, row: Server) -> None:
    ready(call, row, "pause", (ACTIVE,))
    ask(call, row, "pause", "pausing")


def unpause(call: Call, row: Server) -> None:
    ready(call, row, "unpause", (PAUSED,))
    ask(call, row, "unpause", "unpausing")


def suspend(call: Call, row: Server) -> None:
    ready(call, row, "suspend", (ACTIVE,))
    ask(call, row, "suspend", "suspending")


def resume(call: Call, row: Server) -> None:
    ready(call, row, "resume", (SUSPENDED,))
    ask(call, row, "resume", "resuming")


def lock(call: Call, row: Server) -> None:
    reason = getattr(call.body, "locked_reason", None)
    row.locked_by = (
        "admin" if call.context.is_admin and call.context.project_id != row.project_id else "owner"
    )
    row.locked_reason = reason or None
    instance_action.begin(call, row, "lock")
    instance_action.finish(call.session, row.id, call.request_id)


def unlock(call: Call, row: Server) -> None:
    if row.locked_by == "admin":
        call.require(_UNLOCK, row)
    row.locked_by, row.locked_reason = None, None
    instance_action.begin(call, row, "unlock")
    instance_action.finish(call.session, row.id, call.request_id)


def reset_state(call: Call, row: Server) -> None:
    """An administrator's word against the lifecycle's: error, or active again."""
    row.vm_state, row.task_state = call.body.state, None
    if call.body.state == ACTIVE:
        row.fault = None
    instance_action.begin(call, row, "reset_state")
    instance_action.finish(call.session, row.id, call.request_id)


def confirm(call: Call, row: Server) -> None:
    ready(call, row, "confirmResize", (RESIZED,))
    ask(call, row, "confirmResize", None, "confirm")


def revert(call: Call, row: Server) -> None:
    ready(call, row, "revertResize", (RESIZED,))
    ask(call, row, "revertResize", "resize_reverting", "revert")
