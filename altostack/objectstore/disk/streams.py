"""Content on its way from and to another storage node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from altostack.objectstore.disk import objects, wire
from altostack.objectstore.disk.links import Broken, Head, Link
from altostack.objectstore.storage import DeviceGone, Metadata, Missing, Update

if TYPE_CHECKING:
    from altostack.objectstore.disk.remote import RemoteNode

_PIECE: Final = 1 << 18  # bytes that are handed on at a time
_HURRY: Final = 1.0  # seconds for what a node said before it closed the connection


class RemoteStored:
    """An object on another node: `storage.Stored`. Small content is here; the node holds a larger one open for a while.

    link: the connection on which it was asked for. The process that holds the object open answers there.
    """

    def __init__(
        self, node: RemoteNode, asked: wire.ReadArguments, told: wire.Told, content: bytes, link: Link | None
    ) -> None:
        self._node, self._asked, self._token = node, asked, told.token
        self._content, self._link = content, link
        self._taken = False
        self.timestamp, self.changed = told.timestamp, told.changed
        self.length, self.frag, self.durable = told.length, told.frag, told.durable
        self.own: Metadata = told.own
        self.posted: Mapping[str, str] | None = told.posted
        self.metadata: Metadata = told.own if told.posted is None else objects.merged(told.own, told.posted)

    def content(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        stop = self.length if stop is None else min(stop, self.length)
        start = min(start, stop)
        if not self._token:
            return iter((self._content[start:stop],))
        if self._taken:
            raise ValueError("the content was taken or closed already")
        self._taken = True
        link, self._link = self._link, None
        asked = wire.ReadArguments(
            self._asked.spot, self.frag, self.timestamp, part=(start, stop), token=self._token
        )
        try:
            link, head = self._node.ask("GET", "/object", wire.packed(asked), link=link)
        except Missing as error:
            raise DeviceGone("the object was replaced") from error
        return RemoteContent(self._node, link, head, stop - start)

    def close(self) -> None:
        self._taken = True
        link, self._link = self._link, None
        if link is not None:
            self._node.done(link)


class RemoteContent:
    """Bytes that are on their way. Raises DeviceGone when they break off."""

    def __init__(self, node: RemoteNode, link: Link, head: Head, length: int) -> None:
        self._node, self._head = node, head
        self._link: Link | None = link
        self._left = length
        if head.length != length:
            self.close()
            raise node.odd()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._link is None or not self._left:
            self.close()
            raise StopIteration
        try:
            part = self._link.read(min(self._left, _PIECE))
        except Broken as broken:
            self.close()
            raise self._node.gone(broken) from broken
        self._left -= len(part)
        if not self._left:
            self.close()
        return part

    def close(self) -> None:
        """Let go of the connection; if something is still to come there, close it."""
        link, self._link = self._link, None
        if link is None:
            return
        if self._left:
            link.close()
        else:
            self._node.done(link, self._head)


class RemoteWriter:
    """An object on its way to another node: `storage.Writer`."""

    def __init__(self, node: RemoteNode, asked: wire.WriteArguments) -> None:
        self._node, self._asked = node, asked
        self._link: Link | None = None
        self._parts: list[bytes] = []
        self._updates: Sequence[Update] = ()  # of a fragment: they go with its commit
        self._ended = False

    def begin(self) -> None:
        """Ask whether the content is welcome. Raises Superseded, Exists, DeviceFull, DeviceGone."""
        head = self._node.head_of(self._asked) + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"

        def exchange(link: Link) -> Head:
            link.send(head)
            return link.head()

        link, answer = self._node.exchange(exchange)
        if answer.status != 100:
            self._node.refused(link, answer)
            link.close()
            raise DeviceGone(f"the node {self._node.host}:{self._node.port} does not wait for the content")
        self._link = link

    def write(self, data: bytes) -> None:
        if not data:
            return
        if self._link is None:
            self._parts.append(bytes(data))
            return
        size = len(data)
        self._send(b"%x\r\n" % (size + 4) + size.to_bytes(4, "big"))
        self._send(data)
        self._send(b"\r\n")

    def _send(self, data: bytes) -> None:
        assert self._link is not None
        try:
            self._link.send(data)
        except Broken as broken:
            # The node answers before the end when it has no room or its device fails.
            self._early(broken)

    def _early(self, broken: Broken) -> None:
        link, self._link = self._link, None
        assert link is not None
        self._ended = True
        try:
            link.patience(_HURRY)
            head = link.head()
        except Broken:
            link.close()
            raise self._node.gone(broken) from broken
        try:
            self._node.refused(link, head)
        finally:
            link.close()
        raise self._node.gone(broken)

    def put(self, metadata: Metadata, updates: Sequence[Update] = ()) -> None:
        if self._ended:
            raise DeviceGone("the write is over already")
        if self._asked.frag is not None:
            self._updates, updates = updates, ()
        last = (0).to_bytes(4, "big") + wire.encode((metadata, updates))
        if self._link is None:
            self._ended = True
            pieces = [len(part).to_bytes(4, "big") + part for part in self._parts]
            body = b"".join((*pieces, last))
            message = self._node.head_of(self._asked) + b"Content-Length: %d\r\n\r\n" % len(body) + body

            def exchange(link: Link) -> Head:
                link.send(message)
                return link.head()

            link, head = self._node.exchange(exchange)
        else:
            self._send(b"%x\r\n" % len(last) + last + b"\r\n0\r\n\r\n")
            self._ended = True
            link, self._link = self._link, None
            try:
                head = link.head()
            except Broken as broken:
                link.close()
                raise self._node.gone(broken) from broken
        self._node.refused(link, head)
        self._node.whole(link, head)

    def commit(self) -> None:
        if self._asked.frag is not None:
            self._node.commit(self._asked.spot, self._asked.timestamp, self._asked.frag, self._updates)

    def abort(self) -> None:
        """The node throws away what it has when the connection ends early."""
        self._ended = True
        self._parts.clear()
        link, self._link = self._link, None
        if link is not None:
            link.close()
