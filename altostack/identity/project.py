"""Projects: what owns things in a cloud. They nest below their domain; what is above never changes."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.identity import rules
from altostack.identity import tags as tagging
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
from altostack.identity.config import IdentitySettings
from altostack.identity.dialect import flag, inexact, own_url
from altostack.identity.domain import Domain
from altostack.identity.model import Extra, IdentityRow, Worth
from altostack.kit.api import add, load, view
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Forbidden, NotFound
from altostack.kit.resource import Computed, Resource, field, key, private, struct
from altostack.kit.route import Route


class Project(Extra, Worth, IdentityRow):
    __tablename__ = "projects"
    __table_args__ = (
        sa.UniqueConstraint("domain_id", "name"),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], ondelete="CASCADE"),
    )
    noun = "project"
    id: Mapped[str] = key()
    domain_id: Mapped[str] = field(filter=True, sort=True, max_length=64)
    parent_id: Mapped[str | None] = field(create=True, filter=True, max_length=64, index=True)
    name: Mapped[str] = field(
        required=True, update=True, filter=True, sort=True, ge=1, max_length=64, pattern=WORD
    )
    description: Mapped[str | None] = field(create=True, update=True, default="", max_length=1000)
    enabled: Mapped[bool] = field(create=True, update=True, filter=True, sort=True, default=True)
    options: Mapped[dict[str, Any]] = field(create=True, update=True, default={})
    tags: Mapped[list[str]] = field(create=True, update=True, default=[])
    tag_index: Mapped[str] = private(default=",", type_=sa.Text())
    # The ids of the projects above, from the top, each followed by a slash: "" at the top.
    path: Mapped[str] = private(default="", type_=sa.String(512), index=True)

    @property
    def acting(self) -> bool:
        """Whether this is no project of its own but a domain told as one (see `domain_project`)."""
        return self.domain_id is None

    @property
    def above(self) -> list[str]:
        """The ids of the projects above this one, from the top."""
        return self.path.split("/")[:-1]

    @property
    def below(self) -> str:
        """What the paths of the projects below this one begin with."""
        return f"{self.path}{self.id}/"


def under(row: Project) -> Any:
    """The condition on projects below ``row``; ids hold no wildcard of LIKE."""
    return Project.domain_id == row.id if row.acting else Project.path.like(f"{row.below}%")


@created
def create(call: Call, fields: dict[str, Any]) -> Project:
    fields.pop("is_domain", None)
    settings = call.runtime.settings or IdentitySettings()
    if fields.get("domain_id") is None:
        call.require("identity:create_project", {})
        fields.pop("domain_id", None)
    fields["name"] = fields["name"].strip()
    parent = _parent(call, fields)
    fields.setdefault("domain_id", parent.domain_id if parent else call.context.domain_id or DEFAULT_DOMAIN)
    fields["options"] = options("project", ("immutable",), {}, fields.get("options", {}))
    tagging.check_tags(fields.get("tags", []))
    row = Project(**fields, tag_index=tagging.index(fields.get("tags", [])))
    call.require("identity:create_project", row)
    domain = call.session.get(Domain, row.domain_id)
    if domain is None:
        raise BadRequest(f"Could not find domain: {row.domain_id}.", field="domain_id")
    if not domain.enabled:
        raise BadRequest(f"The domain {domain.id} is disabled.", field="domain_id")
    if parent is None:
        row.parent_id, row.path = row.domain_id, ""
    else:
        if parent.domain_id != row.domain_id:
            raise BadRequest(
                f"The parent {parent.id} is in the domain {parent.domain_id}, not in {row.domain_id}.",
                field="parent_id",
            )
        _whole_branch_enabled(call, parent)
        row.path = parent.below
        deepest = 1 if settings.limit_model == "strict_two_level" else settings.max_project_depth
        if len(row.above) + 1 > deepest:
            raise Forbidden(f"Projects nest {deepest} deep at most.")
    free(
        call, Project, Project.domain_id == row.domain_id, Project.name == row.name, kind="project", name=row.name,
        where=f" at domain ID {row.domain_id}",
    )  # fmt: skip
    made: Project = add(call, PROJECTS, row)
    return made


def _parent(call: Call, fields: dict[str, Any]) -> Project | None:
    """The project above; None when a domain is. Raises BadRequest."""
    key = fields.get("parent_id")
    if key is None or key == fields.get("domain_id"):
        return None
    parent = call.session.get(Project, key)
    if parent is not None:
        return parent
    if "domain_id" not in fields and call.session.get(Domain, key) is not None:
        fields["domain_id"] = key
        return None
    raise BadRequest(f"Could not find project: {key}.", field="parent_id")


def _whole_branch_enabled(call: Call, parent: Project) -> None:
    ids = [*parent.above, parent.id]
    off = call.session.execute(
        sa.select(Project.id).where(Project.id.in_(ids), Project.enabled.is_(False)).limit(1)
    ).scalar()
    if off is not None:
        raise BadRequest(f"The branch contains a disabled project: {off}.", field="parent_id")


@updated
def update(call: Call, row: Project, fields: dict[str, Any]) -> None:
    if call.extra.get("parent_id") not in (None, row.parent_id):
        raise Forbidden("Update of `parent_id` is not allowed.")
    same(call, id=row.id, domain_id=row.domain_id, is_domain=False)
    changeable("project", row, fields)
    if "options" in fields:
        fields["options"] = options("project", ("immutable",), row.options, fields["options"])
    if "name" in fields:
        fields["name"] = fields["name"].strip()
        free(
            call, Project, Project.domain_id == row.domain_id, Project.name == fields["name"], kind="project",
            name=fields["name"], where=f" at domain ID {row.domain_id}", but=row.id,
        )  # fmt: skip
    if "tags" in fields:
        _tag(row, fields.pop("tags"))
    if row.enabled and fields.get("enabled") is False:
        children = sa.select(Project.id).where(under(row), Project.enabled.is_(True)).limit(1)
        if call.session.execute(children).first() is not None:
            raise Forbidden(f"Cannot disable project {row.id} since its subtree contains enabled projects.")
        row.epoch += 1
    elif not row.enabled and fields.get("enabled"):
        parents = sa.select(Project.id).where(Project.id.in_(row.above), Project.enabled.is_(False)).limit(1)
        if call.session.execute(parents).first() is not None:
            raise Forbidden(f"Cannot enable project {row.id} since it has disabled parents.")
    for attr, value in fields.items():
        setattr(row, attr, value)
    bump(call)


def _tag(row: Project, tags: list[str]) -> None:
    tagging.check_tags(tags)
    row.tags, row.tag_index = tags, tagging.index(tags)


@deleted
def delete(call: Call, row: Project) -> None:
    deletable("project", row)
    if call.session.execute(sa.select(Project.id).where(under(row)).limit(1)).first() is not None:
        raise Forbidden(f"Cannot delete the project {row.id} since it is not a leaf in the hierarchy.")
    call.session.delete(row)
    bump(call)


# ---- what a project shows of those above and below it, when asked


def parents(call: Call, row: Project) -> Any:
    as_list, as_ids = flag(call, "parents_as_list"), flag(call, "parents_as_ids")
    if as_list and as_ids:
        raise BadRequest("Ask for parents_as_list or parents_as_ids, not both.", field="parents_as_list")
    if as_ids:
        chain: Any = None
        for key in [] if row.acting else [row.domain_id, *row.above]:
            chain = {key: chain}
        return chain
    if as_list:
        above = {p.id: p for p in _reached(call, Project.id.in_(row.above))}
        return [
            {"project": view(call, PROJECTS, above[key], op="list")}
            for key in reversed(row.above)
            if key in above
        ]
    return msgspec.UNSET


def subtree(call: Call, row: Project) -> Any:
    as_list, as_ids = flag(call, "subtree_as_list"), flag(call, "subtree_as_ids")
    if as_list and as_ids:
        raise BadRequest("Ask for subtree_as_list or subtree_as_ids, not both.", field="subtree_as_list")
    if not (as_list or as_ids):
        return msgspec.UNSET
    if as_list:
        return [{"project": view(call, PROJECTS, below, op="list")} for below in _reached(call, under(row))]
    query = sa.select(Project).where(under(row)).order_by(Project.path, Project.id)
    found = list(call.session.execute(query).scalars())
    nodes: dict[str, dict[str, Any]] = {row.id: {}}
    for below in found:
        nodes[below.id] = {}
    for below in found:
        nodes[str(below.parent_id)][below.id] = nodes[below.id]
    return _leaves(nodes[row.id])


def _reached(call: Call, where: Any) -> list[Project]:
    """The projects that meet ``where`` and in which the caller has a role: lists tell of no others."""
    from altostack.identity.assignment import reachable_projects

    query = sa.select(Project).where(where, reachable_projects(call.context.user_id))
    return list(call.session.execute(query.order_by(Project.path, Project.id)).scalars())


def _leaves(tree: dict[str, Any]) -> Any:
    return {key: _leaves(below) for key, below in tree.items()} or None


PROJECTS = Resource(
    row=Project,
    name="project",
    parent=capped,
    policy=rules.PROJECTS,
    narrow=in_scope(Project.domain_id),
    create=create,
    update=update,
    delete=delete,
    inputs={"is_domain": bool | None, "domain_id": str | None},
    extra="extra",
    computed={
        "is_domain": Computed(get=lambda call, row: row.acting),
        "links": self_link("/projects"),
        "parents": Computed(get=parents, detail=False),
        "subtree": Computed(get=subtree, detail=False),
    },
    filters=inexact(name=Project.name) | tagging.filters(Project.tag_index),
    default_sort=(("name", False),),
    doc="What owns things in a cloud.",
)


# ---- tags, one by one


def _tagged(call: Call, rule: str) -> Project:
    row: Project = load(call, PROJECTS, rule=f"identity:{rule}")
    return row


def list_tags(call: Call) -> Any:
    row = _tagged(call, "list_project_tags")
    return {"tags": row.tags, "links": {"self": own_url(call)}}


def replace_tags(call: Call) -> Any:
    row = _tagged(call, "update_project_tags")
    _tag(row, call.body.tags)
    return {"tags": row.tags, "links": {"self": own_url(call)}}


def delete_tags(call: Call) -> None:
    _tag(_tagged(call, "delete_project_tags"), [])


def has_tag(call: Call) -> None:
    if call.params["value"] not in _tagged(call, "get_project_tag").tags:
        raise NotFound(f"Could not find project tag: {call.params['value']}.")


def add_tag(call: Call) -> Reply:
    row, tag = _tagged(call, "create_project_tag"), call.params["value"]
    if tag not in row.tags:
        _tag(row, [*row.tags, tag])
    return Reply(status=201, headers={"Location": own_url(call)})


def delete_tag(call: Call) -> None:
    row, tag = _tagged(call, "delete_project_tag"), call.params["value"]
    if tag not in row.tags:
        raise NotFound(f"Could not find project tag: {tag}.")
    _tag(row, [one for one in row.tags if one != tag])


_TAGS, _ONE = "/projects/{project_id}/tags", "/projects/{project_id}/tags/{value}"
_BODY = struct("ProjectTags", [("tags", list[str], True)], open=True)
TAG_ROUTES = tuple(
    Route(
        method=method, path=path, handler=handler, guard=False, policy=f"identity:{name}", check=check, body=body,
        status=status,
    )
    for method, path, handler, name, check, body, status in (
        ("GET", _TAGS, list_tags, "list_project_tags", rules.PROJECT_READER, None, 200),
        ("PUT", _TAGS, replace_tags, "update_project_tags", rules.PROJECT_MANAGER, _BODY, 200),
        ("DELETE", _TAGS, delete_tags, "delete_project_tags", rules.PROJECT_MANAGER, None, 204),
        ("GET", _ONE, has_tag, "get_project_tag", rules.PROJECT_READER, None, 204),
        ("PUT", _ONE, add_tag, "create_project_tag", rules.PROJECT_MANAGER, None, 201),
        ("DELETE", _ONE, delete_tag, "delete_project_tag", rules.PROJECT_MANAGER, None, 204),
    )
)  # fmt: skip
