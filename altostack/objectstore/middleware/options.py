"""Options of filters as the paste file gives them: text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from altostack.objectstore.http import Handler
from altostack.objectstore.store import Store

Wrap = Callable[[Handler], Handler]


def store_of(conf: dict[str, Any]) -> Store:
    """The store that the pipeline is made for."""
    store: Store = conf["altostack"]["store"]
    return store


def flag(text: str) -> bool:
    """``true``, ``yes``, ``on``, ``1``, ``t`` and ``y`` are yes; anything else is no."""
    return text.strip().lower() in ("true", "yes", "on", "1", "t", "y")


def words(text: str, separators: str = ",") -> list[str]:
    """The parts of a list, without blanks around them and without empty ones."""
    for one in separators[1:]:
        text = text.replace(one, separators[0])
    return [part.strip() for part in text.split(separators[0]) if part.strip()]


def number(name: str, text: str) -> int:
    """A whole number that is not negative. Raises ValueError that names the option."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise ValueError(f"{name} = {text}: a whole number of 0 or more is expected")
    return value
