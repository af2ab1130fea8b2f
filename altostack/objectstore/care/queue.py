"""The queue of what expires when: rows in containers of the hidden account ``.expiring_objects``.

A row's name tells when and what: ``<X-Delete-At, ten digits>-<account>/<container>/<object>``. Its container is named
after the day of that moment, less a few seconds that spread a day's rows over a hundred containers, as Swift's object
expirer does. Rows come as `storage.Update` with the write that sets X-Delete-At, and go with the one that takes it
back; so they are kept on the object's device until they are delivered.
"""

from __future__ import annotations

from typing import Final

import msgspec

from altostack.objectstore.stamp import normal
from altostack.objectstore.storage import Row

ACCOUNT: Final = ".expiring_objects"
DIVISION: Final = 86400  # seconds
_SPREAD: Final = 100  # containers of a division
_EMPTY: Final = "d41d8cd98f00b204e9800998ecf8427e"  # MD5 of nothing


def container_of(delete_at: int, digest: str) -> str:
    """The queue's container for a moment (seconds since 1970); ``digest``: the object's place in its ring."""
    return f"{max(0, delete_at // DIVISION * DIVISION - int(digest, 16) % _SPREAD):010d}"


def row_of(
    delete_at: int, account: str, container: str, object: str, timestamp: str, *, deleted: bool = False
) -> Row:
    """The line that says so (or no longer does) since ``timestamp``."""
    return Row(
        name=f"{delete_at:010d}-{account}/{container}/{object}",
        timestamp=timestamp,
        content_type="text/plain",
        etag=_EMPTY,
        deleted=deleted,
    )


def read_row(name: str) -> tuple[str, str, str, str]:
    """(timestamp of the expiry, account, container, object). Raises ValueError for a name of another form."""
    when, dash, path = name.partition("-")
    parts = path.split("/", 2)
    if not dash or len(parts) != 3 or not all(parts):
        raise ValueError(f"{name!r} is no line of the queue")
    return normal(when), parts[0], parts[1], parts[2]


def gone(row: Row) -> Row:
    """The line that takes a line back where it stands: one that is newer stays."""
    return msgspec.structs.replace(row, deleted=True)
