"""Users named in the paste file."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest

from altostack.objectstore.http import Response
from altostack.objectstore.middleware.tempauth import users_of
from tests.objectstore.gates.scene import peopled
from tests.objectstore.world import World

PIPELINE = "catch gatekeeper listing bulk tempauth token acl quotas service"
USERS = {
    "user_one_boss": "secret1 .admin",
    "user_one_clerk": "secret2 staff",
    "user_two_boss": "secret3 .admin",
    "user_ops_root": "secret4 .reseller_admin",
    "user_ops_audit": "secret5 .reseller_reader",
    "user64_w6k_YmVh": "secret6 .admin https://elsewhere/v1/AUTH_é",
}
MOMENT = 1_700_000_000 * 10**9


@pytest.fixture
def here(tmp_path: Path) -> World:
    return peopled(tmp_path, PIPELINE, options={"tempauth": USERS}, nanoseconds=lambda: MOMENT)


def enter(here: World, user: str, key: str, path: str = "/auth/v1.0", **headers: str) -> Response:
    return here.get(path, **({"x_auth_user": user, "x_auth_key": key, "host": "store:8080"} | headers))


def token(here: World, user: str, key: str) -> str:
    return enter(here, user, key).headers["x-auth-token"]


def test_a_token_for_a_key(here: World) -> None:
    answer = enter(here, "one:boss", "secret1")
    assert answer.status == 200
    assert answer.headers["x-storage-url"] == "http://store:8080/v1/AUTH_one"
    assert answer.headers["x-auth-token"] == answer.headers["x-storage-token"]
    assert answer.headers["x-auth-token"].startswith("AUTH_tk")
    assert answer.headers["x-auth-token-expires"] == "86400"
    assert json.loads(answer.read())["storage"]["local"] == answer.headers["x-storage-url"]
    assert here.put("/v1/AUTH_one/c", x_auth_token=answer.headers["x-auth-token"]).status == 201
    assert here.get("/v1/AUTH_one", x_storage_token=answer.headers["x-auth-token"]).read() == b"c\n"
    assert enter(here, "é:bea", "secret6").headers["x-storage-url"] == "https://elsewhere/v1/AUTH_é"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/auth/v1.0", {"x-auth-user": "one:boss", "x-auth-key": "secret1"}, 200),
        ("/auth/v1.0", {"x-storage-user": "one:boss", "x-storage-pass": "secret1"}, 200),
        ("/auth/auth", {"x-auth-user": "one:boss", "x-auth-key": "secret1"}, 200),
        ("/auth/v1/one/auth", {"x-storage-user": "boss", "x-storage-pass": "secret1"}, 200),
        ("/auth/v1/one/auth", {"x-auth-user": "one:boss", "x-auth-key": "secret1"}, 200),
        ("/auth/v1/two/auth", {"x-auth-user": "one:boss", "x-auth-key": "secret1"}, 401),
        ("/auth/v1.0", {"x-auth-user": "one:boss", "x-auth-key": "secret3"}, 401),
        ("/auth/v1.0", {"x-auth-user": "one:boss", "x-auth-key": ""}, 401),
        ("/auth/v1.0", {"x-auth-user": "one:boss"}, 401),
        ("/auth/v1.0", {"x-auth-user": "nobody", "x-auth-key": ""}, 401),
        ("/auth/v1.0", {"x-auth-user": "one:nobody", "x-auth-key": "secret1"}, 401),
        ("/auth/v1.0", {}, 401),
        ("/auth/v3", {"x-auth-user": "one:boss", "x-auth-key": "secret1"}, 400),
        ("/auth/", {}, 400),
    ],
)
def test_asking_for_a_token(here: World, path: str, headers: dict[str, str], status: int) -> None:
    answer = here.get(path, **{name.replace("-", "_"): value for name, value in headers.items()})
    assert answer.status == status
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Swift realm=")
    assert here.post(path).status == 405


@pytest.mark.parametrize(
    ("user", "key", "method", "path", "status"),
    [
        ("one:boss", "secret1", "PUT", "/v1/AUTH_one/d", 201),
        ("one:boss", "secret1", "POST", "/v1/AUTH_one", 204),
        ("one:boss", "secret1", "DELETE", "/v1/AUTH_one", 403),
        ("one:boss", "secret1", "PUT", "/v1/AUTH_one", 403),
        ("one:boss", "secret1", "GET", "/v1/AUTH_two", 403),
        ("one:boss", "secret1", "GET", "/v1/OTHER_one", 403),
        ("one:boss", "secret1", "GET", "/v1/AUTH_p1", 403),
        ("one:clerk", "secret2", "GET", "/v1/AUTH_one", 403),
        ("one:clerk", "secret2", "GET", "/v1/AUTH_one/c", 200),
        ("one:clerk", "secret2", "PUT", "/v1/AUTH_one/c/o", 403),
        ("two:boss", "secret3", "GET", "/v1/AUTH_one/c", 403),
        ("two:boss", "secret3", "PUT", "/v1/AUTH_one/c/o", 201),
        ("ops:root", "secret4", "PUT", "/v1/AUTH_one/d", 201),
        ("ops:root", "secret4", "GET", "/v1/AUTH_.hidden", 403),
        ("ops:audit", "secret5", "GET", "/v1/AUTH_one/c", 200),
        ("ops:audit", "secret5", "PUT", "/v1/AUTH_one/c/o", 403),
    ],
)
def test_who_may_do_what(here: World, user: str, key: str, method: str, path: str, status: int) -> None:
    boss = token(here, "one:boss", "secret1")
    here.put("/v1/AUTH_one/c", x_auth_token=boss, x_container_read="staff", x_container_write="two:boss")
    here.put("/v1/AUTH_one/c/first", b"x", x_auth_token=boss)
    assert here.ask(method, path, x_auth_token=token(here, user, key)).status == status


def test_account_acls(here: World) -> None:
    boss = token(here, "one:boss", "secret1")
    given = json.dumps({"admin": ["two"], "read-only": ["staff"]})
    assert here.post("/v1/AUTH_one", x_auth_token=boss, x_account_access_control=given).status == 204
    assert json.loads(
        here.head("/v1/AUTH_one", x_auth_token=boss).headers["x-account-access-control"]
    ) == json.loads(given)
    two, clerk = token(here, "two:boss", "secret3"), token(here, "one:clerk", "secret2")
    assert here.put("/v1/AUTH_one/c", x_auth_token=two).status == 201
    assert here.get("/v1/AUTH_one", x_auth_token=clerk).status == 200
    assert here.put("/v1/AUTH_one/c/o", x_auth_token=clerk).status == 403
    assert here.post("/v1/AUTH_one", x_auth_token=boss, x_account_access_control="{").status == 400


def test_quotas_are_the_resellers(here: World) -> None:
    boss, root = token(here, "one:boss", "secret1"), token(here, "ops:root", "secret4")
    assert here.post("/v1/AUTH_one", x_auth_token=boss, x_account_quota_bytes="5").status == 403
    assert here.post("/v1/AUTH_one", x_auth_token=root, x_account_quota_bytes="5").status == 204
    assert here.head("/v1/AUTH_one", x_auth_token=boss).headers["x-account-quota-bytes"] == "5"


def test_altered_and_old_tokens(tmp_path: Path) -> None:
    moment = [MOMENT]
    here = peopled(tmp_path, PIPELINE, options={"tempauth": USERS}, nanoseconds=lambda: moment[0])
    good = token(here, "one:clerk", "secret2")
    start, _, seal = good.partition(".")
    text = base64.urlsafe_b64decode(start.removeprefix("AUTH_tk") + "==").decode()

    def made(words: str, key: bytes = b"", sealed: str = "") -> str:
        part = base64.urlsafe_b64encode(words.encode()).decode().rstrip("=")
        return f"AUTH_tk{part}.{sealed or hmac.new(key, part.encode(), hashlib.sha256).hexdigest()}"

    def status(given: str) -> int:
        return here.get("/v1/AUTH_one/c", x_auth_token=given).status

    boss = token(here, "one:boss", "secret1")
    here.put("/v1/AUTH_one/c", x_auth_token=boss, x_container_read="staff")
    assert status(good) == 204
    ends = int(text.partition(":")[0])
    for bad in (
        made(f"{ends}:one:boss", sealed=seal), made(f"{ends + 9}:one:clerk", sealed=seal), made(f"{ends}:one:boss"),
        made(f"{ends}:one:boss", b"secret1"), good[:-1], good + "0", good.upper(), start, "AUTH_tk", "AUTH_tk.",
        "AUTH_tk%%.x", "AUTH_tk" + "x" * 9000, f"{good},{good}", "AUTH_tké.x",
    ):  # fmt: skip
        assert status(bad) == 401
    moment[0] += 86_401 * 10**9
    assert status(good) == 401
    moment[0] = MOMENT
    changed = peopled(tmp_path, PIPELINE, options={"tempauth": USERS | {"user_one_clerk": "new staff"}},
                      nanoseconds=lambda: moment[0])  # fmt: skip
    assert changed.get("/v1/AUTH_one/c", x_auth_token=good).status == 401
    assert changed.get("/v1/AUTH_one/c", x_auth_token=boss).status == 204


def test_both_kinds_of_users_at_once(here: World) -> None:
    boss = token(here, "one:boss", "secret1")
    assert here.put("/v1/AUTH_p1/c", x_auth_token="anna").status == 201
    assert here.put("/v1/AUTH_one/c", x_auth_token="anna").status == 403
    assert here.get("/v1/AUTH_p1/c", x_auth_token=boss).status == 403
    assert here.put("/v1/AUTH_one/c", x_auth_token=boss, x_container_read=".r:*").status == 201
    assert here.put("/v1/AUTH_one/c/o", b"x", x_auth_token=boss).status == 201
    assert here.get("/v1/AUTH_one/c/o").read() == b"x"
    assert here.get("/v1/AUTH_one/c").status == 401
    told = here.post("/v1/AUTH_one", b"c/o", query={"bulk-delete": ""}, x_auth_token=boss).read()
    assert b"Number Deleted: 1" in told


def test_without_users_there_is_no_door(tmp_path: Path) -> None:
    here = peopled(tmp_path, PIPELINE)
    assert here.get("/auth/v1.0", x_auth_user="one:boss", x_auth_key="").status == 400
    assert "tempauth" not in here.store.facts


@pytest.mark.parametrize("name", ["user_one", "user_a_b_c", "user__x", "user64_%_x"])
def test_broken_users(name: str) -> None:
    with pytest.raises(ValueError, match=name) as trouble:
        users_of({name: "the-key"}, "AUTH_")
    assert "the-key" not in str(trouble.value)
    with pytest.raises(ValueError, match="user_a_b"):
        users_of({"user_a_b": " "}, "AUTH_")
