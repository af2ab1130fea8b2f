"""Nodes: which are alive, which one runs a router or plays an external network's world, and how the API lists them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from altostack.kit.call import Call
from altostack.kit.db import utcnow
from altostack.kit.policy import ADMIN, READER_ANY
from altostack.kit.resource import Computed, Resource
from altostack.kit.route import Route
from altostack.network.bells import Bells, bells
from altostack.network.rows import Agent, Network, Router

DOWN_AFTER = 75.0  # seconds without a sign of life
_HEARTBEAT = timedelta(seconds=10)  # signs of life that come sooner are not written down


# ---- lifecycle


def alive(agent: Agent, *, after: float = DOWN_AFTER) -> bool:
    """Whether the node reported lately."""
    return utcnow() - agent.heartbeat < timedelta(seconds=after)


def choose(session: Session) -> str | None:
    """The live node that runs the fewest routers, or None when no node lives."""
    since = utcnow() - timedelta(seconds=DOWN_AFTER)
    running = (
        sa.select(Router.host, sa.func.count().label("n")).group_by(Router.host).subquery()
    )  # fmt: skip
    query = (
        sa.select(Agent.host)
        .outerjoin(running, running.c.host == Agent.host)
        .where(Agent.heartbeat > since, Agent.admin_state_up.is_(True))
        .order_by(sa.func.coalesce(running.c.n, 0), Agent.host)
    )
    found = session.execute(query.limit(1)).scalar()
    return None if found is None else str(found)


def heard(
    session: Session, bells: Bells, host: str, zone: str, started: bool, facts: Mapping[str, Any]
) -> None:
    """A node gave a sign of life, and perhaps says something of itself; ``started``: it begins anew."""
    agent = session.execute(sa.select(Agent).where(Agent.host == host)).scalars().first()
    if agent is None:
        new = Agent(id=str(uuid.uuid4()), host=host, availability_zone=zone, configurations=dict(facts))
        try:
            with session.begin_nested():
                session.add(new)
                session.flush()
        except IntegrityError:  # the node's other report was quicker
            return
        bells.tidy()
        return
    now = utcnow()
    if not alive(agent):
        bells.tidy()
    if now - agent.heartbeat > _HEARTBEAT or started:
        agent.heartbeat, agent.availability_zone = now, zone
    if started:
        agent.started = now
    if facts and dict(facts) != agent.configurations:
        agent.configurations = dict(facts)


# ---- actions


def _delete(call: Call, agent: Agent) -> None:
    """The node is gone for good: what it ran goes to others."""
    session = call.session
    session.execute(sa.update(Router).where(Router.host == agent.host).values(host=None))
    session.execute(sa.update(Network).where(Network.host == agent.host).values(host=None))
    session.delete(agent)
    bells(call).tidy()


def _zones(call: Call) -> Any:
    zones: dict[str, bool] = {}
    for agent in call.session.execute(sa.select(Agent)).scalars():
        usable = alive(agent) and agent.admin_state_up
        zones[agent.availability_zone] = zones.get(agent.availability_zone, False) or usable
    found = [
        {"name": name, "resource": resource, "state": "available" if usable else "unavailable"}
        for name, usable in sorted(zones.items())
        for resource in ("network", "router")
    ]
    for word in ("name", "resource", "state"):
        if wanted := call.query.get(word):
            found = [zone for zone in found if zone[word] in wanted]
    return {"availability_zones": found}


def _plain(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")


AGENTS = Resource(
    row=Agent,
    name="agent",
    policy={"list": ADMIN, "show": ADMIN, "update": ADMIN, "delete": ADMIN},
    delete=_delete,
    computed={
        "alive": Computed(get=lambda call, row: alive(row)),
        "created_at": Computed(get=lambda call, row: _plain(row.created)),
        "started_at": Computed(get=lambda call, row: _plain(row.started)),
        "heartbeat_timestamp": Computed(get=lambda call, row: _plain(row.heartbeat)),
        "resources_synced": Computed(get=lambda call, row: None),
    },
    filters={
        "alive": lambda call, values: _alive_filter(values),
    },
    default_sort=(("host", False),),
)


def _alive_filter(values: list[str]) -> Any:
    since = utcnow() - timedelta(seconds=DOWN_AFTER)
    wanted = {value.lower() in ("1", "true", "t", "yes", "y", "on") for value in values}
    clauses = [Agent.heartbeat > since if one else Agent.heartbeat <= since for one in wanted]
    return sa.or_(*clauses)


ROUTES = (
    Route(
        method="GET", path="/availability_zones", handler=_zones, policy="get_availability_zone",
        check=READER_ANY,
    ),
)  # fmt: skip
