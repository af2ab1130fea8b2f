"""The commands as a person types them, over a small composition of processes that only wait and serve."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from altostack import cli
from altostack.commands import common, doctor, down, status, up
from altostack.deploy import progress
from altostack.deploy.machine import Check, packages
from altostack.deploy.role import Progress, Role, RoleContext
from altostack.deploy.serve import serve
from altostack.deploy.state import State
from altostack.deploy.supervisor import recorded
from altostack.kit import proc


def hello(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    start("200 OK", [])
    return [b"{}"]


def api(context: RoleContext) -> None:
    serve(hello, context.listeners["api"], stop=context.stop, ready=context.ready, threads=1)


def idle(context: RoleContext) -> None:
    context.ready()
    context.stop.wait()


class Small:
    """A composition that leaves notes in the state folder of what was called."""

    def __init__(self, state: State, port: int) -> None:
        self.state = state
        self.port = port
        self.roles: Mapping[str, Role] = {
            "api": Role(name="api", run=api, count=2, listen={"api": ("127.0.0.1", port)}),
            "work": Role(name="work", run=idle),
        }
        self.endpoints: Mapping[str, str] = {"identity": f"http://127.0.0.1:{port}/identity/v3"}

    def note(self, word: str) -> None:
        with (self.state.run / "notes").open("a") as notes:
            notes.write(word + "\n")

    def prepare(self, progress: Progress) -> None:
        self.note("prepare")
        progress("identity: ready")

    def after_start(self, progress: Progress) -> None:
        self.note("after_start")
        progress("image starter: there")

    def teardown(self) -> None:
        self.note("teardown")
        if (self.state.run / "stuck").exists():
            raise RuntimeError("a bridge does not go away")


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def state(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    state = State(root=tmp_path / "cloud")

    def compose(state: State, options: common.Options | None = None) -> tuple[Small, Any]:
        chosen = options or common.read_options(state)
        return Small(state, chosen.port or port), SimpleNamespace(cloud=SimpleNamespace(region="RegionOne"))

    for module in (up, down, status):
        monkeypatch.setattr(module, "compose", compose)
    yield state
    if state.root.exists() and (pid := progress.supervisor(state)):
        os.kill(pid, signal.SIGKILL)
    settle(lambda: not state.root.exists() or not progress.supervisor(state))
    settle(lambda: not any(proc.alive(each["pid"], each["started"]) for each in recorded(state)))


def settle(check: Callable[[], Any], timeout: float = 10.0) -> Any:
    end = time.monotonic() + timeout
    while not (result := check()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return result


def run(state: State, *words: str) -> int:
    return cli.main([*words, "--state", str(state.root)])


def notes(state: State) -> list[str]:
    return (state.run / "notes").read_text().split()


def test_up_status_down(state: State, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "status") == 3
    assert run(state, "up", "--simulate") == 0
    shown = capsys.readouterr().out
    for words in (
        "starting (simulated)",
        "identity: ready",
        "all processes are ready",
        "image starter: there",
        f"identity  http://127.0.0.1:{port}/identity/v3",
        str(state.clouds_yaml),
        str(state.openrc),
    ):
        assert words in shown
    pid = progress.supervisor(state)
    assert pid
    assert f"http://127.0.0.1:{port}/identity/v3" in state.clouds_yaml.read_text()

    assert run(state, "status") == 0
    shown = capsys.readouterr().out
    assert "api-1" in shown
    assert "200 in" in shown
    assert run(state, "status", "--json") == 0
    table = json.loads(capsys.readouterr().out)
    assert table["healthy"] is True
    assert {row["name"] for row in table["processes"]} == {"supervisor", "api-1", "api-2", "work"}
    assert table["pss"] > 2**20

    assert run(state, "up") == 0  # again: nothing is started twice
    assert progress.supervisor(state) == pid
    assert notes(state) == ["prepare", "after_start", "after_start"]

    before = recorded(state)
    assert run(state, "down") == 0
    assert not progress.supervisor(state)
    assert not any(proc.alive(each["pid"], each["started"]) for each in before)
    assert notes(state)[-1] == "teardown"
    assert run(state, "status") == 3
    assert run(state, "down") == 0
    assert run(state, "up") == 0  # still a simulated one
    assert common.read_options(state).simulate
    assert run(state, "down", "--purge") == 0
    assert not state.root.exists()
    assert run(state, "down") == 0


def test_purge_leaves_what_people_wrote(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "up", "--simulate") == 0
    state.settings.write_text("")
    assert run(state, "down", "--purge") == 0
    assert [path.name for path in state.root.iterdir() if path.name != ".lock"] == ["altostack.toml"]
    assert "left alone" in capsys.readouterr().out


def test_down_tells_what_it_could_not_remove(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "up", "--simulate") == 0
    (state.run / "stuck").touch()
    assert run(state, "down", "--purge") == 1
    assert "a bridge does not go away" in capsys.readouterr().err
    assert state.secrets.exists()
    (state.run / "stuck").unlink()
    assert run(state, "down", "--purge") == 0


def test_a_real_cloud_is_not_simulated_over(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    state.create()
    common.write_options(state, common.Options())
    assert run(state, "up", "--simulate") == 1
    assert "is a real one" in capsys.readouterr().err


def test_what_the_machine_lacks_is_said_before_anything_starts(
    state: State, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lack = Check(name="packages", ok=False, found="missing: nftables", fix="apt-get install nftables")
    monkeypatch.setattr(up, "missing", lambda _: [lack])
    assert run(state, "up") == 1
    shown = capsys.readouterr().err
    assert "apt-get install nftables" in shown
    assert "--simulate" in shown
    assert not progress.supervisor(state)
    assert run(state, "up", "--simulate") == 0


def test_the_port_is_kept_and_not_changed_under_a_running_cloud(
    state: State, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        other = int(probe.getsockname()[1])
    assert run(state, "up", "--simulate", "--port", str(other)) == 0
    assert f":{other}/identity" in capsys.readouterr().out
    assert run(state, "up", "--port", str(port)) == 1
    assert "another port" in capsys.readouterr().err
    assert run(state, "up") == 0
    assert f":{other}/identity" in capsys.readouterr().out


def test_two_clouds_side_by_side(state: State, tmp_path: Path, port: int) -> None:
    second = State(root=tmp_path / "second")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        other = str(probe.getsockname()[1])
    assert run(state, "up", "--simulate") == 0
    assert run(second, "up", "--simulate", "--port", other) == 0
    assert run(state, "down") == 0
    assert run(second, "status") == 0
    assert run(second, "down") == 0


def test_a_port_in_use(state: State, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", port)):
        assert run(state, "up", "--simulate") == 1
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert run(state, "up", "--simulate") == 0


def fork_up(state: State) -> int:
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(run(state, "up", "--simulate"))
    return pid


@pytest.mark.parametrize("wait", [0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.25, 0.4])
def test_up_resumes_after_being_killed(state: State, wait: float) -> None:
    for victim in ("up", "both"):
        pid = fork_up(state)
        time.sleep(wait)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if victim == "both" and state.root.exists() and (supervisor := progress.supervisor(state)):
            os.kill(supervisor, signal.SIGKILL)
            settle(lambda: not progress.supervisor(state))
    assert run(state, "up", "--simulate") == 0
    assert run(state, "status") == 0


def test_foreground(state: State) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(run(state, "up", "--simulate", "--foreground"))
    settle(lambda: state.clouds_yaml.exists())
    assert progress.supervisor(state) == pid
    os.kill(pid, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not progress.supervisor(state)


def test_status_tells_what_is_wrong(
    state: State, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "PATIENCE", 0.3)
    assert run(state, "up", "--simulate") == 0
    capsys.readouterr()
    for row in recorded(state):
        if row["role"] == "api":
            os.kill(row["pid"], signal.SIGSTOP)
    assert run(state, "status", "--json") == 1
    table = json.loads(capsys.readouterr().out)
    assert table["endpoints"]["identity"]["status"] == 0
    assert "timed out" in table["endpoints"]["identity"]["problem"]
    for row in table["processes"]:
        os.kill(row["pid"], signal.SIGCONT)


def test_doctor(state: State, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        Check(name="root", ok=True, found="yes"),
        Check(name="kvm", ok=False, found="no /dev/kvm", fix="emulated", needed=False),
    ]
    monkeypatch.setattr(doctor, "_checks", lambda _: iter(checks))
    assert run(state, "doctor") == 0
    shown = capsys.readouterr().out
    assert "ok       root" in shown
    assert "note     kvm" in shown
    assert "can run a cloud" in shown
    checks.append(Check(name="packages", ok=False, found="missing: nftables", fix="apt-get install nftables"))
    assert run(state, "doctor") == 1
    shown = capsys.readouterr().out
    assert "missing  packages" in shown
    assert "apt-get install nftables" in shown
    assert "--simulate" in shown
    assert run(state, "doctor", "--json") == 1
    assert json.loads(capsys.readouterr().out)[2]["fix"] == "apt-get install nftables"


def test_every_package_says_how_it_is_recognised() -> None:
    listed = packages()
    assert len({package.name for package in listed}) == len(listed) > 10
    assert all(package.file.startswith("/") and package.purpose for package in listed)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "up " in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        cli.main(["up", "--port", "0"])
    assert caught.value.code == 2
    assert "between 1 and 65533" in capsys.readouterr().err


def test_help_imports_little() -> None:
    """What makes `--help` quick: none of the heavy libraries."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from altostack.cli import main; main([]); print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(cli.__file__).parent.parent,
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {
        "msgspec",
        "sqlalchemy",
        "falcon",
        "altostack.compose",
        "altostack.deploy.state",
        "asyncio",
    }
