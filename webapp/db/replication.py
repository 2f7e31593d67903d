"""What PostgreSQL does so that a commit outlives its server, as far as a role may see."""

from dataclasses import dataclass

from sqlalchemy import column, func, select, table
from sqlalchemy.orm import Session

_STANDBYS = table("pg_stat_replication", column("pid"), column("flush_lsn"))


@dataclass(frozen=True)
class Replication:
    synchronous: str
    """The standbys that a commit waits for, as `synchronous_standby_names` has them; or empty."""
    standbys: int
    """How many standbys, and backups, receive changes at the moment."""
    behind: int | None
    """Bytes that the one that is furthest behind has not flushed; `None` where the role may not see
    that of any, or there is none."""
    careless: tuple[str, ...]
    """Settings by which the server may lose commits when its host fails."""


def read_replication(session: Session) -> Replication:
    """Read it from a primary; a standby raises an error."""
    names = func.current_setting("synchronous_standby_names")
    standbys, behind = _standbys(session)
    return Replication(
        synchronous=session.scalars(select(names)).one().strip(),
        standbys=standbys,
        behind=behind,
        careless=tuple(_careless(session)),
    )


def _standbys(session: Session) -> tuple[int, int | None]:
    now = func.pg_current_wal_flush_lsn()
    behind = func.max(func.pg_wal_lsn_diff(now, _STANDBYS.c.flush_lsn))
    standbys, most = session.execute(select(func.count(_STANDBYS.c.pid), behind)).one()
    return standbys, None if most is None else max(0, int(most))


def _careless(session: Session) -> list[str]:
    settings = ("fsync", "full_page_writes", "synchronous_commit")
    found = session.execute(select(*map(func.current_setting, settings))).one()
    return [name for name, value in zip(settings, found, strict=True) if value == "off"]
