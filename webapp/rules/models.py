"""The tables of rules and of their versions. A null tenant stands for the platform."""

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
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from webapp.db.base import NOW, Base, Timestamp

NAME_IS_UNIQUE = "uq_rules_tenant_id_name"


class RuleRow(Base):
    __tablename__ = "rules"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    effect: Mapped[str] = mapped_column(Text)
    subjects: Mapped[dict[str, Any]] = mapped_column(JSONB)
    surfaces: Mapped[list[str]] = mapped_column(ARRAY(Text))
    reasons: Mapped[list[str]] = mapped_column(ARRAY(Text))
    ticket: Mapped[str | None] = mapped_column(Text)
    windows: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    networks: Mapped[list[str]] = mapped_column(ARRAY(Text))
    mfa: Mapped[bool]
    max_minutes: Mapped[int | None]
    min_approvals: Mapped[int]
    approver_roles: Mapped[list[str]] = mapped_column(ARRAY(Text))
    enabled: Mapped[bool]
    starts_at: Mapped[datetime | None] = mapped_column(Timestamp)
    ends_at: Mapped[datetime | None] = mapped_column(Timestamp)
    version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(Timestamp, server_default=NOW)
    created_by: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime] = mapped_column(Timestamp, server_default=NOW)
    updated_by: Mapped[str] = mapped_column(Text)
    deleted_at: Mapped[datetime | None] = mapped_column(Timestamp)

    __table_args__ = (
        CheckConstraint("effect in ('allow', 'deny', 'require_approval')", name="effect"),
        CheckConstraint("version > 0", name="version"),
        # A row that refers to a rule names its tenant too, so that no reference crosses tenants.
        UniqueConstraint("tenant_id", "id", postgresql_nulls_not_distinct=True),
        Index(
            NAME_IS_UNIQUE,
            "tenant_id",
            "name",
            unique=True,
            postgresql_where=text("deleted_at is null"),
            postgresql_nulls_not_distinct=True,
        ),
        Index(None, "tenant_id", "created_at", "id", postgresql_where=text("deleted_at is null")),
        Index(None, "tenant_id", "updated_at", "id", postgresql_where=text("deleted_at is null")),
        # For the global list, which names no tenant, with each of its filters.
        *(
            Index(None, *of, order, "id", postgresql_where=text("deleted_at is null"))
            for of in ((), ("effect",), ("enabled",))
            for order in ("name", "created_at", "updated_at")
        ),
        # For the rules that cover a surface, among any number of others.
        Index(
            "ix_rules_surfaces_platform",
            "surfaces",
            postgresql_using="gin",
            postgresql_with={"fastupdate": "off"},
            postgresql_where=text("tenant_id is null and deleted_at is null and enabled"),
        ),
        Index(
            "ix_rules_surfaces_narrowing",
            "surfaces",
            postgresql_using="gin",
            postgresql_with={"fastupdate": "off"},
            postgresql_where=text(
                "tenant_id is not null and effect <> 'allow' and deleted_at is null and enabled"
            ),
        ),
    )


class RuleVersionRow(Base):
    """A rule as it was after a change. Rows are never updated and never deleted."""

    __tablename__ = "rule_versions"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    rule_id: Mapped[UUID]
    version: Mapped[int]
    tenant_id: Mapped[UUID | None]
    change: Mapped[str] = mapped_column(Text)
    changed_at: Mapped[datetime] = mapped_column(Timestamp, server_default=NOW)
    changed_by: Mapped[str] = mapped_column(Text)
    snapshot: Mapped[dict[str, Any]] = mapped_column(JSONB)

    __table_args__ = (
        CheckConstraint("change in ('created', 'updated', 'deleted')", name="change"),
        ForeignKeyConstraint(["tenant_id", "rule_id"], ["rules.tenant_id", "rules.id"]),
        UniqueConstraint("tenant_id", "rule_id", "version", postgresql_nulls_not_distinct=True),
    )
