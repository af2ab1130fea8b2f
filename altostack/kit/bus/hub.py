"""The hub: the one process of a machine through which its local bus goes. It stores nothing."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import threading
from pathlib import Path
from typing import Final

from altostack.kit.bus.wire import Answer, Bell, Call, Event, Frame, Interest, Pipe, WireError, address, pack

LOG = logging.getLogger(__name__)

MOST_BEHIND: Final = 8 * 1024 * 1024
"""Bytes a client may be behind. Then it is disconnected: it reconnects and looks at everything."""


class _Client(Pipe):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.topics: set[str] = set()
        self.served: set[str] = set()
        self.events = False
        self.calls: set[int] = set()  # the hub's ids of calls this client has to answer


class LocalHub:
    """Passes frames between the clients of a Unix socket (mode 0600).

    Without threads of its own: call `step()` from a loop that also watches other things (the supervisor
    forks, so it may have no threads), or `start()` to run it in a thread.

    Raises:
        OSError: the socket cannot be made, or a living hub already answers at `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        self._calls: dict[int, tuple[_Client, int]] = {}
        self._next_call = 0
        self._turn = 0
        self._thread: threading.Thread | None = None
        self._closing = False
        self._listener = _listen(path)
        self._inode = path.stat().st_ino
        self._selector.register(self._listener, selectors.EVENT_READ)

    def fileno(self) -> int:
        """A descriptor that is readable whenever `step()` has work (an epoll inside another poll)."""
        assert isinstance(self._selector, selectors.EpollSelector)
        return self._selector.fileno()

    def start(self) -> None:
        """Run in a thread until `close()`."""
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self._thread.start()

    def step(self, timeout: float | None = 0.0) -> None:
        """Wait at most `timeout` seconds for something to do, and do it."""
        for key, events in self._selector.select(timeout):
            client = key.data
            if client is None:
                self._accept()
                continue
            try:
                if events & selectors.EVENT_READ:
                    for frame in client.receive():
                        self._handle(client, frame)
                if events & selectors.EVENT_WRITE and client in self._clients:
                    client.flush()
                    self._watch(client)
            except WireError as error:
                self._drop(client, str(error))

    def forget(self) -> None:
        """Close this process's copies of the sockets, in a forked child. The parent's hub goes on."""
        self._selector.close()
        self._listener.close()
        for client in self._clients:
            client.sock.close()
        self._clients.clear()

    def close(self) -> None:
        """Hang up on everybody and remove the socket, unless another hub has taken its place."""
        self._closing = True
        if self._thread is not None:
            self._thread.join(2.0)
        for client in list(self._clients):
            self._drop(client, "the hub ends")
        self._selector.close()
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def _run(self) -> None:
        while not self._closing:
            self.step(0.1)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            LOG.warning("the hub cannot accept: %s", error)
            return
        client = _Client(sock)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _handle(self, client: _Client, frame: Frame) -> None:
        match frame:
            case Bell(topic=topic):
                packed = pack(frame)
                for other in list(self._clients):
                    if topic in other.topics:
                        self._send(other, packed)
            case Event():
                packed = pack(frame)
                for other in list(self._clients):
                    if other.events:
                        self._send(other, packed)
            case Interest(topics=topics, served=served, events=events):
                client.topics, client.served, client.events = set(topics), set(served), events
                self._send(client, pack(frame))
            case Call():
                self._pass_on(client, frame)
            case Answer(id=number, state=state, result=result, message=message):
                client.calls.discard(number)
                asker, asked = self._calls.pop(number, (None, 0))
                if asker is not None and asker in self._clients:
                    self._send(asker, pack(Answer(asked, state, result, message)))

    def _pass_on(self, asker: _Client, call: Call) -> None:
        servers = [client for client in self._clients if call.topic in client.served]
        if not servers:
            self._send(asker, pack(Answer(call.id, "absent", None, f"nobody serves {call.topic!r}")))
            return
        self._turn += 1
        server = servers[self._turn % len(servers)]
        self._next_call += 1
        self._calls[self._next_call] = (asker, call.id)
        server.calls.add(self._next_call)
        self._send(server, pack(Call(self._next_call, call.topic, call.method, call.args)))

    def _send(self, client: _Client, packed: bytes) -> None:
        client.outgoing += packed
        if len(client.outgoing) > MOST_BEHIND + len(packed):
            self._drop(client, "it reads too slowly")
            return
        try:
            client.flush()
            self._watch(client)
        except WireError as error:
            self._drop(client, str(error))

    def _watch(self, client: _Client) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.outgoing else 0)
        if self._selector.get_key(client.sock).events != events:
            self._selector.modify(client.sock, events, client)

    def _drop(self, client: _Client, reason: str) -> None:
        if client not in self._clients:
            return
        self._clients.discard(client)
        self._selector.unregister(client.sock)
        client.close()
        LOG.debug("a client left the bus: %s", reason)
        for number in client.calls:
            asker, asked = self._calls.pop(number, (None, 0))
            if asker is not None and asker in self._clients:
                self._send(asker, pack(Answer(asked, "absent", None, "the server left before it answered")))
        for number in [number for number, (asker, _) in self._calls.items() if asker is client]:
            del self._calls[number]


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`, taking over one that a killed hub left behind."""
    probe = socket.socket(socket.AF_UNIX)
    try:
        with address(path) as name:
            probe.connect(name)
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    else:
        raise OSError(errno.EADDRINUSE, "another hub answers there", str(path))
    finally:
        probe.close()
    # Bound under another name with the right mode, then renamed: no moment in which others may connect.
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        with address(scratch) as name:
            listener.bind(name)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(128)
    listener.setblocking(False)
    scratch.rename(path)
    return listener
