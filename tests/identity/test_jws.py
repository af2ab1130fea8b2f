"""Tokens that are signed instead of sealed, and the events of what was revoked."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from altostack.identity import jws
from altostack.identity.bootstrap import rotate_keys
from altostack.identity.jws import JwsRing
from tests.identity.conftest import Keystone, by_password, by_token


@pytest.fixture
def ring(tmp_path: Path) -> JwsRing:
    jws.prepare(tmp_path)
    return JwsRing(tmp_path)


def part(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def plain(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_the_form_and_an_outsiders_check(ring: JwsRing, tmp_path: Path) -> None:
    token = ring.sign(b'{"a":1}')
    head, payload, signature = token.split(".")
    header = msgspec.json.decode(part(head))
    assert header["alg"] == "ES256" and header["typ"] == "JWT" and part(payload) == b'{"a":1}'
    key: Any = serialization.load_pem_public_key((tmp_path / "public" / f"{header['kid']}.pem").read_bytes())
    raw = part(signature)
    assert len(raw) == 64 and isinstance(key.curve, ec.SECP256R1)
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key.verify(der, f"{head}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
    assert ring.verify(token) == b'{"a":1}'
    for path in (*tmp_path.rglob("*.pem"),):
        assert path.stat().st_mode & 0o777 == 0o600


def test_forgeries(ring: JwsRing, tmp_path: Path) -> None:
    token = ring.sign(b'{"a":1}')
    head, payload, signature = token.split(".")
    header = msgspec.json.decode(part(head))
    public = (tmp_path / "public" / f"{header['kid']}.pem").read_bytes()
    import hmac

    confused = f"{plain(msgspec.json.encode({**header, 'alg': 'HS256'}))}.{payload}"
    other, zeros = plain(b'{"a":2}'), plain(bytes(64))
    forged = [
        f"{plain(msgspec.json.encode({**header, 'alg': 'none'}))}.{payload}.",
        f"{plain(msgspec.json.encode({**header, 'alg': 'none'}))}.{payload}.{signature}",
        f"{confused}.{plain(hmac.new(public, confused.encode(), 'sha256').digest())}",
        f"{plain(msgspec.json.encode({**header, 'kid': '../private/private'}))}.{payload}.{signature}",
        f"{plain(msgspec.json.encode({**header, 'kid': 'f' * 32}))}.{payload}.{signature}",
        f"{head}.{other}.{signature}",
        f"{head}.{payload}.{zeros}",
        f"{head}.{payload}.{signature[:-2]}",
        f"{head}.{payload}.{signature}=",
        f"{head}.{payload}.{signature}.{signature}",
        f"{head}.{payload}",
        f"{head}.{payload}.\xff",
        "..",
        "",
    ]
    for one in forged:
        assert ring.verify(one) is None, one
    strange = JwsRing(tmp_path / "other")
    jws.prepare(tmp_path / "other")
    assert ring.verify(strange.sign(b"{}")) is None


def test_rotation(ring: JwsRing, tmp_path: Path) -> None:
    tokens = [ring.sign(b"{}")]
    for _ in range(3):
        jws.rotate(tmp_path, max_active_keys=3)
        tokens.append(ring.sign(b"{}"))
    assert [ring.verify(token) is not None for token in tokens] == [False, True, True, True]
    assert len({token.split(".")[0] for token in tokens}) == 4
    before = sorted(path.name for path in tmp_path.rglob("*"))
    jws.prepare(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match="max_active_keys"):
        jws.rotate(tmp_path, max_active_keys=1)


@pytest.fixture
def signing(keystone: Keystone) -> Keystone:
    jws.prepare(keystone.state / "keys" / jws.FOLDER)
    keystone.configure(token_provider="jws")
    keystone.admin = _admin(keystone)
    return keystone


def _admin(keystone: Keystone) -> str:
    user = {"name": "admin", "domain": {"id": "default"}, "password": keystone.cloud.passwords["admin"]}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    return keystone.token({"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope})


def cold(keystone: Keystone) -> None:
    """Forget every validated token."""
    keystone.runtime.memo["keeper"]._tokens.clear()
    keystone.cloud.cloud.epoch.bump()


@pytest.mark.everywhere
def test_a_cloud_that_signs(signing: Keystone) -> None:
    keystone = signing
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    keystone.grant("reader", "system", f"users/{user['id']}")
    keystone.grant("reader", "domains/default", f"users/{user['id']}")
    payload = msgspec.json.decode(part(token.split(".")[1]))
    assert payload["sub"] == user["id"] and payload["openstack_project_id"] == project["id"]
    assert payload["exp"] - payload["iat"] == 3600 and payload["openstack_methods"] == ["password"]
    scopes: tuple[Any, ...] = (
        {"project": {"id": project["id"]}}, {"domain": {"id": "default"}}, {"system": {"all": True}}, "unscoped",
    )  # fmt: skip
    for scope in scopes:
        answer = keystone.login(by_password(user["id"], "secret", scope))
        key, issued = answer.headers["x-subject-token"], msgspec.json.decode(answer.read())["token"]
        cold(keystone)
        assert keystone.body(key) == issued and len(key) < 1500
    again = keystone.token(by_token(token, {"project": {"id": project["id"]}}))
    cold(keystone)
    assert keystone.alive(again)
    keystone.send("DELETE", "/v3/auth/tokens", token=token, headers={"X-Subject-Token": token})
    assert not keystone.alive(token) and not keystone.alive(again)
    head, body, signature = keystone.admin.split(".")
    lie = msgspec.json.decode(part(body)) | {"sub": user["id"]}
    assert not keystone.alive(f"{head}.{plain(msgspec.json.encode(lie))}.{signature}")


@pytest.mark.everywhere
def test_the_cloud_rotates_what_it_signs_with(signing: Keystone) -> None:
    kids = {signing.admin.split(".")[0]}
    for _ in range(2):
        rotate_keys(signing.runtime)
        assert signing.alive(signing.admin)
        kids.add(_admin(signing).split(".")[0])
    rotate_keys(signing.runtime)
    before, signing.admin = signing.admin, _admin(signing)
    cold(signing)
    assert len(kids) == 3 and not signing.alive(before) and signing.alive(signing.admin)


@pytest.mark.everywhere
def test_one_cloud_has_one_form_of_token(keystone: Keystone) -> None:
    sealed = keystone.admin
    jws.prepare(keystone.state / "keys" / jws.FOLDER)
    keystone.configure(token_provider="jws")
    signed = keystone.admin = _admin(keystone)
    cold(keystone)
    assert keystone.alive(signed) and not keystone.alive(sealed)
    keystone.configure(token_provider="fernet")
    keystone.admin = sealed
    cold(keystone)
    assert keystone.alive(sealed) and not keystone.alive(signed)


@pytest.mark.everywhere
def test_signed_tokens_of_delegations(signing: Keystone) -> None:
    keystone = signing
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    other = keystone.user("v")
    trust = {
        "trustor_user_id": user["id"], "trustee_user_id": other["id"], "impersonation": True,
        "project_id": project["id"], "roles": [{"name": "reader"}],
    }  # fmt: skip
    made = keystone.call("POST", "/OS-TRUST/trusts", {"trust": trust}, token=token)["trust"]
    key = keystone.password(other["id"], "secret", {"OS-TRUST:trust": {"id": made["id"]}})
    body = {"application_credential": {"name": "c", "roles": [{"name": "reader"}]}}
    own = keystone.call("POST", f"/users/{user['id']}/application_credentials", body, token=token)
    cred = own["application_credential"]
    method = {"id": cred["id"], "secret": cred["secret"]}
    program = keystone.token(
        {"identity": {"methods": ["application_credential"], "application_credential": method}}
    )
    cold(keystone)
    assert keystone.body(key)["OS-TRUST:trust"]["id"] == made["id"]
    assert keystone.body(program)["application_credential"]["id"] == cred["id"]
    for one in (key, program):
        assert [role["name"] for role in keystone.body(one)["roles"]] == ["reader"]


# ---- revocation events


@pytest.mark.everywhere
def test_events(keystone: Keystone) -> None:
    keystone.clock.now = time.time() + 1
    keystone.admin = _admin(keystone)
    project = keystone.project("p")
    user, one = keystone.member("u", project)
    two = keystone.password(user["id"], "secret")
    audits = [keystone.body(key)["audit_ids"][0] for key in (one, two)]
    headers = {"X-Subject-Token": two}
    keystone.send("DELETE", "/v3/auth/tokens?cascade=false", token=two, headers=headers)
    keystone.send("DELETE", "/v3/auth/tokens", token=one, headers={"X-Subject-Token": one})
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"password": "another"}})
    keystone.call("PATCH", f"/projects/{project['id']}", {"project": {"enabled": False}})
    found = keystone.call("GET", "/OS-REVOKE/events")["events"]

    def told(**wanted: str) -> bool:
        return any(wanted.items() <= event.items() for event in found)

    assert told(audit_chain_id=audits[0]) and told(audit_id=audits[1])
    assert told(user_id=user["id"]) and told(project_id=project["id"]) and len(found) == 4
    assert all(event["issued_before"].endswith("Z") for event in found)
    later = "2099-01-01T00:00:00Z"
    assert keystone.call("GET", f"/OS-REVOKE/events?since={later}")["events"] == []
    assert keystone.status("GET", "/OS-REVOKE/events?since=yesterday") == 400
    member = keystone.password(user["id"], "another")
    assert keystone.status("GET", "/OS-REVOKE/events", token=member) == 403


@pytest.mark.everywhere
def test_what_pki_tokens_left_is_gone(shared: Keystone) -> None:
    for path in ("/auth/tokens/OS-PKI/revoked", "/OS-SIMPLE-CERT/ca", "/OS-SIMPLE-CERT/certificates"):
        assert shared.send("GET", f"/v3{path}").status == 410
