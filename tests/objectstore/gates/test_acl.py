"""Tokens, ACLs and who owns an account."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from altostack.kit.context import Context
from altostack.objectstore.http import ask as answer_of
from altostack.objectstore.middleware import acl, grants, token
from altostack.objectstore.storage import Info
from altostack.objectstore.store import Store
from tests.objectstore.gates.scene import PEOPLE, Inner, ask, build, dated, known, peopled, request, store


@pytest.fixture
def made(tmp_path: Path) -> Store:
    return store(tmp_path, with_people=True)


def status(
    made: Store, who: str | None, method: str, path: str, allowed: str | None = None, **headers: str
) -> int:
    return ask(build(acl.factory, made, Inner(acl=allowed)), method, path, who=who, **headers).status


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("bob, sue", "bob,sue"),
        ("bob , sue,,", "bob,sue"),
        (".referrer : *", ".r:*"),
        (".ref:*.example.com", ".r:.example.com"),
        (".r:*, .rlistings", ".r:*,.rlistings"),
        (".r: - *.bad.com", ".r:-.bad.com"),
        ("*:*", "*:*"),
        ("", ""),
    ],
)
def test_acls_are_cleaned(given: str, cleaned: str) -> None:
    assert grants.clean("X-Container-Read", given) == cleaned


@pytest.mark.parametrize("given", [".r:", ".r:-", ".r:*.", ".r:.", ".x:y"])
def test_what_is_no_acl(given: str) -> None:
    with pytest.raises(ValueError, match="ACL"):
        grants.clean("x-container-read", given)


@pytest.mark.parametrize(
    ("rules", "referrer", "allowed"),
    [
        (".r:*", "", True),
        (".r:*,.r:-.thief.com", "http://a.thief.com/x", False),
        (".r:*,.r:-.thief.com", "http://thief.com.example/x", True),
        (".r:.example.com,.r:-thief.example.com", "http://thief.example.com", False),
        (".r:.example.com,.r:-thief.example.com", "http://good.example.com", True),
        (".r:.example.com", "http://example.com", False),
        (".r:a.example.com", "https://a.example.com:8080/x", True),
        (".r:-*", "", False),
        (".r:-a,.r:*", "http://a", True),
        (".r:*", "http://[bad", True),
        ("bob", "", False),
    ],
)
def test_referrers(rules: str, referrer: str, allowed: bool) -> None:
    assert grants.parse(rules).admits(referrer) is allowed


@pytest.mark.parametrize(
    ("who", "method", "path", "wanted"),
    [
        (None, "GET", "/v1/AUTH_p1/c", 401),
        ("anna", "GET", "/v1/AUTH_p1/c", 200),
        ("anna", "PUT", "/v1/AUTH_p1/c/o", 200),
        ("anna", "POST", "/v1/AUTH_p1", 200),
        ("anna", "DELETE", "/v1/AUTH_p1", 403),
        ("anna", "GET", "/v1/AUTH_p2/c", 403),
        ("anna", "GET", "/v1/AUTH_/c", 403),
        ("anna", "GET", "/v1/p1/c", 403),
        ("anna", "GET", "/v1/AUTH_p1_/c", 403),
        ("rita", "GET", "/v1/AUTH_p1/c/o", 200),
        ("rita", "HEAD", "/v1/AUTH_p1", 200),
        ("rita", "PUT", "/v1/AUTH_p1/c/o", 403),
        ("rita", "POST", "/v1/AUTH_p1/c/o", 403),
        ("rita", "DELETE", "/v1/AUTH_p1/c", 403),
        ("carl", "GET", "/v1/AUTH_p1/c", 403),
        ("root", "DELETE", "/v1/AUTH_p1", 200),
        ("root", "PUT", "/v1/AUTH_p2/c", 200),
        (None, "OPTIONS", "/v1/AUTH_p1/c", 200),
    ],
)
def test_roles(made: Store, who: str | None, method: str, path: str, wanted: int) -> None:
    assert status(made, who, method, path) == wanted


@pytest.mark.parametrize(
    ("who", "method", "path", "allowed", "wanted"),
    [
        (None, "GET", "/v1/AUTH_p1/c/o", ".r:*", 200),
        (None, "HEAD", "/v1/AUTH_p1/c/o", ".r:*", 200),
        (None, "GET", "/v1/AUTH_p1/c", ".r:*", 401),
        (None, "GET", "/v1/AUTH_p1/c", ".r:*,.rlistings", 200),
        ("bert", "GET", "/v1/AUTH_p1/c", ".r:*", 403),
        ("bert", "GET", "/v1/AUTH_p1/c", ".r:*,.rlistings", 200),
        ("bert", "GET", "/v1/AUTH_p1/c/o", "p2:u-bert", 200),
        ("bert", "PUT", "/v1/AUTH_p1/c/o", "p2:*", 200),
        ("bert", "GET", "/v1/AUTH_p1/c/o", "*:u-bert", 200),
        ("bert", "GET", "/v1/AUTH_p1/c/o", "*:*", 200),
        (None, "GET", "/v1/AUTH_p1/c/o", "*:*", 401),
        ("bert", "GET", "/v1/AUTH_p1/c/o", "two:bert", 200),
        ("bert", "GET", "/v1/AUTH_p1/c/o", "p1:u-bert", 403),
        ("bert", "GET", "/v1/AUTH_p1/c/o", "p2", 403),
        ("bert", "GET", "/v1/AUTH_p1/c/o", "auditor", 403),
        ("carl", "GET", "/v1/AUTH_p1/c/o", "Auditor", 200),
        ("dora", "GET", "/v1/AUTH_p1/c/o", "two:bert", 403),
        ("dora", "GET", "/v1/AUTH_p1/c/o", "p3:u-dora", 200),
        ("rita", "PUT", "/v1/AUTH_p1/c/o", "one:rita", 200),
    ],
)
def test_container_acls(
    made: Store, who: str | None, method: str, path: str, allowed: str, wanted: int
) -> None:
    known(made).accounts["AUTH_p1"] = Info(account="AUTH_p1")
    assert status(made, who, method, path, allowed) == wanted


def test_names_count_in_accounts_of_the_default_domain_alone(made: Store) -> None:
    for domain, wanted in (("default", 200), ("", 200), ("d2", 403), ("_unknown", 403)):
        known(made).accounts["AUTH_p7"] = Info(
            account="AUTH_p7", metadata=dated(x_account_sysmeta_project_domain_id=domain)
        )
        assert status(made, "bert", "GET", "/v1/AUTH_p7/c/o", "two:bert") == wanted
    app = build(acl.factory, made, Inner(acl="two:bert"), allow_names_in_acls="no")
    known(made).accounts["AUTH_p1"] = Info(account="AUTH_p1")
    assert ask(app, "GET", "/v1/AUTH_p1/c/o", who="bert").status == 403


@pytest.mark.parametrize(
    ("who", "path", "held", "noted"),
    [
        ("anna", "/v1/AUTH_p1/c", None, "default"),
        ("dora", "/v1/AUTH_p3", None, "d2"),
        ("root", "/v1/AUTH_p3", None, "_unknown"),
        ("dora", "/v1/AUTH_p3", "_unknown", "d2"),
        ("dora", "/v1/AUTH_p3/c", "d2", None),
        ("dora", "/v1/AUTH_p3/c/o", None, None),
    ],
)
def test_accounts_are_told_their_domain(
    made: Store, who: str, path: str, held: str | None, noted: str | None
) -> None:
    account = path.split("/")[2]
    if held is not None:
        metadata = dated(x_account_sysmeta_project_domain_id=held)
        known(made).accounts[account] = Info(account=account, metadata=metadata)
    inner = Inner()
    ask(build(acl.factory, made, inner), "PUT", path, who=who)
    assert inner.asked[0].headers.get("x-account-sysmeta-project-domain-id") == noted


def test_an_operator_may_change_the_rules(tmp_path: Path) -> None:
    from altostack.kit.policy import Policy

    made = store(tmp_path, with_people=True)
    made.rules = Policy(dict(acl.RULES) | {acl.READ_ANY: "role:auditor"})
    assert status(made, "carl", "GET", "/v1/AUTH_p2/c/o") == 200
    assert status(made, "carl", "PUT", "/v1/AUTH_p2/c/o") == 403


def test_service_accounts_ask_for_a_service_beside_the_user(made: Store) -> None:
    inner = Inner()
    app = build(token.factory, made, build(acl.factory, made, inner))
    path = "/v1/SERVICE_p1/c/o"
    assert ask(app, "PUT", path, x_auth_token="anna").status == 403
    assert ask(app, "PUT", path, x_auth_token="anna", x_service_token="bert").status == 403
    assert ask(app, "PUT", path, x_auth_token="anna", x_service_token="nova").status == 200
    assert ask(app, "PUT", path, x_auth_token="rita", x_service_token="nova").status == 403
    assert ask(app, "GET", path, x_auth_token="rita").status == 403
    assert ask(app, "PUT", path, x_auth_token="nova", x_service_token="nova").status == 403
    assert ask(app, "PUT", path, x_service_token="nova").status == 401


def test_the_owner_alone_sees_and_sets_acls_and_keys(tmp_path: Path) -> None:
    here = peopled(tmp_path, "catch gatekeeper listing token acl service")
    keys = {"x-container-read": "p2:*,.rlistings,p1:*", "x-container-meta-temp-url-key": "secret"}
    assert here.put("/v1/AUTH_p1/c", x_auth_token="anna", x_container_read=" p2:* ,, .rlistings,p1:*",
                    x_container_meta_temp_url_key="secret", x_container_meta_color="red").status == 201  # fmt: skip
    assert keys.items() <= here.head("/v1/AUTH_p1/c", x_auth_token="anna").headers.items()
    for who in ("bert", "rita"):
        seen = here.head("/v1/AUTH_p1/c", x_auth_token=who).headers
        assert seen["x-container-meta-color"] == "red"
        assert not keys.keys() & seen.keys()
    assert here.post("/v1/AUTH_p1/c", x_auth_token="bert", x_container_read=".r:*").status == 403
    assert here.post("/v1/AUTH_p1/c", x_auth_token="anna", x_remove_container_read="x").status == 204
    assert here.get("/v1/AUTH_p1/c", x_auth_token="bert").status == 403


def test_an_account_made_by_its_first_container_knows_its_domain(tmp_path: Path) -> None:
    here = peopled(tmp_path, "catch gatekeeper listing token acl service")
    assert here.put("/v1/AUTH_p3/c", x_auth_token="dora", x_container_read="two:bert").status == 201
    assert here.get("/v1/AUTH_p3/c", x_auth_token="bert").status == 403


def test_account_acls_are_kept(tmp_path: Path) -> None:
    here = peopled(tmp_path, "catch gatekeeper listing token acl service")
    given = '{"read-only": ["p2:*"]}'
    assert here.post("/v1/AUTH_p1", x_auth_token="anna", x_account_access_control=given).status == 204
    seen = here.head("/v1/AUTH_p1", x_auth_token="anna").headers
    assert seen["x-account-access-control"] == '{"read-only":["p2:*"]}'
    assert not [name for name in seen if "sysmeta" in name]
    assert here.get("/v1/AUTH_p1", x_auth_token="bert").status == 204
    assert here.put("/v1/AUTH_p1/c", x_auth_token="bert").status == 403
    assert here.post("/v1/AUTH_p1", x_auth_token="anna", x_account_access_control="").status == 204
    assert here.get("/v1/AUTH_p1", x_auth_token="bert").status == 403


def test_a_broken_acl_is_refused_before_anything_happens(made: Store) -> None:
    inner = Inner()
    app = build(acl.factory, made, inner)
    assert ask(app, "PUT", "/v1/AUTH_p1/c", who="anna", x_container_write=".r:*").status == 400
    assert ask(app, "PUT", "/v1/AUTH_p1/c", who="anna", x_container_read=".r:").status == 400
    for broken in ("{", "[]", '{"owner": []}', '{"admin": "bert"}', '{"admin": [1]}', "[" * 100_000):
        answer = ask(app, "POST", "/v1/AUTH_p1", who="anna", x_account_access_control=broken)
        assert answer.status == 400 and answer.read().startswith(b"X-Account-Access-Control: ")
    assert not inner.asked


def test_account_acls(made: Store) -> None:
    given = {"admin": ["p2:u-bert"], "read-write": ["p3:*"], "read-only": ["carl"]}
    inner = Inner()
    app = build(acl.factory, made, inner)
    ask(app, "POST", "/v1/AUTH_p7", who="root", x_account_access_control=json.dumps(given))
    kept = inner.asked[0].headers["x-account-sysmeta-core-access-control"]
    assert json.loads(kept) == given and " " not in kept
    known(made).accounts["AUTH_p7"] = Info(
        account="AUTH_p7", metadata=dated(x_account_sysmeta_core_access_control=kept)
    )
    for who, method, path, wanted in (
        ("bert", "POST", "/v1/AUTH_p7", 200),
        ("bert", "DELETE", "/v1/AUTH_p7", 403),
        ("dora", "PUT", "/v1/AUTH_p7/c/o", 200),
        ("dora", "GET", "/v1/AUTH_p7", 200),
        ("dora", "POST", "/v1/AUTH_p7", 403),
        ("anna", "GET", "/v1/AUTH_p7", 403),
        (None, "GET", "/v1/AUTH_p7", 401),
    ):
        assert status(made, who, method, path) == wanted, (who, method, path)


def test_access_rules_of_application_credentials(made: Store) -> None:
    rules = [{"service": "object-store", "method": "GET", "path": "/v1/*/public/**"}]
    who = msgspec.structs.replace(PEOPLE["anna"], application_credential={"access_rules": rules}, token="app")
    app = build(acl.factory, made, Inner())

    def tell(method: str, path: str, **headers: str) -> int:
        made_request = request(method, path, **headers)
        made_request.context = who
        return answer_of(app, made_request).status

    assert tell("GET", "/v1/AUTH_p1/public/o") == 200
    assert tell("GET", "/v1/AUTH_p1/private/o") == 401
    assert tell("PUT", "/v1/AUTH_p1/public/o") == 401
    rules[0]["method"] = "PUT"
    assert tell("PUT", "/v1/AUTH_p1/public/o") == 200
    assert tell("PUT", "/v1/AUTH_p1/public/o", x_copy_from="/private/o") == 401
    assert tell("COPY", "/v1/AUTH_p1/private/o", destination="/public/o") == 401
    rules.append({"service": "object-store", "method": "GET", "path": "/v1/AUTH_p1/private/**"})
    assert tell("PUT", "/v1/AUTH_p1/public/o", x_copy_from="/pri%76ate/o") == 200
    assert tell("PUT", "/v1/AUTH_p1/public/o", x_copy_from="/private/o", x_copy_from_account="AUTH_p2") == 401
    assert tell("COPY", "/v1/AUTH_p1/private/o", destination="public/o") == 200
    assert tell("COPY", "/v1/AUTH_p1/private/o", destination="other/o") == 401


def test_a_service_beside_speaks_for_an_allowed_call_and_nobody_else_does(made: Store) -> None:
    rules = [{"service": "image", "method": "GET", "path": "/v2/images"}]
    who = msgspec.structs.replace(PEOPLE["anna"], application_credential={"access_rules": rules}, token="app")
    app = build(token.factory, made, build(acl.factory, made, Inner()))
    for beside, wanted in (("nova", 200), ("bert", 401), ("nobody", 401), ("", 401)):
        asked = request("GET", "/v1/AUTH_p1/c/o", x_service_token=beside)
        asked.context = who
        assert answer_of(app, asked).status == wanted


def test_who_has_no_project_is_named_by_no_acl_but_everybodys(made: Store) -> None:
    who = msgspec.structs.replace(PEOPLE["anna"], project_id=None, project_name=None, token="unscoped")
    known(made).accounts["AUTH_p1"] = Info(account="AUTH_p1")
    for allowed, wanted in (
        ("None:*", 403),
        ("None:u-anna", 403),
        ("*:u-anna", 200),
        ("*:*", 200),
        ("p1:*", 403),
    ):
        asked = request("GET", "/v1/AUTH_p1/c/o")
        asked.context = who
        assert answer_of(build(acl.factory, made, Inner(acl=allowed)), asked).status == wanted


def test_tokens(made: Store) -> None:
    inner = Inner()
    app = build(token.factory, made, inner)

    def who(**headers: str) -> Context | None:
        ask(app, "GET", "/v1/AUTH_p1", **headers)
        return inner.asked[-1].context

    assert who(x_auth_token="anna") is PEOPLE["anna"]
    assert who(x_storage_token="anna") is PEOPLE["anna"]
    assert who(authorization="Bearer anna") is PEOPLE["anna"]
    for none in (
        {"x_auth_token": "nobody"}, {"x_auth_token": "anna,anna"}, {"x_auth_token": "x" * 9000}, {},
        {"authorization": "Basic anna"}, {"x_user_id": "u-anna", "x_roles": "ResellerAdmin"},
    ):  # fmt: skip
        assert who(**none) is None
    assert ask(app, "GET", "/v1/AUTH_p1", x_service_token="nova").good
    assert inner.asked[-1].facts["service"] is PEOPLE["nova"]


def test_anonymous_refusals_tell_the_realm(made: Store) -> None:
    app = build(acl.factory, made, Inner())
    assert ask(app, "GET", "/v1/AUTH_p1/c").headers["www-authenticate"] == 'Swift realm="AUTH_p1"'
    assert ask(app, "GET", '/v1/AUTH_"x/c').headers["www-authenticate"] == 'Swift realm="AUTH_%22x"'
