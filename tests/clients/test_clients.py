"""Every command of the official clients, run against a cloud: what becomes of each stands in docs/clients.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import pytest

from altostack.inprocess import InProcessCloud
from tests.clients import identity, image, objectstore, placement, swift, table
from tests.clients.client import Client
from tests.clients.tour import Tour
from tests.conformance import environment
from tests.conformance.suites import SUITES

pytest.importorskip("openstackclient")
pytest.importorskip("swiftclient")
pytestmark = pytest.mark.timeout(300)  # hundreds of commands, each with a login of its own

# Title, the package whose commands these are, its entry point group, and the scenarios.
Part = tuple[str, str, str, Sequence[Callable[[Tour], None]]]
IDENTITY: Part = ("Identity", "python-openstackclient", "openstack.identity.v3", identity.SCENARIOS)
IMAGE: Part = ("Image", "python-openstackclient", "openstack.image.v2", image.SCENARIOS)
OBJECTS: Part = ("Object store", "python-openstackclient", "openstack.object_store.v1", objectstore.SCENARIOS)
PLACEMENT: Part = ("Placement", "osc-placement", "openstack.placement.v1", placement.SCENARIOS)
SERVICES = ("identity", "image", "placement", "objectstore")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[InProcessCloud]:
    # No nodes: placement's commands count providers.
    cloud = InProcessCloud(tmp_path / "cloud", services=SERVICES, hosts=()).start()
    cloud.serve()
    yield cloud
    cloud.stop()


def _check(part: Part, cloud: InProcessCloud, folder: Path, python: Path | str = sys.executable) -> None:
    title, package, group, scenarios = part
    client = Client(python, folder=folder)
    try:
        commands = client.commands([group])
        assert commands, f"{package} has no commands in {group}"
        # Scenarios of one service look things up with commands of another.
        every = client.commands(sorted({IDENTITY[2], IMAGE[2], group}))
        tour = Tour(cloud=cloud, client=client, commands=every, folder=folder)
        for scenario in scenarios:
            scenario(tour)
        version = client.versions([package])[package]
    finally:
        client.close()
    _hold(f"{title}, {package} {version}", set(commands), tour)


def _hold(title: str, commands: Collection[str], tour: Tour) -> None:
    missing = sorted(set(commands) - set(tour.outcomes))
    assert not missing, f"commands without a scenario: {missing}"
    outcomes = {name: one for name, one in tour.outcomes.items() if name in commands}
    table.compare(title, table.section(title, outcomes))


@pytest.mark.parametrize("part", [IDENTITY, IMAGE, OBJECTS], ids=["identity", "image", "objectstore"])
def test_every_command(part: Part, cloud: InProcessCloud, tmp_path: Path) -> None:
    _check(part, cloud, tmp_path)


def test_every_command_of_swift(cloud: InProcessCloud, tmp_path: Path) -> None:
    client = Client(folder=tmp_path)
    try:
        commands = {*client.verbs(), *swift.VARIANTS}
        every = dict.fromkeys(commands, False)  # it prints text
        tour = Tour(cloud=cloud, client=client, commands=every, folder=tmp_path, program="swift")
        for scenario in swift.SCENARIOS:
            scenario(tour)
        version = client.versions(["python-swiftclient"])["python-swiftclient"]
    finally:
        client.close()
    _hold(f"Swift, python-swiftclient {version}", commands, tour)


def test_every_command_of_placement(cloud: InProcessCloud, tmp_path: Path) -> None:
    home = environment.made(SUITES["placement"].packages)
    if home is None:
        pytest.skip("the environment of ./alto conformance placement, which holds osc-placement, is not made")
    _check(PLACEMENT, cloud, tmp_path, home / "bin" / "python")
