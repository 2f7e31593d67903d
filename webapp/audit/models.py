"""The ledger's table. It stores ids and words, so that history outlives what it speaks of."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, LargeBinary, PrimaryKeyConstraint, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PgUUID
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base

Timestamp = TIMESTAMP(timezone=True)


class AuditEventRow(Base):
    """One event: the canonical bytes are the record; the columns are what it is searched by."""

    __tablename__ = "audit_events"

    id: Mapped[UUID] = mapped_column()
    tenant_id: Mapped[UUID | None]
    """The tenant accessed; null for an access to all of them, or at one that is not there."""
    tenant: Mapped[str | None] = mapped_column(Text)
    """The slug that was asked for."""
    occurred_at: Mapped[datetime] = mapped_column(Timestamp)
    committed_at: Mapped[datetime] = mapped_column(
        Timestamp, server_default=text("clock_timestamp()")
    )
    kind: Mapped[str] = mapped_column(Text)
    actor_id: Mapped[UUID]
    actor_email: Mapped[str] = mapped_column(Text)
    surface: Mapped[str] = mapped_column(Text)
    reason_code: Mapped[str | None] = mapped_column(Text)
    ticket: Mapped[str | None] = mapped_column(Text)
    scope_kind: Mapped[str] = mapped_column(Text)
    effect: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(Text)
    origin_journal: Mapped[UUID]
    origin_seq: Mapped[int] = mapped_column(BigInteger)
    excluded_tenant_ids: Mapped[list[UUID]] = mapped_column(ARRAY(PgUUID(as_uuid=True)))
    event: Mapped[dict[str, Any]] = mapped_column(JSONB)

    __mapper_args__ = {"primary_key": [id]}
    __table_args__ = (
        # By month. The key has to name that; an event is known by its id alone.
        PrimaryKeyConstraint("id", "occurred_at"),
        Index(None, "tenant_id", "occurred_at", "id"),
        Index(None, "occurred_at", "id"),
        Index(None, "origin_journal", "origin_seq"),
        # Rows come in nearly this order, so that the smallest of indexes serves who follows them.
        Index(None, "committed_at", postgresql_using="brin"),
        {"postgresql_partition_by": "range (occurred_at)"},
    )


class QuarantineRow(Base):
    """A delivery that was no event of ours, or that the ledger refused: for a person to access."""

    __tablename__ = "audit_quarantine"

    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    """SHA-256 of the delivery: delivered again, it is the same."""
    received_at: Mapped[datetime] = mapped_column(
        Timestamp, server_default=text("clock_timestamp()")
    )
    problem: Mapped[str] = mapped_column(Text)
    delivery: Mapped[bytes] = mapped_column(LargeBinary)
