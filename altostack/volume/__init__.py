"""Block storage: volumes, snapshots and what they are attached to."""

from __future__ import annotations

from pathlib import Path

from altostack.kit.reconcile import Loop
from altostack.kit.service import Runtime, Service
from altostack.volume import desk, discovery, message, metadata, node, quotas, tables, types
from altostack.volume.agent import agents
from altostack.volume.config import VolumeSettings
from altostack.volume.dialect import DIALECT
from altostack.volume.dialect import RULES as DIALECT_RULES
from altostack.volume.model import VolumeRow
from altostack.volume.versions import LADDER


def loops(runtime: Runtime) -> tuple[Loop, ...]:
    """Forget old messages."""

    def sweep(ids: tuple[str, ...]) -> None:
        runtime.db.write(message.sweep)

    return (Loop("volume-sweep", sweep, interval=3600.0),)


SERVICE = Service(
    name="volume",
    type="block-storage",
    aliases=("volumev3", "block-store"),
    title="Block storage",
    prefix="/volume",
    root="/v3",
    endpoint="/volume/v3/%(project_id)s",
    dialect=DIALECT,
    metadata=VolumeRow.metadata,
    resources=(tables.VOLUMES, tables.SNAPSHOTS, tables.ATTACHMENTS, types.TYPES, message.MESSAGES),
    routes=(
        *discovery.ROUTES,
        *desk.ROUTES,
        *metadata.ROUTES,
        *node.ROUTES,
        *quotas.ROUTES,
        *types.ROUTES,
    ),
    ladder=LADDER,
    settings=VolumeSettings,
    quotas=quotas.DEFAULTS,
    rules={**tables.RULES, **DIALECT_RULES, **quotas.RULES, **types.RULES},
    loops=loops,
    agents=agents,
    bootstrap=types.make_default,
    path_project=True,
    migrations=Path(__file__).parent / "migrations",
)
