"""The tables: every operation and action of volumes, snapshots and attachments, with its policy."""

from __future__ import annotations

from typing import Any

from altostack.kit.policy import ADMIN, MEMBER
from altostack.kit.resource import Action, Resource
from altostack.kit.versions import Version
from altostack.volume import actions, attach
from altostack.volume import attachment as attachments
from altostack.volume import snapshot as snapshots
from altostack.volume import volume as volumes
from altostack.volume.create import HINTS, body, check, create, create_snapshot, snapshot_body

_ACT = "volume_extension:volume_actions"
_ADMIN = "volume_extension:volume_admin_actions"


def _act(run: Any, word: str, sent: Any = None, **more: Any) -> Action:
    rule = word if ":" in word else f"{_ACT}:{word}"
    return Action(run=run, body=sent, rule=rule, policy=more.pop("policy", MEMBER), **more)


def _admin(run: Any, word: str, sent: Any = None, **more: Any) -> Action:
    return Action(run=run, body=sent, rule=f"{_ADMIN}:{word}", policy=ADMIN, **more)


_META = "volume_extension:volume_image_metadata"
VOLUMES: Resource = volumes.resource(
    create=create,
    check=check,
    create_body=body,
    extra_body={HINTS: dict[str, Any] | None},
    delete=actions.delete,
    actions={
        "os-extend": _act(actions.extend, "volume:extend", actions.Extend),
        "os-set_bootable": _act(actions.set_bootable, "volume:update", actions.Bootable, status=200),
        "os-update_readonly_flag": _act(
            actions.set_readonly, "volume:update_readonly_flag", actions.Readonly
        ),
        "os-reset_status": _admin(actions.reset_status, "reset_status", actions.ResetStatus),
        "os-force_delete": _admin(actions.force_delete, "force_delete"),
        "os-force_detach": _admin(attach.detach, "force_detach", attach.Detach),
        "os-volume_upload_image": _act(actions.upload, "upload_image", actions.upload_body),
        "os-set_image_metadata": _act(
            actions.set_image_metadata, f"{_META}:set", actions.ImageWords, status=200
        ),
        "os-unset_image_metadata": _act(
            actions.unset_image_metadata, f"{_META}:remove", actions.ImageKey, status=200
        ),
        "os-show_image_metadata": _act(actions.show_image_metadata, f"{_META}:show", status=200),
        "os-attach": _act(attach.attach, "attach", attach.Attach),
        "os-detach": _act(attach.detach, "detach", attach.Detach),
        "os-reserve": _act(attach.reserve, "reserve"),
        "os-unreserve": _act(attach.unreserve, "unreserve"),
        "os-begin_detaching": _act(attach.begin_detaching, "begin_detaching"),
        "os-roll_detaching": _act(attach.roll_detaching, "roll_detaching"),
        "os-initialize_connection": _act(
            attach.initialize_connection, "initialize_connection", attach.Connector
        ),
        "os-terminate_connection": _act(
            attach.terminate_connection, "terminate_connection", attach.Connector
        ),
        "os-retype": _act(actions.not_built, "volume:retype"),
        "os-migrate_volume": _admin(actions.not_built, "migrate_volume"),
        "os-migrate_volume_completion": _admin(actions.not_built, "migrate_volume_completion"),
        "os-extend_volume_completion": _admin(
            actions.not_built, "extend_volume_completion", since=Version(3, 71)
        ),
        "os-unmanage": _act(actions.not_built, "volume_extension:volume_unmanage", policy=ADMIN),
        "os-reimage": _act(actions.not_built, "volume:reimage", since=Version(3, 68)),
        "revert": _act(actions.not_built, "volume:revert_to_snapshot", since=Version(3, 40)),
    },
)
SNAPSHOTS: Resource = snapshots.resource(
    create=create_snapshot,
    create_body=snapshot_body,
    delete=actions.delete_snapshot,
    actions={
        "os-force_delete": Action(
            run=actions.force_delete_snapshot,
            policy=ADMIN,
            rule="volume_extension:snapshot_admin_actions:force_delete",
        ),
        "os-unmanage": Action(
            run=actions.not_built, policy=ADMIN, rule="snapshot_extension:snapshot_unmanage"
        ),
    },
)
ATTACHMENTS: Resource = attachments.resource(
    complete=attach.complete_attachment,
    create=attach.create_attachment,
    update=attach.update_attachment,
    delete=attach.delete_attachment,
    create_body=lambda version: (
        attach.AttachmentCreateMode
        if version is None or version >= Version(3, 54)
        else attach.AttachmentCreate
    ),
    update_body=attach.AttachmentUpdate,
)
RULES = {
    "volume:create_from_image": MEMBER,
    "volume:force_delete": ADMIN,
    "volume:extend_attached_volume": MEMBER,
    "volume:multiattach": MEMBER,
    "volume:multiattach_bootable_volume": MEMBER,
    f"{_ACT}:upload_public": ADMIN,
}
