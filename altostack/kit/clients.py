"""One client for neighbours, two transports: in-process WSGI, or HTTP.

Services reach each other only through their public API. What a service needs of a neighbour stands as a small
typed class in that service's own ``neighbours.py``, on top of `Client`.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from altostack.kit import context as contexts
from altostack.kit.auth import NODE_HEADER
from altostack.kit.db import writing

log = logging.getLogger(__name__)
_decode = msgspec.json.decode
_encode = msgspec.json.encode


@dataclass(frozen=True, kw_only=True)
class Response:
    """An answer. ``chunks`` yields the body; `json` reads it whole."""

    status: int
    headers: Mapping[str, str]  # keys in lower case
    chunks: Iterable[bytes]

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)


class RemoteError(Exception):
    """A neighbour refused. ``status`` is its HTTP status (0: it did not answer), the message its own words."""

    expected = True

    def __init__(self, service: str, status: int, message: str, body: Any = None) -> None:
        self.service, self.status, self.message, self.body = service, status, message, body
        super().__init__(f"{service} answered {status}: {message}" if status else f"{service}: {message}")


class Transport(Protocol):
    """Carries one request. Raises ConnectionError when the service cannot be reached."""

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response: ...


class WsgiTransport:
    """Calls a WSGI application in this process. ``app`` may be a callable that gives the app when first needed."""

    def __init__(self, app: Callable[..., Iterable[bytes]], *, prefix: str = "") -> None:
        self._app, self._prefix = app, prefix

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response:
        """Run the request in this thread; the answer's body may still be streaming."""
        target, _, query = path.partition("?")
        stream, length = _stream(body)
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": self._prefix + _unquote(target),
            "QUERY_STRING": query, "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": stream,
            "wsgi.errors": io.StringIO(), "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
        }  # fmt: skip
        if length is not None:
            environ["CONTENT_LENGTH"] = str(length)
        else:
            environ["HTTP_TRANSFER_ENCODING"] = "chunked"
        for name, value in headers.items():
            plain = name.upper().replace("-", "_")
            environ["CONTENT_TYPE" if plain == "CONTENT_TYPE" else f"HTTP_{plain}"] = value
        caught: list[Any] = []

        def start_response(status: str, found: list[tuple[str, str]], exc_info: Any = None) -> Any:
            caught[:] = [status, found]
            return lambda data: None

        request_id = contexts.request_id()
        chunks = self._app(environ, start_response)
        if request_id:
            contexts.set_request_id(request_id)
        status, found = caught
        return Response(
            status=int(status.split()[0]), headers={k.lower(): v for k, v in found}, chunks=_closing(chunks)
        )


class HttpTransport:
    """Calls a service over HTTP with a pool of connections. ``base`` is the service's URL without its root."""

    def __init__(self, base: str, *, timeout: float = 60.0, verify: str | bool = True) -> None:
        import urllib3

        self._base = base.rstrip("/")
        options: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED" if verify else "CERT_NONE"}
        if isinstance(verify, str):
            options["ca_certs"] = verify
        if urlsplit(base).scheme != "https":
            options = {}
        self._pool = urllib3.PoolManager(
            maxsize=16, timeout=urllib3.Timeout(connect=5.0, read=timeout), retries=False, **options
        )

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response:
        """Send the request; the body of the answer is streamed."""
        import urllib3

        try:
            answer = self._pool.request(
                method,
                self._base + path,
                headers=dict(headers),
                body=body,
                preload_content=False,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"{self._base}: {error}") from error
        return Response(
            status=answer.status,
            headers={k.lower(): v for k, v in answer.headers.items()},
            chunks=_release(answer),
        )


def _release(answer: Any) -> Iterator[bytes]:
    try:
        yield from answer.stream(1 << 20, decode_content=False)
    finally:
        answer.release_conn()


def _closing(chunks: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from chunks
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _unquote(path: str) -> str:
    from urllib.parse import unquote

    return unquote(path).encode().decode("latin-1")


def _stream(body: bytes | Iterable[bytes] | None) -> tuple[Any, int | None]:
    if body is None:
        return io.BytesIO(b""), 0
    if isinstance(body, bytes):
        return io.BytesIO(body), len(body)
    return io.BufferedReader(_Chunks(iter(body)), 1 << 20), None


class _Chunks(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                self._rest = next(self._chunks)
            except StopIteration:
                return 0
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class ServiceToken:
    """The token a service works with when no user's will do; renewed before it runs out.

    ``issue`` returns (token, expiry in epoch seconds).
    """

    def __init__(
        self, issue: Callable[[], tuple[str, float]], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._issue, self._clock = issue, clock
        self._lock = threading.Lock()
        self._token, self._until = "", 0.0

    def get(self) -> str:
        """A token with at least two minutes to live."""
        with self._lock:
            if self._clock() > self._until - 120:
                self._token, self._until = self._issue()
            return self._token

    def drop(self) -> None:
        """Forget the token: it was refused."""
        with self._lock:
            self._until = 0.0


class Client:
    """A neighbour. Paths are relative to its prefix (``/v3/volumes``).

    Whose authority a request carries is said in each call: ``token=`` a user's, ``node=`` a node credential, or by
    default the service's own.
    """

    def __init__(
        self,
        service: str,
        transport: Transport,
        own: ServiceToken | None = None,
        *,
        versions: str | None = None,
    ) -> None:
        self.service = service
        self._transport = transport
        self._own = own
        self._versions = versions  # the word in OpenStack-API-Version

    def own_token(self) -> str:
        """The service's own token, "" where it has none."""
        return self._own.get() if self._own is not None else ""

    def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        token: str | None = None,
        node: str | None = None,
        version: str | None = None,
        missing_ok: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the decoded JSON (None for an empty body).

        ``missing_ok``: a 404 is None. Raises RemoteError for any other refusal and when there is no answer.
        """
        body = None if json is None else _encode(json)
        sent = dict(headers or {})
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        response = self.send(
            method, path, body, query=query, token=token, node=node, version=version, headers=sent
        )
        raw = response.read()
        if missing_ok and response.status == 404:
            return None
        if response.status >= 300:
            raise RemoteError(self.service, response.status, _message(raw), _json(raw))
        return _decode(raw) if raw.strip() else None

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        token: str | None = None,
        node: str | None = None,
        version: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request and return the answer with its body unread. Raises RemoteError(0) when there is none."""
        if writing():
            log.error(
                "%s %s %s is asked while a write transaction is open",
                self.service,
                method,
                path,
                stack_info=True,
            )
        sent = {"Accept": "application/json", **(headers or {})}
        if contexts.request_id():
            sent["X-Openstack-Request-Id"] = contexts.request_id()
        if version and self._versions:
            sent["OpenStack-API-Version"] = f"{self._versions} {version}"
        if query:
            path += "?" + urlencode({k: v for k, v in query.items() if v is not None}, doseq=True)
        own = token is None and node is None and self._own is not None
        for last in (False, True):
            if node is not None:
                sent[NODE_HEADER] = node
            elif token is not None:
                sent["X-Auth-Token"] = token
            elif self._own is not None:
                sent["X-Auth-Token"] = self._own.get()
            try:
                response = self._transport.request(method, path, sent, body)
            except ConnectionError as error:
                raise RemoteError(self.service, 0, str(error)) from error
            again = response.status == 401 and not last and (body is None or isinstance(body, bytes))
            if again and own and self._own is not None:
                self._own.drop()
                continue
            if again and token is not None and self._own is not None:
                # The user's access rules may not name this call: say that a service makes it for the user.
                sent["X-Service-Token"] = self._own.get()
                continue
            return response
        raise AssertionError("unreachable")


def segment(text: str) -> str:
    """One path segment, quoted."""
    return quote(text, safe="")


def _json(raw: bytes) -> Any:
    try:
        return _decode(raw)
    except ValueError:
        return None


def _message(raw: bytes) -> str:
    """The human sentence inside any of the services' error bodies."""
    found = _json(raw)
    seen = 0
    while isinstance(found, dict) and seen < 4:
        seen += 1
        for name in ("message", "detail", "description", "explanation"):
            if isinstance(found.get(name), str) and found[name]:
                return str(found[name])
        inner = next((v for v in found.values() if isinstance(v, dict | list)), None)
        found = inner[0] if isinstance(inner, list) and inner else inner
    return raw[:300].decode(errors="replace")
