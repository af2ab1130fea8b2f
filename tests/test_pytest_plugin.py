"""The cloud in a test, as somebody else's test uses it: through openstacksdk."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from altostack.pytest_plugin import start


def test_the_documented_example(tmp_path: Path) -> None:
    under_test = start(tmp_path)
    try:
        cloud = under_test.connection
        network = cloud.network.create_network(name="net")
        cloud.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.0.0.0/24")
        server = cloud.create_server(
            "one", image="starter", flavor="m1.starter", network="net", auto_ip=False, wait=True, timeout=60
        )
        assert server.status == "ACTIVE"
        assert under_test.environment()["OS_USERNAME"] == "demo"
        assert [s.name for s in under_test.admin.compute.servers(all_projects=True)] == ["one"]
        cloud.delete_server("one", wait=True, timeout=60)
    finally:
        under_test.close()


def test_a_cloud_that_misbehaves(tmp_path: Path) -> None:
    under_test = start(tmp_path)
    try:
        driver = under_test.cloud.nodes[0].drivers["compute"]
        driver.faults.fail_next("start", times=1000)
        cloud = under_test.connection
        flavor = cloud.compute.find_flavor("m1.starter")
        image = cloud.image.find_image("starter")
        server = cloud.compute.create_server(
            name="one", flavor_id=flavor.id, image_id=image.id, networks="none"
        )
        failed = cloud.compute.wait_for_server(server, status="ERROR", failures=[], wait=60, interval=0.2)
        assert failed.fault["message"]
    finally:
        under_test.close()


def test_pytest_finds_the_fixtures(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    plugins = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    (tmp_path / "test_mine.py").write_text(
        "def test_mine(altostack):\n    assert list(altostack.connection.compute.servers()) == []\n"
    )
    # Loaded by the module that the entry point names, whether or not this Altostack is installed.
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugins["altostack"], str(tmp_path)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
