"""Every command of the official client, run against a cloud: what becomes of each stands in docs/clients.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from altostack.inprocess import InProcessCloud
from tests.clients import identity, image, placement, table
from tests.clients.client import Client
from tests.clients.tour import Tour
from tests.conformance import environment
from tests.conformance.suites import SUITES

pytest.importorskip("openstackclient")
pytestmark = pytest.mark.timeout(300)  # hundreds of commands, each with a login of its own

# Title, the package whose commands these are, its entry point group, and the scenarios.
Part = tuple[str, str, str, Sequence[Callable[[Tour], None]]]
IDENTITY: Part = ("Identity", "python-openstackclient", "openstack.identity.v3", identity.SCENARIOS)
IMAGE: Part = ("Image", "python-openstackclient", "openstack.image.v2", image.SCENARIOS)
PLACEMENT: Part = ("Placement", "osc-placement", "openstack.placement.v1", placement.SCENARIOS)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[InProcessCloud]:
    # No nodes: placement's commands count providers.
    cloud = InProcessCloud(tmp_path / "cloud", services=("identity", "image", "placement"), hosts=()).start()
    cloud.serve()
    yield cloud
    cloud.stop()


def _check(part: Part, cloud: InProcessCloud, folder: Path, python: Path | str = sys.executable) -> None:
    title, package, group, scenarios = part
    client = Client(python)
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
    missing = sorted(set(commands) - set(tour.outcomes))
    assert not missing, f"commands without a scenario: {missing}"
    outcomes = {name: one for name, one in tour.outcomes.items() if name in commands}
    table.compare(f"{title}, {package} {version}", table.section(f"{title}, {package} {version}", outcomes))


@pytest.mark.parametrize("part", [IDENTITY, IMAGE], ids=["identity", "image"])
def test_every_command(part: Part, cloud: InProcessCloud, tmp_path: Path) -> None:
    _check(part, cloud, tmp_path)


def test_every_command_of_placement(cloud: InProcessCloud, tmp_path: Path) -> None:
    home = environment.made(SUITES["placement"].packages)
    if home is None:
        pytest.skip("the environment of ./alto conformance placement, which holds osc-placement, is not made")
    _check(PLACEMENT, cloud, tmp_path, home / "bin" / "python")
