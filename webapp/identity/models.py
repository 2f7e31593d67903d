"""Tables of tenants, principals, their roles and their tokens."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text, Uuid, false, text
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column, synonym
from uuid_utils.compat import uuid7

from webapp.db.base import Base

Timestamp = TIMESTAMP(timezone=True)
NOW = text("clock_timestamp()")
NOTHING = text("'{}'")


class Tenant(Base):
    __tablename__ = "tenants"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Timestamp, server_default=NOW)
    ended_at: Mapped[datetime | None] = mapped_column(Timestamp)
    """When the tenant ended. Since then nobody is a member or may elevate to it; its rows stay."""

    __table_args__ = (CheckConstraint("slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name="slug"),)


class PrincipalRow(Base):
    __tablename__ = "principals"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    email: Mapped[str] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(Timestamp, server_default=NOW)
    ended_at: Mapped[datetime | None] = mapped_column(Timestamp)
    """When the principal ended. Since then it has no credential and no role."""


class PlatformRoleRow(Base):
    __tablename__ = "platform_roles"

    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    role: Mapped[str] = mapped_column(Text, primary_key=True)

    __table_args__ = (
        CheckConstraint(
            "role in ('support', 'engineer', 'auditor', 'owner', 'service')", name="role"
        ),
    )


class MembershipRow(Base):
    __tablename__ = "memberships"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    role: Mapped[str] = mapped_column(Text)
    id: Mapped[UUID] = synonym("principal_id")
    """Within its tenant a membership is named by its member."""

    __table_args__ = (
        CheckConstraint("role in ('member', 'admin')", name="role"),
        Index(None, "principal_id"),
    )


class ApiToken(Base):
    """Only the SHA-256 of a token is kept; the token itself is shown once, when it is made."""

    __tablename__ = "api_tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey("tenants.id"))
    """Of a token that was made in a tenant: that tenant. It carries the membership there, and
    neither another one nor a role of the platform."""
    token_hash: Mapped[bytes] = mapped_column(
        LargeBinary, unique=True, deferred=True, deferred_raiseload=True
    )
    """No role of the application may read it: `token_with` finds a token by the digest of it."""
    created_at: Mapped[datetime] = mapped_column(Timestamp, server_default=NOW)
    expires_at: Mapped[datetime | None] = mapped_column(Timestamp)
    revoked_at: Mapped[datetime | None] = mapped_column(Timestamp)
    last_used_at: Mapped[datetime | None] = mapped_column(Timestamp)
    mfa: Mapped[bool] = mapped_column(server_default=false())
    """Whether the principal has shown a second factor for it."""
    surfaces: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=NOTHING)
    """Of a service's token: patterns of the surfaces that it may ask about."""
    tenant_ids: Mapped[list[UUID] | None] = mapped_column(ARRAY(Uuid), server_default=NOTHING)
    """Of a service's token: the tenants that it may ask about; null for all of them."""
    break_glass: Mapped[bool] = mapped_column(server_default=false())
    """Of a service's token: whether it may ask for break-glass."""
    reports_mfa: Mapped[bool] = mapped_column(server_default=false())
    """Of a service's token: whether it may say that a person has shown a second factor."""

    __table_args__ = (
        CheckConstraint("octet_length(token_hash) = 32", name="token_hash"),
        Index(None, "tenant_id", "created_at", "id"),
        Index("uq_api_tokens_sha256", text("sha256(token_hash)"), unique=True),
    )
