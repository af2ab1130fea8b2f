"""The cloud that is judged, over HTTP: people, the worlds that the tests start from, and an empty place afterwards.

What the reference's fixtures write straight into its database is made here through the API instead.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

import requests

URL = os.environ["CONFORMANCE_URL"]
AUTH = os.environ["CONFORMANCE_AUTH"]
_DEFAULT = {"id": "default"}


class Identity:
    """Tokens for whatever roles a test wants to have, each made once."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], str] = {}
        self._projects: dict[str, str] = {}
        self._roles: dict[str, str] = {}
        self.admin = self._log_in(
            "admin", os.environ["CONFORMANCE_PASSWORD"], {"name": "admin", "domain": _DEFAULT}
        )

    def project(self, name: str) -> str:
        """The id of a project of that name; an id of ours is taken as it is."""
        if name in self._projects.values():
            return name
        if name not in self._projects:
            body = {"project": {"name": name, "domain_id": "default"}}
            self._projects[name] = self._call("POST", "/projects", body)["project"]["id"]
        return self._projects[name]

    def token(self, roles: str, project: str | None) -> str:
        """A token with these roles (separated by commas) in a project, or in the system when there is none."""
        names = [name.strip() for name in roles.split(",") if name.strip()]
        spot = (",".join(sorted(names)), project or "")
        if spot not in self._tokens:
            user = {
                "name": f"conformance-{uuid.uuid4().hex}",
                "password": uuid.uuid4().hex,
                "domain_id": "default",
            }
            key = self._call("POST", "/users", {"user": user})["user"]["id"]
            where = f"/projects/{self.project(project)}" if project else "/system"
            for name in names:
                self._call("PUT", f"{where}/users/{key}/roles/{self._role(name)}")
            scope: Any = None
            if names:
                scope = {"project": {"id": self.project(project)}} if project else {"system": {"all": True}}
            self._tokens[spot] = self._issue({"id": key, "password": user["password"]}, scope)
        return self._tokens[spot]

    def _role(self, name: str) -> str:
        if not self._roles:
            self._roles = {one["name"]: one["id"] for one in self._call("GET", "/roles")["roles"]}
        return self._roles[name]

    def _log_in(self, name: str, password: str, project: dict[str, Any]) -> str:
        return self._issue({"name": name, "domain": _DEFAULT, "password": password}, {"project": project})

    def _issue(self, user: dict[str, Any], scope: Any) -> str:
        auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
        if scope is not None:
            auth["scope"] = scope
        answer = requests.post(f"{AUTH}/auth/tokens", json={"auth": auth}, timeout=60)
        answer.raise_for_status()
        return answer.headers["X-Subject-Token"]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(
            method, AUTH + path, json=body, headers={"X-Auth-Token": self.admin}, timeout=60
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None


class Place:
    """Placement, as admin."""

    def __init__(self, token: str) -> None:
        self._session = requests.Session()
        self._session.headers["X-Auth-Token"] = token

    def call(
        self, method: str, path: str, body: Any = None, *, version: str = "1.39", fine: tuple[int, ...] = ()
    ) -> Any:
        """The decoded answer. Raises RuntimeError on a refusal other than those in ``fine``."""
        headers = {"OpenStack-API-Version": f"placement {version}"}
        answer = self._session.request(method, URL + path, json=body, headers=headers, timeout=60)
        if answer.status_code >= 300 and answer.status_code not in fine:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def empty(self) -> None:
        """Remove every allocation, provider, custom trait and custom class."""
        providers = self.call("GET", "/resource_providers")["resource_providers"]
        for one in providers:
            for consumer in self.call("GET", f"/resource_providers/{one['uuid']}/allocations")["allocations"]:
                self.call("DELETE", f"/allocations/{consumer}", fine=(404,))
        left = {one["uuid"]: one["parent_provider_uuid"] for one in providers}
        while left:
            for key in [key for key in left if key not in left.values()]:  # those below come first
                self.call("DELETE", f"/resource_providers/{key}")
                del left[key]
        for name in self.call("GET", "/traits?name=startswith:CUSTOM_")["traits"]:
            self.call("DELETE", f"/traits/{name}")
        for one in self.call("GET", "/resource_classes")["resource_classes"]:
            if one["name"].startswith("CUSTOM_"):
                self.call("DELETE", f"/resource_classes/{one['name']}")


class Provider:
    """Stands in for the reference's object of that name."""

    def __init__(self, place: Place, key: str) -> None:
        self._place, self.uuid = place, key

    def set_aggregates(self, aggregates: Any) -> None:
        self._place.call(
            "PUT", f"/resource_providers/{self.uuid}/aggregates", list(aggregates), version="1.1"
        )

    def set_traits(self, names: Any) -> None:
        for name in names:
            if name.startswith("CUSTOM_"):
                self._place.call("PUT", f"/traits/{name}")
        self._put("traits", {"traits": list(names)})

    def add_inventory(self, name: str, total: int, more: dict[str, Any]) -> None:
        if name.startswith("CUSTOM_"):
            self._place.call("PUT", f"/resource_classes/{name}")
        body = {"resource_class": name, "total": total, "max_unit": total, **more}
        self._place.call("POST", f"/resource_providers/{self.uuid}/inventories", body)

    def _put(self, what: str, body: dict[str, Any]) -> None:
        generation = self._place.call("GET", f"/resource_providers/{self.uuid}")["generation"]
        body["resource_provider_generation"] = generation
        self._place.call("PUT", f"/resource_providers/{self.uuid}/{what}", body)
