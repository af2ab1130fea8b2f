"""Buckets and objects, as boto3 has them."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.objectstore.s3.conftest import PIPELINE, code
from tests.objectstore.s3.signer import Signer, send
from tests.objectstore.world import world


def test_buckets_come_and_go(s3: Any) -> None:
    assert s3.list_buckets()["Buckets"] == []
    s3.create_bucket(Bucket="garden")
    assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == ["garden"]
    assert s3.head_bucket(Bucket="garden")["BucketRegion"] == "us-east-1"
    with pytest.raises(ClientError) as error:
        s3.create_bucket(Bucket="garden")
    assert code(error) == "BucketAlreadyOwnedByYou"
    s3.delete_bucket(Bucket="garden")
    with pytest.raises(ClientError) as error:
        s3.head_bucket(Bucket="garden")
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_an_object_comes_back_as_it_was(s3: Any, bucket: str) -> None:
    put = s3.put_object(
        Bucket=bucket, Key="rose/red one", Body=b"petals", ContentType="text/flower", Metadata={"colour": "red"},
        CacheControl="no-cache", ContentDisposition="inline", ContentLanguage="la",
    )  # fmt: skip
    assert put["ETag"] == '"a9b7ff3bb31f7ff4d9d3ae2a2c4ea9b9"' or len(put["ETag"]) == 34
    got = s3.get_object(Bucket=bucket, Key="rose/red one")
    assert got["Body"].read() == b"petals"
    assert got["ETag"] == put["ETag"]
    assert got["ContentType"] == "text/flower"
    assert got["Metadata"] == {"colour": "red"}
    assert (got["CacheControl"], got["ContentDisposition"], got["ContentLanguage"]) == (
        "no-cache",
        "inline",
        "la",
    )
    head = s3.head_object(Bucket=bucket, Key="rose/red one")
    assert head["ContentLength"] == 6
    s3.delete_object(Bucket=bucket, Key="rose/red one")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="rose/red one")
    assert code(error) == "NoSuchKey"
    s3.delete_object(Bucket=bucket, Key="rose/red one")  # once more changes nothing


def test_listings(s3: Any, bucket: str) -> None:
    for key in ("a/1", "a/2", "b", "c/1", "d"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    one = s3.list_objects_v2(Bucket=bucket)
    assert [entry["Key"] for entry in one["Contents"]] == ["a/1", "a/2", "b", "c/1", "d"]
    assert one["KeyCount"] == 5
    assert one["Contents"][0]["ETag"] == '"9dd4e461268c8034f5c8564e155c67a6"'
    found, token = [], {}
    while True:
        page = s3.list_objects_v2(Bucket=bucket, MaxKeys=1, Delimiter="/", **token)
        found += [entry["Key"] for entry in page.get("Contents", [])]
        found += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
        if not page["IsTruncated"]:
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    assert found == ["a/", "b", "c/", "d"]
    old = s3.list_objects(Bucket=bucket, Prefix="a/", Marker="a/1")
    assert [entry["Key"] for entry in old["Contents"]] == ["a/2"]
    assert s3.list_objects_v2(Bucket=bucket, StartAfter="c/1")["KeyCount"] == 1


def test_a_bucket_with_objects_stays(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=b"")
    with pytest.raises(ClientError) as error:
        s3.delete_bucket(Bucket=bucket)
    assert code(error) == "BucketNotEmpty"


def test_nobody_takes_a_name_twice(connect: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as error:
        connect("bob").create_bucket(Bucket=bucket)
    assert code(error) == "BucketAlreadyExists"
    with pytest.raises(ClientError) as error:
        connect("bob").list_objects_v2(Bucket=bucket)
    assert code(error) == "AccessDenied"


def test_wrong_secrets_and_unknown_keys(connect: Any) -> None:
    with pytest.raises(ClientError) as error:
        connect("alice", "wrong").list_buckets()
    assert code(error) == "SignatureDoesNotMatch"
    with pytest.raises(ClientError) as error:
        connect("mallory").list_buckets()
    assert code(error) == "InvalidAccessKeyId"


def test_signature_version_2(connect: Any, s3: Any, bucket: str) -> None:
    old = connect(signature_version="s3")
    old.put_object(Bucket=bucket, Key="old way/x", Body=b"2", Metadata={"a": "b"})
    assert s3.get_object(Bucket=bucket, Key="old way/x")["Body"].read() == b"2"
    assert old.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_users_of_the_paste_file(tmp_path: Any) -> None:
    users = {
        "user_zoo_keeper": "keeper-key .admin",
        "user_zoo_guest": "guest-key",
        "user_circus_clown": "clown-key friends .admin",
    }
    found = world(tmp_path, pipeline=PIPELINE, options={"tempauth": users})
    try:
        url = found.serve()
        keeper, guest = (Signer(url, f"zoo:{name}", f"{name}-key") for name in ("keeper", "guest"))
        clown = Signer(url, "circus:clown", "clown-key")
        assert send(url, "PUT", "/cages", keeper.headers("PUT", "/cages")).status == 200
        headers = keeper.headers("PUT", "/cages/lion", payload="UNSIGNED-PAYLOAD")
        assert send(url, "PUT", "/cages/lion", headers, b"roar").status == 200
        for other in (guest, clown):
            assert send(url, "GET", "/cages/lion", other.headers("GET", "/cages/lion")).status == 403
        token = send(
            url, "GET", "/auth/v1.0", {"x-auth-user": "zoo:keeper", "x-auth-key": "keeper-key"}
        ).headers["x-auth-token"]
        swift = {"x-auth-token": token}
        assert send(url, "GET", "/v1/AUTH_zoo/cages/lion", swift).body == b"roar"
        assert (
            send(
                url,
                "POST",
                "/v1/AUTH_zoo/cages",
                swift | {"x-container-read": "friends", "content-length": "0"},
            ).status
            == 204
        )
        assert send(url, "GET", "/cages/lion", clown.headers("GET", "/cages/lion")).body == b"roar"
        assert send(url, "GET", "/cages/lion", guest.headers("GET", "/cages/lion")).status == 403
    finally:
        found.close()
