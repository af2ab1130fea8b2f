"""The commands, one a module: `arguments(parser)` declares its options, `run(arguments)` returns its exit code."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do what it was told; the message says why and what to do."""
