"""The access log: one JSON object a line for every request that was answered, as the kit's own logs have them.

A line is made in microseconds and written by a thread of its own a few times a second, so the log costs requests next
to nothing; a process that is killed loses the lines of its last moment. All processes of a machine write one file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from altostack.kit.log import ROTATE_BYTES, ROTATE_KEEP
from altostack.objectstore.http import Request, Response

log = logging.getLogger(__name__)

_MOST: Final = 20_000  # lines that wait; more are counted and dropped
# Parameters of queries that are as good as a password while they last.
_SECRETS: Final = re.compile(
    r"((?:^|&)(?:temp_url_sig|swiftinfo_sig|signature|x-amz-signature|x-amz-security-token|x-amz-credential"
    r"|awsaccesskeyid|token|x-auth-token|x-storage-token|password|key)=)[^&]*",
    re.IGNORECASE,
)
_encode = msgspec.json.Encoder().encode


def masked(query: str) -> str:
    """A query string without the secrets in it."""
    return _SECRETS.sub(r"\1***", query) if query else query


class Line(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What is told of a request. bytes_in, bytes_sent: of bodies; seconds: until the last byte was sent."""

    time: str
    level: str
    logger: str
    process: str
    pid: int
    message: str
    request_id: str
    method: str
    path: str
    status: int
    bytes_in: int | None = None
    bytes_sent: int
    seconds: float
    client: str
    user: str | None = None
    project: str | None = None
    agent: str | None = None


class AccessLog:
    """Call it with each answered request (`httpd.Server`, ``done``)."""

    def __init__(self, path: Path, *, process: str = "objectstore", every: float = 0.25) -> None:
        self._path, self._process, self._every = path, process, every
        self._lines: list[bytes] = []
        self._dropped = 0
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def __call__(self, request: Request, response: Response, sent: int, seconds: float) -> None:
        who = request.context
        headers = request.headers
        path = f"{request.target}?{masked(request.query_string)}" if request.query_string else request.target
        line = Line(
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            level="info",
            logger="altostack.objectstore.access",
            process=self._process,
            pid=os.getpid(),
            message=f"{request.method} {path} {response.status}",
            request_id=request.trans_id,
            method=request.method,
            path=path,
            status=response.status,
            bytes_in=request.body.length,
            bytes_sent=sent,
            seconds=round(seconds, 6),
            client=headers.get("x-forwarded-for") or request.remote,
            user=request.facts.get("user") or (who.user_id if who is not None else None),
            project=who.project_id if who is not None else None,
            agent=headers.get("user-agent"),
        )
        try:
            text = _encode(line) + b"\n"
        except UnicodeEncodeError:  # bytes of a header that are no UTF-8
            text = _encode(_printable(line)) + b"\n"
        with self._lock:
            if self._pid != os.getpid():  # the first line, or the first after a fork
                self._start()
            if len(self._lines) < _MOST:
                self._lines.append(text)
            else:
                self._dropped += 1
        self._some.set()

    def close(self) -> None:
        """Write what waits."""
        self._closing.set()
        self._some.set()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(5.0)

    def _start(self) -> None:
        self._pid, self._lines = os.getpid(), []
        self._thread = threading.Thread(target=self._run, daemon=True, name="access-log")
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._some.wait()
            closing = self._closing.wait(self._every)
            self._some.clear()
            with self._lock:
                lines, self._lines = self._lines, []
                dropped, self._dropped = self._dropped, 0
            try:
                if lines:
                    self._write(b"".join(lines))
            except OSError as error:
                dropped += len(lines)
                log.warning("the access log cannot be written: %s", error)
            if dropped:
                log.warning("%d lines of the access log were lost", dropped)
            if closing:
                return

    def _write(self, text: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                # Lines of several processes stay whole, and one of them rotates.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not self._is_current(descriptor):
                    continue
                if os.fstat(descriptor).st_size > ROTATE_BYTES:
                    self._rotate()
                    continue
                while text:
                    text = text[os.write(descriptor, text) :]
                return
            finally:
                os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        for number in range(ROTATE_KEEP - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))


def _printable(line: Line) -> Line:
    told: dict[str, Any] = {name: getattr(line, name) for name in line.__struct_fields__}
    for name, value in told.items():
        if isinstance(value, str):
            told[name] = value.encode("utf-8", "backslashreplace").decode()
    return Line(**told)
