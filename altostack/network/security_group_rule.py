"""Security group rules: what a group lets through, in or out. There is no "deny": what no rule names is dropped."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any

import sqlalchemy as sa

from altostack.kit.api import claim
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import Computed, Resource
from altostack.network import access, address
from altostack.network.bells import bells
from altostack.network.dialect import in_use, missing
from altostack.network.groups import version_up
from altostack.network.model import changed
from altostack.network.rows import Rule, SecurityGroup

# Names and numbers of the API reference (security group rules, "protocol"); numbers are IANA's.
PROTOCOLS = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "icmp": 1, "icmpv6": 58, "igmp": 2,
    "ip": 0, "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60,
    "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46, "sctp": 132, "tcp": 6, "udp": 17, "udplite": 136,
    "vrrp": 112,
}  # fmt: skip
_WITH_PORTS = frozenset({33, 132, 6, 17, 136})
_ONLY_V6 = frozenset(
    {"icmpv6", "ipv6-encap", "ipv6-frag", "ipv6-icmp", "ipv6-nonxt", "ipv6-opts", "ipv6-route"}
)
_SAME = ("direction", "ethertype", "port_range_min", "port_range_max", "remote_group_id")


def _protocol(value: str | int | None) -> str | None:
    """A protocol as it is stored: a known name, a number as text, or None for any."""
    if value is None or value in ("any", ""):
        return None
    text = str(value).lower()
    if text in PROTOCOLS or (text.isascii() and text.isdigit() and int(text) <= 255):
        return str(int(text)) if text.isdigit() else text
    raise BadRequest(
        f"Security group rule protocol {value} not supported. Only protocol values "
        f"{', '.join(['any', *PROTOCOLS])} and integer representations [0 to 255] are supported.",
        kind="SecurityGroupRuleInvalidProtocol", field="protocol",
    )  # fmt: skip


def _number(protocol: str | None) -> int | None:
    """The protocol's number; None for any."""
    if protocol is None:
        return None
    return int(protocol) if protocol.isdigit() else PROTOCOLS[protocol]


def _ethertype(value: str) -> str:
    for known in ("IPv4", "IPv6"):
        if value.lower() == known.lower():
            return known
    raise BadRequest(
        f"Security group rule for ethertype '{value}' not supported. Allowed values are IPv4 and IPv6.",
        kind="SecurityGroupRuleInvalidEtherType", field="ethertype",
    )  # fmt: skip


def _remote_prefix(value: str | None, ethertype: str) -> str | None:
    if not value:
        return None
    try:
        found = ipaddress.ip_interface("" if "%" in value else value)
    except ValueError as error:
        raise BadRequest(
            f"Invalid CIDR {value} given as IP prefix.", kind="InvalidCIDR", field="remote_ip_prefix"
        ) from error
    if f"IPv{found.version}" != ethertype:
        raise BadRequest(
            f"Conflicting value ethertype {ethertype} for CIDR {value}",
            kind="SecurityGroupRuleParameterConflict", field="remote_ip_prefix",
        )  # fmt: skip
    return str(found)


def _check(fields: dict[str, Any]) -> None:
    """Bring the attributes to their stored form. Raises BadRequest for what cannot be together."""
    if fields["direction"] not in ("ingress", "egress"):
        raise address.bad("direction", f"'{fields['direction']}' is not in ['ingress', 'egress']")
    ethertype = fields["ethertype"] = _ethertype(fields.get("ethertype", "IPv4"))
    protocol = fields["protocol"] = _protocol(fields.get("protocol"))
    if ethertype == "IPv4" and protocol in _ONLY_V6:
        raise BadRequest(
            f"Invalid ethertype {ethertype} for protocol {protocol}.", field="ethertype",
            kind="SecurityGroupEthertypeConflictWithProtocol",
        )  # fmt: skip
    fields["remote_ip_prefix"] = _remote_prefix(fields.get("remote_ip_prefix"), ethertype)
    if fields["remote_ip_prefix"] and fields.get("remote_group_id"):
        raise BadRequest(
            "Only one of remote_ip_prefix or remote_group_id may be provided.",
            kind="SecurityGroupMultipleRemoteEntites", field="remote_group_id",
        )  # fmt: skip
    _check_ports(protocol, fields.get("port_range_min"), fields.get("port_range_max"))


def _check_ports(protocol: str | None, low: int | None, high: int | None) -> None:
    for name, value in (("port_range_min", low), ("port_range_max", high)):
        if value is not None and not 0 <= value <= 65_535:
            raise BadRequest(
                f"Invalid value for port {value}", kind="SecurityGroupInvalidPortValue", field=name
            )
    if low is None and high is None:
        return
    number = _number(protocol)
    if number is None:
        raise BadRequest(
            "Must also specify protocol if port range is given.",
            kind="SecurityGroupProtocolRequiredWithPorts", field="protocol",
        )  # fmt: skip
    if number in (1, 58):
        _check_icmp(low, high)
    elif number in _WITH_PORTS:
        if low is None or high is None or low > high or (low == 0 and high == 0):
            raise BadRequest(
                "For TCP/UDP protocols, port_range_min must be <= port_range_max",
                kind="SecurityGroupInvalidPortRange", field="port_range_min",
            )  # fmt: skip
    else:
        raise BadRequest(
            f"Ports cannot be specified for protocol {protocol}. Ports are only supported for "
            "dccp, sctp, tcp, udp, udplite.", kind="SecurityGroupInvalidProtocolForPort", field="port_range_min",
        )  # fmt: skip


def _check_icmp(kind: int | None, code: int | None) -> None:
    """For ICMP the range holds type and code."""
    for name, field, value in (("port_range_min", "type", kind), ("port_range_max", "code", code)):
        if value is not None and value > 255:
            raise BadRequest(
                f"Invalid value for ICMP {field} ({name}) {value}. It must be 0 to 255.",
                kind="SecurityGroupInvalidIcmpValue", field=name,
            )  # fmt: skip
    if kind is None and code is not None:
        raise BadRequest(
            f"ICMP code (port-range-max) {code} is provided but ICMP type (port-range-min) is missing.",
            kind="SecurityGroupMissingIcmpType", field="port_range_min",
        )  # fmt: skip


def normalized(rule: Rule) -> str | None:
    """The remote prefix without its host bits."""
    if not rule.remote_ip_prefix:
        return None
    return str(ipaddress.ip_interface(rule.remote_ip_prefix).network)


def _key(rule: Rule) -> tuple[Any, ...]:
    """What two rules must not have in common."""
    prefix = normalized(rule)
    anywhere = prefix in (None, "0.0.0.0/0", "::/0")
    same = tuple(getattr(rule, name) for name in _SAME)
    return (*same, _number(rule.protocol), None if anywhere else prefix)


def _group(call: Call, key: str) -> SecurityGroup:
    """The group that a rule is for, locked. Raises NotFound unless the caller may see it."""
    query = sa.select(SecurityGroup).where(SecurityGroup.id == key)
    if not call.allows("get_security_group:all"):
        query = query.where(SecurityGroup.project_id == call.context.project_id)
    if call.runtime.db.dialect != "sqlite":
        query = query.with_for_update()
    group = call.session.execute(query.execution_options(populate_existing=True)).scalars().first()
    if group is None:
        raise missing("security_group", key)
    return group


def _create(call: Call, fields: dict[str, Any]) -> Rule:
    project = access.project(call, fields)
    _check(fields)
    group = _group(call, fields["security_group_id"])
    call.require(
        "create_security_group_rule",
        access.scope(call, project, **{"security_group:project_id": group.project_id}),
    )
    remote = fields.get("remote_group_id")
    if remote is not None and remote != group.id:
        _group(call, remote)
    rule = Rule(id=str(uuid.uuid4()), project_id=group.project_id, **fields)
    for other in group.rules:
        if _key(other) == _key(rule):
            raise in_use(
                "SecurityGroupRuleExists", f"Security group rule already exists. Rule id is {other.id}."
            )
    claim(call, RULES, [rule])
    call.session.add(rule)
    _rules_changed(call, group)
    return rule


def _delete(call: Call, rule: Rule) -> None:
    group = _group(call, rule.security_group_id)
    call.session.delete(rule)
    _rules_changed(call, group)


def _rules_changed(call: Call, group: SecurityGroup) -> None:
    changed(group)
    call.session.flush()
    version_up(call.session, group.id)
    call.session.expire(group)
    bells(call).groups([group.id])


RULES = Resource(
    row=Rule,
    name="security_group_rule",
    path="/security-group-rules",
    owner=Rule.project_id,
    policy={
        "list": READER,
        "show": READER,
        "create": access.SG_MEMBER,
        "delete": MEMBER,
    },
    create=_create,
    delete=_delete,
    inputs={"tenant_id": str, "protocol": str | int | None},
    computed={
        "tenant_id": Computed(get=lambda call, row: row.project_id),
        "normalized_cidr": Computed(get=lambda call, row: normalized(row)),
    },
    filters={**access.filters(Rule)},
    quota={"security_group_rule": 1},
    bulk=True,
    default_sort=(("created_at", False),),
)
