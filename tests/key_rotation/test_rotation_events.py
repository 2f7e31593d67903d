"""A key that comes into use after another one is recorded, once, whoever uses it first."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from tasks.keys import record
from tests.applications import application, application_of
from tests.audit.ledgers import owner_connection
from tests.audit.receipts import second_connection
from tests.key_rotation.steps import NEW
from tests.stacks import copied_stack
from webapp import doctor
from webapp.audit.models import AuditEventRow
from webapp.db.scopes import IdentityScope
from webapp.extensions import db
from webapp.key_ring import KeyRing
from webapp.key_uses import service
from webapp.stack.home import running
from webapp.worker.alive import Pulse

PATH = f"SECRET_KEY {KeyRing.of(NEW, None).fingerprints()[0]}"


@pytest.fixture(scope="module")
def own_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    home: Path = tmp_path_factory.mktemp("stack")
    stack = copied_stack(home)
    with running(stack):
        environment = {"SIGHTLINE_HOME": str(home), **stack.environment}
        with application(environment) as made:
            yield made


@pytest.fixture
def rotated(own_app: Flask) -> Iterator[Flask]:
    """The same application at step 2, where no key has been noted yet."""
    change(own_app, "delete from key_uses")
    settings = own_app.extensions["settings"]
    at_step = replace(settings, secret_key=NEW, secret_key_accepted=settings.secret_key)
    with application_of(at_step) as made:
        yield made


def change(app: Flask, statement: str) -> None:
    with owner_connection(app) as owner:
        owner.execute(text(statement))


def note(app: Flask, process: service.Process) -> None:
    with app.app_context(), db.scoped(IdentityScope()):
        service.note(db.session, process)
        db.session.commit()


def together(*do: Callable[[], object]) -> None:
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(each) for each in do]:
            done.result()


def recorded(app: Flask) -> list[tuple[str, str]]:
    """Run the task twice, at the same time, and return who is said to have used which key."""

    task = app.extensions["celery"].tasks[record.name]
    together(*[task] * 2)
    events = select(AuditEventRow.event).where(AuditEventRow.surface == "keys.use")
    with second_connection(app) as session:
        found = session.scalars(events.order_by(AuditEventRow.id)).all()
    return [(event["actor"]["email"], event["request"]["path"]) for event in found]


def test_first_key_is_no_rotation_and_the_next_one_is_recorded_once(rotated: Flask) -> None:
    before = recorded(rotated)
    old = replace(
        rotated.extensions["settings"],
        secret_key=rotated.extensions["settings"].secret_key_accepted,
    )
    with application_of(old) as first:
        note(first, "web")
        assert recorded(first) == before
    together(*(partial(note, rotated, kind) for kind in service.USED))
    assert recorded(rotated) == [*before, ("sightline", PATH)]
    note(rotated, "web")  # as after a restart
    Pulse(rotated, "worker").note()
    assert recorded(rotated) == [*before, ("sightline", PATH)]


def test_web_process_notes_its_keys_once_the_database_answers(
    rotated: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(rotated, "alter table key_uses rename to key_uses_away")
    monkeypatch.setattr(service, "sleep", lambda _: change(rotated, BACK))
    service._note_in_time(rotated)
    with rotated.app_context(), db.scoped(IdentityScope()):
        assert ("SECRET_KEY", PATH.split()[1]) in service.read_known(db.session)


BACK = "alter table key_uses_away rename to key_uses"
NOTE = text("select note_key(:name, :key, 'here')")


def test_whoever_has_a_login_makes_few_events_of_keys(rotated: Flask) -> None:
    with rotated.app_context(), db.scoped(IdentityScope()):
        for number in range(20):
            db.session.execute(NOTE, {"name": "SECRET_KEY", "key": f"{number:016x}"})
        with pytest.raises(IntegrityError):
            db.session.execute(NOTE, {"name": "SECRET_KEY", "key": "f" * 16})


@pytest.mark.parametrize(
    "bad", [("PASSWORD", "0" * 16), ("SECRET_KEY", "a value"), ("SECRET_KEY", "")]
)
def test_what_is_no_fingerprint_of_a_key_is_not_noted(rotated: Flask, bad: tuple[str, str]) -> None:
    with rotated.app_context(), db.scoped(IdentityScope()), pytest.raises(IntegrityError):
        db.session.execute(NOTE, {"name": bad[0], "key": bad[1]})


def test_doctor_names_keys_by_fingerprint_and_what_is_accepted(rotated: Flask) -> None:
    with rotated.app_context():
        before = doctor._check_keys()
    note(rotated, "web")
    with rotated.app_context():
        after = doctor._check_keys()
    (_, accepted) = rotated.extensions["settings"].secret_keys.fingerprints()
    assert f"{PATH} (not used yet) (accepts {accepted})" in before
    assert f"{PATH} (accepts {accepted})" in after
    assert not any(key.decode() in after for key in rotated.extensions["settings"].secret_keys)
