"""The tables of grants, their approvals and their notices."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from webapp.db.base import Base, Timestamp

UNREVIEWED = "uq_grants_unreviewed"


class GrantRow(Base):
    """A grant or a request for one. A null tenant means all tenants.

    A grant of the kind `break_glass` is an incident: its holder took it without approval.
    """

    __tablename__ = "grants"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str] = mapped_column(Text)
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    principal_email: Mapped[str] = mapped_column(Text)
    surfaces: Mapped[list[str]] = mapped_column(ARRAY(Text))
    reason_code: Mapped[str] = mapped_column(Text)
    ticket: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)
    minutes: Mapped[int]
    rule_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    """The rules that required an approval when it was requested, or that allowed break-glass."""
    bypassed_approvals: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), default=list)
    """Of a break-glass incident at all tenants: the tenants whose approvals it bypasses."""
    state: Mapped[str] = mapped_column(Text)
    requested_at: Mapped[datetime] = mapped_column(Timestamp)
    starts_at: Mapped[datetime | None] = mapped_column(Timestamp)
    ends_at: Mapped[datetime] = mapped_column(Timestamp)
    """When the request lapses, while nobody has decided; then when the grant ends."""
    closed_at: Mapped[datetime | None] = mapped_column(Timestamp)
    closed_by: Mapped[str | None] = mapped_column(Text)
    """The e-mail address of the person who denied or revoked the grant."""
    reviewed_at: Mapped[datetime | None] = mapped_column(Timestamp)
    reviewed_by: Mapped[str | None] = mapped_column(Text)
    review: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int]

    __table_args__ = (
        CheckConstraint("kind in ('approval', 'break_glass')", name="kind"),
        CheckConstraint(
            "state in ('requested', 'approved', 'denied', 'revoked', 'expired')", name="state"
        ),
        CheckConstraint("minutes > 0", name="minutes"),
        UniqueConstraint("tenant_id", "id", postgresql_nulls_not_distinct=True),
        Index(None, "tenant_id", "requested_at", "id"),
        # For the list of all grants, which names no tenant, with each of its filters.
        Index(None, "requested_at", "id"),
        Index(None, "state", "requested_at", "id"),
        Index(None, "kind", "requested_at", "id"),
        Index(None, "principal_email", "requested_at", "id"),
        Index(None, "principal_id", "requested_at"),
        Index(
            "ix_grants_ends_at",
            "ends_at",
            postgresql_where=text("state in ('requested', 'approved')"),
        ),
        Index(
            UNREVIEWED,
            "principal_id",
            unique=True,
            postgresql_where=text("kind = 'break_glass' and reviewed_at is null"),
        ),
    )


class GrantApprovalRow(Base):
    """One person's approval, with the roles that the person held at the time."""

    __tablename__ = "grant_approvals"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    grant_id: Mapped[UUID]
    tenant_id: Mapped[UUID | None]
    approver_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    approver_email: Mapped[str] = mapped_column(Text)
    roles: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """The approver's platform roles, and their role in the grant's tenant."""
    approved_at: Mapped[datetime] = mapped_column(Timestamp)

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "grant_id"], ["grants.tenant_id", "grants.id"]),
        UniqueConstraint(
            "tenant_id", "grant_id", "approver_id", postgresql_nulls_not_distinct=True
        ),
    )


class NoticeRow(Base):
    """A notice about a grant or a tenant's member, to be sent by mail or to the webhook.

    `due_at` is null once the notice was sent or given up. Triggers of the database insert those
    about members.
    """

    __tablename__ = "notices"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    grant_id: Mapped[UUID | None]
    """Null in a notice about a member."""
    event: Mapped[str] = mapped_column(Text)
    tenants: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    """The tenants whose admins are notified, of a member or of break-glass at all tenants."""
    people: Mapped[list[UUID]] = mapped_column(
        ARRAY(Uuid), default=list, server_default=text("'{}'")
    )
    """Who is notified of a member beside the admins: whoever was one until then."""
    channel: Mapped[str | None] = mapped_column(Text)
    """Null until a sender replaces the notice by one for each configured channel."""
    recipient: Mapped[str | None] = mapped_column(Text)
    """Null until a mail is addressed. Addressing replaces it by one mail for each recipient."""
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(Timestamp)
    due_at: Mapped[datetime | None] = mapped_column(Timestamp)
    attempts: Mapped[int]
    problem: Mapped[str | None] = mapped_column(Text)
    """Why the last attempt failed."""
    sent_at: Mapped[datetime | None] = mapped_column(Timestamp)

    __table_args__ = (
        CheckConstraint("channel in ('mail', 'webhook')", name="channel"),
        Index("ix_notices_due_at", "due_at", postgresql_where=text("due_at is not null")),
    )
