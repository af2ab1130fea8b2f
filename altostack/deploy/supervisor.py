"""The parent of a cloud's processes: forks them, restarts them, ends them.

It imports everything, freezes its memory and forks, so that the processes share what they have in common. It has
no threads (it forks) and holds nothing that matters: killed at any moment, its children are killed by the kernel
and the next supervisor starts afresh. It carries the local bus's hub and the listening sockets, so a process that
is replaced at once loses no connection that waits.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from altostack.deploy import progress
from altostack.deploy.role import Composition, Role, RoleContext
from altostack.deploy.state import Lock, State
from altostack.kit import log, proc
from altostack.kit.bus.hub import LocalHub
from altostack.kit.secret import Secret

LOG = logging.getLogger(__name__)

BACK_OFF: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds before a dead process is started again, by how often it has just died; the last one repeats."""
STEADY_SECONDS: Final = 10.0
"""A process that lived this long is forgiven its earlier deaths."""
MOST_FALSE_STARTS: Final = 3
"""Deaths before it was ever ready after which `up` is told that it failed."""
GRACE_SECONDS: Final = 10.0
"""What processes have to end in after SIGTERM; then they are killed."""
SWITCH_SECONDS: Final = 0.001
"""How long a thread may hold the interpreter while another wants it: one that holds a database's write lock comes
back from the database and must not wait for long."""


class _Slot:
    """One process's place: what shall run there and what does."""

    def __init__(self, role: Role, index: int) -> None:
        self.role = role
        self.index = index
        self.name = role.name if role.count == 1 else f"{role.name}-{index}"
        self.pid = 0
        self.started = 0
        self.since = 0.0
        self.ready = False
        self.ever_ready = False
        self.deaths = 0
        self.restarts = 0
        self.due: float | None = 0.0  # monotonic time of the next start; None while it runs
        self.listeners: dict[str, socket.socket] = {}

    def bind(self) -> None:
        """Listen where the role does, if it does not yet. Raises OSError."""
        for name, (host, port) in self.role.listen.items():
            if name not in self.listeners:
                self.listeners[name] = bind(host, port, shared=self.role.count > 1)

    def unbind(self) -> None:
        for listener in self.listeners.values():
            listener.close()
        self.listeners.clear()

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "role": self.role.name,
            "pid": self.pid,
            "started": self.started,
            "since": self.since,
            "ready": self.ready,
            "restarts": self.restarts,
        }


class Supervisor:
    """Runs a composition's roles until SIGTERM or SIGINT.

    secrets: values that the logs mask. level: the logs' level.
    """

    def __init__(
        self, state: State, composition: Composition, *, secrets: tuple[Secret, ...] = (), level: str = "info"
    ) -> None:
        self._state = state
        self._composition = composition
        self._secrets = secrets
        self._level = level
        self._slots = [
            _Slot(role, n) for role in composition.roles.values() for n in range(1, role.count + 1)
        ]
        self._selector = selectors.DefaultSelector()
        self._hub: LocalHub | None = None
        self._signals: tuple[int, int] = (-1, -1)
        self._stopping = False
        self._announced = False
        self._failed = False

    def run(self) -> int:
        """Supervise; the exit code when all is over. Progress goes to `altostack.deploy.progress`.

        Call it in a process without other threads.
        """
        lock = Lock(self._state.run / "supervisor.lock")
        if not lock.take():
            progress.fail(self._state, f"another supervisor ({lock.holder()}) runs this cloud")
            return 1
        logging_to = log.setup("supervisor", self._state.log, level=self._level, secrets=self._secrets)
        try:
            progress.say(self._state, f"supervisor {os.getpid()}", phase="preparing")
            return self._run()
        except Exception as error:
            LOG.exception("the supervisor failed")
            progress.fail(self._state, f"the supervisor failed: {error}")
            return 1
        finally:
            self._end()
            logging_to.close()
            lock.release()

    def _run(self) -> int:
        end_leftovers(self._state)
        try:
            self._bind()
        except OSError as error:
            progress.fail(self._state, str(error))
            return 1
        self._catch_signals()
        self._hub = LocalHub(self._state.run / "bus")
        self._selector.register(self._hub.fileno(), selectors.EVENT_READ, self._hub_ready)
        gc.collect()
        proc.spare_memory()
        gc.freeze()
        if not self._prepare():
            return 1 if self._failed else 0
        progress.say(
            self._state, "starting " + ", ".join(slot.name for slot in self._slots), phase="starting"
        )
        while not self._stopping:
            self._start_due()
            self._wait(self._next_due())
        return 1 if self._failed else 0

    # ---- beginning

    def _bind(self) -> None:
        for role in self._composition.roles.values():
            for host, port in role.listen.values():
                bind(host, port).close()  # another cloud's processes are not to be joined
        for slot in self._slots:
            slot.bind()

    def _catch_signals(self) -> None:
        read, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._signals = (read, write_end)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._selector.register(read, selectors.EVENT_READ, self._signalled)

    def _prepare(self) -> bool:
        """Run the composition's preparation in a process of its own, whose memory goes with it."""

        def work() -> int:
            self._composition.prepare(lambda line: progress.say(self._state, line))
            return 0

        pid = self._fork("prepare", work)
        status: int | None = None
        while status is None:
            self._wait(None)
            if self._stopping:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            done, code = os.waitpid(pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if done else None
        if self._stopping:
            return False
        if status != 0:
            self._fail(f"preparing failed; see {self._state.log / 'prepare.log'}")
            return False
        return True

    # ---- the loop

    def _wait(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            key.data()

    def _hub_ready(self) -> None:
        assert self._hub is not None
        try:
            self._hub.step()
        except Exception:
            LOG.exception("the bus's hub failed; its clients will look again by themselves")

    def _signalled(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._signals[0], 4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    LOG.info("ending by signal %s", signal.Signals(number).name)
                    self._stopping = True
        self._reap()

    def _reap(self) -> None:
        for slot in self._slots:
            if not slot.pid:
                continue
            pid, status = os.waitpid(slot.pid, os.WNOHANG)
            if pid:
                self._ended(slot, os.waitstatus_to_exitcode(status))

    def _ended(self, slot: _Slot, code: int) -> None:
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        lived = time.time() - slot.since
        if not self._stopping:
            LOG.warning("%s (pid %s) ended %s after %.1f s", slot.name, slot.pid, how, lived)
        slot.deaths = 0 if lived > STEADY_SECONDS else slot.deaths
        wait = BACK_OFF[min(slot.deaths, len(BACK_OFF) - 1)]
        slot.pid = slot.started = 0
        slot.ready = False
        slot.deaths += 1
        slot.restarts += 1
        slot.due = time.monotonic() + wait
        if wait and any(other.pid for other in self._siblings(slot)):
            slot.unbind()  # who comes meanwhile is for the others
        self._record()
        if not slot.ever_ready and slot.deaths >= MOST_FALSE_STARTS and not self._announced:
            self._fail(f"{slot.name} does not start; see {self._state.log / (slot.name + '.log')}")

    def _next_due(self) -> float | None:
        times = [slot.due for slot in self._slots if slot.due is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.due is not None and slot.due <= now:
                self._start(slot)

    def _siblings(self, slot: _Slot) -> list[_Slot]:
        return [other for other in self._slots if other.role is slot.role and other is not slot]

    def _start(self, slot: _Slot) -> None:
        for other in self._siblings(slot):
            if not slot.listeners and not other.pid:  # it kept them because it was the role's last
                slot.listeners, other.listeners = other.listeners, {}
        try:
            slot.bind()
        except OSError as error:
            LOG.warning("%s cannot start yet: %s", slot.name, error)
            slot.due = time.monotonic() + BACK_OFF[-1]
            return
        read, write_end = os.pipe2(os.O_CLOEXEC)

        def work() -> int:
            os.close(read)
            return self._work(slot, write_end)

        slot.pid = self._fork(slot.name, work)
        os.close(write_end)
        slot.started = proc.start_time(slot.pid)
        slot.since = time.time()
        slot.due = None
        self._selector.register(read, selectors.EVENT_READ, lambda: self._heard(slot, read))
        self._record()

    def _heard(self, slot: _Slot, read: int) -> None:
        """A process said that it is ready, or ended."""
        said = os.read(read, 16)
        self._selector.unregister(read)
        os.close(read)
        if said:
            slot.ready = slot.ever_ready = True
            self._record()
            if not self._announced and all(each.ready for each in self._slots):
                self._announced = True
                progress.say(self._state, "all processes are ready", phase="ready")

    def _fail(self, reason: str) -> None:
        LOG.error("%s", reason)
        self._failed = self._stopping = True
        progress.fail(self._state, reason)

    def _record(self) -> None:
        own = os.getpid()
        table = {
            "boot": proc.boot_id(),
            "supervisor": {"pid": own, "started": proc.start_time(own)},
            "processes": [slot.describe() for slot in self._slots if slot.pid],
        }
        # Not synced to disk: after a power cut none of these processes lives.
        path = processes_file(self._state)
        scratch = path.with_suffix(".new")
        try:
            scratch.write_text(json.dumps(table, indent=1))
            scratch.replace(path)
        except OSError as error:
            LOG.warning("cannot write %s: %s", path, error)

    # ---- ending

    def _end(self) -> None:
        self._stopping = True
        for slot in self._slots:
            if slot.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(slot.pid, signal.SIGTERM)
        end = time.monotonic() + GRACE_SECONDS
        while any(slot.pid for slot in self._slots) and (left := end - time.monotonic()) > 0:
            self._wait(min(left, 0.5))
            self._reap()
        for slot in self._slots:
            if slot.pid:
                LOG.warning("%s does not end and is killed", slot.name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(slot.pid, signal.SIGKILL)
                os.waitpid(slot.pid, 0)
                slot.pid = 0
        if self._hub is not None:
            self._hub.close()
        for slot in self._slots:
            slot.unbind()
        processes_file(self._state).unlink(missing_ok=True)

    # ---- in the child

    def _fork(self, name: str, work: Callable[[], int]) -> int:
        """Run `work` in a child that dies with us and exits with its result; returns the pid."""
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become(name, parent, work)
        return pid

    def _become(self, name: str, parent: int, work: Callable[[], int]) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            proc.die_with_parent(parent)
            proc.set_name(f"alto-{name}")
            sys.setswitchinterval(SWITCH_SECONDS)
            self._selector.close()
            if self._hub is not None:
                self._hub.forget()
            for descriptor in self._signals:
                os.close(descriptor)
            logging.getLogger().handlers.clear()
            log.setup(name, self._state.log, level=self._level, secrets=self._secrets)
            code = work()
        except BaseException:
            LOG.critical("%s failed", name, exc_info=True)
        finally:
            with contextlib.suppress(Exception):
                logging.shutdown()
            os._exit(code)

    def _work(self, slot: _Slot, ready: int) -> int:
        for other in self._slots:
            if other is not slot:
                other.unbind()
        with stop_on_signals() as stop:
            context = RoleContext(
                process=slot.name,
                index=slot.index,
                state=self._state,
                stop=stop,
                listeners=slot.listeners,
                ready=lambda: _say_ready(ready),
            )
            LOG.info("started")
            slot.role.run(context)
            if not stop.is_set():
                LOG.error("it came to an end without being told to")
                return 1
            LOG.info("ended")
            return 0


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set.

    A handler may not touch an Event that the main thread waits on (it could hold the event's lock), so the
    signals go through a pipe to a thread.
    """
    stop = threading.Event()
    read, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_end, False)

    def watch() -> None:
        while not {signal.SIGTERM, signal.SIGINT}.intersection(data := os.read(read, 64)):
            if not data:
                return
        stop.set()

    threading.Thread(target=watch, name="signals", daemon=True).start()
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(write_end)


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening TCP socket.

    shared: others of this user may listen at the same address, and the kernel deals out connections evenly among them
    (socket(7), SO_REUSEPORT); waiting at one socket together, the process that wakes first takes all that come at once.

    Raises:
        OSError: it cannot be bound; the message names the address and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        hint = "; choose another port with --port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}{hint}") from None
    return listener


def processes_file(state: State) -> Path:
    """Where a supervisor writes which processes it runs."""
    return state.run / "processes.json"


def end_leftovers(state: State) -> int:
    """Kill what an earlier supervisor that was killed may have left; how many there were.

    A pid counts only together with its start time: it may belong to somebody else by now.
    """
    left = [each for each in recorded(state) if proc.alive(each["pid"], each["started"])]
    for each in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each["pid"], signal.SIGKILL)
    end = time.monotonic() + 5
    while any(proc.alive(each["pid"], each["started"]) for each in left):
        if time.monotonic() > end:
            raise OSError(errno.EBUSY, "processes of an earlier run do not die")
        time.sleep(0.01)
    processes_file(state).unlink(missing_ok=True)
    return len(left)


def recorded(state: State) -> list[dict[str, Any]]:
    """What the supervisor last wrote about each process (see `_Slot.describe`); none from before a reboot."""
    try:
        table = json.loads(processes_file(state).read_text())
    except (FileNotFoundError, ValueError):
        return []
    return list(table["processes"]) if table.get("boot") == proc.boot_id() else []


def _say_ready(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # said before, or the supervisor is gone
        os.write(descriptor, b"ready")
        os.close(descriptor)
