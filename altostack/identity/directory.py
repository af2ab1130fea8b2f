"""Users and groups of a domain in a directory (LDAPv3, RFC 4511), read only.

Names and meanings of the settings are those of the identity service's LDAP backend, so that operators' options work.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from altostack.kit.errors import Unavailable

_TIMEOUT = 10  # seconds for a connection, and for an answer


class DirectorySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """url: ``ldap://host:port`` or ``ldaps://...``. user, password: as whom to search (None: anonymously).

    suffix: where trees are without a DN of their own. query_scope: how far below a tree's DN to look. page_size: rows
    a page of answers (0: all at once). use_tls: STARTTLS before anything else; tls_req_cert: whether the server's
    certificate is checked, by tls_cacertfile or the system's authorities. user_enabled_*: which attribute tells who
    is enabled: as a word, as its opposite (invert), or as a bit (mask) that means disabled. The rest name attributes;
    *_additional_attribute_mapping holds pairs ``ldap attribute:key``.
    """

    url: str = "ldap://localhost"
    user: str | None = None
    password: str | None = None
    suffix: str = "cn=example,cn=com"
    query_scope: Literal["one", "sub"] = "one"
    page_size: int = 0
    use_tls: bool = False
    tls_cacertfile: str | None = None
    tls_req_cert: Literal["demand", "never"] = "demand"
    user_tree_dn: str | None = None
    user_filter: str | None = None
    user_objectclass: str = "inetOrgPerson"
    user_id_attribute: str = "cn"
    user_name_attribute: str = "sn"
    user_mail_attribute: str = "mail"
    user_description_attribute: str = "description"
    user_enabled_attribute: str = "enabled"
    user_enabled_invert: bool = False
    user_enabled_mask: int = 0
    user_enabled_default: str = "True"
    user_additional_attribute_mapping: list[str] = []
    group_tree_dn: str | None = None
    group_filter: str | None = None
    group_objectclass: str = "groupOfNames"
    group_id_attribute: str = "cn"
    group_name_attribute: str = "ou"
    group_member_attribute: str = "member"
    group_members_are_ids: bool = False
    group_desc_attribute: str = "description"
    group_additional_attribute_mapping: list[str] = []

    @property
    def users(self) -> str:
        """The DN below which users are."""
        return self.user_tree_dn or f"ou=Users,{self.suffix}"

    @property
    def groups(self) -> str:
        """The DN below which groups are."""
        return self.group_tree_dn or f"ou=UserGroups,{self.suffix}"


@dataclass(frozen=True, kw_only=True)
class Person:
    """A user in the directory. ``key``: its id there."""

    key: str
    name: str
    dn: str
    enabled: bool
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Party:
    """A group in the directory; ``members`` are DNs, or ids where the settings say so."""

    key: str
    name: str
    description: str
    members: frozenset[str]
    extra: dict[str, Any] = field(default_factory=dict)


def public_id(domain_id: str, kind: str, key: str) -> str:
    """The id under which a directory's entry is known here: the same whenever and wherever it is read."""
    return hashlib.sha256("\0".join((domain_id, kind, key)).encode()).hexdigest()


class Directory:
    """One domain's directory. A connection lives for one question; nothing is kept between them."""

    def __init__(self, settings: DirectorySettings) -> None:
        self._settings = settings

    def people(self, *, name: str | None = None, key: str | None = None) -> list[Person]:
        """All users, or those of a name or an id. Raises Unavailable."""
        cfg = self._settings
        wanted = {cfg.user_name_attribute: name, cfg.user_id_attribute: key}
        extra = _pairs(cfg.user_additional_attribute_mapping) | {
            cfg.user_mail_attribute: "email", cfg.user_description_attribute: "description",
        }  # fmt: skip
        attributes = [
            cfg.user_id_attribute, cfg.user_name_attribute, cfg.user_enabled_attribute, *extra,
        ]  # fmt: skip
        rows = self._search(cfg.users, cfg.user_objectclass, cfg.user_filter, wanted, attributes)
        found = []
        for dn, values in rows:
            key_of, name_of = _first(values, cfg.user_id_attribute), _first(values, cfg.user_name_attribute)
            if key_of and name_of:
                enabled = self._enabled(_first(values, cfg.user_enabled_attribute))
                more = {word: text for attr, word in extra.items() if (text := _first(values, attr))}
                found.append(Person(key=key_of, name=name_of, dn=dn, enabled=enabled, extra=more))
        return found

    def parties(self) -> list[Party]:
        """All groups. Raises Unavailable."""
        cfg = self._settings
        extra = _pairs(cfg.group_additional_attribute_mapping)
        attributes = [
            cfg.group_id_attribute, cfg.group_name_attribute, cfg.group_member_attribute, cfg.group_desc_attribute,
            *extra,
        ]  # fmt: skip
        found = []
        for _, values in self._search(cfg.groups, cfg.group_objectclass, cfg.group_filter, {}, attributes):
            key, name = _first(values, cfg.group_id_attribute), _first(values, cfg.group_name_attribute)
            if not key or not name:
                continue
            members = values.get(cfg.group_member_attribute.lower(), [])
            if not cfg.group_members_are_ids:
                members = [normal(member) for member in members]
            found.append(
                Party(
                    key=key, name=name, description=_first(values, cfg.group_desc_attribute) or "",
                    members=frozenset(members),
                    extra={word: text for attr, word in extra.items() if (text := _first(values, attr))},
                )
            )  # fmt: skip
        return found

    def is_member(self, person: Person, party: Party) -> bool:
        """Whether the group names the user."""
        if self._settings.group_members_are_ids:
            return person.key in party.members
        return normal(person.dn) in party.members

    def accepts(self, key: str, password: str) -> bool:
        """Whether ``password`` is right for the user with this id, who is enabled. Raises Unavailable."""
        from ldap3.core.exceptions import LDAPInvalidCredentialsResult, LDAPOperationResult

        # A bind without a password is a bind as nobody, which succeeds (RFC 4513, 5.1.2).
        if not password or "\0" in password:
            return False
        found = [person for person in self.people(key=key) if person.enabled]
        if len(found) != 1:
            return False
        try:
            with self._connected(found[0].dn, password):
                return True
        except LDAPInvalidCredentialsResult:
            return False
        except LDAPOperationResult:
            return False  # the account may not log in: locked, expired, ...

    # ---- the protocol

    def _enabled(self, text: str | None) -> bool:
        cfg = self._settings
        text = cfg.user_enabled_default if text is None else text
        if cfg.user_enabled_mask:
            return not int(text) & cfg.user_enabled_mask if text.lstrip("-").isdigit() else False
        return (text.strip().lower() in ("true", "1", "yes", "on")) != cfg.user_enabled_invert

    def _search(
        self, base: str, kind: str, more: str | None, wanted: dict[str, str | None], attributes: list[str]
    ) -> list[tuple[str, dict[str, list[str]]]]:
        """(DN, attribute in lower case -> values) of every entry that matches."""
        from ldap3 import LEVEL, SUBTREE
        from ldap3.core.exceptions import LDAPException, LDAPNoSuchObjectResult
        from ldap3.utils.conv import escape_filter_chars

        cfg = self._settings
        parts = [f"(objectClass={escape_filter_chars(kind)})", more or ""]
        parts += [
            f"({attr}={escape_filter_chars(text)})" for attr, text in wanted.items() if text is not None
        ]
        try:
            with self._connected(cfg.user, cfg.password) as connection:
                question: dict[str, Any] = {
                    "search_base": base, "search_filter": f"(&{''.join(parts)})",
                    "search_scope": SUBTREE if cfg.query_scope == "sub" else LEVEL,
                    "attributes": _known(connection, attributes),
                }  # fmt: skip
                if cfg.page_size:
                    rows = connection.extend.standard.paged_search(
                        **question, paged_size=cfg.page_size, generator=True
                    )
                else:
                    connection.search(**question)
                    rows = connection.response
                return [
                    (
                        row["dn"],
                        {name.lower(): _texts(values) for name, values in row["raw_attributes"].items()},
                    )
                    for row in rows
                    if row.get("type") == "searchResEntry"
                ]
        except LDAPNoSuchObjectResult:
            return []
        except LDAPException as error:
            raise Unavailable(f"The domain's directory did not answer: {type(error).__name__}.") from error

    @contextlib.contextmanager
    def _connected(self, user: str | None, password: str | None) -> Iterator[Any]:
        from ldap3 import AUTO_BIND_NO_TLS, AUTO_BIND_TLS_BEFORE_BIND, SCHEMA, Connection, Server, Tls
        from ldap3.core.exceptions import LDAPBindError, LDAPException, LDAPOperationResult

        cfg = self._settings
        checked = ssl.CERT_REQUIRED if cfg.tls_req_cert == "demand" else ssl.CERT_NONE
        try:
            server = Server(
                cfg.url, tls=Tls(validate=checked, ca_certs_file=cfg.tls_cacertfile), get_info=SCHEMA,
                connect_timeout=_TIMEOUT,
            )  # fmt: skip
            connection = Connection(
                server, user=user, password=password, read_only=True, raise_exceptions=True, auto_referrals=False,
                auto_bind=AUTO_BIND_TLS_BEFORE_BIND if cfg.use_tls else AUTO_BIND_NO_TLS, receive_timeout=_TIMEOUT,
            )  # fmt: skip
        except (LDAPOperationResult, LDAPBindError):
            raise
        except (LDAPException, OSError) as error:
            raise Unavailable(
                f"The domain's directory cannot be reached: {type(error).__name__}.",
                headers={"Retry-After": "5"},
            ) from error
        try:
            yield connection
        finally:
            with contextlib.suppress(LDAPException):
                connection.unbind()


def normal(dn: str) -> str:
    """A DN in one spelling: case and spaces around separators mean nothing in it (RFC 4514, 4518)."""
    from ldap3.utils.dn import safe_dn

    return str(safe_dn(dn)).lower()


def _known(connection: Any, attributes: list[str]) -> list[str]:
    """Those attributes that the server's schema has: to ask for others is an error."""
    schema = connection.server.schema
    if schema is None:
        return attributes
    return [name for name in dict.fromkeys(attributes) if name in schema.attribute_types]


def _texts(values: list[bytes]) -> list[str]:
    return [value.decode("utf-8", "replace") for value in values]


def _first(values: dict[str, list[str]], attribute: str) -> str | None:
    found = values.get(attribute.lower())
    return found[0] if found else None


def _pairs(mapping: list[str]) -> dict[str, str]:
    """``ldap attribute:key`` pairs."""
    return {attr: word for attr, _, word in (pair.partition(":") for pair in mapping) if word}
