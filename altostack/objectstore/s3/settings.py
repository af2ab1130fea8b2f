"""What a bucket is told to be, beyond what a container knows: kept in the container's system metadata as JSON."""

from __future__ import annotations

import base64
import json
import zlib
from functools import lru_cache
from typing import Any, Final

from altostack.objectstore.s3.call import Call, metadata
from altostack.objectstore.s3.errors import S3Error
from altostack.objectstore.storage import Info

PREFIX: Final = "x-container-sysmeta-s3api-"
MAX_KEPT: Final = 24 << 10  # characters in one header
_PLAIN: Final = 512
_FOR_DAEMONS: Final = frozenset({"lifecycle", "inventory", "notification"})


def read(info: Info, name: str) -> Any:
    """A setting, None if there is none."""
    kept = metadata(info, PREFIX + name)
    return _opened(kept) if kept else None


@lru_cache(maxsize=1024)
def _opened(kept: str) -> Any:
    if kept.startswith("z:"):
        kept = zlib.decompress(base64.b64decode(kept[2:])).decode()
    return json.loads(kept)


def header(name: str, value: Any) -> dict[str, str]:
    """The header that keeps a setting; None removes it. Raises S3Error for too large ones."""
    if value is None:
        return {PREFIX + name: ""}
    text = json.dumps(value, separators=(",", ":"))
    if len(text) > _PLAIN:
        text = "z:" + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    if len(text) > MAX_KEPT:
        raise S3Error("MaxMessageLengthExceeded", "The configuration is too large.")
    return {PREFIX + name: text}


def keep(call: Call, name: str, value: Any) -> None:
    """Set or, with None, remove a setting of the call's bucket."""
    call.must(call.swift("POST", call.name, headers=header(name, value)))
    call.forget()
    if value is not None and name in _FOR_DAEMONS:
        call.gate.buckets.watch(call.account, call.name)
