"""The way on after a restore that has lost what was sealed: a new log, which names the old one."""

from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from webapp.audit import append
from webapp.audit.event import Reason
from webapp.audit.operation import change, origin
from webapp.db.session import ScopedSession
from webapp.ledger.sealing import store
from webapp.ledger.sealing.checkpoint import encode_base64
from webapp.ledger.sealing.copies import Copy, UnreadableCopy
from webapp.ledger.sealing.following import Host
from webapp.ledger.sealing.guard import RefusesToSign, compare
from webapp.ledger.sealing.keys import base_of, origin_of
from webapp.ledger.sealing.sealer import series_secret
from webapp.ledger.sealing.store import LockedLog, Tiles

SURFACE = "ledger.resume"


class NothingToResume(Exception):
    """The log goes on as it is; the text says so to the operator."""


@dataclass(frozen=True)
class Resumed:
    """The log that was closed, as it was last signed, and the one in its place."""

    old_origin: str
    old_size: int
    old_root: str
    database_size: int
    """What the database still had of it."""
    new_origin: str


def resume(session: ScopedSession, host: Host, reason: Reason) -> Resumed:
    """Open a log in the place of one whose tree was lost, and record it in the same transaction.

    Raises `NothingToResume` where the database continues what was signed. The caller commits.
    """
    log = store.lock_open(session, wait=True)
    if log is None:
        raise NothingToResume("There is no log yet: workers open one.")
    copy = _contradicting(session, host, log)
    old = copy or _as_copy(log)
    number = max(log.number, old.log) + 1
    resumed = Resumed(
        old.origin,
        old.size,
        encode_base64(old.root),
        log.size,
        origin_of(base_of(log.origin), number),
    )
    event = change(SURFACE, origin("CLI", "flask ledger resume --after-restore"), reason=reason)
    event = replace(event, terms=_terms(resumed))
    append.append_own(session, [event])
    store.close_log(session, log.number)
    secret = series_secret(host.keys, number)
    store.open_log(session, number, resumed.new_origin, secret, resumed_by=event.id)
    store.forget_problems(session)
    return resumed


def _contradicting(session: Session, host: Host, log: LockedLog) -> Copy | None:
    """The copy that the database contradicts; `None` where only another host has one."""
    try:
        copy = host.copies.read()
        if compare(log, Tiles(session, log.number).hash_at(log.size), copy):
            return copy
    except RefusesToSign:
        return copy
    except UnreadableCopy:
        return None
    if not store.read_problems(session):
        raise NothingToResume("The database continues what was signed: nothing has to be resumed.")
    return None


def _as_copy(log: LockedLog) -> Copy:
    return Copy(log.number, log.origin, log.size, log.root, log.checkpoint or "", "the database")


def _terms(resumed: Resumed) -> dict[str, str]:
    return {name: str(value) for name, value in sorted(vars(resumed).items())}
