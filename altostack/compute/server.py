"""Servers: the table that puts row, lifecycle, views and actions together, and what is changed at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from altostack.compute import (
    console_api,
    instance_action,
    server_actions,
    server_create,
    server_list,
    server_requests,
    server_view,
)
from altostack.compute.aggregate import zone_names
from altostack.compute.server_actions import unlocked
from altostack.compute.server_life import ServerLife
from altostack.compute.server_row import Server
from altostack.compute.values import (
    Description,
    Fqdn,
    Hostname,
    Name,
    check_address,
    check_description,
    check_name,
    fields_at,
    spec,
)
from altostack.kit.api import remove
from altostack.kit.call import Call
from altostack.kit.errors import Conflict, Unimplemented
from altostack.kit.policy import ADMIN, MEMBER, READER
from altostack.kit.resource import Action, Resource, struct
from altostack.kit.versions import Change, Version

_UPDATE = {
    "name": spec(Name),
    "disk_config": spec(Literal["AUTO", "MANUAL"]),
    "accessIPv4": spec(str),
    "accessIPv6": spec(str),
    "description": spec(Description | None, since="2.19"),
    "hostname": spec(Hostname, since="2.90", until="2.93"),
    "pinned_availability_zone": spec(Name | None, since="2.104"),
}


def update_body(version: Version | None) -> Any:
    """What a client may change."""
    fields = fields_at(_UPDATE, version)
    if version is None or version >= (2, 94):
        fields.append(("hostname", Fqdn, False))
    return struct("ServerUpdate", fields, rename={"disk_config": "OS-DCF:diskConfig"})


def update(call: Call, row: Server, fields: dict[str, Any]) -> None:
    """Change what needs no work on the node."""
    unlocked(call, row) if "name" in fields else None
    if "name" in fields:
        row.name = check_name(fields["name"])
    if "description" in fields:
        row.description = check_description(fields["description"])
    if "hostname" in fields:
        row.hostname = fields["hostname"]
    if "disk_config" in fields:
        row.disk_config = fields["disk_config"]
    if "accessIPv4" in fields:
        row.access_v4 = check_address(fields["accessIPv4"], "accessIPv4", 4) if fields["accessIPv4"] else ""
    if "accessIPv6" in fields:
        row.access_v6 = check_address(fields["accessIPv6"], "accessIPv6", 6) if fields["accessIPv6"] else ""
    if "pinned_availability_zone" in fields:
        _pin(call, row, fields["pinned_availability_zone"])


def _pin(call: Call, row: Server, zone: str | None) -> None:
    """Pin the server to the zone it is in, or unpin it."""
    if zone == row.zone:
        return
    if zone is not None and row.zone is not None:
        raise Conflict("The server is pinned to another availability zone; unpin it first.", field="zone")
    if zone is not None and (zone != row.az or zone not in zone_names(call.session, call.runtime)):
        raise Conflict(f"The server is in availability zone {row.az}, not {zone}.", field="zone")
    row.zone = zone


def delete(call: Call, row: Server) -> None:
    """The lifecycle undoes everything; the delete wins over whatever is being done."""
    unlocked(call, row)
    if row.task_state != "deleting":
        row.task_state = "deleting"
        instance_action.begin(call, row, "delete")
    remove(call, SERVERS, row)


class Reboot(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["HARD", "Hard", "hard", "SOFT", "Soft", "soft"]


class ResetState(msgspec.Struct, forbid_unknown_fields=True):
    state: Literal["active", "error"]


def lock_body(version: Version | None) -> Any:
    """A reason may be given from 2.73 on; before, whatever stands there is ignored."""
    if version is not None and version < (2, 73):
        return Any
    reason = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    return struct("Lock", [("locked_reason", reason, False)]) | None


def _absent(call: Call, row: Server) -> None:
    raise Unimplemented(f"This cloud cannot do that to a server: {call.route.op}.", field=call.route.op)


def _action(run: Any, rule: str, *, body: Any = Any, check: str = MEMBER, **more: Any) -> Action:
    return Action(run=run, rule=f"os_compute_api:{rule}", policy=check, body=body, **more)


ACTIONS: dict[str, Action] = {
    "os-start": _action(server_actions.start, "servers:start"),
    "os-stop": _action(server_actions.stop, "servers:stop"),
    "reboot": _action(server_actions.reboot, "servers:reboot", body=Reboot),
    "pause": _action(server_actions.pause, "os-pause-server:pause"),
    "unpause": _action(server_actions.unpause, "os-pause-server:unpause"),
    "suspend": _action(server_actions.suspend, "os-suspend-server:suspend"),
    "resume": _action(server_actions.resume, "os-suspend-server:resume"),
    "lock": _action(server_actions.lock, "os-lock-server:lock", body=lock_body),
    "unlock": _action(server_actions.unlock, "os-lock-server:unlock"),
    "os-resetState": _action(
        server_actions.reset_state, "os-admin-actions:reset_state", body=ResetState, check=ADMIN
    ),
    "forceDelete": _action(delete, "os-deferred-delete:force"),
    "resize": _action(server_requests.resize, "servers:resize", body=server_requests.Resize),
    "confirmResize": _action(server_actions.confirm, "servers:confirm_resize", status=204),
    "revertResize": _action(server_actions.revert, "servers:revert_resize"),
    "rebuild": _action(server_requests.rebuild, "servers:rebuild", body=server_requests.rebuild_body),
    "createImage": _action(
        server_requests.create_image, "servers:create_image", body=server_requests.CreateImage
    ),
    "addSecurityGroup": _action(
        server_requests.add_group, "os-security-groups:add", body=server_requests.Group
    ),
    "removeSecurityGroup": _action(
        server_requests.remove_group, "os-security-groups:remove", body=server_requests.Group
    ),
    "os-getConsoleOutput": _action(
        console_api.console_output, "os-console-output", body=console_api.ConsoleOutput, status=200
    ),
    **{
        word: _action(
            console_api.old_console,
            "os-remote-consoles",
            body=console_api.OldConsole,
            status=200,
            until=Version(2, 5),
        )
        for word in ("os-getVNCConsole", "os-getSPICEConsole", "os-getSerialConsole")
    },
    "remote-consoles": _action(
        console_api.remote_console,
        "os-remote-consoles",
        body=console_api.remote_body,
        path="remote-consoles",
        method="POST",
        status=200,
        since=Version(2, 6),
    ),
    "diagnostics": _action(
        console_api.diagnostics,
        "os-server-diagnostics",
        body=None,
        check=ADMIN,
        path="diagnostics",
        method="GET",
        status=200,
    ),
    # What the API has and this cloud has not (yet): said plainly.
    **{
        word: _action(_absent, rule, check=check)
        for word, rule, check in (
            ("migrate", "os-migrate-server:migrate", ADMIN),
            ("os-migrateLive", "os-migrate-server:migrate_live", ADMIN),
            ("evacuate", "os-evacuate", ADMIN),
            ("shelve", "os-shelve:shelve", MEMBER),
            ("shelveOffload", "os-shelve:shelve_offload", ADMIN),
            ("unshelve", "os-shelve:unshelve", MEMBER),
            ("rescue", "os-rescue", MEMBER),
            ("unrescue", "os-unrescue", MEMBER),
            ("changePassword", "os-admin-password", MEMBER),
            ("createBackup", "os-create-backup", MEMBER),
            ("restore", "os-deferred-delete:restore", MEMBER),
            ("resetNetwork", "os-admin-actions:reset_network", ADMIN),
            ("injectNetworkInfo", "os-admin-actions:inject_network_info", ADMIN),
        )
    },
    "trigger_crash_dump": _action(_absent, "servers:trigger_crash_dump", check=ADMIN, since=Version(2, 17)),
}

SERVERS = Resource(
    row=Server,
    name="server",
    owner=Server.project_id,
    policy={
        "list": READER, "show": READER, "create": MEMBER, "update": MEMBER, "delete": MEMBER, "all": ADMIN,
        "admin_fields": ADMIN,
    },
    rules={
        "all": "os_compute_api:servers:index:get_all_tenants",
        "admin_fields": server_view.ATTRIBUTES,
    },
    create_body=server_create.create_body,
    update_body=update_body,
    extra_body=server_create.HINTS,
    create=server_create.create,
    update=update,
    delete=delete,
    quota={"instances": 1, "cores": Server.vcpus, "ram": Server.ram},
    flow=ServerLife,
    actions=ACTIONS,
    computed=server_view.COMPUTED,
    filters=server_list.FILTERS,
    changes=(
        Change(at=Version(2, 75), ops=frozenset({"update"}), response=server_view.shorten_update),
    ),
    default_sort=(("created_at", True),),
    unlisted=(Server.wanted, Server.seen, Server.old_flavor, Server.public_key),
)  # fmt: skip

RULES = {
    **server_create.RULES,
    **server_view.RULES,
    server_list.ALL_FILTERS: ADMIN,
    "os_compute_api:os-lock-server:unlock:unlock_override": ADMIN,
}
