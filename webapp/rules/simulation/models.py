"""The table of simulations that a worker carries out."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from webapp.db.base import Base, Timestamp

ONE_AT_A_TIME = "uq_simulations_turn"
MAX_BYTES = 2**18
"""Bytes of a question, and of a result. Both are far below."""


class SimulationRow(Base):
    """A simulation that needs more time than a request has, and later its result.

    A null tenant means that it was asked for in the global scope.
    """

    __tablename__ = "simulations"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey("tenants.id"))
    asked_by: Mapped[UUID]
    """The principal who asked. Nobody else sees it."""
    turn: Mapped[UUID]
    """Who has one simulation at a time: a tenant, or a person of the platform's staff."""
    access_id: Mapped[UUID | None]
    """In the global scope, the event of the access in which it was asked for."""
    excluded_tenant_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    """The tenants that this access left out."""
    question: Mapped[str] = mapped_column(Text)
    """The request's body, as JSON."""
    state: Mapped[str] = mapped_column(Text)
    asked_at: Mapped[datetime] = mapped_column(Timestamp)
    until: Mapped[datetime] = mapped_column(Timestamp)
    """When it counts as failed; once it is done or has failed, when it is forgotten."""
    result: Mapped[str | None] = mapped_column(Text)
    problem: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint("state in ('queued', 'running', 'done', 'failed')", name="state"),
        CheckConstraint(f"octet_length(question) <= {MAX_BYTES}", name="question"),
        CheckConstraint(f"octet_length(result) <= {MAX_BYTES}", name="result"),
        UniqueConstraint("tenant_id", "id", postgresql_nulls_not_distinct=True),
        Index(
            ONE_AT_A_TIME,
            "turn",
            unique=True,
            postgresql_where=text("state in ('queued', 'running')"),
        ),
        Index(None, "state", "asked_at"),
        Index(None, "until"),
    )
