"""Domains: the namespaces of users, groups and projects."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped

from altostack.identity import rules
from altostack.identity.audit import created, deleted, updated
from altostack.identity.common import (
    DEFAULT_DOMAIN,
    WORD,
    bump,
    capped,
    changeable,
    deletable,
    free,
    in_scope,
    options,
    same,
    self_link,
)  # fmt: skip
from altostack.identity.dialect import inexact
from altostack.identity.model import Extra, IdentityRow, Worth
from altostack.identity.tags import check_tags
from altostack.kit.api import add
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Forbidden
from altostack.kit.resource import Resource, field, key


class Domain(Extra, Worth, IdentityRow):
    __tablename__ = "domains"
    noun = "domain"
    id: Mapped[str] = key()
    name: Mapped[str] = field(
        required=True, update=True, filter=True, sort=True, ge=1, max_length=64, pattern=WORD, unique=True
    )
    description: Mapped[str | None] = field(create=True, update=True, default="", max_length=255)
    enabled: Mapped[bool] = field(create=True, update=True, filter=True, sort=True, default=True)
    options: Mapped[dict[str, Any]] = field(create=True, update=True, default={})
    tags: Mapped[list[str]] = field(create=True, update=True, default=[])


@created
def create(call: Call, fields: dict[str, Any]) -> Domain:
    wanted = fields.pop("explicit_domain_id", None)
    if wanted is not None:
        if len(wanted) != 32 or any(letter not in "0123456789abcdef" for letter in wanted):
            raise BadRequest("explicit_domain_id must be 32 hexadecimal digits.", field="explicit_domain_id")
        fields["id"] = wanted
    fields["name"] = fields["name"].strip()
    fields["options"] = options("domain", ("immutable",), {}, fields.get("options", {}))
    check_tags(fields.get("tags", []))
    free(call, Domain, Domain.name == fields["name"], kind="domain", name=fields["name"])
    row: Domain = add(call, DOMAINS, Domain(**fields))
    return row


@updated
def update(call: Call, row: Domain, fields: dict[str, Any]) -> None:
    same(call, id=row.id)
    changeable("domain", row, fields)
    if "options" in fields:
        fields["options"] = options("domain", ("immutable",), row.options, fields["options"])
    if "name" in fields:
        fields["name"] = fields["name"].strip()
        free(call, Domain, Domain.name == fields["name"], kind="domain", name=fields["name"], but=row.id)
    check_tags(fields.get("tags", []))
    if row.enabled and fields.get("enabled") is False:
        row.epoch += 1
    for attr, value in fields.items():
        setattr(row, attr, value)
    bump(call)


@deleted
def delete(call: Call, row: Domain) -> None:
    """Takes everything in the domain with it, so it must have been disabled first."""
    deletable("domain", row)
    if row.id == DEFAULT_DOMAIN:
        raise Forbidden("The default domain cannot be deleted.")
    if row.enabled:
        raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")
    call.session.delete(row)
    bump(call)


DOMAINS = Resource(
    row=Domain,
    name="domain",
    parent=capped,
    policy=rules.DOMAINS,
    narrow=in_scope(Domain.id),
    create=create,
    update=update,
    delete=delete,
    inputs={"explicit_domain_id": str | None},
    extra="extra",
    computed={"links": self_link("/domains")},
    filters=inexact(name=Domain.name),
    default_sort=(("name", False),),
    doc="A namespace of users, groups and projects.",
)
