"""Multipart uploads."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.objectstore.s3.conftest import code


def etag_of(parts: list[bytes]) -> str:
    return f'"{hashlib.md5(b"".join(hashlib.md5(one).digest() for one in parts)).hexdigest()}-{len(parts)}"'


def upload(s3: Any, bucket: str, key: str, parts: list[bytes], **more: Any) -> Any:
    made = s3.create_multipart_upload(Bucket=bucket, Key=key, **more)
    found = []
    for number, part in enumerate(parts, 1):
        put = s3.upload_part(Bucket=bucket, Key=key, UploadId=made["UploadId"], PartNumber=number, Body=part)
        found.append({"PartNumber": number, "ETag": put["ETag"]})
    return s3.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=made["UploadId"], MultipartUpload={"Parts": found}
    )


PARTS = [os.urandom(5000), os.urandom(3000), b"end"]


def test_parts_become_an_object(s3: Any, bucket: str) -> None:
    done = upload(s3, bucket, "big", PARTS, ContentType="text/big", Metadata={"a": "b"})
    assert done["ETag"] == etag_of(PARTS)
    got = s3.get_object(Bucket=bucket, Key="big")
    assert got["Body"].read() == b"".join(PARTS)
    assert got["ETag"] == etag_of(PARTS)
    assert (got["ContentType"], got["Metadata"], got["ContentLength"]) == ("text/big", {"a": "b"}, 8003)
    (entry,) = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert (entry["ETag"], entry["Size"]) == (etag_of(PARTS), 8003)
    some = s3.get_object(Bucket=bucket, Key="big", Range="bytes=4990-5009")
    assert some["Body"].read() == b"".join(PARTS)[4990:5010]
    second = s3.get_object(Bucket=bucket, Key="big", PartNumber=2)
    assert second["Body"].read() == PARTS[1]
    assert second["PartsCount"] == 3
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="big", PartNumber=9)
    assert code(error) == "InvalidPartNumber"
    assert s3.get_object(Bucket=bucket, Key="big", IfMatch=done["ETag"])["ContentLength"] == 8003
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="big", IfNoneMatch=done["ETag"])
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 304
    attributes = s3.get_object_attributes(
        Bucket=bucket, Key="big", ObjectAttributes=["ETag", "ObjectSize", "ObjectParts", "StorageClass"]
    )
    assert attributes["ETag"] == done["ETag"].strip('"')
    assert attributes["ObjectSize"] == 8003
    assert attributes["ObjectParts"]["TotalPartsCount"] == 3
    assert attributes["ObjectParts"]["Parts"][1] == {"PartNumber": 2, "Size": 3000}


def test_nothing_stays_of_what_is_deleted_or_overwritten(s3: Any, bucket: str, store: Any) -> None:
    upload(s3, bucket, "big", PARTS)
    segments = "/v1/AUTH_wonderland/garden+segments"
    left = lambda: len(store_list(store, segments))  # noqa: E731 # shorter than what it says
    assert left() == 3
    s3.put_object(Bucket=bucket, Key="big", Body=b"small")
    assert left() == 0
    upload(s3, bucket, "big", PARTS)
    s3.delete_object(Bucket=bucket, Key="big")
    assert left() == 0
    s3.delete_bucket(Bucket=bucket)
    assert s3.list_buckets()["Buckets"] == []


def store_list(store: Any, path: str) -> list[str]:
    gate = store.store.handlers["s3"]
    from altostack.objectstore.http import Request
    from altostack.objectstore.s3.call import allowed

    request = Request("GET", path, query_string="format=json")
    request.authorize = allowed
    return [entry["name"] for entry in gate.app(request).entries]


def test_lists_of_uploads_and_parts(s3: Any, bucket: str) -> None:
    ids = {}
    for key in ("a/1", "a/2", "b"):
        ids[key] = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    for number in (3, 1, 2):
        s3.upload_part(Bucket=bucket, Key="b", UploadId=ids["b"], PartNumber=number, Body=b"x" * number)
    found = s3.list_multipart_uploads(Bucket=bucket)
    assert [(one["Key"], one["UploadId"]) for one in found["Uploads"]] == sorted(ids.items())
    page = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["a/"]
    assert [one["Key"] for one in page["Uploads"]] == ["b"]
    first = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=1)
    assert first["IsTruncated"]
    second = s3.list_multipart_uploads(
        Bucket=bucket, KeyMarker=first["NextKeyMarker"], UploadIdMarker=first["NextUploadIdMarker"]
    )
    assert [one["Key"] for one in second["Uploads"]] == ["a/2", "b"]
    parts = s3.list_parts(Bucket=bucket, Key="b", UploadId=ids["b"], MaxParts=2)
    assert [(one["PartNumber"], one["Size"]) for one in parts["Parts"]] == [(1, 1), (2, 2)]
    assert parts["IsTruncated"]
    rest = s3.list_parts(
        Bucket=bucket, Key="b", UploadId=ids["b"], PartNumberMarker=parts["NextPartNumberMarker"]
    )
    assert [one["PartNumber"] for one in rest["Parts"]] == [3]
    s3.abort_multipart_upload(Bucket=bucket, Key="b", UploadId=ids["b"])
    with pytest.raises(ClientError) as error:
        s3.list_parts(Bucket=bucket, Key="b", UploadId=ids["b"])
    assert code(error) == "NoSuchUpload"


def test_what_cannot_be_completed(s3: Any, bucket: str) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
    tags = [
        s3.upload_part(Bucket=bucket, Key="big", UploadId=made, PartNumber=number, Body=b"x" * 10)["ETag"]
        for number in (1, 2)
    ]

    def complete(*parts: tuple[int, str]) -> str:
        with pytest.raises(ClientError) as error:
            s3.complete_multipart_upload(
                Bucket=bucket, Key="big", UploadId=made,
                MultipartUpload={"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in parts]},
            )  # fmt: skip
        return code(error)

    assert complete((1, tags[0]), (2, tags[1])) == "EntityTooSmall"
    assert complete((2, tags[1]), (1, tags[0])) == "InvalidPartOrder"
    assert complete((1, '"' + "0" * 32 + '"')) == "InvalidPart"
    assert complete((3, tags[0])) == "InvalidPart"
    with pytest.raises(ClientError) as error:
        s3.head_object(Bucket=bucket, Key="big")
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_completing_twice_says_the_same(s3: Any, bucket: str) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=made, PartNumber=1, Body=b"abc")["ETag"]
    wish = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    one = s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=made, MultipartUpload=wish)
    two = s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=made, MultipartUpload=wish)
    assert one["ETag"] == two["ETag"]


def test_another_buckets_upload_is_not_there(connect: Any, s3: Any, bucket: str) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    bob = connect("bob")
    bob.create_bucket(Bucket="quarry")
    for call in (
        lambda: bob.upload_part(Bucket="quarry", Key="k", UploadId=made, PartNumber=1, Body=b"x"),
        lambda: bob.abort_multipart_upload(Bucket="quarry", Key="k", UploadId=made),
        lambda: s3.list_parts(Bucket=bucket, Key="other", UploadId=made),
    ):
        with pytest.raises(ClientError) as error:
            call()
        assert code(error) == "NoSuchUpload"


def test_parts_by_copy(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="source", Body=bytes(range(256)) * 20)
    made = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    found = []
    for number, span in ((1, "bytes=0-2047"), (2, "bytes=2048-2060")):
        done = s3.upload_part_copy(
            Bucket=bucket, Key="k", UploadId=made, PartNumber=number, CopySource=f"{bucket}/source",
            CopySourceRange=span,
        )  # fmt: skip
        found.append({"PartNumber": number, "ETag": done["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=made, MultipartUpload={"Parts": found})
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == (bytes(range(256)) * 20)[:2061]
    with pytest.raises(ClientError) as error:
        s3.upload_part_copy(
            Bucket=bucket,
            Key="k",
            UploadId=made,
            PartNumber=1,
            CopySource=f"{bucket}/source",
            CopySourceRange="bytes=0-9999",
        )
    assert code(error) in ("NoSuchUpload", "InvalidArgument")


def test_parallel_parts_by_the_transfer_manager(s3: Any, bucket: str) -> None:
    content = os.urandom(20 << 20)
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=4)
    s3.upload_fileobj(BytesIO(content), bucket, "big", Config=config)
    out = BytesIO()
    s3.download_fileobj(bucket, "big", out, Config=config)
    assert out.getvalue() == content


def test_parts_come_in_any_order_at_once(s3: Any, bucket: str) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    parts = [os.urandom(2000) for _ in range(8)]

    def put(number: int) -> dict[str, Any]:
        done = s3.upload_part(
            Bucket=bucket, Key="k", UploadId=made, PartNumber=number, Body=parts[number - 1]
        )
        return {"PartNumber": number, "ETag": done["ETag"]}

    with ThreadPoolExecutor(4) as pool:
        found = sorted(pool.map(put, range(8, 0, -1)), key=lambda one: one["PartNumber"])
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=made, MultipartUpload={"Parts": found})
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"".join(parts)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_of_parts_and_whole(s3: Any, bucket: str, algorithm: str) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm)
    found = []
    for number, part in enumerate(PARTS, 1):
        put = s3.upload_part(
            Bucket=bucket, Key="k", UploadId=made["UploadId"], PartNumber=number, Body=part, ChecksumAlgorithm=algorithm
        )  # fmt: skip
        field = f"Checksum{algorithm}"
        found.append({"PartNumber": number, "ETag": put["ETag"], field: put[field]})
    done = s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=made["UploadId"], MultipartUpload={"Parts": found}
    )
    assert done[f"Checksum{algorithm}"]
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == done[f"Checksum{algorithm}"]
    if algorithm == "CRC64NVME":
        whole = s3.put_object(Bucket=bucket, Key="w", Body=b"".join(PARTS), ChecksumAlgorithm=algorithm)
        assert whole["ChecksumCRC64NVME"] == done["ChecksumCRC64NVME"]
