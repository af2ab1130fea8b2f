"""Credentials, trusts, several factors and OAuth through the clients that people use."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.identity import totp
from altostack.inprocess import InProcessCloud
from tests.identity.test_openstack_client import run

pytest.importorskip("openstackclient")
SEED = base64.b32encode(b"12345678901234567890").decode()

SCRIPT = """
ec2 credentials create -f json
ec2 credentials list -f json
credential create --type cert --project admin admin the-certificate -f json
credential list --type cert -f json
consumer create --description cc -f json
consumer list -f json
user create --domain default --password pw friend -f json
trust create --project admin --role member admin friend -f json
trust list -f json
""".strip().splitlines()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[InProcessCloud]:
    settings = {"identity": {"password_rounds": 4, "totp_included_previous_windows": 4}}
    cloud = InProcessCloud(tmp_path, services=("identity",), hosts=(), settings=settings)
    yield cloud
    cloud.stop()


def test_a_tour(cloud: InProcessCloud, tmp_path: Path) -> None:
    url = cloud.serve()
    person = {
        "OS_USERNAME": "admin", "OS_PASSWORD": cloud.passwords["admin"], "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default",
    }  # fmt: skip
    ec2, keys, stored, certs, consumer, consumers, friend, trust, trusts = run(
        cloud, url, SCRIPT, tmp_path, **person
    )
    assert [one["Access"] for one in keys] == [ec2["access"]] and keys[0]["Secret"] == ec2["secret"]
    assert [one["ID"] for one in certs] == [stored["id"]] and stored["blob"] == "the-certificate"
    assert [one["ID"] for one in consumers] == [consumer["id"]] and consumer["secret"]
    assert [one["ID"] for one in trusts] == [trust["id"]] and trust["trustee_user_id"] == friend["id"]
    (issued,) = run(
        cloud, url, ["token issue -f json"], tmp_path, OS_USERNAME="friend", OS_PASSWORD="pw",
        OS_USER_DOMAIN_ID="default", OS_TRUST_ID=trust["id"],
    )  # fmt: skip
    assert issued["user_id"] == friend["id"] and trust["is_impersonation"] in (False, "False")
    shows = [f"credential show {stored['id']} -f json", f"trust show {trust['id']} -f json"]
    shows += [f"consumer show {consumer['id']} -f json", f"ec2 credentials show {ec2['access']} -f json"]
    found = run(cloud, url, shows, tmp_path, **person)
    assert [one.get("id", one.get("access")) for one in found] == [
        stored["id"], trust["id"], consumer["id"], ec2["access"],
    ]  # fmt: skip
    ends = [
        f"credential delete {stored['id']}",
        f"trust delete {trust['id']}",
        f"consumer set --description dd {consumer['id']}",
        f"consumer delete {consumer['id']}",
        f"ec2 credentials delete {ec2['access']}",
        "trust list -f json",
    ]
    assert run(cloud, url, ends, tmp_path, **person) == [[]]


def _people(cloud: InProcessCloud) -> tuple[Any, str, str]:
    identity, token = cloud.client("identity"), cloud.token("demo")
    user = identity.call("GET", "/v3/auth/tokens", headers={"X-Subject-Token": token}, token=token)["token"]
    return identity, token, user["user"]["id"]


def test_factors_by_keystoneauth(cloud: InProcessCloud) -> None:
    from keystoneauth1 import exceptions, session
    from keystoneauth1.identity import v3

    identity, token, user = _people(cloud)
    seed = {"credential": {"type": "totp", "blob": SEED, "user_id": user}}
    identity.call("POST", "/v3/credentials", seed, token=token)
    rules = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["password", "totp"]]}
    identity.call("PATCH", f"/v3/users/{user}", {"user": {"options": rules}}, token=cloud.token("admin"))
    where: dict[str, Any] = {
        "auth_url": cloud.serve(), "project_name": "demo", "project_domain_id": "default",
    }  # fmt: skip
    first = v3.Password(user_id=user, password=cloud.passwords["demo"], **where)
    with pytest.raises(exceptions.MissingAuthMethods) as caught:
        session.Session(auth=first).get_token()
    assert caught.value.required_auth_methods == [["password", "totp"]]
    step = int(time.time()) // 30  # the cloud takes codes of four steps, so the clock may go on meanwhile
    method = v3.TOTPMethod(user_id=user, passcode=totp.code(SEED, step - 1))
    second = v3.Auth(auth_methods=[method, v3.ReceiptMethod(receipt=caught.value.receipt)], **where)
    assert session.Session(auth=second).get_token()
    both = v3.MultiFactor(
        auth_methods=["v3password", "v3totp"], user_id=user, password=cloud.passwords["demo"],
        passcode=totp.code(SEED, step), **where,
    )  # fmt: skip
    assert session.Session(auth=both).get_token()


def test_oauth1_by_keystoneclient_words(cloud: InProcessCloud) -> None:
    """The header as the API's own client library makes it, over a real port."""
    from keystoneauth1 import session
    from keystoneauth1.extras import oauth1 as extra
    from oauthlib import oauth1

    url = cloud.serve().removesuffix("/v3") + "/v3"
    identity, admin = cloud.client("identity"), cloud.token("admin")
    consumer = identity.call("POST", "/v3/OS-OAUTH1/consumers", {"consumer": {}}, token=admin)["consumer"]
    about = identity.call("GET", "/v3/auth/tokens", headers={"X-Subject-Token": admin}, token=admin)["token"]
    plain = session.Session()

    def post(path: str, client: oauth1.Client, **headers: str) -> dict[str, str]:
        target = f"{url}/OS-OAUTH1/{path}"
        _, signed, _ = client.sign(target, http_method="POST", headers=headers)
        answer = plain.post(target, headers={**headers, **signed}, authenticated=False)
        return dict(pair.split("=", 1) for pair in answer.text.split("&"))

    client = oauth1.Client(consumer["id"], consumer["secret"], callback_uri="oob")
    request = post("request_token", client, **{"Requested-Project-Id": about["project"]["id"]})
    body = {"roles": [{"name": "reader"}]}
    verifier = identity.call("PUT", f"/v3/OS-OAUTH1/authorize/{request['oauth_token']}", body, token=admin)
    client = oauth1.Client(
        consumer["id"], consumer["secret"], request["oauth_token"], request["oauth_token_secret"],
        verifier=verifier["token"]["oauth_verifier"],
    )  # fmt: skip
    access = post("access_token", client)
    auth = extra.V3OAuth1(
        url,
        consumer_key=consumer["id"],
        consumer_secret=consumer["secret"],
        access_key=access["oauth_token"],
        access_secret=access["oauth_token_secret"],
    )
    mine = session.Session(auth=auth)
    shown = identity.call(
        "GET", "/v3/auth/tokens", headers={"X-Subject-Token": mine.get_token()}, token=admin
    )["token"]
    assert shown["methods"] == ["oauth1"] and [role["name"] for role in shown["roles"]] == ["reader"]
    assert shown["user"]["id"] == about["user"]["id"]
