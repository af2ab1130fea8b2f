"""What a domain has of its own configuration: where its users are, and how to ask there.

Sensitive options go in and are used, and never come out; they are sealed in the database. Only options that have an
effect are taken. Source: Identity API v3, domain configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from altostack.identity import rules
from altostack.identity.common import DEFAULT_DOMAIN, bump, existing, peek
from altostack.identity.compliance import rules_of
from altostack.identity.directory import Directory, DirectorySettings
from altostack.identity.domain import DOMAINS
from altostack.identity.model import IdentityRow
from altostack.identity.vault import FOLDER, UnreadableSecret, Vault
from altostack.kit.call import Call, Reply
from altostack.kit.dialect import hex_uuid
from altostack.kit.errors import Forbidden, NotFound, Unavailable
from altostack.kit.policy import ANY
from altostack.kit.resource import struct
from altostack.kit.route import Route
from altostack.kit.service import Runtime

log = logging.getLogger(__name__)
Config = dict[str, dict[str, Any]]
SENSITIVE = {"ldap": ("password",)}


class DomainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """driver: where the domain's users and groups are: "sql", this service's database, or "ldap", a directory.

    list_limit: how many users or groups a list shows at most.
    """

    driver: str = "sql"
    list_limit: Annotated[int, msgspec.Meta(ge=0)] | None = None


_GROUPS: Mapping[str, type[msgspec.Struct]] = {"identity": DomainSettings, "ldap": DirectorySettings}


class DomainOption(IdentityRow):
    __tablename__ = "domain_options"
    __table_args__ = (sa.UniqueConstraint("domain_id", "section", "name"),)
    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True, default=hex_uuid)
    domain_id: Mapped[str] = mapped_column(sa.String(64), sa.ForeignKey("domains.id", ondelete="CASCADE"))
    section: Mapped[str] = mapped_column(sa.String(64))
    name: Mapped[str] = mapped_column(sa.String(64))
    value: Mapped[Any] = mapped_column(sa.JSON(), nullable=True)
    sealed: Mapped[str | None] = mapped_column(sa.Text())  # a sensitive option's value


# ---- reading


def _vault(runtime: Runtime) -> Vault:
    return Vault(Path(runtime.cloud["keys"]) / FOLDER)


def _sensitive(section: str, name: str) -> bool:
    return name in SENSITIVE.get(section, ())


def stored(
    session: Session, domain_id: str, section: str | None = None, name: str | None = None
) -> list[DomainOption]:
    """A domain's own options, all or some of them."""
    query = sa.select(DomainOption).where(DomainOption.domain_id == domain_id)
    if section is not None:
        query = query.where(DomainOption.section == section)
    if name is not None:
        query = query.where(DomainOption.name == name)
    return list(session.execute(query.order_by(DomainOption.section, DomainOption.name)).scalars())


@dataclass(frozen=True, kw_only=True)
class Own:
    """What one domain has of its own. ``directory``: None without one, or when its options cannot be read."""

    settings: DomainSettings
    directory: DirectorySettings | None

    @property
    def elsewhere(self) -> bool:
        """Whether its users and groups are in a directory."""
        return self.settings.driver == "ldap"


def _opened(runtime: Runtime, domain_id: str, options: Iterable[DomainOption]) -> Own:
    vault, found = _vault(runtime), dict[str, dict[str, Any]]()
    try:
        for one in options:
            value = one.value if one.sealed is None else vault.open(one.sealed)
            found.setdefault(one.section, {})[one.name] = value
        settings = msgspec.convert(found.get("identity", {}), DomainSettings, strict=False)
        directory = None
        if settings.driver == "ldap":
            directory = msgspec.convert(found.get("ldap", {}), DirectorySettings, strict=False)
    except (msgspec.ValidationError, UnreadableSecret) as error:
        log.error("domain %s: its configuration cannot be used: %s", domain_id, error)
        return Own(settings=DomainSettings(driver="ldap"), directory=None)
    return Own(settings=settings, directory=directory)


def settings_of(runtime: Runtime) -> dict[str, Own]:
    """Domain id -> what it has of its own, for those that have something; kept while the epoch stands still."""
    now = int(runtime.cloud["epoch"].read())
    held = runtime.memo.get("domain settings")
    if held is None or held[0] != now:
        options: dict[str, list[DomainOption]] = {}
        with runtime.db.read() as session:
            for one in session.execute(sa.select(DomainOption)).scalars():
                options.setdefault(one.domain_id, []).append(one)
            found = {key: _opened(runtime, key, rows) for key, rows in options.items()}
        held = runtime.memo["domain settings"] = (now, found)
    kept: dict[str, Own] = held[1]
    return kept


def directory_of(runtime: Runtime, domain_id: str) -> Directory | None:
    """The domain's directory; None where its users are here. Raises Unavailable when it cannot be used."""
    own = settings_of(runtime).get(domain_id)
    if own is None or not own.elsewhere:
        return None
    if own.directory is None:
        raise Unavailable(f"The configuration of domain {domain_id} cannot be used.")
    return Directory(own.directory)


def writable(call: Call, domain_id: str) -> None:
    """Raises Forbidden for a domain whose users and groups are in a directory: they are changed there."""
    own = settings_of(call.runtime).get(domain_id)
    if own is not None and own.elsewhere:
        raise Forbidden(
            f"The users and groups of domain {domain_id} are in a directory, which is read only here."
        )


def list_limit(call: Call, domain_id: str | None) -> int | None:
    """How many users or groups of a domain a list shows at most, if the domain says so."""
    own = settings_of(call.runtime).get(domain_id or "")
    return None if own is None else own.settings.list_limit


# ---- checking


def _known(section: str | None, name: str | None = None) -> None:
    """Raises Forbidden for an option that domains cannot have of their own."""
    if section is not None and section not in _GROUPS:
        raise Forbidden(
            f"Invalid domain specific configuration: Group {section} is not supported for domain specific "
            "configurations."
        )
    if section is not None and name is not None and name not in _GROUPS[section].__struct_fields__:
        raise Forbidden(
            f"Invalid domain specific configuration: Option {name} in group {section} is not supported for domain "
            "specific configurations."
        )


def _checked(config: Any) -> Config:
    """``config`` with values of the right types. Raises Forbidden."""
    if not config:
        raise Forbidden("Invalid domain specific configuration: No options specified.")
    found: Config = {}
    for section, values in config.items():
        if not isinstance(values, dict) or not values:
            raise Forbidden(
                f"Invalid domain specific configuration: The value of group {section} specified in the config should "
                "be a dictionary of options."
            )
        for name in values:
            _known(section, name)
        try:
            converted = msgspec.convert(values, _GROUPS[section], strict=False)
        except msgspec.ValidationError as error:
            raise Forbidden(f"Invalid domain specific configuration: {section}: {error}.") from None
        found[section] = {name: msgspec.to_builtins(getattr(converted, name)) for name in values}
    return found


# ---- requests


def _place(call: Call) -> tuple[str, str | None, str | None]:
    """(domain, group, option) that the path names. Raises Forbidden, NotFound."""
    call.require(call.route.policy)
    key = call.params["domain_id"]
    existing(call, DOMAINS, peek(call, DOMAINS, key), key)
    section, name = call.params.get("group"), call.params.get("option")
    _known(section, name)
    return key, section, name


def _missing(domain_id: str, section: str | None, name: str | None) -> NotFound:
    what = "any options"
    if section is not None:
        what = f"group {section}" if name is None else f"option {name} in group {section}"
    return NotFound(f"Could not find {what} in domain configuration for domain {domain_id}.")


def _shown(options: Iterable[DomainOption], *, bare: bool = False) -> Any:
    """Options as the API tells them; ``bare``: a single one, without its group."""
    found: Config = {}
    for one in options:
        if not _sensitive(one.section, one.name):
            found.setdefault(one.section, {})[one.name] = one.value
    return next(iter(found.values()), {}) if bare else found


def _write(call: Call, domain_id: str, config: Config) -> None:
    vault = _vault(call.runtime)
    rows = {(row.section, row.name): row for row in stored(call.session, domain_id)}
    for section, values in config.items():
        for name, value in values.items():
            row = rows.get((section, name))
            if row is None:
                row = DomainOption(domain_id=domain_id, section=section, name=name)
                call.session.add(row)
            if _sensitive(section, name):
                row.sealed = None if value is None else vault.seal(value)
            else:
                row.value = value
    call.session.flush()
    bump(call)


def put(call: Call) -> Reply:
    """In the place of all that the domain had before."""
    domain_id, _, _ = _place(call)
    config = _checked(call.body.config)
    before = stored(call.session, domain_id)
    for row in before:
        call.session.delete(row)
    call.session.flush()
    _write(call, domain_id, config)
    shown = {"config": _shown(stored(call.session, domain_id))}
    return Reply(status=200 if before else 201, body=shown)


def show(call: Call) -> Any:
    domain_id, section, name = _place(call)
    found = _shown(stored(call.session, domain_id, section, name), bare=name is not None)
    if not found:
        raise _missing(domain_id, section, name)
    return {"config": found}


def patch(call: Call) -> Any:
    domain_id, section, name = _place(call)
    config = call.body.config
    if section is not None and name is not None:
        config = {section: config}
    if section is not None and (
        set(config) != {section}
        or (name is not None and (not isinstance(config[section], dict) or set(config[section]) != {name}))
    ):
        raise Forbidden(
            f"Invalid domain specific configuration: Trying to update {name or section}: that, and only that, must "
            "be specified in the config."
        )
    config = _checked(config)
    if section is not None and not stored(call.session, domain_id, section, name):
        raise _missing(domain_id, section, name)
    _write(call, domain_id, config)
    return {"config": _shown(stored(call.session, domain_id))}


def delete(call: Call) -> None:
    domain_id, section, name = _place(call)
    rows = stored(call.session, domain_id, section, name)
    if section is not None and not rows:
        raise _missing(domain_id, section, name)
    for row in rows:
        call.session.delete(row)
    call.session.flush()
    bump(call)


def show_default(call: Call) -> Any:
    """What counts for a domain that has nothing of its own."""
    section, name = call.params.get("group"), call.params.get("option")
    _known(section, name)
    if section is not None and name is not None and _sensitive(section, name):
        raise Forbidden(
            f"Invalid domain specific configuration: Reading the default for option {name} in group {section} is not "
            "supported."
        )
    found = {
        group: {
            option: msgspec.to_builtins(getattr(kind(), option))
            for option in kind.__struct_fields__
            if not _sensitive(group, option)
        }
        for group, kind in _GROUPS.items()
        if section in (None, group)
    }
    return {"config": {name: found[str(section)][name]} if name is not None else found}


def show_compliance(call: Call) -> Any:
    """What passwords must be like: for whoever has to choose one."""
    if call.params["domain_id"] != DEFAULT_DOMAIN:
        raise Forbidden(
            "Invalid domain specific configuration: Reading security compliance information for any domain other than "
            "the default domain is not allowed or supported."
        )
    settings, name = rules_of(call.runtime), call.params.get("option")
    found = {
        "password_regex": settings.password_regex or None,
        "password_regex_description": settings.password_regex_description or None,
    }
    if name is not None and name not in found:
        raise Forbidden(
            "Invalid domain specific configuration: Reading security compliance values other than password_regex and "
            "password_regex_description is not allowed."
        )
    return {"config": {"security_compliance": found} if name is None else {name: found[name]}}


_BODY = struct("DomainConfig", [("config", dict[str, Any], True)], open=True)
_ROOT = "/domains/{domain_id}/config"
_COMPLIANCE = f"{_ROOT}/security_compliance"
_CHANGES: tuple[tuple[str, Callable[[Call], Any], str, Any, int], ...] = (
    ("GET", show, "get", None, 200),
    ("PATCH", patch, "update", _BODY, 200),
    ("DELETE", delete, "delete", None, 204),
)
CONFIG_ROUTES = (
    *(
        Route(
            method="GET", path=f"/domains/config{path}", handler=show_default,
            policy="identity:get_domain_config_default", check=rules.CLOUD_READER,
        )
        for path in ("/default", "/{group}/default", "/{group}/{option}/default")
    ),
    *(
        Route(
            method="GET", path=path, handler=show_compliance, check=ANY,
            policy="identity:get_security_compliance_domain_config",
        )
        for path in (_COMPLIANCE, f"{_COMPLIANCE}/{{option}}")
    ),
    Route(
        method="PUT", path=_ROOT, handler=put, guard=False, policy="identity:create_domain_config",
        check=rules.CLOUD_ADMIN, body=_BODY, status=201,
    ),
    *(
        Route(
            method=method, path=path, handler=handler, guard=False, policy=f"identity:{word}_domain_config",
            check=rules.CLOUD_READER if method == "GET" else rules.CLOUD_ADMIN, body=body, status=status,
        )
        for path in (_ROOT, f"{_ROOT}/{{group}}", f"{_ROOT}/{{group}}/{{option}}")
        for method, handler, word, body, status in _CHANGES
    ),
)  # fmt: skip
