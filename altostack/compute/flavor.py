"""Flavors: the sizes that servers come in, their extra specs, and which projects may use the private ones."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.compute.dialect import links
from altostack.compute.model import ComputeRow, Stamped
from altostack.compute.values import MetaKey, Name, Natural, Positive, check_description, check_name, spec
from altostack.compute.values import fields_at as _at
from altostack.kit.api import add, load
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, NotFound
from altostack.kit.policy import ADMIN, READER_ANY
from altostack.kit.resource import Action, Computed, Resource, field, key, private, struct
from altostack.kit.route import Route
from altostack.kit.versions import Version

# ---- row


class Flavor(Stamped, ComputeRow):
    """A flavor. Sizes: ram and swap in MiB, disk and ephemeral in GiB."""

    __tablename__ = "flavors"
    id: Mapped[str] = key(type_=sa.String(255))
    name: Mapped[str] = field(brief=True, sort=True, unique=True)
    ram: Mapped[int] = field(sort=True)
    disk: Mapped[int] = field(sort=True)
    vcpus: Mapped[int] = field(sort=True)
    swap: Mapped[int] = private(default=0)
    ephemeral: Mapped[int] = field(wire="OS-FLV-EXT-DATA:ephemeral", sort=True, default=0)
    is_public: Mapped[bool] = field(wire="os-flavor-access:is_public", sort=True, default=True)
    rxtx_factor: Mapped[float] = private(default=1.0)
    description: Mapped[str | None] = field(
        brief=True, update=True, sort=True, since="2.55", max_length=65_535
    )
    extra_specs: Mapped[dict[str, str]] = private(default={})


class FlavorAccess(ComputeRow):
    """A project that may use a private flavor."""

    __tablename__ = "flavor_access"
    flavor_id: Mapped[str] = private(type_=sa.String(255), primary_key=True)
    project_id: Mapped[str] = private(type_=sa.String(64), primary_key=True)


_ANY = sa.select(Flavor).where(Flavor.id == sa.bindparam("key"))
_USABLE = _ANY.where(
    sa.or_(
        Flavor.is_public,
        Flavor.id.in_(
            sa.select(FlavorAccess.flavor_id).where(FlavorAccess.project_id == sa.bindparam("project"))
        ),
    )
)


# ---- actions

Number = Annotated[float, msgspec.Meta(gt=0, le=3.40282e38)]
_CREATE = {
    "name": spec(Name, required=True),
    "id": spec(str | int | float | None),
    "ram": spec(Positive, required=True),
    "vcpus": spec(Positive, required=True),
    "disk": spec(Natural, required=True),
    "ephemeral": spec(Natural),
    "swap": spec(Natural),
    "rxtx_factor": spec(Number, until="2.101"),
    "is_public": spec(bool),
    "description": spec(Annotated[str, msgspec.Meta(max_length=65_535)] | None, since="2.55"),
}
_WIRE = {"ephemeral": "OS-FLV-EXT-DATA:ephemeral", "is_public": "os-flavor-access:is_public"}
_ID = r"^(?! )[a-zA-Z0-9. _\-]+(?<! )$"


def create_body(version: Version | None) -> Any:
    """What a client may send to make a flavor."""
    return struct("FlavorCreate", _at(_CREATE, version), rename=_WIRE)


class FlavorUpdate(msgspec.Struct, forbid_unknown_fields=True):
    description: Annotated[str, msgspec.Meta(max_length=65_535)] | None


def create(call: Call, fields: dict[str, Any]) -> Flavor:
    """A new flavor; its id is the client's or a fresh uuid."""
    fields["name"] = check_name(fields["name"])
    check_description(fields.get("description"))
    wanted = fields.pop("id", None)
    flavor_id = str(uuid.uuid4()) if wanted is None or wanted == "auto" else str(wanted)
    try:
        msgspec.convert(flavor_id, Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=_ID)])
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"Invalid input for field/attribute id. Value: {wanted}. {error}", field="id"
        ) from error
    if call.session.get(Flavor, flavor_id) is not None:
        raise Conflict(f"Flavor with ID {flavor_id} already exists.", field="id")
    if call.session.execute(sa.select(Flavor.id).where(Flavor.name == fields["name"])).first():
        raise Conflict(f"Flavor with name {fields['name']} already exists.", field="name")
    row: Flavor = add(call, FLAVORS, Flavor(id=flavor_id, **fields))
    return row


def delete(call: Call, row: Flavor) -> None:
    """Servers keep a copy of what they were made of."""
    call.session.execute(sa.delete(FlavorAccess).where(FlavorAccess.flavor_id == row.id))
    call.session.delete(row)
    call.session.flush()


def visible(call: Call) -> Any:
    """Public flavors, and private ones that the caller's project was given."""
    mine = sa.select(FlavorAccess.flavor_id).where(FlavorAccess.project_id == (call.context.project_id or ""))
    return sa.or_(Flavor.is_public, Flavor.id.in_(mine))


def narrow(call: Call) -> Any:
    """Lists show public flavors unless an admin asks otherwise."""
    if call.route.op != "list":
        return sa.true()
    asked = call.arg("is_public") if call.context.is_admin else None
    if asked is None:
        return Flavor.is_public if call.context.is_admin else sa.true()
    if asked.lower() == "none":
        return sa.true()
    if asked.lower() in ("1", "t", "true", "on", "y", "yes"):
        return Flavor.is_public
    if asked.lower() in ("0", "f", "false", "off", "n", "no"):
        return sa.not_(Flavor.is_public)
    raise BadRequest(f"Invalid is_public filter [{asked}]", field="is_public")


def _least(name: str, column: Any) -> Any:
    def clause(call: Call, values: list[str]) -> Any:
        try:
            return column >= int(values[-1])
        except ValueError as error:
            raise BadRequest(f"Invalid {name} filter [{values[-1]}]", field=name) from error

    return clause


def _named(call: Call, values: list[str]) -> Any:
    return Flavor.name == values[-1] if call.at_least("2.102") else None


def find(session: Session, project_id: str | None, flavor_id: str, *, everything: bool) -> Flavor | None:
    """The flavor if a project may use it."""
    asked = {"key": flavor_id, "project": project_id or ""}
    return session.execute(_ANY if everything else _USABLE, asked).scalars().first()


class Tenant(msgspec.Struct, forbid_unknown_fields=True):
    tenant: Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-]*$")]


def add_access(call: Call, row: Flavor) -> Any:
    """Let a project use a private flavor."""
    if row.is_public and call.at_least("2.7"):
        raise Conflict("Can not add access to a public flavor.", field="tenant")
    if call.session.get(FlavorAccess, (row.id, call.body.tenant)) is not None:
        raise Conflict(
            f"Flavor access already exists for flavor {row.id} and project {call.body.tenant} combination.",
            field="tenant",
        )
    call.session.add(FlavorAccess(flavor_id=row.id, project_id=call.body.tenant))
    call.session.flush()
    return _access(call, row)


def remove_access(call: Call, row: Flavor) -> Any:
    """Take a private flavor from a project again."""
    held = call.session.get(FlavorAccess, (row.id, call.body.tenant))
    if held is None:
        raise NotFound(
            f"Flavor access not found for {row.id} / {call.body.tenant} combination.", field="tenant"
        )
    call.session.delete(held)
    call.session.flush()
    return _access(call, row)


def _access(call: Call, row: Flavor) -> dict[str, Any]:
    query = sa.select(FlavorAccess.project_id).where(FlavorAccess.flavor_id == row.id)
    projects = call.session.execute(query.order_by(FlavorAccess.project_id)).scalars()
    return {"flavor_access": [{"flavor_id": row.id, "tenant_id": project} for project in projects]}


def list_access(call: Call) -> Any:
    """Which projects may use a private flavor."""
    row: Flavor = load(call, FLAVORS)
    if row.is_public:
        raise NotFound("Access list not available for public flavors.", field="flavor_id")
    return _access(call, row)


# ---- extra specs: key -> value, for schedulers and drivers


class ExtraSpecs(msgspec.Struct, forbid_unknown_fields=True):
    extra_specs: dict[MetaKey, Annotated[str, msgspec.Meta(max_length=255)] | int | float]


def list_specs(call: Call) -> Any:
    return {"extra_specs": load(call, FLAVORS).extra_specs}


def create_specs(call: Call) -> Any:
    row = load(call, FLAVORS)
    row.extra_specs = {**row.extra_specs, **_texts(call.body.extra_specs)}
    return {"extra_specs": call.body.extra_specs}


def show_spec(call: Call) -> Any:
    row, name = load(call, FLAVORS), call.params["key"]
    if name not in row.extra_specs:
        raise _no_spec(row, name)
    return {name: row.extra_specs[name]}


def update_spec(call: Call) -> Any:
    row, name = load(call, FLAVORS), call.params["key"]
    if name not in call.body or len(call.body) != 1:
        raise BadRequest("Request body and URI mismatch", field=name)
    row.extra_specs = {**row.extra_specs, **_texts(call.body)}
    return dict(call.body)


def delete_spec(call: Call) -> Any:
    row, name = load(call, FLAVORS), call.params["key"]
    if name not in row.extra_specs:
        raise _no_spec(row, name)
    row.extra_specs = {k: v for k, v in row.extra_specs.items() if k != name}


def _texts(specs: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in specs.items()}


def _no_spec(row: Flavor, name: str) -> NotFound:
    return NotFound(f"Flavor {row.id} has no extra specs with key {name}.", field="key")


# ---- table


def _specs(call: Call, row: Flavor) -> Any:
    return dict(row.extra_specs) if call.allows(SPECS_INDEX) else msgspec.UNSET


SPECS_INDEX = "os_compute_api:os-flavor-extra-specs:index"
_ACCESS = "os_compute_api:os-flavor-access"
_ONE = "/flavors/{flavor_id}"

FLAVORS = Resource(
    row=Flavor,
    name="flavor",
    visible=visible,
    narrow=narrow,
    policy={
        "list": READER_ANY, "show": READER_ANY, "create": ADMIN, "update": ADMIN, "delete": ADMIN, "all": ADMIN
    },
    rules={
        "create": "os_compute_api:os-flavor-manage:create",
        "update": "os_compute_api:os-flavor-manage:update",
        "delete": "os_compute_api:os-flavor-manage:delete",
        "addTenantAccess": f"{_ACCESS}:add_tenant_access",
        "removeTenantAccess": f"{_ACCESS}:remove_tenant_access",
    },
    since={"update": Version(2, 55)},
    status={"create": 200, "delete": 202},
    create_body=create_body,
    update_body=FlavorUpdate,
    create=create,
    delete=delete,
    actions={
        "addTenantAccess": Action(run=add_access, body=Tenant, policy=ADMIN, status=200),
        "removeTenantAccess": Action(run=remove_access, body=Tenant, policy=ADMIN, status=200),
    },
    filters={
        "is_public": lambda call, values: None,  # in narrow()
        "minRam": _least("minRam", Flavor.ram),
        "minDisk": _least("minDisk", Flavor.disk),
        "name": _named,
    },
    computed={
        "swap": Computed(get=lambda call, row: row.swap or (0 if call.at_least("2.75") else "")),
        "rxtx_factor": Computed(get=lambda call, row: row.rxtx_factor, until=Version(2, 101)),
        "OS-FLV-DISABLED:disabled": Computed(get=lambda call, row: False, until=Version(2, 101)),
        "extra_specs": Computed(get=_specs, since=Version(2, 61)),
        "links": Computed(get=lambda call, row: links(call, f"/flavors/{row.id}"), brief=True),
    },
    default_sort=(("id", False),),
)  # fmt: skip

ROUTES = (
    Route(method="GET", path=f"{_ONE}/os-flavor-access", handler=list_access, policy=_ACCESS, check=ADMIN),
    Route(method="GET", path=f"{_ONE}/os-extra_specs", handler=list_specs, policy=SPECS_INDEX, check=READER_ANY),
    Route(
        method="POST", path=f"{_ONE}/os-extra_specs", handler=create_specs, body=ExtraSpecs,
        policy="os_compute_api:os-flavor-extra-specs:create", check=ADMIN,
    ),
    Route(
        method="GET", path=f"{_ONE}/os-extra_specs/{{key}}", handler=show_spec,
        policy="os_compute_api:os-flavor-extra-specs:show", check=READER_ANY,
    ),
    Route(
        method="PUT", path=f"{_ONE}/os-extra_specs/{{key}}", handler=update_spec,
        body=dict[MetaKey, Annotated[str, msgspec.Meta(max_length=255)] | int | float],
        policy="os_compute_api:os-flavor-extra-specs:update", check=ADMIN,
    ),
    Route(
        method="DELETE", path=f"{_ONE}/os-extra_specs/{{key}}", handler=delete_spec,
        policy="os_compute_api:os-flavor-extra-specs:delete", check=ADMIN,
    ),
)  # fmt: skip

# What a new cloud offers: the field's five, and sizes that fit the starter guest.
DEFAULTS = (
    ("1", "m1.tiny", 512, 1, 1),
    ("2", "m1.small", 2048, 20, 1),
    ("3", "m1.medium", 4096, 40, 2),
    ("4", "m1.large", 8192, 80, 4),
    ("5", "m1.xlarge", 16384, 160, 8),
    ("6", "m1.starter", 128, 1, 1),
    ("7", "m1.starter.large", 192, 2, 1),
)


def bootstrap(session: Session) -> None:
    """Make the default flavors where no flavor of that id or name stands."""
    if session.execute(sa.select(Flavor.id).limit(1)).first():
        return
    for flavor_id, name, ram, disk, vcpus in DEFAULTS:
        session.add(Flavor(id=flavor_id, name=name, ram=ram, disk=disk, vcpus=vcpus))
