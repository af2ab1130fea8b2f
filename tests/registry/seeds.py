"""Something of everything, made through the APIs as the user demo (and admin where it must be)."""

from __future__ import annotations

from typing import Any

from altostack.inprocess import InProcessCloud


def seed(cloud: InProcessCloud) -> dict[str, str]:
    """Path parameter -> an id (or name) that is there."""
    demo, admin = cloud.token("demo"), cloud.token("admin")
    found: dict[str, str] = {"host": "node-1", "name": "image", "schema_name": "image"}
    found |= {"namespace": "OS::Compute::Watchdog", "property_name": "watchdog_action"}
    found |= {"resource_type": "OS::Glance::Image", "store_id": "files"}

    def make(
        service: str, path: str, body: dict[str, Any], token: str = demo, version: str | None = None
    ) -> Any:
        answer = cloud.client(service).call("POST", path, body, token=token, version=version)
        return next(iter(answer.values())) if len(answer) == 1 else answer

    def first(service: str, path: str, kind: str, **match: str) -> dict[str, Any]:
        rows = cloud.client(service).call("GET", path, token=admin)[kind]
        return next(row for row in rows if all(row[k] == v for k, v in match.items()))  # type: ignore[no-any-return]  # JSON

    for kind, name in (("user", "demo"), ("project", "demo"), ("role", "member"), ("domain", "Default")):
        found[f"{kind}_id"] = first("identity", f"/v3/{kind}s", f"{kind}s", name=name)["id"]
    found["group_id"] = make("identity", "/v3/groups", {"group": {"name": "g"}}, admin)["id"]
    users = {name: first("identity", "/v3/users", "users", name=name)["id"] for name in ("demo", "admin")}
    stored = {"type": "cert", "blob": "b", "user_id": users["demo"]}
    found["credential_id"] = make("identity", "/v3/credentials", {"credential": stored})["id"]
    trust = {
        "trustor_user_id": users["demo"],
        "trustee_user_id": users["admin"],
        "impersonation": False,
        "project_id": found["project_id"],
        "roles": [{"id": found["role_id"]}],
    }
    found["trust_id"] = make("identity", "/v3/OS-TRUST/trusts", {"trust": trust})["id"]
    ec2 = {"tenant_id": found["project_id"]}
    found["access"] = make("identity", f"/v3/users/{users['demo']}/credentials/OS-EC2", ec2)["access"]
    consumer = make("identity", "/v3/OS-OAUTH1/consumers", {"consumer": {}}, admin)
    found["consumer_id"] = consumer["id"]
    found["service_id"] = first("identity", "/v3/services", "services", type="image")["id"]
    found["endpoint_id"] = first("identity", "/v3/endpoints", "endpoints", service_id=found["service_id"])[
        "id"
    ]
    found["region_id"] = "RegionOne"
    found["image_id"] = make(
        "image", "/v2/images", {"name": "i", "disk_format": "raw", "container_format": "bare"}
    )["id"]
    found["flavor_id"] = first("compute", "/v2.1/flavors", "flavors")["id"]
    found["keypair_name"] = make("compute", "/v2.1/os-keypairs", {"keypair": {"name": "k"}})["name"]
    found["network_id"] = make("network", "/v2.0/networks", {"network": {"name": "n"}})["id"]
    subnet = {"subnet": {"network_id": found["network_id"], "cidr": "10.9.0.0/24", "ip_version": 4}}
    found["subnet_id"] = make("network", "/v2.0/subnets", subnet)["id"]
    found["port_id"] = make("network", "/v2.0/ports", {"port": {"network_id": found["network_id"]}})["id"]
    found["router_id"] = make("network", "/v2.0/routers", {"router": {"name": "r"}})["id"]
    group = make("network", "/v2.0/security-groups", {"security_group": {"name": "s"}})
    found["security_group_id"] = group["id"]
    found["security_group_rule_id"] = group["security_group_rules"][0]["id"]
    found["volume_id"] = make("volume", "/v3/volumes", {"volume": {"size": 1, "name": "v"}})["id"]
    found["type_id"] = first("volume", "/v3/types", "volume_types")["id"]
    server = {
        "server": {
            "name": "s",
            "flavorRef": found["flavor_id"],
            "imageRef": found["image_id"],
            "networks": [{"port": found["port_id"]}],
        }
    }
    cloud.client("image").send(
        "PUT", f"/v2/images/{found['image_id']}/file", b"\0" * 4096, token=demo,
        headers={"Content-Type": "application/octet-stream"},
    ).read()  # fmt: skip
    cloud.settle()
    found["server_id"] = make("compute", "/v2.1/servers", server, version="2.1")["id"]
    snapshot = {"snapshot": {"volume_id": found["volume_id"], "name": "snap"}}
    found["snapshot_id"] = make("volume", "/v3/snapshots", snapshot)["id"]
    cloud.settle()
    return found
