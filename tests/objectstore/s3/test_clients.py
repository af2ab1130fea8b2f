"""Other people's command lines: aws and rclone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def run(folder: Path, *words: str, **more: str) -> str:
    """A command's output; it must succeed."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "AWS_ACCESS_KEY_ID": "alice",
        "AWS_SECRET_ACCESS_KEY": "alice-secret", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "none"), "LANG": "C.UTF-8", **more,
    }  # fmt: skip
    if "PYENV_ROOT" in os.environ:
        environment["PYENV_ROOT"] = os.environ["PYENV_ROOT"]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def needed(name: str) -> Any:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "client" / "files"
    (folder / "deep").mkdir(parents=True)
    (folder / "small").write_bytes(b"small")
    (folder / "deep" / "ünicode name").write_bytes(b"u" * 1000)
    (folder / "big").write_bytes(os.urandom(9 << 20))  # in parts
    return folder


@needed("aws")
def test_aws(files: Path, url: str) -> None:
    folder = files.parent

    def aws(*words: str) -> str:
        return run(folder, "aws", "--endpoint-url", url, *words)

    aws("s3", "mb", "s3://garden")
    aws("s3", "sync", "files", "s3://garden/x")
    assert "small" in aws("s3", "ls", "--recursive", "s3://garden")
    aws("s3", "sync", "s3://garden/x", "back")
    for name in ("small", "big", "deep/ünicode name"):
        assert (folder / "back" / name).read_bytes() == (files / name).read_bytes()
    aws("s3", "mv", "s3://garden/x/small", "s3://garden/y")
    aws(
        "s3api", "put-bucket-versioning", "--bucket", "garden", "--versioning-configuration", "Status=Enabled"
    )
    assert "Enabled" in aws("s3api", "get-bucket-versioning", "--bucket", "garden")
    assert "WRITE" not in aws("s3api", "get-bucket-acl", "--bucket", "garden")
    aws(
        "s3api",
        "put-bucket-versioning",
        "--bucket",
        "garden",
        "--versioning-configuration",
        "Status=Suspended",
    )


@needed("rclone")
def test_rclone(files: Path, url: str) -> None:
    folder = files.parent
    remote = ":s3,provider=Other,env_auth=true,force_path_style=true,endpoint='" + url + "':"

    def rclone(*words: str) -> str:
        return run(folder, "rclone", "--config", str(folder / "rclone.conf"), "--retries", "1", *words)

    rclone("mkdir", remote + "garden")
    rclone("sync", "files", remote + "garden/x", "--s3-upload-cutoff", "6M", "--s3-chunk-size", "5M")
    rclone("check", "files", remote + "garden/x")
    assert "small" in rclone("lsf", "-R", remote + "garden")
    (files / "small").unlink()
    (files / "deep" / "ünicode name").write_bytes(b"changed")
    rclone("sync", "files", remote + "garden/x")
    rclone("sync", remote + "garden/x", "back")
    assert (folder / "back" / "deep" / "ünicode name").read_bytes() == b"changed"
    assert not (folder / "back" / "small").exists()
    rclone("purge", remote + "garden")
