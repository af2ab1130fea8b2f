"""Rules of S3 buckets are carried out by the daemon."""

from __future__ import annotations

import time
from pathlib import Path

import boto3
from botocore.config import Config

from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.loops import lifecycle
from altostack.objectstore.storage import Query
from tests.objectstore.world import world

PIPELINE = "catch gatekeeper health listing s3 tempauth acl copy slo versions lock symlink service"


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    ahead = [0]
    made = world(
        tmp_path, pipeline=PIPELINE, options={"s3": {"key_alice": "alice-secret AUTH_wonderland alice"}},
        nanoseconds=lambda: time.time_ns() + ahead[0],
    )  # fmt: skip
    try:
        s3 = boto3.client(
            "s3", endpoint_url=made.serve(), aws_access_key_id="alice", aws_secret_access_key="alice-secret",
            region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        s3.create_bucket(Bucket="diary")
        s3.put_object(Bucket="diary", Key="old/entry", Body=b"x")
        s3.put_object(Bucket="diary", Key="kept", Body=b"x")
        rule = {"ID": "r", "Filter": {"Prefix": "old/"}, "Status": "Enabled", "Expiration": {"Days": 1}}
        s3.put_bucket_lifecycle_configuration(Bucket="diary", LifecycleConfiguration={"Rules": [rule]})
        care = Care(store=made.store)
        assert "expired" not in lifecycle(care).did
        ahead[0] = int(3 * 86400e9)
        assert lifecycle(care).did["expired"] == 1
        spot = care.homes("AUTH_wonderland", "diary")[0].spot
        left = made.store.local.list(spot, "AUTH_wonderland", "diary", Query())
        assert [row.name for row in left] == ["kept"]
    finally:
        made.close()


def test_a_store_without_s3_has_no_rules(tmp_path: Path) -> None:
    assert lifecycle(Care(store=world(tmp_path).store)).did == {}
