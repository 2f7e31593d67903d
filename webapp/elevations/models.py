"""What other services have asked, and what they were told."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import NOW, Base, Timestamp


class ElevationRow(Base):
    """What was answered to another service, by the key that it asked with."""

    __tablename__ = "elevations"

    service_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    """SHA-256 of what was asked: the same key for something else is refused."""
    answer: Mapped[str | None] = mapped_column(Text)
    """Its JSON, byte for byte. `None` only inside the transaction that decides."""
    asked_at: Mapped[datetime] = mapped_column(Timestamp, server_default=NOW)
