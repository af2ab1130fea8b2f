"""One-time codes, rules that want several methods, and receipts."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from altostack.identity import totp
from tests.identity.conftest import Keystone, by_password, by_token

pytestmark = pytest.mark.everywhere
SEED = base64.b32encode(b"12345678901234567890").decode()
HEADER = "Openstack-Auth-Receipt"


@pytest.mark.parametrize(
    ("time", "code"),
    [
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (20000000000, "353130"),
    ],
)
def test_vectors_of_the_rfc(time: int, code: str) -> None:
    assert totp.code(SEED, time // 30) == code


def code(keystone: Keystone, steps: int = 0) -> str:
    return totp.code(SEED, int(keystone.clock.now) // 30 + steps)


def by_code(user: str, passcode: str, *, password: str | None = None, scope: Any = None) -> dict[str, Any]:
    identity: dict[str, Any] = {"methods": ["totp"], "totp": {"user": {"id": user, "passcode": passcode}}}
    if password is not None:
        identity["methods"].append("password")
        identity["password"] = {"user": {"id": user, "password": password}}
    return {"identity": identity} | ({} if scope is None else {"scope": scope})


def holder(keystone: Keystone, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A user with a seed and a role, and the project as a scope."""
    project = keystone.project("p")
    user, _ = keystone.member("u", project)
    body = {"type": "totp", "blob": SEED, "user_id": user["id"]}
    keystone.call("POST", "/credentials", {"credential": body})
    if options:
        keystone.call("PATCH", f"/users/{user['id']}", {"user": {"options": options}})
    return user, {"project": {"id": project["id"]}}


def test_a_code_is_good_once_and_for_a_minute(keystone: Keystone) -> None:
    user, scope = holder(keystone)
    body = keystone.body(keystone.token(by_code(user["id"], code(keystone), scope=scope)))
    assert body["methods"] == ["totp"] and body["project"]["id"] == scope["project"]["id"]
    assert keystone.login(by_code(user["id"], code(keystone))).status == 401
    assert (
        keystone.login(by_code(user["id"], code(keystone, -1))).status == 401
    )  # older than one that was used
    keystone.clock.now += 60
    assert keystone.login(by_code(user["id"], code(keystone, -1))).status == 201
    assert keystone.login(by_code(user["id"], code(keystone, -2))).status == 401
    assert keystone.login(by_code(user["id"], code(keystone, 1))).status == 401
    named = {"name": "u", "domain": {"id": "default"}, "passcode": code(keystone)}
    login: dict[str, Any] = {"identity": {"methods": ["totp"], "totp": {"user": named}}}
    assert keystone.login(login).status == 201


def test_wrong_codes(keystone: Keystone) -> None:
    user, _ = holder(keystone)
    other = keystone.user("v")
    for who, passcode in (
        (user["id"], "000000"),
        (user["id"], ""),
        (other["id"], code(keystone)),
        ("f" * 32, "1"),
    ):
        assert keystone.login(by_code(who, passcode)).status == 401
    mixed = by_code(user["id"], code(keystone))
    mixed["identity"]["methods"].append("password")
    mixed["identity"]["password"] = {"user": {"id": other["id"], "password": "secret"}}
    assert keystone.login(mixed).status == 401
    assert keystone.login(by_code(user["id"], code(keystone))).status == 201  # nothing of that used the code


def test_guesses_count_as_wrong_passwords_do(keystone: Keystone) -> None:
    user, _ = holder(keystone)
    rules = keystone.runtime.settings.security_compliance
    keystone.configure(security_compliance=msgspec.structs.replace(rules, lockout_failure_attempts=3))
    for _ in range(3):
        assert keystone.login(by_code(user["id"], "000000", password="secret")).status == 401
    assert keystone.login(by_code(user["id"], code(keystone), password="secret")).status == 401


RULES: dict[str, Any] = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["password", "totp"]]}


def test_two_factors_at_once(keystone: Keystone) -> None:
    user, scope = holder(keystone, **RULES)
    body = keystone.body(keystone.token(by_code(user["id"], code(keystone), password="secret", scope=scope)))
    assert sorted(body["methods"]) == ["password", "totp"]
    keystone.clock.now += 60
    assert keystone.login(by_code(user["id"], code(keystone), password="wrong")).status == 401
    assert HEADER.lower() not in keystone.login(by_code(user["id"], "000000", password="secret")).headers


def test_one_factor_after_the_other(keystone: Keystone) -> None:
    user, scope = holder(keystone, **RULES)
    answer = keystone.login(by_password(user["id"], "secret", scope))
    assert answer.status == 401 and "x-subject-token" not in answer.headers
    body = msgspec.json.decode(answer.read())
    assert body == {
        "receipt": {
            "methods": ["password"],
            "user": {"id": user["id"], "name": "u", "domain": {"id": "default", "name": "Default"}},
            "issued_at": "2030-03-17T17:46:40.000000Z",
            "expires_at": "2030-03-17T17:51:40.000000Z",
        },
        "required_auth_methods": [["password", "totp"]],
    }
    receipt = answer.headers[HEADER.lower()]

    def second(passcode: str, key: str = receipt, who: str = user["id"]) -> Any:
        auth = {"auth": by_code(who, passcode, scope=scope)}
        return keystone.send("POST", "/v3/auth/tokens", auth, headers={HEADER: key})

    for key in ("nonsense", receipt[:-2] + "xx", "x" * 9000, keystone.admin):
        assert second(code(keystone), key).status == 401
    keystone.clock.now += 60  # a receipt that is refused costs the code all the same
    assert second("000000").status == 401
    done = second(code(keystone))
    assert done.status == 201
    shown = keystone.body(done.headers["x-subject-token"])
    assert sorted(shown["methods"]) == ["password", "totp"]
    again = keystone.token(by_token(done.headers["x-subject-token"], scope))
    assert keystone.alive(again)  # proved once, proved for what is made from it
    # A receipt is no token, and no token is a receipt.
    assert not keystone.alive(receipt) and keystone.login(by_token(receipt)).status == 404
    keystone.clock.now += 300
    assert second(code(keystone)).status == 401


def test_a_receipt_is_one_persons_and_ends_with_the_password(keystone: Keystone) -> None:
    user, scope = holder(keystone, **RULES)
    other = keystone.user("v", options=RULES)
    seed = {"type": "totp", "blob": SEED, "user_id": other["id"]}
    keystone.call("POST", "/credentials", {"credential": seed})
    receipt = keystone.login(by_password(user["id"], "secret")).headers[HEADER.lower()]
    body = {"auth": by_code(other["id"], code(keystone))}
    assert keystone.send("POST", "/v3/auth/tokens", body, headers={HEADER: receipt}).status == 401
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"password": "another"}})
    body = {"auth": by_code(user["id"], code(keystone), scope=scope)}
    assert keystone.send("POST", "/v3/auth/tokens", body, headers={HEADER: receipt}).status == 401


def test_an_older_token_of_one_factor_is_not_exchanged(keystone: Keystone) -> None:
    user, scope = holder(keystone)
    before = keystone.password(user["id"], "secret")
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"options": RULES}})
    answer = keystone.login(by_token(before, scope))
    assert answer.status == 401 and answer.headers[HEADER.lower()]


def test_rules_that_do_not_count(keystone: Keystone) -> None:
    user, scope = holder(
        keystone, multi_factor_auth_enabled=False, multi_factor_auth_rules=[["password", "totp"]]
    )
    login = by_password(user["id"], "secret", scope)
    for options in ({}, {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": []}):
        keystone.call("PATCH", f"/users/{user['id']}", {"user": {"options": options}})
        assert keystone.login(login).status == 201
    for rules in ([["palm", "totp"]], [["password"], ["totp", "password"]]):
        keystone.call(
            "PATCH", f"/users/{user['id']}", {"user": {"options": {"multi_factor_auth_rules": rules}}}
        )
        assert keystone.login(login).status == 201
    keystone.call(
        "PATCH", f"/users/{user['id']}", {"user": {"options": {"multi_factor_auth_rules": [["totp"]]}}}
    )
    assert keystone.login(login).status == 401
    options = keystone.call("GET", f"/users/{user['id']}")["user"]["options"]
    assert options == {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["totp"]]}
    gone = {"multi_factor_auth_rules": None, "multi_factor_auth_enabled": None}
    shown = keystone.call("PATCH", f"/users/{user['id']}", {"user": {"options": gone}})["user"]
    assert shown["options"] == {} and keystone.login(login).status == 201


@pytest.mark.parametrize(
    "options",
    [
        {"multi_factor_auth_enabled": "yes"},
        {"multi_factor_auth_rules": True},
        {"multi_factor_auth_rules": ["password"]},
        {"multi_factor_auth_rules": [[]]},
        {"multi_factor_auth_rules": [[1]]},
        {"multi_factor_auth_rules": [["totp", "totp"]]},
        {"multi_factor_auth_rules": [["totp"]] * 101},
    ],
)
def test_malformed_rules(shared: Keystone, options: dict[str, Any]) -> None:
    assert shared.status("POST", "/users", {"user": {"name": "n", "options": options}}) == 400


def test_the_first_factor_does_not_buy_more_guesses_at_the_second(keystone: Keystone) -> None:
    user, scope = holder(keystone, **RULES)
    rules = keystone.runtime.settings.security_compliance
    keystone.configure(security_compliance=msgspec.structs.replace(rules, lockout_failure_attempts=3))
    receipt = ""
    for _ in range(3):
        receipt = keystone.login(by_password(user["id"], "secret")).headers[HEADER.lower()]
        guess = {"auth": by_code(user["id"], "000000")}
        assert keystone.send("POST", "/v3/auth/tokens", guess, headers={HEADER: receipt}).status == 401
    right = {"auth": by_code(user["id"], code(keystone), scope=scope)}
    assert keystone.send("POST", "/v3/auth/tokens", right, headers={HEADER: receipt}).status == 401
    assert HEADER.lower() not in keystone.login(by_password(user["id"], "secret")).headers
    keystone.clock.now += 1801
    assert keystone.login(by_code(user["id"], code(keystone), password="secret")).status == 201


def test_a_delegation_earns_no_receipt(keystone: Keystone) -> None:
    user, scope = holder(keystone)
    token = keystone.password(user["id"], "secret", scope)
    body = {"application_credential": {"name": "c", "roles": [{"name": "reader"}]}}
    path = f"/users/{user['id']}/application_credentials"
    made = keystone.call("POST", path, body, token=token)["application_credential"]
    wanted = [["application_credential", "totp"]]
    options = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": wanted}
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"options": options}})
    method = {"id": made["id"], "secret": made["secret"]}
    login: dict[str, Any] = {
        "identity": {"methods": ["application_credential"], "application_credential": method}
    }
    answer = keystone.login(login)
    assert answer.status == 401 and HEADER.lower() not in answer.headers
    both = by_code(user["id"], code(keystone))["identity"]
    login["identity"] = {**both, **login["identity"], "methods": ["application_credential", "totp"]}
    shown = keystone.body(keystone.token(login))
    assert [role["name"] for role in shown["roles"]] == ["reader"] and shown["application_credential"]
