"""Networking, API v2.0: networks, subnets, ports, routers, floating IPs, security groups; and the nodes' agents."""

from __future__ import annotations

from pathlib import Path

from altostack.kit.service import Service
from altostack.network import access, agent, extensions, loops, node, observed, quota, tag
from altostack.network.bootstrap import bootstrap
from altostack.network.config import NetworkSettings
from altostack.network.dialect import DIALECT
from altostack.network.floatingip import FLOATING_IPS
from altostack.network.model import NetworkRow
from altostack.network.network import NETWORKS
from altostack.network.node import AGENTS
from altostack.network.port import PORTS
from altostack.network.router import ROUTERS
from altostack.network.security_group import SECURITY_GROUPS
from altostack.network.security_group_rule import RULES
from altostack.network.subnet import SUBNETS

_TAGGED = (NETWORKS, SUBNETS, PORTS, ROUTERS, FLOATING_IPS, SECURITY_GROUPS)

SERVICE = Service(
    name="network",
    type="network",
    title="Networking",
    prefix="/network",
    root="/v2.0",
    endpoint="/network",
    dialect=DIALECT,
    metadata=NetworkRow.metadata,
    resources=(*_TAGGED, RULES, AGENTS),
    routes=(*extensions.ROUTES, *quota.ROUTES, *node.ROUTES, *observed.ROUTES, *tag.routes(*_TAGGED)),
    settings=NetworkSettings,
    quotas=quota.DEFAULTS,
    rules=access.RULES,
    loops=loops.loops,
    agents=agent.agents,
    bootstrap=bootstrap,
    migrations=Path(__file__).parent / "migrations",
)
