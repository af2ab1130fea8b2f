"""EC2 credentials and the tokens that signed requests are worth."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from altostack.identity.signature import Malformed, Signed, verifies, verifies_s3
from tests.identity.conftest import Keystone, by_token

pytestmark = pytest.mark.everywhere
EMPTY = hashlib.sha256(b"").hexdigest()


def keys(keystone: Keystone, user: dict[str, Any], project: dict[str, Any], token: str) -> dict[str, Any]:
    path = f"/users/{user['id']}/credentials/OS-EC2"
    found: dict[str, Any] = keystone.call("POST", path, {"tenant_id": project["id"]}, token=token)[
        "credential"
    ]
    return found


def v4(keystone: Keystone, made: dict[str, Any], *, at: float = 0.0, **more: Any) -> dict[str, Any]:
    """A request signed as the general reference says, written apart from the code under test."""
    date = datetime.fromtimestamp(keystone.clock.now + at, UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date[:8]}/RegionOne/ec2/aws4_request"
    canonical = f"GET\n/\nAction=Describe\nhost:cloud:8773\nx-amz-date:{date}\n\nhost;x-amz-date\n{EMPTY}"
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + made["secret"].encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return {
        "access": made["access"],
        "signature": signature,
        "host": "cloud:8773",
        "verb": "GET",
        "path": "/",
        "params": {"Action": "Describe"},
        "headers": {
            "X-Amz-Date": date,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={made['access']}/{scope}, "
            f"SignedHeaders=host;x-amz-date, Signature={signature}",
        },
        "body_hash": EMPTY,
        **more,
    }


def ask(keystone: Keystone, request: dict[str, Any], *, token: str | None = None, path: str = "ec2") -> Any:
    answer = keystone.send(
        "POST", f"/v3/{path}tokens", {"credentials": request}, token=token or keystone.admin
    )
    return answer.status, msgspec.json.decode(answer.read()), answer.headers.get("x-subject-token")


def test_vectors_of_the_general_reference() -> None:
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    request = Signed(
        access="AKIDEXAMPLE",
        signature="5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        host="example.amazonaws.com",
        verb="GET",
        path="/",
        headers={
            "X-Amz-Date": "20150830T123600Z",
            "Authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
            "SignedHeaders=host;x-amz-date, Signature=x",
        },
        body_hash=EMPTY,
    )
    assert verifies(request, secret) and not verifies(request, secret + "x")
    request = Signed(
        access="AKIAIOSFODNN7EXAMPLE",
        signature="i91nKc4PWAt0JJIdXwz9HxZCJDdiy6cf/Mj6vPxyYIs=",
        host="elasticmapreduce.amazonaws.com",
        verb="GET",
        path="/",
        params={
            "AWSAccessKeyId": "AKIAIOSFODNN7EXAMPLE",
            "Action": "DescribeJobFlows",
            "SignatureMethod": "HmacSHA256",
            "SignatureVersion": "2",
            "Timestamp": "2011-10-03T15:19:30",
            "Version": "2009-03-31",
        },
    )
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    assert verifies(request, secret)
    assert not verifies(msgspec.structs.replace(request, verb="POST"), secret)


def test_a_signature_that_leaves_the_host_out_is_none() -> None:
    """It would be good for every host."""
    secret, date, scope = "s", "20150830T123600Z", "20150830/us-east-1/ec2/aws4_request"
    canonical = f"GET\n/\n\nx-amz-date:{date}\n\nx-amz-date\n{EMPTY}"
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    head = f"AWS4-HMAC-SHA256 Credential=a/{scope}, SignedHeaders=x-amz-date, Signature={signature}"
    request = Signed(
        access="a", signature=signature, host="h", verb="GET", path="/", body_hash=EMPTY,
        headers={"X-Amz-Date": date, "Authorization": head},
    )  # fmt: skip
    with pytest.raises(Malformed, match="host"):
        verifies(request, secret)


def test_the_keys_of_a_user(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    made = keys(keystone, user, project, token)
    path = f"/users/{user['id']}/credentials/OS-EC2"
    assert made["user_id"] == user["id"] and made["tenant_id"] == project["id"] and made["trust_id"] is None
    assert made["links"]["self"].endswith(f"{path}/{made['access']}")
    assert keystone.call("GET", f"{path}/{made['access']}", token=token)["credential"] == made
    assert keystone.call("GET", path, token=token)["credentials"] == [made]
    (row,) = keystone.call("GET", "/credentials", token=token)["credentials"]
    assert row["type"] == "ec2" and row["id"] == hashlib.sha256(made["access"].encode()).hexdigest()
    other, theirs = keystone.member("v", project)
    for method in ("GET", "DELETE"):
        assert keystone.status(method, f"{path}/{made['access']}", token=theirs) == 403
        sly = f"/users/{other['id']}/credentials/OS-EC2/{made['access']}"
        assert keystone.status(method, sly, token=theirs) == 403
        assert keystone.status(method, f"{path}/nothing") == 404
        assert keystone.status(method, f"{path}/nothing", token=theirs) == 404
    assert keystone.status("GET", path, token=theirs) == 403
    assert keystone.status("POST", path, {"tenant_id": project["id"]}, token=theirs) == 403
    reader, dim = keystone.member("r", project, "reader")
    own = f"/users/{reader['id']}/credentials/OS-EC2"
    assert keystone.status("POST", own, {"tenant_id": project["id"]}, token=dim) == 403
    assert keystone.status("POST", path, {"tenant_id": "f" * 32}, token=token) == 404
    assert keystone.status("POST", path, {}, token=token) == 400
    keystone.call("DELETE", f"{path}/{made['access']}", token=token)
    assert keystone.call("GET", path, token=token)["credentials"] == []


def test_a_signed_request_is_worth_a_token(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    made = keys(keystone, user, project, token)
    status, body, key = ask(keystone, v4(keystone, made))
    assert status == 200 and key
    found = body["token"]
    assert found["user"]["id"] == user["id"] and found["project"]["id"] == project["id"]
    assert found["methods"] == ["ec2credential"] and found["catalog"]
    assert [role["name"] for role in found["roles"]] == ["member", "reader"]
    assert keystone.alive(key) and keystone.body(key)["methods"] == ["ec2credential"]
    assert keystone.login(by_token(key)).status == 403  # a delegation makes no other token
    for name in ("credential", "ec2Credentials"):
        raw = {name: v4(keystone, made)}
        assert keystone.send("POST", "/v3/ec2tokens", raw, token=keystone.admin).status == 200
    keystone.grant("member", f"projects/{project['id']}", f"users/{user['id']}", "DELETE")
    assert ask(keystone, v4(keystone, made))[0] == 401 and not keystone.alive(key)


def test_versions_one_and_two(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    made = keys(keystone, user, project, token)
    time = datetime.fromtimestamp(keystone.clock.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    params = {"AWSAccessKeyId": made["access"], "Timestamp": time, "SignatureVersion": "1", "action": "x"}
    text = f"actionxAWSAccessKeyId{made['access']}SignatureVersion1Timestamp{time}"
    mac = hmac.new(made["secret"].encode(), text.encode(), hashlib.sha1).digest()
    request = {
        "access": made["access"], "host": "cloud:8773", "verb": "GET", "path": "/", "params": params,
        "signature": base64.b64encode(mac).decode(),
    }  # fmt: skip
    assert ask(keystone, request)[0] == 200
    assert ask(keystone, {**request, "params": {**params, "action": "y"}})[0] == 401
    params = {"SignatureVersion": "2", "SignatureMethod": "HmacSHA256", "Timestamp": time}
    for host in ("cloud:8773", "cloud"):  # some clients sign without the port
        quoted = time.replace(":", "%3A")
        text = f"GET\n{host}\n/\nSignatureMethod=HmacSHA256&SignatureVersion=2&Timestamp={quoted}"
        mac = hmac.new(made["secret"].encode(), text.encode(), hashlib.sha256).digest()
        signature = base64.b64encode(mac).decode()
        assert ask(keystone, {**request, "params": params, "signature": signature})[0] == 200
    plain = {name: value for name, value in params.items() if name != "Timestamp"}
    text = "GET\ncloud\n/\nSignatureMethod=HmacSHA256&SignatureVersion=2"
    mac = hmac.new(made["secret"].encode(), text.encode(), hashlib.sha256).digest()
    timeless = {**request, "params": plain, "signature": base64.b64encode(mac).decode()}
    assert ask(keystone, timeless)[0] == 401
    assert ask(keystone, {**request, "params": {"SignatureVersion": "0"}})[0] == 401


def test_s3(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    made = keys(keystone, user, project, token)
    text = "GET\n\n\nTue, 27 Mar 2007 19:36:42 +0000\n/bucket/object"
    mac = hmac.new(made["secret"].encode(), text.encode(), hashlib.sha1).digest()
    request = {
        "access": made["access"],
        "token": base64.urlsafe_b64encode(text.encode()).decode(),
        "signature": base64.b64encode(mac).decode(),
    }
    status, body, key = ask(keystone, request, path="s3")
    assert status == 200 and body["token"]["project"]["id"] == project["id"]
    assert key is None  # what the object store learns is no token to go on with
    assert ask(keystone, {**request, "token": request["token"][:-4] + "AAAA"}, path="s3")[0] == 401
    text = f"AWS4-HMAC-SHA256\n20300317T174640Z\n20300317/RegionOne/s3/aws4_request\n{EMPTY}"
    mac_key = b"AWS4" + made["secret"].encode()
    for part in ("20300317", "RegionOne", "s3", "aws4_request"):
        mac_key = hmac.new(mac_key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(mac_key, text.encode(), hashlib.sha256).hexdigest()
    request |= {"token": base64.urlsafe_b64encode(text.encode()).decode(), "signature": signature}
    assert ask(keystone, request, path="s3")[0] == 200
    other = text.replace("/s3/", "/ec2/")
    with pytest.raises(Malformed):
        verifies_s3(
            Signed(access="a", signature="s", token=base64.urlsafe_b64encode(other.encode()).decode()),
            "secret",
        )


@pytest.mark.parametrize("path", ["ec2", "s3"])
def test_malformed_requests(shared: Keystone, path: str) -> None:
    for request, status in (
        ({}, 401),
        ({"access": "nobody", "signature": "x"}, 404),
        ({"access": 1}, 400),
        ({"access": "a", "params": []}, 400),
        ({"access": "a", "headers": {"a": {}}}, 400),
    ):
        assert ask(shared, request, path=path)[0] == status, request
    for raw in (b"", b"[]", b"null", b"{"):
        assert shared.client.send("POST", f"/v3/{path}tokens", raw, token=shared.admin).status == 400
