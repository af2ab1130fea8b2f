"""How far a start is: lines that the supervisor appends to a file and whoever waits for it reads.

A file and not a pipe, because the one who waits may be killed and another may come and wait on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from altostack.deploy.state import Lock, State

Phase = Literal["preparing", "starting", "ready", "failed"]

POLL_SECONDS: Final = 0.02


class StartFailed(Exception):
    """The cloud did not start; the message says why."""


class Line(msgspec.Struct, frozen=True):
    """One step: what to show, and the phase that it begins, if one."""

    line: str
    phase: Phase | None = None


def path(state: State) -> Path:
    return state.run / "progress"


def begin(state: State) -> None:
    """Forget an earlier start's lines."""
    path(state).unlink(missing_ok=True)


def say(state: State, line: str, *, phase: Phase | None = None) -> None:
    """Append a line; whole lines from several processes do not mix (O_APPEND)."""
    fd = os.open(path(state), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps({"line": line, "phase": phase}).encode() + b"\n")
    finally:
        os.close(fd)


def fail(state: State, reason: str) -> None:
    say(state, reason, phase="failed")


def supervisor(state: State) -> int:
    """The pid of the supervisor that runs this cloud now; 0 when none does."""
    return Lock(state.run / "supervisor.lock").holder()


def follow(state: State, show: Callable[[str], None], *, patience: float = 10.0) -> None:
    """Show the lines of a start until every process is ready.

    Args:
        patience: seconds until the supervisor must have said its first word.

    Raises:
        StartFailed: it failed, or the supervisor died.
    """
    first = time.monotonic() + patience
    seen = 0
    while True:
        alive = supervisor(state)  # asked before reading: what it said before its death counts
        lines = list(_read(state))
        for each in lines[seen:]:
            if each.phase == "failed":
                raise StartFailed(each.line)
            show(each.line)
            if each.phase == "ready":
                return
        seen = len(lines)
        if not alive and (seen or time.monotonic() > first):
            raise StartFailed(f"the supervisor died; see {state.log}")
        time.sleep(POLL_SECONDS)


def _read(state: State) -> Iterator[Line]:
    try:
        text = path(state).read_bytes()
    except FileNotFoundError:
        return
    for line in text.split(b"\n")[:-1]:
        yield msgspec.json.decode(line, type=Line)


def detach(log: Path, work: Callable[[], int]) -> None:
    """Run `work` in a process that outlives us and our terminal; returns at once.

    Its standard output and error are appended to `log`. Call it in a process without other threads.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    code = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        os.umask(0o022)
        null = os.open(os.devnull, os.O_RDONLY)
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for source, target in ((null, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(out)
        code = work()
    finally:
        os._exit(code)
