"""Tags: short words on projects and domains (API working group's tag guideline)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from altostack.kit.call import Call
from altostack.kit.errors import BadRequest

MOST = 80


def check_tags(tags: list[str]) -> None:
    """Raises BadRequest for more than 80 tags, a repeated one, or one that is empty, too long or holds , or /."""
    if len(tags) > MOST:
        raise BadRequest(f"Invalid input for field/attribute tags. More than {MOST} tags.", field="tags")
    if len(set(tags)) != len(tags):
        raise BadRequest("Invalid input for field/attribute tags. A tag is there twice.", field="tags")
    for tag in tags:
        if not 1 <= len(tag) <= 255 or "," in tag or "/" in tag:
            raise BadRequest(
                f"Invalid input for field/attribute tags. {tag!r} must have 1 to 255 characters, no comma and no "
                f"slash.",
                field="tags",
            )


def index(tags: list[str]) -> str:
    """Tags as one text in which a whole tag is found by a plain search: ``,a,b,``."""
    return "," + "".join(f"{tag}," for tag in tags)


def filters(column: Any) -> dict[str, Callable[[Call, list[str]], Any]]:
    """The four tag filters over an indexed text column. Each value is a comma-separated list."""

    def has(tag: str) -> Any:
        return sa.func.replace(column, f",{tag},", "") != column

    def words(values: list[str]) -> list[Any]:
        return [has(tag) for text in values for tag in text.split(",") if tag]

    return {
        "tags": lambda call, values: sa.and_(sa.true(), *words(values)),
        "tags-any": lambda call, values: sa.or_(sa.false(), *words(values)),
        "not-tags": lambda call, values: sa.not_(sa.and_(sa.true(), *words(values))),
        "not-tags-any": lambda call, values: sa.not_(sa.or_(sa.false(), *words(values))),
    }
