"""Periodic work of the compute service: hosts become resource providers."""

from __future__ import annotations

import logging

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.compute.host import Host, inventory
from altostack.compute.neighbours import Placement, RemoteError
from altostack.kit.reconcile import Loop
from altostack.kit.service import Runtime

log = logging.getLogger(__name__)


def loops(runtime: Runtime) -> tuple[Loop, ...]:
    """The loops of the work role."""
    return (
        Loop(
            "compute-hosts",
            lambda ids: place_hosts(runtime),
            interval=60.0,
            topics=("compute.hosts",),
            settle=0.05,
        ),
    )


def place_hosts(runtime: Runtime) -> None:
    """Tell placement about every host whose inventory it does not know, or no longer."""
    placement = Placement(runtime.clients["placement"])
    with runtime.db.read() as session:
        hosts = list(session.execute(sa.select(Host)).scalars())
    if not hosts:
        return
    known = placement.providers()
    trouble: RemoteError | None = None
    for host in hosts:
        wanted = inventory(runtime, host.facts)
        if host.id in known and host.placed == wanted:
            continue
        try:
            generation = placement.ensure_provider(host.id, host.facts.get("hostname") or host.host)
            placement.set_inventory(host.id, generation, wanted)
        except RemoteError as error:
            trouble = error
            log.warning("host %s: placement refused its inventory: %s", host.host, error)
            continue

        def note(session: Session, key: str = host.id, placed: object = wanted) -> None:
            session.execute(sa.update(Host).where(Host.id == key).values(placed=placed))

        runtime.db.write(note)
        log.info("host %s is a resource provider now", host.host)
    if trouble is not None:
        raise trouble
