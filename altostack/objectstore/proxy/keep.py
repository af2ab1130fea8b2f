"""How the objects of a storage policy are kept: what `copies` (whole copies) and `fragments` (erasure coding) offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from altostack.objectstore.http import Body, ClientGone, Content, Refusal
from altostack.objectstore.proxy.hashing import Sum
from altostack.objectstore.proxy.spread import Site
from altostack.objectstore.storage import Update


class Found(Protocol):
    """An object that was found, held open until its content is taken or it is closed.

    metadata: of the whole object: "content-length" and "etag" are of what was uploaded. timestamp: of the data;
    changed: of the newest change.
    """

    metadata: dict[str, str]
    timestamp: str
    changed: str

    def content(self, start: int, stop: int) -> Content:
        """The bytes from ``start`` up to ``stop``. Takes over what is open; may be called once."""
        ...

    def again(self, start: int, stop: int) -> Content:
        """More of the same version after `content`. Raises DeviceGone, Missing."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Upload:
    """An object that comes in. Has to be closed.

    metadata: without "etag" and "content-length", which are known when all has been read. most: bytes that it may have
    at most. etag: what the client says it is. absent: only if nothing is there. footers: see `backend.FOOTERS`.
    updates: makes what each copy is to tell the container of the finished metadata. stored_etag: set when it is done.
    """

    body: Body
    timestamp: str
    metadata: dict[str, str]
    most: int
    etag: str | None
    absent: bool
    footers: Callable[[dict[str, str]], None] | None
    updates: Callable[[dict[str, str]], list[list[Update]]]
    stored_etag: str = ""
    content: bytes | None = None  # of a body that was read already
    _sum: Sum = field(default_factory=Sum)
    _size: int = 0

    @property
    def spent(self) -> bool:
        """Whether the body cannot be written a second time."""
        return self._size > 0 and self.content is None

    def read(self, size: int) -> bytes:
        """The next bytes; less than ``size`` at the end alone. Raises ClientGone, Refusal(413)."""
        part = self.body.read(size)
        if part:
            self._sum.update(part)
            self._size += len(part)
            if self._size > self.most:
                raise Refusal(413, "Your request is too large.")
        return part

    def finish(self) -> dict[str, str]:
        """The finished metadata, when all has been read.

        Raises Refusal(422) for a body that has another sum than was said, ClientGone for one of another length.
        """
        if self.body.length is not None and self.body.length != self._size:
            raise ClientGone(f"{self._size} bytes came of {self.body.length}")
        told = self._sum.hexdigest()
        if self.etag is not None and self.etag != told:
            raise Refusal(422)
        self.metadata["etag"] = told
        self.metadata["content-length"] = str(self._size)
        if self.footers is not None:
            self.footers(self.metadata)
        self.stored_etag = self.metadata["etag"]
        return self.metadata

    def close(self) -> None:
        """Done, or given up."""
        self._sum.close()


class Keep(Protocol):
    """Reads and writes objects of one policy."""

    def find(self, site: Site, *, newest: bool = False) -> Found:
        """Raises Missing (with the tombstone's time), Refusal(503). newest: ask all, not the first that has one."""
        ...

    def put(self, site: Site, upload: Upload) -> None:
        """Raises Exists, Superseded, Refusal, ClientGone."""
        ...

    def post(
        self, site: Site, timestamp: str, metadata: dict[str, str], updates: Sequence[Sequence[Update]]
    ) -> None:
        """Replace metadata. Raises Missing, Superseded, Refusal(503)."""
        ...

    def delete(self, site: Site, timestamp: str, updates: Sequence[Sequence[Update]], name: str) -> bool:
        """Whether it was there. Raises Superseded, Refusal(503)."""
        ...
