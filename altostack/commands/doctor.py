"""What this machine can and cannot do, and what to install."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from altostack.app import object_address
from altostack.commands import CommandError
from altostack.commands.common import read_options, state_of
from altostack.compose import load_settings
from altostack.deploy import progress
from altostack.deploy.machine import Check, survey
from altostack.deploy.state import State
from altostack.kit.config import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(arguments: argparse.Namespace) -> int:
    """0: a real cloud can run here; 1: something it needs is missing."""
    state = state_of(arguments)
    checks: list[Check] = []
    colour = sys.stdout.isatty()
    for check in _checks(state):
        checks.append(check)
        if arguments.json:
            continue
        word = "ok" if check.ok else "missing" if check.needed else "note"
        shade = {"ok": 32, "missing": 31, "note": 33}[word]
        shown = f"\033[{shade}m{word:<7}\033[0m" if colour else f"{word:<7}"
        print(f"{shown}  {check.name:<26} {check.found}", flush=True)
        if not check.ok and check.fix:
            print(f"{'':<7}  {'':<26} {check.fix}")
    lacks = [check for check in checks if check.needed and not check.ok]
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    elif not lacks:
        print("\nThis machine can run a cloud.")
    elif any(check.anyway for check in lacks):
        print("\nThis machine cannot run a cloud, not even a simulated one.")
    else:
        print("\nThis machine can run a simulated cloud: altostack up --simulate")
    return 1 if lacks else 0


def _checks(state: State) -> Iterator[Check]:
    """The settings, then the machine; the ports only while the cloud itself does not have them."""
    ports: dict[str, tuple[str, int]] = {}
    try:
        settings = load_settings(state, **read_options(state).overrides())
    except (ConfigError, CommandError) as error:
        yield Check(name="settings", ok=False, found=str(error), fix="correct the file", anyway=True)
    else:
        yield Check(
            name="settings", ok=True, found=str(state.settings) if state.settings.exists() else "defaults"
        )
        if not (state.exists and progress.supervisor(state)):
            cloud = settings.cloud
            ports = {
                "API": (cloud.host, cloud.port),
                "consoles": (cloud.host, cloud.console_port),
                "object store": object_address(settings),
            }
    yield from survey(state, ports)
