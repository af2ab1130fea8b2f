"""Supervisors with small roles, killed in every way."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from altostack.deploy import progress
from altostack.deploy.role import Progress, Role, RoleContext
from altostack.deploy.state import State
from altostack.deploy.supervisor import Supervisor, bind, recorded
from altostack.kit import proc
from altostack.kit.bus import BusTimeout, open_bus


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A composition of whatever a test needs."""

    roles: Mapping[str, Role]
    prepare_work: Callable[[Progress], None] = lambda say: say("prepared")
    endpoints: Mapping[str, str] = field(default_factory=dict)

    def prepare(self, progress: Progress) -> None:
        self.prepare_work(progress)

    def after_start(self, progress: Progress) -> None:
        """Nothing."""

    def teardown(self) -> None:
        """Nothing."""


def idle(context: RoleContext) -> None:
    context.ready()
    context.stop.wait()


def answering(context: RoleContext) -> None:
    bus = open_bus(context.state.bus_url)
    bus.serve(context.process, {"pid": lambda _: os.getpid()})
    context.ready()
    context.stop.wait()
    bus.close()


def roles(*all: Role) -> Parts:
    return Parts(roles={role.name: role for role in all})


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(root=tmp_path / "cloud")
    state.create()
    yield state
    if pid := progress.supervisor(state):
        os.kill(pid, signal.SIGKILL)
        settle(lambda: not progress.supervisor(state))
    settle(lambda: not [each for each in recorded(state) if proc.alive(each["pid"], each["started"])])


def settle(check: Callable[[], Any], timeout: float = 10.0) -> Any:
    end = time.monotonic() + timeout
    while not (result := check()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return result


def start(state: State, parts: Parts, lines: list[str] | None = None) -> int:
    """Detach a supervisor and wait until it is ready; its pid."""
    progress.begin(state)
    progress.detach(state.log / "supervisor.out", lambda: Supervisor(state, parts).run())
    progress.follow(state, (lines if lines is not None else []).append)
    return progress.supervisor(state)


def sleeper() -> int:
    """The pid of a child that does nothing for a while."""
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    return pid


def processes(state: State) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in recorded(state)}


def end(state: State, pid: int, number: int = signal.SIGTERM) -> float:
    before = time.monotonic()
    os.kill(pid, number)
    settle(lambda: not progress.supervisor(state), timeout=15)
    return time.monotonic() - before


def test_a_life(state: State) -> None:
    lines: list[str] = []
    pid = start(state, roles(Role(name="api", run=idle, count=2), Role(name="work", run=idle)), lines)
    assert lines[0] == f"supervisor {pid}"
    assert lines[1:] == ["prepared", "starting api-1, api-2, work", "all processes are ready"]
    table = processes(state)
    assert set(table) == {"api-1", "api-2", "work"}
    assert all(each["ready"] and proc.alive(each["pid"], each["started"]) for each in table.values())
    assert os.getpgid(pid) != os.getpgid(0)
    assert Path(f"/proc/{table['work']['pid']}/comm").read_text().strip() == "alto-work"
    assert end(state, pid) < 3
    assert not any(proc.alive(each["pid"], each["started"]) for each in table.values())
    assert not (state.run / "processes.json").exists()
    assert not (state.run / "bus").exists()
    assert '"message": "ended"' in (state.log / "work.log").read_text()


def test_a_dead_process_is_restarted_at_once_and_the_bus_goes_on(state: State) -> None:
    start(state, roles(Role(name="node", run=answering), Role(name="work", run=idle)))
    bus = open_bus(state.bus_url)
    first = processes(state)["node"]["pid"]
    assert bus.call("node", "pid", {}) == first
    os.kill(first, signal.SIGKILL)
    before = time.monotonic()

    def replaced() -> bool:
        try:
            return bool(bus.call("node", "pid", {}, timeout=1) != first)
        except BusTimeout:
            return False

    settle(replaced)
    assert time.monotonic() - before < 2
    table = settle(lambda: processes(state) if processes(state)["node"]["ready"] else None)
    assert table["node"]["restarts"] == 1
    assert table["work"]["restarts"] == 0
    bus.close()


def test_when_the_supervisor_is_killed_its_children_end(state: State) -> None:
    pid = start(state, roles(Role(name="api", run=idle, count=3)))
    table = processes(state)
    end(state, pid, signal.SIGKILL)
    settle(lambda: not any(proc.alive(each["pid"], each["started"]) for each in table.values()))
    again = start(state, roles(Role(name="api", run=idle, count=3)))
    assert again != pid
    assert not {each["pid"] for each in processes(state).values()} & {each["pid"] for each in table.values()}


def test_a_stale_record_harms_nobody(state: State) -> None:
    """A pid that was given to somebody else since is left alone; a process that is really ours is ended."""
    bystander, leftover = sleeper(), sleeper()
    table = {
        "boot": proc.boot_id(),
        "processes": [
            {"name": "a", "pid": bystander, "started": proc.start_time(bystander) - 1},
            {"name": "b", "pid": leftover, "started": proc.start_time(leftover)},
        ],
    }
    (state.run / "processes.json").write_text(json.dumps(table))
    start(state, roles(Role(name="work", run=idle)))
    assert os.waitpid(bystander, os.WNOHANG) == (0, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(leftover, 0)[1]) == -signal.SIGKILL
    os.kill(bystander, signal.SIGKILL)
    os.waitpid(bystander, 0)


def test_a_record_from_before_a_reboot_is_nothing(state: State) -> None:
    started = proc.start_time(os.getpid())
    table = {"boot": "another", "processes": [{"name": "a", "pid": os.getpid(), "started": started}]}
    (state.run / "processes.json").write_text(json.dumps(table))
    assert recorded(state) == []


def test_one_supervisor_a_cloud(state: State) -> None:
    pid = start(state, roles(Role(name="work", run=idle)))
    progress.begin(state)
    progress.detach(
        state.log / "supervisor.out", lambda: Supervisor(state, roles(Role(name="x", run=idle))).run()
    )
    with pytest.raises(progress.StartFailed, match=f"another supervisor \\({pid}\\)"):
        progress.follow(state, lambda _: None)
    assert progress.supervisor(state) == pid
    assert set(processes(state)) == {"work"}


def test_preparing_that_fails_stops_the_start(state: State) -> None:
    def broken(say: Progress) -> None:
        say("half way")
        raise RuntimeError("no database")

    lines: list[str] = []
    with pytest.raises(progress.StartFailed, match=r"preparing failed; see .*prepare\.log"):
        start(state, Parts(roles={"work": Role(name="work", run=idle)}, prepare_work=broken), lines)
    assert "half way" in lines
    assert "no database" in (state.log / "prepare.log").read_text()
    settle(lambda: not progress.supervisor(state))


def test_a_role_that_never_starts_is_named(state: State) -> None:
    def broken(context: RoleContext) -> None:
        raise RuntimeError("no hypervisor")

    with pytest.raises(progress.StartFailed, match=r"node does not start; see .*node\.log"):
        start(state, roles(Role(name="work", run=idle), Role(name="node", run=broken)))
    assert "no hypervisor" in (state.log / "node.log").read_text()
    settle(lambda: not progress.supervisor(state))


def test_a_role_that_fails_later_is_restarted_more_and_more_slowly(state: State) -> None:
    def brief(context: RoleContext) -> None:
        context.ready()

    start(state, roles(Role(name="work", run=idle), Role(name="node", run=brief)))
    time.sleep(2.3)  # starts at 0, 0, 0.5, 1.5 and 3.5 s
    entries = [json.loads(line)["message"] for line in (state.log / "node.log").read_text().splitlines()]
    assert 3 <= entries.count("started") <= 5
    assert progress.supervisor(state)


def test_a_role_that_ignores_the_order_to_stop_is_killed(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(context: RoleContext) -> None:
        context.ready()
        time.sleep(60)

    monkeypatch.setattr("altostack.deploy.supervisor.GRACE_SECONDS", 0.5)
    pid = start(state, roles(Role(name="work", run=idle), Role(name="node", run=deaf)))
    assert 0.4 < end(state, pid) < 3
    assert "node does not end and is killed" in (state.log / "supervisor.log").read_text()


def test_a_stop_while_preparing(state: State) -> None:
    def slow(say: Progress) -> None:
        say("slow")
        time.sleep(60)

    parts = Parts(roles={"work": Role(name="work", run=idle)}, prepare_work=slow)
    progress.begin(state)
    progress.detach(state.log / "supervisor.out", lambda: Supervisor(state, parts).run())
    settle(lambda: (state.run / "progress").exists() and "slow" in (state.run / "progress").read_text())
    assert end(state, progress.supervisor(state)) < 3


def echo(context: RoleContext) -> None:
    context.ready()
    listener = context.listeners["public"]
    listener.settimeout(0.1)
    while not context.stop.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.sendall(context.process.encode())
        connection.close()


def test_the_listener_outlives_its_processes(state: State) -> None:
    free = bind("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    start(state, roles(Role(name="api", run=echo, listen={"public": ("127.0.0.1", port)})))

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(100)

    assert ask() == b"api"
    os.kill(processes(state)["api"]["pid"], signal.SIGKILL)
    for _ in range(20):
        assert ask() == b"api"


def test_the_processes_of_a_role_share_what_comes_and_a_dead_one_gets_nothing(state: State) -> None:
    free = bind("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    start(state, roles(Role(name="api", run=echo, count=2, listen={"public": ("127.0.0.1", port)})))

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(100)

    assert {ask() for _ in range(64)} == {b"api-1", b"api-2"}
    for _ in range(2):  # after the second death it has to wait, and is not waited for
        settle(lambda: "api-1" in processes(state))
        os.kill(processes(state)["api-1"]["pid"], signal.SIGKILL)
        settle(lambda: "api-1" not in processes(state) or processes(state)["api-1"]["ready"])
    assert {ask() for _ in range(16)} <= {b"api-1", b"api-2"}


def test_no_client_is_refused_while_all_of_a_role_wait_to_be_started_again(state: State) -> None:
    free = bind("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    start(state, roles(Role(name="api", run=echo, count=2, listen={"public": ("127.0.0.1", port)})))

    def kill_both(restarts: int) -> None:
        settle(
            lambda: (
                [each["restarts"] for each in processes(state).values() if each["ready"]] == [restarts] * 2
            )
        )
        for each in processes(state).values():
            os.kill(each["pid"], signal.SIGKILL)

    kill_both(0)
    kill_both(1)  # from the second death on they have to wait
    settle(lambda: not processes(state))
    for _ in range(16):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            assert connection.recv(100) in (b"api-1", b"api-2")


def test_a_port_in_use_is_named(state: State) -> None:
    taken = bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with pytest.raises(progress.StartFailed, match=rf"127\.0\.0\.1:{port}.*in use; choose another port"):
        start(state, roles(Role(name="api", run=idle, listen={"public": ("127.0.0.1", port)})))
    taken.close()


def test_random_kills_leave_a_working_cloud(state: State) -> None:
    """Kill processes and the supervisor itself at many moments; each time the next start is whole."""
    parts = roles(Role(name="api", run=idle, count=2), Role(name="node", run=answering))
    for wait in (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2):
        progress.begin(state)
        progress.detach(state.log / "supervisor.out", lambda: Supervisor(state, parts).run())
        time.sleep(wait)
        if pid := progress.supervisor(state):
            end(state, pid, signal.SIGKILL)
        settle(lambda: not progress.supervisor(state))
    start(state, parts)
    bus = open_bus(state.bus_url)
    assert bus.call("node", "pid", {}) == processes(state)["node"]["pid"]
    bus.close()
