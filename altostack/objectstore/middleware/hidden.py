"""Where earlier versions of objects lie: the names of a hidden container and of what is in it.

A hidden container is named as the one it belongs to, behind a character that no client may use: U+10FFFF, which
Unicode keeps for such purposes and which sorts behind all others. A version is named after its object, an end sign
and its time counted backwards: by name, then the newest first.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

from altostack.objectstore import stamp

MARK: Final = "\U0010ffff"
_QUOTED: Final = quote(MARK)
_END: Final = "\x01"
_ESCAPE: Final = "\x02"
_TOP: Final = 10**19 - 1  # nanoseconds


def container_of(container: str) -> str:
    """The hidden container that belongs to ``container``."""
    return MARK + container


def escaped(name: str) -> str:
    """An object's name (or the beginning of one) as versions' names have it; keeps the order of names."""
    if _END not in name and _ESCAPE not in name:
        return name
    return name.replace(_ESCAPE, _ESCAPE * 2).replace(_END, _ESCAPE + _END)


def plain(text: str) -> str:
    """The reverse of `escaped`."""
    return re.sub(f"{_ESCAPE}(.)", r"\1", text, flags=re.DOTALL) if _ESCAPE in text else text


def before(name: str) -> str:
    """What sorts before all versions of an object and behind all of the objects before it."""
    return escaped(name) + _END


def behind(name: str) -> str:
    """What sorts behind all versions of an object and before all of the objects behind it."""
    return escaped(name) + _END + ":"


def name_of(name: str, version: str) -> str:
    """The name of an object's version; ``version`` is a timestamp."""
    whole, _, rest = version.partition(".")
    return f"{before(name)}{_TOP - int(whole + rest):019d}"


def parse(text: str) -> tuple[str, str] | None:
    """(object, version) that a version's name says, None for another name."""
    name, end, turned = text.rpartition(_END)
    if not end or len(turned) != 19 or not (turned.isascii() and turned.isdecimal()):
        return None
    return plain(name), stamp.of_ns(_TOP - int(turned))


def shown(path: str) -> str | None:
    """A quoted path ``[/v1/account/]container/object`` to a version as clients know it; None for any other path."""
    before, mark, rest = path.partition(_QUOTED)
    if not mark or (before and not before.endswith("/")):
        return None
    container, _, name = rest.partition("/")
    found = parse(unquote(name))
    if found is None:
        return None
    return f"{before}{container}/{quote(found[0])}?version-id={found[1]}"


def version_of(text: str) -> str | None:
    """A version id as clients give it, in our form; None for what is none."""
    try:
        return stamp.normal(text)
    except ValueError:
        return None
