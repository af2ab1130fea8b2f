"""Who may do what: tokens of the identity service against accounts, containers and their ACLs.

The account of a project is its prefix and the project's id (``AUTH_<id>``). What an operator, a reader, a reseller's
administrator is, the policy engine says (`RULES`). The filter sets `Request.authorize`, which the proxy calls with the
container's ACL; filters before it that have another idea (`tempauth`, `tempurl`) have set theirs, which stays.

Facts it leaves in a request: "owner": whoever asks owns the account, so may see and set ACLs and keys; "reseller":
may do anything to any account.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

from altostack.kit.context import Context
from altostack.objectstore.http import Handler, Place, Refusal, Request, Response
from altostack.objectstore.middleware import grants
from altostack.objectstore.middleware.options import Wrap, store_of, words
from altostack.objectstore.store import Store

_OWN: Final = "project_id:%(project_id)s"
OPERATE: Final = "objectstore:operate"
READ: Final = "objectstore:read"
READ_ANY: Final = "objectstore:read_any"
RESELLER: Final = "objectstore:reseller"
SERVICE: Final = "objectstore:service"
RULES: Final[Mapping[str, str]] = {
    OPERATE: f"(role:admin or role:manager or role:member or role:swiftoperator) and {_OWN}",
    READ: f"role:reader and {_OWN}",
    READ_ANY: "!",
    RESELLER: "role:ResellerAdmin",
    SERVICE: "role:service",
}
"""Rule -> default check. operate: owns the project's account. read: GET and HEAD there. read_any: GET and HEAD in every
account. reseller: everything everywhere. service: its token beside a user's opens the user's service accounts."""

_SERVICES: Final = ("object-store", "objectstore", "swift")
_DOMAIN: Final = "x-account-sysmeta-project-domain-id"
_UNKNOWN: Final = "_unknown"  # of an account that somebody of another project made


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """service_prefixes: prefixes of accounts that also ask for a service's token (SERVICE_).

    default_domain_id: ACLs may name users and projects of this domain by their names, not their ids alone (default).
    allow_names_in_acls: no forbids even that.
    """
    store = store_of(conf)
    services = tuple(
        one if one.endswith("_") else f"{one}_" for one in words(local.get("service_prefixes", "SERVICE_"))
    )
    names = local.get("allow_names_in_acls", "yes").lower() not in ("no", "false", "off", "0")
    domain = local.get("default_domain_id", "default") if names else None
    return lambda app: Acl(app, store, services=services, names_of=domain)


def denied(request: Request) -> Refusal:
    """403 for somebody, 401 for nobody."""
    if request.context is not None:
        return Refusal(403)
    return Refusal(401, headers=challenge(request))


def challenge(request: Request, scheme: str = "Swift") -> dict[str, str]:
    """The header of a 401 that says what for."""
    place = request.place
    realm = quote(place.account) if place is not None else "unknown"
    return {"www-authenticate": f'{scheme} realm="{realm}"'}


class Acl:
    """services: prefixes of service accounts. names_of: the domain whose names ACLs may use, None for none."""

    def __init__(
        self,
        app: Handler,
        store: Store,
        *,
        services: tuple[str, ...] = ("SERVICE_",),
        names_of: str | None = "default",
    ) -> None:
        self._app, self._store = app, store
        self._services, self._names_of = services, names_of
        self._prefixes = (store.settings.account_prefix, *services)

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None:
            return self._app(request)
        check_headers(request, place)
        if request.authorize is None:
            self._enter(request, place)
        if place.object is None and request.method in ("PUT", "POST") and request.context is not None:
            self._note_domain(request, place, request.context)
        response = self._app(request)
        if place.container is None and request.facts.get("owner"):
            kept = response.headers.get(grants.ACCOUNT_STORED)
            if kept:
                response.headers[grants.ACCOUNT] = kept
        return response

    def _enter(self, request: Request, place: Place) -> None:
        request.authorize = self.authorize
        who = request.context
        if who is None:
            return
        if who.application_credential and not self._has_service(request):
            check_access_rules(who, request)
        if self._allows(RESELLER, who, ""):
            request.facts["reseller"] = True

    def authorize(self, request: Request, acl: str | None) -> None:
        """The proxy's question. Raises Refusal: 401, 403."""
        request.facts["owner"] = False
        self._decide(request, acl)

    def _decide(self, request: Request, acl: str | None) -> None:
        place = request.place
        if request.method == "OPTIONS":
            return
        if place is None:
            raise Refusal(404)
        given = grants.parse(acl)
        who = request.context
        if who is None:
            if self._referred(request, place, given):
                return
            raise denied(request)
        reads = request.method in ("GET", "HEAD")
        # An account is the reseller's to delete.
        unmakes = place.container is None and request.method == "DELETE"
        project = self._project(place.account)
        composite = place.account.startswith(self._services)
        own = project is not None and project == who.project_id
        operates = own and not unmakes and self._allows(OPERATE, who, project or "")
        if (operates and (not composite or self._has_service(request))) or self._allows(RESELLER, who, ""):
            request.facts["owner"] = True
            return
        if reads and self._allows(READ_ANY, who, ""):
            return
        if unmakes:
            raise denied(request)
        referred = self._referred(request, place, given)
        if referred or (given.names and self._named(place, who, given.names)):
            return
        if own and reads and not composite and self._allows(READ, who, project or ""):
            return
        roles = {role.lower() for role in who.roles}
        if own and referred is None and roles & {name.lower() for name in given.names}:
            return
        self._by_account(request, place, who)

    def _referred(self, request: Request, place: Place, given: grants.Grants) -> bool | None:
        """Whether anybody may do this; None when the ACL says nothing of pages from there."""
        if not given.admits(request.header("referer")):
            return None
        return place.object is not None or grants.LISTINGS in given.names

    def _named(self, place: Place, who: Context, names: frozenset[str]) -> bool:
        """Whether a container's ACL names the bearer."""
        if not who.user_id:
            return False
        projects, users = [who.project_id or "*", "*"], [who.user_id, "*"]
        ids = any(f"{project}:{user}" in names for project in projects for user in users)
        if ids or not self._names_count(place, who):
            return ids
        projects, users = [*projects, who.project_name or "*"], [*users, who.user_name or "*"]
        return any(f"{project}:{user}" in names for project in projects for user in users)

    def _names_count(self, place: Place, who: Context) -> bool:
        """Whether user, project and account are of the domain whose names are unique."""
        domain = self._names_of
        if domain is None or who.user_domain_id not in ("", domain):
            return False
        if who.project_domain_id not in (None, "", domain):
            return False
        if self._project(place.account) == who.project_id:
            return True
        account = self._store.known.account(place.account)
        return account is not None and account.metadata.get(_DOMAIN, ("", ""))[0] in ("", domain)

    def _by_account(self, request: Request, place: Place, who: Context) -> None:
        """By the account's own ACL. Raises Refusal."""
        account = self._store.known.account(place.account)
        kept = account.metadata.get(grants.ACCOUNT_STORED, ("", ""))[0] if account is not None else ""
        if not kept:
            raise denied(request)
        level = account_level(
            kept,
            lambda names: self._named(place, who, names) or who.project_id in names or who.user_id in names,
        )
        allow_by_level(request, place, level)

    def _project(self, account: str) -> str | None:
        for prefix in self._prefixes:
            if account.startswith(prefix) and len(account) > len(prefix):
                return account[len(prefix) :]
        return None

    def _has_service(self, request: Request) -> bool:
        service = request.facts.get("service")
        return isinstance(service, Context) and self._allows(SERVICE, service, "")

    def _allows(self, rule: str, who: Context, project: str) -> bool:
        rules = self._store.rules
        return rules is not None and rules.allows(rule, who, {"project_id": project})

    def _note_domain(self, request: Request, place: Place, who: Context) -> None:
        """Tell the account that is made or changed which domain its project is of: see `_names_count`."""
        if place.container is not None and request.method != "PUT":
            return
        own = self._project(place.account) == who.project_id
        account = self._store.known.account(place.account)
        held = account.metadata.get(_DOMAIN, ("", ""))[0] if account is not None else None
        if held is None:
            request.headers[_DOMAIN] = (who.project_domain_id or "") if own else _UNKNOWN
        elif place.container is None and own and held in ("", _UNKNOWN) and who.project_domain_id:
            request.headers[_DOMAIN] = who.project_domain_id


def check_access_rules(who: Context, request: Request) -> None:
    """Raises Refusal for what the access rules of an application credential leave out, copies' other end included."""
    calls = [(request.method, request.path)]
    place = request.place
    if place is not None and (source := request.header("x-copy-from")):
        account = request.header("x-copy-from-account") or place.account
        calls.append(("GET", f"/v1/{unquote(account)}/{unquote(source).lstrip('/')}"))
    if place is not None and request.method == "COPY":
        account = request.header("destination-account") or place.account
        calls[0] = ("GET", request.path)
        calls.append(("PUT", f"/v1/{unquote(account)}/{unquote(request.header('destination')).lstrip('/')}"))
    for method, path in calls:
        if not who.may_call(_SERVICES, method, path):
            raise Refusal(401, "The access rules of the application credential do not allow this request.")


def check_headers(request: Request, place: Place) -> None:
    """Clean the ACLs that a client sets. Raises Refusal(400) for what is none."""
    if request.method not in ("PUT", "POST") or place.object is not None:
        return
    headers = request.headers
    try:
        if place.container is not None:
            for name in (grants.READ, grants.WRITE):
                if headers.get(name):
                    headers[name] = grants.clean(name, headers[name])
        elif grants.ACCOUNT in headers:
            headers[grants.ACCOUNT_STORED] = grants.clean_account(headers.pop(grants.ACCOUNT))
    except ValueError as error:
        name = "X-Account-Access-Control: " if place.container is None else ""
        raise Refusal(400, f"{name}{error}") from None


def account_level(kept: str, named: Callable[[frozenset[str]], bool]) -> str | None:
    """The highest level at which an account's ACL names somebody; ``named``: whether one of these names is theirs."""
    for level, names in grants.parse_account(kept).items():
        if named(names):
            return level
    return None


def allow_by_level(request: Request, place: Place, level: str | None) -> None:
    """Raises Refusal for what a level of an account's ACL does not allow."""
    reads = request.method in ("GET", "HEAD")
    if level == "admin" and not (place.container is None and request.method == "DELETE"):
        request.facts["owner"] = True
    elif not (level == "read-write" and (reads or place.container is not None)) and not (level and reads):
        raise denied(request)
