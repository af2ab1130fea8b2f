"""Accounts and containers named by the host: ``container.account.example.com/object``.

DNS knows no capitals and no underscores: ``auth-1234`` is taken for the account ``AUTH_1234``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from altostack.objectstore.http import Handler, Refusal, Request, Response
from altostack.objectstore.middleware.options import Wrap, flag, store_of, words


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """storage_domain: domains below which names are looked for (none: the filter does nothing).

    path_root (v1). reseller_prefixes (AUTH): prefixes of accounts. default_reseller_prefix: for accounts without one.
    mangle_client_paths (no): a path that begins with the root already is not given another.
    """
    store = store_of(conf)
    default = local.get("default_reseller_prefix", "")
    store.facts["domain_remap"] = {"default_reseller_prefix": default or None}
    domains = domains_of(local.get("storage_domain", ""))
    return lambda app: DomainRemap(
        app,
        domains,
        root=local.get("path_root", "v1").strip("/"),
        prefixes=tuple(words(local.get("reseller_prefixes", store.settings.account_prefix.rstrip("_")))),
        default=default,
        mangle=flag(local.get("mangle_client_paths", "no")),
    )


def domains_of(text: str) -> tuple[str, ...]:
    """Domains, each with a point before it, in lower case."""
    return tuple(f".{one.lstrip('.').lower()}" for one in words(text))


def host_of(request: Request) -> tuple[str, str]:
    """(host in lower case, ":port" or "") of the Host header."""
    host, colon, port = request.header("host").rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.startswith("[")):
        return request.header("host").lower(), ""
    return host.lower(), f":{port}"


class DomainRemap:
    """Puts the host's names into the path."""

    def __init__(
        self,
        app: Handler,
        domains: tuple[str, ...],
        *,
        root: str,
        prefixes: tuple[str, ...],
        default: str,
        mangle: bool,
    ) -> None:
        self._app, self._domains = app, domains
        self._root, self._prefixes, self._default, self._mangle = root, prefixes, default, mangle

    def __call__(self, request: Request) -> Response:
        host, _ = host_of(request)
        domain = next((one for one in self._domains if host.endswith(one)), None)
        if domain is None:
            return self._app(request)
        parts = host[: -len(domain)].strip(".").split(".")
        if len(parts) > 2 or not all(parts):
            raise Refusal(400, "Bad domain in host header")
        account = self._account(parts[-1])
        if account is None:
            return self._app(request)
        before = request.path
        path = before[1:]
        if self._mangle and f"{path}/".startswith(f"{self._root}/"):
            path = path[len(self._root) + 1 :]
        names = [account, parts[0]] if len(parts) == 2 else [account]
        after = "/".join(("", self._root, *names, path))
        request.rewrite(path=after)
        response = self._app(request)
        there = response.headers.get("location")
        if there is not None:
            there = _back(there, quote(after, safe="/~"), quote(before, safe="/~"))
            # A browser takes what follows two slashes for a host.
            response.headers["location"] = f"/.{there}" if there.startswith("//") else there
        return response

    def _account(self, name: str) -> str | None:
        if "_" not in name and "-" in name:
            name = name.replace("-", "_", 1)
        if not self._prefixes:
            return name
        start, _, rest = name.partition("_")
        for prefix in self._prefixes:
            if start == prefix.lower():
                return f"{prefix}_{rest}"
        return f"{self._default}_{name}" if self._default else None


def _back(location: str, after: str, before: str) -> str:
    """A location in the words of the request as it came."""
    scheme, mark, rest = location.partition("://")
    if mark:
        host, slash, path = rest.partition("/")
        if not f"{slash}{path}".startswith(after):
            return location
        return f"{scheme}://{host}{before}{f'{slash}{path}'[len(after) :]}"
    return before + location[len(after) :] if location.startswith(after) else location
