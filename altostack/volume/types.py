"""Volume types: what kinds of volumes there are, who may use them, and which one is the default."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.kit.api import load, view
from altostack.kit.call import Call
from altostack.kit.db import utcnow
from altostack.kit.dialect import dashed_uuid
from altostack.kit.errors import BadRequest, Conflict, NotFound
from altostack.kit.policy import ADMIN, READER_ANY
from altostack.kit.resource import Action, Computed, Resource, field, key, private
from altostack.kit.route import Route
from altostack.kit.service import Runtime
from altostack.kit.versions import Version
from altostack.volume.dialect import ALL, invalid_input
from altostack.volume.model import VolumeRow
from altostack.volume.values import Flag, Key, Text, Words, flag, read_only

DEFAULT = "__DEFAULT__"
# The extra specs that everybody may see; the others tell how the backend is made.
_VISIBLE = ("RESKEY:availability_zones", "multiattach", "replication_enabled")
_SPECS = "volume_extension:types_extra_specs"
_ACCESS = "volume_extension:volume_type_access"


class VolumeType(VolumeRow):
    __tablename__ = "volume_types"
    id: Mapped[str] = key()
    name: Mapped[str] = field(unique=True, filter=True, sort=True)
    description: Mapped[str | None] = field(default=None)
    is_public: Mapped[bool] = field(default=True)
    created_at: Mapped[datetime] = field(show=False, sort=True, default=utcnow)
    updated_at: Mapped[datetime | None] = field(show=False, sort=True, default=None, onupdate=utcnow)
    extra_specs: Mapped[dict[str, str]] = private(default=dict)


class TypeAccess(VolumeRow):
    """A project that may use a type which is not public."""

    __tablename__ = "volume_type_access"
    volume_type_id: Mapped[str] = private(primary_key=True)
    project_id: Mapped[str] = private(primary_key=True)


class DefaultType(VolumeRow):
    """The type that a project's volumes get when they name none."""

    __tablename__ = "default_types"
    project_id: Mapped[str] = private(primary_key=True)
    volume_type_id: Mapped[str] = private()


def make_default(runtime: Runtime) -> None:
    """Write the type that everything has when nothing else was made. Idempotent."""

    def write(session: Session) -> None:
        if session.scalar(sa.select(sa.func.count()).select_from(VolumeType)) == 0:
            session.add(
                VolumeType(id=dashed_uuid(), name=DEFAULT, description="Default Volume Type", is_public=True)
            )

    runtime.db.write(write)


# ---- building blocks


def usable(call: Call) -> Any:
    """The condition for types that the caller may use."""
    mine = sa.select(TypeAccess.volume_type_id).where(TypeAccess.project_id == call.context.project_id)
    return VolumeType.is_public.is_(True) | VolumeType.id.in_(mine)


def find(call: Call, name: str | None) -> VolumeType:
    """The type of that id or name, or the caller's default for None. Raises NotFound."""
    session = call.session
    if not name:
        return default_for(session, call.context.project_id)
    wanted = sa.select(VolumeType).where((VolumeType.id == name) | (VolumeType.name == name))
    if not call.context.is_admin:
        wanted = wanted.where(usable(call))
    found = session.scalars(wanted.order_by(VolumeType.id != name)).first()
    if found is None:
        raise NotFound(f"Volume type with name {name[:80]} could not be found.")
    return found


def default_for(session: Session, project_id: str | None) -> VolumeType:
    """The project's own default, else the service's. Raises NotFound."""
    own = sa.select(DefaultType.volume_type_id).where(DefaultType.project_id == project_id)
    either = (VolumeType.id.in_(own)) | (VolumeType.name == DEFAULT)
    found = session.scalars(sa.select(VolumeType).where(either).order_by(VolumeType.name == DEFAULT)).first()
    if found is None:
        raise NotFound("Default volume type can not be found.")
    return found


def _specs(call: Call, row: VolumeType) -> dict[str, str]:
    if call.allows(f"{_SPECS}:read_sensitive"):
        return row.extra_specs
    return {name: value for name, value in row.extra_specs.items() if name in _VISIBLE}


# ---- types


class Create(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    description: Text | None = None
    extra_specs: Words | None = None
    is_public: Flag = msgspec.field(name="os-volume-type-access:is_public", default=True)


class Update(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: Text | msgspec.UnsetType | None = msgspec.UNSET
    description: Text | msgspec.UnsetType | None = msgspec.UNSET
    is_public: Flag | msgspec.UnsetType | None = msgspec.UNSET


def create(call: Call, fields: dict[str, Any]) -> VolumeType:
    name = fields["name"].strip()
    if not name:
        raise BadRequest("Volume type name can not be empty.", field="volume_type.name")
    _check_name(call, name, None)
    row = VolumeType(
        id=dashed_uuid(), name=name, description=fields.get("description"), is_public=flag(fields["is_public"]),
        extra_specs=fields.get("extra_specs") or {},
    )  # fmt: skip
    call.session.add(row)
    call.session.flush()
    return row


def _check_name(call: Call, name: str, but: str | None) -> None:
    taken = sa.select(VolumeType.id).where(VolumeType.name == name, VolumeType.id != (but or ""))
    if call.session.scalar(taken) is not None:
        raise Conflict(f"Volume Type {name} already exists.", field="volume_type.name")


def update(call: Call, row: VolumeType, fields: dict[str, Any]) -> None:
    if not fields or all(value is None for value in fields.values()):
        raise BadRequest(
            "Specify volume type name, description, is_public or a combination thereof.", field="volume_type"
        )
    if (name := fields.get("name")) is not None:
        if not name.strip():
            raise BadRequest("Volume type name can not be empty.", field="volume_type.name")
        if row.name == DEFAULT and name.strip() != DEFAULT:
            raise BadRequest(
                f"The default volume type {DEFAULT} cannot be renamed.", field="volume_type.name"
            )
        _check_name(call, name.strip(), row.id)
        row.name = name.strip()
    if "description" in fields:
        row.description = fields["description"]
    if fields.get("is_public") is not None:
        row.is_public = flag(fields["is_public"])


def delete(call: Call, row: VolumeType) -> None:
    from altostack.volume.volume import Volume

    session = call.session
    if row.name == DEFAULT:
        raise BadRequest(f"Volume type {row.id} is the default and cannot be deleted.")
    if session.scalar(sa.select(Volume.id).where(Volume.volume_type_id == row.id).limit(1)):
        raise BadRequest("Target volume type is still in use.")
    session.execute(sa.delete(TypeAccess).where(TypeAccess.volume_type_id == row.id))
    session.execute(sa.delete(DefaultType).where(DefaultType.volume_type_id == row.id))
    session.delete(row)


def _public(call: Call, values: list[str]) -> Any:
    """``is_public``: for others than administrators there is nothing to choose."""
    text = values[-1].lower()
    if not call.context.is_admin or text == "none":
        return None
    if text not in ("true", "1", "t", "yes", "false", "0", "f", "no"):
        raise invalid_input(f"Invalid is_public filter [{values[-1]}]", "is_public")
    return VolumeType.is_public.is_(text in ("true", "1", "t", "yes"))


def _by_specs(call: Call, values: list[str]) -> Any:
    from altostack.volume.dialect import by_metadata

    return by_metadata(VolumeType.extra_specs, "3.52")(call, values)


class Project(msgspec.Struct, forbid_unknown_fields=True):
    project: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


def add_access(call: Call, row: VolumeType) -> None:
    """addProjectAccess"""
    if row.is_public:
        raise Conflict("Type access modification is not applicable to public volume type.")
    here = (row.id, call.body.project)
    if call.session.get(TypeAccess, here) is not None:
        raise Conflict(f"Volume type access for {row.id} / {call.body.project} combination already exists.")
    call.session.add(TypeAccess(volume_type_id=row.id, project_id=call.body.project))
    call.session.flush()


def remove_access(call: Call, row: VolumeType) -> None:
    """removeProjectAccess"""
    if row.is_public:
        raise Conflict("Type access modification is not applicable to public volume type.")
    found = call.session.get(TypeAccess, (row.id, call.body.project))
    if found is None:
        raise NotFound(f"Volume type access not found for {row.id} / {call.body.project} combination.")
    call.session.delete(found)


def _visible(call: Call) -> Any:
    return usable(call)


TYPES = Resource(
    row=VolumeType,
    name="volume_type",
    path="/types",
    policy={"list": READER_ANY, "show": READER_ANY, "create": ADMIN, "update": ADMIN, "delete": ADMIN},
    rules={
        "list": "volume_extension:type_get_all", "show": "volume_extension:type_get",
        "create": "volume_extension:type_create", "update": "volume_extension:type_update",
        "delete": "volume_extension:type_delete", "admin_fields": "volume_extension:access_types_qos_specs_id", **ALL,
    },
    visible=_visible,
    status={"create": 200},
    computed={
        "extra_specs": Computed(get=_specs),
        "os-volume-type-access:is_public": Computed(
            get=lambda call, row: msgspec.UNSET if call.route.method == "PUT" else row.is_public
        ),
        "qos_specs_id": Computed(get=read_only(lambda row: None), show="admin"),
    },
    filters={"is_public": _public, "extra_specs": _by_specs},
    actions={
        "addProjectAccess": Action(
            run=add_access, body=Project, policy=ADMIN, rule=f"{_ACCESS}:addProjectAccess"
        ),
        "removeProjectAccess": Action(
            run=remove_access, body=Project, policy=ADMIN, rule=f"{_ACCESS}:removeProjectAccess"
        ),
    },
    create=create,
    update=update,
    delete=delete,
    create_body=Create,
    update_body=Update,
)  # fmt: skip


# ---- what hangs below a type


def show_default(call: Call) -> Any:
    return {"volume_type": view(call, TYPES, default_for(call.session, call.context.project_id))}


def list_access(call: Call) -> Any:
    row: VolumeType = load(call, TYPES)
    if row.is_public:
        raise NotFound("Access list not available for public volume types.")
    wanted = sa.select(TypeAccess).where(TypeAccess.volume_type_id == row.id)
    found = call.session.scalars(wanted.order_by(TypeAccess.project_id))
    return {
        "volume_type_access": [
            {"volume_type_id": one.volume_type_id, "project_id": one.project_id} for one in found
        ]
    }


def no_encryption(call: Call) -> Any:
    """No type is encrypted; the API says so with an empty object."""
    load(call, TYPES)
    return {}


def list_specs(call: Call) -> Any:
    return {"extra_specs": _specs(call, load(call, TYPES))}


class Specs(msgspec.Struct, forbid_unknown_fields=True):
    extra_specs: Words


def add_specs(call: Call) -> Any:
    row: VolumeType = load(call, TYPES)
    row.extra_specs = row.extra_specs | call.body.extra_specs
    return {"extra_specs": call.body.extra_specs}


def show_spec(call: Call) -> Any:
    name = call.params["key"]
    return {name: _spec(call, _specs(call, load(call, TYPES)), name)}


def _spec(call: Call, specs: dict[str, str], name: str) -> str:
    if name not in specs:
        raise NotFound(
            f"Volume Type {call.params['volume_type_id']} has no extra specs with key {name[:80]}."
        )
    return specs[name]


def put_spec(call: Call) -> Any:
    name, row = call.params["key"], load(call, TYPES)
    if set(call.body) != {name}:
        raise BadRequest("Request body must hold exactly the key of the URI.", field=name)
    row.extra_specs = row.extra_specs | call.body
    return call.body


def delete_spec(call: Call) -> None:
    name, row = call.params["key"], load(call, TYPES)
    _spec(call, row.extra_specs, name)
    row.extra_specs = {key_: value for key_, value in row.extra_specs.items() if key_ != name}


class SetDefault(msgspec.Struct, forbid_unknown_fields=True):
    class Inner(msgspec.Struct, forbid_unknown_fields=True):
        volume_type: Text

    default_type: Inner


def _show_default(row: DefaultType) -> dict[str, str]:
    return {"project_id": row.project_id, "volume_type_id": row.volume_type_id}


def set_default(call: Call) -> Any:
    kind, project = find(call, call.body.default_type.volume_type), call.params["target"]
    row = call.session.get(DefaultType, project) or DefaultType(project_id=project)
    row.volume_type_id = kind.id
    call.session.add(row)
    call.session.flush()
    return {"default_type": _show_default(row)}


def get_default(call: Call) -> Any:
    row = call.session.get(DefaultType, call.params["target"])
    if row is None:
        raise NotFound(f"Default type for project {call.params['target'][:80]} not found.")
    return {"default_type": _show_default(row)}


def list_defaults(call: Call) -> Any:
    rows = call.session.scalars(sa.select(DefaultType).order_by(DefaultType.project_id))
    return {"default_types": [_show_default(row) for row in rows]}


def unset_default(call: Call) -> None:
    call.session.execute(sa.delete(DefaultType).where(DefaultType.project_id == call.params["target"]))


_ONE = "/types/{volume_type_id}"
_SINCE = Version(3, 62)


def _default(method: str, path: str, handler: Any, rule: str, **more: Any) -> Route:
    return Route(
        method=method, path=f"/default-types{path}", handler=handler, policy=f"volume_extension:default_{rule}",
        check=ADMIN, since=_SINCE, **more,
    )  # fmt: skip


ROUTES = (
    Route(
        method="GET", path="/types/default", handler=show_default, policy="volume_extension:type_get", check=READER_ANY
    ),
    Route(
        method="GET", path=f"{_ONE}/os-volume-type-access", handler=list_access,
        policy=f"{_ACCESS}:get_all_for_type", check=ADMIN,
    ),
    Route(
        method="GET", path=f"{_ONE}/encryption", handler=no_encryption,
        policy="volume_extension:volume_type_encryption:get", check=ADMIN,
    ),
    Route(
        method="GET", path=f"{_ONE}/extra_specs", handler=list_specs, policy=f"{_SPECS}:index", check=READER_ANY
    ),
    Route(
        method="POST", path=f"{_ONE}/extra_specs", handler=add_specs, policy=f"{_SPECS}:create", check=ADMIN, body=Specs
    ),
    Route(
        method="GET", path=f"{_ONE}/extra_specs/{{key}}", handler=show_spec, policy=f"{_SPECS}:show", check=READER_ANY
    ),
    Route(
        method="PUT", path=f"{_ONE}/extra_specs/{{key}}", handler=put_spec, policy=f"{_SPECS}:update", check=ADMIN,
        body=dict[Key, Text],
    ),
    Route(
        method="DELETE", path=f"{_ONE}/extra_specs/{{key}}", handler=delete_spec, policy=f"{_SPECS}:delete",
        check=ADMIN, status=202,
    ),
    _default("GET", "", list_defaults, "get_all"),
    _default("GET", "/{target}", get_default, "get"),
    _default("PUT", "/{target}", set_default, "set_or_update", body=SetDefault),
    _default("DELETE", "/{target}", unset_default, "unset", status=204),
)  # fmt: skip

RULES = {f"{_SPECS}:read_sensitive": ADMIN}
