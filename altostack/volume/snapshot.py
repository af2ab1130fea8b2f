"""Snapshots: a volume as it was at one moment."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.kit.call import Call
from altostack.kit.db import utcnow
from altostack.kit.flow import Failed, Flow, Next, done, hop, poke, step, wait
from altostack.kit.policy import ADMIN, MEMBER, READER
from altostack.kit.resource import Action, Computed, Resource, field, key, private
from altostack.kit.versions import Version
from altostack.volume.dialect import ALL, by_metadata, invalid_input, invalid_snapshot, like
from altostack.volume.message import tell
from altostack.volume.model import SnapshotStatus, VolumeRow
from altostack.volume.node import ring, settings, silence
from altostack.volume.values import named, read_only


class Snapshot(VolumeRow):
    __tablename__ = "snapshots"
    id: Mapped[str] = key()
    name: Mapped[str | None] = field(create=True, update=True, brief=True, filter=True, sort=True)
    description: Mapped[str | None] = field(create=True, update=True, brief=True)
    volume_id: Mapped[str] = field(brief=True, filter=True, sort=True, index=True)
    status: Mapped[SnapshotStatus] = field(
        default=SnapshotStatus.CREATING, brief=True, filter=True, sort=True
    )
    size: Mapped[int] = field(brief=True, sort=True, doc="Size in GiB.")
    meta: Mapped[dict[str, str]] = field(wire="metadata", default={}, brief=True)
    created_at: Mapped[datetime] = field(sort=True, brief=True, default=utcnow)
    updated_at: Mapped[datetime | None] = field(sort=True, brief=True, default=None, onupdate=utcnow)
    user_id: Mapped[str] = field(since="3.41")
    project_id: Mapped[str] = private(index=True)
    volume_type_id: Mapped[str] = private()
    host: Mapped[str | None] = private(index=True)
    observed: Mapped[dict[str, Any]] = private(default=dict)
    removing: Mapped[bool] = private(default=False)


# ---- lifecycle


class SnapshotLife(Flow[Snapshot]):
    """provision (the node takes it) -> rest."""

    @step(deadline=None)
    def provision(self) -> Next:
        """Wait until the node has it."""
        row = self.row
        if "error" in row.observed:
            raise Failed(str(row.observed["error"]))
        if row.observed.get("there"):
            self._become(SnapshotStatus.AVAILABLE)
            return hop(self.rest)
        chosen, now = settings(self.runtime), self.runtime.clock()
        since = self.frame.setdefault("since", now)
        with self.runtime.db.read() as session:
            quiet = silence(self.runtime, session, row.host or "")
        if quiet > chosen.node_timeout and now - since > chosen.node_timeout:
            raise Failed(f"storage node {row.host} has not answered for {int(min(quiet, now - since))} s")
        if now - since > chosen.work_timeout:
            raise Failed(f"storage node {row.host} was not done within {int(chosen.work_timeout)} s")
        ring(self.runtime, row.host, row.id)
        return wait(seconds=15)

    def rest(self) -> Next:
        return wait()

    def failed(self, name: str, reason: str) -> Next:
        row = self.row
        self._become(SnapshotStatus.ERROR)
        self.write(
            lambda session: tell(
                session, project_id=row.project_id, kind="snapshot", resource_id=row.id,
                what="create snapshot", reason=reason,
            )
        )  # fmt: skip
        return hop(self.rest)

    def destroy(self) -> Next:
        """Gone when the node says so; tried for ever."""
        row = self.row
        if row.host is not None and not row.observed.get("gone"):
            row.status = SnapshotStatus.DELETING
            ring(self.runtime, row.host, row.id)
            return wait(seconds=30)
        self.write(lambda session: poke(session, row.volume_id))  # whose own end may wait for this one
        return done()

    def _become(self, status: SnapshotStatus) -> None:
        key_ = self.row.id
        self.write(
            lambda session: session.execute(
                sa.update(Snapshot)
                .where(Snapshot.id == key_, Snapshot.status == SnapshotStatus.CREATING)
                .values(status=status)
            )
        )


# ---- actions


class Update(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str | msgspec.UnsetType | None = msgspec.UNSET
    description: str | msgspec.UnsetType | None = msgspec.UNSET
    display_name: str | msgspec.UnsetType | None = msgspec.UNSET
    display_description: str | msgspec.UnsetType | None = msgspec.UNSET


def update(call: Call, row: Snapshot, fields: dict[str, Any]) -> None:
    """Change name and description."""
    if not fields:
        raise invalid_input("At least one of name and description must be given.", "snapshot")
    for name, value in named(fields).items():
        setattr(row, name, value)


class ResetStatus(msgspec.Struct, forbid_unknown_fields=True):
    status: str


def reset_status(call: Call, row: Snapshot) -> None:
    """os-reset_status"""
    try:
        row.status = SnapshotStatus(call.body.status.lower())
    except ValueError as error:
        valid = ", ".join(SnapshotStatus)
        raise invalid_input(
            f"Snapshot status: {call.body.status} is invalid, valid statuses are: {valid}.", "status"
        ) from error


def check_deletable(row: Snapshot) -> None:
    """Raises BadRequest unless the snapshot is at rest."""
    if row.status not in (SnapshotStatus.AVAILABLE, SnapshotStatus.ERROR):
        raise invalid_snapshot(
            f"Snapshot status must be available or error and must not be part of a group. "
            f"Snapshot {row.id} is {row.status}."
        )


def resource(**functions: Any) -> Resource:
    """The table; what changes a volume too is in `actions.py`."""
    actions = functions.pop("actions")
    return Resource(
        row=Snapshot,
        name="snapshot",
        owner=Snapshot.project_id,
        policy={"list": READER, "show": READER, "create": MEMBER, "update": MEMBER, "delete": MEMBER},
        rules={
            "list": "volume:get_all_snapshots", "show": "volume:get_snapshot",
            "create": "volume:create_snapshot", "update": "volume:update_snapshot",
            "delete": "volume:delete_snapshot",
            "admin_fields": "volume_extension:extended_snapshot_attributes", **ALL,
        },
        quota={"snapshots": 1, "gigabytes": Snapshot.size},
        computed={
            "os-extended-snapshot-attributes:project_id": Computed(get=read_only(lambda row: row.project_id)),
            "os-extended-snapshot-attributes:progress": Computed(
                get=read_only(lambda row: "100%" if row.status == SnapshotStatus.AVAILABLE else "0%")
            ),
            "group_snapshot_id": Computed(get=lambda call, row: None, since=Version(3, 14)),
            "consumes_quota": Computed(get=lambda call, row: True, since=Version(3, 65)),
        },
        filters={"metadata": by_metadata(Snapshot.meta, "3.22"), "name~": like(Snapshot.name)},
        actions={
            "os-reset_status": Action(
                run=reset_status, body=ResetStatus, policy=ADMIN,
                rule="volume_extension:snapshot_admin_actions:reset_status",
            ),
            **actions,
        },
        update=update,
        update_body=Update,
        flow=SnapshotLife,
        **functions,
    )  # fmt: skip
