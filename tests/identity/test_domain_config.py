"""A domain's own configuration: what it may hold, what it never shows."""

from __future__ import annotations

from typing import Any

import pytest

from altostack.identity.config import SecurityCompliance
from altostack.identity.domain_config import DomainOption, settings_of
from tests.identity.conftest import Keystone

pytestmark = pytest.mark.everywhere

CONFIG = {
    "identity": {"driver": "ldap"},
    "ldap": {"url": "ldap://127.0.0.1:9/", "user_tree_dn": "ou=Users,dc=example,dc=org", "password": "hidden"},
}  # fmt: skip
SHOWN = {
    "identity": {"driver": "ldap"},
    "ldap": {"url": "ldap://127.0.0.1:9/", "user_tree_dn": "ou=Users,dc=example,dc=org"},
}


def configure(keystone: Keystone, domain: str, config: Any, method: str = "PUT", rest: str = "") -> Any:
    body = {"config": config}
    return keystone.call(method, f"/domains/{domain}/config{rest}", body)["config"]


def password(keystone: Keystone, domain: str) -> str | None:
    """What the domain's directory is asked with."""
    directory = settings_of(keystone.runtime)[domain].directory
    assert directory is not None
    return directory.password


def test_the_whole(keystone: Keystone) -> None:
    domain = keystone.domain("d")["id"]
    path = f"/domains/{domain}/config"
    assert keystone.status("GET", path) == 404
    answer = keystone.send("PUT", f"/v3{path}", {"config": CONFIG}, token=keystone.admin)
    assert answer.status == 201 and b"hidden" not in answer.read()
    assert keystone.call("GET", path)["config"] == SHOWN
    for group, options in SHOWN.items():
        assert keystone.call("GET", f"{path}/{group}")["config"] == {group: options}
        for name, value in options.items():
            assert keystone.call("GET", f"{path}/{group}/{name}")["config"] == {name: value}
    assert keystone.status("GET", f"{path}/ldap/password") == 404
    assert keystone.status("GET", f"{path}/ldap/suffix") == 404
    # Everything before gives way.
    assert configure(keystone, domain, {"identity": {"list_limit": 7}}) == {"identity": {"list_limit": 7}}
    assert keystone.call("GET", path)["config"] == {"identity": {"list_limit": 7}}
    keystone.call("DELETE", path)
    assert keystone.status("GET", path) == 404
    keystone.call("DELETE", path)


def test_parts(keystone: Keystone) -> None:
    domain = keystone.domain("d")["id"]
    path = f"/domains/{domain}/config"
    configure(keystone, domain, CONFIG)
    changed = configure(keystone, domain, {"ldap": {"url": "ldap://x/", "page_size": 5}}, "PATCH", "/ldap")
    assert changed["ldap"] == SHOWN["ldap"] | {"url": "ldap://x/", "page_size": 5}
    changed = configure(keystone, domain, {"driver": "sql"}, "PATCH", "/identity/driver")
    assert changed["identity"] == {"driver": "sql"}
    changed = configure(keystone, domain, {"identity": {"driver": "ldap"}}, "PATCH")
    assert changed["identity"] == {"driver": "ldap"} and changed["ldap"]["page_size"] == 5
    # The part that the path names, and it alone, and only where it is.
    for rest, config, status in (
        ("/ldap", {"identity": {"driver": "sql"}}, 403), ("/ldap", CONFIG, 403),
        ("/ldap/url", {"suffix": "dc=x"}, 403), ("/ldap/suffix", {"suffix": "dc=x"}, 404),
        ("/identity/list_limit", {"list_limit": 3}, 404), ("/nothing", {"nothing": {"x": 1}}, 403),
        ("/ldap/nothing", {"nothing": 1}, 403), ("/ldap", {"ldap": "x"}, 403), ("", {}, 403),
    ):  # fmt: skip
        assert keystone.status("PATCH", f"{path}{rest}", {"config": config}) == status, (rest, config)
    keystone.call("DELETE", f"{path}/ldap/url")
    assert keystone.status("GET", f"{path}/ldap/url") == 404
    assert keystone.status("DELETE", f"{path}/ldap/url") == 404
    keystone.call("DELETE", f"{path}/ldap")
    assert keystone.status("GET", f"{path}/ldap") == keystone.status("DELETE", f"{path}/ldap") == 404
    assert keystone.call("GET", path)["config"] == {"identity": {"driver": "ldap"}}


@pytest.mark.parametrize(
    "config",
    [
        {}, {"identity": {}}, {"identity": []}, {"token": {"provider": "uuid"}}, {"ldap": {"use_magic": True}},
        {"ldap": {"page_size": "many"}}, {"ldap": {"query_scope": "galaxy"}}, {"identity": {"list_limit": "all"}},
    ],
)  # fmt: skip
def test_what_is_not_taken(keystone: Keystone, config: dict[str, Any]) -> None:
    domain = keystone.domain("d")["id"]
    assert keystone.status("PUT", f"/domains/{domain}/config", {"config": config}) == 403
    assert keystone.status("GET", f"/domains/{domain}/config") == 404


def test_a_sensitive_option_is_used_and_stored_sealed(keystone: Keystone) -> None:
    domain = keystone.domain("d")["id"]
    configure(keystone, domain, CONFIG)
    assert password(keystone, domain) == "hidden"
    with keystone.runtime.db.read() as session:
        stored = {row.name: (row.value, row.sealed) for row in session.query(DomainOption)}
    assert stored["password"][0] is None and "hidden" not in stored["password"][1]
    assert b"hidden" not in repr(stored).encode()
    configure(keystone, domain, {"ldap": {"password": "other"}}, "PATCH")
    assert password(keystone, domain) == "other"
    keystone.call("DELETE", f"/domains/{domain}/config/ldap/password")
    assert password(keystone, domain) is None


def test_defaults(shared: Keystone) -> None:
    whole = shared.call("GET", "/domains/config/default")["config"]
    assert whole["identity"] == {"driver": "sql", "list_limit": None}
    assert whole["ldap"]["query_scope"] == "one" and "password" not in whole["ldap"]
    assert shared.call("GET", "/domains/config/ldap/default")["config"] == {"ldap": whole["ldap"]}
    for name, value in whole["ldap"].items():
        assert shared.call("GET", f"/domains/config/ldap/{name}/default")["config"] == {name: value}
    for wrong in ("ldap/password", "nothing", "ldap/nothing"):
        assert shared.status("GET", f"/domains/config/{wrong}/default") == 403


def test_everybody_may_know_what_passwords_must_be_like(keystone: Keystone) -> None:
    keystone.configure(
        security_compliance=SecurityCompliance(password_regex="^.{7,}$", password_regex_description="seven")
    )
    user, project = keystone.user("u", "long enough"), keystone.project("p")
    keystone.grant("reader", f"projects/{project['id']}", f"users/{user['id']}")
    token = keystone.password(user["id"], "long enough", {"project": {"id": project["id"]}})
    path = "/domains/default/config/security_compliance"
    found = {"password_regex": "^.{7,}$", "password_regex_description": "seven"}
    assert keystone.call("GET", path, token=token)["config"] == {"security_compliance": found}
    for name, value in found.items():
        assert keystone.call("GET", f"{path}/{name}", token=token)["config"] == {name: value}
    assert keystone.status("GET", f"{path}/lockout_duration") == 403
    other = keystone.domain("d")["id"]
    assert keystone.status("GET", f"/domains/{other}/config/security_compliance") == 403
    assert keystone.status("PATCH", path, {"config": {"security_compliance": found}}) in (403, 405)


def test_who_may(keystone: Keystone) -> None:
    domain = keystone.domain("d")["id"]
    configure(keystone, domain, CONFIG)
    path = f"/domains/{domain}/config"
    user = keystone.user("u")
    keystone.grant("manager", f"domains/{domain}", f"users/{user['id']}")
    manager = keystone.password(user["id"], "secret", {"domain": {"id": domain}})
    for method, where, body in (
        ("GET", path, None), ("PUT", path, {"config": CONFIG}), ("PATCH", path, {"config": CONFIG}),
        ("DELETE", path, None), ("GET", "/domains/config/default", None),
        ("GET", f"/domains/{'f' * 32}/config", None),
    ):  # fmt: skip
        assert keystone.status(method, where, body, token=manager) == 403, (method, where)
    keystone.call("GET", "/domains/default/config/security_compliance", token=manager)
    assert keystone.status("GET", f"/domains/{'f' * 32}/config") == 404


def test_a_domains_lists_are_cut_at_its_limit(keystone: Keystone) -> None:
    domain = keystone.domain("d")["id"]
    for number in range(5):
        keystone.user(f"u{number}", None, domain_id=domain)
        keystone.group(f"g{number}", domain_id=domain)
    configure(keystone, domain, {"identity": {"list_limit": 3}})
    for kind in ("users", "groups"):
        cut = keystone.call("GET", f"/{kind}?domain_id={domain}")
        assert len(cut[kind]) == 3 and cut["truncated"] is True
        fewer = keystone.call("GET", f"/{kind}?domain_id={domain}&limit=2")
        assert len(fewer[kind]) == 2 and fewer["truncated"] is True
        assert len(keystone.call("GET", f"/{kind}?domain_id={domain}&limit=9")[kind]) == 3
        rest = keystone.call("GET", cut["links"]["next"].removeprefix(f"{keystone.runtime.url}/v3"))
        assert len(rest[kind]) == 2 and "truncated" not in rest
        exact = keystone.call("GET", f"/{kind}?domain_id={domain}&name__istartswith={kind[0].upper()}3")
        assert [row["name"] for row in exact[kind]] == [f"{kind[0]}3"] and "truncated" not in exact
        assert len(keystone.call("GET", f"/{kind}?name__contains={kind[0]}")[kind]) >= 5


def test_options_that_cannot_be_read_hinder_nobody_else(keystone: Keystone) -> None:
    domain = keystone.domain("d")["id"]
    configure(keystone, domain, CONFIG)
    for path in (keystone.state / "keys" / "credentials").iterdir():
        path.write_bytes((keystone.state / "keys" / "1").read_bytes())
    keystone.cloud.cloud.epoch.bump()
    assert keystone.status("GET", f"/users?domain_id={domain}") == 503
    assert keystone.call("GET", "/users?domain_id=default")["users"]
    assert keystone.status("POST", "/users", {"user": {"name": "x", "domain_id": domain}}) == 403
