"""Traces: one of each access, from the request to the ledger, and nothing where none is asked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import time
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
import requests
from flask import Flask
from uuid_utils.compat import uuid7

from tests.applications import application
from tests.audit.receipts import committed, receipt, wait_for
from tests.factories import Account, add_account, add_tenant
from tests.observability.receivers import Link, Receiver, receiving
from tests.processes import ROOT, Web, run_web, run_worker
from tests.stacks import copied_stack
from webapp.db.scopes import GlobalScope
from webapp.http.state import Recorded
from webapp.observability.answered import Answered
from webapp.observability.otlp import OtlpTraces
from webapp.observability.traces import Stage
from webapp.stack.home import running

CLIENT = Link("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
TRACEPARENT = f"00-{CLIENT.trace}-{CLIENT.span}-01"
NOTE = "Miller asked"
REASON = f'incident;ticket="INC-4711";note="{NOTE}"'
RULES = "/admin/api/rules"
REQUEST = f"GET {RULES}"
STAGES = {stage.value for stage in Stage}
SERVER, PRODUCER, CONSUMER = 2, 4, 5
WITHOUT_PACKAGES = """
import sys
sys.modules["opentelemetry"] = None  # as where it is not installed
import wsgi
print(*(name for name in sys.modules if "opentelemetry" in name or "otlp" in name))
"""


@dataclass(frozen=True)
class Traced:
    """A web and a worker that send traces to a receiver."""

    app: Flask
    web: Web
    receiver: Receiver
    engineer: Account
    admin: Account

    def get(self, path: str, headers: dict[str, str]) -> requests.Response:
        return requests.get(f"{self.web.url}{path}", headers=headers, timeout=60)

    def elevated(self, **headers: str) -> requests.Response:
        asked = self.engineer.headers("global", REASON)
        return self.get(f"{RULES}?surface=admin.secret", {**asked, **headers})


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    home = tmp_path_factory.mktemp("traced")
    stack = copied_stack(home)
    environment = {"SIGHTLINE_HOME": str(home), **stack.environment}
    with receiving() as receiver, running(stack), application(environment) as app:
        sending = {
            **environment,
            "SIGHTLINE_ENV": "qa",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "WEB_CONCURRENCY": "1",
        }
        tenant = add_tenant(app)
        people = add_account(app, "engineer"), add_account(app, member_of={tenant.slug: "admin"})
        with (
            run_worker(sending, home / "worker.log", "--concurrency", "1"),
            run_web(sending, home / "web.log") as web,
        ):
            yield Traced(app, web, receiver, *people)


@pytest.mark.slow(seconds=15)
def test_elevated_access_is_one_trace_by_its_event_from_the_request_to_the_ledger(
    traced: Traced,
) -> None:
    answer = traced.elevated()
    assert answer.status_code == 200
    (event,) = receipt(answer)
    wait_for(lambda: traced.receiver.of(event.hex).keys() >= {REQUEST, *STAGES})
    spans = traced.receiver.of(event.hex)
    assert spans.keys() == {REQUEST, *STAGES}
    request = spans.pop(REQUEST)
    assert (request.service, request.kind, request.parent) == ("sightline-web", SERVER, "")
    assert request.attributes == {
        "http.request.method": "GET",
        "http.route": RULES,
        "http.response.status_code": 200,
        "sightline.request_id": answer.headers["X-Request-ID"],
        "sightline.surface": "admin.rules.list",
        "sightline.scope": "global",
        "sightline.event_id": str(event),
    }
    assert {span.parent for span in spans.values()} == {request.id}
    assert {span.attributes["sightline.event_id"] for span in spans.values()} == {str(event)}
    services = {name: span.service.removeprefix("sightline-") for name, span in spans.items()}
    assert services == {
        "journal.write": "web",
        "relay.send": "web",
        "audit.commit": "worker",
        "ledger.commit": "worker",
    }
    assert (spans["relay.send"].kind, spans["audit.commit"].kind) == (PRODUCER, CONSUMER)
    ends = [spans[stage.value].ended for stage in (Stage.JOURNAL, Stage.RELAY, Stage.COMMIT)]
    assert [request.began, *ends, spans["audit.commit"].ended] == sorted(
        [request.began, *ends, spans["audit.commit"].ended]
    )


@pytest.mark.slow(seconds=1)
def test_trace_of_the_client_goes_on_and_leads_to_that_of_the_event(traced: Traced) -> None:
    answer = traced.elevated(traceparent=TRACEPARENT)
    (event,) = receipt(answer)
    wait_for(lambda: bool(traced.receiver.of(event.hex) and traced.receiver.of(CLIENT.trace)))
    (span,) = traced.receiver.of(CLIENT.trace).values()
    assert (span.name, span.parent) == (REQUEST, CLIENT.span)
    first = traced.receiver.of(event.hex)[REQUEST]
    assert span.links == (Link(event.hex, first.id),)
    assert first.links == (CLIENT,)
    lines = [json.loads(line) for line in traced.web.log.read_text().splitlines()]
    (line,) = [each for each in lines if each.get("traceparent") == TRACEPARENT]
    assert line["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.slow(seconds=1)
def test_request_without_an_event_is_a_trace_by_its_own_id(traced: Traced) -> None:
    plain = traced.get(RULES, traced.admin.headers())
    unknown = traced.get("/nowhere?q=secret", {})
    ids = [UUID(answer.headers["X-Request-ID"]).hex for answer in (plain, unknown)]
    wait_for(lambda: all(map(traced.receiver.of, ids)))
    assert [[*traced.receiver.of(each)] for each in ids] == [[REQUEST], ["GET"]]


@pytest.mark.slow(seconds=1)
def test_no_trace_tells_a_token_a_note_a_query_or_a_person(traced: Traced) -> None:
    (event,) = receipt(traced.elevated())
    wait_for(lambda: traced.receiver.of(event.hex).keys() == {REQUEST, *STAGES})
    sent = b"".join(traced.receiver.bodies)
    people = (traced.engineer, traced.admin)
    secrets = [NOTE, "INC-4711", "admin.secret", *(person.token for person in people)]
    told = [*secrets, *(person.email for person in people), *(str(person.id) for person in people)]
    assert [text for text in told if text.encode() in sent] == []


@pytest.mark.slow(seconds=2)
def test_receiver_that_hangs_keeps_no_answer_and_no_event(traced: Traced) -> None:
    traced.receiver.answers.clear()
    traced.receiver.asked.clear()
    try:
        traced.elevated()
        assert traced.receiver.asked.wait(60)
        answers = [traced.elevated() for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        events = [event for answer in answers for event in receipt(answer)]
        assert len(committed(traced.app, *events)) == 20
    finally:
        traced.receiver.answers.set()


@pytest.mark.slow(seconds=2)
def test_without_the_packages_nothing_is_imported_and_traces_are_refused(
    environment: dict[str, str],
) -> None:
    def start(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_PACKAGES],
            cwd=ROOT,
            env=os.environ | environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    off = start()
    assert off.stdout == "opentelemetry\n", off.stderr
    asked = start(OTEL_TRACES_EXPORTER="otlp")
    assert asked.returncode == 1
    assert asked.stderr == (
        "Sightline cannot start with these settings:\n"
        "  - OTEL_TRACES_EXPORTER asks for traces, and what sends them is not installed: install"
        " requirements-traces.txt in the place of requirements.txt\n"
    )


@contextmanager
def sending(receiver: Receiver, **variables: str) -> Iterator[OtlpTraces]:
    named = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **variables}
    with mock.patch.dict(os.environ, named):
        traces = OtlpTraces()
        traces.start("web")
        try:
            yield traces
        finally:
            traces.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def test_all_processes_send_the_same_share_of_traces(receiver: Receiver) -> None:
    events = [uuid7() for _ in range(400)]
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    for stage in (Stage.RELAY, Stage.TASK):
        with sending(receiver, **sampler) as traces:
            traces.note(stage, events, time(), time())
    traces_of = {
        stage: {span.trace for span in receiver.spans if span.name == stage.value}
        for stage in (Stage.RELAY, Stage.TASK)
    }
    assert traces_of[Stage.RELAY] == traces_of[Stage.TASK]
    assert 40 < len(traces_of[Stage.RELAY]) < 160


def answered(*events: UUID, durable: bool = True, **changes: Any) -> Answered:
    given = Answered(
        at=time(),
        seconds=0.01,
        method="GET",
        route=RULES,
        status=200 if durable else 503,
        request_id=str(uuid7()),
        client_request_id=None,
        traceparent=None,
        principal=None,
        scope=GlobalScope,
        surface="admin.rules.list",
        waited=0.002,
        recorded=Recorded(events, time(), 0.002, durable) if events else None,
    )
    return given._replace(**changes)


def test_event_that_the_journal_did_not_take_in_time_is_a_failure_in_its_trace(
    receiver: Receiver,
) -> None:
    event = uuid7()
    with sending(receiver) as traces:
        traces.note_request(answered(event, durable=False))
    spans = receiver.of(event.hex)
    assert {name: span.failed for name, span in spans.items()} == {
        REQUEST: True,
        Stage.JOURNAL.value: True,
    }


def test_request_with_two_events_is_in_the_trace_of_each_with_links(receiver: Receiver) -> None:
    one, other = uuid7(), uuid7()
    with sending(receiver) as traces:
        traces.note_request(answered(one, other))
    first, second = receiver.of(one.hex)[REQUEST], receiver.of(other.hex)[REQUEST]
    assert first.links == (Link(other.hex, second.id),)
    assert second.links == (Link(one.hex, first.id),)


def test_client_that_does_not_trace_its_request_gets_no_span(receiver: Receiver) -> None:
    event = uuid7()
    with sending(receiver) as traces:
        traces.note_request(answered(event, traceparent=TRACEPARENT[:-1] + "0"))
    assert {span.trace for span in receiver.spans} == {event.hex}


def test_method_that_a_client_invents_is_not_told(receiver: Receiver) -> None:
    request = answered(method="SL_TOKEN", route="unmatched", status=404)
    with sending(receiver) as traces:
        traces.note_request(request)
    (span,) = receiver.spans
    assert (span.name, span.attributes["http.request.method"]) == ("_OTHER", "_OTHER")


def test_error_of_a_trace_reaches_nobody(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    with sending(receiver) as traces:
        traces.note_request(answered(request_id="no id"))
    assert receiver.spans == []
    told = capsys.readouterr()
    assert "trace_not_noted" in told.out + told.err


def test_process_ends_though_nobody_takes_its_last_spans(receiver: Receiver) -> None:
    receiver.answers.clear()
    with sending(receiver) as traces:
        traces.note(Stage.RELAY, [uuid7()], time(), time())
    assert receiver.spans == []
