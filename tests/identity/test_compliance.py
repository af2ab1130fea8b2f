"""Rules for people's passwords: lockout, expiry, history, age, form, first use, inactivity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from altostack.identity.config import SecurityCompliance
from tests.identity.conftest import Keystone, by_password

pytestmark = pytest.mark.everywhere

DAY = 86_400


def rules(keystone: Keystone, **which: Any) -> None:
    keystone.configure(security_compliance=SecurityCompliance(**which))


def login(keystone: Keystone, user: dict[str, Any], password: str) -> int:
    answer = keystone.login(by_password(user["id"], password))
    answer.read()
    return answer.status


def change(keystone: Keystone, user: dict[str, Any], old: str, new: str) -> int:
    body = {"user": {"original_password": old, "password": new}}
    answer = keystone.send("POST", f"/v3/users/{user['id']}/password", body)
    answer.read()
    return answer.status


def later(keystone: Keystone) -> None:
    """The administrator's token has run out by now: another one."""
    default = {"id": "default"}
    user = {"name": "admin", "domain": default, "password": keystone.cloud.passwords["admin"]}
    scope = {"project": {"name": "admin", "domain": default}}
    identity = {"methods": ["password"], "password": {"user": user}}
    keystone.admin = keystone.token({"identity": identity, "scope": scope})


def moment(keystone: Keystone, *, days: float = 0) -> str:
    return f"{datetime.fromtimestamp(keystone.clock.now, UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%S.%f}"


def test_lockout(keystone: Keystone) -> None:
    rules(keystone, lockout_failure_attempts=3, lockout_duration=60)
    user = keystone.user("u")
    for _ in range(2):
        assert login(keystone, user, "wrong") == 401
    assert login(keystone, user, "secret") == 201
    # The count begins anew after a right one; a password change is a login too.
    assert [login(keystone, user, "wrong"), change(keystone, user, "wrong", "x"), login(keystone, user, "wrong")] == [
        401, 401, 401,
    ]  # fmt: skip
    locked = keystone.login(by_password(user["id"], "secret"))
    unknown = keystone.login(by_password("f" * 32, "secret"))
    assert locked.status == unknown.status == 401 and locked.read() == unknown.read()
    assert change(keystone, user, "secret", "other") == 401
    keystone.clock.now += 59
    assert login(keystone, user, "secret") == 401  # and what is wrong meanwhile does not prolong it
    assert login(keystone, user, "wrong") == 401
    keystone.clock.now += 2
    assert login(keystone, user, "secret") == 201


def test_a_lock_without_end_ends_with_a_new_password(keystone: Keystone) -> None:
    rules(keystone, lockout_failure_attempts=1, lockout_duration=0)
    user, free = keystone.user("u"), keystone.user("v", options={"ignore_lockout_failure_attempts": True})
    for one in (user, free):
        assert login(keystone, one, "wrong") == 401
    keystone.clock.now += 400 * DAY
    later(keystone)
    assert (login(keystone, user, "secret"), login(keystone, free, "secret")) == (401, 201)
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"password": "fresh"}})
    assert login(keystone, user, "fresh") == 201


def test_expiry(keystone: Keystone) -> None:
    before = keystone.user("before")
    rules(keystone, password_expires_days=10)
    user = keystone.user("u")
    free = keystone.user("free", options={"ignore_password_expiry": True})
    assert (before["password_expires_at"], free["password_expires_at"]) == (None, None)
    assert user["password_expires_at"] == moment(keystone, days=10)
    token = keystone.password(user["id"], "secret")
    assert keystone.body(token)["user"]["password_expires_at"] == moment(keystone, days=10)
    keystone.clock.now += 10 * DAY + 1
    later(keystone)
    assert [login(keystone, one, "secret") for one in (before, user, free)] == [201, 401, 201]
    told = keystone.login(by_password(user["id"], "secret")).read().decode()
    assert f"expired and needs to be changed for user: {user['id']}" in told
    assert "expired" not in keystone.login(by_password(user["id"], "wrong")).read().decode()
    # Who gets the option later is let in; who loses it is not.
    path = f"/users/{user['id']}"
    keystone.call("PATCH", path, {"user": {"options": {"ignore_password_expiry": True}}})
    assert login(keystone, user, "secret") == 201
    keystone.call("PATCH", path, {"user": {"options": {"ignore_password_expiry": None}}})
    assert login(keystone, user, "secret") == 401
    assert change(keystone, user, "secret", "new") == 204
    assert login(keystone, user, "new") == 201
    assert keystone.call("GET", path)["user"]["password_expires_at"] == moment(keystone, days=10)


def test_lists_by_expiry(keystone: Keystone) -> None:
    group = keystone.group("g")
    names: dict[int, str] = {}
    for days in (1, 5, 9):
        rules(keystone, password_expires_days=days)
        names[days] = keystone.user(f"u{days}")["name"]
        key = keystone.call("GET", f"/users?name=u{days}")["users"][0]["id"]
        keystone.call("PUT", f"/groups/{group['id']}/users/{key}")
    at = f"{moment(keystone, days=5)[:19]}Z"
    for how, wanted in (
        ("lt", [1]), ("lte", [1, 5]), ("gt", [9]), ("gte", [5, 9]), ("eq", [5]), ("neq", [1, 9]),
    ):  # fmt: skip
        for path in ("/users", f"/groups/{group['id']}/users"):
            found = keystone.call("GET", f"{path}?password_expires_at={how}:{at}")["users"]
            assert [row["name"] for row in found] == [names[days] for days in wanted], (how, path)
    first, last = (f"{moment(keystone, days=days)[:19]}Z" for days in (2, 8))
    both = keystone.call("GET", f"/users?password_expires_at=gt:{first}&password_expires_at=lt:{last}")
    assert [row["name"] for row in both["users"]] == ["u5"]
    assert keystone.status("GET", "/users?password_expires_at=lt:soon") == 400


def test_history(keystone: Keystone) -> None:
    rules(keystone, unique_last_password_count=3)
    user = keystone.user("u", "p0")
    assert change(keystone, user, "p0", "p0") == 400
    assert change(keystone, user, "p0", "p1") == 204
    assert change(keystone, user, "p1", "p2") == 204
    for old in ("p0", "p1", "p2"):
        assert change(keystone, user, "p2", old) == 400
    assert change(keystone, user, "p2", "p3") == 204
    assert change(keystone, user, "p3", "p0") == 204
    # An administrator is not held to it.
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"password": "p3"}})
    assert login(keystone, user, "p3") == 201
    assert change(keystone, user, "p3", "p0") == 400


def test_minimum_age(keystone: Keystone) -> None:
    rules(keystone, minimum_password_age=2)
    user = keystone.user("u", "p0")
    assert change(keystone, user, "p0", "p1") == 204  # an administrator chose the first
    assert change(keystone, user, "p1", "p2") == 400
    keystone.clock.now += 2 * DAY - 1
    assert change(keystone, user, "p1", "p2") == 400
    keystone.clock.now += 1
    assert change(keystone, user, "p1", "p2") == 204


def test_form(keystone: Keystone) -> None:
    rules(keystone, password_regex=r"^(?=.*\d).{4,}$", password_regex_description="four and a digit")
    told = keystone.refused("POST", "/users", {"user": {"name": "u", "password": "abcd"}})
    assert told.status == 400 and "four and a digit" in told.message and "abcd" not in told.message
    user = keystone.user("u", "abc1")
    assert keystone.status("PATCH", f"/users/{user['id']}", {"user": {"password": "12"}}) == 400
    assert change(keystone, user, "abc1", "short") == 400
    assert change(keystone, user, "abc1", "longer2") == 204
    assert keystone.user("none", None)["name"] == "none"


def test_first_use(keystone: Keystone) -> None:
    rules(keystone, change_password_upon_first_use=True)
    user = keystone.user("u", "p0")
    free = keystone.user("v", "p0", options={"ignore_change_password_upon_first_use": True})
    assert [login(keystone, one, "p0") for one in (user, free)] == [401, 201]
    assert change(keystone, user, "p0", "p1") == 204
    assert login(keystone, user, "p1") == 201
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"password": "p2"}})
    assert login(keystone, user, "p2") == 401


def test_a_locked_password_is_changed_by_administrators_alone(keystone: Keystone) -> None:
    user = keystone.user("u", "p0", options={"lock_password": True})
    assert change(keystone, user, "p0", "p1") == 400
    assert change(keystone, user, "wrong", "p1") == 401
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"password": "p1"}})
    assert login(keystone, user, "p1") == 201


def test_inactivity(keystone: Keystone) -> None:
    rules(keystone, disable_user_account_days_inactive=30)
    user = keystone.user("u")
    free = keystone.user("v", options={"ignore_user_inactivity": True})
    assert [login(keystone, one, "secret") for one in (user, free)] == [201, 201]
    for _ in range(2):
        keystone.clock.now += 29 * DAY
        assert login(keystone, user, "secret") == 201
    keystone.clock.now += 31 * DAY
    assert [login(keystone, one, "secret") for one in (user, free)] == [401, 201]
    later(keystone)
    for enabled in (False, True):
        keystone.call("PATCH", f"/users/{user['id']}", {"user": {"enabled": enabled}})
    assert login(keystone, user, "secret") == 201


def test_the_inactive_are_disabled_in_time(keystone: Keystone) -> None:
    keystone.configure(
        security_compliance=SecurityCompliance(disable_user_account_days_inactive=30),
        token_expiration=100 * DAY,
    )
    late, busy, free = (
        keystone.user("u"),
        keystone.user("v"),
        keystone.user("w", options={"ignore_user_inactivity": True}),
    )
    tokens = {one["name"]: keystone.password(one["id"], "secret") for one in (late, busy, free)}
    (loop,) = (one for one in keystone.cloud.loops if one.name == "identity-inactive")
    keystone.clock.now += 20 * DAY
    assert login(keystone, busy, "secret") == 201
    keystone.clock.now += 11 * DAY
    later(keystone)
    loop.once()
    assert {name: keystone.alive(token) for name, token in tokens.items()} == {
        "u": False,
        "v": True,
        "w": True,
    }
    shown = {row["name"]: row["enabled"] for row in keystone.call("GET", "/users")["users"]}
    assert (shown["u"], shown["v"], shown["w"]) == (False, True, True)


def test_nothing_of_a_password_is_shown(keystone: Keystone) -> None:
    rules(keystone, unique_last_password_count=3, lockout_failure_attempts=3)
    user = keystone.user("u", "p0")
    assert change(keystone, user, "p0", "p1") == 204
    shown = keystone.call("GET", f"/users/{user['id']}")["user"]
    assert set(shown) == {"id", "name", "domain_id", "enabled", "options", "password_expires_at", "links"}
