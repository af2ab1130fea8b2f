"""What the service says of itself: its version documents, and the extensions of the API that are built here."""

from __future__ import annotations

from typing import Any

from altostack.kit.call import Call
from altostack.kit.errors import NotFound
from altostack.kit.policy import ANY, PUBLIC
from altostack.kit.route import Route

# alias, name, when the API gained it, what it means here (https://docs.openstack.org/api-ref/network/v2/, extensions)
_BUILT = (
    ("agent", "agent", "2013-02-03", "Nodes are listed as agents."),
    ("allowed-address-pairs", "Allowed Address Pairs", "2013-07-23", "Ports may send from further addresses."),
    ("availability_zone", "Availability Zone", "2015-01-01", "The zones that nodes are in."),
    ("binding", "Port Binding", "2014-02-03", "Which node a port is on, and how a guest is plugged in."),
    ("empty-string-filtering", "Empty String Filtering Extension", "2018-05-01", "Lists filter by empty values."),
    ("ext-gw-mode", "Neutron L3 Configurable external gateway mode", "2013-03-28", "SNAT can be switched off."),
    ("external-net", "Neutron external network", "2013-01-14", "Networks may lead out of the cloud."),
    ("extra_dhcp_opt", "Neutron Extra DHCP options", "2013-03-17", "Ports may be given further DHCP options."),
    ("extraroute", "Neutron Extra Route", "2013-02-01", "Routers take static routes."),
    ("filter-validation", "Filter parameters validation", "2018-07-04", "Unknown filters are refused."),
    ("fip-port-details", "Floating IP Port Details Extension", "2018-04-09", "Floating IPs show their port."),
    ("ip-substring-filtering", "IP address substring filtering", "2017-11-28", "Ports by part of an address."),
    ("net-mtu", "Network MTU", "2015-03-25", "Networks show their MTU."),
    ("net-mtu-writable", "Network MTU (writable)", "2017-07-12", "A network's MTU can be chosen."),
    ("pagination", "Pagination support", "2016-06-12", "Lists come in pages."),
    ("port-security", "Port Security", "2012-07-23", "Filtering can be switched off for a port or a network."),
    ("port-security-groups-filtering", "Port filtering on security groups", "2018-01-09",
     "Ports by security group."),
    ("project-id", "project_id field enabled", "2016-09-09", "Resources show project_id."),
    ("provider", "Provider Network", "2012-09-07", "How a network is carried."),
    ("quota-check-limit", "Quota engine limit check", "2021-09-08", "Limits below the use are refused."),
    ("quota_details", "Quota details management support", "2017-02-10", "Quotas with their use."),
    ("quotas", "Quota management support", "2012-07-29", "Limits per project."),
    ("router", "Neutron L3 Router", "2012-07-20", "Routers and floating IPs."),
    ("security-group", "security-group", "2012-10-05", "Security groups and their rules."),
    ("security-groups-normalized-cidr", "Normalized CIDR field for security group rules", "2020-07-28",
     "Rules show their prefix without host bits."),
    ("sort-key-validation", "Sort keys validation", "2018-07-04", "Unknown sort keys are refused."),
    ("sorting", "Sorting support", "2016-06-12", "Lists are sorted as asked."),
    ("standard-attr-description", "standard-attr-description", "2016-02-10", "Resources have a description."),
    ("standard-attr-revisions", "Resource revision numbers", "2016-04-11", "Resources count their changes."),
    ("standard-attr-tag", "Tag support for resources with standard attribute", "2017-01-01",
     "Networks, subnets, ports, routers, floating IPs and security groups carry tags."),
    ("standard-attr-timestamp", "Resource timestamps", "2016-09-12", "Resources tell when they changed."),
    ("stateful-security-group", "Stateful security group", "2019-11-26", "Groups may be stateless."),
    ("subnet-external-network", "Subnet belongs to an external network", "2024-02-05",
     "Subnets show whether their network is external."),
)  # fmt: skip


def _extension(entry: tuple[str, str, str, str]) -> dict[str, Any]:
    alias, name, since, text = entry
    return {
        "alias": alias, "name": name, "description": text, "updated": f"{since}T00:00:00-00:00", "links": [],
    }  # fmt: skip


def _list(call: Call) -> Any:
    return {"extensions": [_extension(entry) for entry in _BUILT]}


def _show(call: Call) -> Any:
    for entry in _BUILT:
        if entry[0] == call.params["alias"]:
            return {"extension": _extension(entry)}
    raise NotFound(f"Extension with alias {call.params['alias']} does not exist", field="alias")


def _versions(call: Call) -> Any:
    link = {"rel": "self", "href": f"{call.runtime.root_url}/"}
    return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}


def _resources(call: Call) -> Any:
    core = (("network", "networks"), ("subnet", "subnets"), ("port", "ports"))
    return {
        "resources": [
            {"name": name, "collection": plural, "links": [{"rel": "self", "href": call.link(f"/{plural}")}]}
            for name, plural in core
        ]
    }


ROUTES = (
    Route(method="GET", path="//", handler=_versions, policy=PUBLIC),
    Route(method="GET", path="/", handler=_resources, policy=ANY),
    Route(method="GET", path="/extensions", handler=_list, policy=ANY),
    Route(method="GET", path="/extensions/{alias}", handler=_show, policy=ANY),
)
