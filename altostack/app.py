"""The composition root: which services run here, with which database, bus, drivers and neighbours.

Everything that is shared is made here and handed in; no module holds state of its own, so two clouds fit into one
process.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from altostack import drivers, filters
from altostack.kit import api, auth, config
from altostack.kit.auth import Epoch, TokenCache
from altostack.kit.bus import Bus, MemoryBus
from altostack.kit.clients import Client, HttpTransport, RemoteError, ServiceToken, Transport, WsgiTransport
from altostack.kit.context import Context
from altostack.kit.db import Database
from altostack.kit.flow import LEASE, Engine
from altostack.kit.metrics import Metrics
from altostack.kit.migrations import migrate
from altostack.kit.policy import Policy
from altostack.kit.quota import Quotas
from altostack.kit.reconcile import Loop
from altostack.kit.route import CONTEXT_KEY
from altostack.kit.service import Node, Runtime, Service
from altostack.objectstore.config import Settings as ObjectSettings

if TYPE_CHECKING:
    from altostack.objectstore.store import Store

SERVICES = ("identity", "image", "placement", "network", "volume", "compute")
PASTE = Path(__file__).with_name("paste.ini")
# What identity's own process is to itself: it validates tokens on behalf of everybody.
_INSIDE = Context(
    user_id="altostack", user_name="altostack", roles=frozenset({"admin", "service"}), expires_at=1e12
)


class CloudSettings(config.Settings, frozen=True, kw_only=True):
    """[cloud]: what all services share.

    host, port: where the API listens. public_url: how clients reach it (default http://host:port). hosts: the nodes
    that this machine runs. database: SQLAlchemy URL with {state} and {service}. bus: see `altostack.kit.bus`;
    empty means a socket in the state folder. workers, threads: API processes and threads in each. flow_workers,
    flow_threads: processes that run lifecycles, and threads that each has for every service.
    """

    region: str = "RegionOne"
    host: str = "127.0.0.1"
    port: int = 8774
    console_port: int = 6080
    public_url: str = ""
    console_url: str = ""
    hosts: tuple[str, ...] = ("node-1",)
    simulate: bool = False
    database: str = "sqlite:///{state}/db/{service}.sqlite"
    durable: bool = (
        False  # SQLite: survive a power cut, not only a crash, at the price of a disk sync a commit
    )
    bus: str = ""
    bus_namespace: str = "altostack"  # keeps two clouds apart that share a broker
    workers: int = 2
    threads: int = 4
    flow_workers: int = 1
    flow_threads: int = 4


def load_services(names: Iterable[str] = SERVICES) -> dict[str, Service]:
    """The declared services by name."""
    return {name: importlib.import_module(f"altostack.{name}").SERVICE for name in names}


def settings_class(services: Mapping[str, Service]) -> Any:
    """The shape of altostack.toml: [cloud] and one section a service."""
    sections: list[Any] = [
        ("cloud", CloudSettings, CloudSettings()),
        ("objectstore", ObjectSettings, ObjectSettings()),
    ]
    for name, service in services.items():
        if service.settings is not None:
            sections.append((name, service.settings, service.settings()))
    return msgspec.defstruct(
        "AltostackSettings", sections, frozen=True, kw_only=True, forbid_unknown_fields=True
    )


def object_address(settings: Any) -> tuple[str, int]:
    """Where the object store listens: (host, port)."""
    chosen: ObjectSettings = settings.objectstore
    return chosen.host or settings.cloud.host, chosen.port or settings.cloud.port + 2


class Cloud:
    """All services of one cloud, as one process sees them.

    state: the cloud's folder. settings: an instance of `settings_class`. secrets: plain strings ("node_key",
    "metadata_secret", "admin_password", "demo_password"). remote: the URL of an API elsewhere; without it neighbours
    are called in this process. objects: whether the object store is part of it.
    """

    def __init__(
        self,
        state: Path,
        settings: Any,
        secrets: Mapping[str, str],
        *,
        services: Mapping[str, Service] | None = None,
        remote: str | None = None,
        objects: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = state
        self._with_objects = objects
        self.settings = settings
        self.services = dict(services or load_services())
        cloud: CloudSettings = settings.cloud
        self.url = cloud.public_url.rstrip("/") or f"http://{cloud.host}:{cloud.port}"
        self.object_address = object_address(settings)
        self.object_url = settings.objectstore.public_url.rstrip("/") or "http://{}:{}".format(
            *self.object_address
        )
        self.secrets = dict(secrets)
        for name in (*self.services, "objectstore") if objects else self.services:
            self.secrets.setdefault(
                f"service_password_{name}", _derive(secrets["node_key"], f"service:{name}")
            )
        self.epoch = Epoch(state / "run" / "epoch")
        self._clock = clock
        self.facts: dict[str, Any] = {
            "region": cloud.region,
            "auth_url": f"{self.url}/identity/v3",
            "state": state,
            "secrets": self.secrets,
            "simulate": cloud.simulate,
            "keys": state / "keys",
            "epoch": self.epoch,
            "console_url": cloud.console_url or f"http://{cloud.host}:{cloud.console_port}",
            "catalog": self.catalog(),
            "hosts": cloud.hosts,
        }
        self.runtimes: dict[str, Runtime] = {}
        self._metrics: Metrics | None = None
        self._apps: dict[str, Callable[..., Iterable[bytes]]] = {}
        self._remote = remote
        self.tokens = TokenCache(self._validate, self.epoch, clock=clock)
        self._bus: Bus = MemoryBus()
        for name, service in self.services.items():
            self.runtimes[name] = self._runtime(name, service, cloud)
        for runtime in self.runtimes.values():
            runtime.clients = {name: self.client(name, runtime.service.name) for name in self.services}
        paste = state / "paste.ini"
        for name, runtime in self.runtimes.items():
            self._apps[name] = filters.pipeline(
                paste if paste.exists() else PASTE,
                name,
                app=api.build(runtime),
                tokens=self.tokens,
                node_key=self.secrets["node_key"],
            )
        self._prefixes = {service.prefix: name for name, service in self.services.items()}

    def _runtime(self, name: str, service: Service, cloud: CloudSettings) -> Runtime:
        url = cloud.database.format(state=self.state, service=name)
        policy = self.state / "policy" / f"{name}.yaml"
        return Runtime(
            service=service,
            db=Database(url, name=name, durable=cloud.durable),
            policy=Policy(api.rules(service), policy if policy.exists() else None),
            quotas=Quotas(service.metadata, service.quotas, service.resources),
            bus=self._bus,
            settings=getattr(self.settings, name, None),
            clients={},
            url=self.url + service.prefix,
            cloud=self.facts,
            drivers=drivers.of_service(name, self.state, self.settings, self._objects),
            clock=self._clock,
            node_key=self.secrets["node_key"],
        )

    def catalog(self) -> list[tuple[str, str, str]]:
        """(service type, service name, URL) of every entry in the catalogue."""
        found = []
        for name, service in self.services.items():
            for kind in (service.type, *service.aliases):
                found.append((kind, name, self.url + service.endpoint))
        if not self._with_objects:
            return found
        prefix = self.settings.objectstore.account_prefix
        found.append(("object-store", "objectstore", f"{self.object_url}/v1/{prefix}%(project_id)s"))
        found.append(("s3", "s3", self.object_url))
        return found

    def object_store(self) -> Store:
        """The object store as this process sees it; it needs no database and no bus.

        Raises ValueError for wrong settings, OSError when its folders cannot be used.
        """
        from altostack.objectstore import compose
        from altostack.objectstore.care.key import cluster_key
        from altostack.objectstore.middleware.acl import RULES

        policy = self.state / "policy" / "objectstore.yaml"
        return compose.open_store(
            self.state,
            self.settings.objectstore,
            key=cluster_key(self.state),
            url=self.object_url,
            region=self.settings.cloud.region,
            tokens=self.tokens,
            rules=Policy(RULES, policy if policy.exists() else None),
            clients={"identity": self.client("identity", "objectstore")},
        )

    def _objects(self, caller: str) -> tuple[Client, Callable[[], str]]:
        """A client of the object store with the authority of service ``caller``, and the path of its account."""
        own = ServiceToken(lambda: self._issue(caller), clock=self._clock)

        def account() -> str:
            bearer = self.tokens.get(own.get())
            if bearer is None:
                raise RemoteError("identity", 401, f"the token of service {caller} is worth nothing")
            return f"/v1/{self.settings.objectstore.account_prefix}{bearer.project_id}"

        return Client("objectstore", HttpTransport(self.object_url), own), account

    # ---- neighbours and tokens

    def client(self, name: str, caller: str | None = None) -> Client:
        """A client of service ``name``; ``caller`` names the service whose own token it uses by default."""
        service = self.services[name]
        versions = service.ladder.service if service.ladder else None
        own = ServiceToken(lambda: self._issue(caller), clock=self._clock) if caller else None
        return Client(name, self.transport(name), own, versions=versions)

    def transport(self, name: str) -> Transport:
        """How requests to service ``name`` travel from here."""
        prefix = self.services[name].prefix
        if self._remote:
            return HttpTransport(self._remote + prefix)
        return WsgiTransport(lambda environ, respond: self._apps[name](environ, respond))

    def _issue(self, caller: str) -> tuple[str, float]:
        """A token of the service user ``caller``."""
        return self.log_in(caller, self.secrets[f"service_password_{caller}"], "service")

    def log_in(self, user: str, password: str, project: str) -> tuple[str, float]:
        """A token by password, scoped to a project of the default domain, and when it ends (epoch seconds).

        Raises RemoteError when identity refuses.
        """
        domain = {"id": "default"}
        who = {"name": user, "domain": domain, "password": password}
        identity = {"methods": ["password"], "password": {"user": who}}
        body = {"auth": {"identity": identity, "scope": {"project": {"name": project, "domain": domain}}}}
        answer = Client("identity", self.transport("identity")).send(
            "POST",
            "/v3/auth/tokens?nocatalog",
            msgspec.json.encode(body),
            headers={"Content-Type": "application/json"},
        )
        raw = answer.read()
        if answer.status != 201:
            raise RemoteError(
                "identity", answer.status, f"no token for {user}: {raw[:200].decode(errors='replace')}"
            )
        expires = msgspec.json.decode(raw)["token"]["expires_at"]
        return answer.headers["x-subject-token"], _epoch_seconds(expires)

    def _validate(self, token: str) -> Context | None:
        if not token.isascii() or any(ord(c) < 33 for c in token):
            return None
        headers = {"X-Subject-Token": token}
        if self._remote:
            headers["X-Auth-Token"] = token  # a token may validate itself
            transport = self.transport("identity")
        else:
            transport = WsgiTransport(self._identity_inside)
        answer = transport.request("GET", "/v3/auth/tokens?nocatalog", headers, None)
        raw = answer.read()
        return bearer(token, msgspec.json.decode(raw)["token"]) if answer.status == 200 else None

    def _identity_inside(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        """Identity without the token filter, which asks this very question."""
        environ[CONTEXT_KEY] = _INSIDE
        runtime = self.runtimes["identity"]
        inside = runtime.__dict__.get("_inside")
        if inside is None:
            inside = runtime.__dict__["_inside"] = api.build(runtime)
        return inside(environ, respond)

    # ---- the parts of a process

    def open(self, bus: Bus) -> None:
        """Take this process's bus. After a fork: call this in the child."""
        for runtime in self.runtimes.values():
            runtime.bus = bus
            runtime.db.forget()
        self._bus = bus
        self.epoch.bump()  # whoever died may have committed a change and not come to say so

    def measure(self, metrics: Metrics) -> None:
        """Count this process's requests in ``metrics``, and serve the cloud's sums at /metrics."""
        from prometheus_client import Histogram

        seconds = Histogram(
            "altostack_http_request_seconds",
            "Requests answered, by service, method, route and status, with their durations.",
            ("service", "method", "route", "status"),
            registry=metrics.registry,
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
        )

        def counter(name: str) -> Callable[[str, str, int, float], None]:
            return lambda route, method, status, took: seconds.labels(
                name, method, route, str(status)
            ).observe(took)

        for name, runtime in self.runtimes.items():
            runtime.observe = counter(name)
        self._metrics = metrics

    def prepare(self, progress: Callable[[str], None] = lambda line: None) -> None:
        """Schemas and first contents of every service. Idempotent; may be killed anywhere and run again."""
        for name, runtime in self.runtimes.items():
            folder = (
                runtime.service.migrations
                or Path(str(importlib.import_module(f"altostack.{name}").__file__)).parent / "migrations"
            )
            migrate(runtime.db, runtime.service.metadata, folder)
            if runtime.service.bootstrap is not None:
                runtime.service.bootstrap(runtime)
            progress(f"{name}: ready")
        if self._with_objects:
            from altostack.objectstore import compose

            compose.prepare(self.state, self.settings.objectstore)
            progress("objectstore: ready")
        self.epoch.bump()

    def __call__(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        """The whole cloud as one WSGI application, each service under its prefix."""
        path = environ["PATH_INFO"]
        prefix = "/" + path.lstrip("/").partition("/")[0]
        name = self._prefixes.get(prefix)
        if name is None:
            return self._index(environ, respond)
        environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + prefix
        environ["PATH_INFO"] = path[len(prefix) :] or "/"
        return self._apps[name](environ, respond)

    def _index(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        """What is at the root: where the services are. Anything else that no service answers is a 404."""
        if environ["PATH_INFO"] == "/metrics" and self._metrics is not None:
            return self._metrics.app()(environ, respond)
        root = environ["PATH_INFO"] in ("", "/")
        body = (
            {"cloud": "altostack", "services": {n: self.url + s.endpoint for n, s in self.services.items()}}
            if root
            else {"error": {"code": 404, "title": "Not Found", "message": "No service lives at this path."}}
        )
        respond("200 OK" if root else "404 Not Found", [("Content-Type", "application/json")])
        return [msgspec.json.encode(body)]

    def engines(self, *, lease: float = LEASE, probe: Callable[[str], None] | None = None) -> list[Engine]:
        """One flow engine a service that has flows; ``lease`` and ``probe`` as in `Engine`."""
        threads = self.settings.cloud.flow_threads
        found = []
        for runtime in self.runtimes.values():
            if runtime.kinds():
                runtime.engine = Engine(runtime, threads=threads, lease=lease, probe=probe)
                found.append(runtime.engine)
        return found

    def loops(self) -> list[Loop]:
        """The periodic work of every service."""
        return [
            loop
            for runtime in self.runtimes.values()
            if runtime.service.loops is not None
            for loop in runtime.service.loops(runtime)
        ]

    def node(self, host: str) -> Node:
        """A node of this machine, with its drivers."""
        root = self.state / "nodes" / host
        root.mkdir(parents=True, exist_ok=True)
        return Node(
            host=host,
            root=root,
            drivers=drivers.of_node(self.state, root, host, self.settings),
            token=auth.node_token(self.secrets["node_key"], host),
        )

    def agents(self, node: Node) -> list[Loop]:
        """The loops of every service's agent on ``node``."""
        return [
            loop
            for runtime in self.runtimes.values()
            if runtime.service.agents is not None
            for loop in runtime.service.agents(runtime, node)
        ]

    def close(self) -> None:
        """Close connections."""
        self._bus.close()
        for runtime in self.runtimes.values():
            runtime.db.close()

    def erase(self) -> None:
        """Remove the databases' files and keys (tests)."""
        for part in ("db", "keys"):
            shutil.rmtree(self.state / part, ignore_errors=True)


def bearer(token: str, body: Mapping[str, Any]) -> Context:
    """The identity API's token object as a `Context`."""
    user = body["user"]
    project = body.get("project") or {}
    domain = body.get("domain") or {}
    return Context(
        user_id=user["id"],
        user_name=user["name"],
        user_domain_id=user["domain"]["id"],
        user_domain_name=user["domain"].get("name", ""),
        project_id=project.get("id"),
        project_name=project.get("name"),
        project_domain_id=(project.get("domain") or {}).get("id"),
        project_domain_name=(project.get("domain") or {}).get("name"),
        domain_id=domain.get("id"),
        domain_name=domain.get("name"),
        system=bool(body.get("system")),
        roles=frozenset(role["name"] for role in body.get("roles", ())),
        token=token,
        expires_at=_epoch_seconds(body["expires_at"]),
        methods=tuple(body.get("methods", ())),
        audit_ids=tuple(body.get("audit_ids", ())),
        trust_id=(body.get("OS-TRUST:trust") or {}).get("id"),
        application_credential=body.get("application_credential"),
    )


def _epoch_seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _derive(key: str, purpose: str) -> str:
    """A secret for one purpose from the cloud's own key."""
    return hmac.new(key.encode(), purpose.encode(), hashlib.sha256).hexdigest()
