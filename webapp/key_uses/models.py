"""The table of keys that processes have used, which holds fingerprints and no key."""

from datetime import datetime

from sqlalchemy import CheckConstraint, DateTime, Text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base


class KeyUseRow(Base):
    """When a key was first used, and by which host."""

    __tablename__ = "key_uses"
    __table_args__ = (
        CheckConstraint(
            "name in ('SECRET_KEY', 'WEBHOOK_SECRET', 'OPERATIONS_TOKEN')",
            name="name",
        ),
        CheckConstraint("fingerprint ~ '^[0-9a-f]{16}$'", name="fingerprint"),
        CheckConstraint("length(host) <= 255", name="host"),
    )

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Text, primary_key=True)
    host: Mapped[str] = mapped_column(Text)
    first_used_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    recorded: Mapped[bool]
    """Whether it needs no event any more. The first key of its name never did: nothing rotated."""
