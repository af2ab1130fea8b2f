"""What several commands do: find the cloud, compose it, tell how far they are."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import msgspec

from altostack.commands import CommandError
from altostack.deploy.role import Composition
from altostack.deploy.state import State, StateError, find, write


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `up` was told and later commands must know; kept in the state folder's options.toml."""

    simulate: bool = False
    port: int | None = None

    def overrides(self) -> dict[str, Any]:
        """The [cloud] settings that these stand for. The console's port follows the API's."""
        over: dict[str, Any] = {}
        if self.simulate:
            over["simulate"] = True
        if self.port is not None:
            over |= {"port": self.port, "console_port": self.port + 1}
        return over


def state_of(arguments: argparse.Namespace) -> State:
    """The folder that the command line, the environment or the user chose."""
    return find(arguments.state)


def read_options(state: State) -> Options:
    """What the last `up` was told.

    Raises:
        CommandError: the file cannot be read.
    """
    try:
        return msgspec.toml.decode(state.options.read_bytes(), type=Options)
    except FileNotFoundError:
        return Options()
    except ValueError as error:
        raise CommandError(f"{state.options}: {error}") from None


def write_options(state: State, options: Options) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in msgspec.to_builtins(options).items()]
    write(
        state.options,
        "# Written by `altostack up`. Settings of yours belong in altostack.toml.\n"
        + "\n".join(lines)
        + "\n",
    )


def compose(state: State, options: Options | None = None) -> tuple[Composition, Any]:
    """The composition and settings of a created cloud.

    Raises:
        CommandError: its settings or secrets are wrong, or there is no cloud.
    """
    from altostack.compose import CloudComposition, load_settings
    from altostack.kit.config import ConfigError

    try:
        settings = load_settings(state, **(options or read_options(state)).overrides())
        return CloudComposition(state, settings), settings
    except (ConfigError, StateError) as error:
        raise CommandError(str(error)) from None


class Teller:
    """Prints lines with the seconds since the command began."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._bright = sys.stdout.isatty()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def __call__(self, line: str) -> None:
        stamp = f"{self.seconds:7.2f} s"
        print(f"\033[2m{stamp}\033[0m  {line}" if self._bright else f"{stamp}  {line}", flush=True)
