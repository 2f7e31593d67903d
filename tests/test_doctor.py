"""`flask doctor` on a new product without problems, and with each problem."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import psycopg2
import pytest
from flask import Flask
from sqlalchemy import NullPool, create_engine, make_url, text

from tests.applications import application, application_of
from tests.audit.events import make_event
from tests.audit.ledgers import append_events, ledger_session, owner_connection, seal, sign
from tests.factories import add_account
from tests.processes import run_web
from webapp import doctor
from webapp.audit import append
from webapp.audit.event import EventOrigin, dump_event
from webapp.audit.journal import ends
from webapp.audit.journal import file as journal_file
from webapp.audit.journal.file import Notes
from webapp.audit.journal.reader import Kept, Row
from webapp.db.roles import LOGINS
from webapp.ledger import search
from webapp.signs_of_life.service import SILENT
from webapp.stack.home import Stack, environment_of, open_stack, running
from webapp.stack.servers import free_port
from webapp.worker.alive import Pulse

pytestmark = pytest.mark.slow(seconds=0.5)

LEFT, QUARANTINE, PARTITION, CLOCKS, RULES, ADDRESSES, NOTICES, SLOW = (
    "no dead process's events wait",
    "no event is in quarantine",
    "next month's partition is there",
    "clocks agree",
    "an owner may mend the rules",
    "rules see clients' addresses",
    "notices arrive",
    "slow clients hold nobody up",
)
REPLICATION = "commits outlive the server"
ENDS = "the ledger has what it had"
BELIEVED = "this key's events are believed"
CONTRADICTIONS = "no event contradicts another"
ROLE_SETTINGS = "roles have only their limits"
OPERATORS = "operators read the metrics"
FILES = "secrets' files are private"
ENCRYPTION = "connections are encrypted"
ROLES = "roles may do what is declared"
NETWORKS = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = open_stack(tmp_path_factory.mktemp("doctor"), durable=False)
    with running(made):
        yield made


@pytest.fixture(scope="module")
def app(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    home = str(tmp_path_factory.mktemp("home"))
    with application({"SIGHTLINE_HOME": home, **stack.environment}) as made:
        add_account(made, "owner")
        yield made


def diagnose(app: Flask) -> dict[str, Any]:
    with app.app_context():
        return {found.check: found for found in doctor.diagnose(app)}


def test_doctor_of_new_product_finds_nothing(app: Flask) -> None:
    for kind in SILENT:
        Pulse(app, kind).note()
    found = diagnose(app)
    assert [each for each in found.values() if not each.ok] == []
    named = {LEFT, QUARANTINE, PARTITION, CLOCKS, RULES, ADDRESSES, NOTICES, "journal"}
    assert named <= found.keys()
    assert found[QUARANTINE].detail == "0 deliveries, none of the last 7 days"
    assert "apart" in found[CLOCKS].detail


def test_doctor_refuses_a_deployed_database_that_a_crash_makes_lose_commits(app: Flask) -> None:
    """The tests' servers do not wait for their disks."""
    deployed = replace(app.extensions["settings"], env="production")
    with mock.patch.dict(app.extensions, settings=deployed):
        found = diagnose(app)[REPLICATION]
    assert not found.ok
    assert found.detail == "fsync and full_page_writes off: a crash loses commits"
    found = diagnose(app)[REPLICATION]
    assert found.ok
    assert found.detail.startswith("no standby is connected")


def test_doctor_reports_a_ledger_that_lacks_what_it_had(app: Flask) -> None:
    directory, origins = app.extensions["settings"].journal_dir, [uuid4(), uuid4(), uuid4()]
    known = [replace(make_event(), origin=EventOrigin(origins[0], seq)) for seq in (1, 2)]
    append_events(app, *known)
    directory.mkdir(exist_ok=True)
    ends.record(directory, {str(origins[0]): 2})
    assert diagnose(app)[ENDS].detail == "ok"
    ends.record(directory, {str(origins[1]): 7})
    file = journal_file.create(directory, origins[2], 2**20)
    lost = replace(make_event(), origin=EventOrigin(origins[2], 1))
    file.write([Row(1, str(lost.id), True, dump_event(lost), "signature")], durable=False)
    file.note([Notes(kept=[Kept(1, 1, 0.0, "history")])])
    found = diagnose(app)
    file.note([Notes(forgotten=[Kept(1, 1, 0.0, "history")])])
    file.close()
    (directory / ends.NAME).unlink()
    assert found[LEFT].ok
    assert not found[ENDS].ok
    assert found[ENDS].detail.startswith("it lacks the last events of 2 journals")


def test_doctor_says_whether_what_this_process_signs_is_believed(app: Flask) -> None:
    own = app.extensions["settings"].signing_key.fingerprint
    here = diagnose(app)[BELIEVED]
    assert (here.ok, here.detail) == (True, f"{own} is registered for web")
    stranger = replace(app.extensions["settings"], journal_signing_key="s" * 43)
    without = replace(app.extensions["settings"], journal_signing_key=None)
    with mock.patch.dict(app.extensions, settings=stranger):
        found = diagnose(app)[BELIEVED]
    with mock.patch.dict(app.extensions, settings=without):
        unset = diagnose(app)[BELIEVED]
    name = stranger.signing_key.fingerprint
    assert (found.ok, unset.ok) == (False, None)
    assert found.detail == f"{name} is not registered: `flask ledger keys register`"


def test_doctor_reports_events_left_by_dead_processes_only(app: Flask) -> None:
    """Events of running processes are no problem."""
    settings = app.extensions["settings"]
    file = journal_file.create(settings.journal_dir, uuid4(), 2**20)
    events = [make_event() for _ in range(3)]
    rows = [(event.id, dump_event(event)) for event in events]
    file.write(
        [
            Row(place, str(event_id), True, data, sign(app, data))
            for place, (event_id, data) in enumerate(rows, 1)
        ],
        durable=False,
    )
    running_ = diagnose(app)[LEFT]
    file.close()
    left = diagnose(app)[LEFT]
    done = app.test_cli_runner().invoke(args=["audit", "drain"])
    assert running_.ok
    assert running_.detail.endswith("3 in those of running ones")
    assert not left.ok
    assert left.detail == "3 events wait in files of dead processes: run `flask audit drain`"
    assert done.exit_code == 0, done.output
    assert diagnose(app)[LEFT].ok


@pytest.mark.parametrize("login", ["web", "worker", "commands"])
def test_doctor_reports_a_setting_that_a_login_gave_itself(
    app: Flask, stack: Stack, login: str
) -> None:
    url = make_url(environment_of(login, stack.environment)["DATABASE_URL"])
    engine = create_engine(url.set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("alter role session_user set work_mem = '64kB'"))
        connection.commit()
        try:
            found = diagnose(app)[ROLE_SETTINGS]
        finally:
            connection.execute(text("alter role session_user reset work_mem"))
            connection.commit()
    assert not found.ok
    assert f"sightline_{login}: work_mem; " in found.detail
    assert "64kB" not in found.detail
    assert diagnose(app)[ROLE_SETTINGS].detail == "ok"


def test_doctor_reports_a_setting_of_a_login_with_another_name(app: Flask, stack: Stack) -> None:
    run_as_superuser(
        stack,
        "create role shop_web login noinherit; alter role shop_web set work_mem = '64kB';"
        f" grant {', '.join(LOGINS['web'])} to shop_web with inherit false, set true",
    )
    try:
        found = diagnose(app)
    finally:
        run_as_superuser(stack, "drop role shop_web")
    lacking = "shop_web: idle_in_transaction_session_timeout, shop_web: statement_timeout"
    assert found[ROLE_SETTINGS].detail.startswith(f"{lacking}, shop_web: work_mem; ")
    assert found[ROLES].detail == "ok"


EXCESSES = [
    (
        "grant sightline_directory to sightline_web with inherit false, set true",
        "revoke sightline_directory from sightline_web",
        "sightline_web may become sightline_directory, which web needs not",
    ),
    (
        "revoke sightline_ledger from sightline_worker granted by sightline_owner",
        "grant sightline_ledger to sightline_worker with inherit false, set true"
        " granted by sightline_owner",
        "sightline_worker may not become sightline_ledger, which worker needs",
    ),
    (
        "grant sightline_ledger to sightline_tenant",
        "revoke sightline_ledger from sightline_tenant",
        "sightline_tenant may become sightline_ledger, as no login should",
    ),
    (
        "grant pg_read_all_data to sightline_worker",
        "revoke pg_read_all_data from sightline_worker",
        "sightline_worker may become pg_read_all_data, which worker needs not",
    ),
    (
        "create role monitoring; grant sightline_tenant to monitoring",
        "drop role monitoring",
        "monitoring may become sightline_tenant, as no login should",
    ),
    (
        "grant execute on function mint_token to sightline_tenant",
        "revoke execute on function mint_token from sightline_tenant",
        "sightline_tenant may call mint_token",
    ),
    (
        "grant execute on function append_events to public",
        "revoke execute on function append_events from public",
        "everybody may call append_events",
    ),
    (
        "revoke execute on function revoke_tokens from sightline_directory",
        "grant execute on function revoke_tokens to sightline_directory",
        "sightline_directory may not call revoke_tokens",
    ),
]


@pytest.mark.parametrize(("statement", "back", "expected"), EXCESSES)
def test_doctor_reports_what_roles_may_do_beyond_what_is_declared(
    app: Flask, stack: Stack, statement: str, back: str, expected: str
) -> None:
    run_as_superuser(stack, statement)
    try:
        found = diagnose(app)[ROLES]
    finally:
        run_as_superuser(stack, back)
    assert (found.ok, found.detail) == (False, expected)
    assert diagnose(app)[ROLES].detail == "ok"


def run_as_superuser(stack: Stack, statement: str) -> None:
    postgres = stack.postgres
    connection = psycopg2.connect(postgres.url("postgres", postgres._password))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def test_doctor_reports_an_unreadable_journal(app: Flask) -> None:
    path: Path = app.extensions["settings"].journal_dir / f"{uuid4()}.journal"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"not a journal" * 1000)
    found = diagnose(app)[LEFT]
    path.unlink()
    assert not found.ok
    assert path.name in found.detail


def test_doctor_reports_recent_deliveries_in_quarantine(app: Flask) -> None:
    with ledger_session(app) as session:
        append.receive(session, [*seal(app, make_event()), ["forged", "0" * 64]])
        session.commit()
    fresh = diagnose(app)[QUARANTINE]
    with owner_connection(app) as owner:
        owner.execute(text("update audit_quarantine set received_at = now() - interval '8 days'"))
    old = diagnose(app)[QUARANTINE]
    assert (fresh.ok, fresh.detail) == (False, "1 deliveries of the last 7 days, 1 in all")
    assert (old.ok, old.detail) == (True, "1 deliveries, none of the last 7 days")


def test_doctor_reports_an_event_that_contradicts_another(app: Flask) -> None:
    event = make_event()
    with ledger_session(app) as session:
        append.receive(session, seal(app, event))
        append.receive(session, seal(app, replace(event, outcome="failed")))
        session.commit()
    found = diagnose(app)[CONTRADICTIONS]
    with owner_connection(app) as owner:
        owner.execute(text("delete from audit_contradictions"))
    assert (found.ok, found.detail) == (False, "1 do: `flask audit verify` names them")
    assert diagnose(app)[CONTRADICTIONS].ok


def test_doctor_reports_a_month_without_partition(app: Flask) -> None:
    following = append.months_ahead(datetime.now(UTC).date())[1]
    with owner_connection(app) as owner:
        owner.execute(text(f"drop table audit_events_{following:%Y%m}"))
    found = diagnose(app)[PARTITION]
    assert not found.ok
    assert f"{following:%Y-%m}" in found.detail
    with ledger_session(app) as session:
        append.ensure_partitions(session, [following])
        session.commit()
    assert diagnose(app)[PARTITION].ok


@pytest.mark.parametrize("seconds", [-3, 3])
def test_doctor_reports_clocks_that_differ(
    app: Flask, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    def elsewhere(_: object) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=seconds)

    monkeypatch.setattr(search, "current_moment", elsewhere)
    found = diagnose(app)[CLOCKS]
    assert not found.ok
    assert found.detail.endswith("s apart, more than 0.1 s")


def test_doctor_checks_the_journal(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    directory: Path = app.extensions["settings"].journal_dir
    moved = directory.rename(directory.with_name("elsewhere"))
    directory.touch()
    found = diagnose(app)["journal"]
    directory.unlink()
    moved.rename(directory)
    assert (found.ok, found.detail) == (False, "the journal cannot be written")


def test_doctor_reports_rules_that_no_owner_may_mend(app: Flask) -> None:
    every = "update rules set enabled = {} where tenant_id is null"
    with owner_connection(app) as owner:
        owner.execute(text("alter table rules no force row level security"))
        owner.execute(text(every.format("false")))
    found = diagnose(app)[RULES]
    with owner_connection(app) as owner:
        owner.execute(text(every.format("true")))
        owner.execute(text("alter table rules force row level security"))
    assert (found.ok, "flask rules import" in found.detail) == (False, True)
    assert diagnose(app)[RULES].ok


def address_diagnosis(app: Flask, **changes: Any) -> tuple[bool, str]:
    with application_of(replace(app.extensions["settings"], **changes)) as other:
        found = diagnose(other)[ADDRESSES]
    return found.ok, found.detail


@pytest.mark.parametrize(
    ("proxies", "detail"),
    [
        (0, "clients connect directly"),
        (1, "behind 1 proxy"),
        (2, "behind 2 proxies"),
        (
            (ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
            "behind proxies in 10.0.0.0/8, fd00::/8",
        ),
    ],
)
def test_doctor_describes_trusted_proxies(app: Flask, proxies: Any, detail: str) -> None:
    assert address_diagnosis(app, trusted_proxies=proxies, env="production") == (True, detail)


def test_doctor_reports_unset_proxies_of_deployed_rules_with_networks(app: Flask) -> None:
    unset = {"trusted_proxies": None}
    change = "update rules set networks = :networks where name = 'Staff access'"
    assert address_diagnosis(app, **unset, env="production") == (True, "no rule names a network")
    with owner_connection(app) as owner:
        owner.execute(text("alter table rules no force row level security"))
        owner.execute(text(change), {"networks": ["10.0.0.0/8"]})
    said = (
        "1 rule names networks, but TRUSTED_PROXIES is not set: networks are compared with"
        " the address that connects"
    )
    deployed = address_diagnosis(app, **unset, env="production")
    development = address_diagnosis(app, **unset)
    with owner_connection(app) as owner:
        owner.execute(text(change), {"networks": []})
        owner.execute(text("alter table rules force row level security"))
    assert deployed == (False, f"{said} (0: clients connect directly)")
    assert development == (True, said)


def test_doctor_reports_notices_that_were_given_up(app: Flask) -> None:
    with owner_connection(app) as owner:
        owner.execute(
            text(
                "insert into notices (id, grant_id, event, tenants, channel, body, created_at,"
                " attempts, problem) values (gen_random_uuid(), gen_random_uuid(), 'asked', '{}',"
                " 'mail', '{}', now(), 80, 'SMTPServerDisconnected')"
            )
        )
    found = diagnose(app)[NOTICES]
    assert (found.ok, found.detail) == (False, "1 given up in the last 7 days")


def slow_diagnosis(app: Flask, url: str, **changes: Any) -> tuple[bool, str]:
    with application_of(replace(app.extensions["settings"], public_url=url, **changes)) as other:
        found = diagnose(other)[SLOW]
    return found.ok, found.detail


def test_doctor_is_answered_by_the_web_beside_half_requests(app: Flask, tmp_path: Path) -> None:
    settings = app.extensions["settings"]
    environment = {
        "SIGHTLINE_ENV": "development",
        "SIGHTLINE_HOME": str(settings.home),
        "SECRET_KEY": settings.secret_key,
        "JOURNAL_SIGNING_KEY": settings.journal_signing_key,
        "DATABASE_URL": settings.database_url.replace("+psycopg2", ""),
        "REDIS_URL": settings.redis_url,
    }
    with run_web(environment, tmp_path / "web.log") as web:
        assert slow_diagnosis(app, web.url) == (True, "answered beside 32 half-sent requests")


def test_doctor_reports_a_web_that_half_requests_stop(app: Flask) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert slow_diagnosis(app, url) == (False, "no answer beside 32 half-sent requests")


def test_doctor_reports_an_unreachable_web_where_it_is_deployed(app: Flask) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = f"not tried: {url} cannot be reached"
    assert slow_diagnosis(app, url) == (True, said)
    assert slow_diagnosis(app, url, env="production") == (False, said)


def diagnosis_of(app: Flask, check: str, **changes: Any) -> tuple[bool, str]:
    with application_of(replace(app.extensions["settings"], **changes)) as other:
        found = diagnose(other)[check]
    return found.ok, found.detail


def test_doctor_says_who_may_read_the_metrics(app: Flask) -> None:
    deployed = {"env": "production"}
    anybody = "anybody may read /metrics and /docs in development"
    nobody = "nobody may: OPERATIONS_TOKEN is not set, so that no alarm has numbers"
    assert diagnosis_of(app, OPERATORS) == (True, anybody)
    assert diagnosis_of(app, OPERATORS, **deployed) == (False, nobody)
    known = diagnosis_of(app, OPERATORS, **deployed, **{"operations_token": "x"})
    assert known == (True, "whoever has OPERATIONS_TOKEN")


def test_doctor_names_secrets_in_files_that_others_may_read(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mode in (("SECRET_KEY", 0o400), ("REDIS_URL", 0o444), ("SMTP_URL", 0o640)):
        file = tmp_path / name
        file.touch()
        file.chmod(mode)
        monkeypatch.setenv(f"{name}_FILE", str(file))
    found = diagnose(app)[FILES]
    said = "others may read those of REDIS_URL_FILE (0444), SMTP_URL_FILE (0640)"
    assert (found.ok, found.detail) == (False, said)
    for file in tmp_path.iterdir():
        file.chmod(0o600)
    found = diagnose(app)[FILES]
    assert (found.ok, found.detail) == (True, "3 secrets are in files")


def test_doctor_names_what_leaves_the_host_in_clear_text(app: Flask) -> None:
    nothing = "nothing leaves this host in clear text"
    assert diagnosis_of(app, ENCRYPTION) == (True, nothing)
    owner = "postgresql+psycopg2://owner@db.internal/x?sslmode=require"
    plain = diagnosis_of(app, ENCRYPTION, database_owner_url=owner)
    assert plain == (True, "beyond this host these are not: DATABASE_OWNER_URL")
    endpoint = {"otel_exporter_otlp_endpoint": "http://otel.internal:4318"}
    traced = diagnosis_of(app, ENCRYPTION, **endpoint)
    assert traced == (True, "beyond this host these are not: OTEL_EXPORTER_OTLP_ENDPOINT")
    untraced = diagnosis_of(app, ENCRYPTION, **endpoint, otel_traces_exporter="none")
    assert untraced == (True, nothing)


def test_doctor_reports_that_nobody_holds_owner(app: Flask, stack: Stack) -> None:
    run_as_superuser(stack, "update api_tokens set expires_at = now()")
    try:
        found = diagnose(app)["somebody is an owner"]
    finally:
        run_as_superuser(stack, "update api_tokens set expires_at = null")
    assert not found.ok
    assert found.detail.startswith("nobody: `flask users grant EMAIL owner`")
    assert diagnose(app)["somebody is an owner"].detail == "1 person"


def test_doctor_without_the_owners_password_says_what_it_could_not_check(app: Flask) -> None:
    settings = replace(app.extensions["settings"], database_owner_url=None)
    with application_of(settings) as web_host:
        found = diagnose(web_host)
        run = web_host.test_cli_runner().invoke(args=["doctor", "--json"])
    unknown = {name for name, each in found.items() if each.ok is None}
    assert unknown == {"tenant tables are closed", "models match the database"}
    assert all("DATABASE_OWNER_URL" in found[name].detail for name in unknown)
    shown = {each["check"]: each["ok"] for each in json.loads(run.stdout)["items"]}
    assert {name for name, ok in shown.items() if ok is None} == unknown
    assert run.exit_code == 0 or False in shown.values()


@pytest.mark.parametrize("part", ["host", "database"])
def test_doctor_checks_one_part_alone(app: Flask, part: str) -> None:
    run = app.test_cli_runner().invoke(args=["doctor", f"--{part}", "--json"])
    shown = {each["check"] for each in json.loads(run.stdout)["items"]}
    asked = set(doctor.CHECKS["host" if part == "host" else "database"])
    assert asked <= shown
    others = set().union(*doctor.CHECKS.values()) - asked
    assert not others & shown


def test_every_check_is_about_one_part() -> None:
    assert not doctor.CHECKS["host"].keys() & doctor.CHECKS["database"].keys()


def test_doctor_says_what_a_wrong_password_is(app: Flask) -> None:
    settings = app.extensions["settings"]
    wrong = make_url(settings.database_url).set(password=f"not-{settings.env}")
    url = wrong.render_as_string(hide_password=False)
    with application_of(replace(settings, database_url=url)) as locked_out:
        found = diagnose(locked_out)["clocks agree"]
    assert not found.ok
    assert found.detail == (
        'the database says: password authentication failed for user "sightline_commands"'
    )
