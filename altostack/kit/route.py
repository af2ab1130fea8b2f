"""Routes, and the way a request takes: version, token, policy, body, handler, transaction, answer."""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import falcon
import msgspec
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from altostack.kit import body as bodies
from altostack.kit import context as contexts
from altostack.kit.call import Call, Reply
from altostack.kit.context import NOBODY, Context
from altostack.kit.db import retry
from altostack.kit.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    OverQuota,
    Unauthorized,
    Unavailable,
)  # fmt: skip
from altostack.kit.policy import ANY, NODE, PUBLIC
from altostack.kit.resource import Resource
from altostack.kit.versions import Version

if TYPE_CHECKING:
    from altostack.kit.service import Runtime

log = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()
CONTEXT_KEY = "altostack.context"
CHAIN_KEY = "altostack.chain"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One way into a service.

    policy: PUBLIC, NODE, ANY, or a policy's name, whose default check string is ``check`` (None: declared elsewhere).
    guard: policy is required of the caller's own scope before the handler runs; else the handler does it on the row.
    body: the msgspec type of the document (or ``version -> type``); None reads no body. raw: the handler reads the
    stream itself, of any size. word: in ``/action`` posts, the key that selects this route. names: finds what the
    path names, and raises NotFound; asked only when the body is refused, where a 404 comes before a 400.
    """

    method: str
    path: str
    handler: Callable[[Call], Any]
    policy: str
    check: str | None = None
    guard: bool = True
    body: Any = None
    raw: bool = False
    status: int = 200
    since: Version | None = None
    until: Version | None = None
    word: str | None = None
    names: Callable[[Call], Any] | None = None
    resource: Resource | None = None
    op: str = ""
    doc: str = ""

    @property
    def name(self) -> str:
        """The route's stable name in tables and metrics."""
        return f"{self.method} {self.path}" + (f" {self.word}" if self.word else "")

    def kind(self, version: Version | None) -> Any:
        """The msgspec type of the document at ``version``."""
        plain = self.body is None or isinstance(self.body, type) or hasattr(self.body, "__origin__")
        return self.body if plain or not callable(self.body) else self.body(version)

    def speaks(self, version: Version | None) -> bool:
        """Whether the route exists at ``version``."""
        if version is None:
            return True
        return not (self.since and version < self.since) and not (self.until and version > self.until)


class Endpoint:
    """Everything at one path, as a Falcon resource."""

    def __init__(self, runtime: Runtime, routes: Iterable[Route]) -> None:
        self._runtime = runtime
        self._routes: dict[str, list[Route]] = {}
        for route in routes:
            self._routes.setdefault(route.method, []).append(route)
        if runtime.service.dialect.head and "GET" in self._routes and "HEAD" not in self._routes:
            self._routes["HEAD"] = self._routes["GET"]
        for method in falcon.constants.COMBINED_METHODS:
            setattr(self, f"on_{method.lower()}", self._respond)

    def _respond(self, request: falcon.Request, response: falcon.Response, **params: str) -> None:
        started = time.perf_counter()
        name = request.uri_template or "?"
        try:
            self._dispatch(request, response, params)
        except ApiError as error:
            fail(self._runtime, request, response, error)
        except Exception as error:
            fail(self._runtime, request, response, surprise(error, request))
        if self._runtime.observe:
            self._runtime.observe(name, request.method, response.status_code, time.perf_counter() - started)

    def _dispatch(self, request: falcon.Request, response: falcon.Response, params: dict[str, str]) -> None:
        runtime = self._runtime
        service = runtime.service
        candidates = self._routes.get(request.method)
        if candidates is None and request.method == "OPTIONS" and service.dialect.options:
            response.set_header("Allow", ", ".join([*self._routes, "OPTIONS"]))
            return
        version = negotiate(runtime, request, response)
        if candidates is None:
            raise MethodNotAllowed(
                f"The method {request.method} is not allowed for this resource.",
                headers={"Allow": ", ".join(self._routes)},
            )
        public = all(route.policy == PUBLIC for route in candidates)
        context: Context = request.env.get(CONTEXT_KEY) or NOBODY
        if not public:
            authenticated(candidates[0], context, params, request)
        if service.path_project:
            wrong = request.env.get("altostack.path_project")
            if wrong and wrong != context.project_id and not context.is_admin:
                raise BadRequest(
                    f"Malformed request url: its project {wrong} is not the token's.", field="project_id"
                )
        alive = [route for route in candidates if route.speaks(version)]
        if not alive:
            raise NotFound("The resource could not be found.")
        route, document = self._choose(request, alive)
        if not public:
            authenticated(route, context, params, request)
            self._permitted(context, request)
        shows = route.method == "GET" and route.status != 204 and not public
        if service.dialect.accept and shows and not request.client_accepts("application/json"):
            raise NotAcceptable("Only application/json is provided.")
        call = Call(runtime, route, request, context, params, version)
        if route.guard and route.policy not in (PUBLIC, NODE, ANY):
            call.require(route.policy)
        try:
            self._read(call, document)
        except BadRequest:
            if route.names is not None:
                try:
                    route.names(call)
                finally:
                    call.rollback()
            raise
        result = retry(lambda: self._attempt(call))
        answer(response, route, call, result)

    def _permitted(self, context: Context, request: falcon.Request) -> None:
        """Raises Unauthorized for what the access rules of an application credential leave out.

        A service that works for the bearer shows its own token beside: then the chain began with an allowed call.
        """
        service = self._runtime.service
        names = (service.type, *service.aliases)
        paths = [request.path]
        if project := request.env.get("altostack.path_project"):
            paths.append(f"{service.root}/{project}{request.path[len(service.root) :]}")
        if request.env.get(CHAIN_KEY) or any(context.may_call(names, request.method, path) for path in paths):
            return
        raise Unauthorized(
            f"The access rules of the application credential do not allow {request.method} {request.path} of the "
            f"{service.type} service."
        )

    def _choose(self, request: falcon.Request, alive: list[Route]) -> tuple[Route, Any]:
        if alive[0].word is None:
            return alive[0], None
        dialect = self._runtime.service.dialect
        bodies.check_media(request, dialect)
        document = bodies.decode(bodies.read(request, dialect.max_body), dict[str, Any])
        words = [route for route in alive if route.word in document]
        if len(document) != 1 or not words:
            known = sorted({route.word or "" for route in alive})
            asked = ", ".join(sorted(document)) or "nothing"
            raise BadRequest(
                f"There is no such action: {asked}. The body must hold exactly one of: {', '.join(known)}.",
                field=next(iter(document), "body"),
            )
        return words[0], document

    def _read(self, call: Call, document: Any) -> None:
        route, dialect = call.route, self._runtime.service.dialect
        if dialect.media_required:
            bodies.check_stated(call.request)
        kind = route.kind(call.version)
        if route.word is not None:
            inner = document[route.word]
            call.document = document
            if kind is not None:
                empty = inner is None and isinstance(kind, type) and issubclass(kind, msgspec.Struct)
                call.body = bodies.convert({} if empty else inner, kind, lax=dialect.lax, at=route.word)
            return
        if kind is None or route.raw:
            return
        raw = bodies.read(call.request, dialect.max_body)
        bodies.check_media(call.request, dialect)
        call.document = self._decode(call, raw, kind)
        envelope = route.resource and dialect.envelope and route.op in ("create", "update")
        if not envelope:
            call.body = call.document
            return
        assert route.resource is not None
        attr = envelope_attr(route.resource)
        if route.resource.bulk and getattr(call.document, attr, msgspec.UNSET) is msgspec.UNSET:
            call.body = None
        else:
            call.body = getattr(call.document, attr)
        if route.resource.extra is not None and isinstance(call.body, msgspec.Struct):
            known = {field.encode_name for field in msgspec.structs.fields(call.body)}
            sent = bodies.decode(raw, dict[str, Any])[route.resource.envelope or route.resource.name]
            call.extra = {name: value for name, value in sent.items() if name not in known}

    def _decode(self, call: Call, raw: bytes, kind: Any) -> Any:
        dialect, resource = self._runtime.service.dialect, call.route.resource
        changes = resource.changes if resource and call.version else ()
        due = [
            c
            for c in changes
            if c.request and call.version and call.version < c.at and call.route.op in c.ops
        ]
        if not due or resource is None:
            return bodies.decode(raw, kind, lax=dialect.lax, quote=dialect.quotes)
        document = bodies.decode(raw, dict[str, Any])
        inner = document.get(resource.envelope or resource.name) if dialect.envelope else document
        if isinstance(inner, dict):
            for change in due:
                assert change.request is not None
                change.request(inner)
        return bodies.convert(document, kind, lax=dialect.lax)

    def _attempt(self, call: Call) -> Any:
        try:
            result = call.route.handler(call)
            call.commit()
            return result
        except BaseException:
            call.rollback()
            raise


def envelope_attr(resource: Resource) -> str:
    """The attribute of a compiled document that holds the envelope's content."""
    return "inner_" + (resource.envelope or resource.name).replace("-", "_").replace(":", "_")


def negotiate(runtime: Runtime, request: falcon.Request, response: falcon.Response) -> Version | None:
    """The version asked for; the answer says it. Raises BadRequest and NotAcceptable as `Ladder.negotiate`."""
    ladder = runtime.service.ladder
    if ladder is None:
        return None
    version = ladder.negotiate({k.lower(): v for k, v in request.headers.items()})
    for header, value in ladder.headers(version).items():
        response.set_header(header, value)
    return version


def authenticated(route: Route, context: Context, params: dict[str, str], request: falcon.Request) -> None:
    """Raises Unauthorized (no valid token) or NotFound (not for such callers) unless the route may be tried."""
    if route.policy == PUBLIC:
        return
    if route.policy == NODE:
        if context.node is None or params.get("host", context.node) != context.node:
            raise NotFound("The resource could not be found.")
        return
    if context.node is not None or not context.user_id:
        reason = (
            request.env.get("altostack.auth_error") or "The request you have made requires authentication."
        )
        raise Unauthorized(reason)


def answer(response: falcon.Response, route: Route, call: Call, result: Any) -> None:
    """Turn a handler's result into the response."""
    status, payload, stream = route.status, result, None
    for header, value in call.headers.items():
        response.set_header(header, value)
    if isinstance(result, Reply):
        status, payload, stream = result.status or route.status, result.body, result.stream
        for header, value in result.headers.items():
            response.set_header(header, value)
    response.status = status
    if stream is not None:
        response.stream = stream
    elif payload is not None and status != 204:
        response.content_type = response.content_type or "application/json"
        response.data = _encoder.encode(payload)


def fail(runtime: Runtime, request: falcon.Request, response: falcon.Response, error: ApiError) -> None:
    """The service's own error body."""
    dialect = runtime.service.dialect
    response.status = dialect.over_quota if isinstance(error, OverQuota) else error.code
    for header, value in error.headers.items():
        response.set_header(header, value)
    if isinstance(error, Unauthorized) and dialect.www_authenticate:
        where = runtime.cloud.get("auth_url", runtime.url)
        response.set_header("WWW-Authenticate", f'Keystone uri="{where}"')
    response.content_type = "application/json"
    response.stream = None
    if (
        dialect.accept
        and not request.client_accepts("application/json")
        and request.client_accepts("text/html")
    ):
        response.content_type = "text/html; charset=UTF-8"
        title, said = html.escape(error.title), html.escape(error.message)
        response.data = f"<html><head><title>{title}</title></head><body>{said}</body></html>".encode()
        return
    body = dialect.error(error, contexts.request_id())
    response.data = None if body is None else body if isinstance(body, bytes) else _encoder.encode(body)


def surprise(error: Exception, request: falcon.Request) -> ApiError:
    """An exception that no handler stated, as an honest answer; the traceback goes to the log alone."""
    if isinstance(error, falcon.HTTPError):
        return from_falcon(error)
    if isinstance(error, IntegrityError):
        log.info("conflict at %s %s: %s", request.method, request.path, error.orig)
        return Conflict("The request conflicts with something that was there first or is still in use.")
    if isinstance(error, ConnectionError):
        return BadRequest("The request body ended before it was complete.")
    if isinstance(error, DataError):
        return BadRequest("A value is outside what the database can hold.")
    if isinstance(error, OperationalError | DBAPIError) and (
        isinstance(error, OperationalError) or error.connection_invalidated
    ):
        log.warning("database unavailable at %s %s: %s", request.method, request.path, error.orig)
        return Unavailable("The database did not answer; try again.", headers={"Retry-After": "1"})
    log.exception("unexpected at %s %s", request.method, request.path)
    return ApiError(
        f"An unexpected error prevented the server from fulfilling your request ({contexts.request_id()})."
    )


def from_falcon(error: falcon.HTTPError) -> ApiError:
    """Falcon's own errors (no such path, method not allowed) as ours."""
    code = error.status_code
    headers = dict(error.headers or {}) if not isinstance(error.headers, list) else dict(error.headers)
    if code == 404:
        return NotFound("The resource could not be found.")
    if code == 405:
        return MethodNotAllowed("The method is not allowed here.", headers=headers)
    if code == 403:
        return Forbidden(str(error.description or error.title))
    other = ApiError(str(error.description or error.title), code=code, headers=headers)
    other.title = HTTPStatus(code).phrase
    return other
