"""The pipeline of an application's events: journal, relay, workers, ledger."""

from collections.abc import Sequence
from functools import partial

from celery import Celery
from flask import Flask, current_app

from webapp.audit import append
from webapp.audit.journal.service import Journal
from webapp.audit.relay.relay import Delivery, Relay
from webapp.audit.signature import sign_event
from webapp.db.scopes import RelayScope
from webapp.extensions import db
from webapp.observability import traces
from webapp.observability.traces import Stage
from webapp.settings import Settings

COMMIT_TASK = "audit.commit"
_JOURNAL, _RELAY = "sightline.journal", "sightline.relay"


def init_app(app: Flask) -> None:
    """Make the journal and the relay from the application's settings; opens and starts nothing."""
    settings: Settings = app.extensions["settings"]
    celery: Celery = app.extensions["celery"]

    def send(batch: Delivery) -> None:
        celery.send_task(
            COMMIT_TASK,
            args=[batch],
            ignore_result=True,
            retry=False,
            # Otherwise Celery would format the events once more, for its logs.
            argsrepr="",
            kwargsrepr="",
        )

    def confirm(keys: Sequence[str]) -> append.Confirmation:
        with app.app_context(), db.scoped(RelayScope()):
            return append.confirm(db.session, keys)

    def sign(data: bytes) -> str:
        return sign_event(settings.signing_key, data)

    journal = Journal(settings.journal_dir, sign, settings.journal_max_mb * 2**20)
    app.extensions[_JOURNAL] = journal
    relay = app.extensions[_RELAY] = Relay(journal, send, confirm, settings.journal_keep)
    relay.on_sent = partial(traces.of(app).note, Stage.RELAY)


def current_journal() -> Journal:
    journal: Journal = current_app.extensions[_JOURNAL]
    return journal


def start(app: Flask) -> None:
    """Start the relay of this process, which also brings what dead processes have left."""
    app.extensions[_RELAY].start()


def stop(app: Flask, seconds: float) -> None:
    """Relay what can be within `seconds` before the process ends; the rest is left for adoption."""
    app.extensions[_RELAY].drain(seconds)
