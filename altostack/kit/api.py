"""The compiler: a `Resource` becomes routes, and a `Service` a WSGI application."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import falcon
import msgspec
import sqlalchemy as sa

from altostack.kit import flow as flows
from altostack.kit import listing
from altostack.kit.body import convert
from altostack.kit.call import Call, Reply
from altostack.kit.dialect import Dialect
from altostack.kit.errors import ApiError, BadRequest, MethodNotAllowed
from altostack.kit.listing import rule_name
from altostack.kit.policy import ADMIN, PUBLIC, SERVICE
from altostack.kit.resource import Action, Resource, body_struct, columns, given, struct
from altostack.kit.route import Endpoint, Route, envelope_attr, fail, from_falcon, negotiate, surprise
from altostack.kit.service import Runtime, Service
from altostack.kit.versions import Version
from altostack.kit.view import Views

_PROJECT = re.compile(r"^/([0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?=/|$)")


# ---- the building blocks, for handlers of any rung


def views(call: Call, resource: Resource) -> Views:
    """The compiled views of ``resource``."""
    cache: dict[str, Views] = call.runtime.memo.setdefault("views", {})
    found = cache.get(resource.name)
    if found is None or found.resource is not resource:
        found = cache[resource.name] = Views(
            resource, call.runtime.service.dialect, rule_name(call, resource, "admin_fields")
        )
    return found


def view(
    call: Call, resource: Resource, row: Any, *, op: str = "show", brief: bool = False
) -> dict[str, Any]:
    """One row's JSON object, without its envelope."""
    return views(call, resource).view(call, row, op=op, brief=brief)


def load(
    call: Call,
    resource: Resource,
    key: str | None = None,
    op: str | None = None,
    *,
    rule: str | None = None,
    lock: bool = False,
) -> Any:
    """The row that ``key`` (default: the path's id) names, if the caller may see it and do ``op`` to it.

    ``rule`` names the policy where the operation's own will not do. Raises the dialect's 404 for a row that is not
    there or not visible, Forbidden when policy says so.
    """
    rule = rule or (rule_name(call, resource, op) if op is not None else None)
    key = call.params[resource.param] if key is None else key
    row = None
    if "\x00" not in key and len(key) <= 255:
        query = sa.select(resource.row).where(
            getattr(resource.row, resource.lookup) == key, *listing.visible(call, resource)
        )
        if lock and call.runtime.db.dialect != "sqlite":
            query = query.with_for_update()
        row = call.session.execute(query).scalars().first()
    if row is None:
        first = call.runtime.service.dialect.refuse_first
        if rule is not None and (first(resource, op or "") if callable(first) else first):
            call.require(rule, call.params)
        raise call.runtime.service.dialect.not_found(resource, key)
    if rule is not None:
        call.require(rule, row)
    return row


def page(
    call: Call,
    resource: Resource,
    *,
    brief: bool | None = None,
    options: tuple[Any, ...] = (),
    extra: tuple[Any, ...] = (),
) -> dict[str, Any]:
    """The whole answer to a list request."""
    dialect = call.runtime.service.dialect
    short = brief
    if short is None:  # what has no brief fields is listed whole
        short = dialect.detail and not call.route.path.endswith("/detail") and _has_brief(resource)
    rows, more = listing.fetch(call, resource, options=options, extra=extra)
    found: dict[str, Any] = {
        resource.envelope_plural or resource.collection: views(call, resource).many(call, rows, brief=short)
    }
    found.update(dialect.page_links(call, resource, rows, more))
    return found


def add(call: Call, resource: Resource, row: Any) -> Any:
    """Put a new row under its owner in the call's transaction: id, quota claimed, lifecycle begun."""
    dialect = call.runtime.service.dialect
    primary = sa.inspect(resource.row).primary_key[0]
    attr = sa.inspect(resource.row).get_property_by_column(primary).key
    if getattr(row, attr) is None and primary.default is None and isinstance(primary.type, sa.String):
        setattr(row, attr, dialect.new_id())
    if resource.owner is not None and getattr(row, resource.owner.key) is None:
        setattr(row, resource.owner.key, call.context.project_id)
    if resource.quota:
        claim(call, resource, [row])
    call.session.add(row)
    call.session.flush()
    if resource.flow is not None:
        flows.start(call.session, resource.name, resource.flow, row)
        wake(call)
    return row


def claim(call: Call, resource: Resource, rows: list[Any]) -> None:
    """Check the quota that ``rows`` will use, for the project of the first. Raises OverQuota."""
    wanted: dict[str, int] = {}
    for name, what in resource.quota.items():
        if isinstance(what, int):
            wanted[name] = what * len(rows)
        elif hasattr(what, "key"):
            wanted[name] = sum(getattr(row, what.key) or 0 for row in rows)
    project = getattr(rows[0], resource.owner.key)
    call.runtime.quotas.claim(call.session, project, wanted)


def remove(call: Call, resource: Resource, row: Any) -> None:
    """Delete the row, or doom its lifecycle, in the call's transaction."""
    if resource.flow is not None:
        flows.doom(call.session, row.id)
        wake(call)
    else:
        call.session.delete(row)
        call.session.flush()


def signal(call: Call, row: Any, name: str, body: Mapping[str, Any] | None = None) -> None:
    """Ask the row's lifecycle for ``name``, in the call's transaction."""
    flows.signal(call.session, row.id, name, body)
    wake(call)


def wake(call: Call) -> None:
    """Ring the service's workers after the commit."""
    runtime = call.runtime
    call.after(lambda: runtime.bus.ring(f"{runtime.service.name}.flows"))


# ---- compiling a resource


def routes_of(resource: Resource, dialect: Dialect) -> list[Route]:
    """The routes of one declaration."""
    base, one = resource.base, f"{resource.base}/{{{resource.param}}}"
    found: list[Route] = []

    def add_route(
        op: str, method: str, path: str, handler: Callable[[Call], Any], status: int, body: Any = None
    ) -> None:
        found.append(
            Route(
                method=method, path=path, handler=handler, guard=op in ("list", "create"), op=op, body=body,
                policy=resource.rules.get(op) or dialect.policy_name(resource, op), check=resource.policy[op],
                status=resource.status.get(op, status), since=resource.since.get(op),
                until=resource.until.get(op), resource=resource,
            )
        )  # fmt: skip

    if "list" in resource.policy:
        add_route("list", "GET", base, _lister(resource), 200)
        if dialect.detail and _has_brief(resource):
            add_route("list", "GET", f"{base}/detail", _lister(resource), 200)
    if "create" in resource.policy:
        add_route(
            "create",
            "POST",
            base,
            _creator(resource),
            dialect.create_status,
            _document(resource, "create", dialect),
        )
    if "show" in resource.policy:
        add_route("show", "GET", one, _shower(resource), 200)
    if "update" in resource.policy:
        add_route(
            "update",
            dialect.update_method,
            one,
            _updater(resource),
            dialect.update_status,
            _document(resource, "update", dialect),
        )
    if "delete" in resource.policy:
        add_route("delete", "DELETE", one, _deleter(resource), dialect.delete_status)
    for word, action in resource.actions.items():
        found.append(_action_route(resource, dialect, word, action, one))
    return found


def _has_brief(resource: Resource) -> bool:
    return sum(1 for column in columns(resource.row) if column.facet.brief) > 1 or any(
        computed.brief for computed in resource.computed.values()
    )


def _action_route(resource: Resource, dialect: Dialect, word: str, action: Action, one: str) -> Route:
    name = action.rule or resource.rules.get(word) or dialect.policy_name(resource, word)

    def run(call: Call) -> Any:
        _parent(call, resource)
        return action.run(call, load(call, resource, rule=name))

    return Route(
        method=action.method if action.path else "POST",
        path=f"{one}/{action.path}" if action.path else f"{one}/action",
        handler=run, guard=False, policy=name, check=action.policy or resource.policy.get("update", ADMIN),
        body=action.body, status=action.status or (dialect.action_status if not action.path else 200),
        since=action.since, until=action.until, word=None if action.path else word, resource=resource,
        op=word,
    )  # fmt: skip


def _parent(call: Call, resource: Resource) -> None:
    if resource.parent is not None:
        resource.parent(call)


def _wrap(call: Call, resource: Resource, payload: Any) -> Any:
    return {resource.envelope or resource.name: payload} if call.runtime.service.dialect.envelope else payload


def _lister(resource: Resource) -> Callable[[Call], Any]:
    def handler(call: Call) -> Any:
        _parent(call, resource)
        return page(call, resource)

    return handler


def _shower(resource: Resource) -> Callable[[Call], Any]:
    def handler(call: Call) -> Any:
        _parent(call, resource)
        return _wrap(call, resource, view(call, resource, load(call, resource, op="show")))

    return handler


def _creator(resource: Resource) -> Callable[[Call], Any]:
    def handler(call: Call) -> Any:
        _parent(call, resource)
        if resource.bulk and call.body is None:
            items = getattr(call.document, "many_" + resource.collection, msgspec.UNSET)
            if items is msgspec.UNSET:
                raise BadRequest(f"The body must hold '{resource.name}'.", field=resource.name)
            rows = [create(call, resource, given(item)) for item in items]
            return {resource.collection: [view(call, resource, row, op="create") for row in rows]}
        fields = given(call.body)
        if resource.extra is not None:
            fields[resource.extra] = _kept(call, resource, {})
        row = create(call, resource, fields)
        return (
            row if isinstance(row, Reply) else _wrap(call, resource, view(call, resource, row, op="create"))
        )

    return handler


def _kept(call: Call, resource: Resource, before: dict[str, Any]) -> dict[str, Any]:
    """The keys to keep that the schema does not know; what the service itself shows is not the client's to set."""
    own = {column.wire for column in columns(resource.row)} | set(resource.computed)
    return before | {name: value for name, value in call.extra.items() if name not in own}


def create(call: Call, resource: Resource, fields: dict[str, Any]) -> Any:
    """Make a row from what the client sent: the table's named functions, else its columns."""
    if resource.check is not None:
        resource.check(call, fields)
    if resource.create is not None:
        return resource.create(call, fields)
    return add(call, resource, resource.row(**fields))


def _updater(resource: Resource) -> Callable[[Call], Any]:
    def handler(call: Call) -> Any:
        _parent(call, resource)
        row = load(call, resource, op="update")
        fields = given(call.body)
        if resource.extra is not None and call.extra:
            fields[resource.extra] = _kept(call, resource, getattr(row, resource.extra))
        if resource.update is not None:
            resource.update(call, row, fields)
        else:
            for attr, value in fields.items():
                setattr(row, attr, value)
        call.session.flush()
        return _wrap(call, resource, view(call, resource, row, op="update"))

    return handler


def _deleter(resource: Resource) -> Callable[[Call], Any]:
    def handler(call: Call) -> Any:
        _parent(call, resource)
        row = load(call, resource, op="delete")
        if resource.delete is not None:
            return resource.delete(call, row)
        remove(call, resource, row)
        return None

    return handler


def _document(resource: Resource, op: str, dialect: Dialect) -> Callable[[Version | None], Any]:
    """The whole body's type, by version; compiled once for each."""
    made: dict[Version | None, Any] = {}

    def kind(version: Version | None) -> Any:
        if version not in made:
            inner: Any = body_struct(resource, op, version, open=dialect.open_bodies)
            if not dialect.envelope:
                made[version] = inner
                return inner
            name = resource.envelope or resource.name
            attr = envelope_attr(resource)
            bulk = resource.bulk and op == "create"
            fields: list[tuple[str, Any, bool]] = [(attr, inner, not bulk)]
            rename = {attr: name}
            if bulk:
                fields.append(("many_" + resource.collection, list[inner], False))
                rename["many_" + resource.collection] = resource.collection
            for word, extra in resource.extra_body.items():
                plain = "extra_" + re.sub(r"\W", "_", word)
                fields.append((plain, extra, False))
                rename[plain] = word
            made[version] = struct(f"{inner.__name__}Body", fields, rename=rename, open=dialect.open_bodies)
        return made[version]

    return kind


# ---- compiling a service


def routes(service: Service) -> list[Route]:
    """Every route of the service: the declared ones and the plain ones."""
    found = [route for resource in service.resources for route in routes_of(resource, service.dialect)]
    return [*service.routes, *found, *_common(service)]


def _common(service: Service) -> list[Route]:
    """What every service answers besides its API: whether it works, and what happened to something."""
    return [
        Route(method="GET", path="//healthcheck", handler=_health, policy=PUBLIC, doc="Whether the service works."),
        Route(
            method="GET", path="//internal/story/{key}", handler=_story, policy=f"{service.name}:story", check=ADMIN,
            doc="What happened to a resource, or under a request id.",
        ),
    ]  # fmt: skip


def _health(call: Call) -> dict[str, Any]:
    call.session.execute(sa.select(1))
    return {"status": "ok"}


def _story(call: Call) -> dict[str, Any]:
    key = call.params["key"]
    if "flows" not in call.runtime.service.metadata.tables:
        return {"story": [], "flow": None}
    return {"story": flows.story(call.session, key), "flow": flows.state(call.session, key)}


def rules(service: Service) -> dict[str, str]:
    """Every policy name of the service with its default check string."""
    found = {route.policy: route.check for route in routes(service) if route.check is not None}
    for resource in service.resources:
        for op in ("all", "admin_fields"):
            name = resource.rules.get(op) or service.dialect.policy_name(resource, op)
            found.setdefault(name, resource.policy.get(op, SERVICE))
    found.update(service.rules)
    return {name: check for name, check in found.items() if not name.startswith("@")}


class _Options:
    """What Falcon falls back to, in the service's own words."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def nowhere(self, req: falcon.Request, resp: falcon.Response, **kwargs: Any) -> None:
        negotiate(self._runtime, req, resp)
        raise falcon.HTTPNotFound

    def http_error(
        self, request: falcon.Request, response: falcon.Response, error: falcon.HTTPError, params: Any
    ) -> None:
        fail(self._runtime, request, response, from_falcon(error))

    def unexpected(
        self, request: falcon.Request, response: falcon.Response, error: Exception, params: Any
    ) -> None:
        known = error if isinstance(error, ApiError) else surprise(error, request)
        fail(self._runtime, request, response, known)


def build(runtime: Runtime) -> Callable[..., Iterable[bytes]]:
    """The WSGI application of one service, to be mounted at its prefix."""
    service = runtime.service
    app = falcon.App()
    app.req_options.strip_url_path_trailing_slash = True
    app.req_options.keep_blank_qs_values = True
    app.resp_options.default_media_type = None  # type: ignore[assignment]  # an answer without a body has no type
    app.resp_options.xml_error_serialization = False
    fallback = _Options(runtime)
    app.add_error_handler(falcon.HTTPError, fallback.http_error)
    app.add_error_handler(Exception, fallback.unexpected)
    paths: dict[str, list[Route]] = {}
    for route in routes(service):
        path = route.path[1:] if route.path.startswith("//") else service.root + route.path
        paths.setdefault(path, []).append(route)
    for path, found in paths.items():
        app.add_route(path.rstrip("/") or "/", Endpoint(runtime, found))
    app.add_sink(fallback.nowhere)
    return _PathProject(app, service.root) if service.path_project else app


class _PathProject:
    """``/v3/<project id>/volumes`` means ``/v3/volumes``; the route checks that the project is the token's."""

    def __init__(self, app: Callable[..., Iterable[bytes]], root: str) -> None:
        self._app, self._root = app, root

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith(self._root):
            rest = path[len(self._root) :]
            if found := _PROJECT.match(rest):
                environ["altostack.path_project"] = found.group(1).replace("-", "")
                environ["PATH_INFO"] = self._root + (rest[found.end() :] or "/")
        return self._app(environ, start_response)


__all__ = [
    "Call", "MethodNotAllowed", "Reply", "add", "build", "claim", "convert", "create", "load", "page", "remove",
    "routes", "rules", "signal", "view", "views", "wake",
]  # fmt: skip
