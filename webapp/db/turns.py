"""Turns: what one transaction at a time does. It has the turn until it ends.

A turn is a row that only functions of the tables' owner lock, each for the one role that needs the
turn. Any login could hold an advisory lock instead, for as long as it likes.
"""

from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.db.base import Base

Act = Literal["append", "quarantine", "simulate"]
"""Numbering events without a request, filling quarantine, and taking a simulation. The making of a
partition is a turn too, which `ensure_audit_partition` takes itself."""


class TurnRow(Base):
    """A row to be locked, and never changed."""

    __tablename__ = "turns"

    act: Mapped[str] = mapped_column(primary_key=True)


def take_turn(session: Session, act: Act) -> None:
    """Wait for the turn, and keep it until the transaction ends."""
    session.execute(select(getattr(func, f"take_turn_to_{act}")()))
