"""The image service: disk images, their bits and who may use them."""

from pathlib import Path

from altostack.image import data, discovery, image, member
from altostack.image.config import Settings
from altostack.image.dialect import DIALECT
from altostack.image.image import IMAGES
from altostack.image.model import ImageRow
from altostack.kit.reconcile import Loop
from altostack.kit.service import Runtime, Service


def loops(runtime: Runtime) -> tuple[Loop, ...]:
    """Clean up after uploads that died."""

    def look(ids: tuple[str, ...]) -> None:
        data.sweep(runtime)

    return (Loop("image-sweep", look, interval=300.0),)


SERVICE = Service(
    name="image",
    type="image",
    title="Image service",
    prefix="/image",
    root="/v2",
    endpoint="/image",
    dialect=DIALECT,
    metadata=ImageRow.metadata,
    resources=(IMAGES,),
    routes=(*image.ROUTES, *data.ROUTES, *member.ROUTES, *discovery.ROUTES),
    rules=image.RULES,
    settings=Settings,
    loops=loops,
    migrations=Path(__file__).parent / "migrations",
)
