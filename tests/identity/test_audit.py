"""Audit events: one for everything that is made, changed and deleted, and for every login."""

from __future__ import annotations

import json
import queue
from typing import Any

import pytest

from tests.identity.conftest import Keystone, by_password

pytestmark = pytest.mark.everywhere


class Ear:
    """What the bus carries from now on."""

    def __init__(self, keystone: Keystone) -> None:
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue()
        keystone.runtime.bus.subscribe(lambda event: self._queue.put(dict(event)))

    def next(self) -> dict[str, Any]:
        return self._queue.get(timeout=10)

    def nothing(self) -> None:
        with pytest.raises(queue.Empty):
            self._queue.get(timeout=0.2)


@pytest.fixture
def ear(keystone: Keystone) -> Ear:
    return Ear(keystone)


def test_an_event_in_full(keystone: Keystone, ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="altostack.audit")
    user = keystone.user("u", "very-hidden")
    event = ear.next()
    admin = keystone.body(keystone.admin)
    assert (event["event_type"], event["priority"]) == ("identity.user.created", "INFO")
    payload = event["payload"]
    assert payload["typeURI"] == "http://schemas.dmtf.org/cloud/audit/1.0/event"
    assert (payload["eventType"], payload["action"], payload["outcome"]) == (
        "activity",
        "created.user",
        "success",
    )
    assert payload["target"] == {"typeURI": "data/security/account/user", "id": user["id"]}
    assert payload["resource_info"] == user["id"]
    who = payload["initiator"]
    assert (who["user_id"], who["project_id"]) == (admin["user"]["id"], admin["project"]["id"])
    assert who["request_id"].startswith("req-") and "address" in who["host"]
    assert payload["eventTime"].startswith("2030-03-17T") and payload["id"] != event["message_id"]
    assert "very-hidden" not in json.dumps(event)
    (record,) = (r for r in caplog.records if r.name == "altostack.audit")
    assert record.getMessage() == "identity.user.created success" and record.cadf == payload  # type: ignore[attr-defined]  # extra


def test_everything_has_its_events(keystone: Keystone, ear: Ear) -> None:
    def said() -> tuple[str, str]:
        event = ear.next()
        return event["event_type"], event["payload"]["target"]["id"]

    service = {"type": "t", "name": "n"}
    for kind, fields in (
        ("domain", {"name": "d", "enabled": False}), ("project", {"name": "p"}), ("user", {"name": "u"}),
        ("group", {"name": "g"}), ("role", {"name": "r"}), ("region", {"id": "x"}), ("service", service),
        ("policy", {"type": "t", "blob": "b"}),
    ):  # fmt: skip
        path = "/policies" if kind == "policy" else f"/{kind}s"
        key = keystone.call("POST", path, {kind: fields})[kind]["id"]
        assert said() == (f"identity.{kind}.created", key)
        keystone.call("PATCH", f"{path}/{key}", {kind: {"description": "x"}})
        assert said() == (f"identity.{kind}.updated", key)
        keystone.call("DELETE", f"{path}/{key}")
        assert said() == (f"identity.{kind}.deleted", key)
    ear.nothing()


def test_grants_and_memberships(keystone: Keystone, ear: Ear) -> None:
    project, user, group = keystone.project("p"), keystone.user("u"), keystone.group("g")
    for _ in range(3):
        ear.next()
    for method, done in (("PUT", "created"), ("DELETE", "deleted")):
        keystone.grant("member", f"projects/{project['id']}", f"users/{user['id']}", method)
        event = ear.next()
        assert event["event_type"] == f"identity.role_assignment.{done}"
        told = event["payload"]
        assert (told["user"], told["project"], told["role"]) == (
            user["id"], project["id"], keystone.role_id("member"),
        )  # fmt: skip
        assert told["inherited_to_projects"] is False
        keystone.call(method, f"/groups/{group['id']}/users/{user['id']}")
        event = ear.next()
        assert (event["event_type"], event["payload"]["actor_id"]) == ("identity.group.updated", user["id"])


def test_logins(keystone: Keystone, ear: Ear) -> None:
    user = keystone.user("u")
    ear.next()
    for password, outcome in (("wrong", "failure"), ("secret", "success")):
        keystone.login(by_password(user["id"], password)).read()
        event = ear.next()
        assert event["event_type"] == "identity.authenticate"
        told = event["payload"]
        assert (told["action"], told["outcome"], told["initiator"]["user_id"]) == (
            "authenticate", outcome, user["id"],
        )  # fmt: skip
        assert ("reason" in told) == (outcome == "failure")
        assert password not in json.dumps(event).replace("authenticate", "")
    unknown = {"name": "not-to-be-repeated", "domain": {"id": "default"}, "password": "x"}
    keystone.login({"identity": {"methods": ["password"], "password": {"user": unknown}}}).read()
    assert "not-to-be-repeated" not in json.dumps(ear.next())


def test_what_did_not_happen_is_not_told(keystone: Keystone, ear: Ear) -> None:
    keystone.user("u")
    ear.next()
    assert keystone.status("POST", "/users", {"user": {"name": "u"}}) == 409
    assert keystone.status("POST", "/users", {"user": {"name": ""}}) == 400
    assert keystone.status("DELETE", f"/users/{'f' * 32}") == 404
    ear.nothing()


def test_what_is_delegated_has_its_events_and_keeps_its_secrets(keystone: Keystone, ear: Ear) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    while ear.next()["event_type"] != "identity.authenticate":
        pass
    path = f"/users/{user['id']}/application_credentials"
    body = {"application_credential": {"name": "c", "secret": "very-hidden"}}
    made = keystone.call("POST", path, body, token=token)["application_credential"]
    event = ear.next()
    assert event["event_type"] == "identity.application_credential.created"
    assert event["payload"]["target"] == {"typeURI": "data/security/credential", "id": made["id"]}
    assert event["payload"]["initiator"]["user_id"] == user["id"] and "very-hidden" not in json.dumps(event)
    keystone.call("DELETE", f"{path}/{made['id']}", token=token)
    assert ear.next()["event_type"] == "identity.application_credential.deleted"
    consumer = keystone.call("POST", "/OS-OAUTH1/consumers", {"consumer": {"description": "d"}})["consumer"]
    event = ear.next()
    assert event["event_type"] == "identity.OS-OAUTH1:consumer.created"
    assert consumer["secret"] not in json.dumps(event)
