"""Settings of the volume service."""

from __future__ import annotations

from altostack.kit.config import Settings


class VolumeSettings(Settings, frozen=True, kw_only=True):
    """[volume].

    availability_zone: the one zone there is. node_timeout: seconds without a word after which a storage node counts
    as down. overcommit: how much more than a node holds may be promised, space being taken only when written.
    start_timeout: seconds that a new volume waits for any storage node to come up. work_timeout: seconds that one
    piece of work on a node may take. agent_workers: volumes that one node works on at once.
    """

    availability_zone: str = "nova"
    node_timeout: float = 60.0
    overcommit: float = 20.0
    start_timeout: float = 20.0
    work_timeout: float = 3600.0
    agent_workers: int = 4
    heartbeat: float = 10.0
