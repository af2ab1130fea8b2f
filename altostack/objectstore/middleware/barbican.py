"""Secrets that Barbican keeps (Key Manager API v1), for whom Keystone knows by a name and a password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
import urllib3

T = TypeVar("T")
_TIMEOUT: Final = urllib3.Timeout(connect=3.0, read=10.0)
_LONGEST: Final = 1 << 20  # bytes of an answer
_SERVICE: Final = "key-manager"


class _Endpoint(msgspec.Struct):
    interface: str
    url: str
    region_id: str | None = None


class _Service(msgspec.Struct):
    type: str
    endpoints: list[_Endpoint] = []


class _Scope(msgspec.Struct):
    catalog: list[_Service] = []


class _Token(msgspec.Struct):
    token: _Scope


class _Secret(msgspec.Struct):
    secret_type: str


class KeyManagerError(Exception):
    """A secret cannot be had now. The message says which and why, and has no secret, password or token in it."""


class Barbican:
    """Access to the secrets of a project."""

    def __init__(
        self,
        *,
        auth_endpoint: str,
        username: str,
        password: str,
        project_name: str,
        user_domain_name: str = "Default",
        project_domain_name: str = "Default",
        barbican_endpoint: str = "",
        barbican_region_name: str = "",
        cafile: str = "",
    ) -> None:
        """auth_endpoint: with its version, like ``https://cloud/identity/v3``. barbican_endpoint: without; by default
        the catalog's public one, in the region if that is given. cafile: certificates to trust, PEM."""
        self._auth, self._user = auth_endpoint.rstrip("/"), username
        self._endpoint, self._region = barbican_endpoint.rstrip("/"), barbican_region_name
        user = {"name": username, "password": password, "domain": {"name": user_domain_name}}
        project = {"name": project_name, "domain": {"name": project_domain_name}}
        identity = {"methods": ["password"], "password": {"user": user}}
        self._login = msgspec.json.encode({"auth": {"identity": identity, "scope": {"project": project}}})
        self._http = urllib3.PoolManager(
            timeout=_TIMEOUT, retries=False, ca_certs=cafile or None, cert_reqs="CERT_REQUIRED"
        )

    def fetch(self, id: str) -> bytes:
        """The bytes of a symmetric key. ``id``: of the secret, or its reference. Raises KeyManagerError."""
        id = id.rstrip("/").rpartition("/")[2]
        headers, body = self._call(
            "POST", f"{self._auth}/auth/tokens", {"content-type": "application/json"}, self._login
        )
        token = headers.get("x-subject-token", "")
        base = (self._endpoint or self._found(body)).removesuffix("/v1")
        secret = f"{base}/v1/secrets/{id}"
        _, told = self._call("GET", secret, {"x-auth-token": token, "accept": "application/json"})
        kind = _decoded(told, _Secret).secret_type
        if kind != "symmetric":
            raise KeyManagerError(f"the secret {id} is of the type {kind!r}; it has to be a symmetric key")
        _, payload = self._call(
            "GET", f"{secret}/payload", {"x-auth-token": token, "accept": "application/octet-stream"}
        )
        return payload

    def _found(self, token: bytes) -> str:
        """The endpoint in the catalog that came with a token."""
        for service in _decoded(token, _Token).token.catalog:
            for endpoint in service.endpoints if service.type == _SERVICE else ():
                if endpoint.interface == "public" and self._region in ("", endpoint.region_id):
                    return endpoint.url.rstrip("/")
        where = f" in {self._region}" if self._region else ""
        raise KeyManagerError(f"{self._auth} knows no public endpoint of a {_SERVICE} service{where}")

    def _call(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        try:
            answer = self._http.request(
                method, url, headers=headers, body=body, preload_content=False, redirect=False
            )
            try:
                content = answer.read(_LONGEST)
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KeyManagerError(f"{method} {url}: {type(error).__name__}") from None
        if answer.status not in (200, 201):
            raise KeyManagerError(f"{method} {url} as {self._user}: {answer.status} {answer.reason}")
        return answer.headers, content


def _decoded(body: bytes, type: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type)
    except ValueError as error:
        raise KeyManagerError(f"an answer is not understood: {error}") from None
