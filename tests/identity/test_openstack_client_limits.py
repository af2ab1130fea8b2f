"""The unmodified openstack client on limits, endpoint groups, policies and users' passwords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from altostack.inprocess import InProcessCloud

pytest.importorskip("openstackclient")

from tests.identity.test_openstack_client import cloud, run

__all__ = ["cloud"]  # the fixture

SCRIPT = """
service create --name alpha thing -f json
endpoint create alpha public http://one --region RegionOne -f json
endpoint create alpha internal http://two --region RegionOne -f json
project create p1 -f json
registered limit create --service alpha --default-limit 10 --region RegionOne widgets -f json
registered limit list -f json
limit create --service alpha --project p1 --resource-limit 7 --region RegionOne widgets -f json
limit list --project p1 -f json
endpoint group create --description d eg1 FILTERS -f json
endpoint group list -f json
endpoint group set --description e eg1
endpoint group show eg1 -f json
endpoint group add project eg1 p1
endpoint group list --project p1 -f json
endpoint list --project p1 -f json
endpoint group remove project eg1 p1
endpoint group delete eg1
policy create --type application/json BLOB -f json
policy list --long -f json
user password set --original-password ORIGINAL --password another-one
""".strip()


def test_a_tour(cloud: InProcessCloud, tmp_path: Path) -> None:
    (tmp_path / "filters.json").write_text('{"interface": "public", "region_id": "RegionOne"}')
    (tmp_path / "blob.json").write_text('{"admin": "role:admin"}')
    script = SCRIPT.replace("FILTERS", str(tmp_path / "filters.json")).replace(
        "BLOB", str(tmp_path / "blob.json")
    )
    lines = script.replace("ORIGINAL", cloud.passwords["admin"]).splitlines()
    person = {
        "OS_USERNAME": "admin", "OS_PASSWORD": cloud.passwords["admin"], "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default",
    }  # fmt: skip
    found = run(cloud, cloud.serve(), lines, tmp_path, **person)
    asked = [line.split(" -f json")[0] for line in SCRIPT.splitlines() if line.endswith("-f json")]
    assert len(found) == len(asked), (len(found), len(asked))
    said: dict[str, Any] = dict(zip(asked, found, strict=True))
    (registered,) = said["registered limit list"]
    assert (registered["Resource Name"], registered["Default Limit"]) == ("widgets", 10)
    (limit,) = said["limit list --project p1"]
    assert (limit["Resource Name"], limit["Resource Limit"]) == ("widgets", 7)
    assert said["endpoint group show eg1"]["description"] == "e"
    assert [row["Name"] for row in said["endpoint group list --project p1"]] == ["eg1"]
    (policy,) = said["policy list --long"]
    assert policy["Rules"] == '{"admin": "role:admin"}'
    person["OS_PASSWORD"] = "another-one"
    (token,) = run(cloud, cloud.serve(), ["token issue -f json"], tmp_path, **person)
    assert token["id"]
