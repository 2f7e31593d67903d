"""Signs of life: which workers and beats have been seen at their work, and how long ago.

A worker notes one while it takes tasks from the broker, and beat when it has sent one. So whoever
has lost the broker is not seen any more, though its process runs. Moments and ages are the
database's: hosts' clocks may differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from os import getpid
from socket import gethostname
from typing import Literal

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from webapp.signs_of_life.models import SignOfLifeRow
from webapp.version import VERSION

Kind = Literal["worker", "beat"]

SILENT: dict[Kind, float] = {"worker": 60.0, "beat": 150.0}
"""Seconds after which a process is no longer taken for alive. Beat has a task to send each minute.
"""

KEPT = timedelta(hours=1)
"""How long the sign of a process is kept that is not seen any more."""


@dataclass(frozen=True)
class SignOfLife:
    kind: Kind
    host: str
    pid: int
    version: str
    age: float
    """Seconds."""

    @property
    def alive(self) -> bool:
        return self.age <= SILENT[self.kind]


def note(session: Session, kind: Kind) -> None:
    """Note that this process was seen just now, and forget those that have long been silent."""
    row = {"kind": kind, "host": gethostname(), "pid": getpid(), "version": VERSION}
    now = func.clock_timestamp()
    seen = insert(SignOfLifeRow).values(**row, seen_at=now)
    session.execute(
        seen.on_conflict_do_update(
            index_elements=[SignOfLifeRow.kind, SignOfLifeRow.host, SignOfLifeRow.pid],
            set_={"seen_at": now, "version": VERSION},
        )
    )
    session.execute(delete(SignOfLifeRow).where(SignOfLifeRow.seen_at < now - KEPT))


def remove(session: Session, kind: Kind) -> None:
    """Remove the sign of this process, which ends in order."""
    session.execute(
        delete(SignOfLifeRow).where(
            SignOfLifeRow.kind == kind,
            SignOfLifeRow.host == gethostname(),
            SignOfLifeRow.pid == getpid(),
        )
    )


def read_all(session: Session) -> Sequence[SignOfLife]:
    """Return every sign that is kept, the latest first."""
    age = func.extract("epoch", func.clock_timestamp() - SignOfLifeRow.seen_at)
    columns = (
        SignOfLifeRow.kind,
        SignOfLifeRow.host,
        SignOfLifeRow.pid,
        SignOfLifeRow.version,
    )
    found = session.execute(select(*columns, age).order_by(SignOfLifeRow.seen_at.desc()))
    return [
        SignOfLife("beat" if kind == "beat" else "worker", host, pid, version, max(0.0, float(age)))
        for kind, host, pid, version, age in found
    ]
