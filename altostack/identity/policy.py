"""Policies kept for other services, and for which endpoint each is meant. Source: Identity API v3, OS-ENDPOINT-POLICY.

An endpoint's policy is the one of the endpoint itself, else of its service in its region or the nearest region above
that has one, else of its service.
"""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from altostack.identity import rules
from altostack.identity.audit import created, deleted, updated
from altostack.identity.catalog import ENDPOINTS, REGIONS, SERVICES, Endpoint, Region
from altostack.identity.common import capped, existing, peek, same, self_link
from altostack.identity.dialect import collection
from altostack.identity.model import Extra, IdentityRow
from altostack.kit.api import add, view
from altostack.kit.call import Call
from altostack.kit.errors import NotFound
from altostack.kit.resource import Resource, field, key
from altostack.kit.route import Route


class StoredPolicy(Extra, IdentityRow):
    __tablename__ = "policies"
    noun = "policy"
    id: Mapped[str] = key()
    type: Mapped[str] = field(required=True, update=True, filter=True, sort=True, max_length=255)
    blob: Mapped[str] = field(required=True, update=True, max_length=65_536)


class PolicyAssociation(IdentityRow):
    """At most one a target, which is an endpoint, a service, or a service in a region; ``id`` is made from it."""

    __tablename__ = "policy_associations"
    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    policy_id: Mapped[str] = mapped_column(
        sa.String(64), sa.ForeignKey("policies.id", ondelete="CASCADE"), index=True
    )
    endpoint_id: Mapped[str | None] = mapped_column(
        sa.String(64), sa.ForeignKey("endpoints.id", ondelete="CASCADE"), index=True
    )
    service_id: Mapped[str | None] = mapped_column(
        sa.String(64), sa.ForeignKey("services.id", ondelete="CASCADE"), index=True
    )
    region_id: Mapped[str | None] = mapped_column(
        sa.String(255), sa.ForeignKey("regions.id", ondelete="CASCADE"), index=True
    )


def _key(*, endpoint_id: str = "", service_id: str = "", region_id: str = "") -> str:
    return hashlib.blake2b(
        "\0".join((endpoint_id, service_id, region_id)).encode(), digest_size=32
    ).hexdigest()


@created
def create(call: Call, fields: dict[str, Any]) -> StoredPolicy:
    row: StoredPolicy = add(call, POLICIES, StoredPolicy(**fields))
    return row


@updated
def update(call: Call, row: StoredPolicy, fields: dict[str, Any]) -> None:
    same(call, id=row.id)
    for attr, value in fields.items():
        setattr(row, attr, value)


@deleted
def delete(call: Call, row: StoredPolicy) -> None:
    call.session.delete(row)


POLICIES = Resource(
    row=StoredPolicy,
    name="policy",
    plural="policies",
    parent=capped,
    policy=rules.CATALOG,
    create=create,
    update=update,
    delete=delete,
    extra="extra",
    computed={"links": self_link("/policies")},
    default_sort=(("type", False),),
    doc="A policy that the cloud keeps for another service.",
)

_TARGETS: dict[str, Resource] = {"endpoint_id": ENDPOINTS, "service_id": SERVICES, "region_id": REGIONS}


def _named(call: Call) -> tuple[StoredPolicy, dict[str, str]]:
    """The policy and the target that the path names. Raises Forbidden, then NotFound."""
    call.require(call.route.policy)
    policy = existing(
        call, POLICIES, peek(call, POLICIES, call.params["policy_id"]), call.params["policy_id"]
    )
    target = {name: call.params[name] for name in _TARGETS if name in call.params}
    for name, value in target.items():
        existing(call, _TARGETS[name], peek(call, _TARGETS[name], value), value)
    return policy, target


def _held(call: Call) -> PolicyAssociation:
    policy, target = _named(call)
    row = call.session.get(PolicyAssociation, _key(**target))
    if row is None or row.policy_id != policy.id:
        raise NotFound(f"The policy {policy.id} is not associated with {' in '.join(target.values())}.")
    return row


def check(call: Call) -> None:
    _held(call)


def associate(call: Call) -> None:
    """The target's earlier policy, if it had one, gives way."""
    policy, target = _named(call)
    row = call.session.get(PolicyAssociation, _key(**target))
    if row is None:
        call.session.add(PolicyAssociation(id=_key(**target), policy_id=policy.id, **target))
    else:
        row.policy_id = policy.id


def dissociate(call: Call) -> None:
    call.session.delete(_held(call))


def policy_of(session: Session, endpoint: Endpoint) -> str | None:
    """The id of the policy that counts for an endpoint, or None."""

    def of(**target: str) -> str | None:
        row = session.get(PolicyAssociation, _key(**target))
        return None if row is None else row.policy_id

    found = of(endpoint_id=endpoint.id)
    region, seen = endpoint.region_id, set[str]()
    while found is None and region is not None and region not in seen:
        seen.add(region)
        found = of(service_id=endpoint.service_id, region_id=region)
        row = session.get(Region, region)
        region = None if row is None else row.parent_region_id
    return found if found is not None else of(service_id=endpoint.service_id)


def show_for_endpoint(call: Call) -> Any:
    call.require(call.route.policy)
    key = call.params["endpoint_id"]
    endpoint = existing(call, ENDPOINTS, peek(call, ENDPOINTS, key), key)
    policy_id = policy_of(call.session, endpoint)
    if policy_id is None:
        raise NotFound(f"No policy is associated with endpoint {endpoint.id}.")
    return {"policy": view(call, POLICIES, call.session.get(StoredPolicy, policy_id))}


def list_endpoints(call: Call) -> Any:
    """The endpoints that the policy's associations reach; one may have a nearer policy."""
    policy, _ = _named(call)
    query = sa.select(PolicyAssociation).where(PolicyAssociation.policy_id == policy.id)
    associations = list(call.session.execute(query).scalars())
    above = dict(call.session.execute(sa.select(Region.id, Region.parent_region_id)).all())

    def reached(endpoint: Endpoint) -> bool:
        regions, region = set[str | None]([None]), endpoint.region_id
        while region not in regions:
            regions.add(region)
            region = above.get(str(region))
        return any(
            one.endpoint_id == endpoint.id
            if one.endpoint_id is not None
            else one.service_id == endpoint.service_id and one.region_id in regions
            for one in associations
        )

    every = call.session.execute(sa.select(Endpoint).order_by(Endpoint.service_id, Endpoint.id)).scalars()
    found = [view(call, ENDPOINTS, endpoint, op="list") for endpoint in every if reached(endpoint)]
    return collection(call, "endpoints", found)


_ROOT = "/policies/{policy_id}/OS-ENDPOINT-POLICY"
POLICY_ROUTES = (
    Route(
        method="GET", path="/endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy", handler=show_for_endpoint,
        guard=False, policy="identity:get_policy_for_endpoint", check=rules.CLOUD_READER,
    ),
    Route(
        method="GET", path=f"{_ROOT}/endpoints", handler=list_endpoints, guard=False,
        policy="identity:list_endpoints_for_policy", check=rules.CLOUD_READER,
    ),
    *(
        Route(
            method=method, path=f"{_ROOT}{path}", handler=handler, guard=False, status=204,
            policy=f"identity:{word}_policy_association_for_{name}",
            check=rules.CLOUD_READER if method == "GET" else rules.CLOUD_ADMIN,
        )
        for path, name in (
            ("/endpoints/{endpoint_id}", "endpoint"),
            ("/services/{service_id}", "service"),
            ("/services/{service_id}/regions/{region_id}", "region_and_service"),
        )
        for method, handler, word in (
            ("GET", check, "check"), ("PUT", associate, "create"), ("DELETE", dissociate, "delete"),
        )
    ),
)  # fmt: skip
