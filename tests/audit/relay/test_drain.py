"""Tests of `flask audit drain`, which commits what dead processes left without a broker."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
import requests
from sqlalchemy import select

from tests.audit.events import make_event
from tests.audit.journal.journals import left_in
from tests.audit.ledgers import append_events
from tests.audit.products import Product, numbered, own_product
from tests.audit.receipts import receipt, second_connection
from tests.factories import INCIDENT, Account, add_account
from tests.processes import Web, run_web
from webapp.audit.event import AuditEvent
from webapp.audit.journal.reader import Row, read_all
from webapp.audit.models import AuditEventRow

ACCESSES = 25


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with own_product(tmp_path_factory.mktemp("drain")) as made:
        yield made


@pytest.fixture(scope="module")
def engineer(product: Product) -> Account:
    return add_account(product.app, "engineer")


@pytest.fixture(autouse=True)
def _empty_product(product: Product) -> Iterator[None]:
    yield
    product.empty()


def outcomes_in_ledger(product: Product) -> dict[UUID, str]:
    """The outcome of each access in the ledger, where the making of people is too."""
    accesses = AuditEventRow.kind == "access"
    with second_connection(product.app) as session:
        query = select(AuditEventRow.id, AuditEventRow.outcome).where(accesses)
        rows = session.execute(query).all()
    found = {row.id: row.outcome for row in rows}
    assert len(found) == len(rows)
    return found


def run_drain(product: Product) -> tuple[int, dict[str, Any]]:
    done = product.run("drain", "--json")
    return done.exit_code, orjson.loads(done.stdout)


def report(**changes: Any) -> dict[str, Any]:
    return {"committed": 0, "refused": 0, "kept": 0, "running": 0, "unreadable": []} | changes


def access(web: Web, who: Account) -> UUID:
    headers = who.headers("global", INCIDENT)
    answer = requests.get(f"{web.url}/admin/api/rules", headers=headers, timeout=180)
    assert answer.status_code == 200
    (event_id,) = receipt(answer)
    return event_id


@pytest.mark.slow
def test_drain_commits_each_event_of_killed_processes_without_a_broker(
    product: Product, engineer: Account, tmp_path: Path
) -> None:
    """Each acknowledged event is in the ledger once, and none is missing."""
    # The test's directory also holds what a killed process leaves in its temporary directory.
    environment = {**product.environment, "TMPDIR": str(tmp_path)}
    with run_web(environment, tmp_path / "log") as web:
        product.stack.redis.kill()
        ids = {access(web, engineer) for _ in range(ACCESSES)}
        running = product.start("drain")
        waiting = product.start("verify", "--complete")
        os.killpg(web.process.pid, signal.SIGKILL)
        web.process.wait()
    assert (running.returncode, running.stdout) == (
        0,
        f"0 events committed, 0 refused.\n{ACCESSES} more are in files of running processes,"
        " which send them.\n",
    )
    assert waiting.returncode == 0, waiting.stdout
    assert waiting.stdout.endswith(f" 0 missing, {ACCESSES} waiting in files on this host.\n")
    assert outcomes_in_ledger(product) == {}
    drain = product.start("drain")
    again = product.start("drain")
    complete = product.start("verify", "--complete")
    product.stack.redis.start()
    assert (drain.returncode, drain.stdout) == (0, f"{ACCESSES} events committed, 0 refused.\n")
    assert "100%" in drain.stderr
    assert "Traceback" not in drain.stderr
    assert again.stdout == "0 events committed, 0 refused.\n"
    assert outcomes_in_ledger(product) == dict.fromkeys(ids, "served")
    assert complete.returncode == 0, complete.stdout
    assert complete.stdout.endswith(" journals: 0 missing, 0 waiting in files on this host.\n")
    assert left_in(product.journals) == []


def test_drain_commits_several_batches_with_known_events_among_them(product: Product) -> None:
    """The ledger already has a part of the events from the broker."""
    journal = uuid4()
    events = numbered(journal, range(1, 1201))
    append_events(product.app, *events[::3])
    product.leave(journal, *events)
    product.leave(uuid4(), *numbered(uuid4(), range(1, 11)))
    assert run_drain(product) == (0, report(committed=1210))
    assert len(outcomes_in_ledger(product)) == 1210
    assert left_in(product.journals) == []


def test_drain_records_an_unfinished_access_as_interrupted(product: Product) -> None:
    begun = make_event(outcome="interrupted", http_status=None, rows=None)
    product.leave(uuid4(), begun, finalized=False)
    assert run_drain(product) == (0, report(committed=1))
    assert outcomes_in_ledger(product) == {begun.id: "interrupted"}


def leave_forged(product: Product, *events: AuditEvent) -> Path:
    """Leave a file in which the first event's signature is not valid."""
    file = product.hold(uuid4(), *events[1:])
    row = product._row(len(events), events[0], finalized=True)
    file.write([row._replace(signature="0" * 64)], durable=False)
    file.close()
    return file.path


@pytest.mark.slow
def test_drain_leaves_refused_events_in_their_file(product: Product) -> None:
    forged, *others = (make_event() for _ in range(4))
    path = leave_forged(product, forged, *others)
    done = product.start("drain")
    assert done.returncode == 1
    assert done.stdout == (
        "3 events committed, 1 refused.\n"
        "Refused events stay in their files, and are in quarantine too.\n"
    )
    assert [row.id for row in read_all(path)] == [str(forged.id)]
    assert run_drain(product) == (1, report(refused=1))
    assert outcomes_in_ledger(product).keys() == {event.id for event in others}


def test_drain_leaves_files_of_living_processes_alone(product: Product) -> None:
    file = product.hold(uuid4(), make_event(), make_event())
    assert run_drain(product) == (0, report(running=2))
    assert outcomes_in_ledger(product) == {}
    file.close()
    assert run_drain(product) == (0, report(committed=2))


def test_drain_names_a_damaged_file_and_drains_the_others(product: Product) -> None:
    product.leave(uuid4(), make_event())
    damaged = product.journals / f"{uuid4()}.journal"
    damaged.write_bytes(b"not a journal" * 1000)
    assert run_drain(product) == (1, report(committed=1, unreadable=[damaged.name]))
    done = product.run("drain")
    assert f"cannot be read: {damaged.name}" in done.output


def test_drain_does_not_change_a_partly_damaged_file(product: Product) -> None:
    """The file stays as it is, for tools that can read the rest of it."""
    path = product.leave(uuid4(), *(make_event() for _ in range(1500)))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 3)
        file.write(os.urandom(size // 4))
    damaged = path.read_bytes()
    code, done = run_drain(product)
    assert (code, done["unreadable"]) == (1, [path.name])
    assert path.read_bytes() == damaged


def test_drain_refuses_a_row_that_is_no_text(product: Product) -> None:
    file = product.hold(uuid4(), make_event())
    file.write([Row(2, str(uuid4()), True, b"\xff\xfe", "signature")], durable=False)
    file.close()
    assert run_drain(product) == (1, report(committed=1, refused=1))


@pytest.mark.slow
def test_drain_without_a_database_loses_nothing(product: Product) -> None:
    events = [make_event() for _ in range(3)]
    path = product.leave(uuid4(), *events)
    product.stack.postgres.stop()
    done = product.start("drain")
    product.stack.postgres.start()
    assert done.returncode == 1
    assert done.stderr.strip().endswith("Error: The database does not answer; see DATABASE_URL.")
    assert "Traceback" not in done.stderr
    assert [row.id for row in read_all(path)] == [str(event.id) for event in events]
    assert product.start("drain").returncode == 0
    assert outcomes_in_ledger(product).keys() == {event.id for event in events}


def test_drain_without_a_journal_directory_does_nothing(product: Product) -> None:
    if product.journals.exists():
        product.journals.rmdir()
    assert run_drain(product) == (0, report())
    assert not product.journals.exists()
