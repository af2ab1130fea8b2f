"""S3 as the `aws` command line speaks it, and rclone's sync by S3 and by Swift, against a cloud that listens."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from altostack.inprocess import InProcessCloud
from tests.conformance.environment import environment
from tests.servers import program

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
AWS = Path(__file__).with_name("aws.txt")
BITS = random.Random(1).randbytes(20 << 20)
POLICIES = {
    "standard": {"index": 0, "default": True},
    "cold": {"index": 1, "aliases": ["GLACIER"]},
}


def aws_program() -> Path:
    """The command line, in an environment of its own that is made once."""
    return environment(["awscli", "awscrt"], print, versions=AWS) / "bin" / "aws"


class Desk:
    """Somebody who works with files in ``folder`` and a store."""

    def __init__(self, cloud: InProcessCloud, folder: Path) -> None:
        self.folder = folder
        self.s3 = f"http://127.0.0.1:{cloud.cloud.settings.objectstore.port}"
        self.auth = f"{cloud.cloud.url}/identity/v3"
        self.password = cloud.passwords["demo"]
        self._aws, self._rclone = aws_program(), program("rclone", "rclone")
        identity, token = cloud.client("identity"), cloud.token()
        mine = identity.call("GET", "/v3/auth/tokens", token=token, headers={"X-Subject-Token": token})[
            "token"
        ]
        path = f"/v3/users/{mine['user']['id']}/credentials/OS-EC2"
        made = identity.call("POST", path, {"tenant_id": mine["project"]["id"]}, token=token)["credential"]
        self.access, self.secret = str(made["access"]), str(made["secret"])

    def aws(self, line: str, *more: str, fails: str = "") -> Any:
        """Run a command; its JSON, or its text where it prints none. fails: with what words it is to fail."""
        words = [str(self._aws), "--endpoint-url", self.s3, *line.split(), *more]
        done = self._run(words, {
            "AWS_ACCESS_KEY_ID": self.access, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent", "AWS_MAX_ATTEMPTS": "1",
        })  # fmt: skip
        if fails:
            assert done.returncode and fails in done.stderr, (line, done.stdout, done.stderr)
            return None
        assert not done.returncode, (line, more, done.stdout, done.stderr)
        return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout

    def rclone(self, *words: str) -> str:
        """Run it with the remotes ``s3`` and ``swift``."""
        remotes = {
            "S3_TYPE": "s3", "S3_PROVIDER": "Other", "S3_ENDPOINT": self.s3, "S3_ACCESS_KEY_ID": self.access,
            "S3_SECRET_ACCESS_KEY": self.secret, "S3_REGION": "us-east-1",
            "SWIFT_TYPE": "swift", "SWIFT_AUTH": self.auth, "SWIFT_USER": "demo", "SWIFT_KEY": self.password,
            "SWIFT_TENANT": "demo", "SWIFT_DOMAIN": "Default", "SWIFT_TENANT_DOMAIN": "Default",
            "SWIFT_AUTH_VERSION": "3",
        }  # fmt: skip
        done = self._run(
            [self._rclone, "--config", "/dev/null", *words],
            {f"RCLONE_CONFIG_{name}": value for name, value in remotes.items()},
        )
        assert not done.returncode, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def _run(self, words: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "OS_", "RCLONE"))
        }
        return subprocess.run(
            words,
            cwd=self.folder,
            env=kept | environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_700_000_000, 1_700_000_000 + len(content)))  # long before anybody has sent it
        return path


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessCloud]:
    made = InProcessCloud(
        tmp_path_factory.mktemp("cloud"),
        services=("identity", "objectstore"),
        settings={"objectstore": {"policies": POLICIES}},
        hosts=(),
    ).start()
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def desk(cloud: InProcessCloud, tmp_path: Path) -> Desk:
    return Desk(cloud, tmp_path)


def fetch(url: str) -> tuple[int, bytes]:
    """What somebody without a key gets."""
    answer = urllib3.request("GET", url)
    return answer.status, answer.data


def test_files_by_aws(desk: Desk) -> None:
    desk.aws("s3 mb s3://files")
    desk.file("large", BITS)  # in parts
    desk.aws("s3 cp large s3://files/large")
    assert re.search(r"-\d+\"?$", desk.aws("s3api head-object --bucket files --key large")["ETag"])
    desk.aws("s3 cp s3://files/large back")
    assert (desk.folder / "back").read_bytes() == BITS
    desk.aws("s3 cp s3://files/large s3://files/copy")  # part by part, within the store
    desk.aws("s3 cp s3://files/copy back")
    assert (desk.folder / "back").read_bytes() == BITS

    for name in ("a", "deep/b", "deep/ü +&%.txt"):
        desk.file(f"tree/{name}", name.encode())
    assert desk.aws("s3 sync tree s3://files/tree").count("upload:") == 3
    assert desk.aws("s3 sync tree s3://files/tree") == ""
    desk.file("tree/a", b"changed!")
    (desk.folder / "tree/deep/b").unlink()
    assert desk.aws("s3 sync tree s3://files/tree --delete").count(":") >= 2
    assert [line.split(maxsplit=3)[3] for line in desk.aws("s3 ls --recursive s3://files/tree/").splitlines()] == [
        "tree/a", "tree/deep/ü +&%.txt"
    ]  # fmt: skip
    assert "PRE tree/" in desk.aws("s3 ls s3://files/")
    desk.aws("s3 sync s3://files/tree got")
    assert (desk.folder / "got/deep/ü +&%.txt").read_bytes() == "deep/ü +&%.txt".encode()
    desk.aws("s3 mv s3://files/tree/a s3://files/moved")
    desk.aws("s3api head-object --bucket files --key tree/a", fails="404")

    url = desk.aws("s3 presign s3://files/moved --expires-in 60").strip()
    assert fetch(url) == (200, b"changed!")
    assert fetch(url.replace("moved", "large"))[0] == 403
    assert fetch(url.partition("?")[0])[0] == 403
    desk.aws("s3 rb s3://files", fails="BucketNotEmpty")
    desk.aws("s3 rb s3://files --force")
    assert desk.aws("s3api list-buckets")["Buckets"] == []


def test_objects_by_aws(desk: Desk) -> None:
    desk.aws("s3api create-bucket --bucket objects")
    desk.aws("s3api head-bucket --bucket objects")
    desk.aws("s3api get-bucket-location --bucket objects")
    desk.file("one", b"0123456789")
    for sum in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"):
        kept = desk.aws(
            f"s3api put-object --bucket objects --key {sum} --body one --checksum-algorithm {sum}"
        )
        read = desk.aws(f"s3api get-object --bucket objects --key {sum} --checksum-mode ENABLED out")
        assert kept[f"Checksum{sum}"] == read[f"Checksum{sum}"]
    desk.aws(
        "s3api put-object --bucket objects --key one --body one --metadata color=red --content-type text/x-one"
    )
    head = desk.aws("s3api head-object --bucket objects --key one")
    assert (head["Metadata"], head["ContentType"], head["ContentLength"]) == (
        {"color": "red"},
        "text/x-one",
        10,
    )
    desk.aws("s3api get-object --bucket objects --key one --range bytes=2-4 out")
    assert (desk.folder / "out").read_bytes() == b"234"
    said = desk.aws(
        "s3api get-object-attributes --bucket objects --key one --object-attributes ETag ObjectSize"
    )
    assert said["ObjectSize"] == 10

    desk.aws(
        "s3api put-object --bucket objects --key one --body one --if-none-match *", fails="PreconditionFailed"
    )
    desk.aws(
        "s3api put-object --bucket objects --key one --body one --if-match abc", fails="PreconditionFailed"
    )
    desk.aws("s3api put-object --bucket objects --key one --body one --if-match", head["ETag"])
    desk.aws("s3api get-object --bucket objects --key one out --if-none-match", head["ETag"], fails="304")

    desk.aws("s3api copy-object --bucket objects --key two --copy-source objects/one")
    page = desk.aws("s3api list-objects-v2 --bucket objects --max-items 2")
    rest = desk.aws("s3api list-objects-v2 --bucket objects --starting-token", page["NextToken"])
    assert [one["Key"] for one in page["Contents"] + rest["Contents"]] == [
        "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", "one", "two",
    ]  # fmt: skip
    assert len(desk.aws("s3api list-objects --bucket objects --prefix SHA")["Contents"]) == 2
    page = desk.aws("s3api list-objects-v2 --bucket objects --delimiter C")
    assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["C"]

    desk.aws("s3api put-object-tagging --bucket objects --key one --tagging TagSet=[{Key=k,Value=v}]")
    assert desk.aws("s3api get-object-tagging --bucket objects --key one")["TagSet"] == [
        {"Key": "k", "Value": "v"}
    ]
    desk.aws("s3api delete-object-tagging --bucket objects --key one")
    assert desk.aws("s3api get-object-tagging --bucket objects --key one")["TagSet"] == []
    gone = desk.aws(
        "s3api delete-objects --bucket objects --delete Objects=[{Key=one},{Key=two},{Key=none}],Quiet=false"
    )
    assert len(gone["Deleted"]) == 3
    desk.aws("s3api get-object --bucket objects --key one out", fails="NoSuchKey")
    desk.aws("s3api delete-object --bucket objects --key one")


def test_uploads_in_parts_by_aws(desk: Desk) -> None:
    desk.aws("s3api create-bucket --bucket parts")
    desk.file("first", BITS[: 6 << 20])
    desk.file("last", b"the end")
    upload = desk.aws("s3api create-multipart-upload --bucket parts --key whole")["UploadId"]
    at = f"--bucket parts --key whole --upload-id {upload}"
    one = desk.aws(f"s3api upload-part {at} --part-number 1 --body first")["ETag"]
    desk.aws("s3api put-object --bucket parts --key last --body last")
    two = desk.aws(f"s3api upload-part-copy {at} --part-number 2 --copy-source parts/last")["CopyPartResult"][
        "ETag"
    ]
    assert [part["PartNumber"] for part in desk.aws(f"s3api list-parts {at}")["Parts"]] == [1, 2]
    assert [one["Key"] for one in desk.aws("s3api list-multipart-uploads --bucket parts")["Uploads"]] == [
        "whole"
    ]
    bad = {"Parts": [{"PartNumber": 1, "ETag": one}, {"PartNumber": 2, "ETag": one}]}
    desk.aws(f"s3api complete-multipart-upload {at} --multipart-upload", json.dumps(bad), fails="InvalidPart")
    good = {"Parts": [{"PartNumber": 1, "ETag": one}, {"PartNumber": 2, "ETag": two}]}
    desk.aws(f"s3api complete-multipart-upload {at} --multipart-upload", json.dumps(good))
    desk.aws("s3api get-object --bucket parts --key whole out")
    assert (desk.folder / "out").read_bytes() == BITS[: 6 << 20] + b"the end"
    dropped = desk.aws("s3api create-multipart-upload --bucket parts --key dropped")["UploadId"]
    desk.aws(f"s3api abort-multipart-upload --bucket parts --key dropped --upload-id {dropped}")
    assert "Uploads" not in desk.aws("s3api list-multipart-uploads --bucket parts")


def test_versions_and_locks_by_aws(desk: Desk) -> None:
    desk.aws("s3api create-bucket --bucket kept --object-lock-enabled-for-bucket")
    assert desk.aws("s3api get-bucket-versioning --bucket kept")["Status"] == "Enabled"
    desk.file("one", b"one")
    old = desk.aws("s3api put-object --bucket kept --key k --body one")["VersionId"]
    desk.file("one", b"two")
    desk.aws("s3api put-object --bucket kept --key k --body one")
    desk.aws("s3api delete-object --bucket kept --key k")
    found = desk.aws("s3api list-object-versions --bucket kept")
    assert (len(found["Versions"]), len(found["DeleteMarkers"])) == (2, 1)
    desk.aws(f"s3api get-object --bucket kept --key k --version-id {old} out")
    assert (desk.folder / "out").read_bytes() == b"one"

    at = f"--bucket kept --key k --version-id {old}"
    desk.aws(f"s3api put-object-legal-hold {at} --legal-hold Status=ON")
    assert desk.aws(f"s3api get-object-legal-hold {at}")["LegalHold"]["Status"] == "ON"
    desk.aws(f"s3api delete-object {at}", fails="AccessDenied")
    desk.aws(f"s3api put-object-legal-hold {at} --legal-hold Status=OFF")
    until = "2099-01-01T00:00:00Z"
    desk.aws(f"s3api put-object-retention {at} --retention Mode=GOVERNANCE,RetainUntilDate={until}")
    assert desk.aws(f"s3api get-object-retention {at}")["Retention"]["Mode"] == "GOVERNANCE"
    desk.aws(f"s3api delete-object {at}", fails="AccessDenied")
    desk.aws(f"s3api delete-object {at} --bypass-governance-retention")
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}}
    desk.aws(
        "s3api put-object-lock-configuration --bucket kept --object-lock-configuration", json.dumps(rule)
    )
    assert desk.aws("s3api get-object-lock-configuration --bucket kept")["ObjectLockConfiguration"] == rule
    new = desk.aws("s3api put-object --bucket kept --key locked --body one")["VersionId"]
    desk.aws(
        f"s3api delete-object --bucket kept --key locked --version-id {new} --bypass-governance-retention",
        fails="AccessDenied",
    )


def test_what_buckets_can_be_told_by_aws(desk: Desk) -> None:
    desk.aws("s3api create-bucket --bucket told")
    desk.file("one", b"one")
    desk.aws("s3api put-object --bucket told --key one --body one")
    at = "--bucket told"
    url = f"{desk.s3}/told/one"

    desk.aws(f"s3api put-bucket-tagging {at} --tagging TagSet=[{{Key=k,Value=v}}]")
    assert desk.aws(f"s3api get-bucket-tagging {at}")["TagSet"] == [{"Key": "k", "Value": "v"}]
    desk.aws(f"s3api delete-bucket-tagging {at}")
    desk.aws(f"s3api get-bucket-tagging {at}", fails="NoSuchTagSet")

    rules = {"CORSRules": [{"AllowedOrigins": ["http://o"], "AllowedMethods": ["GET"], "MaxAgeSeconds": 9}]}
    desk.aws(f"s3api put-bucket-cors {at} --cors-configuration", json.dumps(rules))
    assert desk.aws(f"s3api get-bucket-cors {at}") == rules
    desk.aws(f"s3api delete-bucket-cors {at}")
    desk.aws(f"s3api get-bucket-cors {at}", fails="NoSuchCORSConfiguration")

    assert fetch(url)[0] == 403
    desk.aws(f"s3api put-object-acl {at} --key one --acl public-read")
    assert len(desk.aws(f"s3api get-object-acl {at} --key one")["Grants"]) == 2
    assert fetch(url) == (200, b"one")
    desk.aws(f"s3api put-object-acl {at} --key one --acl private")
    assert fetch(url)[0] == 403
    desk.aws(f"s3api put-bucket-acl {at} --acl public-read")
    assert fetch(f"{desk.s3}/told")[0] == 200
    desk.aws(f"s3api put-bucket-acl {at} --acl private")
    assert fetch(f"{desk.s3}/told")[0] == 403
    assert len(desk.aws(f"s3api get-bucket-acl {at}")["Grants"]) == 1

    policy = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::told/*"}
    ]}  # fmt: skip
    desk.aws(f"s3api put-bucket-policy {at} --policy", json.dumps(policy))
    assert json.loads(desk.aws(f"s3api get-bucket-policy {at}")["Policy"]) == policy
    assert desk.aws(f"s3api get-bucket-policy-status {at}")["PolicyStatus"]["IsPublic"] is True
    assert fetch(url) == (200, b"one")
    closed = "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true"
    desk.aws(f"s3api put-public-access-block {at} --public-access-block-configuration {closed}")
    assert fetch(url)[0] == 403
    assert all(desk.aws(f"s3api get-public-access-block {at}")["PublicAccessBlockConfiguration"].values())
    desk.aws(f"s3api delete-public-access-block {at}")
    desk.aws(f"s3api delete-bucket-policy {at}")
    desk.aws(f"s3api get-bucket-policy {at}", fails="NoSuchBucketPolicy")

    rules = {"Rules": [{
        "ID": "r", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30},
        "Transitions": [{"Days": 5, "StorageClass": "GLACIER"}],
    }]}  # fmt: skip
    desk.aws(f"s3api put-bucket-lifecycle-configuration {at} --lifecycle-configuration", json.dumps(rules))
    assert desk.aws(f"s3api get-bucket-lifecycle-configuration {at}")["Rules"] == rules["Rules"]
    desk.aws(f"s3api delete-bucket-lifecycle {at}")
    desk.aws(f"s3api get-bucket-lifecycle-configuration {at}", fails="NoSuchLifecycleConfiguration")

    desk.aws("s3api create-bucket --bucket reports")
    listed = {
        "Id": "weekly", "IsEnabled": True, "IncludedObjectVersions": "Current", "Schedule": {"Frequency": "Weekly"},
        "Destination": {"S3BucketDestination": {"Bucket": "arn:aws:s3:::reports", "Format": "CSV"}},
    }  # fmt: skip
    desk.aws(
        f"s3api put-bucket-inventory-configuration {at} --id weekly --inventory-configuration",
        json.dumps(listed),
    )
    assert (
        desk.aws(f"s3api get-bucket-inventory-configuration {at} --id weekly")["InventoryConfiguration"]["Id"]
        == "weekly"
    )
    assert (
        len(desk.aws(f"s3api list-bucket-inventory-configurations {at}")["InventoryConfigurationList"]) == 1
    )
    desk.aws(f"s3api delete-bucket-inventory-configuration {at} --id weekly")

    desk.aws(f"s3api get-bucket-notification-configuration {at}")
    owned = "Rules=[{ObjectOwnership=BucketOwnerEnforced}]"
    desk.aws(f"s3api put-bucket-ownership-controls {at} --ownership-controls {owned}")
    assert desk.aws(f"s3api get-bucket-ownership-controls {at}")["OwnershipControls"]["Rules"]
    desk.aws(f"s3api get-bucket-encryption {at}", fails="ServerSideEncryptionConfigurationNotFoundError")
    desk.aws(f"s3api get-bucket-website {at}", fails="NoSuchWebsiteConfiguration")
    desk.aws(f"s3api get-bucket-request-payment {at}")
    desk.aws(
        f"s3api put-bucket-website {at} --website-configuration IndexDocument={{Suffix=i}}",
        fails="NotImplemented",
    )
    desk.aws(f"s3api delete-bucket {at}", fails="BucketNotEmpty")


@pytest.mark.parametrize("remote", ["s3", "swift"])
def test_rclone_keeps_folders_in_step(desk: Desk, remote: str) -> None:
    chance = random.Random(3)
    for number in range(40):
        desk.file(
            f"tree/{number % 7}/ü {number} &+%.bin", chance.randbytes(chance.choice((0, 1, 5000, 70_000)))
        )
    desk.file("tree/large", BITS)
    there = f"{remote}:synced-{remote}/in a folder"
    assert "ERROR" not in desk.rclone(
        "sync", "tree", there, "--s3-chunk-size", "5M", "--swift-chunk-size", "8M", "-v"
    )
    assert "0 differences found" in desk.rclone("check", "tree", there)
    again = desk.rclone("sync", "tree", there, "-v")
    assert "There was nothing to transfer" in again, again
    (desk.folder / "tree/large").unlink()
    shutil.rmtree(desk.folder / "tree/3")
    desk.file("tree/1/ü 1 &+%.bin", b"changed")
    desk.file("tree/new/one", b"new")
    desk.rclone("sync", "tree", there)
    assert "0 differences found" in desk.rclone("check", "tree", there)
    desk.rclone("sync", there, "back")
    assert "0 differences found" in desk.rclone("check", "--download", "tree", "back")
    assert (desk.folder / "back/1/ü 1 &+%.bin").read_bytes() == b"changed"
    desk.rclone("purge", f"{remote}:synced-{remote}")
    left = {line.split()[-1] for line in desk.rclone("lsd", f"{remote}:").splitlines()}
    assert f"synced-{remote}" not in left  # of large files' segments it leaves the empty container
