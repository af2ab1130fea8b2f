"""The command `altostack` (alias `alto`). Each command is a module of `altostack.commands`, imported when used."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

COMMANDS: Final[Mapping[str, str]] = {
    "up": "start the cloud; safe to repeat, and to kill at any point",
    "down": "stop it; --purge removes its data too",
    "status": "what runs, and how it is",
    "doctor": "what this machine can and cannot do, and what to install",
    "db": "write the migration that a changed declaration needs",
    "demo": "use the cloud through its API, printing each step with its time",
    "explain": "the story of a request or a resource, across services",
    "identity": "first contents of the identity service; new keys for tokens and secrets",
    "image": "make the starter image",
    "object": "the object store's nodes: how they are, new ones, rings for all, passes of the daemons",
    "openapi": "write the services' OpenAPI documents",
    "ring": "which device of the object store holds what: build, change and look at rings",
    "outside": "run a command where floating IPs are reached",
    "test": "run the project's tests",
    "conformance": "run Tempest and its like against a simulated cloud",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 0 is success, 1 a failure that was explained, 2 a wrong command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    known = {name: text for name, text in COMMANDS.items() if _exists(name)}
    parser = argparse.ArgumentParser(
        prog="altostack",
        description="A cloud operating system that speaks the OpenStack APIs.",
        epilog="`altostack COMMAND --help` tells more.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--state", metavar="DIR", help="the cloud's one folder (default: ALTOSTACK_STATE)")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    # Only the chosen command's module is imported, so that the others cost nothing.
    chosen = next((word for word in words if word in known), None)
    for name, text in known.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument(
            "--state",
            metavar="DIR",
            default=argparse.SUPPRESS,
            help="the cloud's one folder (default: ALTOSTACK_STATE)",
        )
        if name == chosen:
            importlib.import_module(f"altostack.commands.{name}").arguments(command)
    arguments = parser.parse_args(words)
    if arguments.version:
        from importlib import metadata

        print(metadata.version("altostack"))
        return 0
    if arguments.command is None:
        parser.print_help()
        return 2
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from altostack.commands import CommandError

    module = importlib.import_module(f"altostack.commands.{arguments.command}")
    try:
        return int(module.run(arguments))
    except CommandError as error:
        print(f"altostack {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _exists(name: str) -> bool:
    return importlib.util.find_spec(f"altostack.commands.{name}") is not None


if __name__ == "__main__":
    sys.exit(main())
