"""Stop the cloud."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import time

from altostack.commands import CommandError
from altostack.commands.common import Teller, compose, state_of
from altostack.deploy import progress
from altostack.deploy.state import State, StateError
from altostack.deploy.supervisor import GRACE_SECONDS, end_leftovers


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--purge", action="store_true", help="remove the data and secrets as well")


def run(arguments: argparse.Namespace) -> int:
    tell = Teller()
    state = state_of(arguments)
    if not state.exists:
        tell(f"{state.root}: no cloud there")
        return 0
    try:
        with state.lock():
            _stop(state, tell)
            problem = _teardown(state, tell)
            if arguments.purge and not problem:
                _purge(state, tell)
    except (StateError, OSError) as error:
        raise CommandError(str(error)) from None
    if problem:
        raise CommandError(problem)
    tell("the cloud is down")
    return 0


def _stop(state: State, tell: Teller) -> None:
    pid = progress.supervisor(state)
    if pid:
        tell(f"stopping the processes (supervisor {pid})")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + GRACE_SECONDS + 3
        while progress.supervisor(state) == pid:
            if time.monotonic() > end:
                tell("it does not end and is killed")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                end += 5
            time.sleep(0.02)
    if count := end_leftovers(state):
        tell(f"ended {count} processes of an earlier run")


def _teardown(state: State, tell: Teller) -> str:
    """Remove the data plane; what hindered it, or nothing."""
    try:
        composition, _ = compose(state)
        composition.teardown()
    except Exception as error:
        return f"the processes are stopped, but the data plane could not be removed: {error}"
    tell("the data plane is removed")
    return ""


def _purge(state: State, tell: Teller) -> None:
    """Remove what a cloud makes in its folder, and the folder if nothing else is in it."""
    for path in state.contents():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    left = [path for path in state.root.iterdir() if path.name != ".lock"]
    if left:
        tell(f"left alone what is not the cloud's: {', '.join(str(path) for path in left)}")
    else:
        (state.root / ".lock").unlink(missing_ok=True)
        state.root.rmdir()
    tell("the data is removed")
