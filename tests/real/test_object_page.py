"""The page "Working with objects", run as it stands by somebody with nothing but the clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from altostack.inprocess import InProcessCloud
from tests.real.test_object_clients import aws_program
from tests.servers import program

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
PAGE = Path(__file__).parents[2] / "docs" / "objects.md"


def test_every_command_of_the_page(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == PAGE.read_text().count("```") / 2
    places = [
        str(Path(sys.executable).parent),
        *(str(Path(program(name, name)).parent) for name in ("rclone", "curl")),
        os.environ["PATH"],
    ]
    home = tmp_path / "home"
    home.mkdir()
    (home / "bin").mkdir()
    (home / "bin" / "aws").symlink_to(aws_program())
    cloud = InProcessCloud(tmp_path / "cloud", services=("identity", "objectstore"), hosts=()).start()
    try:
        environ = {
            "PATH": ":".join([str(home / "bin"), *places]), "HOME": str(home), "LANG": "C.UTF-8",
            "OS_AUTH_URL": cloud.serve(), "OS_USERNAME": "demo", "OS_PASSWORD": cloud.passwords["demo"],
            "OS_PROJECT_NAME": "demo", "OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default",
            "OS_IDENTITY_API_VERSION": "3", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        done = subprocess.run(
            ["sh", "-eux"], input="\n".join(blocks), cwd=home, env=environ, capture_output=True, text=True,
            timeout=500,
        )  # fmt: skip
    finally:
        cloud.stop()
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-4000:]
    # Three ways for others to read the letter, and one by the policy.
    assert done.stdout.count("a letter\n") == 4, done.stdout
    assert (
        "PreconditionFailed" in done.stderr
    )  # the shell goes on after what is to fail, and would after a success
