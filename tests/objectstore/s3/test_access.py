"""Who may do what: ACLs, bucket policies, public access, Swift's ACLs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from altostack.objectstore.http import Bytes, Request
from altostack.objectstore.s3.call import allowed
from tests.objectstore.s3.conftest import code
from tests.objectstore.s3.signer import send


def refused(call: Any) -> str:
    with pytest.raises(ClientError) as error:
        call()
    return code(error)


def policy(*statements: dict[str, Any]) -> str:
    every = []
    for one in statements:
        every.append(
            {
                "Effect": "Allow",
                "Principal": "*",
                "Resource": ["arn:aws:s3:::garden", "arn:aws:s3:::garden/*"],
            }
            | one
        )
    return json.dumps({"Version": "2012-10-17", "Statement": every})


@pytest.fixture
def bob(connect: Any) -> Any:
    return connect("bob")


@pytest.fixture(autouse=True)
def _object(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"secret")


def test_private_is_private(bob: Any, bucket: str, url: str, connect: Any) -> None:
    assert refused(lambda: bob.get_object(Bucket=bucket, Key="k")) == "AccessDenied"
    assert refused(lambda: bob.put_object(Bucket=bucket, Key="k", Body=b"")) == "AccessDenied"
    assert refused(lambda: bob.delete_bucket(Bucket=bucket)) == "AccessDenied"
    assert refused(lambda: bob.get_bucket_acl(Bucket=bucket)) == "AccessDenied"
    assert send(url, "GET", "/garden/k").code == "AccessDenied"
    assert send(url, "GET", "/garden").code == "AccessDenied"
    assert send(url, "GET", "/nothing/k").code == "NoSuchBucket"
    assert (
        connect("carol").get_object(Bucket=bucket, Key="k")["Body"].read() == b"secret"
    )  # of the same account


def test_canned_lists(s3: Any, bob: Any, bucket: str, url: str) -> None:
    assert s3.get_bucket_acl(Bucket=bucket)["Grants"][0]["Permission"] == "FULL_CONTROL"
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert send(url, "GET", "/garden").status == 200
    assert send(url, "GET", "/garden/k").status == 403  # a bucket's list says nothing of its objects
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="public-read")
    assert send(url, "GET", "/garden/k").body == b"secret"
    assert send(url, "PUT", "/garden/k", {"content-length": "0"}).status == 403
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    assert send(url, "GET", "/garden").status == 403
    s3.put_object(Bucket=bucket, Key="k", Body=b"new", ACL="authenticated-read")
    assert send(url, "GET", "/garden/k").status == 403
    assert bob.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"
    assert refused(lambda: s3.put_object_acl(Bucket=bucket, Key="k", ACL="nonsense")) == "InvalidArgument"


def test_grants(s3: Any, bob: Any, bucket: str) -> None:
    s3.put_bucket_acl(Bucket=bucket, GrantWrite='id="builders"', GrantReadACP='id="builders"')
    bob.put_object(Bucket=bucket, Key="his", Body=b"x")
    assert {g["Permission"] for g in bob.get_bucket_acl(Bucket=bucket)["Grants"]} == {"WRITE", "READ_ACP"}
    assert refused(lambda: bob.list_objects_v2(Bucket=bucket)) == "AccessDenied"
    found = s3.get_bucket_acl(Bucket=bucket)
    found["Grants"].append({"Grantee": {"Type": "CanonicalUser", "ID": "builders"}, "Permission": "READ"})
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy={"Owner": found["Owner"], "Grants": found["Grants"]})
    assert bob.list_objects_v2(Bucket=bucket)["KeyCount"] == 2
    wrong = {"Owner": {"ID": "builders"}, "Grants": found["Grants"]}
    assert refused(lambda: s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy=wrong)) == "AccessDenied"


def test_policies_allow_and_deny(s3: Any, bob: Any, bucket: str, url: str) -> None:
    assert refused(lambda: s3.get_bucket_policy(Bucket=bucket)) == "NoSuchBucketPolicy"
    text = policy({"Action": "s3:GetObject", "Principal": {"AWS": "builders"}})
    s3.put_bucket_policy(Bucket=bucket, Policy=text)
    assert json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"]) == json.loads(text)
    assert bob.get_object(Bucket=bucket, Key="k")["Body"].read() == b"secret"
    assert refused(lambda: bob.list_objects_v2(Bucket=bucket)) == "AccessDenied"
    assert send(url, "GET", "/garden/k").status == 403
    s3.put_bucket_policy(
        Bucket=bucket,
        Policy=policy(
            {"Action": ["s3:Get*", "s3:ListBucket"]},
            {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::garden/private/*"},
        ),
    )
    s3.put_object(Bucket=bucket, Key="private/x", Body=b"x")
    assert send(url, "GET", "/garden/k").body == b"secret"
    assert send(url, "GET", "/garden?list-type=2").status == 200
    assert send(url, "GET", "/garden/private/x").status == 403
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="private/x")) == "AccessDenied"  # the owner too
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    s3.delete_bucket_policy(Bucket=bucket)
    assert send(url, "GET", "/garden/k").status == 403


def test_a_policy_cannot_shut_out_its_owner(s3: Any, bucket: str) -> None:
    s3.put_bucket_policy(Bucket=bucket, Policy=policy({"Effect": "Deny", "Action": "s3:*"}))
    assert refused(lambda: s3.list_objects_v2(Bucket=bucket)) == "AccessDenied"
    s3.delete_bucket_policy(Bucket=bucket)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


@pytest.mark.parametrize(
    ("condition", "good"),
    [
        ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, True),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, False),
        ({"NotIpAddress": {"aws:SourceIp": ["10.0.0.0/8"]}}, True),
        ({"Bool": {"aws:SecureTransport": "true"}}, False),
        ({"StringLike": {"aws:UserAgent": "tester/*"}}, True),
        ({"StringEquals": {"aws:UserAgent": "tester"}}, False),
        ({"StringNotEquals": {"aws:Referer": "x"}}, True),
        ({"StringEqualsIfExists": {"aws:Referer": "x"}}, True),
        ({"Null": {"aws:Referer": "true"}}, True),
        ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, True),
        ({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, False),
        ({"NumericLessThan": {"aws:EpochTime": "10"}}, False),
        ({"StringEquals": {"s3:ExistingObjectTag/colour": "green"}}, True),
        ({"StringEquals": {"s3:ExistingObjectTag/colour": "red"}}, False),
        ({"ForAnyValue:StringLike": {"aws:UserAgent": ["a*", "t*"]}}, True),
    ],
)
def test_conditions(s3: Any, bucket: str, url: str, condition: dict[str, Any], good: bool) -> None:
    tags = {"TagSet": [{"Key": "colour", "Value": "green"}]}
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=tags)
    s3.put_bucket_policy(Bucket=bucket, Policy=policy({"Action": "s3:GetObject", "Condition": condition}))
    status = send(url, "GET", "/garden/k", {"user-agent": "tester/1"}).status
    assert status == (200 if good else 403)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"Statement": []}',
        policy({"Action": "ec2:Start"}),
        policy({"Action": "s3:*", "Effect": "Maybe"}),
        policy({"Action": "s3:*", "Resource": "arn:aws:s3:::other/*"}),
        policy({"Action": "s3:*", "Resource": "arn:aws:s3:::gard*"}),
        policy({"Action": "s3:*", "Principal": {"Robot": "x"}}),
        policy({"Action": "s3:*", "Condition": {"Guess": {"a": "b"}}}),
        policy({"Action": "s3:*", "Condition": {"IpAddress": {"aws:SourceIp": "here"}}}),
        policy({"Action": "s3:*", "NotAction": "s3:*"}),
        policy({"Action": "s3:*", "More": 1}),
        "[" * 5000,
    ],
)
def test_what_is_no_policy(s3: Any, bucket: str, text: str) -> None:
    assert refused(lambda: s3.put_bucket_policy(Bucket=bucket, Policy=text)) in (
        "MalformedPolicy",
        "MissingRequestBodyError",
    )
    assert refused(lambda: s3.get_bucket_policy(Bucket=bucket)) == "NoSuchBucketPolicy"


def test_public_access_can_be_blocked(s3: Any, bucket: str, url: str) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy({"Action": "s3:GetObject"}))
    assert send(url, "GET", "/garden/k").status == send(url, "GET", "/garden").status == 200
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(names, True))
    assert send(url, "GET", "/garden/k").status == send(url, "GET", "/garden").status == 403
    assert refused(lambda: s3.put_bucket_acl(Bucket=bucket, ACL="public-read")) == "AccessDenied"
    assert (
        refused(lambda: s3.put_bucket_policy(Bucket=bucket, Policy=policy({"Action": "s3:*"})))
        == "AccessDenied"
    )
    s3.delete_public_access_block(Bucket=bucket)
    assert send(url, "GET", "/garden/k").status == 200


def test_ownership_switches_lists_off(s3: Any, bucket: str, url: str) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    s3.put_bucket_ownership_controls(
        Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    )
    assert send(url, "GET", "/garden").status == 403
    assert (
        refused(lambda: s3.put_bucket_acl(Bucket=bucket, ACL="public-read"))
        == "AccessControlListNotSupported"
    )


def by_swift(
    store: Any, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> None:
    """What Alice does by the other API."""
    said = {"content-length": str(len(body)), **(headers or {})}
    request = Request(method, f"/v1/AUTH_wonderland/{path}", headers=said, body=Bytes(body))
    request.authorize = allowed
    assert store.store.handlers["s3"].app(request).good


def test_swifts_own_lists_count(s3: Any, bucket: str, url: str, store: Any) -> None:
    by_swift(store, "POST", "garden", headers={"x-container-read": ".r:*"})
    assert send(url, "GET", "/garden/k").body == b"secret"
    assert send(url, "GET", "/garden").status == 403


@pytest.mark.parametrize("how", ["policy", "list", "object's list", "upload"])
def test_a_container_of_swifts_that_is_shared(s3: Any, bob: Any, url: str, store: Any, how: str) -> None:
    by_swift(store, "PUT", "hers")
    by_swift(store, "PUT", "hers/k", b"secret")
    assert send(url, "GET", "/hers/k").status == 404
    assert refused(lambda: bob.get_object(Bucket="hers", Key="k")) == "NoSuchBucket"
    if how == "policy":
        allowing = policy({"Action": "s3:GetObject", "Resource": "arn:aws:s3:::hers/*"})
        s3.put_bucket_policy(Bucket="hers", Policy=allowing)
    elif how == "list":
        s3.put_bucket_acl(Bucket="hers", ACL="public-read")
        s3.put_object_acl(Bucket="hers", Key="k", ACL="public-read")
    elif how == "object's list":
        s3.put_object_acl(Bucket="hers", Key="k", ACL="public-read")
    else:
        s3.put_object(Bucket="hers", Key="k", Body=b"secret", ACL="public-read")
    assert send(url, "GET", "/hers/k").body == b"secret"
    assert bob.get_object(Bucket="hers", Key="k")["Body"].read() == b"secret"
    assert refused(lambda: bob.create_bucket(Bucket="hers")) == "BucketAlreadyExists"


def test_a_container_whose_name_another_account_has(s3: Any, bob: Any, url: str, store: Any) -> None:
    bob.create_bucket(Bucket="taken")
    by_swift(store, "PUT", "taken")
    by_swift(store, "PUT", "taken/k", b"hers")
    assert s3.get_object(Bucket="taken", Key="k")["Body"].read() == b"hers"
    allowing = policy({"Action": "s3:GetObject", "Resource": "arn:aws:s3:::taken/*"})
    for share in (
        lambda: s3.put_bucket_policy(Bucket="taken", Policy=allowing),
        lambda: s3.put_object_acl(Bucket="taken", Key="k", ACL="public-read"),
    ):
        assert refused(share) == "BucketAlreadyExists"
    s3.put_object_acl(Bucket="taken", Key="k", ACL="private")
    assert send(url, "GET", "/taken/k").status == 403
    assert refused(lambda: s3.get_bucket_policy(Bucket="taken")) == "NoSuchBucketPolicy"


def test_copies_need_both_rights(s3: Any, bob: Any, bucket: str) -> None:
    bob.create_bucket(Bucket="quarry")
    copy = lambda: bob.copy_object(Bucket="quarry", Key="k", CopySource=f"{bucket}/k")  # noqa: E731
    assert refused(copy) == "AccessDenied"
    s3.put_bucket_policy(
        Bucket=bucket,
        Policy=policy({"Action": "s3:GetObject", "Principal": {"AWS": ["arn:aws:iam::builders:root"]}}),
    )
    copy()
    assert bob.get_object(Bucket="quarry", Key="k")["Body"].read() == b"secret"
    assert refused(lambda: bob.copy_object(Bucket=bucket, Key="x", CopySource="quarry/k")) == "AccessDenied"


def test_the_expected_owner(s3: Any, bucket: str) -> None:
    assert s3.get_object(Bucket=bucket, Key="k", ExpectedBucketOwner="wonderland")["Body"].read() == b"secret"
    assert (
        refused(lambda: s3.get_object(Bucket=bucket, Key="k", ExpectedBucketOwner="builders"))
        == "AccessDenied"
    )


def test_multi_delete_judges_each_key(s3: Any, bob: Any, bucket: str) -> None:
    for key in ("a/1", "b/1"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    s3.put_bucket_policy(
        Bucket=bucket, Policy=policy({"Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::garden/a/*"})
    )
    done = bob.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a/1"}, {"Key": "b/1"}]})
    assert [one["Key"] for one in done["Deleted"]] == ["a/1"]
    assert [(one["Key"], one["Code"]) for one in done["Errors"]] == [("b/1", "AccessDenied")]
