"""Microversions: ladders, negotiation and the changes at the edge.

Source: the API working group's microversion specification, and each service's own headers.
Inner code sees only the newest shape; a `Change` turns requests up and responses down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from altostack.kit.errors import BadRequest, NotAcceptable


class Version(NamedTuple):
    """``major.minor``, compared as numbers."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def parse(text: str) -> Version:
    """Read ``"2.15"``. Raises ValueError for anything else."""
    major, dot, minor = text.partition(".")
    if not dot or not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise ValueError(f"{text!r} is not of the form X.Y")
    if len(major) > 6 or len(minor) > 6:
        raise ValueError(f"{text!r} is out of range")
    return Version(int(major), int(minor))


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The microversions a service speaks.

    ``service`` is the word in ``OpenStack-API-Version: <service> X.Y``; ``legacy`` an older header's name.
    ``steps`` documents each version in one line; its keys must run from ``low`` to ``high`` where given.
    ``vary`` is how the header is spelled in Vary; ``malformed`` and ``beyond`` are what refusals say.
    """

    service: str
    low: Version
    high: Version
    legacy: str | None = None
    steps: Mapping[str, str] | None = None
    vary: str = "OpenStack-API-Version"
    malformed: str = (
        "API Version String '{asked}' is of invalid format. It must be of format X.Y or 'latest'."
    )
    beyond: str = "Version {asked} is not supported by the API. Minimum is {low} and maximum is {high}."

    def negotiate(self, headers: Mapping[str, str]) -> Version:
        """The version the request asks for, ``low`` when it asks for none. Keys of headers are lower case.

        Raises BadRequest for a malformed value, NotAcceptable for one out of range.
        """
        asked = self._asked(headers)
        if asked is None:
            return self.low
        if asked == "latest":
            return self.high
        try:
            version = parse(asked)
        except ValueError as error:
            raise BadRequest(self.malformed.format(asked=asked), field="OpenStack-API-Version") from error
        if not self.low <= version <= self.high:
            raise NotAcceptable(
                self.beyond.format(asked=asked, low=self.low, high=self.high),
                detail={"min_version": str(self.low), "max_version": str(self.high)},
            )
        return version

    def _asked(self, headers: Mapping[str, str]) -> str | None:
        for part in headers.get("openstack-api-version", "").split(","):
            name, _, value = part.strip().partition(" ")
            if name == self.service and value.strip():
                return value.strip()
        if self.legacy:
            return headers.get(self.legacy.lower())
        return None

    def headers(self, version: Version) -> dict[str, str]:
        """What the response says about the version it used."""
        spoken = {"OpenStack-API-Version": f"{self.service} {version}"}
        vary = self.vary
        if self.legacy:
            spoken[self.legacy] = str(version)
            vary += f", {self.legacy}"
        spoken["Vary"] = vary
        return spoken


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became different in version ``at``.

    For older callers ``request`` turns their body into the newer shape and ``response`` turns the newer
    answer (one object without its envelope) into theirs; both edit the mapping they are given.
    ``ops`` names the operations it touches ("list", "show", "create", ...).
    """

    at: Version
    ops: frozenset[str] = frozenset({"list", "show", "create", "update"})
    request: Callable[[dict[str, Any]], None] | None = None
    response: Callable[[dict[str, Any]], None] | None = None
