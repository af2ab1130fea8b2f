"""The functional tests of osc-placement: the commands of `openstack`, unmodified."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import fixtures
from far import URL, Identity, Place
from osc_placement.tests import functional
from osc_placement.tests.functional import base


def load_tests(loader: Any, tests: Any, pattern: Any) -> unittest.TestSuite:
    """Every class of theirs; each test begins with an empty place."""
    identity = Identity()
    place = Place(identity.admin)

    class There(fixtures.Fixture):
        endpoint, token = URL, identity.admin

        def _setUp(self) -> None:
            place.empty()

    base.placement.PlacementFixture = There
    suite = unittest.TestSuite()
    for file in sorted(Path(functional.__file__).parent.glob("test_*.py")):
        suite.addTests(loader.loadTestsFromName(f"osc_placement.tests.functional.{file.stem}"))
    return suite
