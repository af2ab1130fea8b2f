"""First contents: the external network, for clouds that want one."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.service import Runtime
from altostack.network import network, subnet
from altostack.network.bells import Bells
from altostack.network.config import NetworkSettings
from altostack.network.rows import Network, Subnet


def bootstrap(runtime: Runtime) -> None:
    """Make the external network with its subnet, once. Idempotent."""
    settings: NetworkSettings = runtime.settings
    if not settings.external:
        return
    waiting: list[Any] = []  # nobody listens yet: the nodes look at everything when they start
    runtime.db.write(lambda session: _external(session, Bells(runtime.bus, waiting.append), settings))


def _external(session: Session, bells: Bells, settings: NetworkSettings) -> None:
    physical = settings.physical_network
    there = sa.select(Network.id).where(
        sa.or_(Network.physical_network == physical, Network.name == settings.external_name),
        Network.external.is_(True),
    )
    if session.execute(there).first() is not None:
        return
    outside = Network(
        id=str(uuid.uuid4()), name=settings.external_name, project_id="", external=True, is_default=True,
        network_type=network.FLAT, physical_network=physical, mtu=settings.mtu,
    )  # fmt: skip
    network.born(session, bells, settings, outside)
    first, last = settings.external_pool
    fields = {
        "name": f"{settings.external_name}-subnet", "ip_version": 4, "cidr": settings.external_cidr,
        "gateway_ip": settings.external_gateway, "enable_dhcp": False,
        "allocation_pools": [{"start": first, "end": last}],
    }  # fmt: skip
    session.add(
        Subnet(
            id=str(uuid.uuid4()), project_id="", network_id=outside.id, network_project_id="", external=True,
            **subnet.complete(settings, outside, fields),
        )
    )  # fmt: skip
