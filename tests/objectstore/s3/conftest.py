"""A store with the S3 filter in front, and boto3 to talk to it over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.objectstore.world import World, world

PIPELINE = (
    "catch gatekeeper health listing bulk tempurl s3 tempauth token acl cors staticweb copy quotas slo dlo versions "
    "lock symlink service"
)
KEYS = {
    "key_alice": "alice-secret AUTH_wonderland alice",
    "key_bob": "bob-secret AUTH_builders bob",
    "key_carol": "carol-secret AUTH_wonderland carol",
    "notify_hosts": "127.0.0.1",
    "min_segment_size": "1024",
}
POLICIES = {
    "policies": {
        "standard": {"index": 0, "default": True},
        "archive": {"index": 1, "aliases": ["GLACIER", "STANDARD_IA"]},
    }
}


class Clock:
    """Nanoseconds that a test can move."""

    def __init__(self) -> None:
        import time

        self.ahead = 0
        self._real = time.time_ns

    def __call__(self) -> int:
        return self._real() + self.ahead

    def forward(self, seconds: float) -> None:
        self.ahead += int(seconds * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[World]:
    found = world(
        tmp_path, pipeline=PIPELINE, options={"s3": KEYS}, settings=POLICIES, devices=1, nanoseconds=clock
    )
    yield found
    found.close()


@pytest.fixture
def url(store: World) -> str:
    return store.serve()


Connect = Callable[..., Any]


@pytest.fixture(scope="session")
def session() -> Any:
    """What boto3 reads once and for all."""
    return boto3.session.Session()


@pytest.fixture
def connect(url: str, session: Any) -> Iterator[Connect]:
    """A boto3 client of a user: ``connect("bob")``."""
    made = []

    def client(
        user: str = "alice", secret: str | None = None, *, region: str = "us-east-1", **config: Any
    ) -> Any:
        s3 = config.pop("s3", {}) | {"addressing_style": "path"}
        options = {"signature_version": "s3v4", "retries": {"max_attempts": 1}, "s3": s3} | config
        one = session.client(
            "s3", endpoint_url=url, region_name=region, aws_access_key_id=user,
            aws_secret_access_key=secret or f"{user}-secret", config=Config(**options),
        )  # fmt: skip
        made.append(one)
        return one

    yield client
    for one in made:
        one.close()


@pytest.fixture
def s3(connect: Connect) -> Any:
    """Alice's client."""
    return connect()


@pytest.fixture
def bucket(s3: Any) -> str:
    s3.create_bucket(Bucket="garden")
    return "garden"


def code(error: Any) -> str:
    """The S3 error code of a ClientError."""
    return str(error.value.response["Error"]["Code"])
