"""The ledger's table. It stores ids and names, so that an event outlives what it names."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PgUUID
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base

Timestamp = TIMESTAMP(timezone=True)

EVERY_TENANT = UUID(int=0)
"""The mark of events that every tenant sees, unless the access left that tenant out."""

FILTERED = (
    "actor_email",
    "tenant",
    "surface",
    "reason_code",
    "ticket",
    "kind",
    "effect",
    "outcome",
)
"""The columns that lists filter by. Each has its rows in order, in all events and a tenant's."""


class AuditEventRow(Base):
    """One event. The column `event` is the record; the other columns are for searching."""

    __tablename__ = "audit_events"

    id: Mapped[UUID] = mapped_column()
    tenant_id: Mapped[UUID | None]
    """The tenant accessed; null for all tenants, and where no tenant has the slug."""
    tenant: Mapped[str | None] = mapped_column(Text)
    """The slug that was requested."""
    occurred_at: Mapped[datetime] = mapped_column(Timestamp)
    committed_at: Mapped[datetime] = mapped_column(
        Timestamp, server_default=text("clock_timestamp()")
    )
    kind: Mapped[str] = mapped_column(Text)
    actor_id: Mapped[UUID]
    actor_email: Mapped[str] = mapped_column(Text)
    surface: Mapped[str] = mapped_column(Text(collation="C"))
    """Sorted by bytes, so that the surfaces under a prefix stand side by side."""
    reason_code: Mapped[str | None] = mapped_column(Text)
    ticket: Mapped[str | None] = mapped_column(Text)
    scope_kind: Mapped[str] = mapped_column(Text)
    effect: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(Text)
    origin_journal: Mapped[UUID]
    origin_seq: Mapped[int] = mapped_column(BigInteger)
    excluded_digest: Mapped[str | None] = mapped_column(Text)
    """The name of the set of tenants that the access left out, in `excluded_sets`."""
    event: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The canonical bytes, as they came: JSONB would keep their meaning only."""
    digest: Mapped[bytes] = mapped_column(
        LargeBinary, Computed("event_digest(event)", persisted=True)
    )
    """SHA-256 of the canonical bytes, by the database: nobody can claim another's."""
    origin_signature: Mapped[str | None] = mapped_column(Text)
    """By the process that first wrote the event; null where the database itself did."""
    visible_to: Mapped[UUID | None] = mapped_column(
        Computed(
            "CASE WHEN tenant_id IS NOT NULL THEN tenant_id"
            " WHEN scope_kind = 'global'::text AND kind = 'access'::text"
            f" AND effect = 'allowed'::text THEN '{EVERY_TENANT}'::uuid END",
            persisted=True,
        )
    )
    """The tenant whose admins see the event, or EVERY_TENANT. Row level security decides; this
    only leads there."""

    __mapper_args__ = {"primary_key": [id]}
    __table_args__ = (
        # The id alone identifies an event. Partitioning by month needs the moment in the key too,
        # and the moment is the one inside the id.
        PrimaryKeyConstraint("id", "occurred_at"),
        CheckConstraint("occurred_at = event_moment(id)", name="moment"),
        CheckConstraint("length(origin_signature) = 103", name="origin_signature"),
        Index(None, "tenant_id", "occurred_at", "id"),
        Index(None, "occurred_at", "id"),
        Index(None, "visible_to", "occurred_at", "id"),
        *(Index(None, column, "occurred_at", "id") for column in FILTERED),
        *(Index(None, "visible_to", column, "occurred_at", "id") for column in FILTERED),
        # A request leaves a few events at most: whose they are need not lead to them.
        Index(None, "request_id", "occurred_at", "id"),
        Index(None, "origin_journal", "origin_seq"),
        # Rows arrive nearly in this order, so that the small BRIN index serves `flask audit tail`.
        Index(None, "committed_at", postgresql_using="brin"),
        {"postgresql_partition_by": "range (occurred_at)"},
    )


class ExcludedSetRow(Base):
    """A set of tenants that accesses to all tenants left out. Many events name the same one."""

    __tablename__ = "excluded_sets"

    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_ids: Mapped[list[UUID]] = mapped_column(ARRAY(PgUUID(as_uuid=True)))

    __table_args__ = (
        CheckConstraint("digest = excluded_digest(tenant_ids)", name="digest"),
        # For the sets that leave one tenant out.
        Index(None, "tenant_ids", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
    )


class AuditNumberRow(Base):
    """The event that has a number of a journal. A trigger of `audit_events` writes it.

    A unique key of a partitioned table would have to contain the moment too.
    """

    __tablename__ = "audit_numbers"

    journal: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    event_id: Mapped[UUID]


class SigningKeyRow(Base):
    """A public key of a process that signs events. Triggers record each change of the table."""

    __tablename__ = "signing_keys"

    fingerprint: Mapped[str] = mapped_column(
        Text,
        Computed("encode(substr(sha256(public_key), 1, 8), 'hex')", persisted=True),
        primary_key=True,
    )
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    process: Mapped[str] = mapped_column(Text)
    label: Mapped[str] = mapped_column(Text)
    """The host's name, or what else people know it by."""
    registered_at: Mapped[datetime] = mapped_column(
        Timestamp, server_default=text("clock_timestamp()")
    )
    retired_at: Mapped[datetime | None] = mapped_column(Timestamp)
    """Since when it is believed no more."""

    __table_args__ = (
        CheckConstraint("length(public_key) = 32", name="public_key"),
        CheckConstraint("process in ('web', 'worker', 'commands')", name="process"),
        CheckConstraint("length(label) between 1 and 255", name="label"),
    )


class ContradictionRow(Base):
    """A signed event whose id, or whose number, another event in the ledger has."""

    __tablename__ = "audit_contradictions"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    received_at: Mapped[datetime] = mapped_column(
        Timestamp, server_default=text("clock_timestamp()")
    )
    event: Mapped[dict[str, Any]] = mapped_column(JSON)
    origin_signature: Mapped[str | None] = mapped_column(Text)


class QuarantineRow(Base):
    """A delivery that was no valid event, or that the ledger refused, for a person to examine.

    The table has room for so many rows and bytes only, apart for what came under a valid MAC or
    signature and for what anybody may have sent.
    """

    __tablename__ = "audit_quarantine"

    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    """SHA-256 of the delivery, so that a repeated delivery has the same key."""
    received_at: Mapped[datetime] = mapped_column(
        Timestamp, server_default=text("clock_timestamp()")
    )
    problem: Mapped[str] = mapped_column(Text)
    authentic: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether a process of Sightline has sealed it."""
    size: Mapped[int] = mapped_column(server_default=text("0"))
    """Bytes of the whole delivery."""
    delivery: Mapped[bytes] = mapped_column(LargeBinary)
    """Its beginning."""
