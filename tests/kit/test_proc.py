from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from altostack.kit import proc


def test_a_process_is_known_by_pid_and_start() -> None:
    own = proc.start_time(os.getpid())
    assert own > 0
    assert proc.alive(os.getpid(), own)
    assert not proc.alive(os.getpid(), own + 1)
    assert proc.start_time(2**22 + 1) == 0
    assert not proc.alive(2**22 + 1, 0)


def test_a_zombie_is_dead() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert proc.start_time(pid) == 0
    os.waitpid(pid, 0)


def test_measures() -> None:
    assert 1_000_000 < proc.pss(os.getpid()) < 1_000_000_000
    assert proc.cpu_seconds(os.getpid()) > 0
    with pytest.raises(OSError, match="No such"):
        proc.pss(2**22 + 1)
    proc.spare_memory()


def test_a_child_dies_with_its_parent() -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        own = os.getpid()
        child = os.fork()
        if child == 0:
            proc.die_with_parent(own)
            proc.set_name("alto-test")
            os.write(write, f"{os.getpid()}\n".encode())
            time.sleep(30)
            os._exit(0)
        time.sleep(30)
        os._exit(0)
    child = int(os.read(read, 100))
    started = proc.start_time(child)
    with open(f"/proc/{child}/comm") as comm:
        assert comm.read().strip() == "alto-test"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    end = time.monotonic() + 5
    while proc.alive(child, started):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_write_out(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"x" * 100_000)
        file.flush()
        proc.write_out(file.fileno(), 0, 50_000)
        proc.write_out(file.fileno(), 0, 100_000, wait=True)
        number = file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        proc.write_out(number, 0, 1)
    read, write = os.pipe()
    proc.write_out(write, 0, 1)  # it has nothing of the kind, and needs none
    os.close(read)
    os.close(write)
