"""The reference's fixtures, with everything that they do to a database of their own done to the cloud instead."""

from __future__ import annotations

import os
import unittest
import uuid
from types import SimpleNamespace
from typing import Any

from far import Identity, Place, Provider
from oslo_utils.fixture import uuidsentinel
from placement.tests.functional.db import test_base
from placement.tests.functional.fixtures import gabbits

# What the tests call themselves, for the reference's fixtures to fill.
_FRESH = (
    "RP_UUID", "RP_NAME", "RP_UUID1", "RP_NAME1", "RP_UUID2", "RP_NAME2", "USER_ID", "USER_ID_ALT", "INSTANCE_UUID",
    "MIGRATION_UUID", "CONSUMER_UUID", "PARENT_PROVIDER_UUID", "ALT_PARENT_PROVIDER_UUID",
)  # fmt: skip
_CLASSES = {
    "CUSTOM_RES_CLASS": "CUSTOM_IRON_NFV", "CUSTOM_RES_CLASS1": "CUSTOM_IRON_NFV1",
    "CUSTOM_RES_CLASS2": "CUSTOM_IRON_NFV2",
}  # fmt: skip
_PROJECTS = ("PROJECT_ID", "PROJECT_ID_ALT", "ADMIN_PROJECT_ID", "SERVICE_PROJECT_ID")


class Stage:
    """Where tests play: the fixtures of the reference act on it once `set_up`."""

    def __init__(self) -> None:
        self.identity = Identity()
        self.place = Place(self.identity.admin)
        self.open = False  # whether the running file wants a policy that allows everything to everybody

    def set_up(self) -> None:
        """Replace the functions through which the reference's fixtures work."""
        stage = self

        def start(fixture: Any) -> None:
            stage.open = isinstance(fixture, gabbits.OpenPolicyFixture)
            stage.place.empty()
            fixture.context = SimpleNamespace()
            os.environ.update({name: str(uuid.uuid4()) for name in _FRESH}, **_CLASSES)
            os.environ.update({name: stage.identity.project(name) for name in _PROJECTS})

        def not_kept(why: str) -> Any:
            def refuse(fixture: Any) -> None:
                raise unittest.SkipTest(why)

            return refuse

        changes: list[tuple[Any, str, Any]] = [
            (gabbits.APIFixture, "start_fixture", start),
            (gabbits.APIFixture, "stop_fixture", lambda fixture: None),
            (gabbits.OpenPolicyFixture, "start_fixture", start),
            (
                gabbits.LegacyRBACPolicyFixture,
                "start_fixture",
                not_kept("the rules that the reference gave up"),
            ),
            (gabbits.CORSFixture, "start_fixture", not_kept("CORS is the business of the proxy in front")),
            (test_base, "create_provider", self._create_provider),
            (
                test_base,
                "add_inventory",
                lambda row, name, total, **more: row.add_inventory(name, total, more),
            ),
            (test_base, "set_traits", lambda row, *names: row.set_traits(names)),
            (test_base, "ensure_consumer", self._ensure_consumer),
            (test_base, "set_allocation", self._set_allocation),
            (
                test_base,
                "create_user_and_project",
                lambda context, prefix="fake": (_who(prefix), _who(prefix)),
            ),
            (gabbits.user_obj, "User", lambda context, external_id: _who(external_id)),
            (gabbits.project_obj, "Project", lambda context, external_id: _who(external_id)),
            (gabbits.rc_obj, "ResourceClass", self._resource_class),
        ]
        for target, name, value in changes:
            assert hasattr(target, name), f"the reference has no {name} any more"
            setattr(target, name, value)  # not a mock.patch: one of the suites ends all of those

    def headers(self, asked: dict[str, str]) -> dict[str, str]:
        """The same with a token of the cloud instead of the reference's shorthand for one."""
        found = {name.lower(): value for name, value in asked.items()}
        word = found.get("x-auth-token")
        if word is None:
            return found
        roles, project = found.pop("x-roles", None), found.pop("x-project-id", None)
        system = found.pop("openstack-system-scope", None)
        if word.startswith("admin") or (self.open and roles is None):
            # The reference's shorthand for somebody who may do everything, the services' part too.
            found["x-auth-token"] = self.identity.token("admin,service", "ADMIN_PROJECT_ID")
        elif roles is not None:
            found["x-auth-token"] = self.identity.token(roles, None if system else project)
        else:
            found["x-auth-token"] = self.identity.token("", project)
        return found

    # ---- what stands in for the reference's functions

    def _create_provider(self, context: Any, name: str, *aggregates: str, **more: Any) -> Provider:
        key = more.get("uuid") or getattr(uuidsentinel, name)
        body = {"name": name, "uuid": key}
        if more.get("parent"):
            body["parent_provider_uuid"] = more["parent"]
        self.place.call("POST", "/resource_providers", body)
        row = Provider(self.place, key)
        if aggregates:
            row.set_aggregates(aggregates)
        return row

    def _ensure_consumer(self, context: Any, user: Any, project: Any, consumer_id: str | None = None) -> Any:
        return SimpleNamespace(uuid=consumer_id or str(uuid.uuid4()), user=user, project=project)

    def _set_allocation(self, context: Any, row: Provider, consumer: Any, amounts: dict[str, int]) -> None:
        body = {
            "allocations": {row.uuid: {"resources": amounts}},
            "user_id": consumer.user.external_id,
            "project_id": consumer.project.external_id,
        }
        self.place.call("PUT", f"/allocations/{consumer.uuid}", body, version="1.12")

    def _resource_class(self, context: Any, name: str) -> Any:
        return SimpleNamespace(create=lambda: self.place.call("PUT", f"/resource_classes/{name}"))


def _who(name: str) -> Any:
    return SimpleNamespace(external_id=name, create=lambda: None)
