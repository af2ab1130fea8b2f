"""Consoles: the log of one, addresses of screens with tokens that soon run out, and who may use a token."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.compute.dialect import only
from altostack.compute.model import ComputeRow
from altostack.compute.server_row import Server
from altostack.kit.bus import BusRefused, BusTimeout
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, NotFound, Unavailable
from altostack.kit.policy import ADMIN, SERVICE
from altostack.kit.resource import private, struct
from altostack.kit.route import Route
from altostack.kit.versions import Version

# ---- row


class ConsoleToken(ComputeRow):
    """A token's hash and the console it stands for; the token itself is known to its bearer alone."""

    __tablename__ = "console_tokens"
    hash: Mapped[str] = private(type_=sa.String(64), primary_key=True)
    server_id: Mapped[str] = private(type_=sa.String(64), index=True)
    kind: Mapped[str] = private(type_=sa.String(16))
    host: Mapped[str] = private()
    path: Mapped[str | None] = private(default=None, type_=sa.Text())
    address: Mapped[str | None] = private(default=None)
    port: Mapped[int | None] = private(default=None)
    expires_at: Mapped[float] = private(index=True)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# ---- live facts from the node


def ask_node(call: Call, row: Server, method: str, **args: object) -> Any:
    """Ask the server's node over the bus; no transaction is open meanwhile. Raises Conflict, NotFound, Unavailable."""
    if not row.host:
        raise Conflict(f"Instance {row.id} is not ready", field="server_id")
    host, server_id = row.host, row.id
    call.rollback()
    try:
        return call.runtime.bus.call(f"compute.agent.{host}", method, {"id": server_id, **args})
    except BusRefused as error:
        if error.message.startswith("not running"):
            raise Conflict(f"Instance {server_id} is not ready", field="server_id") from error
        raise NotFound(error.message) from error
    except BusTimeout as error:
        raise Unavailable("The host of the server does not answer.", headers={"Retry-After": "5"}) from error


class ConsoleOutput(msgspec.Struct, forbid_unknown_fields=True):
    length: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | str | msgspec.UnsetType | None = msgspec.UNSET


def console_output(call: Call, row: Server) -> Any:
    length = call.body.length
    if isinstance(length, str):
        if not re.fullmatch(r"-1|[0-9]{1,9}", length):
            raise BadRequest("Invalid input for field/attribute length. It is not a number.", field="length")
        length = int(length)
    lines = None if length in (None, msgspec.UNSET, -1) else length
    text = str(ask_node(call, row, "console_log", lines=lines))
    return {"output": re.sub("[\x00-\x08\x0b-\x1f]", "", text)}


def diagnostics(call: Call, row: Server) -> Any:
    """The guest's counters; as libvirt names them until 2.47, in one form since."""
    facts = dict(ask_node(call, row, "diagnostics"))
    if not call.at_least("2.48"):
        return facts
    count = facts.get("vcpu.current") or 0
    disks = range(int(facts.get("block.count") or 0))
    cards = range(int(facts.get("net.count") or 0))
    states = {1: "running", 3: "paused", 5: "shutdown", 6: "crashed", 7: "suspended"}
    return {
        "state": states.get(int(facts.get("state.state") or 0), "pending"),
        "driver": "libvirt",
        "hypervisor": facts.get("hypervisor"),
        "hypervisor_os": "linux",
        "uptime": None,
        "config_drive": bool(row.config_drive),
        "num_cpus": int(count),
        "num_nics": len(cards),
        "num_disks": len(disks),
        "cpu_details": [
            {"id": n, "time": facts.get(f"vcpu.{n}.time"), "utilisation": None} for n in range(int(count))
        ],
        "nic_details": [
            {
                "mac_address": None,
                "rx_octets": facts.get(f"net.{n}.rx.bytes"), "rx_errors": facts.get(f"net.{n}.rx.errs"),
                "rx_drop": facts.get(f"net.{n}.rx.drop"), "rx_packets": facts.get(f"net.{n}.rx.pkts"),
                "rx_rate": None,
                "tx_octets": facts.get(f"net.{n}.tx.bytes"), "tx_errors": facts.get(f"net.{n}.tx.errs"),
                "tx_drop": facts.get(f"net.{n}.tx.drop"), "tx_packets": facts.get(f"net.{n}.tx.pkts"),
                "tx_rate": None,
            }
            for n in cards
        ],
        "disk_details": [
            {
                "read_bytes": facts.get(f"block.{n}.rd.bytes"), "read_requests": facts.get(f"block.{n}.rd.reqs"),
                "write_bytes": facts.get(f"block.{n}.wr.bytes"), "write_requests": facts.get(f"block.{n}.wr.reqs"),
                "errors_count": facts.get(f"block.{n}.errors"),
            }
            for n in disks
        ],
        "memory_details": {
            "maximum": int(facts["balloon.maximum"]) // 1024 if facts.get("balloon.maximum") else None,
            "used": int(facts["balloon.rss"]) // 1024 if facts.get("balloon.rss") else None,
        },
    }  # fmt: skip


# ---- consoles


class OldConsole(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["novnc", "xvpvnc", "spice-html5", "serial", "rdp-html5"]


def remote_body(version: Version | None) -> Any:
    """What a client may ask for; webmks since 2.8, spice-direct since 2.99."""
    protocols = ["vnc", "spice", "serial", "rdp"]
    kinds = ["novnc", "xvpvnc", "spice-html5", "serial", "rdp-html5"]
    if version is None or version >= (2, 8):
        protocols.append("mks")
        kinds.append("webmks")
    if version is None or version >= (2, 99):
        kinds.append("spice-direct")
    protocol: Any = Literal[tuple(protocols)]
    kind: Any = Literal[tuple(kinds)]
    inner = struct("RemoteConsole", [("protocol", protocol, True), ("type", kind, True)])
    return struct("RemoteConsoleBody", [("remote_console", inner, True)])


def old_console(call: Call, row: Server) -> Any:
    """os-getVNCConsole and its kin, until 2.5."""
    return {"console": {"type": call.body.type, "url": _url(call, row, call.body.type)}}


def remote_console(call: Call, row: Server) -> Any:
    """POST /servers/{id}/remote-consoles."""
    wish = call.body.remote_console
    url = _url(call, row, wish.type)
    if wish.protocol != "vnc":
        raise BadRequest(
            f"Unavailable console type {wish.type} for protocol {wish.protocol}.", field="protocol"
        )
    return {"remote_console": {"protocol": wish.protocol, "type": wish.type, "url": url}}


def _url(call: Call, row: Server, kind: str) -> str:
    if kind != "novnc":
        raise BadRequest(f"Unavailable console type {kind}.", field="type")
    if not row.host:
        raise Conflict(f"Instance {row.id} is not ready", field="server_id")
    host, server_id = row.host, row.id
    where = ask_node(call, row, "vnc")
    token = secrets.token_urlsafe(32)
    now = call.runtime.clock()
    call.session.execute(sa.delete(ConsoleToken).where(ConsoleToken.expires_at < now))
    call.session.add(
        ConsoleToken(
            hash=_hash(token), server_id=server_id, kind=kind, host=host, path=where["path"], address=where["host"],
            port=where["port"], expires_at=now + call.runtime.settings.console_ttl,
        )
    )  # fmt: skip
    call.session.flush()
    base = call.runtime.cloud.get("console_url", call.runtime.url)
    return f"{base}/vnc_lite.html?path=websockify%3Ftoken%3D{token}"


def _valid(call: Call) -> ConsoleToken:
    """The token's row, while it is good and its server still is where it was."""
    row = call.session.get(ConsoleToken, _hash(call.params["token"]))
    if row is None or row.expires_at < call.runtime.clock():
        raise NotFound("Token not found", field="token")
    server = call.session.get(Server, row.server_id)
    if server is None or server.host != row.host:
        raise NotFound("Token not found", field="token")
    return row


def validate(call: Call) -> Any:
    """For the console proxy: where the token leads."""
    row = _valid(call)
    return {"path": row.path, "host": row.address, "port": row.port, "server_id": row.server_id}


def show_token(call: Call) -> Any:
    """For administrators: what a token stands for."""
    only(call, since="2.99")
    row = _valid(call)
    found: dict[str, Any] = {
        "instance_uuid": row.server_id, "host": row.address or row.host, "port": row.port,
        "internal_access_path": row.path,
    }  # fmt: skip
    if call.at_least("2.99"):
        found["tls_port"] = None
    return {"console": found}


ROUTES = (
    Route(
        method="GET", path="//internal/console-tokens/{token}", handler=validate, policy="compute:console-tokens",
        check=SERVICE,
    ),
    Route(
        method="GET", path="/os-console-auth-tokens/{token}", handler=show_token,
        policy="os_compute_api:os-console-auth-tokens", check=ADMIN, since=Version(2, 31),
    ),
)  # fmt: skip
