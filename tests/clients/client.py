"""The unmodified clients in a process of their own, which runs many commands: start-up is paid once.

Run as a module, this is that process, whose argument is the folder that commands are run in. It reads requests from
standard input, one JSON object a line, and answers each with one: {"groups": [...]} with the commands of these entry
point groups of ``openstack`` (name -> whether it can print JSON), {"verbs": "swift"} with what ``swift`` can do, and
{"words": [...], "program": "openstack" or "swift"} with what the command did. It needs nothing but the client: any
environment that has one can run it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the cloud answered to one of a command's requests; text: the body of an error, else empty."""

    method: str
    path: str
    status: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command's exit code, what it printed, and the answers it got, in order."""

    code: int
    output: str
    trouble: str
    answers: tuple[Answer, ...]


class Client:
    """The process. ``python``: the interpreter of an environment that holds the client; folder: where commands run."""

    def __init__(self, python: Path | str = sys.executable, *, folder: Path) -> None:
        # Nothing of the caller's own cloud may lead the client astray.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        self._process = subprocess.Popen(
            [str(python), "-m", "tests.clients.client", str(folder)],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def commands(self, groups: Sequence[str]) -> dict[str, bool]:
        """The installed commands of these entry point groups: name -> whether it can print JSON."""
        found: dict[str, bool] = self._ask({"groups": list(groups)})
        return found

    def verbs(self) -> list[str]:
        """What ``swift`` can do."""
        found: list[str] = self._ask({"verbs": "swift"})
        return found

    def versions(self, packages: Sequence[str]) -> dict[str, str]:
        """Package -> version."""
        found: dict[str, str] = self._ask({"versions": list(packages)})
        return found

    def run(self, words: Sequence[str], *, program: str = "openstack") -> Done:
        """Run one command line of ``openstack`` or ``swift``."""
        said = self._ask({"words": list(words), "program": program})
        answers = tuple(Answer(**one) for one in said.pop("answers"))
        return Done(**said, answers=answers)

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=10)

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client's process ended with {self._process.wait()}")
        return json.loads(line)


# ---- inside the process


class _Terminal(io.StringIO):
    """Standard input with nobody at it: from a pipe the client would read an image's bits."""

    def isatty(self) -> bool:
        return True


def _commands(groups: Sequence[str]) -> dict[str, bool]:
    from cliff.display import DisplayCommandBase

    return {
        entry.name.replace("_", " "): issubclass(entry.load(), DisplayCommandBase)
        for group in groups
        for entry in importlib.metadata.entry_points(group=group)
    }


def _openstack(words: Sequence[str]) -> int:
    from openstackclient.shell import OpenStackShell
    from osc_lib.clientmanager import ClientCache, ClientManager

    for cache in vars(ClientManager).values():
        if isinstance(cache, ClientCache):
            cache._handle = None  # the client keeps them for its process, where it is one person
    return int(OpenStackShell().run(list(words)))


def _swift(words: Sequence[str]) -> int:
    from swiftclient import shell

    shell.main(["swift", *words])
    return 0


def _verbs() -> list[str]:
    from swiftclient import shell

    return list(shell.commands)


def _run(program: str, words: Sequence[str], answers: list[dict[str, Any]]) -> dict[str, Any]:
    logging.getLogger().handlers.clear()  # every run adds one that writes to what was its standard error
    # Some commands write bytes.
    output, trouble = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(trouble),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            code = _swift(words) if program == "swift" else _openstack(words)
        except SystemExit as end:  # a command line that its parser refuses, and how ``swift`` ends
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    done = {
        "code": code,
        "output": _text(output),
        "trouble": _text(trouble),
        "answers": list(answers),
    }
    answers.clear()
    return done


def _text(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(errors="replace")


def _listen(answers: list[dict[str, Any]]) -> None:
    """Note every answer that the client's requests get."""
    import requests
    from urllib3 import HTTPResponse

    send = requests.Session.send

    def sending(session: requests.Session, request: requests.PreparedRequest, **more: Any) -> Any:
        answer = send(session, request, **more)
        text = ""
        if answer.status_code >= 400:
            text = answer.text
            answer.raw = HTTPResponse(
                io.BytesIO(answer.content), preload_content=False
            )  # to be read once more
        one = {"method": request.method, "path": request.path_url, "status": answer.status_code, "text": text}
        answers.append(one)
        return answer

    requests.Session.send = sending  # type: ignore[method-assign,assignment]  # this process is ours alone


def main() -> None:
    """Answer requests until there are no more."""
    requests, replies = sys.stdin, sys.stdout
    os.chdir(sys.argv[1])
    sys.stdin = _Terminal()
    answers: list[dict[str, Any]] = []
    _listen(answers)
    for line in requests:
        request = json.loads(line)
        if "groups" in request:
            reply: Any = _commands(request["groups"])
        elif "verbs" in request:
            reply = _verbs()
        elif "versions" in request:
            reply = {package: importlib.metadata.version(package) for package in request["versions"]}
        else:
            reply = _run(request["program"], request["words"], answers)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
