"""The image service: disk images, their bits and who may use them."""

from dataclasses import replace
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
from altostack.kit.resource import Resource
from altostack.kit.service import Runtime, Service


def loops(runtime: Runtime) -> tuple[Loop, ...]:
    """Clean up after uploads that died; fill the cache."""

    def look(ids: tuple[str, ...]) -> None:
        sweep.sweep(runtime)

    return (Loop("image-sweep", look, interval=300.0), cache.loop(runtime))


_ROUTES = (
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
)
_RULES = {**change.RULES, **imports.RULES, **task.RULES}


def _of_projects(check: str) -> str:
    """Images belong to projects: whoever comes with a token for a domain or the system is not let in."""
    return f"scope:project and ({check})"


def _scoped(resource: Resource) -> Resource:
    return replace(resource, policy={op: _of_projects(check) for op, check in resource.policy.items()})


SERVICE = Service(
    name="image",
    type="image",
    title="Image service",
    prefix="/image",
    root="/v2",
    endpoint="/image",
    dialect=DIALECT,
    metadata=ImageRow.metadata,
    resources=tuple(_scoped(one) for one in (IMAGES, TASKS, NAMESPACES)),
    routes=tuple(
        one if one.check is None else replace(one, check=_of_projects(one.check)) for one in _ROUTES
    ),
    rules={name: _of_projects(check) for name, check in _RULES.items()},
    settings=Settings,
    loops=loops,
    bootstrap=bootstrap,
    migrations=Path(__file__).parent / "migrations",
)
