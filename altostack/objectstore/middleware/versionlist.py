"""Listings of versions: ``GET /v1/account/container?versions`` (object storage API, object versioning).

Two lists become one: the container's own, which has the objects that clients see, and that of the hidden container,
which has all versions. It is in the order of names, and of each name the newest version comes first.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response, ask
from altostack.objectstore.middleware import hidden
from altostack.objectstore.middleware.shape import failed, parameters, true, with_parameters
from altostack.objectstore.middleware.versioned import MARKER_TYPE

Entry = dict[str, Any]
_IN_STAMPS: Final = frozenset("0123456789\x01\x02")


def show_markers(entries: list[Entry]) -> None:
    """Give delete markers among ``entries`` the content type by which clients know them."""
    for entry in entries:
        listed = entry.get("hash")
        if listed and "versions_deleted=" in listed:
            etag, found = parameters(listed)
            del found["versions_deleted"]
            entry["hash"] = with_parameters(etag, found)
            entry["content_type"] = MARKER_TYPE


def show_current(entries: list[Entry], place: Place) -> None:
    """Let links to versions look like what they lead to."""
    name = hidden.container_of(str(place.container))
    prefix = f"/{place.version}/{quote(place.account)}/{quote(name)}/"
    for entry in entries:
        path = entry.get("symlink_path")
        if path is None or not path.startswith(prefix) or "symlink_etag" not in entry:
            continue
        found = hidden.parse(unquote(path[len(prefix) :]))
        if found is None:
            continue
        _, parameters_ = parameters(entry["hash"])
        entry["hash"] = with_parameters(entry.pop("symlink_etag"), parameters_)
        entry["bytes"] = entry.pop("symlink_bytes", entry["bytes"])
        entry["version_symlink"] = True
        own = quote(f"{place.container}/{found[0]}")
        entry["symlink_path"] = f"/{place.version}/{quote(place.account)}/{own}?version-id={found[1]}"


class Versions:
    """One such listing. Raises Refusal for parameters that make no sense here."""

    def __init__(self, app: Handler, request: Request, place: Place, most: int) -> None:
        self._app, self._request, self._place = app, request, place
        self._hidden = hidden.container_of(str(place.container))
        query = request.query
        self._prefix = query.get("prefix", "")
        self._delimiter = query.get("delimiter", "")
        self._marker, self._end = query.get("marker", ""), query.get("end_marker", "")
        self._reverse = true(query.get("reverse"))
        self._behind = query.get("version_marker")  # the version behind which the list begins
        said = query.get("limit", "")
        self._limit = min(int(said), most) if said.isascii() and said.isdecimal() else most
        if _IN_STAMPS.intersection(self._delimiter):
            raise Refusal(400, "invalid delimiter param")
        if self._behind is not None:
            if not self._marker:
                raise Refusal(400, "version_marker param requires marker")
            if self._behind != "null":
                self._behind = hidden.version_of(self._behind)
                if self._behind is None:
                    raise Refusal(400, "invalid version_marker param")

    def entries(self, own: list[Entry]) -> list[Entry]:
        """The list. own: the container's own listing for the same request."""
        current: dict[str, Entry] = {}  # name -> what clients see
        subdirs = {entry["subdir"] for entry in own if "subdir" in entry}
        for entry in own + self._marked():
            if "name" in entry:
                current[entry["name"]] = entry
        found = self._versions(subdirs)
        merged: list[tuple[tuple[str, str], Entry]] = [((name, ""), {"subdir": name}) for name in subdirs]
        shown: dict[str, str] = {}  # name -> version that clients see
        for name, entry in current.items():
            version = _version_of(entry)
            shown[name] = version
            if version == "null" and self._wanted(name, version):
                merged.append(((name, ""), entry | {"version_id": "null", "is_latest": True}))
        newest = self._newest(found)
        for name, version, entry in found:
            latest = (
                shown[name] == version if name in shown else newest.get(name) == version and _is_marker(entry)
            )
            entry |= {"name": name, "version_id": version, "is_latest": latest}
            merged.append(((name, hidden.name_of(name, version)), entry))
        merged.sort(key=lambda pair: (pair[0][0].encode(), pair[0][1]), reverse=self._reverse)
        return [entry for _, entry in merged[: self._limit]]

    def _wanted(self, name: str, version: str) -> bool:
        """Whether the marker leaves room for what clients see of the marker's own name."""
        if name != self._marker or self._behind is None:
            return True
        return self._reverse and self._behind != version

    def _marked(self) -> list[Entry]:
        """The object that the marker names, when the list begins in the midst of its versions."""
        if self._behind is None:
            return []
        query = {"prefix": self._marker, "limit": "1"}
        place = self._place
        path = f"/{place.version}/{place.account}/{place.container}"
        response = ask(self._app, self._request.sub("GET", path, query_string=urlencode(query)))
        if not response.good:
            raise failed(response)
        entries = response.entries or []
        show_current(entries, place)
        return [entry for entry in entries if entry.get("name") == self._marker]

    def _versions(self, subdirs: set[str]) -> list[tuple[str, str, Entry]]:
        """(name, version, entry) of the hidden container's listing; its common prefixes go to ``subdirs``."""
        query = {"limit": str(self._limit)}
        if self._prefix:
            query["prefix"] = hidden.escaped(self._prefix)
        if self._delimiter:
            query["delimiter"] = self._delimiter
        if self._reverse:
            query["reverse"] = "on"
        if self._marker:
            query["marker"] = self._edge()
        if self._end:
            edge = hidden.behind if self._reverse else hidden.before
            query["end_marker"] = edge(self._end)
        found = []
        for entry in self._ask(query):
            if "subdir" in entry:
                subdirs.add(hidden.plain(entry["subdir"]))
                continue
            parsed = hidden.parse(entry["name"])
            if parsed is not None:
                found.append((*parsed, entry))
        return found

    def _edge(self) -> str:
        if self._behind is None:
            return (hidden.before if self._reverse else hidden.behind)(self._marker)
        if self._behind == "null":  # newer than all others
            return hidden.before(self._marker)
        return hidden.name_of(self._marker, self._behind)

    def _newest(self, found: list[tuple[str, str, Entry]]) -> dict[str, str]:
        """The newest version of each name that is not to be seen."""
        newest: dict[str, str] = {}
        for name, version, _ in found:
            newest[name] = max(version, newest.get(name, ""))
        doubtful = set()
        if self._behind is not None:
            doubtful.add(self._marker)
        if self._reverse and found:
            doubtful.add(found[-1][0])
        for name in doubtful & newest.keys():
            (entry, *_) = [*self._ask({"prefix": hidden.before(name), "limit": "1"}), {}]
            parsed = hidden.parse(entry.get("name", ""))
            if parsed is not None:
                newest[name] = parsed[1]
        return newest

    def _ask(self, query: dict[str, str]) -> list[Entry]:
        path = f"/{self._place.version}/{self._place.account}/{self._hidden}"
        response: Response = ask(self._app, self._request.sub("GET", path, query_string=urlencode(query)))
        if response.status == 404:
            return []
        if not response.good:
            raise failed(response)
        entries = response.entries or []
        show_markers(entries)
        return entries


def _is_marker(entry: Entry) -> bool:
    return entry.get("content_type") == MARKER_TYPE


def _version_of(entry: Entry) -> str:
    if not entry.get("version_symlink"):
        return "null"
    return str(entry["symlink_path"]).rpartition("?version-id=")[2]
