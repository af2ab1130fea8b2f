"""Versions of objects, and versions that nobody may delete."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from botocore.exceptions import ClientError

from altostack.kit.context import Context
from altostack.objectstore.http import Bytes, Refusal, Request, Response
from altostack.objectstore.s3 import objects
from altostack.objectstore.s3.call import Call
from tests.objectstore.s3.conftest import KEYS, PIPELINE, code
from tests.objectstore.s3.signer import Signer, send
from tests.objectstore.s3.test_multipart import PARTS, store_list, upload
from tests.objectstore.world import world


@pytest.fixture
def kept(s3: Any, bucket: str) -> str:
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    return bucket


def ids(s3: Any, bucket: str) -> list[tuple[str, str, bool]]:
    found = s3.list_object_versions(Bucket=bucket)
    every = found.get("Versions", []) + found.get("DeleteMarkers", [])
    return [(one["Key"], one["VersionId"], one["IsLatest"]) for one in every]


def test_what_is_overwritten_stays(s3: Any, kept: str) -> None:
    one = s3.put_object(Bucket=kept, Key="k", Body=b"one", Metadata={"n": "1"})["VersionId"]
    two = s3.put_object(Bucket=kept, Key="k", Body=b"two")["VersionId"]
    assert one != two
    got = s3.get_object(Bucket=kept, Key="k")
    assert (got["Body"].read(), got["VersionId"]) == (b"two", two)
    old = s3.get_object(Bucket=kept, Key="k", VersionId=one)
    assert (old["Body"].read(), old["VersionId"], old["Metadata"]) == (b"one", one, {"n": "1"})
    assert ids(s3, kept) == [("k", two, True), ("k", one, False)]
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=kept, Key="k", VersionId="1400000000.000000000")
    assert code(error) == "NoSuchVersion"


def test_delete_markers(s3: Any, kept: str) -> None:
    one = s3.put_object(Bucket=kept, Key="k", Body=b"one")["VersionId"]
    gone = s3.delete_object(Bucket=kept, Key="k")
    assert gone["DeleteMarker"] is True
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=kept, Key="k")
    assert code(error) == "NoSuchKey"
    assert error.value.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=kept, Key="k", VersionId=gone["VersionId"])
    assert code(error) == "MethodNotAllowed"
    found = s3.list_object_versions(Bucket=kept)
    assert [one["VersionId"] for one in found["DeleteMarkers"]] == [gone["VersionId"]]
    assert "Contents" not in s3.list_objects_v2(Bucket=kept)
    back = s3.delete_object(Bucket=kept, Key="k", VersionId=gone["VersionId"])
    assert back["DeleteMarker"] is True
    s3.copy_object(Bucket=kept, Key="k", CopySource={"Bucket": kept, "Key": "k", "VersionId": one})
    assert s3.get_object(Bucket=kept, Key="k")["Body"].read() == b"one"


def test_null_versions_and_suspension(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["Body"].read() == b"before"
    s3.put_object(Bucket=bucket, Key="k", Body=b"during")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Suspended"
    s3.put_object(Bucket=bucket, Key="k", Body=b"after")
    assert s3.get_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    assert len(ids(s3, bucket)) == 3


def test_uploads_in_parts_have_versions(s3: Any, kept: str) -> None:
    one = upload(s3, kept, "big", PARTS)
    s3.put_object(Bucket=kept, Key="big", Body=b"small")
    old = s3.get_object(Bucket=kept, Key="big", VersionId=one["VersionId"])
    assert old["Body"].read() == b"".join(PARTS)
    assert old["ETag"] == one["ETag"]
    entry = next(
        v for v in s3.list_object_versions(Bucket=kept)["Versions"] if v["VersionId"] == one["VersionId"]
    )
    assert (entry["Size"], entry["ETag"]) == (8003, one["ETag"])
    s3.delete_object(Bucket=kept, Key="big", VersionId=one["VersionId"])
    assert len(ids(s3, kept)) == 1


def test_tags_of_versions(s3: Any, kept: str) -> None:
    one = s3.put_object(Bucket=kept, Key="k", Body=b"1", Tagging="n=1")["VersionId"]
    s3.put_object(Bucket=kept, Key="k", Body=b"2")
    tags = [{"Key": "n", "Value": "new"}, {"Key": "m", "Value": ""}]
    s3.put_object_tagging(Bucket=kept, Key="k", VersionId=one, Tagging={"TagSet": tags})
    got = s3.get_object_tagging(Bucket=kept, Key="k", VersionId=one)
    assert {one["Key"]: one["Value"] for one in got["TagSet"]} == {"n": "new", "m": ""}
    assert s3.get_object_tagging(Bucket=kept, Key="k")["TagSet"] == []
    assert s3.get_object(Bucket=kept, Key="k", VersionId=one)["Body"].read() == b"1"


def test_pages_of_versions(s3: Any, kept: str) -> None:
    made = [s3.put_object(Bucket=kept, Key=key, Body=b"x")["VersionId"] for key in ("a", "a", "b", "a")]
    found: list[tuple[str, str]] = []
    more: dict[str, str] = {}
    while True:
        page = s3.list_object_versions(Bucket=kept, MaxKeys=1, **more)
        found += [(one["Key"], one["VersionId"]) for one in page["Versions"]]
        if not page["IsTruncated"]:
            break
        more = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
    assert found == [("a", made[3]), ("a", made[1]), ("a", made[0]), ("b", made[2])]


# ---- object lock


@pytest.fixture
def locked(s3: Any) -> str:
    s3.create_bucket(Bucket="vault", ObjectLockEnabledForBucket=True)
    return "vault"


def until(days: float = 1) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def refused(call: Any) -> str:
    with pytest.raises(ClientError) as error:
        call()
    return code(error)


def test_lock_configuration(s3: Any, locked: str, bucket: str) -> None:
    assert s3.get_bucket_versioning(Bucket=locked)["Status"] == "Enabled"
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=rule)
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == rule
    put = s3.put_object(Bucket=locked, Key="k", Body=b"x")
    head = s3.head_object(Bucket=locked, Key="k")
    assert head["ObjectLockMode"] == "GOVERNANCE"
    assert head["ObjectLockRetainUntilDate"] > datetime.now(UTC)
    assert (
        refused(lambda: s3.delete_object(Bucket=locked, Key="k", VersionId=put["VersionId"]))
        == "AccessDenied"
    )
    s3.delete_object(Bucket=locked, Key="k", VersionId=put["VersionId"], BypassGovernanceRetention=True)
    assert (
        refused(
            lambda: s3.put_bucket_versioning(Bucket=locked, VersioningConfiguration={"Status": "Suspended"})
        )
        == "InvalidBucketState"
    )
    assert (
        refused(lambda: s3.get_object_lock_configuration(Bucket=bucket))
        == "ObjectLockConfigurationNotFoundError"
    )
    assert (
        refused(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"", ObjectLockLegalHoldStatus="ON"))
        == "InvalidRequest"
    )


def test_compliance_cannot_be_shortened_or_bypassed(s3: Any, locked: str, clock: Any, store: Any) -> None:
    version = s3.put_object(
        Bucket=locked, Key="k", Body=b"x", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until(1)
    )["VersionId"]
    about = {"Bucket": locked, "Key": "k", "VersionId": version}
    assert refused(lambda: s3.delete_object(**about, BypassGovernanceRetention=True)) == "AccessDenied"
    for mode, when in (("COMPLIANCE", until(0.5)), ("GOVERNANCE", until(2))):
        wish = {"Mode": mode, "RetainUntilDate": when}
        assert (
            refused(
                lambda wish=wish: s3.put_object_retention(
                    **about, Retention=wish, BypassGovernanceRetention=True
                )
            )
            == "AccessDenied"
        )
    s3.put_object_retention(**about, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until(2)})
    assert s3.get_object_retention(**about)["Retention"]["Mode"] == "COMPLIANCE"
    many = s3.delete_objects(Bucket=locked, Delete={"Objects": [{"Key": "k", "VersionId": version}]})
    assert many["Errors"][0]["Code"] == "AccessDenied"
    clock.forward(3 * 86400)
    # boto3 signs with the real time, which is too old for the store now: ask it directly
    gate = store.store.handlers["s3"]
    call = Call(
        gate=gate, request=Request("DELETE", "/"), bucket=locked, key="k", account="AUTH_wonderland", version=version
    )  # fmt: skip
    assert objects.delete_one(call)["x-amz-version-id"] == version


def test_legal_hold(s3: Any, locked: str) -> None:
    version = s3.put_object(Bucket=locked, Key="k", Body=b"x")["VersionId"]
    about = {"Bucket": locked, "Key": "k", "VersionId": version}
    s3.put_object_legal_hold(**about, LegalHold={"Status": "ON"})
    assert s3.get_object_legal_hold(**about)["LegalHold"]["Status"] == "ON"
    assert refused(lambda: s3.delete_object(**about, BypassGovernanceRetention=True)) == "AccessDenied"
    s3.put_object(Bucket=locked, Key="k", Body=b"newer")  # overwriting keeps the held version
    assert s3.get_object(**about)["Body"].read() == b"x"
    s3.put_object_legal_hold(**about, LegalHold={"Status": "OFF"})
    s3.delete_object(**about)


def test_swift_users_are_held_too(s3: Any, locked: str, store: Any, connect: Any) -> None:
    version = s3.put_object(
        Bucket=locked, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until()
    )["VersionId"]
    upload(s3, locked, "big", PARTS)
    parts = [name for name in store_list(store, f"{ACCOUNT}/vault+segments") if name.count("/") == 2]
    store.store.rules = EVERYTHING
    swift = partial(as_swift, store)
    assert swift("DELETE", "/vault/k", {"version-id": version}).status == 403
    assert swift("POST", "/vault", x_versions_enabled="false").status == 403
    assert swift("DELETE", f"/vault+segments/{parts[0]}").status == 403
    assert swift("PUT", f"/vault+segments/{parts[0]}", body=b"evil").status == 403
    assert swift("DELETE", "/vault/big", {"multipart-manifest": "delete"}).status in (200, 403)
    # A manifest elsewhere that names the parts: to delete it with what it names must not reach them.
    assert swift("PUT", "/other").status == 201
    manifest = json.dumps([{"path": f"/vault+segments/{name}"} for name in parts]).encode()
    assert swift("PUT", "/other/trap", {"multipart-manifest": "put"}, body=manifest).status == 201
    swift("DELETE", "/other/trap", {"multipart-manifest": "delete"}).read()
    assert [name for name in store_list(store, f"{ACCOUNT}/vault+segments") if name.count("/") == 2] == parts
    # A POST says what an object's metadata is, and nothing of its lock.
    assert swift("POST", "/vault/k", x_object_meta_a="b").status == 202
    about = {"Bucket": locked, "Key": "k", "VersionId": version}
    assert s3.get_object_retention(**about)["Retention"]["Mode"] == "GOVERNANCE"
    got = s3.get_object(**about)
    assert (got["Body"].read(), got["Metadata"]) == (b"x", {"a": "b"})
    assert swift("DELETE", "/vault/k").status in (204, 404)  # a marker: the version stays
    assert s3.get_object(**about)["Body"].read() == b"x"


ACCOUNT = "/v1/AUTH_wonderland"


class Everything:
    """A policy engine that allows everything."""

    def allows(self, rule: str, who: Any, target: Any) -> bool:
        return True


EVERYTHING: Any = Everything()


def as_swift(
    store: Any, method: str, path: str, query: dict[str, str] | None = None, body: bytes = b"", **headers: str
) -> Response:
    """A request in Swift's language by somebody whom nothing but locks keeps from anything."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {
        "content-length": str(len(body))
    }
    request = Request(
        method, quote(ACCOUNT + path), query_string=urlencode(query or {}), headers=sent, body=Bytes(body)
    )
    request.context = Context(user_id="alice", project_id="wonderland", roles=frozenset({"admin"}))
    try:
        found: Response = store.store.app(request)
    except Refusal as refusal:
        found = refusal.response()
    return found


def test_no_locks_without_their_filter(tmp_path: Any, session: Any) -> None:
    found = world(tmp_path, pipeline=PIPELINE.replace("lock ", ""), options={"s3": KEYS})
    try:
        url = found.serve()
        signer = Signer(url)
        headers = signer.headers("PUT", "/vault", more={"x-amz-bucket-object-lock-enabled": "true"})
        assert send(url, "PUT", "/vault", headers).code == "NotImplemented"
    finally:
        found.close()


def test_a_policy_may_keep_people_from_bypassing(s3: Any, locked: str) -> None:
    version = s3.put_object(
        Bucket=locked, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until()
    )["VersionId"]
    s3.put_bucket_policy(
        Bucket=locked,
        Policy='{"Version":"2012-10-17","Statement":{"Effect":"Deny","Principal":"*","Action":"s3:BypassGovernanceRetention","Resource":"arn:aws:s3:::vault/*"}}',
    )
    assert (
        refused(
            lambda: s3.delete_object(
                Bucket=locked, Key="k", VersionId=version, BypassGovernanceRetention=True
            )
        )
        == "AccessDenied"
    )
