"""Logs: one JSON object a line for machines, one short line for people, and no secret in either.

Every record carries the request id of `altostack.kit.context` and what `about()` added, so that
`grep req-... log/*` tells one request's story across processes.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import json
import logging
import logging.handlers
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

from altostack.kit import context
from altostack.kit.secret import MASK, Secret

ROTATE_BYTES: Final = 10 * 1024 * 1024
ROTATE_KEEP: Final = 5
QUIET: Final[Mapping[str, str]] = {
    "alembic": "warning",
    "amqp": "warning",
    "kombu": "warning",
    "oslo_policy": "warning",
    "sqlalchemy": "warning",
    "stevedore": "warning",
    "urllib3": "warning",
    "_granian": "warning",
}
"""Libraries whose chatter nobody reads; `levels` overrides."""

_about: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("about", default={})  # noqa: B039 - never mutated

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# (words, pattern, replacement). A pattern takes long: it is tried on texts that hold one of its words in any case.
_MASKS: Final = (
    # scheme://user:password@host
    (("://",), re.compile(r"(://[^:/\s@]*:)[^@/\s]+(@)"), rf"\1{MASK}\2"),
    # "password": "x", password=x, X-Auth-Token: x and their kin
    (
        (
            "passw",
            "secret",
            "-token",
            "private_key",
            "access_key",
            "adminpass",
            "admin_pass",
            "authorization",
        ),
        re.compile(
            r"""((?:[\w-]*(?:passw(?:or)?d|secret|x-auth-token|x-subject-token|x-service-token|private_key"""
            r"""|access_key|admin_?pass)[\w-]*|authorization)["']?\s*[:=]\s*(?:bearer\s+|basic\s+)?)"""
            r"""("[^"]*"|'[^']*'|[^\s,;&}\])'"]+)""",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # a Fernet token's own look
    (("gaaaa",), re.compile(r"\bgAAAA[\w=-]{40,}"), MASK),
)


@contextlib.contextmanager
def about(**fields: str | None) -> Iterator[None]:
    """Add fields (`global_request_id`, `project_id`, `user_id`, ...) to what this thread logs meanwhile."""
    token = _about.set({**_about.get(), **{key: value for key, value in fields.items() if value}})
    try:
        yield
    finally:
        _about.reset(token)


class Masker:
    """Replaces secrets: the known values wherever they stand, and what a known name introduces."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        values = sorted(
            (re.escape(s.reveal()) for s in secrets if len(s.reveal()) >= 6), key=len, reverse=True
        )
        self._values = re.compile("|".join(values)) if values else None

    def __call__(self, text: str) -> str:
        if self._values is not None:
            text = self._values.sub(MASK, text)
        small = text.lower()
        for words, pattern, replacement in _MASKS:
            if any(word in small for word in words):
                text = pattern.sub(replacement, text)
        return text


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra=`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "process", "pid", "message", "request_id", ..., "exception"}`."""

    def __init__(self, process: str, masker: Masker) -> None:
        super().__init__()
        self._process = process
        self._mask = masker

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "pid": record.process,
            "message": self._mask(record.getMessage()),
        }
        if request_id := context.request_id():
            line["request_id"] = request_id
        line |= _about.get()
        for key, value in _extra(record).items():
            text = value if isinstance(value, str | int | float | bool | None) else str(value)
            line[key] = self._mask(text) if isinstance(text, str) else text
        if record.exc_info:
            line["exception"] = self._mask(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class HumanFormatter(logging.Formatter):
    """`12:00:01.123 INFO  compute.scheduler [req-...] message key=value`, in colour on a terminal."""

    _COLOURS: Final = {
        "WARNING": "\033[33m",
        "ERROR": "\033[31m",
        "CRITICAL": "\033[31;1m",
        "DEBUG": "\033[2m",
    }

    def __init__(self, masker: Masker, *, colour: bool) -> None:
        super().__init__()
        self._mask = masker
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        request_id = context.request_id()
        pairs = " ".join(f"{key}={value}" for key, value in {**_about.get(), **_extra(record)}.items())
        text = self._mask(
            f"{moment} {record.levelname:<7} {record.name.removeprefix('altostack.')} "
            f"{f'[{request_id}] ' if request_id else ''}{record.getMessage()}{' ' + pairs if pairs else ''}"
        )
        if record.exc_info:
            text += "\n" + self._mask(self.formatException(record.exc_info))
        colour = self._COLOURS.get(record.levelname, "") if self._colour else ""
        return f"{colour}{text}\033[0m" if colour else text


class Logging:
    """The handlers that `setup` put on the root logger; `close()` takes them off again."""

    def __init__(self, handlers: list[logging.Handler], before: Mapping[str, int]) -> None:
        self._handlers = handlers
        self._before = before

    def close(self) -> None:
        root = logging.getLogger()
        for handler in self._handlers:
            root.removeHandler(handler)
            handler.close()
        for name, level in self._before.items():
            logging.getLogger(name or None).setLevel(level)


def setup(
    process: str,
    folder: Path | None = None,
    *,
    level: str = "info",
    levels: Mapping[str, str] | None = None,
    secrets: Iterable[Secret] = (),
    terminal: TextIO | None = None,
) -> Logging:
    """Log this process to `folder/<process>.log` as JSON, and to `terminal` for people, whichever are given.

    `levels` maps logger names to levels that differ from `level`. Files rotate at 10 MiB, five are kept; they
    are made readable by their owner alone. Call it once a process, after the fork.

    Raises:
        ValueError: a level is none of debug, info, warning, error, critical.
    """
    masker = Masker(secrets)
    handlers: list[logging.Handler] = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{process}.log"
        path.touch(mode=0o600)
        file = logging.handlers.RotatingFileHandler(
            path, maxBytes=ROTATE_BYTES, backupCount=ROTATE_KEEP, encoding="utf-8", errors="backslashreplace"
        )
        file.setFormatter(JsonFormatter(process, masker))
        handlers.append(file)
    if terminal is not None:
        stream = logging.StreamHandler(terminal)
        stream.setFormatter(HumanFormatter(masker, colour=terminal.isatty()))
        handlers.append(stream)
    wanted = {"": level, **QUIET, **(levels or {})}
    before = {name: logging.getLogger(name or None).level for name in wanted}
    for name, word in wanted.items():
        logging.getLogger(name or None).setLevel(word.upper())
    for handler in handlers:
        logging.getLogger().addHandler(handler)
    return Logging(handlers, before)


def for_tool(*, verbose: bool) -> Logging:
    """What a command-line tool logs: to standard error, warnings only unless `verbose`."""
    return setup("tool", level="debug" if verbose else "warning", terminal=sys.stderr)
