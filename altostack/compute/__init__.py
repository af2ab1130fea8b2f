"""Compute: servers on hosts. The Compute API v2.1 of the field; see README.md beside this file."""

from __future__ import annotations

from pathlib import Path

from altostack.compute import (
    action_api,
    aggregate,
    attachment,
    compute_service,
    console_api,
    external_event,
    flavor,
    hypervisor,
    interface,
    keypair,
    limits,
    loops,
    metadata,
    migration,
    node_api,
    server,
    server_meta,
    usage,
    versions,
)
from altostack.compute.agent import agents
from altostack.compute.config import ComputeSettings
from altostack.compute.dialect import DIALECT
from altostack.compute.flavor import FLAVORS
from altostack.compute.keypair import KEYPAIRS
from altostack.compute.model import ComputeRow
from altostack.compute.server import SERVERS
from altostack.compute.server_group import SERVER_GROUPS
from altostack.kit.service import Runtime, Service

QUOTAS = {
    "instances": 10,
    "cores": 20,
    "ram": 51_200,
    "metadata_items": 128,
    "key_pairs": 100,
    "server_groups": 10,
    "server_group_members": 10,
    "injected_files": 5,
    "injected_file_content_bytes": 10_240,
    "injected_file_path_bytes": 255,
}


def bootstrap(runtime: Runtime) -> None:
    """The default flavors."""
    runtime.db.write(flavor.bootstrap)


SERVICE = Service(
    name="compute",
    type="compute",
    title="Compute",
    prefix="/compute",
    root="/v2.1",
    endpoint="/compute/v2.1",
    dialect=DIALECT,
    metadata=ComputeRow.metadata,
    resources=(SERVERS, FLAVORS, KEYPAIRS, SERVER_GROUPS),
    routes=(
        *versions.ROUTES,
        *flavor.ROUTES,
        *keypair.ROUTES,
        *aggregate.ROUTES,
        *attachment.ROUTES,
        *interface.ROUTES,
        *server_meta.ROUTES,
        *console_api.ROUTES,
        *action_api.ROUTES,
        *hypervisor.ROUTES,
        *compute_service.ROUTES,
        *limits.ROUTES,
        *usage.ROUTES,
        *external_event.ROUTES,
        *migration.ROUTES,
        *metadata.ROUTES,
        *node_api.ROUTES,
    ),
    rules={**server.RULES, **action_api.RULES, **limits.RULES},
    ladder=versions.LADDER,
    settings=ComputeSettings,
    quotas=QUOTAS,
    loops=loops.loops,
    agents=agents,
    bootstrap=bootstrap,
    path_project=True,
    migrations=Path(__file__).parent / "migrations",
)
