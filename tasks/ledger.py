"""Tasks of the log: they seal what is committed."""

from time import monotonic

import structlog
from celery import shared_task
from sqlalchemy.exc import DBAPIError

from webapp.db.scopes import SealingScope
from webapp.extensions import db
from webapp.ledger.sealing import following, sealer, store, witnesses
from webapp.ledger.sealing.following import Host, this_host
from webapp.ledger.sealing.guard import RefusesToSign
from webapp.ledger.sealing.sealer import REFUSED, SEAL_TASK, SEALED, UnfitEvents
from webapp.ledger.sealing.witnesses import ASK_TASK, Question, WitnessFailed
from webapp.settings import SettingsError, WitnessSetting, current_settings
from webapp.worker.after_commit import send_soon

SEALING = 20.0
"""Seconds after which a task leaves what still waits to the next one, so that others can run."""

log = structlog.get_logger()


@shared_task(name=SEAL_TASK, ignore_result=True)
def seal() -> None:
    """Seal what is committed, batch after batch, and copy each checkpoint off the database."""
    try:
        host = this_host(current_settings())
    except SettingsError as error:  # in development only: a deployed worker does not start
        log.warning("not_sealed", problem=str(error))
        return
    until = monotonic() + SEALING
    with db.scoped(SealingScope()):
        try:
            while _seal_some(host) and monotonic() < until:
                pass
            _ask_witnesses()
        except DBAPIError as error:
            log.warning("not_sealed", problem=type(error).__name__)


@shared_task(name=ASK_TASK, ignore_result=True)
def ask_witness(name: str) -> None:
    """Have one witness cosign the last checkpoint. No transaction is open while it is asked."""
    witness = {each.name: each for each in current_settings().witnesses}.get(name)
    if witness is None:
        return  # it is no more among the settings
    with db.scoped(SealingScope()):
        try:
            asked = witnesses.take(db.session, name)
            db.session.commit()
            if asked is None:
                return
            asked, line = _ask(witness, asked)
        except WitnessFailed as error:
            db.session.rollback()
            witnesses.note_failure(db.session, name, str(error))
        else:
            witnesses.keep(db.session, name, asked, line)
        db.session.commit()


def _ask(witness: WitnessSetting, asked: Question) -> tuple[Question, str]:
    """Ask a witness, and once more from the size that it says it has."""
    answer = witnesses.ask(witness, asked)
    if isinstance(answer, str):
        return asked, answer
    found = store.read_open(db.session)
    if found is None or answer.size == asked.old_size:
        raise WitnessFailed(f"it has another tree of size {answer.size}")
    again = witnesses.question(db.session, found, answer.size)
    db.session.commit()
    line = witnesses.ask(witness, again)
    if not isinstance(line, str):
        raise WitnessFailed(f"it has another tree of size {line.size}")
    return again, line


def _ask_witnesses() -> None:
    """Send a task for each witness that is due: none waits for another one."""
    for name in witnesses.find_due(db.session, current_settings().witnesses):
        send_soon(ASK_TASK, name)


def _seal_some(host: Host) -> bool:
    """Seal one batch; returns whether there may be more."""
    try:
        sealed = sealer.seal(db.session, host.keys, host.copies, host.name)
        db.session.commit()
    except UnfitEvents as error:
        db.session.rollback()
        store.refuse(db.session, error.problems)
        db.session.commit()
        log.error("events_not_sealed", positions=sorted(error.problems))
        return True
    except RefusesToSign as error:
        db.session.rollback()
        REFUSED.inc()
        log.critical("log_not_signed", problem=str(error))
        _follow(host)
        return False
    if sealed is None:
        db.session.rollback()
        return False
    SEALED.inc(sealed.entries)
    _follow(host)
    return not sealed.is_all


def _follow(host: Host) -> None:
    """Copy the checkpoint. Where that fails, it fails by itself: a later one is copied as well."""
    following.follow_and_report(db.session, host)
    db.session.commit()
