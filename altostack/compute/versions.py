"""The microversions that are spoken, one line each. Source: the Compute API reference, "REST API version history".

Only what is built changes with them; versions that touch nothing that is built are spoken all the same.
"""

from __future__ import annotations

from typing import Any

from altostack.kit.call import Call
from altostack.kit.errors import NotFound
from altostack.kit.policy import PUBLIC
from altostack.kit.route import Route
from altostack.kit.versions import Ladder, Version

LOW, HIGH = Version(2, 1), Version(2, 104)

STEPS = {
    "2.2": "key pairs have a type; creating one answers 201, deleting one 204",
    "2.3": "more extended server attributes; delete_on_termination of volumes",
    "2.5": "the filter ip6 is for everybody",
    "2.6": "remote-consoles replaces the actions that got consoles",
    "2.7": "access to a public flavor cannot be given: 409",
    "2.9": "locked",
    "2.10": "key pairs of other users, for administrators",
    "2.11": "services can be forced down",
    "2.13": "server groups show project and user",
    "2.15": "soft affinity and anti-affinity",
    "2.16": "host_status",
    "2.19": "description",
    "2.21": "actions of deleted servers",
    "2.23": "migrations have a type",
    "2.26": "tags",
    "2.28": "cpu_info of a hypervisor is an object",
    "2.32": "devices can be tagged (networks until 2.36, disks in 2.32 alone, both again since 2.42)",
    "2.33": "hypervisors are paged",
    "2.35": "key pairs are paged",
    "2.36": "what only passed requests to other services is gone",
    "2.37": "networks is required and may be auto or none",
    "2.38": "a status that does not exist is a 400",
    "2.39": "maxImageMeta is gone from limits",
    "2.40": "usage is paged",
    "2.41": "aggregates have a uuid",
    "2.43": "os-hosts is gone",
    "2.44": "os-virtual-interfaces and the fixed and floating IP actions are gone",
    "2.45": "createImage answers image_id in its body",
    "2.46": "the request id is also in X-OpenStack-Request-ID",
    "2.47": "a server shows its flavor's facts instead of its id",
    "2.48": "diagnostics have one form",
    "2.49": "attached devices can be tagged",
    "2.50": "quota classes name server groups",
    "2.51": "volume-extended; events of an action are for its owner",
    "2.52": "tags when creating",
    "2.53": "services and hypervisors are named by uuid",
    "2.54": "key_name when rebuilding",
    "2.55": "flavors have a description",
    "2.57": "personality is gone; user_data when rebuilding",
    "2.58": "actions are paged",
    "2.59": "migrations are paged and have a uuid",
    "2.60": "volumes can be attached to several servers",
    "2.61": "flavors show their extra specs",
    "2.62": "an action's events show the host",
    "2.63": "trusted image certificates",
    "2.64": "server groups have one policy and rules",
    "2.66": "changes-before",
    "2.67": "volume_type of disks that are made",
    "2.70": "tags of attachments are shown",
    "2.71": "server_groups of a server",
    "2.73": "a reason for locking",
    "2.74": "a host can be asked for by name",
    "2.75": "unknown query parameters are refused; all answers about a server are alike",
    "2.76": "power-update",
    "2.79": "delete_on_termination of an attachment",
    "2.80": "migrations show user and project",
    "2.83": "more filters are for everybody",
    "2.84": "details of failed events",
    "2.85": "delete_on_termination can be changed",
    "2.86": "extra specs are validated",
    "2.88": "hypervisors lose figures that belong to placement; statistics are gone",
    "2.89": "attachments show attachment_id and bdm_uuid",
    "2.90": "hostname can be set",
    "2.92": "key pairs are only imported",
    "2.94": "hostname may be a full domain name",
    "2.96": "pinned_availability_zone",
    "2.98": "image properties of a server",
    "2.99": "the console validation refuses unknown parameters",
    "2.100": "scheduler_hints of a server",
    "2.101": "attaching a volume answers 202 and nothing else",
    "2.102": "flavors lose rxtx_factor and disabled; all queries are strict",
    "2.103": "os-volumes_boot is gone",
    "2.104": "pinned_availability_zone can be changed",
}

LADDER = Ladder(service="compute", low=LOW, high=HIGH, legacy="X-OpenStack-Nova-API-Version", steps=STEPS)


def _version(call: Call) -> dict[str, Any]:
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": str(HIGH),
        "min_version": str(LOW),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": call.runtime.root_url + "/"}],
    }


def index(call: Call) -> dict[str, Any]:
    """Every version of the API: there is one."""
    return {"versions": [_version(call)]}


def show(call: Call) -> dict[str, Any]:
    """The version at this root."""
    found = _version(call)
    found["links"].append(
        {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/api-ref/compute/"}
    )
    found["media-types"] = [
        {"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}
    ]
    return {"version": found}


# ---- extensions: what older clients ask for, all of it long part of the API

EXTENSIONS = {
    "os-admin-actions": "AdminActions",
    "os-aggregates": "Aggregates",
    "os-attach-interfaces": "AttachInterfaces",
    "os-availability-zone": "AvailabilityZone",
    "os-config-drive": "ConfigDrive",
    "os-console-output": "ConsoleOutput",
    "os-extended-availability-zone": "ExtendedAvailabilityZone",
    "os-extended-server-attributes": "ExtendedServerAttributes",
    "os-extended-status": "ExtendedStatus",
    "os-extended-volumes": "ExtendedVolumes",
    "os-flavor-access": "FlavorAccess",
    "os-flavor-extra-specs": "FlavorExtraSpecs",
    "os-flavor-manage": "FlavorManage",
    "os-hypervisors": "Hypervisors",
    "os-instance-actions": "InstanceActions",
    "os-keypairs": "Keypairs",
    "os-lock-server": "LockServer",
    "os-multiple-create": "MultipleCreate",
    "os-pause-server": "PauseServer",
    "os-quota-sets": "Quotas",
    "os-remote-consoles": "Consoles",
    "os-scheduler-hints": "SchedulerHints",
    "os-security-groups": "SecurityGroups",
    "os-server-diagnostics": "ServerDiagnostics",
    "os-server-external-events": "ServerExternalEvents",
    "os-server-groups": "ServerGroups",
    "os-server-usage": "ServerUsage",
    "os-services": "Services",
    "os-simple-tenant-usage": "SimpleTenantUsage",
    "os-suspend-server": "SuspendServer",
    "os-user-data": "UserData",
    "os-volumes": "Volumes",
}


def _extension(alias: str) -> dict[str, Any]:
    return {
        "alias": alias, "description": "", "links": [], "name": EXTENSIONS[alias],
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml", "updated": "2014-12-03T00:00:00Z",
    }  # fmt: skip


def extensions(call: Call) -> dict[str, Any]:
    return {"extensions": [_extension(alias) for alias in sorted(EXTENSIONS)]}


def extension(call: Call) -> dict[str, Any]:
    alias = call.params["alias"]
    if alias not in EXTENSIONS:
        raise NotFound(f"No extension is known by the alias {alias}.", field="alias")
    return {"extension": _extension(alias)}


_EXTENSIONS = "os_compute_api:extensions"
ROUTES = (
    Route(method="GET", path="//", handler=index, policy=PUBLIC),
    Route(method="GET", path="/", handler=show, policy=PUBLIC),
    Route(method="GET", path="/extensions", handler=extensions, policy=_EXTENSIONS, check="@"),
    Route(method="GET", path="/extensions/{alias}", handler=extension, policy=_EXTENSIONS, check="@"),
)
