"""Volumes: the row, its lifecycle, and its table. Creation is in `create.py`, actions are in `actions.py`."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, foreign, relationship

from altostack.kit.call import Call
from altostack.kit.flow import Failed, Flow, Next, done, hop, step, wait
from altostack.kit.policy import ADMIN, MEMBER, READER
from altostack.kit.resource import Computed, Resource, Timed, field, key, private
from altostack.kit.versions import Version
from altostack.volume import scheduler
from altostack.volume.attachment import Attachment
from altostack.volume.dialect import ALL, by_metadata, by_time, invalid_input, like, links
from altostack.volume.message import tell
from altostack.volume.model import Status, VolumeRow
from altostack.volume.neighbours import Compute, Image, RemoteError
from altostack.volume.node import ring, settings, silence
from altostack.volume.snapshot import Snapshot
from altostack.volume.types import VolumeType
from altostack.volume.values import backend, named, read_only


class Volume(Timed, VolumeRow):
    """``wanted`` GiB are to be there; ``observed`` is what the node said of ``generation`` of that wish."""

    __tablename__ = "volumes"
    id: Mapped[str] = key()
    name: Mapped[str | None] = field(create=True, update=True, brief=True, filter=True, sort=True)
    description: Mapped[str | None] = field(create=True, update=True)
    status: Mapped[Status] = field(default=Status.CREATING, filter=True, sort=True)
    size: Mapped[int] = field(filter=True, sort=True, doc="Size in GiB.")
    availability_zone: Mapped[str] = field(filter=True, sort=True)
    user_id: Mapped[str] = field()
    project_id: Mapped[str] = private(index=True)
    snapshot_id: Mapped[str | None] = field(default=None)
    source_volid: Mapped[str | None] = field(default=None)
    meta: Mapped[dict[str, str]] = field(wire="metadata", default={})
    multiattach: Mapped[bool] = field(default=False, filter=True)
    service_uuid: Mapped[str | None] = field(default=None, since="3.48")
    volume_type_id: Mapped[str] = field(since="3.63", index=True)
    bootable: Mapped[bool] = private(default=False)
    readonly: Mapped[bool] = private(default=False)
    image_meta: Mapped[dict[str, str]] = private(default=dict)
    hints: Mapped[dict[str, Any]] = private(default=dict)
    source: Mapped[dict[str, str]] = private(default=dict)  # kind, id and, for images, format
    host: Mapped[str | None] = private(default=None, index=True)
    wanted: Mapped[int] = private()
    generation: Mapped[int] = private(default=1)
    observed: Mapped[dict[str, Any]] = private(default=dict)
    connection: Mapped[dict[str, Any]] = private(default=dict)
    upload: Mapped[dict[str, str]] = private(default=dict)  # image and format, while one is made
    previous: Mapped[str | None] = private(default=None)  # the status before extending or uploading
    removing: Mapped[bool] = private(default=False)
    kind: Mapped[VolumeType | None] = relationship(
        primaryjoin=lambda: foreign(Volume.volume_type_id) == VolumeType.id, lazy="selectin", viewonly=True
    )
    attachments: Mapped[list[Attachment]] = relationship(
        primaryjoin=lambda: foreign(Attachment.volume_id) == Volume.id, lazy="selectin", viewonly=True,
        order_by=lambda: Attachment.created_at,
    )  # fmt: skip


# ---- lifecycle

_COMING = (Status.CREATING, Status.DOWNLOADING)


class VolumeLife(Flow[Volume]):
    """provision (choose a node) -> ensure (the node makes it) -> rest; extend and upload are asked for by signals."""

    def provision(self) -> Next:
        """Choose the storage node."""
        if self.row.host is None:
            since = self.frame.setdefault("since", self.runtime.clock())
            try:
                self.row.host, self.row.service_uuid = self._place()
            except scheduler.NoNode as reason:
                if reason.soon and self.runtime.clock() - since < settings(self.runtime).start_timeout:
                    return wait(seconds=1.0)
                raise Failed(f"schedule allocate volume:{reason}") from reason
            self.say(f"on storage node {self.row.host}")
        if self.row.source.get("kind") == "image":
            self._become(Status.DOWNLOADING, (Status.CREATING,))
        return hop(self.ensure)

    @step(deadline=None)
    def ensure(self) -> Next:
        """Wait until the node has it."""
        if not self._settled("create volume"):
            return self._work()
        self._become(Status.AVAILABLE, _COMING)
        return hop(self.rest)

    def rest(self) -> Next:
        if self.take("extend") is not None:
            self._begin()
            return hop(self.extend)
        if (asked := self.take("upload")) is not None:
            self.row.upload = asked
            self._begin()
            return hop(self.upload)
        return wait()

    @step(deadline=None)
    def extend(self) -> Next:
        """Wait until the node has made it larger."""
        if not self._settled("extend volume"):
            return self._work()
        self.row.size = self.row.wanted
        self._become_previous(Status.EXTENDING)
        return hop(self.tell_servers if self.row.previous == Status.IN_USE else self.rest)

    @step(deadline=60)
    def tell_servers(self) -> Next:
        """A guest sees the new size once its host was told."""
        with self.runtime.db.read() as session:
            mine = sa.select(Attachment.instance).where(Attachment.volume_id == self.row.id)
            servers = [server for server in session.scalars(mine) if server]
        for server in servers:
            try:
                Compute(self.clients["compute"]).extended(server, self.row.id)
            except RemoteError as error:
                if error.status != 404:
                    raise
        return hop(self.rest)

    @step(deadline=None)
    def upload(self) -> Next:
        """Wait until the node has written the image."""
        if not self._settled("copy volume to image") or "uploaded" not in self.row.observed:
            return self._work()
        self.row.upload = {}
        self._become_previous(Status.UPLOADING)
        return hop(self.rest)

    @step(deadline=300)
    def discard_image(self) -> Next:
        """Remove the image that could not be written."""
        Image(self.clients["image"]).delete(self.frame.pop("image"))
        return hop(self.rest)

    def failed(self, name: str, reason: str) -> Next:
        """Every failure leaves the volume in a status that its owner can go on from, and a message."""
        what, colon, why = reason.partition(":")
        if not colon:
            what, why = {"tell_servers": "extend volume"}.get(name, name), reason
        row = self.row
        self.write(
            lambda session: tell(
                session, project_id=row.project_id, kind="volume", resource_id=row.id, what=what, reason=why
            )
        )
        if name == "extend":
            row.wanted = row.size
            self._become(Status.ERROR_EXTENDING, (Status.EXTENDING,))
        elif name == "upload":
            self.frame["image"] = row.upload["image"]
            row.upload = {}
            self._become_previous(Status.UPLOADING)
            return hop(self.discard_image)
        elif name in ("provision", "ensure"):
            self._become(Status.ERROR, (*_COMING, Status.RESERVED))
        return hop(self.rest)

    def destroy(self) -> Next:
        """Gone when its snapshots are and the node says so; tried for ever."""
        row = self.row
        with self.runtime.db.read() as session:
            left = session.scalar(sa.select(sa.func.count()).where(Snapshot.volume_id == row.id))
        if left:
            return wait(seconds=5)
        if row.host is not None and not row.observed.get("gone"):
            row.status = Status.DELETING
            ring(self.runtime, row.host, row.id)
            return wait(seconds=30)
        self.write(
            lambda session: session.execute(sa.delete(Attachment).where(Attachment.volume_id == row.id))
        )
        return done()

    # ---- parts of steps

    def _place(self) -> tuple[str, str]:
        row = self.row
        with self.runtime.db.read() as session:
            kind = session.get(VolumeType, row.volume_type_id)
            hints = {word: _listed(row.hints.get(word)) for word in ("same_host", "different_host")}
            near = {
                word: list(session.scalars(sa.select(Volume.host).where(Volume.id.in_(ids))))
                for word, ids in hints.items()
            }
            node = scheduler.place(
                self.runtime, session, gib=row.wanted, specs=kind.extra_specs if kind else {},
                promised=promised(session), only=row.hints.get("source_host"), like=near["same_host"],
                unlike=near["different_host"],
            )  # fmt: skip
            return node.host, node.id

    def _begin(self) -> None:
        """A new wish: what was observed so far says nothing about it."""
        self.row.generation += 1
        self.row.observed = {}
        self.frame.pop("since", None)

    def _settled(self, what: str) -> bool:
        """Whether the node has done what is wanted now. Raises Failed with its reason."""
        seen = self.row.observed
        if seen.get("generation") != self.row.generation:
            return False
        if "error" in seen:
            raise Failed(f"{what}:{seen['error']}")
        return int(seen.get("gib", 0)) >= self.row.wanted

    def _work(self) -> Next:
        """Have the node look, and wait for it, unless it has been silent or busy for too long. Raises Failed."""
        chosen, now = settings(self.runtime), self.runtime.clock()
        since = self.frame.setdefault("since", now)
        with self.runtime.db.read() as session:
            quiet = silence(self.runtime, session, self.row.host or "")
        if quiet > chosen.node_timeout and now - since > chosen.node_timeout:
            raise Failed(
                f"storage node:{self.row.host} has not answered for {int(min(quiet, now - since))} s"
            )
        if now - since > chosen.work_timeout:
            raise Failed(f"storage node:{self.row.host} was not done within {int(chosen.work_timeout)} s")
        ring(self.runtime, self.row.host, self.row.id)
        return wait(seconds=15)

    def _become(self, status: Status, before: tuple[Status, ...]) -> None:
        """Change the status unless a request (a reservation, a delete) has changed it meanwhile."""
        here = (Volume.id == self.row.id) & Volume.status.in_(before)
        self.write(lambda session: session.execute(sa.update(Volume).where(here).values(status=status)))

    def _become_previous(self, before: Status) -> None:
        self._become(Status(self.row.previous or Status.AVAILABLE), (before,))


def _listed(value: Any) -> list[str]:
    """A hint is one id or a list of them."""
    return [value] if isinstance(value, str) else list(value or [])


def promised(session: Session) -> dict[str, int]:
    """GiB of all volumes and snapshots, by node."""
    total: dict[str, int] = {}
    for row in (Volume, Snapshot):
        size = Volume.wanted if row is Volume else Snapshot.size
        for host, gib in session.execute(sa.select(row.host, sa.func.sum(size)).group_by(row.host)):
            if host is not None:
                total[host] = total.get(host, 0) + int(gib)
    return total


# ---- what the API shows


def _attachments(call: Call, row: Volume) -> list[dict[str, Any]]:
    tells_host = call.context.is_admin or "service" in call.context.roles
    time = call.runtime.service.dialect.time
    return [
        {
            "id": row.id, "attachment_id": one.id, "volume_id": row.id, "server_id": one.instance,
            "host_name": one.host if tells_host else None, "device": one.mountpoint,
            "attached_at": time(one.attached_at) if one.attached_at else None,
        }
        for one in row.attachments
        if one.status == "attached"
    ]  # fmt: skip


def _bootable(call: Call, values: list[str]) -> Any:
    text = values[-1].lower()
    if text not in ("t", "true", "1", "f", "false", "0"):
        if call.at_least("3.2"):
            raise invalid_input(f"bootable={values[-1]}", "bootable")
        text = "true" if text else "false"
    return Volume.bootable == (text in ("t", "true", "1"))


def _always(value: Any) -> Any:
    return lambda call, row: value


class Update(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """PUT; at least one of them since 3.53."""

    name: str | msgspec.UnsetType | None = msgspec.UNSET
    description: str | msgspec.UnsetType | None = msgspec.UNSET
    display_name: str | msgspec.UnsetType | None = msgspec.UNSET
    display_description: str | msgspec.UnsetType | None = msgspec.UNSET
    metadata: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


def update(call: Call, row: Volume, fields: dict[str, Any]) -> None:
    """Change name, description and metadata."""
    if not fields and call.at_least("3.53"):
        raise invalid_input("At least one of name, description and metadata must be given.", "volume")
    for name, value in named(fields).items():
        setattr(row, "meta" if name == "metadata" else name, value)


def table(call: Call, row: type[Any]) -> Resource:
    """The service's declaration of a row."""
    return next(one for one in call.runtime.service.resources if one.row is row)


def held(call: Call, row: Volume) -> Volume:
    """The volume, locked until the transaction ends, as it is now."""
    wanted = sa.select(Volume).where(Volume.id == row.id).with_for_update()
    found = call.session.scalars(wanted.execution_options(populate_existing=True)).first()
    if found is None:
        raise call.runtime.service.dialect.not_found(table(call, Volume), row.id)
    return found


def resource(**functions: Any) -> Resource:
    """The table; creation, deletion and actions stand in files of their own."""
    admin: dict[str, Any] = {"show": "admin"}
    return Resource(
        row=Volume,
        name="volume",
        owner=Volume.project_id,
        policy={
            "list": READER, "show": READER, "create": MEMBER, "update": MEMBER, "delete": MEMBER,
            "admin_fields": ADMIN,
        },
        rules={
            "list": "volume:get_all", "show": "volume:get", "create": "volume:create",
            "update": "volume:update", "delete": "volume:delete",
            "admin_fields": "volume_extension:volume_host_attribute", **ALL,
        },
        status={"update": 200},
        quota={"volumes": 1, "gigabytes": Volume.wanted},
        computed={
            "links": Computed(get=lambda call, row: links(call, f"/volumes/{row.id}"), brief=True),
            "volume_type": Computed(get=lambda call, row: row.kind.name if row.kind else None),
            "attachments": Computed(get=_attachments),
            "bootable": Computed(get=lambda call, row: "true" if row.bootable else "false"),
            "encrypted": Computed(get=_always(False)),
            "replication_status": Computed(get=_always(None)),
            "consistencygroup_id": Computed(get=_always(None)),
            "group_id": Computed(get=_always(None), since=Version(3, 13)),
            "shared_targets": Computed(get=_always(False), since=Version(3, 48)),
            "consumes_quota": Computed(get=_always(True), since=Version(3, 65)),
            "os-vol-tenant-attr:tenant_id": Computed(get=read_only(lambda row: row.project_id)),
            "volume_image_metadata": Computed(get=read_only(lambda row: row.image_meta or msgspec.UNSET)),
            "migration_status": Computed(get=_always(None), **admin),
            "os-vol-host-attr:host": Computed(get=lambda call, row: backend(row.host), **admin),
            "os-vol-mig-status-attr:migstat": Computed(get=_always(None), **admin),
            "os-vol-mig-status-attr:name_id": Computed(get=_always(None), **admin),
            "provider_id": Computed(get=_always(None), since=Version(3, 21), **admin),
            "cluster_name": Computed(get=_always(None), since=Version(3, 61), **admin),
        },
        filters={
            "bootable": _bootable,
            "metadata": by_metadata(Volume.meta, "3.0"),
            "name~": like(Volume.name),
            "created_at": by_time(Volume.created_at),
            "updated_at": by_time(Volume.updated_at),
            "volume_type": lambda call, values: Volume.volume_type_id.in_(
                sa.select(VolumeType.id).where(
                    (VolumeType.id == values[-1]) | (VolumeType.name == values[-1])
                )
            ),
            "host": lambda call, values: (
                Volume.host == values[-1].partition("@")[0] if call.context.is_admin else None
            ),
            "project_id": lambda call, values: (
                Volume.project_id == values[-1] if call.context.is_admin else None
            ),
        },
        update=update,
        update_body=Update,
        flow=VolumeLife,
        **functions,
    )  # fmt: skip
