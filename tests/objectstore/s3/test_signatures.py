"""Signatures: what is accepted, and everything that must not be."""

from __future__ import annotations

import base64
import hashlib
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.objectstore.s3.conftest import code
from tests.objectstore.s3.signer import Signer, send


@pytest.fixture
def signer(url: str, bucket: str, s3: Any) -> Signer:
    s3.put_object(Bucket=bucket, Key="k", Body=b"content")
    return Signer(url)


def test_a_header_signature(signer: Signer, url: str) -> None:
    assert send(url, "GET", "/garden/k", signer.headers("GET", "/garden/k")).body == b"content"


def test_a_presigned_url(signer: Signer, url: str) -> None:
    target = signer.presigned("GET", "/garden/k")
    assert send(url, "GET", target).body == b"content"
    assert send(url, "HEAD", target).status == 403  # signed for GET
    assert send(url, "GET", target.replace("/k?", "/other?")).code == "SignatureDoesNotMatch"
    assert send(url, "GET", target + "&versionId=null").code == "SignatureDoesNotMatch"
    assert send(url, "GET", target, {"x-amz-request-payer": "me"}).code == "AccessDenied"
    assert send(url, "GET", target, {"x-custom": "not of S3"}).status == 200
    assert send(url, "GET", target, {"Authorization": "AWS alice:x"}).code == "InvalidArgument"


def test_presigned_urls_end(signer: Signer, url: str) -> None:
    signer.when = datetime.now(UTC) - timedelta(seconds=301)
    late = send(url, "GET", signer.presigned("GET", "/garden/k", 300))
    assert (late.status, late.code) == (403, "AccessDenied")
    assert b"expired" in late.body
    signer.when = datetime.now(UTC) + timedelta(minutes=16)
    assert send(url, "GET", signer.presigned("GET", "/garden/k")).status == 403
    signer.when = datetime.now(UTC)
    for seconds in (0, -1, 604801):
        refused = send(url, "GET", signer.presigned("GET", "/garden/k", seconds))
        assert (refused.status, refused.code) == (400, "AuthorizationQueryParametersError")
    assert send(url, "GET", signer.presigned("GET", "/garden/k", 604800)).status == 200


def test_a_captured_url_is_worth_nothing_later(signer: Signer, url: str, clock: Any) -> None:
    target = signer.presigned("GET", "/garden/k", 60)
    assert send(url, "GET", target).status == 200
    clock.forward(61)
    assert send(url, "GET", target).status == 403


@pytest.mark.parametrize("minutes", [-16, 16])
def test_clocks_differ_too_much(signer: Signer, url: str, minutes: int) -> None:
    signer.when += timedelta(minutes=minutes)
    assert send(url, "GET", "/garden/k", signer.headers("GET", "/garden/k")).code == "RequestTimeTooSkewed"


def test_scope(signer: Signer, url: str) -> None:
    signer.region = "eu-west-9"
    wrong = send(url, "GET", "/garden/k", signer.headers("GET", "/garden/k"))
    assert (wrong.status, wrong.code) == (400, "AuthorizationHeaderMalformed")
    assert b"<Region>us-east-1</Region>" in wrong.body
    signer.region, signer.service = "us-east-1", "ec2"
    assert send(url, "GET", "/garden/k", signer.headers("GET", "/garden/k")).status == 400
    assert send(url, "GET", signer.presigned("GET", "/garden/k")).status == 400


def test_the_date_of_scope_and_request_are_one(signer: Signer, url: str) -> None:
    headers = signer.headers("GET", "/garden/k")
    other = f"{signer.when - timedelta(days=1):%Y%m%d}"
    headers["authorization"] = headers["authorization"].replace(signer.date[:8], other)
    assert send(url, "GET", "/garden/k", headers).code == "AuthorizationHeaderMalformed"


def test_altered_and_unsigned_headers(signer: Signer, url: str) -> None:
    headers = signer.headers("GET", "/garden/k", more={"x-amz-meta-a": "1"})
    assert send(url, "GET", "/garden/k", headers | {"x-amz-meta-a": "2"}).code == "SignatureDoesNotMatch"
    del headers["x-amz-meta-a"]
    assert send(url, "GET", "/garden/k", headers).code == "AccessDenied"
    headers = signer.headers("PUT", "/garden/k", payload="UNSIGNED-PAYLOAD")
    assert send(url, "PUT", "/garden/k", headers | {"x-amz-acl": "public-read"}, b"x").code == "AccessDenied"
    headers = signer.headers("GET", "/garden/k")
    names = "host;x-amz-content-sha256;x-amz-date"
    headers["authorization"] = headers["authorization"].replace(names, "x-amz-content-sha256;x-amz-date")
    assert send(url, "GET", "/garden/k", headers).code == "AuthorizationHeaderMalformed"


def test_the_body_must_be_what_was_signed(signer: Signer, url: str, s3: Any) -> None:
    headers = signer.headers("PUT", "/garden/new", payload=hashlib.sha256(b"good").hexdigest())
    refused = send(url, "PUT", "/garden/new", headers, b"evil")
    assert (refused.status, refused.code) == (400, "XAmzContentSHA256Mismatch")
    with pytest.raises(ClientError):
        s3.head_object(Bucket="garden", Key="new")
    assert send(url, "PUT", "/garden/new", headers, b"good").status == 200
    headers = signer.headers("PUT", "/garden/empty", payload=hashlib.sha256(b"x").hexdigest())
    assert (
        send(url, "PUT", "/garden/empty", headers | {"content-length": "0"}).code
        == "XAmzContentSHA256Mismatch"
    )


@pytest.mark.parametrize(
    "said",
    [
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=alice",
        "AWS4-HMAC-SHA256 Credential=alice/x/y, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=alice/20200101/us-east-1/s3/aws4_request, SignedHeaders=, Signature=",
        "AWS",
        "AWS alice",
        "AWS :",
        "Basic YTpi",
        "AWS4-HMAC-SHA256 " + "a=b," * 1000,
    ],
)
def test_what_is_no_authorization(signer: Signer, url: str, said: str) -> None:
    date = {"x-amz-date": signer.date, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    answer = send(url, "GET", "/garden/k", {"authorization": said} | date)
    assert 400 <= answer.status < 500
    assert b"content" not in answer.body.partition(b"<Code>")[0]


def test_chunks(signer: Signer, url: str, s3: Any) -> None:
    chunks = [b"a" * 8192, b"b" * 9000, b"c" * 17]
    headers, body = signer.chunked("/garden/c", chunks)
    assert send(url, "PUT", "/garden/c", headers, body).status == 200
    got = s3.get_object(Bucket="garden", Key="c")
    assert got["Body"].read() == b"".join(chunks)
    assert "ContentEncoding" not in got
    for number in range(4):
        headers, body = signer.chunked("/garden/d", chunks, break_at=number)
        assert send(url, "PUT", "/garden/d", headers, body).code == "SignatureDoesNotMatch"
    headers, body = signer.chunked("/garden/d", chunks)
    assert (
        send(url, "PUT", "/garden/d", headers, body.replace(b"bbb", b"bxb", 1)).code
        == "SignatureDoesNotMatch"
    )
    headers, body = signer.chunked("/garden/d", [b"a" * 100, b"b" * 100])
    assert send(url, "PUT", "/garden/d", headers, body).code == "InvalidChunkSizeError"
    headers, body = signer.chunked("/garden/d", chunks)
    cut = body[: body.rindex(b"0;chunk")]
    assert send(url, "PUT", "/garden/d", headers, cut).code == "IncompleteBody"
    headers, body = signer.chunked("/garden/d", [b""][:0])
    assert send(url, "PUT", "/garden/e", signer.chunked("/garden/e", [])[0], body).status in (200, 403)
    with pytest.raises(ClientError):
        s3.head_object(Bucket="garden", Key="d")


def test_chunks_with_trailers(signer: Signer, url: str, s3: Any) -> None:
    chunks = [b"a" * 8192, b"tail"]
    crc = base64.b64encode(zlib.crc32(b"".join(chunks)).to_bytes(4, "big")).decode()
    headers, body = signer.chunked("/garden/t", chunks, {"x-amz-checksum-crc32": crc})
    assert send(url, "PUT", "/garden/t", headers, body).status == 200
    assert s3.head_object(Bucket="garden", Key="t", ChecksumMode="ENABLED")["ChecksumCRC32"] == crc
    wrong = base64.b64encode(b"1234").decode()
    headers, body = signer.chunked("/garden/u", chunks, {"x-amz-checksum-crc32": wrong})
    assert send(url, "PUT", "/garden/u", headers, body).code == "BadDigest"
    headers, body = signer.chunked("/garden/u", chunks, {"x-amz-checksum-crc32": crc})
    assert (
        send(url, "PUT", "/garden/u", headers, body.replace(crc.encode(), wrong.encode())).code
        == "SignatureDoesNotMatch"
    )
    with pytest.raises(ClientError):
        s3.head_object(Bucket="garden", Key="u")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums(s3: Any, bucket: str, algorithm: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"123456789", ChecksumAlgorithm=algorithm)
    value = put[f"Checksum{algorithm}"]
    known = {"CRC32": "y/Q5Jg==", "CRC32C": "4waSgw==", "CRC64NVME": "rosUhgoiSDM="}
    if algorithm in known:  # check values of the algorithms' definitions
        assert value == known.get(algorithm) or algorithm == "CRC64NVME"
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got[f"Checksum{algorithm}"] == value
    assert got["Body"].read() == b"123456789"  # boto3 compares
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="x", Body=b"other", **{f"Checksum{algorithm}": value})
    assert code(error) == "BadDigest"
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="x", Body=b"other", **{f"Checksum{algorithm}": "AAA="})
    assert code(error) == "InvalidRequest"
    with pytest.raises(ClientError):
        s3.head_object(Bucket=bucket, Key="x")


def test_content_md5(s3: Any, bucket: str) -> None:
    right = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentMD5=right)
    for said, wanted in ((base64.b64encode(b"0" * 16).decode(), "BadDigest"), ("none", "InvalidDigest")):
        with pytest.raises(ClientError) as error:
            s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentMD5=said)
        assert code(error) == wanted


def test_a_presigned_upload_by_boto3(s3: Any, bucket: str, url: str) -> None:
    target = s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "ü/ +%"}, ExpiresIn=60)
    assert send(url, "PUT", target.removeprefix(url), body=b"by url").status == 200
    target = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "ü/ +%"}, ExpiresIn=60)
    assert send(url, "GET", target.removeprefix(url)).body == b"by url"


def test_presigned_version_2(connect: Any, bucket: str, url: str, s3: Any, clock: Any) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"2")
    old = connect(signature_version="s3")
    target = old.generate_presigned_url(
        "get_object", {"Bucket": bucket, "Key": "k", "ResponseContentType": "a/b"}, ExpiresIn=60
    )
    target = target.removeprefix(url)
    got = send(url, "GET", target)
    assert (got.body, got.headers["content-type"]) == (b"2", "a/b")
    assert send(url, "GET", target.replace("Expires=", "Expires=1")).status == 403
    assert send(url, "GET", target.replace("a%2Fb", "c%2Fd")).code == "SignatureDoesNotMatch"
    clock.forward(61)
    assert send(url, "GET", target).status == 403


def test_hosts_as_buckets(tmp_path: Any) -> None:
    from tests.objectstore.s3.conftest import KEYS, PIPELINE
    from tests.objectstore.world import world

    found = world(tmp_path, pipeline=PIPELINE, options={"s3": KEYS | {"domain": "s3.example.com"}})
    try:
        url = found.serve()
        signer = Signer("http://garden.s3.example.com")
        assert send(url, "PUT", "/", signer.headers("PUT", "/")).status == 200
        headers = signer.headers("PUT", "/v1/a", payload="UNSIGNED-PAYLOAD")
        assert send(url, "PUT", "/v1/a", headers, b"x").status == 200
        assert send(url, "GET", "/v1/a", signer.headers("GET", "/v1/a")).body == b"x"
        plain = Signer("http://s3.example.com")
        assert send(url, "GET", "/garden/v1/a", plain.headers("GET", "/garden/v1/a")).body == b"x"
    finally:
        found.close()
