"""The story of a request or a resource."""

from __future__ import annotations

import argparse
from typing import Any

from altostack.commands import CommandError
from altostack.commands.common import compose, state_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", help="a request's id (req-...), or the id of a server, volume, ...")


def run(arguments: argparse.Namespace) -> int:
    from altostack.explain import gather, render
    from altostack.kit.clients import RemoteError

    state = state_of(arguments)
    if not state.exists:
        raise CommandError(f"there is no cloud in {state.root}")
    composition, _ = compose(state)
    cloud: Any = composition  # explaining is no part of what every composition can do
    try:
        story = gather(cloud.neighbours("compute"), arguments.id)
    except RemoteError as error:
        raise CommandError(str(error)) from None
    for line in render(story):
        print(line)
    return 0 if story.lines or story.flows else 1
