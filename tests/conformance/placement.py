"""Placement is judged by its reference's own API tests and by those of its command-line plugin."""

from __future__ import annotations

from collections.abc import Mapping

from tests.stand import Stand

# No nodes: the suite counts providers, and nobody else may have any.
SETTINGS = "[cloud]\nhosts = []\n\n[identity]\npassword_rounds = 4\n"


def variables(stand: Stand) -> Mapping[str, str]:
    """What leads the suite to the cloud."""
    return {
        "CONFORMANCE_URL": f"{stand.url}/placement",
        "CONFORMANCE_AUTH": f"{stand.url}/identity/v3",
        "CONFORMANCE_PASSWORD": stand.secrets["admin_password"],
    }
