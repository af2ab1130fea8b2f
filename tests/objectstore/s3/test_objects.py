"""More about objects: conditions, ranges, copies, metadata, tags, deletion of many, odd names, forms."""

from __future__ import annotations

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.objectstore.s3.conftest import KEYS, PIPELINE, code
from tests.objectstore.s3.signer import Signer, send
from tests.objectstore.world import world


def refused(call: Any) -> str:
    with pytest.raises(ClientError) as error:
        call()
    return code(error)


def test_conditional_reads(s3: Any, bucket: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    about = {"Bucket": bucket, "Key": "k"}
    assert s3.get_object(**about, IfMatch=put["ETag"])["ContentLength"] == 1
    assert refused(lambda: s3.get_object(**about, IfMatch='"other"')) == "PreconditionFailed"
    assert refused(lambda: s3.head_object(**about, IfNoneMatch=put["ETag"])) == "304"
    now = datetime.now(UTC)
    assert refused(lambda: s3.get_object(**about, IfModifiedSince=now + timedelta(hours=1))) == "304"
    assert (
        refused(lambda: s3.get_object(**about, IfUnmodifiedSince=now - timedelta(hours=1)))
        == "PreconditionFailed"
    )
    assert s3.get_object(**about, IfModifiedSince=now - timedelta(hours=1))["ContentLength"] == 1


def test_conditional_writes(s3: Any, bucket: str) -> None:
    about = {"Bucket": bucket, "Key": "k"}
    one = s3.put_object(**about, Body=b"1", IfNoneMatch="*")
    assert refused(lambda: s3.put_object(**about, Body=b"2", IfNoneMatch="*")) == "PreconditionFailed"
    s3.put_object(**about, Body=b"2", IfMatch=one["ETag"])
    assert refused(lambda: s3.put_object(**about, Body=b"3", IfMatch=one["ETag"])) == "PreconditionFailed"
    assert (
        refused(lambda: s3.put_object(Bucket=bucket, Key="no", Body=b"3", IfMatch=one["ETag"])) == "NoSuchKey"
    )
    assert s3.get_object(**about)["Body"].read() == b"2"


def test_one_of_many_conditional_writers_wins(s3: Any, bucket: str) -> None:
    def put(number: int) -> bool:
        try:
            s3.put_object(Bucket=bucket, Key="k", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict")
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert sum(won) == 1
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]

    def swap(number: int) -> bool:
        try:
            s3.put_object(Bucket=bucket, Key="k", Body=f"swap {number}".encode(), IfMatch=etag)
        except ClientError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(swap, range(8))) == 1


def test_ranges(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    got = s3.get_object(Bucket=bucket, Key="k", Range="bytes=2-4")
    assert (got["Body"].read(), got["ContentRange"]) == (b"234", "bytes 2-4/10")
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=-3")["Body"].read() == b"789"
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=0-1,4-5")["Body"].read() == b"0123456789"
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="k", Range="bytes=20-")) == "InvalidRange"
    first = s3.get_object(Bucket=bucket, Key="k", PartNumber=1)
    assert first["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="k", PartNumber=2)) == "InvalidPartNumber"


def test_response_overrides(s3: Any, bucket: str, url: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    got = s3.get_object(Bucket=bucket, Key="k", ResponseContentType="a/b", ResponseCacheControl="no-store")
    assert (got["ContentType"], got["CacheControl"]) == ("a/b", "no-store")
    assert send(url, "GET", "/garden/k").status == 200
    assert send(url, "GET", "/garden/k?response-content-type=a/b").code == "InvalidRequest"
    signer = Signer(url)
    target = signer.presigned("GET", "/garden/k", **{"response-content-type": "a/b\r\nx: y"})
    assert send(url, "GET", target).status == 400


def test_metadata_in_all_languages(s3: Any, bucket: str, url: str) -> None:
    signer = Signer(url)
    encoded = "=?UTF-8?B?" + base64.b64encode("grün".encode()).decode() + "?="
    headers = signer.headers(
        "PUT", "/garden/k", payload="UNSIGNED-PAYLOAD", more={"x-amz-meta-colour": encoded}
    )
    assert send(url, "PUT", "/garden/k", headers, b"x").status == 200
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"]["colour"] == encoded
    signed = signer.headers(
        "PUT", "/garden/l", payload="UNSIGNED-PAYLOAD", more={"x-amz-meta-long": "x" * 1500}
    )
    assert send(url, "PUT", "/garden/l", signed, b"x").status == 200
    long = {"short": "s", "long": "x" * 1500, "n" * 150: "v"}
    s3.put_object(Bucket=bucket, Key="l", Body=b"", Metadata=long)
    assert s3.head_object(Bucket=bucket, Key="l")["Metadata"] == long
    s3.copy_object(Bucket=bucket, Key="m", CopySource=f"{bucket}/l")
    assert s3.head_object(Bucket=bucket, Key="m")["Metadata"] == long
    big = {"a": "x" * 2100}
    assert (
        refused(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"", Metadata=big)) == "MetadataTooLarge"
    )


def test_copies(s3: Any, bucket: str) -> None:
    s3.put_object(
        Bucket=bucket,
        Key="a b+ü",
        Body=b"content",
        ContentType="x/y",
        Metadata={"m": "1"},
        Tagging="t=1",
        ChecksumAlgorithm="CRC32",
    )
    source = {"Bucket": bucket, "Key": "a b+ü"}
    done = s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)
    assert done["CopyObjectResult"]["ETag"] == f'"{hashlib.md5(b"content").hexdigest()}"'
    head = s3.head_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED")
    assert (head["ContentType"], head["Metadata"], head["TagCount"]) == ("x/y", {"m": "1"}, 1)
    assert head["ChecksumCRC32"]
    s3.copy_object(
        Bucket=bucket, Key="copy", CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "2"},
        ContentType="z/z", TaggingDirective="REPLACE", Tagging="u=2",
    )  # fmt: skip
    head = s3.head_object(Bucket=bucket, Key="copy")
    assert (head["ContentType"], head["Metadata"]) == ("z/z", {"n": "2"})
    assert s3.get_object_tagging(Bucket=bucket, Key="copy")["TagSet"] == [{"Key": "u", "Value": "2"}]
    itself = {"Bucket": bucket, "Key": "copy"}
    assert refused(lambda: s3.copy_object(**itself, CopySource=itself)) == "InvalidRequest"
    s3.copy_object(**itself, CopySource=itself, MetadataDirective="REPLACE", Metadata={"o": "3"})
    assert s3.get_object(**itself)["Body"].read() == b"content"
    etag = head["ETag"]
    assert (
        refused(lambda: s3.copy_object(Bucket=bucket, Key="d", CopySource=itself, CopySourceIfNoneMatch=etag))
        == "PreconditionFailed"
    )
    assert refused(lambda: s3.copy_object(Bucket=bucket, Key="d", CopySource=f"{bucket}/none")) == "NoSuchKey"
    assert (
        refused(lambda: s3.copy_object(Bucket=bucket, Key="d", CopySource="nowhere/none")) == "NoSuchBucket"
    )


def test_tags(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1&b=%26", Metadata={"m": "1"})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [
        {"Key": "a", "Value": "1"},
        {"Key": "b", "Value": "&"},
    ]
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "c", "Value": "ü"}]})
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["TagCount"], head["Metadata"]) == (1, {"m": "1"})
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    many = {"TagSet": [{"Key": f"k{number}", "Value": "v"} for number in range(11)]}
    assert refused(lambda: s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=many)) == "BadRequest"
    twice = {"TagSet": [{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}]}
    assert refused(lambda: s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=twice)) == "InvalidTag"
    assert refused(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"", Tagging="aws:x=1")) == "InvalidTag"
    assert refused(lambda: s3.get_bucket_tagging(Bucket=bucket)) == "NoSuchTagSet"
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "team", "Value": "a"}]})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "team", "Value": "a"}]
    s3.delete_bucket_tagging(Bucket=bucket)
    assert refused(lambda: s3.get_bucket_tagging(Bucket=bucket)) == "NoSuchTagSet"


def test_deleting_many(s3: Any, bucket: str, url: str) -> None:
    keys = [f"k{number}" for number in range(5)] + ["odd & <key>", "ü"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in [*keys, "none"]]})
    assert {one["Key"] for one in done["Deleted"]} == {*keys, "none"}
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}], "Quiet": True})
    assert "Deleted" not in quiet
    signer = Signer(url)
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    headers = signer.headers("POST", "/garden", query={"delete": ""}, payload="UNSIGNED-PAYLOAD")
    assert send(url, "POST", "/garden?delete=", headers, body).code == "InvalidRequest"
    more = {"content-md5": base64.b64encode(b"0" * 16).decode()}
    headers = signer.headers("POST", "/garden", query={"delete": ""}, payload="UNSIGNED-PAYLOAD", more=more)
    assert send(url, "POST", "/garden?delete=", headers, body).code == "BadDigest"


@pytest.mark.parametrize(
    "key", ["a//b", "/lead", "end/", "..", "a/../b", " ", "%2F", "+", "é/漢", "a\nb", "a?b#c", "x" * 1024]
)
def test_odd_keys(s3: Any, bucket: str, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=b"odd")
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"odd"
    assert [one["Key"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    s3.delete_object(Bucket=bucket, Key=key)


def test_keys_that_are_too_long(s3: Any, bucket: str) -> None:
    assert refused(lambda: s3.put_object(Bucket=bucket, Key="x" * 1025, Body=b"")) == "KeyTooLongError"


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "ab",
        "A-Capital",
        "under_score",
        "192.168.0.1",
        "-dash",
        "a..b",
        "x" * 64,
        "a+segments",
        "endpoints",
    ],
)
def test_names_of_buckets(url: str, name: str) -> None:
    path = f"/{name}"
    signer = Signer(url)
    answer = send(url, "PUT", path, signer.headers("PUT", path))
    assert (answer.status, answer.code) == (400, "InvalidBucketName")


def test_hidden_containers_are_no_buckets(s3: Any, bucket: str, url: str) -> None:
    signer = Signer(url)
    s3.create_multipart_upload(Bucket=bucket, Key="k")
    for path in ("/garden+segments", "/%F4%8F%BF%BFgarden", "/.s3/buckets", "/garden%2F..%2Fother/x"):
        from urllib.parse import unquote

        answer = send(url, "GET", path, signer.headers("GET", unquote(path)))
        assert 400 <= answer.status < 500, path
        assert answer.code in ("InvalidBucketName", "NoSuchBucket", "NoSuchKey"), path


@pytest.mark.parametrize(
    "text",
    [
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><Tagging><TagSet><Tag><Key>&e;</Key><Value>v</Value></Tag></TagSet></Tagging>',
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Tagging><TagSet/></Tagging>',
        b'<?xml version="1.0"?><!DOCTYPE Tagging SYSTEM "http://127.0.0.1:1/x.dtd"><Tagging><TagSet/></Tagging>',
        b"<a>" * 100 + b"</a>" * 100,
        b"<Tagging><TagSet>",
        b"not xml",
        b"\xff\xfe<",
        b"<Other/>",
    ],
)
def test_documents_that_are_refused(s3: Any, bucket: str, url: str, text: bytes) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    signer = Signer(url)
    headers = signer.headers(
        "PUT", "/garden/k", query={"tagging": ""}, payload=hashlib.sha256(text).hexdigest()
    )
    answer = send(url, "PUT", "/garden/k?tagging=", headers, text)
    assert (answer.status, answer.code) == (400, "MalformedXML")
    assert b"root:" not in answer.body


AES = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}


def test_encryption_at_rest_can_be_asked_for(tmp_path: Any, session: Any) -> None:
    secret = {"encryption_root_secret": base64.b64encode(b"k" * 48).decode()}
    pipeline = PIPELINE.replace("symlink", "symlink encryption")
    found = world(tmp_path, pipeline=pipeline, options={"s3": KEYS, "encryption": secret})
    s3 = session.client(
        "s3", endpoint_url=found.serve(), region_name="us-east-1", aws_access_key_id="alice",
        aws_secret_access_key="alice-secret", config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    try:
        s3.create_bucket(Bucket="garden")
        put = s3.put_object(Bucket="garden", Key="k", Body=b"x", ServerSideEncryption="AES256")
        assert put["ServerSideEncryption"] == "AES256"
        assert s3.get_object(Bucket="garden", Key="k")["Body"].read() == b"x"
        assert s3.get_bucket_encryption(Bucket="garden")["ServerSideEncryptionConfiguration"]["Rules"][0]
        s3.put_bucket_encryption(Bucket="garden", ServerSideEncryptionConfiguration=AES)
        with pytest.raises(ClientError) as error:
            s3.put_object(Bucket="garden", Key="k", Body=b"y", ServerSideEncryption="aws:kms")
        assert code(error) == "NotImplemented"
    finally:
        s3.close()
        found.close()


def test_what_is_not_there_says_so(s3: Any, bucket: str) -> None:
    for call, wanted in (
        (lambda: s3.get_bucket_encryption(Bucket=bucket), "ServerSideEncryptionConfigurationNotFoundError"),
        (lambda: s3.get_bucket_website(Bucket=bucket), "NoSuchWebsiteConfiguration"),
        (lambda: s3.get_bucket_replication(Bucket=bucket), "ReplicationConfigurationNotFoundError"),
        (lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket), "NoSuchLifecycleConfiguration"),
        (lambda: s3.get_bucket_cors(Bucket=bucket), "NoSuchCORSConfiguration"),
        (lambda: s3.get_public_access_block(Bucket=bucket), "NoSuchPublicAccessBlockConfiguration"),
        (lambda: s3.get_bucket_ownership_controls(Bucket=bucket), "OwnershipControlsNotFoundError"),
        (lambda: s3.list_bucket_analytics_configurations(Bucket=bucket), "NotImplemented"),
        (lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"", ServerSideEncryption="AES256"), "NotImplemented"),
        (lambda: s3.restore_object(Bucket=bucket, Key="k"), "NotImplemented"),
        (lambda: s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={}), "NotImplemented"),
        (lambda: s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=AES), "NotImplemented"),
        (lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"", StorageClass="NOWHERE"), "InvalidStorageClass"),
    ):  # fmt: skip
        assert refused(call) == wanted
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None


def test_errors_look_as_s3_has_them(url: str) -> None:
    signer = Signer(url)
    answer = send(url, "GET", "/nowhere/k", signer.headers("GET", "/nowhere/k"))
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/xml"
    assert answer.headers["x-amz-request-id"]
    for part in (
        b"<Error>",
        b"<Code>NoSuchBucket</Code>",
        b"<Message>",
        b"<Resource>/nowhere/k</Resource>",
        b"<RequestId>",
    ):
        assert part in answer.body
    assert send(url, "PATCH", "/nowhere/k", signer.headers("PATCH", "/nowhere/k")).code == "MethodNotAllowed"


# ---- forms


def form(
    fields: dict[str, str], content: bytes = b"by form", name: str = "f.txt"
) -> tuple[dict[str, str], bytes]:
    line = "----form"
    body = "".join(
        f'--{line}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ).encode()
    body += f'--{line}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'.encode()
    body += b"Content-Type: text/plain\r\n\r\n"
    return {
        "content-type": f"multipart/form-data; boundary={line}"
    }, body + content + f"\r\n--{line}--\r\n".encode()


def test_a_form(s3: Any, bucket: str, url: str) -> None:
    made = s3.generate_presigned_post(
        bucket,
        "up/${filename}",
        Fields={"acl": "public-read", "x-amz-meta-a": "b", "success_action_status": "201"},
        Conditions=[
            {"acl": "public-read"},
            {"x-amz-meta-a": "b"},
            {"success_action_status": "201"},
            ["content-length-range", 1, 10],
        ],
    )
    fields = made["fields"]
    answer = send(url, "POST", "/garden", *form(fields))
    assert answer.status == 201, answer.body
    assert b"<Key>up/f.txt</Key>" in answer.body
    got = s3.get_object(Bucket=bucket, Key="up/f.txt")
    assert (got["Body"].read(), got["Metadata"]) == (b"by form", {"a": "b"})
    assert send(url, "GET", "/garden/up/f.txt").body == b"by form"
    assert send(url, "POST", "/garden", *form(fields, b"x" * 11)).code == "EntityTooLarge"
    assert send(url, "POST", "/garden", *form(fields, b"")).code == "EntityTooSmall"
    assert send(url, "POST", "/garden", *form(fields | {"key": "elsewhere"})).code == "AccessDenied"
    assert send(url, "POST", "/garden", *form(fields | {"x-amz-meta-c": "d"})).code == "AccessDenied"
    assert (
        send(url, "POST", "/garden", *form(fields | {"x-amz-signature": "0" * 64})).code
        == "SignatureDoesNotMatch"
    )
    loose = base64.b64encode(
        json.dumps({"expiration": "2999-01-01T00:00:00Z", "conditions": []}).encode()
    ).decode()
    assert send(url, "POST", "/garden", *form(fields | {"policy": loose})).code == "SignatureDoesNotMatch"
    assert send(url, "POST", "/garden", *form({"key": "k"})).code == "AccessDenied"
    assert send(url, "POST", "/garden", *form({})).code == "InvalidArgument"


def test_a_forms_policy_ends(s3: Any, bucket: str, url: str, clock: Any) -> None:
    made = s3.generate_presigned_post(bucket, "k", ExpiresIn=60)
    assert send(url, "POST", "/garden", *form(made["fields"])).status == 204
    clock.forward(61)
    assert send(url, "POST", "/garden", *form(made["fields"])).code == "AccessDenied"


def test_forms_that_break_off(s3: Any, bucket: str, url: str) -> None:
    made = s3.generate_presigned_post(bucket, "broken", ExpiresIn=60)
    headers, body = form(made["fields"])
    assert send(url, "POST", "/garden", headers, body[:-20]).status == 400
    assert (
        send(url, "POST", "/garden", {"content-type": "multipart/form-data"}, body).code
        == "MalformedPOSTRequest"
    )
    assert refused(lambda: s3.head_object(Bucket=bucket, Key="broken")) == "404"
