"""The story of a request or a resource, gathered from every service, on one page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from altostack.kit.clients import Client

_MOST_REQUESTS = 20


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that happened. ``at``: epoch seconds."""

    at: float
    service: str
    kind: str
    resource_id: str
    request_id: str
    step: str
    level: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Story:
    """Everything known about ``key``, oldest first, and the flows that still run or rest: service -> flow state."""

    key: str
    lines: tuple[Line, ...]
    flows: Mapping[str, Mapping[str, Any]]

    @property
    def failure(self) -> Line | None:
        """The line that names the failed step, when there is one."""
        return next((line for line in reversed(self.lines) if line.level == "error"), None)


def gather(clients: Mapping[str, Client], key: str) -> Story:
    """Ask every service about ``key``, and then about each request that touched it. Clients act as an administrator."""
    lines: set[Line] = set()
    flows: dict[str, Mapping[str, Any]] = {}
    asked: set[str] = set()
    waiting = [key]
    while waiting and len(asked) < _MOST_REQUESTS:
        one = waiting.pop(0)
        asked.add(one)
        for name, client in clients.items():
            found = client.call("GET", f"/internal/story/{one}")
            if found["flow"] and one == key:
                flows[name] = found["flow"]
            for row in found["story"]:
                line = Line(
                    at=row["at"],
                    service=name,
                    kind=row["kind"],
                    resource_id=row["resource_id"],
                    request_id=row["request_id"],
                    step=row["step"],
                    level=row["level"],
                    message=row["message"],
                )
                lines.add(line)
                if line.request_id and line.request_id not in asked and line.request_id not in waiting:
                    waiting.append(line.request_id)
    return Story(key=key, lines=tuple(sorted(lines, key=lambda line: line.at)), flows=flows)


def render(story: Story) -> Iterator[str]:
    """The page, line by line."""
    if not story.lines and not story.flows:
        yield f"Nothing is known about {story.key}. Is it the id of a request (req-...) or of a resource?"
        return
    yield f"The story of {story.key}"
    yield ""
    begin = story.lines[0].at if story.lines else 0.0
    request = ""
    for line in story.lines:
        if line.request_id != request:
            request = line.request_id
            moment = datetime.fromtimestamp(line.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            yield f"{moment}  {request or '(no request)'}"
        mark = {"error": "✗", "warning": "!"}.get(line.level, " ")
        who = f"{line.service}/{line.kind} {line.resource_id[:8]}"
        yield f"  {mark} +{line.at - begin:8.3f} s  {who:<28} {line.step:<14} {line.message}"
    yield ""
    yield from _ending(story)


def _ending(story: Story) -> Iterable[str]:
    for name, flow in story.flows.items():
        state = "is being deleted" if flow["doomed"] else f"is at step {flow['step']}"
        tried = f", attempt {flow['attempt'] + 1}" if flow["attempt"] else ""
        yield f"Now: {name}/{flow['kind']} {state}{tried}."
        if flow["error"]:
            yield f"Last trouble: {flow['error']}"
    failure = story.failure
    if failure is not None:
        yield f"It failed in {failure.service} at step {failure.step}: {failure.message}"
