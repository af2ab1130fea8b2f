"""The daemons as loops of a process: `loops` makes them, the process starts and stops them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from altostack.kit.reconcile import Loop
from altostack.objectstore.care import rings
from altostack.objectstore.care.audit import Auditor, audit_databases
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.databases import Databases
from altostack.objectstore.care.deliver import Numbers, deliver
from altostack.objectstore.care.drives import audit_drives
from altostack.objectstore.care.expire import Expirer
from altostack.objectstore.care.fragments import reconstruct
from altostack.objectstore.care.objects import replicate
from altostack.objectstore.care.reap import reap
from altostack.objectstore.care.reconcile import Reconciler
from altostack.objectstore.care.relink import relink
from altostack.objectstore.care.report import Tally
from altostack.objectstore.care.settings import CareSettings
from altostack.objectstore.care.shard import Shards
from altostack.objectstore.care.sync import Sender
from altostack.objectstore.http import Refusal
from altostack.objectstore.proxy.coding import Coder
from altostack.objectstore.storage import StorageError
from altostack.objectstore.store import Store

log = logging.getLogger(__name__)

Pass = Callable[[str], object]


def passes(care: Care) -> dict[str, Pass]:
    """Every daemon by name: what it does with one of this machine's devices."""
    coders: dict[int, Coder] = {}
    databases, numbers, sender, expirer = Databases(care), Numbers(care), Sender(care), Expirer(care)
    shards, reconciler = Shards(care), Reconciler(care)
    return {
        "replicate": lambda device: replicate(care, device),
        "reconstruct": lambda device: reconstruct(care, device, coders),
        "databases": databases.run,
        "deliver": lambda device: (deliver(care, device), numbers.run(device)),
        "audit-quick": lambda device: Auditor(care, device, "quick").run(),
        "audit-full": lambda device: Auditor(care, device, "full").run(),
        "audit-databases": lambda device: audit_databases(care, device),
        "reap": lambda device: reap(care, device),
        "shard": shards.run,
        "reconcile": reconciler.run,
        "sync": sender.run,
        "relink": lambda device: relink(care, device),
        "expire": once(care, expirer.run),
        "drives": once(care, lambda: audit_drives(care)),
        "lifecycle": once(care, lambda: lifecycle(care)),
        "rings": once(care, lambda: rings.fetch(care)),
    }


def lifecycle(care: Care) -> Tally:
    """What the lifecycle rules of S3 buckets say is due; nothing in a process without S3."""
    from altostack.objectstore.s3.lifecycle import apply

    def pause() -> None:
        if care.stopping.is_set():
            raise Refusal(503, "The daemons are stopping.")

    with care.reports.tally("lifecycle") as tally:
        done = apply(care.store, pause=pause)
        for name in ("buckets", "seen", "expired", "transitioned", "aborted", "delivered", "inventories"):
            if number := getattr(done, name):
                tally.count(name, number)
        if done.failures:
            tally.count("failed", done.failures)
    return tally


def once(care: Care, body: Callable[[], object]) -> Pass:
    """A daemon that looks after the machine as a whole, when it comes to the first device."""

    def run(device: str) -> None:
        if device == next(iter(care.devices()), device):
            body()

    return run


def loops(
    store: Store,
    devices: Sequence[str] = (),
    *,
    settings: CareSettings | None = None,
    stopping: threading.Event | None = None,
) -> tuple[Loop, ...]:
    """The daemons of this machine, not started. ``devices``: names; every one that is there by default.

    stopping: ends passes that are under way; set it before the loops are stopped.
    """
    care = Care(
        store=store,
        settings=settings or store.settings.care,
        stopping=stopping or threading.Event(),
        chosen=tuple(devices),
    )
    made = {name: Loop(f"object-{name}", _body(care, name, one), interval=_interval(care.settings, name))
            for name, one in passes(care).items()}  # fmt: skip
    for name in ("replicate", "reconstruct", "databases"):
        care.alarms.append(made[name].nudge)
    return tuple(made.values())


def _interval(settings: CareSettings, name: str) -> float:
    return float(getattr(settings, "audit" if name.startswith("audit-") else name))


def _body(care: Care, name: str, one: Pass) -> Callable[[tuple[str, ...]], None]:
    """All devices in turn; one that fails holds up no other."""

    def body(ids: tuple[str, ...]) -> None:
        for device in care.devices():
            if care.stopping.is_set():
                return
            try:
                one(device)
            except (StorageError, Refusal, OSError) as error:
                log.warning("%s: the device %s: %s", name, device, error)

    return body
