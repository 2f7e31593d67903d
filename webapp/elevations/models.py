"""The table of answers to other services."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import NOW, Base, Timestamp


class ElevationRow(Base):
    """The answer to another service, under the key that the service chose for its question."""

    __tablename__ = "elevations"

    service_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    """SHA-256 of the question: the same key with another question is refused."""
    answer: Mapped[str | None] = mapped_column(Text)
    """The answer's JSON, byte for byte. `None` only inside the transaction that decides."""
    asked_at: Mapped[datetime] = mapped_column(Timestamp, server_default=NOW)
