"""Run a command where the external network is reached: in the namespace outside of the cloud's routers."""

from __future__ import annotations

import argparse
import os

from altostack.commands import CommandError
from altostack.commands.common import compose, state_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments"
    )


def run(arguments: argparse.Namespace) -> int:
    from altostack.drivers import prefix

    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise CommandError("name a command, e.g. `altostack outside -- ping -c 3 172.24.4.23`")
    state = state_of(arguments)
    if not state.exists:
        raise CommandError(f"there is no cloud in {state.root}")
    _, settings = compose(state)
    if settings.cloud.simulate:
        raise CommandError("a simulated cloud has no network to be outside of")
    namespace = f"{prefix(state.root, settings.cloud.hosts[0])}-ext"
    if not os.path.exists(f"/run/netns/{namespace}"):
        raise CommandError(f"the namespace {namespace} is not there; is the cloud up?")
    os.execvp("ip", ["ip", "netns", "exec", namespace, *words])
