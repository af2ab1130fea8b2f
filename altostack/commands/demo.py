"""Use the cloud through its API, step by step."""

from __future__ import annotations

import argparse
import subprocess
from typing import Any

from altostack.commands import CommandError
from altostack.commands.common import compose, state_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patience", type=float, default=180.0, metavar="SECONDS", help="how long one thing may take"
    )


def run(arguments: argparse.Namespace) -> int:
    from altostack.demo import Demo, DemoFailed
    from altostack.deploy import progress
    from altostack.drivers import prefix

    state = state_of(arguments)
    if not state.exists or not progress.supervisor(state):
        raise CommandError(f"the cloud in {state.root} does not run; `altostack up` first")
    composition, settings = compose(state)
    cloud: Any = composition  # the walk needs clients, which not every composition has
    inside = None
    if not settings.cloud.simulate:
        namespace = f"{prefix(state.root, settings.cloud.hosts[0])}-ext"

        def inside(words: list[str]) -> subprocess.CompletedProcess[str]:
            command = ["ip", "netns", "exec", namespace, *words]
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    demo = Demo(
        clients=cloud.over_http(),
        token=cloud.user_token("demo"),
        say=_say,
        inside=inside,
        patience=arguments.patience,
    )
    try:
        demo.run()
    except DemoFailed as error:
        raise CommandError(str(error)) from None
    return 0


def _say(name: str, seconds: float, came: str) -> None:
    print(f"{seconds:8.2f} s  {name:<42} {came}", flush=True)
