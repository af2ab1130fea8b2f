"""What buckets can be told: CORS, lifecycle, storage classes, events."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from botocore.exceptions import ClientError

from altostack.objectstore.http import Request
from altostack.objectstore.s3.call import allowed
from altostack.objectstore.s3.lifecycle import apply
from tests.objectstore.s3.conftest import Clock, code
from tests.objectstore.s3.signer import send
from tests.objectstore.s3.test_multipart import PARTS, store_list, upload
from tests.objectstore.world import World

DAY = 86400


def refused(call: Any) -> str:
    with pytest.raises(ClientError) as error:
        call()
    return code(error)


# ---- CORS


def test_scripts_from_elsewhere(s3: Any, bucket: str, url: str) -> None:
    rules: list[dict[str, Any]] = [
        {
            "AllowedMethods": ["GET", "PUT"],
            "AllowedOrigins": ["https://*.example.com"],
            "AllowedHeaders": ["x-amz-*"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 60,
        },
        {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]},
    ]
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == rules
    ask = {"origin": "https://a.example.com", "access-control-request-method": "PUT"}
    answer = send(url, "OPTIONS", "/garden/k", ask | {"access-control-request-headers": "X-Amz-Date"})
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example.com"
    assert answer.headers["access-control-allow-headers"] == "x-amz-date"
    assert answer.headers["access-control-max-age"] == "60"
    assert answer.headers["vary"].startswith("Origin")
    assert (
        send(url, "OPTIONS", "/garden/k", ask | {"access-control-request-headers": "x-other"}).status == 403
    )
    assert send(url, "OPTIONS", "/garden/k", ask | {"origin": "https://evil.com"}).status == 403
    assert send(url, "OPTIONS", "/nowhere/k", ask).status == 404
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    got = send(url, "GET", "/garden/k", {"origin": "https://other.org"})
    assert got.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in got.headers
    assert "access-control-allow-origin" not in send(url, "GET", "/garden/k").headers
    s3.delete_bucket_cors(Bucket=bucket)
    assert send(url, "OPTIONS", "/garden/k", ask).status == 403
    bad = {"CORSRules": [{"AllowedMethods": ["PATCH"], "AllowedOrigins": ["*"]}]}
    assert refused(lambda: s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=bad)) == "InvalidRequest"


# ---- lifecycle


def rule(**more: Any) -> dict[str, Any]:
    return {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}} | more


def put_rules(s3: Any, bucket: str, *rules: dict[str, Any]) -> None:
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})


def keys(s3: Any, bucket: str) -> list[str]:
    return [one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_rules_come_back_as_they_were(s3: Any, bucket: str) -> None:
    rules = [
        rule(ID="a", Expiration={"Days": 3}, Filter={"Prefix": "a/"}),
        rule(
            ID="b",
            Filter={
                "And": {"Prefix": "b/", "Tags": [{"Key": "k", "Value": "v"}], "ObjectSizeGreaterThan": 5}
            },
            Transitions=[{"Days": 1, "StorageClass": "GLACIER"}],
        ),
        rule(
            ID="c",
            Status="Disabled",
            NoncurrentVersionExpiration={"NoncurrentDays": 1, "NewerNoncurrentVersions": 2},
        ),
        rule(ID="d", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7}),
    ]
    put_rules(s3, bucket, *rules)
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == rules
    s3.delete_bucket_lifecycle(Bucket=bucket)
    for bad, wanted in (
        (rule(), "InvalidRequest"),
        (rule(Expiration={"Days": 0}), "InvalidArgument"),
        (rule(Transitions=[{"Days": 1, "StorageClass": "NOWHERE"}]), "InvalidStorageClass"),
        (
            rule(NoncurrentVersionTransitions=[{"NoncurrentDays": 1, "StorageClass": "GLACIER"}]),
            "NotImplemented",
        ),
        (rule(Expiration={"Date": "2030-01-01T01:00:00Z"}), "InvalidArgument"),
    ):
        assert refused(lambda bad=bad: put_rules(s3, bucket, bad)) == wanted


def test_objects_expire(s3: Any, bucket: str, store: World, clock: Clock) -> None:
    s3.put_object(Bucket=bucket, Key="a/old", Body=b"x")
    s3.put_object(Bucket=bucket, Key="a/kept", Body=b"x", Tagging="keep=yes")
    s3.put_object(Bucket=bucket, Key="b/other", Body=b"x")
    upload(s3, bucket, "a/big", PARTS)
    put_rules(
        s3, bucket, rule(Filter={"And": {"Prefix": "a/", "ObjectSizeLessThan": 9000}}, Expiration={"Days": 2})
    )
    assert apply(store.store).expired == 0
    clock.forward(1.5 * DAY)
    assert apply(store.store).expired == 0
    clock.forward(1.6 * DAY)
    done = apply(store.store)
    assert (done.expired, done.failures) == (3, 0)
    clock.ahead = 0
    assert keys(s3, bucket) == ["b/other"]
    assert store_list(store, "/v1/AUTH_wonderland/garden+segments") == []


def test_tags_choose(s3: Any, bucket: str, store: World, clock: Clock) -> None:
    s3.put_object(Bucket=bucket, Key="yes", Body=b"x", Tagging="tmp=1")
    s3.put_object(Bucket=bucket, Key="no", Body=b"x")
    put_rules(
        s3,
        bucket,
        rule(Filter={"Tag": {"Key": "tmp", "Value": "1"}}, Expiration={"Date": "2020-01-01T00:00:00Z"}),
    )
    assert apply(store.store).expired == 1
    assert keys(s3, bucket) == ["no"]


def test_old_versions_go(s3: Any, bucket: str, store: World, clock: Clock) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    made = [s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"] for _ in range(4)]
    s3.put_object(Bucket=bucket, Key="gone", Body=b"x")
    s3.delete_object(Bucket=bucket, Key="gone")
    old = {"NoncurrentDays": 1, "NewerNoncurrentVersions": 1}
    put_rules(
        s3,
        bucket,
        rule(NoncurrentVersionExpiration=old),
        rule(ID="m", Expiration={"ExpiredObjectDeleteMarker": True}),
    )
    clock.forward(3 * DAY)
    assert apply(store.store).failures == 0
    clock.ahead = 0
    found = s3.list_object_versions(Bucket=bucket, Prefix="k")["Versions"]
    assert [one["VersionId"] for one in found] == [made[3], made[2]]


def test_containers_that_swift_made_are_looked_after(s3: Any, store: World, clock: Clock) -> None:
    gate = store.store.handlers["s3"]
    request = Request("PUT", "/v1/AUTH_wonderland")
    request.authorize = allowed
    gate.app(request)
    request = Request("PUT", "/v1/AUTH_wonderland/plain")
    request.authorize = allowed
    gate.app(request)
    s3.put_object(Bucket="plain", Key="k", Body=b"x")
    put_rules(s3, "plain", rule(Expiration={"Date": "2020-01-01T00:00:00Z"}))
    assert apply(store.store).expired == 1
    s3.delete_bucket(Bucket="plain")
    assert apply(store.store).buckets == 0
    assert list(gate.buckets.watched()) == []


def test_locked_versions_stay(s3: Any, store: World, clock: Clock) -> None:
    s3.create_bucket(Bucket="vault", ObjectLockEnabledForBucket=True)
    held = s3.put_object(Bucket="vault", Key="k", Body=b"x", ObjectLockLegalHoldStatus="ON")["VersionId"]
    s3.put_object(Bucket="vault", Key="k", Body=b"y")
    put_rules(s3, "vault", rule(NoncurrentVersionExpiration={"NoncurrentDays": 1}))
    clock.forward(5 * DAY)
    done = apply(store.store)
    assert (done.expired, done.failures) == (0, 1)
    clock.ahead = 0
    assert s3.get_object(Bucket="vault", Key="k", VersionId=held)["Body"].read() == b"x"


def test_uploads_that_nobody_completes_go(s3: Any, bucket: str, store: World, clock: Clock) -> None:
    made = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=made, PartNumber=1, Body=b"x")
    put_rules(s3, bucket, rule(AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}))
    assert apply(store.store).aborted == 0
    clock.forward(3 * DAY)
    assert apply(store.store).aborted == 1
    clock.ahead = 0
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    assert store_list(store, "/v1/AUTH_wonderland/garden+segments") == []


# ---- inventories


def test_inventories(s3: Any, bucket: str, store: World, clock: Clock) -> None:
    s3.create_bucket(Bucket="reports")
    place = {"Bucket": "arn:aws:s3:::reports", "Format": "CSV", "Prefix": "daily"}
    wish = {
        "Id": "all", "IsEnabled": True, "IncludedObjectVersions": "All", "Schedule": {"Frequency": "Daily"},
        "Destination": {"S3BucketDestination": place}, "OptionalFields": ["Size", "ETag", "IsMultipartUploaded"],
    }  # fmt: skip
    put = partial(s3.put_bucket_inventory_configuration, Bucket=bucket, Id="all")
    put(InventoryConfiguration=wish)
    assert s3.get_bucket_inventory_configuration(Bucket=bucket, Id="all")["InventoryConfiguration"] == wish
    assert len(s3.list_bucket_inventory_configurations(Bucket=bucket)["InventoryConfigurationList"]) == 1
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    one = s3.put_object(Bucket=bucket, Key="a b", Body=b"123")
    big = upload(s3, bucket, "big", PARTS)
    gone = s3.delete_object(Bucket=bucket, Key="a b")
    assert apply(store.store).inventories == 1
    assert apply(store.store).inventories == 0
    (name,) = [key for key in keys(s3, "reports") if key.endswith("manifest.json")]
    assert name.startswith("daily/garden/all/")
    manifest = json.loads(s3.get_object(Bucket="reports", Key=name)["Body"].read())
    (file,) = manifest["files"]
    packed = s3.get_object(Bucket="reports", Key=file["key"])["Body"].read()
    assert (len(packed), hashlib.md5(packed).hexdigest()) == (file["size"], file["MD5checksum"])
    columns = [column.strip() for column in manifest["fileSchema"].split(",")]
    rows = [
        dict(zip(columns, row, strict=True))
        for row in csv.reader(gzip.decompress(packed).decode().splitlines())
    ]
    assert [(row["Key"], row["VersionId"], row["IsLatest"], row["IsDeleteMarker"]) for row in rows] == [
        ("a%20b", gone["VersionId"], "true", "true"),
        ("a%20b", one["VersionId"], "false", "false"),
        ("big", big["VersionId"], "true", "false"),
    ]
    assert (rows[2]["Size"], rows[2]["ETag"]) == ("8003", big["ETag"].strip('"'))
    assert [row["IsMultipartUploaded"] for row in rows] == ["", "false", "true"]
    clock.forward(DAY + 1)
    assert apply(store.store).inventories == 1
    clock.ahead = 0
    for change, wanted in (
        (
            {"Destination": {"S3BucketDestination": place | {"Bucket": "arn:aws:s3:::nowhere"}}},
            "InvalidArgument",
        ),
        ({"Destination": {"S3BucketDestination": place | {"Format": "ORC"}}}, "NotImplemented"),
        ({"OptionalFields": ["EncryptionStatus"]}, "NotImplemented"),
    ):
        assert refused(lambda change=change: put(InventoryConfiguration=wish | change)) == wanted
    s3.delete_bucket_inventory_configuration(Bucket=bucket, Id="all")
    assert (
        refused(lambda: s3.get_bucket_inventory_configuration(Bucket=bucket, Id="all"))
        == "NoSuchConfiguration"
    )


# ---- storage classes


def policy_of(store: World, container: str) -> int | None:
    info = store.store.known.container("AUTH_wonderland", container)
    return info.policy if info is not None else None


def test_a_class_is_a_policy(s3: Any, bucket: str, store: World) -> None:
    s3.put_object(
        Bucket=bucket, Key="k", Body=b"cold", StorageClass="GLACIER", Metadata={"a": "b"}, Tagging="t=1"
    )
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["StorageClass"], head["Metadata"], head["ContentLength"]) == ("GLACIER", {"a": "b"}, 4)
    assert policy_of(store, "garden+archive") == 1
    (entry,) = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert (entry["Size"], entry["ETag"]) == (4, head["ETag"])
    assert entry["StorageClass"] == "GLACIER"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"cold"
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "n", "Value": "2"}]})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "n", "Value": "2"}]
    s3.put_object(Bucket=bucket, Key="k", Body=b"warm")
    assert "StorageClass" not in s3.head_object(Bucket=bucket, Key="k")
    assert store_list(store, "/v1/AUTH_wonderland/garden+archive") == []
    s3.put_object(Bucket=bucket, Key="k", Body=b"cold", StorageClass="GLACIER")
    s3.delete_object(Bucket=bucket, Key="k")
    assert store_list(store, "/v1/AUTH_wonderland/garden+archive") == []
    upload(s3, bucket, "big", PARTS, StorageClass="GLACIER")
    assert s3.head_object(Bucket=bucket, Key="big")["StorageClass"] == "GLACIER"
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["StorageClass"] == "GLACIER"
    assert len(store_list(store, "/v1/AUTH_wonderland/garden+archive")) == 3
    s3.delete_object(Bucket=bucket, Key="big")
    s3.delete_bucket(Bucket=bucket)


def test_objects_move_in_time(s3: Any, bucket: str, store: World, clock: Clock) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"cold", Metadata={"a": "b"}, ContentType="x/y")
    big = upload(s3, bucket, "big", PARTS)
    put_rules(s3, bucket, rule(Transitions=[{"Days": 1, "StorageClass": "GLACIER"}]))
    clock.forward(2.5 * DAY)
    done = apply(store.store)
    assert (done.transitioned, done.failures) == (2, 0)
    assert apply(store.store).transitioned == 0
    clock.ahead = 0
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (b"cold", {"a": "b"}, "x/y")
    assert (got["ETag"], got["StorageClass"]) == (put["ETag"], "GLACIER")
    got = s3.get_object(Bucket=bucket, Key="big")
    assert got["Body"].read() == b"".join(PARTS)
    assert (got["ETag"], got["StorageClass"]) == (big["ETag"], "GLACIER")
    assert store_list(store, "/v1/AUTH_wonderland/garden+segments") == []


# ---- events


class Receiver:
    """Takes what is posted to it."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 200
        self.came = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(outer.status)
                self.end_headers()
                if outer.status == 200:
                    outer.got += json.loads(text)["Records"]
                outer.came.set()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


def notify(s3: Any, bucket: str, to: str, *events: str, kind: str = "Topic", **more: Any) -> None:
    one = {"Id": "n", f"{kind}Arn": to, "Events": list(events)} | more
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={f"{kind}Configurations": [one]}
    )


def test_events_are_posted(s3: Any, bucket: str, receiver: Receiver, store: World) -> None:
    only = {
        "Filter": {
            "Key": {"FilterRules": [{"Name": "prefix", "Value": "in/"}, {"Name": "suffix", "Value": ".txt"}]}
        }
    }
    notify(s3, bucket, receiver.url, "s3:ObjectCreated:*", **only)
    found = s3.get_bucket_notification_configuration(Bucket=bucket)["TopicConfigurations"][0]
    assert (found["TopicArn"], found["Events"]) == (receiver.url, ["s3:ObjectCreated:*"])
    s3.put_object(Bucket=bucket, Key="out/a.txt", Body=b"x")
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body=b"abc")
    assert receiver.came.wait(10)
    (event,) = receiver.got
    assert event["eventName"] == "ObjectCreated:Put"
    assert event["s3"]["bucket"]["name"] == bucket
    assert (event["s3"]["object"]["key"], event["s3"]["object"]["size"]) == ("in%2Fa.txt", 3)


def test_events_wait_for_a_receiver(s3: Any, bucket: str, receiver: Receiver, store: World) -> None:
    receiver.status = 500
    notify(s3, bucket, receiver.url, "s3:ObjectRemoved:*")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.delete_object(Bucket=bucket, Key="k")
    assert receiver.came.wait(10)
    receiver.status = 200
    assert apply(store.store).delivered == 1
    assert [one["eventName"] for one in receiver.got] == ["ObjectRemoved:Delete"]
    assert apply(store.store).delivered == 0


def test_events_become_objects_of_a_bucket(s3: Any, bucket: str) -> None:
    s3.create_bucket(Bucket="journal")
    notify(s3, bucket, "arn:aws:sqs:::journal", "s3:ObjectCreated:*", "s3:ObjectRemoved:Delete", kind="Queue")
    upload(s3, bucket, "k", PARTS)
    s3.delete_object(Bucket=bucket, Key="k")
    found = []
    for key in keys(s3, "journal"):
        (event,) = json.loads(s3.get_object(Bucket="journal", Key=key)["Body"].read())["Records"]
        found.append(event["eventName"])
    assert found == ["ObjectCreated:CompleteMultipartUpload", "ObjectRemoved:Delete"]


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://2130706434/",
        "http://192.168.1.1:22/",
        "http://user@example.com/",
        "ftp://example.com/",
        "http://example.com:25/",
        "arn:aws:sns:us-east-1:1:http://10.1.1.1/",
        "arn:aws:sqs:::nowhere",
        "nonsense",
    ],
)
def test_addresses_that_events_do_not_go_to(s3: Any, bucket: str, address: str) -> None:
    assert refused(lambda: notify(s3, bucket, address, "s3:ObjectCreated:*")) == "InvalidArgument"
