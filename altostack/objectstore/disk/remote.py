"""Another machine's storage node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar, overload

from altostack.objectstore.disk import wire
from altostack.objectstore.disk.links import Broken, Head, Late, Link, Links
from altostack.objectstore.disk.streams import RemoteStored, RemoteWriter
from altostack.objectstore.storage import (
    Dated,
    DeviceGone,
    Info,
    Metadata,
    Query,
    Row,
    Spot,
    Subdir,
    Update,
)

T = TypeVar("T")

_PATIENCE: Final = 10.0  # seconds that a node may be silent
_HURRY: Final = 1.0  # and while it takes a list's line, which can be kept for later


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
        link, head = self.ask("GET", "/object", wire.packed(asked))
        try:
            told: wire.Told = wire.unpacked(head.headers[wire.STORED], wire.Told)
        except (KeyError, ValueError) as error:
            link.close()
            raise self.odd() from error
        if told.token:
            return RemoteStored(self, asked, told, b"", link)
        return RemoteStored(self, asked, told, self.whole(link, head), None)

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

    def commit(self, spot: Spot, timestamp: str, frag: int, updates: Sequence[Update] = ()) -> None:
        """The second phase of a fragment that was put. Raises DeviceGone."""
        self.call("commit", spot, timestamp, frag, updates)

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
        link, head = self.ask("POST", path, "", wire.call_body(places, names), patience=patience)
        answer = self.whole(link, head)
        try:
            return wire.decode(answer, type=result)
        except ValueError as error:
            raise self.odd() from error

    # ---- requests

    def ask(
        self,
        method: str,
        path: str,
        arguments: str,
        body: bytes = b"",
        *,
        patience: float = _PATIENCE,
        link: Link | None = None,
    ) -> tuple[Link, Head]:
        """Send a request, on ``link`` if that still works, and wait for the head of a good answer."""
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

        link, head = self.exchange(exchange, patience, link)
        self.refused(link, head)
        return link, head

    def exchange(
        self, what: Callable[[Link], Head], patience: float = _PATIENCE, link: Link | None = None
    ) -> tuple[Link, Head]:
        """Do something on a connection; once more on a new one when the one that was kept turns out to be closed."""
        for fresh in (False, True):
            if link is None or fresh:
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
        content = self.whole(link, head)
        if head.status == wire.FAILED:
            try:
                found = wire.decode(content, type=wire.Problem)
            except ValueError as error:
                raise self.odd() from error
            raise wire.error(found)
        raise DeviceGone(f"the node {self.host}:{self.port} answers with status {head.status}")

    def whole(self, link: Link, head: Head) -> bytes:
        """The answer's body."""
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
        """The error for a connection that broke off.

        Who is in no hurry and waits in vain takes the node for down; of one that only ends a connection, the next
        connection will tell.
        """
        if self._links.doubtful or (isinstance(broken, Late) and patience >= _PATIENCE):
            self._links.down()
        return DeviceGone(f"the node {self.host}:{self.port}: {broken}")

    def odd(self) -> DeviceGone:
        """The error for an answer that makes no sense."""
        return DeviceGone(f"the answer of the node {self.host}:{self.port} is not understood")

    def head_of(self, asked: wire.WriteArguments) -> bytes:
        """The head of a request that streams content."""
        arguments = wire.packed(asked)
        signature = wire.signature(self._key, "PUT", "/object", arguments, b"")
        return (
            f"PUT /object HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: {signature}\r\n"
            f"{wire.ARGUMENTS}: {arguments}\r\n"
        ).encode()
