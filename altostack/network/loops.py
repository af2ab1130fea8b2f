"""The service's own periodic work: telling compute what happened to ports, and mending what races left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.clients import RemoteError
from altostack.kit.db import utcnow
from altostack.kit.reconcile import Loop
from altostack.kit.service import Runtime
from altostack.network import binding, interface, network, router
from altostack.network.bells import GROUPS, MEMBERS, NOTICES, TIDY, Bells
from altostack.network.neighbours import ComputeApi
from altostack.network.rows import GroupChange, Network, Notice, Port, Presence, Router, Subnet

log = logging.getLogger(__name__)
_MANY = 200
_REMEMBER = timedelta(hours=1)
_TELL = timedelta(hours=1)


def loops(runtime: Runtime) -> tuple[Loop, ...]:
    """The loops of the work role."""
    return (
        Loop("network-notices", lambda ids: tell(runtime), interval=5.0, topics=(NOTICES,), settle=0.02),
        Loop(
            "network-relay", lambda ids: relay(runtime, ids), interval=3600.0, topics=(MEMBERS,), settle=0.3
        ),
        Loop("network-tidy", lambda ids: tidy(runtime), interval=60.0, topics=(TIDY,), settle=0.1),
    )


def relay(runtime: Runtime, ids: tuple[str, ...]) -> None:
    """Pass on which groups have other members, a few times a second however many ports come and go."""
    if ids:
        runtime.bus.ring(GROUPS, *ids)


# ---- notices


def tell(runtime: Runtime) -> None:
    """Tell compute what happened to its ports, oldest first, until nothing is left to tell.

    Raises RemoteError when compute does not answer: the loop tries again. Compute finds out by itself as well, so what
    it refuses to hear is dropped, and so is what grew old.
    """
    compute = ComputeApi(runtime.clients["compute"]) if "compute" in runtime.clients else None
    while True:
        with runtime.db.read() as session:
            found = session.execute(sa.select(Notice).order_by(Notice.id).limit(_MANY)).scalars().all()
        if not found:
            return
        since = utcnow() - _TELL
        fresh = [notice for notice in found if notice.at > since]
        if compute is not None and fresh:
            try:
                compute.external_events(
                    {
                        "name": one.name,
                        "server_uuid": one.server_id,
                        "tag": one.port_id,
                        "status": "completed",
                    }
                    for one in fresh
                )
            except RemoteError as error:
                if error.status not in (400, 404, 422):
                    raise
                log.info("compute has no use for %d port events: %s", len(fresh), error.message)
        runtime.db.write(partial(_told, ids=[notice.id for notice in found]))


def _told(session: Session, ids: list[int]) -> None:
    session.execute(sa.delete(Notice).where(Notice.id.in_(ids)))


# ---- tidying


def tidy(runtime: Runtime) -> None:
    """Find nodes for what has none, put networks where their ports are and take them away elsewhere."""
    _write(runtime, _settle_networks)
    with runtime.db.read() as session:
        waiting = session.execute(sa.select(Router.id).where(Router.host.is_(None))).scalars().all()
        missing, needless = _differences(session)
    for router_id in waiting:
        _write(runtime, partial(_settle_router, router_id=router_id))
    for network_id, host in missing:
        _write(runtime, partial(_carry, network_id=network_id, host=host))
    for network_id, host in needless:
        _write(runtime, partial(binding.leave, network_id=network_id, host=host))
    runtime.db.write(
        lambda session: session.execute(sa.delete(GroupChange).where(GroupChange.at < utcnow() - _REMEMBER))
    )


def _write(runtime: Runtime, work: Callable[[Session, Bells], None]) -> None:
    """One transaction, and its bells after it."""
    waiting: list[Callable[[], None]] = []

    def once(session: Session) -> None:
        waiting.clear()
        work(session, Bells(runtime.bus, waiting.append))

    runtime.db.write(once)
    for ring in waiting:
        ring()


def _settle_networks(session: Session, bells: Bells) -> None:
    homeless = sa.select(Network).where(Network.external.is_(True), Network.host.is_(None))
    for one in session.execute(homeless).scalars().all():
        network.settle(session, bells, one)


def _settle_router(session: Session, bells: Bells, router_id: str) -> None:
    row = session.get(Router, router_id)
    if row is not None and row.host is None and interface.feet(session, row.id):
        router.settle(session, bells, row)


def _carry(session: Session, bells: Bells, network_id: str, host: str) -> None:
    row = session.get(Network, network_id)
    bound = sa.select(Port.id).where(Port.network_id == network_id, Port.host == host).limit(1)
    if row is not None and session.execute(bound).first() is not None:
        binding.carry(session, bells, row, host)
        binding.serve(session, bells, row, host)


def _differences(session: Session) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(network, host) where a network is missing, and where it is needless."""
    bound = (
        sa.select(Port.network_id, Port.host)
        .where(Port.host != "", sa.or_(Port.part.is_(None), Port.part.not_like("dhcp:%")))
        .distinct()
    )
    played = sa.select(Network.id, Network.host).where(Network.host.is_not(None))
    wanted = {(str(row[0]), str(row[1])) for query in (bound, played) for row in session.execute(query)}
    there = {(row[0], row[1]) for row in session.execute(sa.select(Presence.network_id, Presence.host))}
    served = sa.select(Port.id).where(
        Port.network_id == Presence.network_id, Port.host == Presence.host, Port.device_owner == binding.DHCP
    )
    wants = sa.select(Subnet.id).where(Subnet.network_id == Presence.network_id, Subnet.enable_dhcp.is_(True))
    bare = sa.select(Presence.network_id, Presence.host).where(wants.exists(), ~served.exists())
    unserved = {(row[0], row[1]) for row in session.execute(bare)}
    return sorted((wanted - there) | (unserved & wanted)), sorted(there - wanted)
