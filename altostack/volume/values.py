"""Types of request bodies, and small facts that several resources need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from altostack.kit.call import Call
from altostack.kit.resource import MAX_INT

Text = Annotated[str, msgspec.Meta(max_length=255)]
Key = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9\-_:. /]{1,255}$")]
Words = dict[Key, Text]  # metadata and extra specs
Uuid = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$")]
Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_INT)]
Flag = bool | Annotated[str, msgspec.Meta(pattern="^(?i:true|false|on|off|yes|no|y|n|t|f|1|0)$")]
Unset = msgspec.UnsetType
UNSET = msgspec.UNSET
FORMATS = Literal["raw", "vmdk", "vdi", "qcow2", "vhd", "vhdx", "ploop"]


def flag(value: Any) -> bool:
    """A `Flag` as a boolean."""
    return value if isinstance(value, bool) else str(value).lower() in ("true", "on", "yes", "y", "t", "1")


def stripped(value: str | None) -> str | None:
    """Names and descriptions lose the white space around them."""
    return value.strip() if isinstance(value, str) else value


def named(fields: dict[str, Any]) -> dict[str, Any]:
    """``display_name`` and ``display_description`` are older words for name and description."""
    for old, new in (("display_name", "name"), ("display_description", "description")):
        if old in fields:
            value = fields.pop(old)
            fields.setdefault(new, value)
    for name in ("name", "description"):
        if name in fields:
            fields[name] = stripped(fields[name])
    return fields


def backend(host: str | None) -> str | None:
    """A storage node's name as the API writes a volume's host: node@backend#pool."""
    return None if host is None else f"{host}@local#local"


def read_only(get: Callable[[Any], Any]) -> Callable[[Call, Any], Any]:
    """What answers to GET have of a row and those to changes have not, as it is with the reference's extensions."""
    return lambda call, row: get(row) if call.route.method == "GET" else UNSET


def is_multiattach(specs: Mapping[str, str]) -> bool:
    """Whether volumes of a type with these extra specs may be attached more than once."""
    return specs.get("multiattach") == "<is> True"
