"""The committed OpenAPI documents are what is served."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from altostack.app import SERVICES, load_services
from altostack.kit.openapi import document
from tests.registry.golden import compare

DOCS = Path(__file__).parents[2] / "docs" / "openapi"


@pytest.mark.parametrize("name", SERVICES)
def test_documents_are_current(name: str) -> None:
    service = load_services((name,))[name]
    compare(DOCS / f"{name}.json", json.loads(json.dumps(document(service))))


@pytest.mark.parametrize("name", SERVICES)
def test_what_documents_refer_to_is_in_them(name: str) -> None:
    found = document(load_services((name,))[name])
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(found)))
    assert named and not named - set(found["components"]["schemas"])
