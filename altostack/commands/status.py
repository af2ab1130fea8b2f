"""What runs, and how it is."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from altostack.commands.common import compose, state_of
from altostack.deploy import progress
from altostack.deploy.state import State
from altostack.deploy.supervisor import recorded
from altostack.kit import proc

PATIENCE: Final = 5.0
"""Seconds in which an endpoint has to answer."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """0: all is well; 1: something is wrong; 3: the cloud does not run (as the LSB has it)."""
    state = state_of(arguments)
    supervisor = progress.supervisor(state) if state.exists else 0
    if not supervisor:
        told = {"state": str(state.root), "running": False, "created": state.exists}
        print(
            json.dumps(told)
            if arguments.json
            else f"{state.root}: {'stopped' if state.exists else 'no cloud there'}"
        )
        return 3
    table = survey(state, supervisor)
    print(json.dumps(table, indent=1) if arguments.json else _render(table))
    return 0 if table["healthy"] else 1


def survey(state: State, supervisor: int) -> dict[str, Any]:
    """Processes with memory (bytes, proportional) and use of a core (share of their life), and the endpoints."""
    composition, _ = compose(state)
    rows: list[dict[str, Any]] = [
        {"name": "supervisor", "pid": supervisor, "ready": True, "restarts": 0, "since": 0.0}
    ]
    rows += [dict(each) for each in recorded(state)]
    wanted = sum(role.count for role in composition.roles.values()) + 1
    for row in rows:
        row["pss"], row["cpu_seconds"] = 0, 0.0
        with contextlib.suppress(OSError):  # ended meanwhile
            row["pss"], row["cpu_seconds"] = proc.pss(row["pid"]), proc.cpu_seconds(row["pid"])
    endpoints = {name: _ask(url) for name, url in composition.endpoints.items()}
    healthy = (
        len(rows) == wanted
        and all(row["ready"] for row in rows)
        # Whatever the root of a service says to a stranger, below 500 it is the service that speaks.
        and all(0 < answer["status"] < 500 for answer in endpoints.values())
    )
    return {
        "state": str(state.root),
        "running": True,
        "healthy": healthy,
        "processes": rows,
        "pss": sum(row["pss"] for row in rows),
        "endpoints": endpoints,
    }


def _ask(url: str) -> dict[str, Any]:
    """Whether something answers at an endpoint: its status (0 = nothing) and how long it took in ms."""
    parts = urllib.parse.urlsplit(url)
    start = time.monotonic()
    status, problem = 0, ""
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=PATIENCE)
    try:
        connection.request("GET", parts.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        problem = str(error)
    finally:
        connection.close()
    return {
        "url": url,
        "status": status,
        "ms": round((time.monotonic() - start) * 1000, 1),
        "problem": problem,
    }


def _render(table: Mapping[str, Any]) -> str:
    lines = [f"{table['state']}: {'running' if table['healthy'] else 'running, but not well'}", ""]
    lines.append(
        f"  {'process':<12} {'pid':>7}  {'state':<9} {'up':>8} {'restarts':>8} {'memory':>9} {'cpu':>9}"
    )
    for row in table["processes"]:
        up = time.time() - row["since"] if row["since"] else None
        lines.append(
            f"  {row['name']:<12} {row['pid']:>7}  {'ready' if row['ready'] else 'starting':<9} "
            f"{_duration(up) if up is not None else '':>8} {row['restarts']:>8} "
            f"{row['pss'] / 2**20:>5.1f} MiB {row['cpu_seconds']:>7.1f} s"
        )
    lines += [f"  {'all':<12} {'':>7}  {'':<9} {'':>8} {'':>8} {table['pss'] / 2**20:>5.1f} MiB", ""]
    width = max(map(len, table["endpoints"]), default=0)
    for name, answer in table["endpoints"].items():
        how = f"{answer['status']} in {answer['ms']} ms" if answer["status"] else answer["problem"]
        lines.append(f"  {name:<{width}}  {answer['url']}  {how}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} d"
