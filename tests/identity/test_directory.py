"""A domain whose users and groups are in a real LDAP directory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from altostack.identity import mirror
from altostack.identity.directory import public_id
from tests import servers
from tests.identity.conftest import Keystone, by_password

pytestmark = pytest.mark.databases

BASE = "dc=example,dc=org"
ADMIN = f"cn=admin,{BASE}"


class Ldap:
    """The directory as its own administrators see it."""

    def __init__(self, url: str) -> None:
        from ldap3 import Connection, Server

        self.url = url
        self._c = Connection(Server(url), ADMIN, "admin", auto_bind=True, raise_exceptions=True)
        self._c.add(BASE, ["dcObject", "organization"], {"dc": "example", "o": "example"})
        for name in ("people", "teams"):
            self._c.add(f"ou={name},{BASE}", "organizationalUnit")

    def add_user(self, uid: str, password: str = "secret", **more: Any) -> str:
        dn = f"uid={uid},ou=people,{BASE}"
        fields = {"sn": uid, "cn": uid, "userPassword": password, "employeeType": "true", **more}
        self._c.add(dn, "inetOrgPerson", fields)
        return dn

    def add_group(self, name: str, *members: str) -> str:
        dn = f"cn={name},ou=teams,{BASE}"
        self._c.add(dn, "groupOfNames", {"ou": name, "description": f"the {name}", "member": list(members)})
        return dn

    def set(self, dn: str, **values: Any) -> None:
        from ldap3 import MODIFY_REPLACE

        self._c.modify(dn, {name: [(MODIFY_REPLACE, value)] for name, value in values.items()})

    def remove(self, dn: str) -> None:
        self._c.delete(dn)

    def close(self) -> None:
        self._c.unbind()


@pytest.fixture
def ldap() -> Iterator[Ldap]:
    with servers.slapd() as url:
        found = Ldap(url)
        yield found
        found.close()


def attach(keystone: Keystone, ldap: Ldap, **more: Any) -> str:
    """A domain whose users are in the directory; its id."""
    domain = str(keystone.domain("corp")["id"])
    options = {
        "url": ldap.url, "user": ADMIN, "password": "admin", "user_tree_dn": f"ou=people,{BASE}",
        "group_tree_dn": f"ou=teams,{BASE}", "user_id_attribute": "uid", "user_name_attribute": "cn",
        "user_enabled_attribute": "employeeType", **more,
    }  # fmt: skip
    config = {"identity": {"driver": "ldap"}, "ldap": options}
    keystone.call("PUT", f"/domains/{domain}/config", {"config": config})
    return domain


def users(keystone: Keystone, domain: str) -> dict[str, dict[str, Any]]:
    rows = keystone.call("GET", f"/users?domain_id={domain}")["users"]
    return {row["name"]: row for row in rows}


def login(keystone: Keystone, user: str, password: str, scope: Any = None) -> int:
    answer = keystone.login(by_password(user, password, scope))
    answer.read()
    return answer.status


def test_users_groups_and_logins(keystone: Keystone, ldap: Ldap) -> None:
    ann, bob = ldap.add_user("ann", mail="ann@example.org"), ldap.add_user("bob")
    ldap.add_user("eve", employeeType="false")
    ldap.add_group("crew", ann, bob.upper().replace(",", ", "))
    domain = attach(keystone, ldap)
    found = users(keystone, domain)
    assert {name: row["enabled"] for name, row in found.items()} == {"ann": True, "bob": True, "eve": False}
    assert found["ann"]["email"] == "ann@example.org" and len(found["ann"]["id"]) == 64
    assert found["ann"]["id"] == public_id(domain, "user", "ann")
    (group,) = keystone.call("GET", f"/groups?domain_id={domain}")["groups"]
    assert (group["name"], group["description"]) == ("crew", "the crew")
    inside = keystone.call("GET", f"/groups/{group['id']}/users")["users"]
    assert {row["name"] for row in inside} == {"ann", "bob"}
    # Their groups' roles are theirs.
    project = keystone.project("p")
    keystone.grant("member", f"projects/{project['id']}", f"groups/{group['id']}")
    scope = {"project": {"id": project["id"]}}
    token = keystone.password(found["ann"]["id"], "secret", scope)
    assert [role["name"] for role in keystone.body(token)["roles"]] == ["member", "reader"]
    # An empty password would be a bind as nobody, which every directory accepts.
    for password in ("wrong", "", "secret "):
        assert login(keystone, found["ann"]["id"], password) == 401
    assert login(keystone, found["eve"]["id"], "secret") == 401
    # Nothing of a password came here.
    assert b"secret" not in repr(keystone.contents()["users"]).encode()


def test_a_first_login_needs_nobody_to_look_before(keystone: Keystone, ldap: Ldap) -> None:
    ann = ldap.add_user("ann")
    ldap.add_group("crew", ann)
    domain = attach(keystone, ldap)
    project, group = keystone.project("p"), public_id(domain, "group", "crew")
    for name, password, status in (("ann", "wrong", 401), ("nobody", "secret", 401), ("ann", "secret", 201)):
        ref = {"name": name, "domain": {"name": "corp"}, "password": password}
        answer = keystone.login({"identity": {"methods": ["password"], "password": {"user": ref}}})
        answer.read()
        assert answer.status == status
    token = answer.headers["x-subject-token"]
    assert keystone.body(token)["user"]["id"] == public_id(domain, "user", "ann")
    keystone.grant("reader", f"projects/{project['id']}", f"groups/{group}")
    assert [p["name"] for p in keystone.call("GET", "/auth/projects", token=token)["projects"]] == ["p"]


def test_what_changes_in_the_directory_changes_here(keystone: Keystone, ldap: Ldap) -> None:
    ann, bob = ldap.add_user("ann"), ldap.add_user("bob")
    crew = ldap.add_group("crew", ann, bob)
    domain = attach(keystone, ldap)
    found = users(keystone, domain)
    key = found["ann"]["id"]
    token, other = keystone.password(key, "secret"), keystone.password(found["bob"]["id"], "secret")
    ldap.set(ann, userPassword="changed", cn="anna")
    assert (login(keystone, key, "secret"), login(keystone, key, "changed")) == (401, 201)
    assert users(keystone, domain)["anna"]["id"] == key
    # Disabled there: no login from then on, no token when it is next read.
    ldap.set(ann, employeeType="false")
    assert login(keystone, key, "changed") == 401
    mirror.refresh(keystone.runtime, domain)
    assert not keystone.alive(token) and keystone.alive(other)
    # Gone there: disabled here, with its grants, and back when the entry is.
    ldap.set(crew, member=[ann])
    ldap.remove(bob)
    mirror.refresh(keystone.runtime, domain)
    assert not keystone.alive(other) and users(keystone, domain)["bob"]["enabled"] is False
    (group,) = keystone.call("GET", f"/groups?domain_id={domain}")["groups"]
    assert [u["name"] for u in keystone.call("GET", f"/groups/{group['id']}/users")["users"]] == ["anna"]
    ldap.add_user("bob")
    assert users(keystone, domain)["bob"]["enabled"] is True
    assert not keystone.alive(other) and login(keystone, found["bob"]["id"], "secret") == 201


def test_names_are_handed_on(keystone: Keystone, ldap: Ldap) -> None:
    ann, bob = ldap.add_user("ann"), ldap.add_user("bob")
    crew, team = ldap.add_group("crew", ann), ldap.add_group("team", bob)
    domain = attach(keystone, ldap)
    before = users(keystone, domain)
    # Two swap their names.
    ldap.set(ann, cn="bob")
    ldap.set(bob, cn="ann")
    ldap.set(crew, ou="team")
    ldap.set(team, ou="crew")
    after = users(keystone, domain)
    assert (after["ann"]["id"], after["bob"]["id"]) == (before["bob"]["id"], before["ann"]["id"])
    # Somebody new has the name of somebody who is gone.
    ldap.remove(ann)
    assert users(keystone, domain)["bob"]["enabled"] is False
    ldap.add_user("new", cn="bob")
    found = users(keystone, domain)
    assert found["bob"]["id"] == public_id(domain, "user", "new") and found["bob"]["enabled"] is True
    assert len(found) == 3 and login(keystone, found["bob"]["id"], "secret") == 201
    # Two at once with one name: the first counts, and nobody else is held up by it.
    ldap.add_user("twin", cn="ann")
    ldap.add_user("last")
    found = users(keystone, domain)
    assert found["ann"]["id"] == before["bob"]["id"] and "last" in found


def test_the_directory_is_read_only_here(keystone: Keystone, ldap: Ldap) -> None:
    ann = ldap.add_user("ann")
    ldap.add_group("crew", ann)
    domain = attach(keystone, ldap)
    user, (group,) = (
        users(keystone, domain)["ann"],
        keystone.call("GET", f"/groups?domain_id={domain}")["groups"],
    )
    path, inside = f"/users/{user['id']}", f"/groups/{group['id']}/users/{user['id']}"
    for method, where, body in (
        ("POST", "/users", {"user": {"name": "x", "domain_id": domain}}),
        ("PATCH", path, {"user": {"name": "x"}}), ("PATCH", path, {"user": {"password": "x"}}),
        ("DELETE", path, None), ("POST", "/groups", {"group": {"name": "x", "domain_id": domain}}),
        ("PATCH", f"/groups/{group['id']}", {"group": {"name": "x"}}), ("DELETE", f"/groups/{group['id']}", None),
        ("PUT", inside, None), ("DELETE", inside, None),
        ("POST", f"{path}/password", {"user": {"original_password": "secret", "password": "x"}}),
    ):  # fmt: skip
        assert keystone.status(method, where, body) == 403, (method, where)
    assert login(keystone, user["id"], "secret") == 201


def test_a_name_is_no_filter(keystone: Keystone, ldap: Ldap) -> None:
    ldap.add_user("ann")
    domain = attach(keystone, ldap)
    for name in ("*", "ann)(uid=*", "a*", "ann\0", "(|(uid=*))"):
        ref = {"name": name, "domain": {"id": domain}, "password": "secret"}
        answer = keystone.login({"identity": {"methods": ["password"], "password": {"user": ref}}})
        assert answer.status in (400, 401), (name, answer.read())
        answer.read()


def test_a_directory_that_does_not_answer_is_said_so(keystone: Keystone, ldap: Ldap) -> None:
    ldap.add_user("ann")
    domain = attach(keystone, ldap)
    key = users(keystone, domain)["ann"]["id"]
    closed = f"ldap://127.0.0.1:{servers.free_port()}"
    keystone.call("PATCH", f"/domains/{domain}/config", {"config": {"ldap": {"url": closed}}})
    assert login(keystone, key, "secret") == 503
    assert keystone.status("GET", f"/users?domain_id={domain}") == 503
    assert keystone.call("GET", f"/users/{key}")["user"]["name"] == "ann"
    # The other domains do not notice.
    assert keystone.call("GET", "/users?domain_id=default")["users"]
    wrong = {"ldap": {"url": ldap.url, "password": "not it"}}
    keystone.call("PATCH", f"/domains/{domain}/config", {"config": wrong})
    assert keystone.status("GET", f"/users?domain_id={domain}") == 503


def test_enabled_by_bit_and_pages(keystone: Keystone, ldap: Ldap) -> None:
    for number in range(25):
        ldap.add_user(f"u{number:02}", employeeType=str(512 | (2 if number == 3 else 0)))
    domain = attach(keystone, ldap, user_enabled_mask=2, page_size=4, user_filter="(!(uid=u07))")
    found = users(keystone, domain)
    assert len(found) == 24 and "u07" not in found
    assert [name for name, row in found.items() if not row["enabled"]] == ["u03"]


def certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, certificate with its key) of "localhost", signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    alone, both = folder / "ca.pem", folder / "server.pem"
    alone.write_bytes(public)
    both.write_bytes(public + private)
    return alone, both


def test_a_directory_must_prove_who_it_is(keystone: Keystone, tmp_path: Path) -> None:
    authority, both = certificate(tmp_path)
    with servers.slapd(both) as url:
        ldap = Ldap(url)
        ldap.add_user("ann")
        ldap.close()
        right = url.replace("127.0.0.1", "localhost")
        domain = attach(keystone, ldap, url=right, use_tls=True, tls_cacertfile=str(authority))
        assert set(users(keystone, domain)) == {"ann"}
        key = users(keystone, domain)["ann"]["id"]
        assert login(keystone, key, "secret") == 201

        def configure(**options: Any) -> None:
            keystone.call("PATCH", f"/domains/{domain}/config", {"config": {"ldap": options}})

        for options in (
            {"tls_cacertfile": None},  # by none of the system's authorities
            {"tls_cacertfile": str(authority), "url": url},  # the certificate is another host's
        ):
            configure(**options)
            assert keystone.status("GET", f"/users?domain_id={domain}") == 503, options
            assert login(keystone, key, "secret") == 503
        configure(tls_req_cert="never")
        assert set(users(keystone, domain)) == {"ann"}
