"""The suites by name: what they are made of, and which tests they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Suite:
    """``packages`` go into the environment; ``tests`` (regular expressions over test ids) are what is run."""

    packages: tuple[str, ...]
    tests: tuple[str, ...]
    networks: bool = False  # whether the people that tests make for themselves get networks


SUITES: Mapping[str, Suite] = {
    "identity": Suite(
        packages=("tempest", "keystone-tempest-plugin"),
        tests=(r"tempest\.api\.identity\.", r"keystone_tempest_plugin\."),
    ),
    "image": Suite(
        packages=("tempest", "glance-tempest-plugin"),
        tests=(r"tempest\.api\.image\.", r"glance_tempest_plugin\."),
    ),
    "compute": Suite(
        packages=("tempest",),
        tests=(r"tempest\.api\.compute\.", r"tempest\.serial_tests\.api\.compute\."),
        networks=True,
    ),
    "network": Suite(packages=("tempest",), tests=(r"tempest\.api\.network\.",), networks=True),
    "volume": Suite(packages=("tempest",), tests=(r"tempest\.api\.volume\.",), networks=True),
    "objectstore": Suite(packages=("tempest",), tests=(r"tempest\.api\.object_storage\.",)),
    "placement": Suite(
        packages=(
            "openstack-placement",
            "osc-placement",
            "python-openstackclient",
            "gabbi",
            "stestr",
            "oslotest",
            "wsgi-intercept",
        ),
        tests=(r"gabbits\.", r"osc_placement\."),
    ),
}

# Switches that stay off, each with its reason; every other switch of a suite is on.
OFF: Mapping[tuple[str, str], str] = {
    ("identity-feature-enabled", "federation"): "federation is not built",
    ("identity-feature-enabled", "api_v2"): "the reference removed it",
    ("identity-feature-enabled", "api_v2_admin"): "the reference removed it",
    ("identity-feature-enabled", "immutable_user_source"): "on, it hides tests",
    ("compute-feature-enabled", "unified_limits"): "it excludes the tests of classic quotas",
    ("compute-feature-enabled", "vtpm_live_migration"): "needs a machine with a TPM",
    ("image-feature-enabled", "store_weight_enabled"): "needs stores with weights of their own",
    ("volume-feature-enabled", "replication"): "needs a second backend that replicates",
}
