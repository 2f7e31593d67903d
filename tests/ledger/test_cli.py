"""Tests of `flask audit search` and `flask audit tail`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace
from unittest import mock
from uuid import uuid4

import orjson
import pytest
from click.testing import Result
from flask import Flask

from tests.audit.events import make_event
from tests.audit.ledgers import ledger_session, seal
from tests.factories import Account, MadeTenant, add_tenant
from tests.operators import OPERATOR, WHY
from tests.processes import ROOT
from webapp.audit import append
from webapp.audit.event import (
    Actor,
    AuditEvent,
    EventDecision,
    EventScope,
    Reason,
    dump_event,
)
from webapp.db.scopes import LedgerScope
from webapp.extensions import db
from webapp.ledger import cli, search


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["audit", *arguments, *WHY])


def append_events(app: Flask, *events: AuditEvent) -> None:
    with app.app_context(), db.scoped(LedgerScope()):
        received = append.receive(db.session, seal(app, *events))
        assert received.appended == len(events)
        db.session.commit()


def make_actor() -> Actor:
    return Actor(id=uuid4(), email=f"{uuid4().hex}@example.org", roles=("engineer",), token_id=None)


def lines(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [orjson.loads(line) for line in result.stdout.splitlines()]


def test_search_prints_a_table(app: Flask) -> None:
    actor = make_actor()
    reason = Reason(code="fraud", ticket="F-1", note="a note")
    scope = EventScope(kind="tenant", tenant_id=uuid4(), tenant="acme")
    complete = make_event(actor=actor, reason=reason, scope=scope, rows=17, repeats=4)
    sparse = make_event(actor=actor, reason=None, rows=None, outcome="interrupted")
    append_events(app, complete, sparse)
    result = run(app, "search", "--actor", actor.email)
    assert result.exit_code == 0
    first, second = (line for line in result.output.splitlines() if actor.email in line)
    assert all(
        word in first for word in (str(sparse.id), "interrupted", "global", "accesses.things")
    )
    assert all(word in second for word in (str(complete.id), "fraud", "F-1", "acme", "17", "4"))


def test_search_prints_events_as_they_were_recorded(app: Flask) -> None:
    event = make_event(actor=make_actor())
    append_events(app, event)
    (line,) = lines(run(app, "search", "--actor", event.actor.email, "--json"))
    assert line.pop("committed_at")
    assert line.pop("attempts") is None
    shown = orjson.loads(dump_event(event))
    assert shown.pop("salt")
    assert line == shown


def test_search_shows_alike_attempts_of_a_stranger_as_one_row_of_its_tenant(app: Flask) -> None:
    tenant = add_tenant(app)
    scope = EventScope(kind="tenant", tenant_id=tenant.id, tenant=tenant.slug)
    actor = replace(make_actor(), roles=())
    denied = EventDecision("denied")
    attempts = [
        make_event(actor=actor, scope=scope, decision=denied, outcome="denied") for _ in range(3)
    ]
    append_events(app, *attempts)
    search = ("search", "--actor", actor.email)
    for options, rows in (
        (("--tenant", tenant.slug), 1),
        (("--tenant", tenant.slug, "--grouped", "false"), 3),
        ((), 3),
        (("--grouped", "true"), 1),
    ):
        shown = lines(run(app, *search, *options, "--json"))
        assert len(shown) == rows
        table = run(app, *search, *options).stdout
        assert len([line for line in table.splitlines() if actor.email in line]) == rows
        assert ("attempts" in table) is (rows == 1)
    (row,) = (line for line in table.splitlines() if actor.email in line)
    *_, count_, first_at, _ = map(str.strip, row.split("│"))
    assert (count_, first_at) == ("3", f"{attempts[0].occurred_at:%Y-%m-%d %H:%M:%S}Z")


def test_search_has_the_filters_of_the_list(app: Flask) -> None:
    actor = make_actor()
    began = datetime.now(UTC)
    moments = (began + timedelta(milliseconds=n) for n in count())
    made = {
        "denied": make_event(
            actor=actor,
            occurred_at=next(moments),
            outcome="denied",
            decision=EventDecision("denied"),
            surface="a.b",
        ),
        "change": make_event(actor=actor, occurred_at=next(moments), kind="change", surface="a.c"),
        "tenant": make_event(
            actor=actor,
            occurred_at=next(moments),
            scope=EventScope(kind="tenant", tenant_id=uuid4(), tenant="acme"),
        ),
        "ticket": make_event(
            actor=actor,
            occurred_at=next(moments),
            reason=Reason(code="legal", ticket="L-1", note=None),
        ),
    }
    append_events(app, *made.values())
    names = {str(event.id): name for name, event in made.items()}
    since, until = (made[name].occurred_at.isoformat() for name in ("change", "ticket"))
    expected = {
        ("--effect", "denied"): ["denied"],
        ("--outcome", "denied"): ["denied"],
        ("--kind", "change"): ["change"],
        ("--tenant", "acme"): ["tenant"],
        ("--reason-code", "legal"): ["ticket"],
        ("--ticket", "L-1"): ["ticket"],
        ("--surface", "a.*"): ["change", "denied"],
        ("--surface", "a.b"): ["denied"],
        ("--request-id", made["tenant"].request.id): ["tenant"],
        ("--from", since, "--to", until): ["tenant", "change"],
        ("--sort", "occurred_at", "--limit", "2"): ["denied", "change"],
        ("--limit", "1"): ["ticket"],
    }
    for options, found in expected.items():
        shown = lines(run(app, "search", "--actor", actor.email, "--json", *options))
        assert [names[str(line["id"])] for line in shown] == found, options


def test_search_goes_through_all_pages(app: Flask) -> None:
    actor = make_actor()
    append_events(app, *[make_event(actor=actor) for _ in range(450)])
    for limit, found in (("449", 449), ("450", 450), ("1000", 450)):
        shown = lines(run(app, "search", "--actor", actor.email, "--json", "--limit", limit))
        assert len({line["id"] for line in shown}) == len(shown) == found


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--effect", "served"),
        ("--from", "yesterday"),
        ("--surface", "a*"),
        ("--sort", "x"),
        ("--limit", "0"),
        ("--outcome", "allowed"),
        ("--kind", "read"),
        ("--reason-code", "because"),
    ],
)
def test_search_refuses_an_invalid_value_and_names_the_option(
    app: Flask, option: str, value: str
) -> None:
    result = run(app, "search", option, value)
    assert result.exit_code == 2
    assert option in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--actor", "nobody@example.org"),
        ("--tenant", "nobody-asked-for-this"),
        ("--surface", "no.such.surface"),
        ("--surface", "no.such.*"),
        ("--surface", "admin.rules.lis"),
    ],
)
def test_search_refuses_a_filter_value_that_nothing_has(
    app: Flask, option: str, value: str
) -> None:
    for arguments in (
        (option, value),
        (option, value, "--json"),
        ("--kind", "change", option, value),
    ):
        result = run(app, "search", *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"There is no {option.removeprefix('--')} {value}" in result.stderr


def test_search_for_a_known_name_without_events_finds_nothing(
    app: Flask, tenant: MadeTenant, support: Account
) -> None:
    for options in (
        ("--tenant", tenant.slug, "--surface", "admin.rules.list"),
        ("--actor", support.email.upper()),
        ("--actor", support.email, "--surface", "admin.rules.list"),
        ("--actor", support.email, "--surface", "admin.*"),
        ("--ticket", "no such ticket"),
        ("--actor", OPERATOR, "--ticket", "no such ticket"),
    ):
        assert run(app, "search", *options).stdout == "Nothing found.\n"
        assert lines(run(app, "search", *options, "--json")) == []


def test_search_accepts_a_name_that_only_events_have(app: Flask) -> None:
    """The actor and the surface are another service's, and the tenant does not exist."""
    slug, surface = f"t-{uuid4().hex}", f"s.s{uuid4().hex}"
    scope = EventScope(kind="tenant", tenant_id=None, tenant=slug)
    event = make_event(actor=make_actor(), scope=scope, surface=surface)
    append_events(app, event)
    for options in (
        ("--actor", event.actor.email),
        ("--tenant", slug),
        ("--surface", surface),
    ):
        (line,) = lines(run(app, "search", *options, "--json"))
        assert line["id"] == str(event.id)
        assert lines(run(app, "search", *options, "--kind", "change", "--json")) == []


def test_tail_shows_the_last_events_the_newest_at_the_end(app: Flask) -> None:
    events = [make_event() for _ in range(3)]
    append_events(app, *events)
    ours = [str(event.id) for event in events]
    assert len(lines(run(app, "tail", "-n", "2", "--json"))) == 2
    # A worker may commit events of an earlier test meanwhile.
    shown = [line["id"] for line in lines(run(app, "tail", "-n", "50", "--json"))]
    assert [each for each in shown if each in ours] == ours
    text = run(app, "tail", "-n", "50").output.splitlines()
    of_ours = [line for line in text if line.split()[-1] in ours]
    assert [line.split()[-1] for line in of_ours] == ours
    assert "accesses.things  global  incident  INC-1  served  3  1" in of_ours[0]


def follow(app: Flask, *steps: Callable[[], object]) -> list[str]:
    """Return the ids that `audit tail` shows when it takes these steps between its readings."""
    remaining = iter(steps)

    def take_a_step(_: float) -> None:
        step = next(remaining, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    with mock.patch.object(cli, "time", SimpleNamespace(sleep=take_a_step)):
        result = run(app, "tail", "--follow", "-n", "0", "--json")
    return [str(line["id"]) for line in lines(result)]


def nothing() -> None:
    """Do nothing between two readings."""


@pytest.fixture
def _slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the overlap longer than any test takes."""
    monkeypatch.setattr(search, "OVERLAP", timedelta(hours=1))


@pytest.mark.usefixtures("_slow_machine")
@pytest.mark.parametrize(
    "begun_before", [True, False], ids=["begun before the tail", "begun during the tail"]
)
def test_tail_shows_an_event_that_commits_after_one_inserted_later(
    app: Flask, begun_before: bool
) -> None:
    """The transaction begins before the tail, or while the tail follows.

    Each event comes once, and no event comes that was committed before.
    """
    before, early, later = make_event(), make_event(), make_event()
    append_events(app, before)
    with ledger_session(app) as slow:

        def insert() -> None:
            append.receive(slow, seal(app, early))

        if begun_before:
            insert()
        shown = follow(
            app,
            nothing if begun_before else insert,
            lambda: append_events(app, later),
            slow.commit,
            nothing,
            nothing,
        )
    ours = {str(event.id) for event in (before, early, later)}
    assert [shown_id for shown_id in shown if shown_id in ours] == [str(later.id), str(early.id)]


@pytest.mark.slow
def test_tail_follows_until_it_is_interrupted(app: Flask, environment: Mapping[str, str]) -> None:
    """It shows each event once that is committed from then on, and no earlier one."""
    before, first, second, third = (make_event() for _ in range(4))
    mine = [str(event.id) for event in (before, first, second, third)]
    append_events(app, before)
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "audit", "tail", "-f", "--json"]
    command += WHY
    with (
        subprocess.Popen(
            [*command, "-n", "50"], cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE
        ) as process,
        ExitStack() as ends,
    ):
        ends.callback(process.kill)  # or its end would be waited for, whatever fails
        assert process.stdout is not None
        shown = (orjson.loads(line)["id"] for line in process.stdout)
        ours = (event_id for event_id in shown if event_id in mine)
        assert next(ours) == mine[0]
        append_events(app, first, second)
        assert [next(ours), next(ours)] == mine[1:3]
        append_events(app, third)
        assert next(ours) == mine[3]
        process.send_signal(signal.SIGINT)
        assert list(ours) == []
        assert process.wait() == 0
