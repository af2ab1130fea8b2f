"""Start the cloud."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

from altostack.commands import CommandError
from altostack.commands.common import Options, Teller, compose, read_options, state_of, write_options
from altostack.deploy import progress
from altostack.deploy.machine import missing
from altostack.deploy.role import Composition
from altostack.deploy.state import State, StateError, write_clients
from altostack.deploy.supervisor import Supervisor

CLOUDS = {"admin": "admin", "demo": "demo"}  # name in clouds.yaml -> user; openrc is the last one's


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="simulated drivers: no root, no hypervisor (kept for this cloud)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        help="the API's port; consoles take the next one, objects the one after (kept for this cloud)",
    )
    parser.add_argument("--foreground", action="store_true", help="stay until Ctrl-C, then stop the cloud")


def run(arguments: argparse.Namespace) -> int:
    tell = Teller()
    state = state_of(arguments)
    try:
        secrets = state.create()
        with state.lock():
            options = _choose(state, arguments)
            composition, settings = compose(state, options)
            start = not progress.supervisor(state)
            if start:
                _check(state, composition, options)
                write_options(state, options)
                progress.begin(state)
    except StateError as error:
        raise CommandError(str(error)) from None
    supervisor = Supervisor(
        state,
        composition,
        secrets=(secrets.node_key, secrets.metadata_secret, secrets.admin_password, secrets.demo_password),
    )
    tell(
        f"{state.root}: {'starting' if start else 'already running'}{' (simulated)' if options.simulate else ''}"
    )
    if not arguments.foreground:
        if start:
            progress.detach(state.log / "supervisor.out", supervisor.run)
        _finish(state, composition, settings, tell)
        return 0
    if not start:
        raise CommandError("it runs already, in the background; `altostack down` first")
    child = os.fork()
    if child == 0:
        os._exit(_finish_in_child(state, composition, settings, tell))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return supervisor.run()


def _choose(state: State, arguments: argparse.Namespace) -> Options:
    """What this cloud is: what it was made as, and what the command line changes."""
    before = read_options(state)
    made = state.options.exists()
    if made and arguments.simulate and not before.simulate:
        raise CommandError(f"the cloud in {state.root} is a real one; simulate another with --state DIR")
    options = Options(
        simulate=before.simulate or arguments.simulate,
        port=before.port if arguments.port is None else arguments.port,
    )
    if options.port != before.port and progress.supervisor(state):
        raise CommandError("it runs already, on another port; `altostack down` first")
    return options


def _check(state: State, composition: Composition, options: Options) -> None:
    """Refuse to begin what cannot end well, saying what to do."""
    if options.simulate:
        return
    if lacks := missing(state):
        lines = "\n".join(f"  {check.name}: {check.found}\n    {check.fix}" for check in lacks)
        raise CommandError(
            f"this machine lacks:\n{lines}\nor try `altostack up --simulate`, which needs none of it"
        )


def _finish(state: State, composition: Composition, settings: Any, tell: Teller) -> None:
    """Wait until all runs, do what needs a running cloud, and say where it is."""
    try:
        progress.follow(state, tell)
        with state.lock():
            composition.after_start(tell)
            secrets = state.read_secrets()
            write_clients(
                state,
                auth_url=composition.endpoints["identity"],
                region=settings.cloud.region,
                passwords={"admin": secrets.admin_password, "demo": secrets.demo_password},
                clouds=CLOUDS,
            )
    except (progress.StartFailed, StateError) as error:
        raise CommandError(str(error)) from None
    tell("the cloud is up")
    width = max(map(len, composition.endpoints))
    print()
    for name, url in composition.endpoints.items():
        print(f"  {name:<{width}}  {url}")
    print(f"\n  clouds.yaml  {state.clouds_yaml}\n  openrc       {state.openrc}")
    print(f"\n  export OS_CLIENT_CONFIG_FILE={state.clouds_yaml} OS_CLOUD=demo", flush=True)


def _finish_in_child(state: State, composition: Composition, settings: Any, tell: Teller) -> int:
    try:
        _finish(state, composition, settings, tell)
    except (CommandError, Exception) as error:
        print(f"altostack up: {error}", file=sys.stderr)
        return 1
    return 0


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65534:
        raise argparse.ArgumentTypeError("a port is between 1 and 65533")
    return number
