"""Putting right what a killed daemon left, judged on the files and answers it was seen to leave."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import parse

import pytest

from altostack.compute.drivers import dead_daemon

STATE = """\
<!-- written by libvirt -->
<domstatus state='running' reason='booted' pid='{pid}'>
  <monitor path='{monitor}' type='unix'/>
  <blockjobs active='yes'>{jobs}</blockjobs>
  <domain type='qemu'><devices>
    <disk type='file'><target dev='vda'/><mirror type='file' job='copy' ready='abort'/></disk>
    <interface type='ethernet'><alias name='ua-port-a'/></interface>
    <interface type='ethernet'><alias name='ua-port-b'/></interface>
  </devices></domain>
</domstatus>
"""


@pytest.fixture
def states(tmp_path: Path) -> Path:
    folder = tmp_path / "states"
    folder.mkdir()
    return folder


@pytest.fixture
def stand_in() -> Iterator[tuple[str, int]]:
    """A process that looks like the QEMU of a guest: the guest's id and its process id."""
    guest_id = str(uuid.uuid4())
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        ["qemu-system-stand-in", "-c", code, "-name", f"guest={guest_id},debug-threads=on"],
        executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    yield guest_id, process.pid
    process.kill()
    process.communicate()


def write(states: Path, *, guest_id: str = "g", **facts: object) -> Path:
    path = states / f"{guest_id}.xml"
    path.write_text(STATE.format(**{"pid": 1, "monitor": "/nowhere/monitor.sock", "jobs": "", **facts}))
    return path


def ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes() == b""


def test_a_half_started_guest_is_forgotten_and_its_process_ended(
    states: Path, stand_in: tuple[str, int]
) -> None:
    guest_id, pid = stand_in
    state = states / f"{guest_id}.xml"
    state.write_text("<domstatus state='paused' reason='starting up' pid='0'/>")
    state.with_suffix(".pid").write_text(str(pid))
    dead_daemon.mend(states, Path)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert list(states.iterdir()) == []


def test_a_process_id_given_to_somebody_else_is_left_alone(states: Path, stand_in: tuple[str, int]) -> None:
    state = states / "another-guest.xml"
    state.write_text("<domstatus state='paused' reason='starting up' pid='0'/>")
    state.with_suffix(".pid").write_text(str(stand_in[1]))
    dead_daemon.mend(states, Path)
    assert not state.exists()
    assert not ended(stand_in[1])


def test_a_cut_off_state_is_left_to_the_daemon(states: Path) -> None:
    (states / "cut.xml").write_text("<domstatus sta")
    dead_daemon.mend(states, Path)
    assert (states / "cut.xml").read_text() == "<domstatus sta"


class Monitor:
    """Answers like QEMU's: with one card plugged in, and one job that ends when it is cancelled."""

    def __init__(self, path: Path) -> None:
        self.heard: list[dict[str, object]] = []
        self._jobs = [{"id": "copy-vda"}]
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        stream, _ = self._server.accept()
        with stream, stream.makefile("rwb") as wire:
            wire.write(b'{"QMP": {}}\n')
            wire.flush()
            for line in wire:
                asked = json.loads(line)
                self.heard.append(asked)
                wire.write(b'{"event": "RTC_CHANGE"}\n')
                wire.write(json.dumps(self._answer(asked["execute"])).encode() + b"\n")
                wire.flush()

    def _answer(self, command: str) -> dict[str, object]:
        if command == "qom-list":
            return {"return": [{"name": "ua-port-a"}, {"name": "type"}]}
        if command == "query-jobs":
            return {"return": self._jobs}
        if command == "job-dismiss":
            self._jobs = []
        return {"return": {}}

    def end(self) -> list[str]:
        self._thread.join(5)
        self._server.close()
        return [str(one["execute"]) for one in self.heard]


JOB = "<blockjob name='copy-vda' type='copy' state='aborting'><disk dst='vda' mirror='yes'/></blockjob>"


@pytest.mark.parametrize("jobs", ["", JOB])
def test_copies_are_ended_and_forgotten(states: Path, tmp_path: Path, jobs: str) -> None:
    monitor = Monitor(tmp_path / "m")
    state = write(states, monitor=tmp_path / "m", jobs=jobs)
    dead_daemon.mend(states, Path)
    assert {"job-cancel", "job-dismiss"} <= set(monitor.end())
    mended = parse(state)
    assert mended.find("domain/devices/disk/mirror") is None
    assert mended.find("domain/devices/interface/alias") is not None
    assert mended.findall("blockjobs/*") == []
    assert state.stat().st_mode & 0o777 == 0o600


def test_nothing_is_rewritten_when_nobody_answers(states: Path) -> None:
    state = write(states, jobs=JOB)
    before = state.read_bytes()
    dead_daemon.mend(states, Path)
    assert state.read_bytes() == before


def test_a_card_that_is_gone_gets_its_netdev_back(states: Path, tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "m")
    write(states, monitor=tmp_path / "m")
    dead_daemon.mend(states, Path)
    monitor.end()
    lent = [one["arguments"] for one in monitor.heard if one["execute"] == "netdev_add"]
    assert lent == [{"type": "hubport", "hubid": 0, "id": "hostua-port-b"}]


def test_stray_processes_end(stand_in: tuple[str, int]) -> None:
    guest_id, pid = stand_in
    assert not dead_daemon.end_strays(str(uuid.uuid4()))
    assert not ended(pid)
    assert dead_daemon.end_strays(guest_id)
    assert ended(pid)
    assert not dead_daemon.end_strays(guest_id)
