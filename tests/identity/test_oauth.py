"""OAuth 1.0a and 2.0, with oauthlib's client as the other side."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
import pytest
from oauthlib import oauth1

from altostack.identity.oauth1_request import LIFETIME
from tests.identity.conftest import Keystone, by_token

pytestmark = pytest.mark.everywhere


class Program:
    """A consumer, as its own code signs."""

    def __init__(self, keystone: Keystone) -> None:
        self.keystone = keystone
        made = keystone.call("POST", "/OS-OAUTH1/consumers", {"consumer": {"description": "d"}})["consumer"]
        self.id, self.secret, self.row = made["id"], made["secret"], made

    def client(self, key: str | None = None, secret: str | None = None, **more: Any) -> oauth1.Client:
        more.setdefault("timestamp", str(int(self.keystone.clock.now)))
        return oauth1.Client(self.id, self.secret, key, secret, **more)

    def post(
        self, path: str, client: oauth1.Client, *, headers: dict[str, str] | None = None, json: Any = None
    ) -> Any:
        _, signed, _ = client.sign(f"{self.keystone.runtime.url}/v3{path}", http_method="POST")
        return self.keystone.send("POST", f"/v3{path}", json, headers={**signed, **(headers or {})})

    def request_token(self, project: str, **more: Any) -> tuple[str, str]:
        answer = self.post(
            "/OS-OAUTH1/request_token",
            self.client(callback_uri="oob", **more),
            headers={"Requested-Project-Id": project},
        )
        return _pair(answer)

    def authorize(self, key: str, roles: list[dict[str, str]], token: str) -> str:
        body = {"roles": roles}
        found = self.keystone.call("PUT", f"/OS-OAUTH1/authorize/{key}", body, token=token)
        return str(found["token"]["oauth_verifier"])

    def access_token(self, project: str, roles: list[dict[str, str]], token: str) -> tuple[str, str]:
        key, secret = self.request_token(project)
        verifier = self.authorize(key, roles, token)
        return _pair(self.post("/OS-OAUTH1/access_token", self.client(key, secret, verifier=verifier)))

    def login(self, key: str, secret: str, scope: Any = None, **more: Any) -> Any:
        auth: dict[str, Any] = {"identity": {"methods": ["oauth1"], "oauth1": {}}}
        if scope is not None:
            auth["scope"] = scope
        return self.post("/auth/tokens", self.client(key, secret, **more), json={"auth": auth})


def _pair(answer: Any) -> tuple[str, str]:
    text = answer.read().decode()
    assert answer.status == 201, text
    assert answer.headers["content-type"] == "application/x-www-form-urlencoded"
    found = parse_qs(text, strict_parsing=True)
    assert found["oauth_expires_at"][0].endswith("Z")
    return found["oauth_token"][0], found["oauth_token_secret"][0]


def boss(keystone: Keystone) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A project, its admin and the admin's token."""
    project = keystone.project("p")
    user, token = keystone.member("boss", project, "admin")
    return project, user, token


def test_consumers(keystone: Keystone) -> None:
    program = Program(keystone)
    path = f"/OS-OAUTH1/consumers/{program.id}"
    shown = keystone.call("GET", path)["consumer"]
    assert shown == {name: value for name, value in program.row.items() if name != "secret"}
    assert shown["description"] == "d" and shown["links"]["self"].endswith(f"/v3{path}")
    changed = keystone.call("PATCH", path, {"consumer": {"description": "e"}})["consumer"]
    assert changed["description"] == "e" and "secret" not in changed
    assert keystone.status("PATCH", path, {"consumer": {"secret": "x"}}) == 400
    assert [c["id"] for c in keystone.call("GET", "/OS-OAUTH1/consumers")["consumers"]] == [program.id]
    _, member = keystone.member("u", keystone.project("q"))
    for method, where in (("GET", path), ("DELETE", path), ("GET", "/OS-OAUTH1/consumers")):
        assert keystone.status(method, where, token=member) == 403
    assert program.secret not in str(keystone.contents())
    keystone.call("DELETE", path)
    assert keystone.status("GET", path) == 404


def test_from_a_request_to_a_token(keystone: Keystone) -> None:
    project, user, token = boss(keystone)
    program = Program(keystone)
    key, secret = program.access_token(project["id"], [{"name": "member"}], token)
    answer = program.login(key, secret)
    assert answer.status == 201
    mine = answer.headers["x-subject-token"]
    body = keystone.body(mine)
    assert body["user"]["id"] == user["id"] and body["project"]["id"] == project["id"]
    assert body["methods"] == ["oauth1"]
    assert body["OS-OAUTH1"] == {"access_token_id": key, "consumer_id": program.id}
    assert [role["name"] for role in body["roles"]] == ["member", "reader"]  # and not admin
    assert keystone.login(by_token(mine)).status == 403
    path = f"/users/{user['id']}/OS-OAUTH1/access_tokens"
    (shown,) = keystone.call("GET", path, token=token)["access_tokens"]
    assert shown == keystone.call("GET", f"{path}/{key}", token=token)["access_token"]
    assert {
        "id": key,
        "consumer_id": program.id,
        "project_id": project["id"],
        "authorizing_user_id": user["id"],
    }.items() <= shown.items()
    (role,) = keystone.call("GET", f"{path}/{key}/roles", token=token)["roles"]
    assert role["name"] == "member"
    assert keystone.call("GET", f"{path}/{key}/roles/{role['id']}", token=token)["role"]["id"] == role["id"]
    assert keystone.status("GET", f"{path}/{key}/roles/{'f' * 32}", token=token) == 404
    assert keystone.status("GET", f"/users/{'f' * 32}/OS-OAUTH1/access_tokens/{key}", token=token) == 404
    keystone.call("DELETE", f"{path}/{key}", token=token)
    assert not keystone.alive(mine) and program.login(key, secret).status == 401


@pytest.mark.parametrize("method", [oauth1.SIGNATURE_HMAC_SHA1, oauth1.SIGNATURE_HMAC_SHA256])
def test_signature_methods(keystone: Keystone, method: str) -> None:
    project, _, _ = boss(keystone)
    assert Program(keystone).request_token(project["id"], signature_method=method)


def test_what_ends_what_was_lent(keystone: Keystone) -> None:
    project, user, token = boss(keystone)
    first, second = Program(keystone), Program(keystone)
    roles = [{"name": "admin"}]
    one, two = (program.access_token(project["id"], roles, token) for program in (first, second))
    tokens = [first.login(*one).headers["x-subject-token"], second.login(*two).headers["x-subject-token"]]
    keystone.call("DELETE", f"/OS-OAUTH1/consumers/{first.id}")
    assert [keystone.alive(key) for key in tokens] == [False, True]
    keystone.grant("admin", f"projects/{project['id']}", f"users/{user['id']}", "DELETE")
    assert not keystone.alive(tokens[1]) and second.login(*two).status == 401


def test_time(keystone: Keystone) -> None:
    project, _, token = boss(keystone)
    program = Program(keystone)
    key, secret = program.access_token(project["id"], [{"name": "admin"}], token)
    for at in (-LIFETIME - 1, LIFETIME + 1):
        assert program.login(key, secret, timestamp=str(int(keystone.clock.now) + at)).status == 401
    keystone.configure(token_expiration=200_000)
    mine = program.login(key, secret).headers["x-subject-token"]
    keystone.clock.now += 86_401
    assert not keystone.alive(mine) and program.login(key, secret).status == 401


def test_the_step_between(keystone: Keystone) -> None:
    project, user, token = boss(keystone)
    program, other = Program(keystone), Program(keystone)
    key, secret = program.request_token(project["id"])

    def exchange(who: Program = program, verifier: str = "x" * 32, key: str = key) -> int:
        return int(who.post("/OS-OAUTH1/access_token", who.client(key, secret, verifier=verifier)).status)

    assert exchange() == 401  # nobody has authorized it
    for roles in ([], [{"name": "service"}], [{"id": "f" * 32}]):
        body = {"roles": roles}
        assert keystone.status("PUT", f"/OS-OAUTH1/authorize/{key}", body, token=token) == 401
    assert keystone.status("PUT", f"/OS-OAUTH1/authorize/{key}", {"roles": [{}]}, token=token) == 400
    assert keystone.status("PUT", "/OS-OAUTH1/authorize/nothing", {"roles": []}, token=token) == 404
    verifier = program.authorize(key, [{"name": "member"}], token)
    assert exchange() == 401 and exchange(other, verifier) == 401 and exchange(key="f" * 32) == 401
    assert exchange(verifier=verifier) == 201
    assert exchange(verifier=verifier) == 401  # good once
    late, _ = program.request_token(project["id"])
    keystone.clock.now += 28_801
    fresh = keystone.password(user["id"], "secret", {"project": {"id": project["id"]}})
    assert (
        keystone.status("PUT", f"/OS-OAUTH1/authorize/{late}", {"roles": [{"name": "member"}]}, token=fresh)
        == 401
    )


@pytest.mark.parametrize("path", ["/OS-OAUTH1/request_token", "/OS-OAUTH1/access_token", "/auth/tokens"])
def test_malformed_signatures(shared: Keystone, path: str) -> None:
    auth = {"auth": {"identity": {"methods": ["oauth1"], "oauth1": {}}}}
    for header in (
        None, "", "Basic x", "OAuth", "OAuth x", 'OAuth oauth_consumer_key="a", oauth_consumer_key="b"',
        'OAuth oauth_consumer_key="a",oauth_token="b",oauth_verifier="c",oauth_signature="%ff"', "OAuth \xff",
    ):  # fmt: skip
        headers = {"Requested-Project-Id": "p"} | ({} if header is None else {"Authorization": header})
        answer = shared.send("POST", f"/v3{path}", auth, headers=headers)
        assert answer.status in (400, 401), (header, answer.status)


# ---- OAuth 2.0


def credential(keystone: Keystone, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    user, token = keystone.member("u", keystone.project("p"))
    path = f"/users/{user['id']}/application_credentials"
    body = {"application_credential": {"name": "c", **fields}}
    return user, keystone.call("POST", path, body, token=token)["application_credential"]


def ask(keystone: Keystone, form: dict[str, str] | bytes, *basic: str, kind: str | None = None) -> Any:
    headers = {"Content-Type": kind or "application/x-www-form-urlencoded"}
    if basic:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(basic).encode()).decode()
    raw = form if isinstance(form, bytes) else urlencode(form).encode()
    answer = keystone.client.send("POST", "/v3/OS-OAUTH2/token", raw, headers=headers)
    return answer.status, msgspec.json.decode(answer.read()), answer.headers


GRANT = {"grant_type": "client_credentials"}


def test_client_credentials(keystone: Keystone) -> None:
    user, made = credential(keystone, expires_at="2030-03-17T17:50:00")
    basic = ask(keystone, GRANT, made["id"], made["secret"])
    posted = ask(keystone, {**GRANT, "client_id": made["id"], "client_secret": made["secret"]})
    for status, body, headers in (basic, posted):
        assert status == 200 and body["token_type"] == "Bearer" and headers["cache-control"] == "no-store"
        assert set(body) == {"access_token", "token_type", "expires_in"} and body["expires_in"] == 200
        shown = keystone.body(body["access_token"])
        assert shown["user"]["id"] == user["id"] and shown["application_credential"]["id"] == made["id"]
        bearer = {"Authorization": f"Bearer {body['access_token']}"}
        assert keystone.send("GET", "/v3/auth/projects", headers=bearer).status == 200
    assert (
        keystone.send("GET", "/v3/auth/projects", headers={"Authorization": "Bearer nonsense"}).status == 401
    )
    assert (
        keystone.send("GET", "/v3/auth/projects", headers={"Authorization": f"Basic {bearer}"}).status == 401
    )


def test_oauth2_refusals(keystone: Keystone) -> None:
    _, made = credential(keystone)
    for status, error, form, basic in (
        (401, "invalid_client", GRANT, (made["id"], "wrong")),
        (401, "invalid_client", GRANT, ("f" * 32, made["secret"])),
        (401, "invalid_client", GRANT, (made["id"], "")),
        (401, "invalid_client", GRANT, (made["id"],)),
        (401, "invalid_client", GRANT, ()),
        (401, "invalid_client", GRANT, ("x" * 65, "y")),
        (400, "invalid_request", {"x": "y"}, (made["id"], made["secret"])),
        (400, "unsupported_grant_type", {"grant_type": "password"}, (made["id"], made["secret"])),
        (400, "invalid_request", b"grant_type=client_credentials&grant_type=x", ()),
        (400, "invalid_request", b"\xff=%ff", ()),
        (400, "invalid_request", b"&".join([b"a=b"] * 100), ()),
    ):
        found = ask(keystone, form, *basic)
        assert (found[0], found[1]["error"]) == (status, error), (form, basic, found[1])
        assert set(found[1]) == {"error", "error_description"} and made["secret"] not in str(found[1])
        if status == 401:
            assert found[2]["www-authenticate"]
    assert ask(keystone, GRANT, made["id"], made["secret"], kind="application/json")[0] == 400
    answer = keystone.client.send("POST", "/v3/OS-OAUTH2/token", b"x" * 20_000)
    assert answer.status in (400, 413)
    for method in ("GET", "PUT", "DELETE"):
        assert keystone.client.send(method, "/v3/OS-OAUTH2/token", None).status == 405
