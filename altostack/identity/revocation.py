"""/v3/OS-REVOKE/events: what was revoked lately, for those who check tokens by themselves.

Nothing in this service reads these events: a token's worth is looked up (see `token`). A user, domain or project
whose counter moved is one event; the last movement covers those before it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from altostack.identity import rules
from altostack.identity.dialect import own_url
from altostack.identity.domain import Domain
from altostack.identity.keeper import keeper
from altostack.identity.project import Project
from altostack.identity.token import Revocation
from altostack.identity.user import User
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Gone
from altostack.kit.policy import PUBLIC
from altostack.kit.route import Route

_KINDS = ((User, "user_id"), (Project, "project_id"), (Domain, "domain_id"))


def _since(call: Call) -> datetime:
    """The earliest event to tell: what the query says, and no tokens older than these are alive anyway."""
    settings = keeper(call.runtime).settings
    oldest = call.runtime.clock() - settings.token_expiration - settings.allow_expired_window
    first = datetime.fromtimestamp(oldest, UTC)
    text = call.arg("since")
    if text is None:
        return first
    try:
        asked = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise BadRequest(f"invalid date format {text}", field="since") from None
    return max(first, asked.replace(tzinfo=UTC) if asked.tzinfo is None else asked.astimezone(UTC))


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def events(call: Call) -> Any:
    since = _since(call)
    found: list[tuple[datetime, dict[str, Any]]] = []
    query = sa.select(Revocation).where(Revocation.revoked_at >= since.timestamp())
    for row in call.session.execute(query).scalars():
        word = "audit_chain_id" if row.chain else "audit_id"
        found.append((datetime.fromtimestamp(row.revoked_at, UTC), {word: row.audit_id}))
    for kind, word in _KINDS:
        rows = call.session.execute(sa.select(kind.id, kind.ended_at).where(kind.ended_at >= since))
        found += [(ended_at, {word: key}) for key, ended_at in rows if ended_at is not None]
    found.sort(key=lambda event: event[0])
    told = [event | {"issued_before": _time(at), "revoked_at": _time(at)} for at, event in found]
    return {"events": told, "links": {"next": None, "self": own_url(call), "previous": None}}


def gone(call: Call) -> None:
    raise Gone("This API is no longer available due to the removal of support for PKI tokens.")


REVOCATION_ROUTES = (
    Route(
        method="GET", path="/OS-REVOKE/events", handler=events, policy="identity:list_revoke_events",
        check=rules.REVOCATIONS,
    ),
    *(
        Route(method="GET", path=path, handler=gone, policy=PUBLIC)
        for path in ("/auth/tokens/OS-PKI/revoked", "/OS-SIMPLE-CERT/ca", "/OS-SIMPLE-CERT/certificates")
    ),
)  # fmt: skip
