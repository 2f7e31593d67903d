"""Each worker host follows the log: it compares the database with its copy, and renews the copy.

So a host that seals nothing itself notices a restored database too, and no host signs before the
one that has noticed says that all is well again.
"""

from dataclasses import dataclass
from socket import gethostname
from typing import Any

import structlog
from celery import bootsteps
from flask import Flask
from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from webapp.db.scopes import SealingScope
from webapp.extensions import db
from webapp.ledger.sealing import store
from webapp.ledger.sealing.copies import CopiedEntry, Copies, Copy, UnreadableCopy
from webapp.ledger.sealing.guard import RefusesToSign, compare
from webapp.ledger.sealing.keys import LogKeys, log_keys
from webapp.ledger.sealing.merkle import EMPTY_ROOT
from webapp.ledger.sealing.note import NoteError, open_checkpoint
from webapp.ledger.sealing.store import Log, Tiles
from webapp.settings import Settings, SettingsError, current_settings

EVERY = 15.0
"""Seconds between two comparisons of a worker's host."""

MARGIN = 3600.0
"""Seconds for which entries are kept beyond what journals keep: a restore takes its time."""

ENTRIES = 100_000
"""Entries that are copied at most at once: of a log that is much further on, the last ones."""

PART = 5_000
"""Entries that are read at once."""

NOT_COPIED = Counter(
    "sightline_log_copy_failures_total", "Checkpoints that could not be written to CHECKPOINT_DIR."
)

log = structlog.get_logger()


@dataclass(frozen=True)
class Host:
    """What a process needs to seal, and to follow: keys, this host's copies and its name."""

    keys: LogKeys
    copies: Copies
    name: str


def this_host(settings: Settings) -> Host:
    """Return it; raises `SettingsError` where the settings lack something."""
    keys = log_keys(settings)
    name = gethostname()
    keep = 2 * settings.journal_keep + MARGIN
    return Host(keys, Copies(settings.checkpoint_dir, keys, keep, name), name)


def find_problem(session: Session, host: Host) -> str | None:
    """Return why the database contradicts this host's copy, if it does; nothing is written."""
    try:
        return _compare(session, host, store.read_open(session), host.copies.read())
    except (RefusesToSign, UnreadableCopy) as error:
        return str(error)


def _compare(session: Session, host: Host, found: Log | None, copy: Copy | None) -> str | None:
    if found is None or found.checkpoint is None:
        return None if copy is None else _nothing_there(copy, found)
    behind = compare(found, Tiles(session, found.number).hash_at(found.size), copy)
    if behind:
        return behind.problem
    _check_signature(found, host.keys)
    return None


def _renew(session: Session, host: Host, found: Log, copy: Copy | None) -> None:
    if found.checkpoint is None:
        return
    if copy is None or (copy.log, copy.size) != (found.number, found.size):
        _copy_entries(session, host.copies, found, copy)
        host.copies.replace(found.number, found.checkpoint)


def _nothing_there(copy: Copy, found: Log | None) -> str | None:
    """A log that was opened in the place of another one has no checkpoint at first."""
    if found is not None and found.number > copy.log and found.resumed_by is not None:
        return None
    return f"the database has no checkpoint, and {copy.place} has one of size {copy.size}"


def _check_signature(found: Log, keys: LogKeys) -> None:
    try:
        checkpoint, _ = open_checkpoint(
            (found.checkpoint or "").encode(), keys.verifiers(found.origin)
        )
    except NoteError as error:
        raise RefusesToSign(
            f"the checkpoint in the database cannot be believed: {error}"
        ) from error
    if not checkpoint.is_of(found.origin, found.size, found.root):
        raise RefusesToSign("the checkpoint in the database is of another tree than its row")


def _copy_entries(session: Session, copies: Copies, found: Log, copy: Copy | None) -> None:
    first = copy.size if copy is not None and copy.log == found.number else 0
    if found.size - first > ENTRIES:
        first = found.size - ENTRIES
        copies.clear(found.number)
    for start in range(first, found.size, PART):
        entries = store.read_entries(session, found.number, start, min(start + PART, found.size))
        copies.add(found.number, [CopiedEntry(e.index, e.event_id, e.leaf) for e in entries])


def follow_and_report(session: Session, host: Host) -> None:
    """Copy what was sealed since, and note in the database what comes of it. The caller commits.

    A directory that cannot be written fails by itself: what is sealed is sealed.
    """
    try:
        with host.copies.locked() as mine:
            if mine:  # otherwise another process of this host does it at this moment
                _report(session, host, _follow(session, host))
    except OSError as error:
        NOT_COPIED.inc()
        log.error("checkpoint_not_copied", problem=type(error).__name__)


def _follow(session: Session, host: Host) -> str | None:
    """Renew the copy; returns why the database contradicts it, if it does."""
    try:
        copy = host.copies.read()
        found = store.read_open(session)
        problem = _compare(session, host, found, copy)
        if problem is None and found is not None:
            _renew(session, host, found, copy)
    except (RefusesToSign, UnreadableCopy) as error:
        return str(error)
    return problem


def _report(session: Session, host: Host, problem: str | None) -> None:
    try:
        copy = host.copies.read()
    except UnreadableCopy:
        copy = None
    size, root, number = (copy.size, copy.root, copy.log) if copy else (0, EMPTY_ROOT, 0)
    store.write_copy(session, host.name, number, size, root, problem)
    if problem is None:
        host.copies.note_hosts(sorted(store.read_comparisons(session).keys() - {host.name}))
        host.copies.is_well()
    else:
        log.critical("log_contradicts_copy", problem=problem)


class FollowStep(bootsteps.StartStopStep):
    """Has a worker's main process follow the log for as long as it takes tasks from the broker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._app: Flask = consumer.app.flask_app
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        self._follow()
        self._timer = consumer.timer.call_repeatedly(EVERY, self._follow)

    def stop(self, consumer: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _follow(self) -> None:
        """Follow over a connection that is closed then: a forked process must not share it."""
        with self._app.app_context():
            try:
                host = this_host(current_settings())
                with db.scoped(SealingScope()):
                    follow_and_report(db.session, host)
                    db.session.commit()
            except (SQLAlchemyError, SettingsError) as error:
                log.warning("log_not_followed", problem=type(error).__name__)
        with self._app.app_context():
            db.prepare_to_fork()


def init_app(app: Flask) -> None:
    """Have workers follow the log. Call this after Celery's `init_app`."""
    app.extensions["celery"].steps["consumer"].add(FollowStep)
