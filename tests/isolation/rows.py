"""Rows of a tenant: one in every table that holds tenants' rows."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from tests.audit.events import make_event
from tests.audit.ledgers import unsigned
from webapp.audit import append
from webapp.audit.event import EventScope, ScopeKind
from webapp.audit.models import AuditEventRow
from webapp.db.base import Base
from webapp.db.scopes import DirectoryScope, LedgerScope, PrincipalScope, TenantScope
from webapp.db.session import ScopedSession
from webapp.extensions import db
from webapp.grants.models import GrantApprovalRow, GrantRow
from webapp.identity.models import MembershipRow, PrincipalRow, Tenant
from webapp.rules.models import RuleRow, RuleVersionRow
from webapp.rules.simulation.models import SimulationRow

TENANT_MODELS: tuple[type[Base], ...] = (
    Tenant,
    MembershipRow,
    RuleRow,
    RuleVersionRow,
    AuditEventRow,
    GrantRow,
    GrantApprovalRow,
    SimulationRow,
)

SHOWN_TO_ALL_TENANTS = tuple(model for model in TENANT_MODELS if model is not SimulationRow)
"""Those whose rows an access to all tenants sees."""


@dataclass(frozen=True)
class Owned:
    """The keys of a tenant and of one of its rows in each table."""

    tenant_id: UUID
    slug: str
    principal_id: UUID
    rule_id: UUID
    version_id: UUID
    event_id: UUID
    grant_id: UUID
    approval_id: UUID
    simulation_id: UUID

    def key(self, model: type[Base]) -> Any:
        """Return the primary key of the tenant's row in a table."""
        keys: dict[type[Base], Any] = {
            Tenant: self.tenant_id,
            MembershipRow: (self.tenant_id, self.principal_id),
            RuleRow: self.rule_id,
            RuleVersionRow: self.version_id,
            AuditEventRow: self.event_id,
            GrantRow: self.grant_id,
            GrantApprovalRow: self.approval_id,
            SimulationRow: self.simulation_id,
        }
        return keys[model]


def rule(tenant_id: UUID | None, **changes: Any) -> RuleRow:
    values: dict[str, Any] = {
        "id": uuid7(),
        "tenant_id": tenant_id,
        "name": f"rule {uuid4()}",
        "description": "",
        "effect": "deny",
        "subjects": {"roles": [], "users": []},
        "surfaces": ["*"],
        "reasons": [],
        "ticket": None,
        "windows": [],
        "networks": [],
        "mfa": False,
        "min_approvals": 1,
        "approver_roles": [],
        "enabled": False,  # an enabled rule would decide about the accesses of other tests
        "version": 1,
        "created_by": "test",
        "updated_by": "test",
    }
    return RuleRow(**(values | changes))


def rule_version(tenant_id: UUID | None, rule_id: UUID, version: int) -> RuleVersionRow:
    return RuleVersionRow(
        rule_id=rule_id,
        version=version,
        tenant_id=tenant_id,
        change="updated",
        changed_by="test",
        snapshot={},
    )


def grant(tenant_id: UUID | None, principal_id: UUID) -> GrantRow:
    now = datetime.now(UTC)
    return GrantRow(
        id=uuid7(),
        tenant_id=tenant_id,
        kind="approval",
        principal_id=principal_id,
        principal_email="test@example.org",
        surfaces=["*"],
        reason_code="incident",
        minutes=30,
        rule_ids=[],
        state="requested",
        requested_at=now,
        ends_at=now + timedelta(hours=24),
        version=1,
    )


def approval(tenant_id: UUID | None, grant_id: UUID, principal_id: UUID) -> GrantApprovalRow:
    return GrantApprovalRow(
        id=uuid7(),
        grant_id=grant_id,
        tenant_id=tenant_id,
        approver_id=principal_id,
        approver_email="test@example.org",
        roles=["admin"],
        approved_at=datetime.now(UTC),
    )


def simulation(tenant_id: UUID | None) -> SimulationRow:
    now = datetime.now(UTC)
    return SimulationRow(
        id=uuid7(),
        tenant_id=tenant_id,
        asked_by=uuid4(),
        turn=uuid4(),
        access_id=None if tenant_id else uuid4(),
        excluded_tenant_ids=[],
        question="{}",
        state="failed",  # no worker takes it
        asked_at=now,
        until=now + timedelta(hours=1),
    )


def add_event(session: Session, tenant_id: UUID | None) -> UUID:
    """Append an event as the ledger does, whose role may not read all that it inserts."""
    kind: ScopeKind = "tenant" if tenant_id else "global"
    event = make_event(scope=EventScope(kind=kind, tenant=None, tenant_id=tenant_id))
    append._append(session, [unsigned(event)])
    return event.id


def add_rows(session: ScopedSession, slug: str) -> Owned:
    """Commit a new tenant with its rows, each in the scope that may write it."""
    tenant = Tenant(id=uuid7(), slug=slug, name=f"name of {slug}")
    member = PrincipalRow(id=uuid7(), email=f"{slug}@example.org")
    kept = rule(tenant.id)
    tenant_id, principal_id, rule_id = tenant.id, member.id, kept.id
    with db.scoped(DirectoryScope()):
        session.add_all([tenant, member])
        session.flush()
        session.add(MembershipRow(tenant_id=tenant_id, principal_id=principal_id, role="admin"))
        session.commit()
    with db.scoped(TenantScope(tenant_id)):
        session.add(kept)
        session.flush()
        version = rule_version(tenant_id, rule_id, 1)
        session.add(version)
        session.flush()
        version_id = version.id
        simulated = simulation(tenant_id)
        session.add(simulated)
        session.flush()
        simulation_id = simulated.id
        session.commit()
    with db.scoped(LedgerScope()):
        event_id = add_event(session, tenant_id)
        session.commit()
    with db.scoped(PrincipalScope(principal_id, frozenset({tenant_id}))):
        requested = grant(tenant_id, principal_id)
        session.add(requested)
        session.flush()
        approved = approval(tenant_id, requested.id, principal_id)
        session.add(approved)
        session.flush()
        grant_id, approval_id = requested.id, approved.id
        session.commit()
    return Owned(
        *(tenant_id, slug, principal_id, rule_id, version_id, event_id, grant_id, approval_id),
        simulation_id,
    )


def snapshot(session: ScopedSession, owned: Owned) -> dict[str, list[tuple[Any, ...]]]:
    """Return all the rows that a tenant sees in its scope, by table."""
    with db.scoped(TenantScope(owned.tenant_id)):
        return {
            model.__tablename__: sorted(
                (tuple(map(str, row)) for row in session.execute(select(*inspect(model).columns))),
            )
            for model in TENANT_MODELS
        }
