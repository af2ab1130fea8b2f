"""The [compute] section of the settings."""

from __future__ import annotations

from altostack.kit.config import Settings


class ComputeSettings(Settings, frozen=True, kw_only=True):
    """How the compute service schedules and watches.

    cpu_ratio, ram_ratio, disk_ratio: how far each may be overcommitted on a host. reserved_ram_mib,
    reserved_disk_gib: what the host keeps for itself. host_down_after: seconds without a heartbeat after which a host
    counts as down. candidates: hosts that placement offers for one server. shutdown_timeout: seconds a guest is given
    to shut down by itself. console_ttl: seconds that a console's address stays good. zone: the availability zone of
    hosts that are in none.
    """

    cpu_ratio: float = 16.0
    ram_ratio: float = 1.5
    disk_ratio: float = 1.0
    reserved_ram_mib: int = 0
    reserved_disk_gib: int = 0
    host_down_after: float = 60.0
    candidates: int = 20
    shutdown_timeout: float = 60.0
    console_ttl: int = 600
    zone: str = "nova"
