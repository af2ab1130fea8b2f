"""Answers of operations on many objects (object storage API, bulk operations): text, JSON or XML.

Such an answer can take long. A client's connection is kept alive by blanks in front of it once the wait is longer than
a few seconds; the status has to be said before, so the real one is in the text.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

import msgspec

from altostack.objectstore.http import REASONS, Request, Response

FORMATS: Final = ("text/plain", "application/json", "application/xml", "text/xml")
Errors = Sequence[tuple[str, str]]  # (quoted name, status)


def wanted_format(request: Request, formats: Sequence[str] = FORMATS) -> str | None:
    """Which of ``formats`` the Accept header prefers, None for none; the first one without or with a broken one."""
    accept = request.headers.get("accept", "").strip()
    if not accept:
        return formats[0]
    best, found = 0.0, None
    for part in accept.split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    return formats[0]
        if "/" not in name:
            return formats[0]
        for one in formats:
            fits = name in ("*/*", one) or (name.endswith("/*") and one.startswith(name[:-1]))
            if fits and quality > best:
                best, found = quality, one
                break
    return found


def status_line(status: int) -> str:
    """``404 Not Found``."""
    return f"{status} {REASONS.get(status, '')}".rstrip()


def report(form: str | None, said: dict[str, object], errors: Errors, root: str) -> bytes:
    """The answer's text. said: what is told, by name; root: the outermost element in XML."""
    if form == "application/json":
        return msgspec.json.encode({**said, "Errors": errors})
    names = sorted(said)
    if form is not None and form.endswith("/xml"):
        fields = "".join(
            f"<{tag}>{escape(str(said[name]))}</{tag}>\n"
            for name in names
            for tag in (name.replace(" ", "_").lower(),)
        )
        lines = "".join(
            f"<object><name>{escape(name)}</name><status>{escape(status)}</status></object>\n"
            for name, status in errors
        )
        return f"<{root}>\n{fields}<errors>\n{lines}</errors>\n</{root}>\n".encode()
    text = "".join(f"{name}: {said[name]}\n" for name in names)
    return (text + "Errors:\n" + "".join(f"{name}, {status}\n" for name, status in errors)).encode()


def patient(
    status: int,
    form: str | None,
    work: Iterator[None],
    result: Callable[[], bytes],
    *,
    beat: float = 10.0,
) -> Response:
    """Do ``work`` step by step and answer with ``result``; after ``beat`` seconds the answer begins with blanks."""
    headers = {"content-type": f"{form or FORMATS[0]}; charset=utf-8"}
    prologue = (
        b'<?xml version="1.0" encoding="UTF-8"?>\n' if form is not None and form.endswith("/xml") else b""
    )
    until = time.monotonic() + beat
    for _ in work:
        if time.monotonic() > until:
            break
    else:
        return Response(status, headers, (prologue + result(),))  # in chunks all the same: clients expect it

    def body() -> Iterator[bytes]:
        yield prologue or b" "
        last = time.monotonic()
        for _ in work:
            if time.monotonic() > last + beat:
                last = time.monotonic()
                yield b" "
        yield b"\r\n\r\n" + result()

    return Response(status, headers, body())


def meanwhile(work: Callable[[], None], *, tick: float = 0.5) -> Iterator[None]:
    """Run ``work`` in a thread of its own and step until it is done, every ``tick`` seconds; raises what it raises."""
    trouble: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(tick)
        yield
    if trouble:
        raise trouble[0]
