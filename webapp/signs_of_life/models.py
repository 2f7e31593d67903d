"""The table of signs of life, which is no tenant's data."""

from datetime import datetime

from sqlalchemy import CheckConstraint, DateTime, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base


class SignOfLifeRow(Base):
    """When a process of a kind was last seen to do its work."""

    __tablename__ = "signs_of_life"
    __table_args__ = (
        CheckConstraint("kind in ('worker', 'beat')", name="kind"),
        CheckConstraint("length(host) <= 255", name="host"),
        CheckConstraint("length(version) <= 100", name="version"),
    )

    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    host: Mapped[str] = mapped_column(Text, primary_key=True)
    pid: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version: Mapped[str] = mapped_column(Text)
    seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
