"""What a service is, and what it is given to run with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from altostack.kit.dialect import Dialect
from altostack.kit.resource import Resource
from altostack.kit.versions import Ladder

if TYPE_CHECKING:
    from altostack.kit.bus import Bus
    from altostack.kit.clients import Client
    from altostack.kit.db import Database
    from altostack.kit.flow import Engine, Flow
    from altostack.kit.policy import Policy
    from altostack.kit.quota import Quotas
    from altostack.kit.reconcile import Loop
    from altostack.kit.route import Route


@dataclass(frozen=True, kw_only=True)
class Service:
    """The declaration of one service: everything that the kit and `altostack.app` need to run it.

    name: the package's noun. type: the catalogue's service type; aliases: older names of the type, registered too.
    prefix: path on the shared port; root: the versioned root below it, where resources are mounted; endpoint: what
    the catalogue shows below the public URL (may hold ``%(project_id)s``). routes: third-rung routes, paths relative
    to ``root`` unless they start with ``//`` (then to the prefix). loops: periodic and bell-driven work for the
    "work" role; agents: the same for the "node" role, one set a node. settings: a frozen settings class.
    """

    name: str
    type: str
    title: str
    prefix: str
    root: str
    endpoint: str
    dialect: Dialect
    metadata: sa.MetaData
    resources: tuple[Resource, ...] = ()
    routes: tuple[Route, ...] = ()
    aliases: tuple[str, ...] = ()
    ladder: Ladder | None = None
    settings: Any = None  # the settings class
    quotas: Mapping[str, int] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)  # further policy names -> check strings
    flows: Mapping[str, Any] = field(
        default_factory=dict
    )  # kind -> Flow subclass, where no resource declares it
    loops: Callable[[Runtime], tuple[Loop, ...]] | None = None
    agents: Callable[[Runtime, Node], tuple[Loop, ...]] | None = None
    bootstrap: Callable[[Runtime], None] | None = None
    path_project: bool = False  # "/<project id>" may follow the root, as old clients send it
    migrations: Path | None = None  # folder of the ladder of schema migrations


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine (or one namespace that stands for one) that runs agents.

    host: its unique name. root: its folder. drivers: the service's driver by service name. token: the value of the
    node credential header, good for this node's rows alone.
    """

    host: str
    root: Path
    drivers: Mapping[str, Any]
    token: str


@dataclass(kw_only=True)
class Runtime:
    """What a running service holds. One a service and process; no globals anywhere."""

    service: Service
    db: Database
    policy: Policy
    quotas: Quotas
    bus: Bus
    settings: Any
    clients: Mapping[str, Client]
    url: str  # public URL of the service: scheme://host:port/prefix
    cloud: Mapping[str, Any] = field(
        default_factory=dict
    )  # facts shared by services: region, secrets, folders
    clock: Callable[[], float] = time.time
    engine: Engine | None = None
    drivers: Mapping[str, Any] = field(default_factory=dict)
    node_key: str = ""
    memo: dict[Any, Any] = field(default_factory=dict)  # what a service keeps for as long as it runs
    observe: Callable[[str, str, int, float], None] | None = None  # (route, method, status, seconds)

    @property
    def root_url(self) -> str:
        """The versioned root, for links."""
        return self.url + self.service.root

    def kinds(self) -> dict[str, tuple[type[Flow[Any]], type[Any]]]:
        """Flow kind -> (flow class, row class)."""
        found = {r.name: (r.flow, r.row) for r in self.service.resources if r.flow is not None}
        found.update({name: (flow, flow.row_class) for name, flow in self.service.flows.items()})
        return found
