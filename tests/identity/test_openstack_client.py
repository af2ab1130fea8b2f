"""The unmodified openstack client against the service on a loopback port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.inprocess import InProcessCloud

openstackclient = pytest.importorskip("openstackclient")

# Every command whose name ends in create, list, show, issue or contains prints JSON; the others print nothing.
SCRIPT = """
token issue -f json
catalog list -f json
domain create --description dd d1 -f json
domain list -f json
domain set --description other d1
domain show d1 -f json
project create --domain default --description pp --tag t1 p1 -f json
project create --domain default --parent p1 p2 -f json
project show p1 --children -f json
project set --description qq --tag t3 p1
project list --tags t3 -f json
user create --domain default --password pw --email a@b --description hi --project p1 u1 -f json
user set --email c@d --disable u1
user set --enable --password other u1
user show u1 -f json
user list --long -f json
group create --domain default --description gg g1 -f json
group set --description hh g1
group show g1 -f json
group add user g1 u1
group contains user g1 u1
user list --group g1 -f json
group remove user g1 u1
group add user g1 u1
group list -f json
role create r1 -f json
role set --description rr r1
role show r1 -f json
role list -f json
role add --user u1 --project p1 r1
role add --group g1 --project p1 member
role add --user u1 --domain d1 reader
role add --user u1 --system all reader
role add --user u1 --project p1 --inherited reader
role assignment list --names -f json
role assignment list --names --user u1 --effective -f json
role remove --user u1 --project p1 r1
role assignment list --names --role r1 -f json
implied role create r1 --implied-role reader -f json
implied role list -f json
implied role delete r1 --implied-role reader
service create --name svc --description sss thing -f json
service set --disable svc
service set --enable svc
service show svc -f json
service list --long -f json
region create --description rr R2 -f json
region set --description r3 R2
region list -f json
endpoint create --region R2 svc public http://x/%(project_id)s -f json
endpoint list --service svc -f json
application credential create --role member --unrestricted ac1 -f json
application credential list -f json
application credential show ac1 -f json
application credential delete ac1
service delete svc
region delete R2
role delete r1
group delete g1
user delete u1
project delete p2
project delete p1
domain set --disable d1
domain delete d1
user list -f json
""".strip().splitlines()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[InProcessCloud]:
    cloud = InProcessCloud(
        tmp_path, services=("identity",), hosts=(), settings={"identity": {"password_rounds": 4}}
    )
    yield cloud
    cloud.stop()


def run(cloud: InProcessCloud, url: str, script: list[str], folder: Path, **more: str) -> list[Any]:
    """Run commands in one client; the JSON documents that it printed, in order."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    environ = kept | {"OS_AUTH_URL": url, "OS_IDENTITY_API_VERSION": "3", "HOME": str(folder)} | more
    client = Path(sys.executable).with_name("openstack")
    done = subprocess.run(
        [client], input="\n".join(script), capture_output=True, text=True, env=environ, cwd=folder, timeout=90
    )
    # The interactive client ends with 1 whatever happened; every trouble goes to stderr.
    assert not done.stderr.strip(), done.stderr + done.stdout[-500:]
    decoder, found, text = json.JSONDecoder(), [], done.stdout
    while (start := min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)) >= 0:
        value, end = decoder.raw_decode(text, start)
        found.append(value)
        text = text[end:]
    return found


def test_a_tour(cloud: InProcessCloud, tmp_path: Path) -> None:
    person = {
        "OS_USERNAME": "admin", "OS_PASSWORD": cloud.passwords["admin"], "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default",
    }  # fmt: skip
    found = run(cloud, cloud.serve(), SCRIPT, tmp_path, **person)
    asked = [line.removesuffix(" -f json") for line in SCRIPT if line.endswith("-f json")]
    assert len(found) == len(asked), (len(found), len(asked))
    said: dict[str, Any] = dict(zip(asked, found, strict=True))
    assert said["domain show d1"]["description"] == "other"
    child = said["project create --domain default --parent p1 p2"]["id"]
    assert said["project show p1 --children"]["subtree"] == {child: None}
    assert [project["Name"] for project in said["project list --tags t3"]] == ["p1"]
    user = said["user show u1"]
    assert (user["email"], user["description"], user["enabled"]) == ("c@d", "hi", True)
    assert [one["Name"] for one in said["user list --group g1"]] == ["u1"]
    assert said["group show g1"]["description"] == "hh" and said["role show r1"]["description"] == "rr"
    granted = {
        (
            one["Role"],
            one["User"] or one["Group"],
            one["Project"] or one["Domain"] or one["System"],
            one["Inherited"],
        )
        for one in said["role assignment list --names"]
    }
    assert {
        ("r1", "u1@Default", "p1@Default", False),
        ("member", "g1@Default", "p1@Default", False),
        ("reader", "u1@Default", "d1", False),
        ("reader", "u1@Default", "all", False),
        ("reader", "u1@Default", "p1@Default", True),
        ("admin", "admin@Default", "admin@Default", False),
    } <= granted
    effective = {
        (o["Role"], o["Project"]) for o in said["role assignment list --names --user u1 --effective"]
    }
    assert {("reader", "p2@Default"), ("member", "p1@Default")} <= effective
    assert said["role assignment list --names --role r1"] == []
    assert said["service show svc"]["enabled"] is True
    assert [one["URL"] for one in said["endpoint list --service svc"]] == ["http://x/%(project_id)s"]
    assert said["application credential create --role member --unrestricted ac1"]["Secret"]
    assert {one["Name"] for one in said["user list"]} == {"admin", "demo", "identity"}


def test_a_program_logs_in_with_its_credential(cloud: InProcessCloud, tmp_path: Path) -> None:
    admin, identity = cloud.token("admin"), cloud.client("identity")
    user = identity.call("GET", "/v3/users", query={"name": "admin"}, token=admin)["users"][0]["id"]
    body = {"application_credential": {"name": "program"}}
    path = f"/v3/users/{user}/application_credentials"
    made = identity.call("POST", path, body, token=admin)["application_credential"]
    found = run(
        cloud, cloud.serve(), ["project list -f json"], tmp_path, OS_AUTH_TYPE="v3applicationcredential",
        OS_APPLICATION_CREDENTIAL_ID=made["id"], OS_APPLICATION_CREDENTIAL_SECRET=made["secret"],
    )  # fmt: skip
    assert {one["Name"] for one in found[0]} == {"admin", "demo", "service"}
