"""[objectstore.care]"""

from __future__ import annotations

from altostack.kit.config import Settings as Base


class CareSettings(Base, frozen=True, kw_only=True):
    """How the daemons work: pauses between two passes in seconds, and limits so that requests have the disks.

    audit_files, audit_bytes: a second, in a full pass; audit_zero_files: a second, in the pass that looks at sizes
    alone; 0: no limit. reap_delay: seconds between an account's deletion and that of its contents. shard_rows: lines
    from which a container is split. drives_unmount: whether devices that fail are unmounted. stale: seconds after
    which a temporary file is nobody's.
    """

    replicate: float = 30.0
    databases: float = 30.0
    reconstruct: float = 30.0
    deliver: float = 30.0
    audit: float = 30.0
    audit_files: float = 20.0
    audit_bytes: float = 10e6
    audit_zero_files: float = 50.0
    audit_databases: float = 10.0
    expire: float = 60.0
    reap: float = 600.0
    reap_delay: float = 0.0
    shard: float = 30.0
    shard_rows: int = 1_000_000
    sync: float = 60.0
    reconcile: float = 60.0
    lifecycle: float = 3600.0
    drives: float = 300.0
    drives_unmount: bool = False
    relink: float = 60.0
    rings: float = 60.0
    stale: float = 86400.0
