"""One connection to libvirt: opened when needed, opened again when lost, its events passed on."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import libvirt  # type: ignore[import-untyped]  # the binding ships no types

from altostack.compute.drivers.base import (
    DriverError,
    EventCallback,
    GuestEvent,
    GuestNotFound,
    HypervisorError,
    HypervisorUnavailable,
    OperationTimeout,
)
from altostack.compute.drivers.libvirtd import LibvirtHost

log = logging.getLogger(__name__)

# libvirt's lifecycle events (virDomainEventType) that tell of a change of power.
_LIFECYCLE = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: GuestEvent.STARTED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: GuestEvent.PAUSED,
    libvirt.VIR_DOMAIN_EVENT_RESUMED: GuestEvent.RESUMED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: GuestEvent.STOPPED,
    libvirt.VIR_DOMAIN_EVENT_CRASHED: GuestEvent.CRASHED,
}

_UNREACHABLE = (
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
)
_LOOP = threading.Lock()
_TIMEOUTS = (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_AGENT_UNRESPONSIVE)


class Link:
    """A connection shared by threads. ``moved`` is notified at every event, for those who wait on a guest."""

    def __init__(self, host: LibvirtHost) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._connection: Any = None
        self._callbacks: list[EventCallback] = []
        self._closed = False
        self.moved = threading.Condition()

    def connection(self) -> Any:
        """The open libvirt connection. Raises HypervisorUnavailable."""
        with self._lock:
            if self._closed:
                raise HypervisorUnavailable("this driver is closed")
            if self._answers():
                return self._connection
            lost = self._connection is not None
            self._connection = None
            with _LOOP:
                _event_loop(os.getpid())
            self._connection = self._reach()
            connection = self._connection
        if lost:
            self._tell(None, GuestEvent.RESYNC)
        return connection

    def listen(self, callback: EventCallback) -> Callable[[], None]:
        """Events come while connected, that is from the first verb on."""
        self._callbacks.append(callback)

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Until ``done()``, asked at every event and five times a second; False when the time is over."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if (left := deadline - time.monotonic()) <= 0:
                return False
            with self.moved:
                self.moved.wait(min(0.2, left))
        return True

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.unregisterCloseCallback()
                connection.close()
            except libvirt.libvirtError:
                return  # it was lost already, which is what closing wants

    @contextmanager
    def speaking(self, guest_id: str | None = None) -> Iterator[None]:
        """Turns libvirt's errors into ours."""
        try:
            yield
        except libvirt.libvirtError as error:
            raise self._translated(error, guest_id) from error

    def _translated(self, error: Any, guest_id: str | None) -> DriverError:
        code, words = error.get_error_code(), str(error.get_error_message() or error)
        about = f"guest {guest_id}: {words}" if guest_id else words
        if code == libvirt.VIR_ERR_NO_DOMAIN:
            return GuestNotFound(f"this node has no guest {guest_id}" if guest_id else words)
        if code in _UNREACHABLE or error.get_error_domain() == libvirt.VIR_FROM_RPC or not self._alive():
            return HypervisorUnavailable(f"libvirt at {self._host.uri} was lost: {words}")
        if code in _TIMEOUTS:
            return OperationTimeout(about)
        return HypervisorError(about)

    def _alive(self) -> bool:
        try:
            return self._connection is not None and bool(self._connection.isAlive())
        except libvirt.libvirtError:
            return False

    def _answers(self) -> bool:
        """A connection just lost looks alive until it is used."""
        try:
            return self._alive() and self._connection.getLibVersion() > 0
        except libvirt.libvirtError:
            return False

    def _reach(self) -> Any:
        """Connect, a few times: a daemon that is being killed still looks alive for a moment."""
        for attempt in range(1, 6):
            self._host.start()
            try:
                return self._open()
            except libvirt.libvirtError as error:
                if attempt == 5:
                    raise HypervisorUnavailable(
                        f"libvirt at {self._host.uri} does not answer: {error}"
                    ) from error
                time.sleep(0.1)

    def _open(self) -> Any:
        connection = libvirt.open(self._host.uri)
        # A daemon that hangs is given up after a minute or so, and its verbs end with an error.
        connection.setKeepAlive(10, 6)
        connection.registerCloseCallback(self._on_close, None)
        connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None
        )
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._on_reboot, None)
        for kind in (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2):
            connection.domainEventRegisterAny(None, kind, self._on_device, None)
        _settle(connection)
        return connection

    # The four below run in the event thread and must not call libvirt.

    def _on_lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED:
            self._tell(domain.UUIDString(), GuestEvent.SUSPENDED)
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED and detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED:
            self._tell(domain.UUIDString(), GuestEvent.CRASHED)
        elif event in _LIFECYCLE:
            self._tell(domain.UUIDString(), _LIFECYCLE[event])

    def _on_reboot(self, _connection: Any, domain: Any, _opaque: Any) -> None:
        self._tell(domain.UUIDString(), GuestEvent.REBOOTED)

    def _on_device(self, *_facts: Any) -> None:
        with self.moved:
            self.moved.notify_all()

    def _on_close(self, _connection: Any, _reason: int, _opaque: Any) -> None:
        self._tell(None, GuestEvent.RESYNC)

    def _tell(self, guest_id: str | None, event: GuestEvent) -> None:
        with self.moved:
            self.moved.notify_all()
        for callback in tuple(self._callbacks):
            callback(guest_id, event)


def _settle(connection: Any) -> None:
    """Wait until a daemon that just started has looked after each running guest.

    It answers before that, from what its predecessor wrote down. This question waits for its turn with the guest.
    """
    for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        try:
            domain.memoryStats()
        except libvirt.libvirtError as error:
            log.info("guest %s does not answer: %s", domain.UUIDString(), error)


@functools.lru_cache(maxsize=1)
def _event_loop(pid: int) -> None:
    """Run libvirt's event loop, of which a process has one by libvirt's own making (hence the cache, by process)."""
    libvirt.virEventRegisterDefaultImpl()
    libvirt.registerErrorHandler(lambda *_: None, None)  # each error is raised as well; no echo on stderr

    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=turn, name=f"libvirt-events-{pid}", daemon=True).start()
