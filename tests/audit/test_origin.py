"""Crimes against the origin of events, and what becomes of each."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from tests.audit.events import make_event
from tests.audit.ledgers import append_events, deliver, ledger_session, owner_connection, seal
from tests.audit.products import Product, numbered, own_product
from tests.audit.receipts import second_connection, wait_for
from tests.processes import ROOT, run_worker
from webapp.audit import signing_keys
from webapp.audit.event import AuditEvent, EventOrigin, dump_event
from webapp.audit.journal.file import list_files
from webapp.audit.models import AuditEventRow
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.audit.signature import check_signature, sign_event
from webapp.db.row_security import OWN_JOURNAL
from webapp.signing_key import SigningKey, signing_key
from webapp.stack.home import SIGNING_KEYS

STRANGER = SigningKey("s" * 43)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with own_product(tmp_path_factory.mktemp("home") / "home") as product:
        yield product


@pytest.fixture
def product(installed: Product) -> Product:
    installed.empty()
    installed.tamper("truncate audit_quarantine")
    return installed


def key_of(product: Product, process: str) -> SigningKey:
    return signing_key(product.environment[SIGNING_KEYS[process]])


def signed_by(key: SigningKey, event: AuditEvent) -> list[str]:
    data = dump_event(event)
    return [data.decode(), sign_event(key, data)]


def in_ledger(product: Product, *ids: UUID) -> set[UUID]:
    with second_connection(product.app) as session:
        rows = session.scalars(select(AuditEventRow.id).where(AuditEventRow.id.in_(ids)))
        return set(rows)


def quarantined(product: Product) -> list[str]:
    with owner_connection(product.app) as owner:
        return list(owner.scalars(text("select problem from audit_quarantine order by 1")))


def change_registry(product: Product, statement: str) -> None:
    with owner_connection(product.app) as owner:
        owner.execute(text(statement), {"key": key_of(product, "web").public})


RETIRE = "update signing_keys set retired_at = now() where public_key = :key"
RESTORE = "update signing_keys set retired_at = null where public_key = :key"


def test_forged_event_is_quarantined_and_the_rest_is_committed(product: Product) -> None:
    """A stranger has the broker, and no key that is registered."""
    good, forged = make_event(), make_event()
    received = deliver(product.app, [*seal(product.app, good), signed_by(STRANGER, forged)])
    assert received.appended == 1
    assert in_ledger(product, good.id, forged.id) == {good.id}
    assert quarantined(product) == [
        f"signed by key {STRANGER.fingerprint}, which is not registered"
    ]


def test_altered_event_is_quarantined(product: Product) -> None:
    event = make_event(outcome="served")
    ((_, signature),) = seal(product.app, event)
    altered = dump_event(replace(event, outcome="denied")).decode()
    assert deliver(product.app, [[altered, signature]]).appended == 0
    key = key_of(product, "web").fingerprint
    assert quarantined(product) == [f"not what key {key} has signed"]


def test_event_under_another_hosts_name_is_quarantined(product: Product) -> None:
    """A signature of one's own, under the fingerprint of a key that is registered."""
    data, signature = signed_by(STRANGER, make_event())
    key = key_of(product, "web").fingerprint
    forged = [data, signature.replace(STRANGER.fingerprint, key)]
    assert deliver(product.app, [forged]).appended == 0
    assert quarantined(product) == [f"not what key {key} has signed"]


@pytest.mark.parametrize("process", ["worker", "commands"])
def test_access_under_a_key_of_no_web_process_is_quarantined(
    product: Product, process: str
) -> None:
    """Whoever has a worker has its key, and makes no access with it."""
    key = key_of(product, process)
    assert deliver(product.app, [signed_by(key, make_event())]).appended == 0
    assert quarantined(product) == [f"signed by key {key.fingerprint} of a {process} process"]


def test_event_that_claims_to_have_no_journal_is_quarantined(product: Product) -> None:
    event = make_event(origin=EventOrigin(OWN_JOURNAL, 1))
    assert deliver(product.app, seal(product.app, event)).appended == 0
    assert quarantined(product) == ["numbered as an event that has no journal"]


def test_key_that_is_retired_before_the_delivery_is_not_believed_until_it_is_restored(
    product: Product,
) -> None:
    """Whenever it has signed: whoever stole the key chooses the moment that an event names."""
    event = make_event()
    delivery = seal(product.app, event)
    change_registry(product, RETIRE)
    try:
        assert deliver(product.app, delivery).appended == 0
        key = key_of(product, "web").fingerprint
        assert quarantined(product) == [f"signed by key {key}, which is retired"]
    finally:
        change_registry(product, RESTORE)
    assert deliver(product.app, delivery).appended == 1


def test_begun_row_that_is_altered_before_its_adoption_is_quarantined(product: Product) -> None:
    """Who may write on the host makes an access look as if it had been denied, or drops it."""
    journal = uuid4()
    first, altered, last = numbered(journal, [1, 2, 3])
    path = product.leave(journal, first, altered, last, finalized=False)
    other = dump_event(replace(altered, outcome="denied"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("update events set event = ? where id = ?", (other, str(altered.id)))
    checked = product.run("verify", "--complete")
    assert f"wrong signature: row 2, event {altered.id}" in checked.output
    drained = product.run("drain")
    assert drained.exit_code == 1
    assert "2 events committed, 1 refused" in drained.output
    assert in_ledger(product, first.id, altered.id, last.id) == {first.id, last.id}
    key = key_of(product, "web").fingerprint
    assert quarantined(product) == [f"not what key {key} has signed"]
    assert [each.stem for each in list_files(product.journals)] == [str(journal)]


def test_journal_of_another_process_of_the_host_is_adopted(product: Product) -> None:
    journal = uuid4()
    events = numbered(journal, [1, 2])
    product.leave(journal, *events)
    assert product.run("drain").exit_code == 0
    assert in_ledger(product, *(event.id for event in events)) == {event.id for event in events}


def test_signature_stands_beside_the_bytes_that_it_is_of(product: Product) -> None:
    event = make_event()
    append_events(product.app, event)
    with owner_connection(product.app) as owner, ledger_session(product.app) as session:
        found = text("select event::text, origin_signature from audit_events where id = :id")
        owner.execute(text("alter table audit_events no force row level security"))
        data, signature = owner.execute(found, {"id": event.id}).one()
        owner.execute(text("alter table audit_events force row level security"))
        key = check_signature(data.encode(), signature, signing_keys.read_keys(session))
    assert data == dump_event(event).decode()
    assert key.process == "web"


@pytest.mark.parametrize(
    ("signatures", "refused"),
    [
        ("{}", "each event has a signature"),
        (None, "each event has a signature"),
        ("{null}", "each event has a signature"),
        ("{short}", "ck_audit_events_origin_signature"),
    ],
)
def test_database_appends_no_event_without_a_signature(
    product: Product, signatures: str | None, refused: str
) -> None:
    event = make_event()
    statement = text("select append_events(cast(:events as json), cast(:signatures as text[]))")
    values = {"events": f"[{dump_event(event).decode()}]", "signatures": signatures}
    with ledger_session(product.app) as session, pytest.raises(DBAPIError, match=refused):
        session.execute(statement, values)


def own_events(product: Product) -> list[tuple[str, str | None]]:
    """The surfaces of what was recorded without a journal, and the kinds of process that signed."""
    with ledger_session(product.app) as session:
        keys = signing_keys.read_keys(session)
    with owner_connection(product.app) as owner:
        owner.execute(text("alter table audit_events no force row level security"))
        query = text(
            "select surface, event::text as event, origin_signature as signature from audit_events"
            " where origin_journal = :own order by origin_seq"
        )
        rows = owner.execute(query, {"own": OWN_JOURNAL}).all()
        owner.execute(text("alter table audit_events force row level security"))
    return [
        (
            row.surface,
            row.signature and check_signature(row.event.encode(), row.signature, keys).process,
        )
        for row in rows
    ]


@pytest.mark.slow
def test_worker_and_commands_sign_what_they_do_and_a_retired_key_counts_no_more_at_once(
    product: Product, tmp_path: Path
) -> None:
    """The worker runs all the time: it needs no start anew to forget a key."""
    before, after = make_event(), make_event()
    celery = product.app.extensions["celery"]

    def send(event: AuditEvent) -> None:
        celery.send_task(COMMIT_TASK, args=[seal(product.app, event)])

    with run_worker(product.environment, tmp_path / "worker.log"):
        send(before)
        wait_for(lambda: in_ledger(product, before.id) == {before.id})
        change_registry(product, "update key_uses set recorded = true")
        change_registry(
            product,
            "insert into key_uses values"
            " ('SECRET_KEY', 'fedcba9876543210', 'here', now(), false) on conflict do nothing",
        )
        celery.send_task("keys.record")
        command = ["rules", "list", "--reason", 'legal;ticket="L-1"']
        done = run_command(product, *command)
        assert done.returncode == 0, done.stderr
        fingerprint = key_of(product, "web").fingerprint
        retired = run_command(product, "ledger", "keys", "retire", fingerprint)
        assert (retired.returncode, retired.stdout) == (0, f"Retired {fingerprint}.\n")
        send(after)
        wait_for(lambda: quarantined(product) == [f"signed by key {fingerprint}, which is retired"])
        wait_for(lambda: ("keys.use", "worker") in own_events(product))
    change_registry(product, RESTORE)
    assert in_ledger(product, after.id) == set()
    found = own_events(product)
    assert ("rules.list", "commands") in found
    assert ("ledger.keys.retire", None) in found  # the database itself recorded it


def run_command(product: Product, *arguments: str, **variables: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
        cwd=ROOT,
        env=os.environ | product.environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
