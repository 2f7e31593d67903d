"""The tables of the log, which `sightline_sealing` alone writes.

A log is a tree of entries, one for each event. Its tables hold no tenant's data but for
`log_series`: an entry commits to an event by hashes with salts, and names series by labels.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base

Timestamp = TIMESTAMP(timezone=True)


class LogRow(Base):
    """A log: one is open, and those before it were closed after a restore."""

    __tablename__ = "logs"

    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    origin: Mapped[str] = mapped_column(Text, unique=True)
    series_secret: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    """The key of the labels of series. Readers may not see it."""
    size: Mapped[int] = mapped_column(BigInteger)
    root: Mapped[bytes] = mapped_column(LargeBinary)
    checkpoint: Mapped[str | None] = mapped_column(Text)
    """The signed note of this size; null until something has been sealed."""
    signed_at: Mapped[datetime | None] = mapped_column(Timestamp)
    state: Mapped[str] = mapped_column(Text)
    resumed_by: Mapped[UUID | None]
    """The event by which an operator opened it in place of the log before it."""

    __table_args__ = (
        CheckConstraint("length(series_secret) = 32", name="series_secret"),
        CheckConstraint("length(root) = 32", name="root"),
        CheckConstraint("state in ('open', 'closed')", name="state"),
        Index("uq_logs_open", "state", unique=True, postgresql_where=text("state = 'open'")),
    )


class LogQueueRow(Base):
    """An event that is committed and not yet sealed. A trigger of `audit_events` writes it."""

    __tablename__ = "log_queue"

    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    event_id: Mapped[UUID]
    occurred_at: Mapped[datetime] = mapped_column(Timestamp)
    problem: Mapped[str | None] = mapped_column(Text)
    """Why it cannot be sealed; it holds up no other."""


class LogEntryRow(Base):
    """One entry of a log, which never changes."""

    __tablename__ = "log_entries"

    log: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    event_id: Mapped[UUID | None] = mapped_column(unique=True)
    """Null for a heartbeat."""
    occurred_at: Mapped[datetime | None] = mapped_column(Timestamp)
    """When the event occurred, which leads to its partition."""
    leaf: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("length(leaf) <= 65535", name="leaf"),)


class LogTileRow(Base):
    """Up to 256 hashes of one level of a log's tree, one after the other. It only grows."""

    __tablename__ = "log_tiles"

    log: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    n: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hashes: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (
        CheckConstraint(
            "length(hashes) between 32 and 8192 and length(hashes) % 32 = 0", name="hashes"
        ),
    )


class LogSeriesRow(Base):
    """The last number of a series: each counts its entries from 1, without a gap."""

    __tablename__ = "log_series"

    log: Mapped[int] = mapped_column(ForeignKey("logs.number"), primary_key=True)
    label: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID | None]
    """The tenant whose series it is; null for the three that are no tenant's."""
    last: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index(None, "tenant_id", "log"),)


class LogKeyRow(Base):
    """A public key that has signed a log's checkpoints, as a verifier key."""

    __tablename__ = "log_keys"

    log: Mapped[int] = mapped_column(ForeignKey("logs.number"), primary_key=True)
    verifier: Mapped[str] = mapped_column(Text, primary_key=True)
    since: Mapped[datetime] = mapped_column(Timestamp, server_default=text("clock_timestamp()"))

    __table_args__ = (CheckConstraint("length(verifier) <= 4096", name="verifier"),)


class LogCosignatureRow(Base):
    """The line that a witness has added to a checkpoint."""

    __tablename__ = "log_cosignatures"

    log: Mapped[int] = mapped_column(ForeignKey("logs.number"), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    line: Mapped[str] = mapped_column(Text)


class LogWitnessRow(Base):
    """What a witness has cosigned, and when it was last asked."""

    __tablename__ = "log_witnesses"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    log: Mapped[int] = mapped_column(SmallInteger)
    size: Mapped[int] = mapped_column(BigInteger)
    """The size that it has, as far as it has said."""
    cosigned_at: Mapped[datetime | None] = mapped_column(Timestamp)
    asked_at: Mapped[datetime | None] = mapped_column(Timestamp)
    failures: Mapped[int]
    """How often it has failed since it last cosigned."""
    problem: Mapped[str | None] = mapped_column(Text)


class LogCopyRow(Base):
    """What a host has of the log outside the database, as it was last compared."""

    __tablename__ = "log_copies"

    host: Mapped[str] = mapped_column(Text, primary_key=True)
    log: Mapped[int] = mapped_column(SmallInteger)
    size: Mapped[int] = mapped_column(BigInteger)
    root: Mapped[bytes] = mapped_column(LargeBinary)
    compared_at: Mapped[datetime] = mapped_column(Timestamp)
    problem: Mapped[str | None] = mapped_column(Text)
    """Why nothing may be signed: the database contradicts the copy."""

    __table_args__ = (CheckConstraint("length(host) <= 255", name="host"),)
