"""A small service that uses every rung of the kit: what the kit's tests talk to."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.orm import Mapped

from altostack.kit import db, flow, quota
from altostack.kit.api import signal, view
from altostack.kit.auth import AuthFilter, Epoch, RequestIdFilter, TokenCache
from altostack.kit.bus import MemoryBus
from altostack.kit.call import Call
from altostack.kit.clients import Client, ServiceToken, WsgiTransport
from altostack.kit.context import Context
from altostack.kit.db import Database, Row
from altostack.kit.dialect import Dialect
from altostack.kit.errors import ApiError, Conflict
from altostack.kit.flow import Flow, Next, done, hop, wait
from altostack.kit.policy import ADMIN, MEMBER, PUBLIC, READER, Policy
from altostack.kit.quota import Quotas
from altostack.kit.resource import Action, Computed, Resource, Timed, field, key, private
from altostack.kit.route import Route
from altostack.kit.service import Runtime, Service
from altostack.kit.versions import Change, Ladder, Version
from tests.databases import make_empty, url_for


class Status(enum.StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    ERROR = "error"


class ToyRow(Row):
    __abstract__ = True
    metadata = db.metadata()


flow.tables(ToyRow.metadata)
quota.tables(ToyRow.metadata)


class Widget(Timed, ToyRow):
    __tablename__ = "widgets"
    id: Mapped[str] = key()
    project_id: Mapped[str] = field(wire="tenant_id", show="admin", max_length=64)
    name: Mapped[str | None] = field(create=True, update=True, brief=True, filter=True, sort=True)
    size: Mapped[int] = field(required=True, sort=True, filter=True, ge=1, doc="Size in GiB.")
    status: Mapped[Status] = field(default=Status.CREATING, filter=True, sort=True)
    label: Mapped[str | None] = field(create=True, since="1.3")
    tags: Mapped[list[str]] = field(create=True, default=[])
    pool: Mapped[str | None] = private()
    wanted: Mapped[int] = private(default=0)
    notes: Mapped[dict[str, Any]] = private(default={})


class WidgetLife(Flow[Widget]):
    def provision(self) -> Next:
        self.runtime.drivers["toy"].setdefault(self.row.id, self.row.size)
        self.row.pool = "pool-a"
        return hop(self.settle)

    def settle(self) -> Next:
        self.row.status = Status.AVAILABLE
        return hop(self.rest)

    def rest(self) -> Next:
        if (asked := self.take("extend")) is not None:
            self.row.wanted = asked["size"]
            return hop(self.extend)
        return wait()

    def extend(self) -> Next:
        self.runtime.drivers["toy"][self.row.id] = self.row.wanted
        self.row.size = self.row.wanted
        return hop(self.settle)

    def failed(self, name: str, reason: str) -> Next:
        self.row.status = Status.ERROR
        return hop(self.rest)

    def destroy(self) -> Next:
        self.runtime.drivers["toy"].pop(self.row.id, None)
        return done()


class Extend(msgspec.Struct, forbid_unknown_fields=True):
    new_size: int


def extend(call: Call, row: Widget) -> None:
    if row.status != Status.AVAILABLE:
        raise Conflict(f"Widget {row.id} is {row.status}, not available.", field="status")
    signal(call, row, "extend", {"size": call.body.new_size})


def upper(call: Call, row: Widget) -> Any:
    return {"widget": view(call, WIDGETS, row)}


def _old(answer: dict[str, Any]) -> None:
    answer["gigabytes"] = answer.pop("size", None)


def _old_request(body: dict[str, Any]) -> None:
    if "gigabytes" in body:
        body["size"] = body.pop("gigabytes")


WIDGETS = Resource(
    row=Widget,
    name="widget",
    owner=Widget.project_id,
    policy={
        "list": READER,
        "show": READER,
        "create": MEMBER,
        "update": MEMBER,
        "delete": MEMBER,
        "all": ADMIN,
    },
    quota={"widgets": 1, "gigabytes": Widget.size},
    actions={"os-extend": Action(run=extend, body=Extend)},
    computed={
        "links": Computed(get=lambda call, row: [{"href": call.link(f"/widgets/{row.id}")}], brief=True)
    },
    changes=(Change(at=Version(1, 2), request=_old_request, response=_old),),
    flow=WidgetLife,
)


def render(error: ApiError, request_id: str) -> Any:
    return {error.title: {"code": error.code, "message": error.message, "field": error.field}}


DIALECT = Dialect(
    error=render, policy_name=lambda resource, op: f"toy:{resource.name}:{op}", detail=True, create_status=202,
    delete_status=202, all_projects="all_tenants", max_limit=100,
)  # fmt: skip

SERVICE = Service(
    name="toy", type="toy", title="Toys", prefix="/toy", root="/v1", endpoint="/v1", dialect=DIALECT,
    metadata=ToyRow.metadata, resources=(WIDGETS,),
    routes=(
        Route(method="GET", path="//", handler=lambda call: {"versions": ["v1"]}, policy=PUBLIC),
        Route(method="GET", path="/boom", handler=lambda call: 1 // 0, policy=PUBLIC),
    ),
    ladder=Ladder(service="toy", low=Version(1, 1), high=Version(1, 3), legacy="X-Toy-Version"),
    quotas={"widgets": 10, "gigabytes": 1000}, path_project=True,
)  # fmt: skip

PEOPLE = {
    "admin": Context(
        user_id="a",
        token="admin",
        project_id="0" * 32,
        roles=frozenset({"admin", "member", "reader"}),
        expires_at=9e9,
    ),
    "member": Context(
        user_id="m",
        token="member",
        project_id="1" * 32,
        roles=frozenset({"member", "reader"}),
        expires_at=9e9,
    ),
    "reader": Context(
        user_id="r", token="reader", project_id="1" * 32, roles=frozenset({"reader"}), expires_at=9e9
    ),
    "other": Context(
        user_id="o", token="other", project_id="2" * 32, roles=frozenset({"member", "reader"}), expires_at=9e9
    ),
}


class Toy:
    """The service running in this process."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        from altostack.kit.api import build, rules

        self.db = Database(url or url_for(folder, "toy"), name="toy")
        make_empty(self.db, SERVICE.metadata)
        self.bus = MemoryBus()
        self.runtime = Runtime(
            service=SERVICE, db=self.db, policy=Policy(rules(SERVICE)),
            quotas=Quotas(SERVICE.metadata, SERVICE.quotas, SERVICE.resources), bus=self.bus, settings=None,
            clients={}, url="http://cloud/toy", drivers={"toy": {}}, node_key="k",
        )  # fmt: skip
        self.tokens = TokenCache(PEOPLE.get, Epoch(folder / "epoch"))
        self.app = RequestIdFilter(AuthFilter(build(self.runtime), self.tokens, "k"))
        self.client = Client(
            "toy", WsgiTransport(self.app), ServiceToken(lambda: ("admin", 9e9)), versions="toy"
        )

    def call(self, method: str, path: str, json: Any = None, *, who: str = "member", **more: Any) -> Any:
        return self.client.call(method, path, json, token=who, **more)

    def close(self) -> None:
        self.db.close()
        self.bus.close()
