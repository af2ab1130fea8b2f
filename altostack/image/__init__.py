"""The image service: disk images, their bits and who may use them."""

from pathlib import Path

from altostack.image import (
    cache,
    change,
    data,
    discovery,
    image,
    imports,
    limits,
    location,
    member,
    metadef,
    schemas,
    sweep,
    task,
)
from altostack.image.config import Settings
from altostack.image.dialect import DIALECT
from altostack.image.image import IMAGES
from altostack.image.metadef.namespace import NAMESPACES, bootstrap
from altostack.image.model import ImageRow
from altostack.image.task import TASKS
from altostack.kit.reconcile import Loop
from altostack.kit.service import Runtime, Service


def loops(runtime: Runtime) -> tuple[Loop, ...]:
    """Clean up after uploads that died; fill the cache."""

    def look(ids: tuple[str, ...]) -> None:
        sweep.sweep(runtime)

    return (Loop("image-sweep", look, interval=300.0), cache.loop(runtime))


SERVICE = Service(
    name="image",
    type="image",
    title="Image service",
    prefix="/image",
    root="/v2",
    endpoint="/image",
    dialect=DIALECT,
    metadata=ImageRow.metadata,
    resources=(IMAGES, TASKS, NAMESPACES),
    routes=(
        *image.ROUTES,
        *change.ROUTES,
        *data.ROUTES,
        *member.ROUTES,
        *location.ROUTES,
        *imports.ROUTES,
        *task.ROUTES,
        *cache.ROUTES,
        *limits.ROUTES,
        *discovery.ROUTES,
        *schemas.ROUTES,
        *metadef.ROUTES,
    ),
    rules={**change.RULES, **imports.RULES, **task.RULES},
    settings=Settings,
    loops=loops,
    bootstrap=bootstrap,
    migrations=Path(__file__).parent / "migrations",
)
