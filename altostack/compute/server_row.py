"""The server's row, the states it can be in, and the rows of its disks and network cards.

Source of states: the Compute API guide, "Server states".
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.compute.model import ComputeRow, Stamped
from altostack.kit.resource import field, key, private

# vm_state: what the server is, when nothing is being done to it.
BUILDING, ACTIVE, STOPPED, PAUSED = "building", "active", "stopped", "paused"
SUSPENDED, RESIZED, ERROR = "suspended", "resized", "error"

# power_state: what the hypervisor says.
NOSTATE, RUNNING, POWER_PAUSED, SHUTDOWN, CRASHED, POWER_SUSPENDED = 0, 1, 3, 4, 6, 7

# status: what the API shows: vm_state, and task_state where it changes the word.
_REBUILD = dict.fromkeys(("rebuilding", "rebuild_block_device_mapping", "rebuild_spawning"), "REBUILD")
_RESIZE = dict.fromkeys(("resize_prep", "resize_migrating", "resize_migrated", "resize_finish"), "RESIZE")
STATUS: dict[str, dict[str, str]] = {
    ACTIVE: {
        "": "ACTIVE",
        **dict.fromkeys(("rebooting", "reboot_pending", "reboot_started"), "REBOOT"),
        **dict.fromkeys(("rebooting_hard", "reboot_pending_hard", "reboot_started_hard"), "HARD_REBOOT"),
        "updating_password": "PASSWORD",
        "migrating": "MIGRATING",
        **_REBUILD,
        **_RESIZE,
    },
    BUILDING: {"": "BUILD"},
    STOPPED: {"": "SHUTOFF", **_RESIZE, **_REBUILD},
    RESIZED: {"": "VERIFY_RESIZE", "resize_reverting": "REVERT_RESIZE"},
    PAUSED: {"": "PAUSED", "migrating": "MIGRATING"},
    SUSPENDED: {"": "SUSPENDED"},
    "rescued": {"": "RESCUE"},
    ERROR: {"": "ERROR", **_REBUILD},
    "deleted": {"": "DELETED"},
    "soft-delete": {"": "SOFT_DELETED"},
    "shelved": {"": "SHELVED"},
    "shelved_offloaded": {"": "SHELVED_OFFLOADED"},
}


def status_of(vm_state: str, task_state: str | None) -> str:
    """The status that the API shows for a pair of states."""
    words = STATUS.get(vm_state, {"": "UNKNOWN"})
    return words.get(task_state or "", words[""])


class Server(Stamped, ComputeRow):
    """A server. What a client sees is here or computed from here; what its node must do is in ``wanted``.

    flavor, image: copies of what the server was made of. addresses, volumes: copies for views, kept by the lifecycle.
    security_groups: [{"name", "id"}], without id where it is the project's default.
    wanted: {"power": running|paused|suspended|shutoff|gone, "verb": {"serial", "name", ...} | null}; every change of
    what the node must do raises ``generation``. seen: the node's last observation, with the generation it is about.
    host: None until scheduled. zone: the availability zone asked for; az: the one it is in.
    """

    __tablename__ = "servers"
    __table_args__ = (sa.Index("ix_servers_project", "project_id", "created_at"),)
    id: Mapped[str] = key()
    project_id: Mapped[str] = field(wire="tenant_id", sort=True, type_=sa.String(64))
    user_id: Mapped[str] = field(sort=True, type_=sa.String(64))
    name: Mapped[str] = field(brief=True, sort=True)
    description: Mapped[str | None] = field(since="2.19", sort=True, default=None)
    hostname: Mapped[str] = field(show=False, sort=True, default="")
    vm_state: Mapped[str] = field(
        wire="OS-EXT-STS:vm_state", sort=True, default=BUILDING, type_=sa.String(32)
    )
    task_state: Mapped[str | None] = field(
        wire="OS-EXT-STS:task_state", sort=True, default="scheduling", type_=sa.String(64)
    )
    power_state: Mapped[int] = field(wire="OS-EXT-STS:power_state", sort=True, default=NOSTATE)
    flavor_id: Mapped[str] = field(show=False, sort=True, type_=sa.String(255))
    flavor: Mapped[dict[str, Any]] = private(default={})
    old_flavor: Mapped[dict[str, Any] | None] = private(default=None)
    vcpus: Mapped[int] = private(default=0)
    ram: Mapped[int] = private(default=0)
    image_id: Mapped[str | None] = field(show=False, sort=True, default=None, type_=sa.String(64))
    image: Mapped[dict[str, Any]] = private(default={})
    key_name: Mapped[str | None] = field(sort=True, default=None)
    public_key: Mapped[str | None] = private(default=None, type_=sa.Text())
    user_data: Mapped[str | None] = private(default=None, type_=sa.Text())
    config_drive: Mapped[str] = field(sort=True, default="", type_=sa.String(8))
    meta: Mapped[dict[str, str]] = field(wire="metadata", default={})
    tags: Mapped[list[str]] = field(since="2.26", default=[])
    locked_by: Mapped[str | None] = field(show=False, sort=True, default=None, type_=sa.String(8))
    locked_reason: Mapped[str | None] = field(since="2.73", default=None)
    host: Mapped[str | None] = field(show=False, sort=True, default=None, index=True)
    zone: Mapped[str | None] = field(wire="pinned_availability_zone", since="2.96", default=None)
    az: Mapped[str] = field(wire="OS-EXT-AZ:availability_zone", sort=True, default="")
    forced_host: Mapped[str | None] = private(default=None)
    reservation_id: Mapped[str] = private(default="", type_=sa.String(32))
    launch_index: Mapped[int] = field(show=False, sort=True, default=0)
    root_device: Mapped[str | None] = field(show=False, sort=True, default="/dev/vda", type_=sa.String(32))
    launched_at: Mapped[datetime | None] = field(show=False, sort=True, default=None)
    terminated_at: Mapped[datetime | None] = field(show=False, sort=True, default=None)
    progress: Mapped[int] = field(show=False, sort=True, default=0)
    access_v4: Mapped[str] = field(wire="accessIPv4", sort=True, default="", type_=sa.String(64))
    access_v6: Mapped[str] = field(wire="accessIPv6", sort=True, default="", type_=sa.String(64))
    disk_config: Mapped[str] = field(
        wire="OS-DCF:diskConfig", sort=True, default="MANUAL", type_=sa.String(8)
    )
    hints: Mapped[dict[str, Any]] = private(default={})
    group_id: Mapped[str | None] = private(default=None, type_=sa.String(64), index=True)
    security_groups: Mapped[list[dict[str, Any]]] = private(default=[])
    fault: Mapped[dict[str, Any] | None] = private(default=None)
    addresses: Mapped[dict[str, Any]] = private(default={})
    ips: Mapped[str] = private(default="", type_=sa.Text())
    volumes: Mapped[list[dict[str, Any]]] = private(default=[])
    wanted: Mapped[dict[str, Any]] = private(default={})
    generation: Mapped[int] = private(default=0)
    seen: Mapped[dict[str, Any]] = private(default={})

    @property
    def status(self) -> str:
        """The word the API shows."""
        return status_of(self.vm_state, self.task_state)

    @property
    def instance_name(self) -> str:
        """The guest's name on its node."""
        return f"instance-{self.id[:8]}"


class Interface(ComputeRow):
    """A network card of a server, and the port behind it.

    network_id, address: what was asked for. port_id: the port, given or made by us (``ours``). info: a copy of what
    the network service said ({"mac", "tap", "mtu", "network", "fixed_ips", "floating_ips", "subnets", ...}).
    state: wanted -> plugged (the port is wired on the node) -> attached; leaving: to be unplugged.
    """

    __tablename__ = "interfaces"
    id: Mapped[str] = key()
    server_id: Mapped[str] = private(type_=sa.String(64), index=True)
    position: Mapped[int] = private(default=0)
    network_id: Mapped[str | None] = private(default=None, type_=sa.String(64))
    address: Mapped[str | None] = private(default=None, type_=sa.String(64))
    port_id: Mapped[str | None] = private(default=None, type_=sa.String(64), index=True)
    ours: Mapped[bool] = private(default=True)
    tag: Mapped[str | None] = private(default=None, type_=sa.String(60))
    state: Mapped[str] = private(default="wanted", type_=sa.String(16))
    info: Mapped[dict[str, Any]] = private(default={})


class Disk(ComputeRow):
    """A block device of a server other than its local root disk: a volume, or an empty local disk.

    source: volume, image, snapshot or blank; source_id: of what. destination: volume or local. attachment_id and
    connection: the volume service's. state: wanted -> attaching -> attached; leaving: to be detached.
    """

    __tablename__ = "disks"
    id: Mapped[str] = key()
    server_id: Mapped[str] = private(type_=sa.String(64), index=True)
    position: Mapped[int] = private(default=0)
    source: Mapped[str] = private(default="volume", type_=sa.String(16))
    source_id: Mapped[str | None] = private(default=None, type_=sa.String(64))
    destination: Mapped[str] = private(default="volume", type_=sa.String(16))
    guest_format: Mapped[str | None] = private(default=None, type_=sa.String(32))
    size: Mapped[int | None] = private(default=None)
    volume_type: Mapped[str | None] = private(default=None)
    volume_id: Mapped[str | None] = private(default=None, type_=sa.String(64), index=True)
    multiattach: Mapped[bool] = private(default=False)
    device: Mapped[str | None] = private(default=None, type_=sa.String(32))
    boot_index: Mapped[int | None] = private(default=None)
    delete_on_termination: Mapped[bool] = private(default=False)
    tag: Mapped[str | None] = private(default=None, type_=sa.String(60))
    state: Mapped[str] = private(default="wanted", type_=sa.String(16))
    attachment_id: Mapped[str | None] = private(default=None, type_=sa.String(64))
    connection: Mapped[dict[str, Any]] = private(default={})


class Tombstone(ComputeRow):
    """What remains of a deleted server: enough to account for it and to find its actions."""

    __tablename__ = "tombstones"
    id: Mapped[str] = key()
    project_id: Mapped[str] = private(type_=sa.String(64), index=True)
    user_id: Mapped[str] = private(type_=sa.String(64))
    name: Mapped[str] = private()
    flavor: Mapped[dict[str, Any]] = private(default={})
    host: Mapped[str | None] = private(default=None)
    launched_at: Mapped[datetime | None] = private(default=None)
    terminated_at: Mapped[datetime] = private(index=True)
    created_at: Mapped[datetime] = private()
