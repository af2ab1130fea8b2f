"""Attacks that were tried on identity services, by the numbers of the promises' list: 10 to 18."""

from __future__ import annotations

import statistics
import threading
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from altostack.identity import totp
from altostack.kit.auth import AuthFilter
from tests.identity.conftest import Keystone, by_password, by_token
from tests.identity.test_credentials import by_credential
from tests.identity.test_credentials import make as app_credential
from tests.identity.test_ec2 import ask, keys, v4
from tests.identity.test_factors import RULES, SEED, by_code
from tests.identity.test_oauth import Program

pytestmark = pytest.mark.everywhere


def trust_of(
    keystone: Keystone, user: str, trustee: str, project: str, token: str, **more: Any
) -> dict[str, Any]:
    body = {
        "trustor_user_id": user, "trustee_user_id": trustee, "project_id": project, "impersonation": True,
        "roles": [{"name": "member"}], **more,
    }  # fmt: skip
    made: dict[str, Any] = keystone.call("POST", "/OS-TRUST/trusts", {"trust": body}, token=token)["trust"]
    return made


def delegations(keystone: Keystone) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """An admin of a project, the project, and a token of each kind that stands for less than the admin."""
    project = keystone.project("p")
    user, token = keystone.member("boss", project, "admin")
    found: dict[str, str] = {}
    for name, loose in (("restricted", False), ("unrestricted", True)):
        made = app_credential(
            keystone, user, token, name=name, roles=[{"name": "member"}], unrestricted=loose
        )
        found[name] = keystone.token(by_credential(id=made["id"], secret=made["secret"]))
    friend = keystone.user("friend")
    trust = trust_of(keystone, user["id"], friend["id"], project["id"], token, allow_redelegation=True)
    found["trust"] = keystone.password(friend["id"], "secret", {"OS-TRUST:trust": {"id": trust["id"]}})
    found["ec2"] = ask(keystone, v4(keystone, keys(keystone, user, project, token)))[2]
    program = Program(keystone)
    pair = program.access_token(project["id"], [{"name": "member"}], token)
    found["oauth1"] = program.login(*pair).headers["x-subject-token"]
    return user, project, found


# ---- 10: a signed request is not its signer


def test_10_nobody_and_nobody_in_particular_turn_a_signed_request_into_a_token(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    request = {"credentials": v4(keystone, keys(keystone, user, project, token))}
    _, admin_elsewhere = keystone.member("reader", project, "manager")
    for path in ("/v3/ec2tokens", "/v3/s3tokens"):
        assert keystone.send("POST", path, request).status == 401
        assert keystone.send("POST", path, request, token="nonsense").status == 401
        for who in (token, admin_elsewhere):
            assert keystone.send("POST", path, request, token=who).status == 403
    service, _ = keystone.member("nova", project, "service")
    trusted = keystone.password(service["id"], "secret", {"project": {"id": project["id"]}})
    assert keystone.send("POST", "/v3/ec2tokens", request, token=trusted).status == 200


# ---- 11, 12: delegations that would make themselves larger


def test_11_no_delegation_makes_a_credential_a_trust_or_another_token(keystone: Keystone) -> None:
    user, project, found = delegations(keystone)
    home = f"/users/{user['id']}"
    stored = {"credential": {"type": "cert", "blob": "b", "user_id": user["id"]}}
    blob = '{"access": "a", "secret": "s"}'
    ec2 = {"credential": {"type": "ec2", "blob": blob, "user_id": user["id"], "project_id": project["id"]}}
    seed = {"credential": {"type": "totp", "blob": SEED, "user_id": user["id"]}}
    trust = {
        "trust": {
            "trustor_user_id": user["id"],
            "trustee_user_id": user["id"],
            "impersonation": True,
            "project_id": project["id"],
            "roles": [{"name": "admin"}],
        }
    }
    before = keystone.contents()
    for name, token in found.items():
        assert keystone.alive(token), name
        tries: list[tuple[str, str, Any]] = [
            ("POST", "/credentials", stored),
            ("POST", "/credentials", ec2),
            ("POST", "/credentials", seed),
            ("POST", f"{home}/credentials/OS-EC2", {"tenant_id": project["id"]}),
            ("GET", f"{home}/credentials/OS-EC2", None),
            ("GET", f"{home}/OS-OAUTH1/access_tokens", None),
        ]
        if name != "unrestricted":
            tries.append(
                ("POST", f"{home}/application_credentials", {"application_credential": {"name": "x"}})
            )
        for method, path, body in tries:
            assert keystone.status(method, path, body, token=token) == 403, (name, method, path)
        # Handing on a trust that allows it is what trusts are for, but never with more than it holds.
        assert keystone.status("POST", "/OS-TRUST/trusts", trust, token=token) in (403, 404), name
        for scope in (None, {"project": {"id": project["id"]}}, "unscoped"):
            assert keystone.login(by_token(token, scope)).status == 403, name
        assert keystone.call("GET", "/credentials", token=token)["credentials"] == []
    assert keystone.contents() == before


def test_11_an_unrestricted_credential_gives_no_more_roles_than_it_has(keystone: Keystone) -> None:
    user, _, found = delegations(keystone)
    body = {"application_credential": {"name": "more", "roles": [{"name": "admin"}]}}
    path = f"/users/{user['id']}/application_credentials"
    assert keystone.status("POST", path, body, token=found["unrestricted"]) == 400


def test_11_a_delegation_authorizes_no_program(keystone: Keystone) -> None:
    _, project, found = delegations(keystone)
    program = Program(keystone)
    key, _ = program.request_token(project["id"])
    for token in found.values():
        body = {"roles": [{"name": "member"}]}
        assert keystone.status("PUT", f"/OS-OAUTH1/authorize/{key}", body, token=token) == 403


def test_12_a_credential_changes_no_hands(keystone: Keystone) -> None:
    one, two = keystone.project("p"), keystone.project("q")
    user, token = keystone.member("u", one)
    victim, _ = keystone.member("admin2", two, "admin")
    made = keys(keystone, user, one, token)
    (row,) = keystone.call("GET", "/credentials", token=token)["credentials"]
    path = f"/credentials/{row['id']}"
    for change in (
        {"user_id": victim["id"]}, {"project_id": two["id"]}, {"type": "cert"}, {"id": "x"}, {"sealed": "x"},
        {"used": 0},
    ):  # fmt: skip
        body = {"credential": {"blob": row["blob"], **change}}
        assert keystone.status("PATCH", path, body, token=token) == 400, change
    for word in ("trust_id", "app_cred_id", "access_token_id"):
        blob = msgspec.json.encode({"access": made["access"], "secret": "s", word: "x"}).decode()
        assert keystone.status("PATCH", path, {"credential": {"blob": blob}}, token=token) == 400
    body = {
        "credential": {"type": "ec2", "blob": row["blob"], "user_id": victim["id"], "project_id": two["id"]}
    }
    assert keystone.status("POST", "/credentials", body, token=token) == 403
    assert keystone.call("GET", path, token=token)["credential"] == row
    key = ask(keystone, v4(keystone, made))[2]
    assert keystone.body(key)["user"]["id"] == user["id"]


def test_12_ones_own_key_gives_no_project_of_others(keystone: Keystone) -> None:
    one, two = keystone.project("p"), keystone.project("q")
    user, token = keystone.member("u", one)
    made = keys(keystone, user, two, token)  # may be asked for, as upstream has it; it is worth nothing
    assert ask(keystone, v4(keystone, made))[0] == 401


# ---- 13: signatures of another time or of something else


def test_13_replayed_postdated_and_altered_requests(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    made = keys(keystone, user, project, token)
    for at, status in ((-899, 200), (899, 200), (-901, 401), (901, 401), (86_400, 401), (-86_400, 401)):
        assert ask(keystone, v4(keystone, made, at=at))[0] == status, at
    old = v4(keystone, made, at=-3600)
    now = datetime.fromtimestamp(keystone.clock.now, UTC).strftime("%Y%m%dT%H%M%SZ")
    stamp = f"{now[:4]}-{now[4:6]}-{now[6:11]}:{now[11:13]}:{now[13:]}"
    for change in (
        {"headers": {**old["headers"], "X-Amz-Date": now}},
        {"params": {**old["params"], "Timestamp": stamp}},
        {"params": {**old["params"], "X-Amz-Date": now}},
        {"headers": {**old["headers"], "Timestamp": stamp}, "params": {**old["params"], "Timestamp": now}},
        {"params": {**old["params"], "SignatureVersion": "2", "Timestamp": stamp}},
    ):
        assert ask(keystone, {**old, **change})[0] == 401, change
    good = v4(keystone, made)
    head = good["headers"]["Authorization"]
    for change in (
        {"verb": "POST"},
        {"path": "/admin"},
        {"host": "elsewhere"},
        {"params": {"Action": "Terminate"}},
        {"params": {**good["params"], "More": "x"}},
        {"body_hash": "0" * 64},
        {"signature": good["signature"][:-1] + ("0" if good["signature"][-1] != "0" else "1")},
        {"signature": ""},
        {"signature": None},
        {"headers": {**good["headers"], "Authorization": head.replace("host;x-amz-date", "x-amz-date")}},
        {"headers": {**good["headers"], "Authorization": head.replace("host;x-amz-date", "")}},
        {"headers": {**good["headers"], "Authorization": head.replace("/ec2/", "/s3/")}},
        {"headers": {"Authorization": head}},
        {"headers": {}},
    ):
        assert ask(keystone, {**good, **change})[0] in (400, 401), change
    other = keys(keystone, user, project, token)
    assert ask(keystone, {**good, "access": other["access"]})[0] == 401
    assert ask(keystone, good)[0] == 200


# ---- 14: chains that grow


def test_14_oauth_programs_have_the_roles_they_were_lent(keystone: Keystone) -> None:
    user, project, found = delegations(keystone)
    assert [role["name"] for role in keystone.body(found["oauth1"])["roles"]] == ["member", "reader"]
    assert keystone.status("DELETE", f"/projects/{project['id']}", token=found["oauth1"]) == 403
    program = Program(keystone)
    boss = keystone.password(user["id"], "secret", {"project": {"id": project["id"]}})
    pair = program.access_token(project["id"], [{"name": "reader"}], boss)
    scopes: list[Any] = [
        {"project": {"id": keystone.project("q")["id"]}},
        {"system": {"all": True}},
        "unscoped",
    ]
    for scope in scopes:
        assert program.login(*pair, scope).status == 401
    mine = program.login(*pair, {"project": {"id": project["id"]}}).headers["x-subject-token"]
    assert [role["name"] for role in keystone.body(mine)["roles"]] == ["reader"]


def test_14_a_chain_of_trusts_never_widens(keystone: Keystone) -> None:
    user, project, found = delegations(keystone)
    third = keystone.user("third")

    def hand_on(**fields: Any) -> int:
        body = {
            "trustor_user_id": user["id"], "trustee_user_id": third["id"], "project_id": project["id"],
            "impersonation": True, "roles": [{"name": "member"}], **fields,
        }  # fmt: skip
        return keystone.status("POST", "/OS-TRUST/trusts", {"trust": body}, token=found["trust"])

    assert hand_on(roles=[{"name": "admin"}]) == 403
    assert hand_on(roles=[{"name": "manager"}]) == 403
    assert hand_on(trustor_user_id=third["id"]) == 403
    assert hand_on(allow_redelegation=True, redelegation_count=3) == 403
    # The client says nothing of its origin: what it claims about it is not read.
    sly = {"redelegated_trust_id": "f" * 32, "id": "mine", "root_trustor_id": third["id"], "deleted_at": None}
    assert hand_on(roles=[{"name": "admin"}], **sly) == 403


def test_14_numbered_uses_are_not_spent_twice(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    friend = keystone.user("friend")
    trust = trust_of(keystone, user["id"], friend["id"], project["id"], token, remaining_uses=3)
    login = by_password(friend["id"], "secret", {"OS-TRUST:trust": {"id": trust["id"]}})
    assert sorted(_at_once(8, lambda: keystone.login(login).status)) == [201] * 3 + [403] * 5


def test_14_one_signed_oauth_request_is_taken_once(keystone: Keystone) -> None:
    project = keystone.project("p")
    _, token = keystone.member("boss", project, "admin")
    program = Program(keystone)
    key, secret = program.access_token(project["id"], [{"name": "member"}], token)
    client = program.client(key, secret, nonce="n")
    _, headers, _ = client.sign(f"{keystone.runtime.url}/v3/auth/tokens", http_method="POST")
    body = {"auth": {"identity": {"methods": ["oauth1"], "oauth1": {}}}}

    def once() -> int:
        return keystone.send("POST", "/v3/auth/tokens", body, headers=dict(headers)).status

    found = _at_once(4, once)
    assert found.count(201) == 1 and set(found) <= {201, 401, 409}
    assert once() == 401
    moved = {name: value.replace("oauth_nonce", "oauth_nonse") for name, value in headers.items()}
    assert keystone.send("POST", "/v3/auth/tokens", body, headers=moved).status == 401


def _at_once(count: int, work: Any) -> list[Any]:
    """What ``work`` returns in ``count`` threads that begin together."""
    gate, found = threading.Barrier(count), []

    def run() -> None:
        gate.wait()
        found.append(work())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# ---- 15: headers that name somebody


def test_15_headers_give_no_identity(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    admin = keystone.call("GET", "/users?name=admin")["users"][0]["id"]
    claims = {
        "X-Roles": "admin", "X-Role": "admin", "X-User-Id": admin, "X-User": "admin", "X-Is-Admin-Project": "True",
        "X-Identity-Status": "Confirmed", "X-Service-Roles": "admin", "X-System-Scope": "all", "X-Project-Id": "x",
        "X_ROLES": "admin", "X_User_Id": admin, "REMOTE_USER": "admin", "Remote-User": "admin",
        "X-Forwarded-User": "admin", "X-Trust-Id": "x", "Openstack-Auth-Receipt": "x",
    }  # fmt: skip
    assert keystone.send("GET", "/v3/users", headers=claims).status == 401
    assert keystone.send("GET", "/v3/users", token=token, headers=claims).status == 403
    assert keystone.send("GET", f"/v3/users/{user['id']}", token=token, headers=claims).status == 200
    external = {"auth": {"identity": {"methods": ["external"], "external": {}}}}
    assert keystone.send("POST", "/v3/auth/tokens", external, headers=claims).status == 401


def test_15_what_a_client_puts_into_the_environment_is_dropped(keystone: Keystone) -> None:
    seen: list[dict[str, Any]] = []

    def inner(environ: dict[str, Any], respond: Any) -> list[bytes]:
        seen.append(environ)
        return []

    wall = AuthFilter(inner, keystone.cloud.cloud.tokens, "")
    wall({"altostack.context": "an admin", "altostack.chain": True, "HTTP_X_ALTOSTACK_CONTEXT": "x"}, None)
    assert "altostack.context" not in seen[0] and "altostack.chain" not in seen[0]


# ---- 16: tokens after the fact. What ends one at once is in test_tokens.py and test_trusts.py


def test_16_every_kind_of_token_ends_with_its_user(keystone: Keystone) -> None:
    user, _, found = delegations(keystone)
    assert all(keystone.alive(token) for token in found.values())
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"enabled": False}})
    assert not any(keystone.alive(token) for token in found.values())
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"enabled": True}})
    assert not any(keystone.alive(token) for token in found.values())


def test_16_every_kind_of_token_ends_with_its_project_and_roles(keystone: Keystone) -> None:
    user, project, found = delegations(keystone)
    keystone.grant("admin", f"projects/{project['id']}", f"users/{user['id']}", "DELETE")
    assert not any(keystone.alive(token) for token in found.values())


def test_16_a_given_up_token_is_worth_nothing_in_any_spelling(keystone: Keystone) -> None:
    _, token = keystone.member("u", keystone.project("p"))
    keystone.send("DELETE", "/v3/auth/tokens", token=token, headers={"X-Subject-Token": token})
    padded = token + "=" * (-len(token) % 4)
    for one in (token, padded, f"{padded}=", f" {token}", f"{token} ", token + "\t"):
        assert keystone.cloud.cloud.tokens.get(one) is None
        headers = {"X-Subject-Token": one}
        assert keystone.send("GET", "/v3/auth/tokens", token=keystone.admin, headers=headers).status == 404
        assert keystone.login(by_token(one)).status == 404


# ---- 17: who is there


def test_17_no_login_tells_who_exists(keystone: Keystone) -> None:
    rules = keystone.runtime.settings.security_compliance
    keystone.configure(security_compliance=msgspec.structs.replace(rules, lockout_failure_attempts=2))
    user = keystone.user("u", options=RULES)
    body = {"type": "totp", "blob": SEED, "user_id": user["id"]}
    keystone.call("POST", "/credentials", {"credential": body})
    passcode = totp.code(SEED, int(keystone.clock.now) // 30)
    answers = set()
    for auth in (
        by_password(user["id"], "wrong"),
        by_password("f" * 32, "wrong"),
        by_code(user["id"], "000000"),
        by_code("f" * 32, "000000"),
        by_code(user["id"], "000000", password="secret"),
        by_code(user["id"], passcode, password="wrong"),
        by_code("f" * 32, passcode, password="secret"),
        by_password(user["id"], "secret"),  # locked by now: right, and nobody is told
        by_code(user["id"], passcode, password="secret"),
        by_password("f" * 32, "x", {"OS-TRUST:trust": {"id": "f" * 32}}),
    ):
        answer = keystone.login(auth)
        assert "openstack-auth-receipt" not in answer.headers
        answers.add((answer.status, answer.read()))
    assert len(answers) == 1


def test_17_a_wrong_password_takes_as_long_as_nobody(keystone: Keystone) -> None:
    keystone.runtime.memo["keeper"].passwords._rounds = 8  # long enough to be seen
    try:
        user = keystone.user("u")

        def took(who: str) -> float:
            start = time.perf_counter()
            assert keystone.login(by_password(who, "wrong")).status == 401
            return time.perf_counter() - start

        there, nobody = [], []
        for _ in range(7):
            there.append(took(user["id"]))
            nobody.append(took("f" * 32))
        ratio = statistics.median(there) / statistics.median(nobody)
        assert 0.5 < ratio < 2.0
    finally:
        keystone.runtime.memo["keeper"].passwords._rounds = 4


# ---- 18: logins that cost


def test_18_repeated_methods_are_one(keystone: Keystone) -> None:
    user = keystone.user("u")
    auth = by_password(user["id"], "secret")
    auth["identity"]["methods"] = ["password"] * 10_000
    checks = 0
    kept = keystone.runtime.memo["keeper"].passwords
    real = kept.matches

    def counted(*arguments: Any) -> bool:
        nonlocal checks
        checks += 1
        return bool(real(*arguments))

    kept.matches = counted
    try:
        assert keystone.login(auth).status == 201 and checks == 1
    finally:
        del kept.matches


def test_18_huge_deep_and_broken_bodies(shared: Keystone) -> None:
    deep = (
        b'{"auth": {"identity": {"methods": ["oauth1"], "oauth1": {"a": '
        + b"[" * 50_000
        + b"]" * 50_000
        + b"}}}}"
    )
    for path in (
        "/v3/auth/tokens",
        "/v3/ec2tokens",
        "/v3/s3tokens",
        "/v3/credentials",
        "/v3/OS-TRUST/trusts",
    ):
        for raw, statuses in (
            (deep, (400,)),
            (b"[" * 100_000, (400,)),
            (b'{"auth": ' * 10_000, (400,)),
            (b" " * 200_000, (413,)),
            (b'{"a": "\\ud800"}', (400,)),
        ):
            started = time.perf_counter()
            answer = shared.client.send("POST", path, raw, token=shared.admin)
            assert answer.status in statuses, (path, raw[:20], answer.status)
            assert time.perf_counter() - started < 2
    for size in (9_000, 100_000):
        assert shared.send("GET", "/v3/users", token="x" * size).status == 401
        headers = {"X-Subject-Token": "x" * size}
        assert shared.send("GET", "/v3/auth/tokens", token=shared.admin, headers=headers).status == 404
        headers = {"Authorization": "Bearer " + "x" * size}
        assert shared.send("GET", "/v3/users", headers=headers).status == 401


def test_18_failed_logins_leave_nothing_behind(keystone: Keystone) -> None:
    user = keystone.user("u")
    before = keystone.contents()
    for number in range(20):
        assert keystone.login(by_password(user["id"], f"wrong {number}")).status == 401
        assert keystone.login(by_token(f"nonsense-{number}")).status == 404
        assert keystone.login(by_code(user["id"], f"{number:06}")).status == 401
    assert keystone.contents() == before
