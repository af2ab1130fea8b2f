"""``GET /recon/...`` on a storage node: what Swift's monitoring tools (``swift-recon``) ask, answered from our reports.

Open to whoever reaches the node's port, as it is there: it tells how the node is, nothing of what it holds. Names and
units are those of Swift's recon middleware (administrator's guide, cluster telemetry); times are seconds since 1970
and durations seconds, but for ``object_replication_time`` and ``object_reconstruction_time``: minutes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any

import msgspec

from altostack.objectstore import compose
from altostack.objectstore.care.health import DeviceStatus, node_status
from altostack.objectstore.care.holdings import listed
from altostack.objectstore.care.report import Report, Reports
from altostack.objectstore.disk import layout
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.http import Handler, Request, Response
from altostack.objectstore.store import Store


def handler(inner: Handler, store: Store) -> Handler:
    """Answers recon's questions; everything else is for ``inner``."""
    questions = Recon(store).questions()

    def answer(request: Request) -> Response:
        if request.method != "GET" or not request.path.startswith("/recon/"):
            return inner(request)
        ask = questions.get(request.path[7:].rstrip("/"))
        if ask is None:
            return Response(404, {"content-type": "text/plain"}, f"Invalid path: {request.path}".encode())
        return Response(200, {"content-type": "application/json"}, msgspec.json.encode(ask()))

    return answer


class Recon:
    """The answers of one node."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def questions(self) -> dict[str, Callable[[], Any]]:
        """Path below /recon -> what answers it."""
        return {
            "version": lambda: {"version": metadata.version("altostack")},
            "time": time.time,
            "mem": _memory,
            "load": _load,
            "mounted": _mounts,
            "devices": lambda: {self._root: sorted(listed(self._root))},
            "unmounted": lambda: [
                {"device": one.device, "mounted": one.mounted} for one in self._devices() if not one.mounted
            ],
            "diskusage": lambda: [_usage(one) for one in self._devices()],
            "ringmd5": self._rings,
            "swiftconfmd5": lambda: {},
            "quarantined": self._quarantined,
            "async": lambda: {
                "async_pending": sum(one.pending for one in self._devices()), "async_pending_last": time.time(),
            },
            "driveaudit": lambda: {"drive_audit_errors": self._sum("drives", "failed")},
            "replication": lambda: self._object_replication(),
            "replication/object": lambda: self._object_replication(),
            "replication/account": lambda: self._replication("databases", "accounts"),
            "replication/container": lambda: self._replication("databases", "containers"),
            "reconstruction/object": lambda: {
                "object_reconstruction_time": self._seconds("reconstruct") / 60,
                "object_reconstruction_last": self._last("reconstruct"),
            },
            "updater/object": lambda: {
                "object_updater_sweep": self._seconds("deliver"),
                "object_updater_stats": self._did("deliver"),
                "object_updater_last": self._last("deliver"),
            },
            "updater/container": lambda: {"container_updater_sweep": self._seconds("numbers")},
            "auditor/account": lambda: self._audits("account"),
            "auditor/container": lambda: self._audits("container"),
            "auditor/object": lambda: {
                "object_auditor_stats_ALL": self._object_audit("audit-full"),
                "object_auditor_stats_ZBF": self._object_audit("audit-quick"),
            },
            "expirer/object": lambda: {
                "object_expiration_pass": self._seconds("expire"), "expired_last_pass": self._sum("expire", "deleted"),
            },
            "sharding": lambda: {
                "sharding_stats": {"sharding": self._did("shard")}, "sharding_time": self._seconds("shard"),
                "sharding_last": self._last("shard"),
            },
            "relinker": lambda: {"devices": {one.device: one.did for one in self._of("relink")}, "workers": {}},
        }  # fmt: skip

    @property
    def _root(self) -> str:
        local = self._store.local
        return local.devices.root if isinstance(local, LocalNode) else ""

    def _devices(self) -> list[DeviceStatus]:
        return node_status(self._store).devices

    def _rings(self) -> dict[str, str]:
        folder = compose.rings_folder(self._store.folder)
        return {
            str(path): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            for path in sorted(folder.glob("*.ring"))
        }

    def _quarantined(self) -> dict[str, Any]:
        found: dict[str, Any] = {"accounts": 0, "containers": 0, "objects": 0, "policies": {}}
        for device in listed(self._root):
            top = f"{self._root}/{device}/{layout.QUARANTINED}"
            for kind in listed(top):
                number = len(listed(f"{top}/{kind}"))
                if kind in ("accounts", "containers"):
                    found[kind] += number
                elif kind.startswith("objects"):
                    policy = found["policies"].setdefault(kind.partition("-")[2] or "0", {"objects": 0})
                    policy["objects"] += number
                    found["objects"] += number
        return found

    # ---- from reports

    def _of(self, daemon: str) -> list[Report]:
        return [one for one in Reports(self._store.folder).all() if one.daemon == daemon]

    def _seconds(self, daemon: str) -> float:
        return sum(one.seconds for one in self._of(daemon))

    def _last(self, daemon: str) -> float | None:
        return min((one.ended for one in self._of(daemon) if one.whole), default=None)

    def _sum(self, daemon: str, name: str) -> int:
        return sum(one.did.get(name, 0) for one in self._of(daemon))

    def _did(self, daemon: str) -> dict[str, int]:
        return _added(one.did for one in self._of(daemon))

    def _replication(self, daemon: str, what: str) -> dict[str, Any]:
        did = self._did(daemon)
        failed = did.get("failed", 0)
        stats = {
            "attempted": did.get(what, 0),
            "failure": failed,
            "success": max(0, did.get(what, 0) - failed),
        }
        return {
            "replication_time": self._seconds(daemon),
            "replication_last": self._last(daemon),
            "replication_stats": stats | did,
        }

    def _object_replication(self) -> dict[str, Any]:
        found = self._replication("replicate", "partitions")
        return found | {
            "object_replication_time": self._seconds("replicate") / 60,
            "object_replication_last": found["replication_last"],
        }

    def _audits(self, kind: str) -> dict[str, Any]:
        did = self._did("audit-databases")
        failed = did.get("quarantined", 0)
        return {
            f"{kind}_audits_passed": max(0, did.get(f"{kind}s", 0) - failed),
            f"{kind}_audits_failed": failed,
            f"{kind}_auditor_pass_completed": self._seconds("audit-databases"),
            f"{kind}_audits_since": min((one.began for one in self._of("audit-databases")), default=None),
        }

    def _object_audit(self, daemon: str) -> dict[str, Any]:
        did, seconds = self._did(daemon), self._seconds(daemon)
        return {
            "audit_time": seconds, "bytes_processed": did.get("bytes", 0), "passes": did.get("objects", 0),
            "errors": did.get("failed", 0), "quarantined": did.get("quarantined", 0),
            "start_time": min((one.began for one in self._of(daemon)), default=None),
        }  # fmt: skip


def _added(found: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in found:
        for name, number in one.items():
            total[name] = total.get(name, 0) + number
    return total


def _usage(one: DeviceStatus) -> dict[str, Any]:
    if not one.mounted:
        return {"device": one.device, "mounted": False, "size": "", "used": "", "avail": ""}
    return {
        "device": one.device, "mounted": True, "size": one.size, "used": one.size - one.free, "avail": one.free,
    }  # fmt: skip


def _memory() -> dict[str, str]:
    with open("/proc/meminfo") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def _load() -> dict[str, Any]:
    one, five, fifteen = os.getloadavg()
    with open("/proc/loadavg") as file:
        tasks, newest = file.read().split()[3:5]
    return {"1m": one, "5m": five, "15m": fifteen, "tasks": tasks, "processes": int(newest)}


def _mounts() -> list[dict[str, str]]:
    with open("/proc/mounts") as file:
        return [{"device": words[0], "path": words[1]} for words in (line.split() for line in file)]
