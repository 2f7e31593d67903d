"""A session whose transactions run in exactly one scope.

PostgreSQL's row level security is the boundary between tenants. A session without a scope refuses
to begin a transaction; with one, a single statement sets the role and the settings that the
policies read, for that transaction only. A later transaction of the same session sets them again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import psycopg2
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, SessionTransaction

from webapp.db.limits import limits_of_statements
from webapp.db.operator import current_operator
from webapp.db.roles import (
    ADMINISTRATION_ROLE,
    DIRECTORY_ROLE,
    GLOBAL_ROLE,
    IDENTITY_ROLE,
    LEDGER_ROLE,
    LOG_ROLE,
    MAINTENANCE_ROLE,
    POLICY_ROLE,
    PRINCIPAL_ROLE,
    RELAY_ROLE,
    SEALING_ROLE,
    TENANT_ROLE,
)
from webapp.db.scopes import (
    DirectoryScope,
    GlobalScope,
    IdentityScope,
    LedgerScope,
    LogScope,
    MaintenanceScope,
    PolicyScope,
    PrincipalScope,
    RelayScope,
    Scope,
    SealingScope,
    TenantScope,
)


class UnscopedSession(RuntimeError):
    """A transaction was about to begin without a scope: a programming error, never an answer."""


class ScopedSession(Session):
    """A session that belongs to one scope at a time."""

    def __init__(self, *bound: Any, limits: Mapping[str, str], **options: Any) -> None:
        """`limits`: what each transaction sets for itself, as `limits_of_statements` has it."""
        super().__init__(*bound, **options)
        self.limits = limits

    @property
    def scope(self) -> Scope | None:
        scope: Scope | None = self.info.get("scope")
        return scope

    def enter(self, scope: Scope | None) -> None:
        """Close what is open and continue in `scope`.

        Objects loaded before are forgotten, so that the identity map cannot carry a row from one
        scope into another.
        """
        if self.in_transaction() or self.identity_map:
            self.close()
        self.info["scope"] = scope
        self.info.pop("role", None)

    @contextmanager
    def as_ledger(self) -> Iterator[None]:
        """Run statements of the open transaction as the role that may append to the ledger.

        So a change and its event are committed together, and the role of the change may not append.
        """
        with self._as_role(LEDGER_ROLE):
            yield

    @contextmanager
    def reading(self, scope: IdentityScope | PolicyScope) -> Iterator[None]:
        """Read what another scope sees in the open transaction, which keeps its locks.

        Objects that are loaded meanwhile are forgotten afterwards, as when a scope is left.
        """
        known = set(self.identity_map.keys())
        with self._as_role(_settings_of(scope)["role"]):
            yield
        for key in set(self.identity_map.keys()) - known:
            self.expunge(self.identity_map[key])

    @contextmanager
    def seeing_tokens(self) -> Iterator[None]:
        """Run statements of the open transaction as the role that sees the tokens of the scope.

        It changes nothing without a proof, as `administering` gives one.
        """
        with self._as_role(ADMINISTRATION_ROLE):
            yield

    @contextmanager
    def administering(
        self, token_id: UUID, digest: bytes, request_id: str | None
    ) -> Iterator[None]:
        """Run statements of the open transaction as the role that may change identity.

        What they may change is decided by the database: by whose token this is, if `digest` is the
        token's. Triggers name its holder as the actor. The proof is good in this transaction only.
        """
        transaction_id = self.scalars(_TRANSACTION_ID).one()
        settings = {
            "token": str(token_id),
            "proof": sha256(digest + transaction_id.encode()).hexdigest(),
            "request_id": request_id or "",
        }
        with self._as_role(ADMINISTRATION_ROLE):
            self.execute(_SET_PROOF, settings)
            yield
            self.flush()

    @contextmanager
    def _as_role(self, role: str) -> Iterator[None]:
        if self.scope is None:
            raise UnscopedSession("this session has no scope, whose transaction could go on")
        self.flush()
        before = self.info.get("role") or _settings_of(self.scope)["role"]
        self.execute(_SET_ROLE, {"role": role})
        self.info["role"] = role
        try:
            yield
        finally:
            self.info["role"] = before
        self.execute(_SET_ROLE, {"role": before})


_SET_ROLE = text("select set_config('role', :role, true)")

_TRANSACTION_ID = text("select pg_catalog.pg_current_xact_id()::text")
_SET_PROOF = text(
    "select pg_catalog.set_config('sightline.token', :token, true),"
    " pg_catalog.set_config('sightline.proof', :proof, true),"
    " pg_catalog.set_config('sightline.request_id', :request_id, true)"
)

_SETTINGS = ("tenant_id", "access", "excluded", "principal_id", "administers", "staff")
"""The settings that policies read, without their prefix `sightline.`; empty if a scope has none."""

_OPERATOR_SETTINGS = ("operator", "operator_host")
"""What triggers record of who runs a command; empty outside one."""

_LIMITS = tuple(limits_of_statements(1.0))

_SET_SCOPE = text(
    "select pg_catalog.set_config('role', :role, true), "
    + ", ".join(
        f"pg_catalog.set_config('{setting}', :{name}, true)"
        for setting, name in (
            *((name, name) for name in _LIMITS),
            *((f"sightline.{name}", name) for name in (*_SETTINGS, *_OPERATOR_SETTINGS)),
        )
    )
)


@event.listens_for(ScopedSession, "after_begin")
def _set_scope(session: ScopedSession, _: SessionTransaction, connection: Connection) -> None:
    if session.scope is None:
        raise UnscopedSession("this session has no scope; enter one through webapp.scope.enter")
    settings = _settings_of(session.scope) | _operator_settings()
    connection.execute(_SET_SCOPE, {**session.limits, **settings})


def _operator_settings() -> dict[str, str]:
    operator = current_operator()
    values = (operator.name, operator.account) if operator else ("", "")
    return dict(zip(_OPERATOR_SETTINGS, values, strict=True))


def _settings_of(scope: Scope) -> dict[str, str]:
    match scope:
        case TenantScope(tenant_id):
            return _parameters(TENANT_ROLE, tenant_id=str(tenant_id))
        case GlobalScope(access_id, excluded):
            return _parameters(GLOBAL_ROLE, access=str(access_id), excluded=excluded.setting)
        case IdentityScope():
            return _parameters(IDENTITY_ROLE)
        case DirectoryScope():
            return _parameters(DIRECTORY_ROLE)
        case LedgerScope():
            return _parameters(LEDGER_ROLE)
        case RelayScope():
            return _parameters(RELAY_ROLE)
        case PolicyScope():
            return _parameters(POLICY_ROLE)
        case PrincipalScope(principal_id, administers, staff):
            return _parameters(
                PRINCIPAL_ROLE,
                principal_id=str(principal_id),
                administers=",".join(map(str, sorted(administers))),
                staff="yes" if staff else "",
            )
        case MaintenanceScope():
            return _parameters(MAINTENANCE_ROLE)
        case SealingScope():
            return _parameters(SEALING_ROLE)
        case LogScope():
            return _parameters(LOG_ROLE)


def _parameters(role: str, **settings: str) -> dict[str, str]:
    return {"role": role, **dict.fromkeys(_SETTINGS, ""), **settings}


def violated_constraint(error: IntegrityError) -> str | None:
    """The name of the violated constraint; `None` for an error that names none."""
    return error.orig.diag.constraint_name if isinstance(error.orig, psycopg2.Error) else None


def in_utc(moment: datetime | None) -> datetime | None:
    """A moment in UTC: the database driver reports moments in the session's time zone."""
    return moment.astimezone(UTC) if moment else None
