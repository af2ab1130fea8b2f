"""Tags: words that people put on resources, and lists filtered by them (API reference, "standard attributes tag")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.api import load
from altostack.kit.call import Call
from altostack.kit.errors import NotFound
from altostack.kit.policy import ANY
from altostack.kit.resource import Resource
from altostack.kit.route import Route
from altostack.network.address import bad
from altostack.network.model import changed
from altostack.network.rows import Tag

_LONGEST = 255
_MOST = 50

Filter = Callable[[Call, list[str]], Any]


class Tags(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a replacement."""

    tags: list[str]


def filters(row: type[Any]) -> Mapping[str, Filter]:
    """The four tag filters of a resource's list."""

    def having(words: list[str], *, every: bool) -> Any:
        wanted = {word for value in words for word in value.split(",") if word}
        tagged = sa.select(Tag.resource_id).where(Tag.tag.in_(wanted))
        if every:
            tagged = tagged.group_by(Tag.resource_id).having(sa.func.count() == len(wanted))
        return row.id.in_(tagged)

    return {
        "tags": lambda call, values: having(values, every=True),
        "tags-any": lambda call, values: having(values, every=False),
        "not-tags": lambda call, values: sa.not_(having(values, every=True)),
        "not-tags-any": lambda call, values: sa.not_(having(values, every=False)),
    }


def forget(session: Session, *ids: str) -> None:
    """The resources go, and their tags with them."""
    session.execute(sa.delete(Tag).where(Tag.resource_id.in_(ids)))


def routes(*resources: Resource) -> tuple[Route, ...]:
    """The tag routes below each resource."""
    return tuple(route for resource in resources for route in _routes(resource))


def _routes(resource: Resource) -> list[Route]:
    one = f"{resource.base}/{{{resource.param}}}/tags"

    def read(call: Call) -> Any:
        return {"tags": load(call, resource, op="show").tags}

    def row(call: Call) -> Any:
        return load(call, resource, op="update", lock=True)

    def replace(call: Call) -> Any:
        return {"tags": _set(call, row(call), call.body.tags)}

    def clear(call: Call) -> None:
        _set(call, row(call), [])

    def has(call: Call) -> None:
        if call.params["tag"] not in load(call, resource, op="show").tags:
            raise _missing(call.params["tag"])

    def put(call: Call) -> None:
        found = row(call)
        if call.params["tag"] not in found.tags:
            _set(call, found, [*found.tags, call.params["tag"]])

    def drop(call: Call) -> None:
        found = row(call)
        if call.params["tag"] not in found.tags:
            raise _missing(call.params["tag"])
        _set(call, found, [one for one in found.tags if one != call.params["tag"]])

    def route(method: str, path: str, handler: Callable[[Call], Any], status: int, body: Any = None) -> Route:
        return Route(method=method, path=path, handler=handler, policy=ANY, status=status, body=body)

    return [
        route("GET", one, read, 200),
        route("PUT", one, replace, 200, Tags),
        route("DELETE", one, clear, 204),
        route("GET", f"{one}/{{tag}}", has, 204),
        route("PUT", f"{one}/{{tag}}", put, 201),
        route("DELETE", f"{one}/{{tag}}", drop, 204),
    ]


def _set(call: Call, row: Any, words: list[str]) -> list[str]:
    """Write both copies of the tags."""
    wanted = sorted(set(words))
    for word in wanted:
        if not word or len(word) > _LONGEST or "," in word:
            raise bad("tags", f"'{word[:80]}' is not a tag: 1 to {_LONGEST} characters, none of them a comma")
    if len(wanted) > _MOST:
        raise bad("tags", f"the number of tags exceeds the limit {_MOST}")
    if wanted != sorted(row.tags):
        forget(call.session, row.id)
        if wanted:
            call.session.execute(sa.insert(Tag), [{"resource_id": row.id, "tag": word} for word in wanted])
        row.tags = wanted
        changed(row)
        call.session.flush()
    return wanted


def _missing(word: str) -> NotFound:
    return NotFound(f"Tag {word} could not be found.", kind="TagNotFound", field="tag")
