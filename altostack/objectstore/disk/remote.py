"""Another machine's storage node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, overload

import msgspec

from altostack.objectstore.disk import objects, wire
from altostack.objectstore.disk.links import Broken, Head, Late, Link, Links
from altostack.objectstore.storage import (
    Dated,
    DeviceGone,
    Info,
    Metadata,
    Missing,
    Query,
    Row,
    Spot,
    Subdir,
    Update,
)

T = TypeVar("T")

_PATIENCE: Final = 10.0  # seconds that a node may be silent
_HURRY: Final = 1.0  # and while it takes a list's line, which can be kept for later
_SKIPPED: Final = (
    1 << 20
)  # bytes before the wanted ones that are rather read and thrown away than asked for anew


class RemoteNode:
    """`storage.Node` by HTTP: a client of the node at ``host``:``port``.

    Every method raises DeviceGone when the node cannot be reached, is known to be down, does not answer in time or does
    not understand; connections are kept and shared by all threads.
    """

    def __init__(self, host: str, port: int, *, key: bytes) -> None:
        self.host, self.port = host, port
        self._key = key
        self._links = Links(host, port)

    def close(self) -> None:
        """Close idle connections."""
        self._links.close()

    # ---- objects

    def read(self, spot: Spot, *, frag: int | None = None, timestamp: str | None = None) -> RemoteStored:
        asked = wire.ReadArguments(spot, frag, timestamp)
        link, head = self._ask("GET", "/object", wire.packed(asked))
        return self._opened(asked, link, head)

    def _opened(self, asked: wire.ReadArguments, link: Link, head: Head) -> RemoteStored:
        try:
            told: wire.Told = wire.unpacked(head.headers[wire.STORED], wire.Told)
            content = self._whole(link, head) if head.length <= wire.SMALL else None
        except (KeyError, ValueError) as error:
            link.close()
            raise self._odd() from error
        return RemoteStored(self, asked, told, link if content is None else None, head.length, content)

    def write(
        self,
        spot: Spot,
        timestamp: str,
        *,
        size: int | None = None,
        frag: int | None = None,
        absent: bool = False,
    ) -> RemoteWriter:
        """As `storage.Node.write`; content that is known to be small is sent in one message by `put`, which then
        raises what this would have raised."""
        asked = wire.WriteArguments(spot, timestamp, size, frag, absent)
        writer = RemoteWriter(self, asked)
        if size is None or size > wire.SMALL:
            writer.begin()
        return writer

    def update(self, spot: Spot, timestamp: str, metadata: Metadata, updates: Sequence[Update] = ()) -> None:
        self.call("update", spot, timestamp, metadata, updates)

    def delete(self, spot: Spot, timestamp: str, updates: Sequence[Update] = (), *, name: str = "") -> bool:
        return self.call("delete", spot, timestamp, updates, name=name, result=bool)

    def commit(self, spot: Spot, timestamp: str, frag: int) -> None:
        """The second phase of a fragment that was put. Raises DeviceGone."""
        self.call("commit", spot, timestamp, frag)

    # ---- accounts and containers

    def create(
        self,
        spot: Spot,
        account: str,
        container: str | None,
        timestamp: str,
        *,
        policy: int | None = None,
        metadata: Dated | None = None,
        updates: Sequence[Update] = (),
    ) -> bool:
        return self.call(
            "create", spot, account, container, timestamp,
            policy=policy, metadata=metadata, updates=updates, result=bool,
        )  # fmt: skip

    def info(self, spot: Spot, account: str, container: str | None) -> Info:
        return self.call("info", spot, account, container, result=Info)

    def change(
        self, spot: Spot, account: str, container: str | None, timestamp: str, metadata: Dated
    ) -> None:
        self.call("change", spot, account, container, timestamp, metadata)

    def destroy(
        self,
        spot: Spot,
        account: str,
        container: str | None,
        timestamp: str,
        *,
        updates: Sequence[Update] = (),
    ) -> bool:
        return self.call("destroy", spot, account, container, timestamp, updates=updates, result=bool)

    def list(self, spot: Spot, account: str, container: str | None, query: Query) -> Sequence[Row | Subdir]:
        found = self.call("list", spot, account, container, query, result=list[Row | str])
        return [Subdir(one) if isinstance(one, str) else one for one in found]

    def record(self, spot: Spot, account: str, container: str | None, rows: Iterable[Row]) -> None:
        """As `storage.Node.record`, in a hurry: a second, and another for every thousand rows."""
        given = tuple(rows)
        self.call("record", spot, account, container, given, patience=_HURRY + len(given) / 1000)

    # ---- and anything else

    @overload
    def call(self, method: str, *places: Any, result: type[T], patience: float = ..., **names: Any) -> T: ...

    @overload
    def call(self, method: str, *places: Any, patience: float = ..., **names: Any) -> Any: ...

    def call(
        self, method: str, *places: Any, result: Any = Any, patience: float = _PATIENCE, **names: Any
    ) -> Any:
        """Run a method on the node and return what it does, as the type ``result``.

        patience: seconds. Raises what the method raises of StorageError; ValueError when the node does not know the
        method or its arguments; DeviceGone.
        """
        path = f"/call/{method}"
        link, head = self._ask("POST", path, "", wire.call_body(places, names), patience=patience)
        answer = self._whole(link, head)
        try:
            return wire.decode(answer, type=result)
        except msgspec.MsgspecError as error:
            raise self._odd() from error

    # ---- requests

    def _ask(
        self, method: str, path: str, arguments: str, body: bytes = b"", *, patience: float = _PATIENCE
    ) -> tuple[Link, Head]:
        """Send a request and wait for the head of a good answer."""
        signed = body if method == "POST" else b""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Authorization: {wire.signature(self._key, method, path, arguments, signed)}",
        ]
        if arguments:
            lines.append(f"{wire.ARGUMENTS}: {arguments}")
        if method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        message = "\r\n".join((*lines, "", "")).encode() + body

        def exchange(link: Link) -> Head:
            link.send(message)
            return link.head()

        link, head = self.exchange(exchange, patience)
        self.refused(link, head)
        return link, head

    def exchange(self, what: Callable[[Link], Head], patience: float = _PATIENCE) -> tuple[Link, Head]:
        """Do something on a connection; once more on a new one when the one that was kept turns out to be closed."""
        for fresh in (False, True):
            link = self._links.take(fresh=fresh)
            link.patience(patience)
            try:
                return link, what(link)
            except Broken as broken:
                link.close()
                if broken.fresh:
                    raise self.gone(broken, patience) from broken
            except BaseException:
                link.close()
                raise
        raise DeviceGone(f"the node {self.host}:{self.port} closes its connections")

    def refused(self, link: Link, head: Head) -> None:
        """Raises what an answer says that is not good."""
        if head.status == 200:
            return
        content = self._whole(link, head)
        if head.status == wire.FAILED:
            try:
                found = wire.decode(content, type=wire.Problem)
            except msgspec.MsgspecError as error:
                raise self._odd() from error
            raise wire.error(found)
        raise DeviceGone(f"the node {self.host}:{self.port} answers with status {head.status}")

    def _whole(self, link: Link, head: Head) -> bytes:
        try:
            content = link.read_all(head.length)
        except Broken as broken:
            link.close()
            raise self.gone(broken) from broken
        self.done(link, head)
        return content

    def done(self, link: Link, head: Head | None = None) -> None:
        """The answer is read: the connection may be used again."""
        if head is not None and head.headers.get("connection", "").lower() == "close":
            self._links.up()
            link.close()
        else:
            self._links.give(link)

    def gone(self, broken: Broken, patience: float = _PATIENCE) -> DeviceGone:
        """The error for a connection that broke off. Who is in no hurry and waits in vain takes the node for down."""
        if not isinstance(broken, Late) or patience >= _PATIENCE or self._links.doubtful:
            self._links.down()
        return DeviceGone(f"the node {self.host}:{self.port}: {broken}")

    def _odd(self) -> DeviceGone:
        return DeviceGone(f"the answer of the node {self.host}:{self.port} is not understood")

    def head_of(self, asked: wire.WriteArguments) -> bytes:
        """The head of a request that streams content."""
        arguments = wire.packed(asked)
        signature = wire.signature(self._key, "PUT", "/object", arguments, b"")
        return (
            f"PUT /object HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: {signature}\r\n"
            f"{wire.ARGUMENTS}: {arguments}\r\n"
        ).encode()

    def reopen(self, asked: wire.ReadArguments) -> RemoteStored:
        """Read other bytes of what was read before."""
        link, head = self._ask("GET", "/object", wire.packed(asked))
        return self._opened(asked, link, head)


class RemoteStored:
    """An object on another node: `storage.Stored`. Its content waits in the connection, or is here if it is small."""

    def __init__(
        self,
        node: RemoteNode,
        asked: wire.ReadArguments,
        told: wire.Told,
        link: Link | None,
        left: int,
        content: bytes | None,
    ) -> None:
        self._node, self._asked = node, asked
        self._link, self._left, self._content = link, left, content
        self.timestamp, self.changed = told.timestamp, told.changed
        self.length, self.frag, self.durable = told.length, told.frag, told.durable
        self.own: Metadata = told.own
        self.posted: Mapping[str, str] | None = told.posted
        self.metadata: Metadata = told.own if told.posted is None else objects.merged(told.own, told.posted)

    def content(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        stop = self.length if stop is None else min(stop, self.length)
        start = min(start, stop)
        if self._content is not None:
            return iter((self._content[start:stop],))
        if self._link is None:
            raise ValueError("the content was taken or closed already")
        if start > _SKIPPED or self.length - stop > _SKIPPED:
            pinned = wire.ReadArguments(self._asked.spot, self.frag, self.timestamp, start, stop)
            try:
                other = self._node.reopen(pinned)
            except Missing:
                pass  # replaced since: what is on its way still is the one that was read
            else:
                self.close()
                return other.stream(0, stop - start)
        return self.stream(start, stop)

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop`` of what is on its way."""
        if self._content is not None:
            return iter((self._content[start:stop],))
        return self._stream(start, stop)

    def _stream(self, start: int, stop: int) -> Iterator[bytes]:
        at = 0
        try:
            while at < stop:
                if self._link is None:
                    raise DeviceGone("the content was closed")
                part = self._link.read(min(self._left, 1 << 18))
                self._left -= len(part)
                at += len(part)
                wanted = part[max(0, len(part) - (at - start)) : len(part) - max(0, at - stop)]
                if wanted:
                    yield wanted
        except Broken as broken:
            raise self._node.gone(broken) from broken
        finally:
            self.close()

    def close(self) -> None:
        """Let go of it. A connection on which much is still to come is closed."""
        link, self._link = self._link, None
        if link is None:
            return
        if self._left:
            link.close()
        else:
            self._node.done(link)


class RemoteWriter:
    """An object on its way to another node: `storage.Writer`."""

    def __init__(self, node: RemoteNode, asked: wire.WriteArguments) -> None:
        self._node, self._asked = node, asked
        self._link: Link | None = None
        self._parts: list[bytes] = []
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
        self._node._whole(link, head)

    def commit(self) -> None:
        if self._asked.frag is not None:
            self._node.commit(self._asked.spot, self._asked.timestamp, self._asked.frag)

    def abort(self) -> None:
        """The node throws away what it has when the connection ends early."""
        self._ended = True
        self._parts.clear()
        link, self._link = self._link, None
        if link is not None:
            link.close()
