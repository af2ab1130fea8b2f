"""What this service asks of others, and what its agents ask of it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from altostack.kit.clients import Client, RemoteError, segment
from altostack.network.wire import Desired, Groups, Owner, Report

T = TypeVar("T")
_BATCH = 100  # ids in one query string


class NetworkApi:
    """The network service, as one node's agent sees it. Every method raises RemoteError."""

    def __init__(self, client: Client, host: str, token: str) -> None:
        self._client, self._token = client, token
        self._base = f"/internal/nodes/{segment(host)}"

    def desired(self, ids: Sequence[str] = ()) -> Desired:
        """What is wanted of the node; of these things alone, if any are named."""
        if not ids:
            return self._get("/desired", Desired, {})
        parts = [
            self._get("/desired", Desired, {"id": list(ids[start : start + _BATCH])})
            for start in range(0, len(ids), _BATCH)
        ]
        return parts[0] if len(parts) == 1 else Desired(
            *(tuple(one for part in parts for one in getattr(part, name)) for name in Desired.__struct_fields__)
        )  # fmt: skip

    def groups(self, known: Mapping[str, int]) -> Groups:
        """What became of these security groups since the versions given."""
        words = [f"{group}:{version}" for group, version in sorted(known.items())]
        parts = [
            self._get("/groups", Groups, {"group": words[start : start + _BATCH]})
            for start in range(0, len(words), _BATCH)
        ]
        return Groups(
            tuple(one for part in parts for one in part.groups),
            tuple(one for part in parts for one in part.gone),
        )

    def owner(self, ip: str, *, network_id: str | None, router_id: str | None) -> Owner | None:
        """Whose address it is, or None."""
        query = {"ip": ip, "network_id": network_id, "router_id": router_id}
        try:
            return self._get("/owner", Owner, query)
        except RemoteError as error:
            if error.status == 404:
                return None
            raise

    def observed(self, report: Report) -> None:
        """Tell what became of things."""
        self._client.call("POST", f"{self._base}/observed", report, node=self._token)

    def _get(self, path: str, kind: type[T], query: Mapping[str, str | list[str] | None]) -> T:
        answer = self._client.send("GET", self._base + path, query=query, node=self._token)
        raw = answer.read()
        if answer.status != 200:
            raise RemoteError("network", answer.status, raw[:300].decode(errors="replace"))
        return msgspec.json.decode(raw, type=kind)


class ComputeApi:
    """The compute service."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def external_events(self, events: Iterable[Mapping[str, str]]) -> None:
        """Tell what happened to servers' ports (compute API, "Run Events"). Raises RemoteError."""
        self._client.call("POST", "/v2.1/os-server-external-events", {"events": list(events)})

    def metadata(
        self, path: str, *, secret: str, server_id: str, project_id: str, ip: str, node: str
    ) -> tuple[int, bytes, str]:
        """What a guest gets that asks for ``path``: status, body, media type. Raises RemoteError(0).

        The signature tells compute that the request comes from this cloud's nodes and not from a guest.
        """
        signature = hmac.new(secret.encode(), server_id.encode(), hashlib.sha256).hexdigest()
        headers = {
            "Accept": "*/*", "X-Instance-ID": server_id, "X-Tenant-ID": project_id,
            "X-Instance-ID-Signature": signature, "X-Forwarded-For": ip,
        }  # fmt: skip
        answer = self._client.send("GET", "/metadata" + path, headers=headers, node=node)
        return answer.status, answer.read(), answer.headers.get("content-type", "text/plain; charset=utf-8")
