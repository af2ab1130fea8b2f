"""Application credentials: a secret by which a program acts for a user on one project, with some of its roles."""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.identity import rules
from altostack.identity.access_rule import AccessRule, wanted_rules
from altostack.identity.audit import created, deleted
from altostack.identity.common import ID, WORD, bump
from altostack.identity.delegation import refuse_delegated
from altostack.identity.dialect import inexact
from altostack.identity.keeper import keeper
from altostack.identity.model import IdentityRow
from altostack.identity.password import fast_hash
from altostack.identity.user import USERS
from altostack.kit.api import add, load
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, Forbidden
from altostack.kit.resource import Computed, Resource, field, key, private


class ApplicationCredential(IdentityRow):
    __tablename__ = "application_credentials"
    __table_args__ = (
        sa.UniqueConstraint("user_id", "name"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
    )
    noun = "application_credential"
    id: Mapped[str] = key()
    user_id: Mapped[str] = field(max_length=64)
    project_id: Mapped[str] = field(max_length=64, index=True)
    name: Mapped[str] = field(required=True, filter=True, sort=True, ge=1, max_length=255, pattern=WORD)
    description: Mapped[str | None] = field(create=True, default=None, max_length=1000)
    expires_at: Mapped[datetime | None] = field(default=None)
    unrestricted: Mapped[bool] = field(create=True, default=False)
    access_rules: Mapped[list[dict[str, Any]] | None] = private(
        default=None, type_=sa.JSON(none_as_null=True)
    )
    role_ids: Mapped[list[str]] = private()
    secret_hash: Mapped[str] = private()


class RoleRef(msgspec.Struct, forbid_unknown_fields=True):
    """A role by its id or its name."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=ID)] | None = None
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None


class RuleIn(msgspec.Struct):
    """An access rule: by the id of one that the user has, or by what it allows."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=ID)] | None = None
    service: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    method: str | None = None
    path: Annotated[str, msgspec.Meta(max_length=255, pattern="^/")] | None = None


class CredentialIn(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a create request (identity API v3.10)."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=WORD)]
    id: str | msgspec.UnsetType = msgspec.UNSET
    secret: str | msgspec.UnsetType | None = msgspec.UNSET
    description: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    expires_at: str | None = None
    project_id: str | None = None
    unrestricted: bool | None = None
    system: str | None = None
    roles: list[RoleRef] = []
    access_rules: list[RuleIn] | None = None


def _parent(call: Call) -> None:
    """The path's user, and policy on it for what is done to no single row."""
    if call.route.op in ("list", "create"):
        call.require(call.route.policy, {"user_id": call.params["user_id"]})
        load(call, USERS, call.params["user_id"])
    by_own = "application_credential" in call.context.methods
    if not by_own:
        refuse_delegated(call.context, "manage application credentials")
    if by_own and call.route.method not in ("GET", "HEAD"):
        own = call.context.application_credential or {}
        if own.get("restricted", True):
            raise Forbidden(
                "Using method 'application_credential' is not allowed for managing additional application "
                "credentials."
            )


@created
def create(call: Call, fields: dict[str, Any]) -> ApplicationCredential:
    context = call.context
    if context.user_id != call.params["user_id"]:
        raise Forbidden("Cannot create an application credential for another user.")
    if context.project_id is None:
        raise BadRequest(
            "An application credential needs a project: ask with a project's token.", field="project_id"
        )
    secret = fields.get("secret")
    if secret is None or secret is msgspec.UNSET:
        secret = base64.urlsafe_b64encode(secrets.token_bytes(64)).decode().rstrip("=")
        hashed = fast_hash(secret)
    else:
        # A chosen secret is a password. Hashing takes long: let others write meanwhile.
        call.session.rollback()
        hashed = call.memo["hash"] = call.memo.get("hash") or keeper(call.runtime).passwords.hash(secret)
    query = sa.select(ApplicationCredential.id).where(
        ApplicationCredential.user_id == context.user_id, ApplicationCredential.name == fields["name"]
    )
    if call.session.execute(query).first() is not None:
        raise Conflict(
            "Conflict occurred attempting to store application_credential - Duplicate entry found with name "
            f"{fields['name']}.",
            field="name",
        )
    row = ApplicationCredential(
        user_id=context.user_id,
        project_id=context.project_id,
        name=fields["name"],
        description=fields["description"],
        expires_at=expiry(call, fields["expires_at"]),
        unrestricted=bool(fields["unrestricted"]),
        role_ids=_roles(call, fields["roles"]),
        access_rules=wanted_rules(call, context.user_id, fields["access_rules"] or []) or None,
        secret_hash=hashed,
    )
    call.memo["secret"] = secret
    made: ApplicationCredential = add(call, CREDENTIALS, row)
    return made


def _roles(call: Call, asked: list[RoleRef]) -> list[str]:
    """The ids of ``asked`` (default: all of the token's roles) with what they imply. Raises BadRequest."""
    graph = keeper(call.runtime).graph(call.session)
    ids = {role["name"]: role["id"] for role in graph.roles.values() if role["domain_id"] is None}
    held = {ids[name] for name in call.context.roles if name in ids}
    if not asked:
        return sorted(held)
    wanted = []
    for ref in asked:
        if (ref.id is None) == (ref.name is None):
            raise BadRequest("A role is named by its id or by its name.", field="roles")
        found = ref.id if ref.name is None else ids.get(ref.name)
        if found not in graph.roles:
            raise BadRequest(f"Could not find role: {ref.id or ref.name}.", field="roles")
        wanted.append(str(found))
    closure = graph.closure(wanted)
    if not set(closure) <= held:
        raise BadRequest(
            "Invalid application credential: Cannot create an application credential with unassigned role.",
            field="roles",
        )
    return sorted(closure)


def expiry(call: Call, text: str | None) -> datetime | None:
    """A time to come, in UTC where no zone is given. Raises BadRequest."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadRequest(f"Timestamp not in expected format: {text!r}.", field="expires_at") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment.timestamp() <= call.runtime.clock():
        raise BadRequest("The 'expires_at' must not be before now.", field="expires_at")
    return moment


@deleted
def delete(call: Call, row: ApplicationCredential) -> None:
    call.session.delete(row)
    bump(call)


def _shown_roles(call: Call, row: ApplicationCredential) -> list[dict[str, Any]]:
    graph = keeper(call.runtime).graph(call.session)
    return [graph.roles[one] for one in row.role_ids if one in graph.roles]


def _shown_secret(call: Call, row: ApplicationCredential) -> Any:
    return call.memo.get("secret", msgspec.UNSET) if call.route.op == "create" else msgspec.UNSET


def _own(call: Call) -> Any:
    """Lists show the path's user's; of a single one policy sees whose it really is, whatever the path says."""
    if call.route.op == "list":
        return ApplicationCredential.user_id == call.params["user_id"]
    return sa.true()


CREDENTIALS = Resource(
    row=ApplicationCredential,
    name="application_credential",
    policy=rules.CREDENTIALS,
    path="/users/{user_id}/application_credentials",
    parent=_parent,
    narrow=_own,
    create=create,
    create_body=CredentialIn,
    delete=delete,
    computed={
        "roles": Computed(get=_shown_roles),
        "access_rules": Computed(get=lambda call, row: row.access_rules or msgspec.UNSET),
        "secret": Computed(get=_shown_secret),
        "links": Computed(
            get=lambda call, row: {
                "self": call.link(f"/users/{row.user_id}/application_credentials/{row.id}")
            }
        ),
    },
    filters=inexact(name=ApplicationCredential.name),
    default_sort=(("name", False),),
    doc="A secret by which a program acts for a user on one project.",
)


def in_use(call: Call, rule: AccessRule) -> bool:
    """Whether a credential of the rule's user rests on it."""
    query = sa.select(ApplicationCredential.access_rules).where(ApplicationCredential.user_id == rule.user_id)
    return any(
        one["id"] == rule.id for found in call.session.execute(query).scalars() if found for one in found
    )
