"""The first use of each key, noted by the processes that sign with it.

A process notes its keys once, when it has started and the database answers. What a task makes of it
is an event for each key that came after another one.
"""

from collections.abc import Mapping, Sequence
from socket import gethostname
from threading import Thread
from time import sleep
from typing import Literal

import structlog
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from webapp.db.scopes import IdentityScope
from webapp.extensions import db
from webapp.key_ring import KeyRing
from webapp.key_uses.models import KeyUseRow
from webapp.settings import Settings, current_settings

Process = Literal["web", "worker", "beat"]

USED: Mapping[Process, Sequence[str]] = {
    "web": ("SECRET_KEY", "OPERATIONS_TOKEN"),
    "worker": ("SECRET_KEY", "WEBHOOK_SECRET"),
    "beat": ("SECRET_KEY",),
}
"""The variables of the keys that each kind of process signs with, or lets people in by."""

PAUSE = 15.0
"""Seconds until a web process tries again."""

log = structlog.get_logger()


def key_rings(settings: Settings) -> dict[str, KeyRing]:
    """The keys that are set, by the variable of the one that signs."""
    set_ = {"SECRET_KEY": settings.secret_keys}
    for name, texts in (
        ("WEBHOOK_SECRET", settings.webhook_secrets),
        ("OPERATIONS_TOKEN", settings.operations_tokens),
    ):
        if texts:
            set_[name] = KeyRing.of(*texts)
    return set_


def note(session: Session, process: Process) -> None:
    """Note which keys this process signs with. The caller commits."""
    rings = key_rings(current_settings())
    for name in USED[process]:
        if name in rings:
            fingerprint = rings[name].fingerprints()[0]
            session.execute(select(func.note_key(name, fingerprint, gethostname())))


def note_in_background(app: Flask) -> None:
    """Have a thread of a web process note its keys, once the database answers.

    Call it after the last fork.
    """
    Thread(target=_note_in_time, args=[app], name="keys", daemon=True).start()


def _note_in_time(app: Flask) -> None:
    while not _is_noted(app):
        sleep(PAUSE)


def _is_noted(app: Flask) -> bool:
    try:
        with app.app_context(), db.scoped(IdentityScope()):
            note(db.session, "web")
            db.session.commit()
    except SQLAlchemyError as error:
        log.warning("keys_not_noted", problem=type(error).__name__)
        return False
    return True


def read_known(session: Session) -> set[tuple[str, str]]:
    """Return the name and the fingerprint of every key that was used."""
    rows = session.execute(select(KeyUseRow.name, KeyUseRow.fingerprint))
    return {(name, fingerprint) for name, fingerprint in rows}
