"""A real worker seals what it commits, without waiting for beat, and follows the log."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from tests.audit.receipts import receipt, wait_for
from tests.factories import INCIDENT, Account
from tests.rules.calls import PATH
from webapp.db.scopes import SealingScope
from webapp.extensions import db
from webapp.ledger.sealing.following import find_problem, this_host
from webapp.ledger.sealing.models import LogCopyRow, LogEntryRow
from webapp.settings import current_settings

pytestmark = pytest.mark.slow


def is_sealed(app: Flask, event_id: UUID) -> bool:
    with app.app_context(), db.scoped(SealingScope()):
        found = select(LogEntryRow.index).where(LogEntryRow.event_id == event_id)
        return db.session.scalar(found) is not None


def problems(app: Flask) -> Sequence[str | None]:
    """What each host has found that has compared its copy."""
    with app.app_context(), db.scoped(SealingScope()):
        return db.session.scalars(select(LogCopyRow.problem)).all()


def test_worker_seals_an_access_and_keeps_the_checkpoint_off_the_database(
    app: Flask, client: FlaskClient, worker: None, engineer: Account
) -> None:
    answer = client.get(PATH, headers=engineer.headers("global", INCIDENT))
    (event_id,) = receipt(answer)
    wait_for(lambda: is_sealed(app, event_id))
    with app.app_context():
        host = this_host(current_settings())
    wait_for(lambda: host.copies.read() is not None)  # once the sealing is committed
    wait_for(lambda: problems(app) == [None])
    with app.app_context(), db.scoped(SealingScope()):
        assert find_problem(db.session, host) is None
