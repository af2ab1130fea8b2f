"""A tour through a client's commands: each is run, its effect looked up, and what became of it noted."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from altostack.inprocess import InProcessCloud
from tests.clients.client import Answer, Client, Done

_IDS = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|\b[0-9a-f]{32,}\b|\breq-\S+")
_REFUSALS = {*range(400, 500), 501}


class Kind(IntEnum):
    """What becomes of a command, from good to bad."""

    WORKS = 0
    REFUSED = 1
    FAILS = 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a command; words: the service's refusal, or what is wrong."""

    kind: Kind
    words: str = ""


def outcome(done: Done) -> Outcome:
    """Judge one run: a refusal is the service's last word and names its reason; all else that does not work fails."""
    broken = [one for one in done.answers if one.status >= 500 and one.status not in _REFUSALS]
    if broken:
        return Outcome(kind=Kind.FAILS, words=f"{broken[0].status} to {broken[0].method} {broken[0].path}")
    if "Traceback (most recent call last)" in done.trouble + done.output:
        return Outcome(kind=Kind.FAILS, words=_plain(done.trouble.strip().splitlines()[-1]))
    last = done.answers[-1] if done.answers else None
    # The client takes "not found" for "deleted".
    ended = done.code == 0 and not (last is not None and last.method == "DELETE")
    if not ended and last is not None and last.status in _REFUSALS:
        return Outcome(kind=Kind.REFUSED, words=_plain(f"{last.status}: {_reason(last.text)}"))
    if done.code == 0:
        return Outcome(kind=Kind.WORKS)
    return Outcome(kind=Kind.FAILS, words=_plain(f"the client: {(done.trouble or done.output).strip()}"))


class Tour:
    """Commands run as people of a cloud, and ``outcomes``: name -> the worst that happened to it.

    folder: where scenarios put files, and where commands run. program: whose commands they are. answers: what the last
    command was answered.
    """

    def __init__(
        self,
        *,
        cloud: InProcessCloud,
        client: Client,
        commands: Mapping[str, bool],
        folder: Path,
        program: str = "openstack",
    ) -> None:
        self.cloud, self.folder = cloud, folder
        self.answers: tuple[Answer, ...] = ()
        self._program = program
        self.outcomes: dict[str, Outcome] = {}
        self._client, self._commands = client, commands
        self._who: dict[str, list[str]] = {}
        for name, password in cloud.passwords.items():
            self.meet(name, password, name)

    def meet(self, name: str, password: str, project: str) -> None:
        """Know a person by the user's name."""
        place = ["--os-auth-url", f"{self.cloud.cloud.url}/identity/v3"]
        domains = ["--os-user-domain-id", "default", "--os-project-domain-id", "default"]
        # In one word with its option, for it may begin with "-".
        login = ["--os-username", name, f"--os-password={password}", "--os-project-name", project]
        version = ["--auth-version", "3"] if self._program == "swift" else []
        self._who[name] = [*version, *place, *domains, *login]

    def meet_token(self, name: str, token: str) -> None:
        """Know somebody by a token alone."""
        place = ["--os-auth-url", f"{self.cloud.cloud.url}/identity/v3"]
        self._who[name] = [*place, "--os-auth-type", "token", f"--os-token={token}"]

    def know(self, name: str, words: Sequence[str]) -> None:
        """Know somebody by these options; none make nobody of them."""
        self._who[name] = list(words)

    def __call__(self, line: str, *, who: str = "admin") -> Any:
        """Run a command and note what became of it: its JSON, or its text; "" under every key if it did not work."""
        name = self._name(line)
        done = self._run(line, who)
        self._note(name, outcome(done))
        if done.code:
            return defaultdict(str)
        return json.loads(done.output or "null") if self._commands[name] else done.output

    def works(self, line: str, *, who: str = "admin") -> bool:
        """Whether a command works; nothing is noted, for it may well not."""
        return self._run(line, who).code == 0

    def expect(self, command: str, found: Any, wanted: Any) -> None:
        """Note a command that said it worked and did not do what it is for."""
        if found != wanted:
            words = _plain(f"no effect: {found!r}, expected {wanted!r}")
            self._note(command, Outcome(kind=Kind.FAILS, words=words))

    def change(self, line: str, look: str, *, who: str = "admin", **wanted: Any) -> Any:
        """A command after which ``look`` shows these fields."""
        said = self(line, who=who)
        shown = self(look, who=who)
        if self.outcomes[self._name(line)].kind is Kind.WORKS:
            self.expect(self._name(line), {key: shown.get(key) for key in wanted}, wanted)
        return said

    def column(self, look: str, column: str, *, who: str = "admin") -> list[Any]:
        """One column of a list."""
        rows = self(look, who=who)
        return [row[column] for row in rows] if isinstance(rows, list) else []

    def add(self, line: str, look: str, column: str, value: Any, *, who: str = "admin") -> Any:
        """A command after which the list ``look`` has a row with this value."""
        said = self(line, who=who)
        if isinstance(value, _Field):
            value = said[value.name]
        found = self.column(look, column, who=who)
        if self.outcomes[self._name(line)].kind is Kind.WORKS:
            self.expect(self._name(line), value if value in found else found, value)
        return said

    def remove(self, line: str, look: str, column: str, value: Any, *, who: str = "admin") -> None:
        """A command before which the list ``look`` has a row with this value, and after which it has none."""
        name = self._name(line)
        before = value in self.column(look, column, who=who)
        self(line, who=who)
        after = value in self.column(look, column, who=who)
        if self.outcomes[name].kind is Kind.WORKS:
            self.expect(name, (before, after), (True, False))

    def _name(self, line: str) -> str:
        words = shlex.split(line)
        names = (" ".join(words[:count]) for count in range(len(words), 0, -1))
        found = next((name for name in names if name in self._commands), None)
        if found is None:
            raise LookupError(f"the client has no command {line!r}")
        return found

    def _run(self, line: str, who: str) -> Done:
        form = ["-f", "json"] if self._commands[self._name(line)] else []
        done = self._client.run([*self._who[who], *shlex.split(line), *form], program=self._program)
        self.answers = done.answers
        return done

    def _note(self, name: str, found: Outcome) -> None:
        known = self.outcomes.get(name)
        if known is None or known.kind < found.kind:
            self.outcomes[name] = found


@dataclass(frozen=True)
class _Field:
    name: str


def said(name: str) -> Any:
    """For `Tour.add`: the value that the command itself printed under this name."""
    return _Field(name)


def _reason(text: str) -> str:
    """The message in an error's body: JSON of any of the services' shapes, or HTML."""
    try:
        body = json.loads(text)
    except ValueError:
        return re.sub(r"<[^>]*>", " ", text)
    if isinstance(body, dict) and isinstance(body.get("errors"), list):
        body = body["errors"][0]
    while isinstance(body, dict):
        keys = ("error", "message", "detail", "title")
        body = next((body[key] for key in keys if key in body), next(iter(body.values()), ""))
    return str(body)


def _plain(text: str) -> str:
    """One line without anything that differs from run to run."""
    text = re.sub(r"http://[^/\s'\"]+", "http://CLOUD", text)
    return " ".join(_IDS.sub("ID", text).split())
