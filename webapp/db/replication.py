"""What PostgreSQL does so that a commit outlives its server, as far as a role may see."""

from dataclasses import dataclass

from sqlalchemy import BigInteger, Float, column, func, select, table
from sqlalchemy.orm import Session

_STANDBYS = table("pg_stat_replication", column("pid"))
_BEHIND = func.standbys_behind().table_valued(column("bytes", BigInteger), column("seconds", Float))


@dataclass(frozen=True)
class Replication:
    synchronous: str
    """The standbys that a commit waits for, as `synchronous_standby_names` has them; or empty."""
    standbys: int
    """How many standbys, and backups, receive changes at the moment."""
    behind: int | None
    """Bytes that the one that is furthest behind has not flushed; `None` where the tables' owner
    may not see that of any, or there is none."""
    seconds: float | None
    """How long its latest flush had taken; `None` likewise, and where it has long had everything.
    """
    careless: tuple[str, ...]
    """Settings by which the server may lose commits when its host fails."""


def read_replication(session: Session) -> Replication:
    """Read it from a primary; a standby raises an error."""
    names = func.current_setting("synchronous_standby_names")
    standbys = session.scalars(select(func.count(_STANDBYS.c.pid))).one()
    behind, seconds = session.execute(select(_BEHIND)).one()
    return Replication(
        synchronous=session.scalars(select(names)).one().strip(),
        standbys=standbys,
        behind=behind,
        seconds=seconds,
        careless=tuple(_careless(session)),
    )


def _careless(session: Session) -> list[str]:
    settings = ("fsync", "full_page_writes", "synchronous_commit")
    found = session.execute(select(*map(func.current_setting, settings))).one()
    return [name for name, value in zip(settings, found, strict=True) if value == "off"]
