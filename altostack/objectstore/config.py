"""[objectstore]"""

from __future__ import annotations

from typing import Literal

import msgspec

from altostack.kit.config import Settings as Base
from altostack.objectstore.care.settings import CareSettings
from altostack.objectstore.storage import Erasure, StoragePolicy


class Policy(Base, frozen=True, kw_only=True):
    """[objectstore.policies.<name>]: how the objects of a container are kept.

    index: what the ring file is called after; never changes. type: "replication" keeps as many copies as the ring has
    replicas; "erasure_coding" keeps ``data`` + ``parity`` fragments, one on each of the ring's replicas. default: what
    a container gets that asks for none. deprecated: existing containers keep it, new ones cannot have it.
    """

    index: int
    type: Literal["replication", "erasure_coding"] = "replication"
    default: bool = False
    deprecated: bool = False
    aliases: tuple[str, ...] = ()
    ec_type: str = "liberasurecode_rs_vand"
    data: int = 4
    parity: int = 2
    segment_size: int = 1 << 20
    duplication_factor: int = 1


class Settings(Base, frozen=True, kw_only=True):
    """[objectstore]: this machine's part of the object store.

    host, port: where it listens for clients, by Swift and by S3 (0: [cloud] port + 2; host as [cloud] host).
    public_url: how clients reach it (default http://host:port). processes, threads: processes that answer clients and
    requests that each works on at a time. node_host, node_port: where other nodes reach this one's devices; an empty
    node_host listens nowhere. devices: folder with one folder (or mount point) a device; default
    ``objectstore/devices`` in the cloud's folder. mount_check: a device that is no mount point is not used.
    reclaim_age: seconds for which deletions are remembered. fallocate_reserve: bytes left free on a device.
    read_affinity: where copies are looked for first, lower numbers before higher ("r1z1=100, r1=200"). write_affinity:
    where uploads go first ("r1z1, r2"), to be moved to where they belong later; write_affinity_copies: to at most so
    many devices there (0: twice the number of copies). concurrent_get_delay: seconds without an answer after which a
    copy on another machine is asked for, too (0: only when the first cannot answer).
    """

    host: str = ""
    port: int = 0
    public_url: str = ""
    processes: int = 1
    threads: int = 64
    node_host: str = ""
    node_port: int = 6200
    devices: str = ""
    mount_check: bool = False
    reclaim_age: float = 7 * 86400.0
    fallocate_reserve: int = 0
    policies: dict[str, Policy] = msgspec.field(
        default_factory=lambda: {"standard": Policy(index=0, default=True)}
    )
    care: CareSettings = CareSettings()
    account_prefix: str = "AUTH_"
    max_object_size: int = 5 * (1 << 30) + 2
    listing_limit: int = 10_000
    max_meta_name: int = 128
    max_meta_value: int = 256
    max_meta_count: int = 90
    max_meta_overall: int = 4096
    max_object_name: int = 1024
    max_container_name: int = 256
    max_account_name: int = 256
    read_affinity: str = ""
    write_affinity: str = ""
    write_affinity_copies: int = 0
    concurrent_get_delay: float = 1.0

    def storage_policies(self) -> tuple[StoragePolicy, ...]:
        """The policies by index. Raises ValueError for settings that contradict themselves."""
        found = tuple(
            sorted((_policy(name, one) for name, one in self.policies.items()), key=lambda one: one.index)
        )
        names = [name.lower() for one in found for name in (one.name, *one.aliases)]
        if len({one.index for one in found}) < len(found) or len(set(names)) < len(names):
            raise ValueError("[objectstore.policies] two policies share an index or a name")
        if sum(one.default for one in found) != 1:
            raise ValueError("[objectstore.policies] exactly one policy has to be the default")
        if any(one.default and one.deprecated for one in found):
            raise ValueError("[objectstore.policies] a deprecated policy cannot be the default")
        return found


def _policy(name: str, given: Policy) -> StoragePolicy:
    erasure = None
    if given.type == "erasure_coding":
        erasure = Erasure(
            given.ec_type, given.data, given.parity, given.segment_size, given.duplication_factor
        )
    return StoragePolicy(name, given.index, given.default, given.deprecated, given.aliases, erasure)
