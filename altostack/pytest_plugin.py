"""A cloud in a test: pytest fixtures that come with the package.

    def test_my_module(altostack):
        cloud = altostack.connection
        server = cloud.create_server("one", image="starter", flavor="1", network="net", auto_ip=False, wait=True)
        assert server.status == "ACTIVE"

`altostack` is a running simulated cloud of the test's own; `altostack_session` the same for a whole session.
Installing Altostack is enough: pytest finds the plugin by its entry point.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from altostack.inprocess import InProcessCloud


class CloudUnderTest:
    """What the fixtures hand over.

    cloud: the `InProcessCloud`. auth_url: its identity endpoint. connection, admin: openstacksdk connections of the
    users demo and admin (openstacksdk must be installed). config: keyword arguments for `openstack.connect`.
    """

    def __init__(self, cloud: InProcessCloud, auth_url: str) -> None:
        self.cloud = cloud
        self.auth_url = auth_url
        self._connections: dict[str, Any] = {}

    def config(self, user: str = "demo") -> dict[str, Any]:
        """Arguments for ``openstack.connect(**...)``."""
        return {
            "auth_url": self.auth_url,
            "username": user,
            "password": self.cloud.passwords[user],
            "project_name": user,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
            "region_name": self.cloud.cloud.settings.cloud.region,
        }

    def environment(self, user: str = "demo") -> dict[str, str]:
        """The same as OS_* variables, for command-line clients and Terraform."""
        return {f"OS_{name.upper()}": str(value) for name, value in self.config(user).items()}

    def connect(self, user: str = "demo") -> Any:
        """An openstacksdk connection, made once for each user."""
        if user not in self._connections:
            import openstack

            self._connections[user] = openstack.connect(
                **self.config(user), load_yaml_config=False, load_envvars=False
            )
        return self._connections[user]

    @property
    def connection(self) -> Any:
        """The user demo's connection."""
        return self.connect("demo")

    @property
    def admin(self) -> Any:
        """The administrator's connection."""
        return self.connect("admin")

    def close(self) -> None:
        """Close connections and stop the cloud."""
        for connection in self._connections.values():
            connection.close()
        self.cloud.stop()


def start(state: Path, **options: Any) -> CloudUnderTest:
    """A running simulated cloud that listens on a loopback port, with the starter image registered."""
    from altostack.inprocess import InProcessCloud
    from altostack.starter import register

    cloud = InProcessCloud(state, **options).start()
    register(cloud.cloud, lambda line: None)
    return CloudUnderTest(cloud, cloud.serve())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Import what the fixtures need once tests are known to use them: the first test's time is its own."""
    names = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if not names.isdisjoint(("altostack", "altostack_session")):
        importlib.import_module("altostack.starter")
        importlib.import_module("altostack.app").load_services()
        if importlib.util.find_spec("openstack") is not None:
            importlib.import_module("openstack")


@pytest.fixture
def altostack(tmp_path: Path) -> Iterator[CloudUnderTest]:
    """A simulated cloud for one test."""
    under_test = start(tmp_path / "altostack")
    yield under_test
    under_test.close()


@pytest.fixture(scope="session")
def altostack_session() -> Iterator[CloudUnderTest]:
    """A simulated cloud for the whole session."""
    with tempfile.TemporaryDirectory(prefix="altostack-") as folder:
        under_test = start(Path(folder))
        yield under_test
        under_test.close()
