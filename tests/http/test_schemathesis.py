"""Answers to the requests that schemathesis makes from /openapi.json to every operation.

The phases are schemathesis's own: the described examples, the edges of every schema, random bodies
and queries, and sequences in which a request asks for what an earlier answer made.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
import schemathesis
from flask import Flask
from schemathesis import Case, CheckContext, Response
from schemathesis.engine import events, from_schema

from tests.applications import application
from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.grants.calls import add_grant
from tests.processes import run_worker
from tests.rules.calls import draft
from webapp.http.errors import PROBLEM_TYPE, ProblemSchema
from webapp.stack.home import open_stack, running

pytestmark = pytest.mark.slow(seconds=10)

OF_EVERY_ANSWER = {
    *("cache-control", "content-length", "content-type"),
    *("vary", "x-content-type-options", "x-request-id"),
}
CONFIG: dict[str, Any] = {
    "seed": 20260101,
    "continue-on-failure": True,
    "generation": {"deterministic": True, "database": "none", "max-examples": 10},
    "phases": {"stateful": {"generation": {"max-examples": 6}}},
    "checks": {
        # A schema cannot say all that makes a cursor, a reason or a time zone valid.
        "positive_data_acceptance": {"enabled": False},
        # It cannot ask a second time over WSGI; test_probe asks every route without a token.
        "ignored_auth": {"enabled": False},
        "missing_required_header": {"expected-statuses": [400, 401, 403, 404, 422, 428]},
    },
    "operations": [
        # A rule's history outlives the rule.
        {"include-path-regex": "/history$", "checks": {"use_after_free": {"enabled": False}}}
    ],
}

RULES, RULE = "/admin/api/rules", "/admin/api/rules/{rule_id}"
AUDITS, AUDIT = "/admin/api/audits", "/admin/api/audits/{event_id}"
RULE_READS = frozenset({f"GET {RULES}", f"GET {RULE}", f"GET {RULE}/history"})
RULE_CHANGES = frozenset({f"POST {RULES}", f"PATCH {RULE}", f"DELETE {RULE}"})
AUDIT_READS = frozenset({f"GET {AUDITS}", f"GET {AUDIT}"})
GRANT_READS = frozenset({"GET /admin/api/grants", "GET /admin/api/grants/{grant_id}"})
OF_MEMBERS = frozenset(
    {"GET /admin/api/members", "POST /admin/api/members", "GET /admin/api/tokens"}
)
ELEVATIONS = frozenset({"POST /admin/api/elevations"})
PUBLIC = frozenset({"GET /healthz", "GET /metrics"})
READINESS = "/readyz"
"""The path of `/readyz`, which answers 503 with its findings if a busy machine is slow."""


@schemathesis.check
def an_error_is_a_problem(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Check that an answer of 400 and above is a problem that agrees with its headers."""
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    if case.path == READINESS and response.status_code == 503:
        return
    assert response.headers["content-type"] == [PROBLEM_TYPE]
    problem = response.json()
    assert ProblemSchema().validate(problem) == {}
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:sightline:problem:{problem['code']}"
    assert [problem["request_id"]] == response.headers["x-request-id"]
    assert ("www-authenticate" in response.headers) == (response.status_code == 401)
    assert ("allow" in response.headers) == (response.status_code == 405)
    if response.status_code == 422:
        assert problem["errors"]
    for word in ("Traceback", "psycopg", "sqlalchemy", "SELECT ", "marshmallow"):
        assert word not in response.text


@schemathesis.check
def a_success_has_the_described_headers(
    _: CheckContext, response: Response, case: Case[Any]
) -> None:
    if response.status_code >= 400 or response.request.method in ("HEAD", "OPTIONS"):
        return
    described = _described(case)[str(response.status_code)].get("headers", {})
    assert response.headers.keys() - OF_EVERY_ANSWER <= {name.lower() for name in described}
    if "ETag" in described:
        (tag,) = response.headers["etag"]
        assert tag.startswith('"')
        assert tag.endswith('"')
    if "Location" in described:
        made = case.path.replace("/simulate", "/simulations")
        assert response.headers["location"] == [f"{made}/{response.json()['id']}"]


@schemathesis.check
def a_receipt_names_events(_: CheckContext, response: Response, __: Case[Any]) -> None:
    for receipts in response.headers.get("sightline-audit", []):
        assert {UUID(part).version for part in receipts.split(", ")} == {7}


def _described(case: Case[Any]) -> Mapping[str, Any]:
    operations: Mapping[str, Any] = case.operation.schema.raw_schema["paths"][case.path]
    responses: Mapping[str, Any] = operations[case.operation.method.lower()]["responses"]
    return responses


@dataclass
class Seen:
    """The problems that a run has found, and the operations that succeeded in it."""

    problems: list[str] = field(default_factory=list)
    succeeded: set[str] = field(default_factory=set)

    def note(self, event: events.ScenarioFinished) -> None:
        recorder = event.recorder
        for case_id, exchange in recorder.interactions.items():
            case, response = recorder.cases[case_id].value, exchange.response
            called_as_described = exchange.request.method == case.operation.method.upper()
            if response and response.status_code < 300 and called_as_described:
                self.succeeded.add(case.operation.label)
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    label = recorder.cases[case_id].value.operation.label
                    said = f"{label}: {check.name}: {check.failure_info.failure}"
                    self.problems.append(f"{said}\n{check.failure_info.code_sample}")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Servers of this module's own: other tests leave rows that the product would not have written,
    and an access to all tenants shows them."""
    home = tmp_path_factory.mktemp("described")
    stack = open_stack(home, durable=False)
    with running(stack):
        yield {"SIGHTLINE_HOME": str(home), **stack.environment}


@pytest.fixture(scope="module")
def app(environment: dict[str, str]) -> Iterator[Flask]:
    with application(environment) as app:
        yield app


@pytest.fixture(scope="module")
def worker(
    app: Flask, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    assert app
    with run_worker(environment, tmp_path_factory.mktemp("worker") / "worker.log"):
        yield


@dataclass(frozen=True)
class People:
    """People of a tenant and of the platform, a rule, the event of its creation, and a grant."""

    tenant: MadeTenant
    member: Account
    admin: Account
    engineer: Account
    owner: Account
    service: Account
    rule_id: str
    event_id: str
    grant_id: str

    @property
    def member_id(self) -> str:
        return str(self.member.id)


@pytest.fixture
def people(app: Flask, worker: None) -> People:
    tenant = add_tenant(app)
    admin = add_account(app, member_of={tenant.slug: "admin"})
    made = app.test_client().post("/admin/api/rules", headers=admin.headers(), json=draft())
    (event,) = committed(app, *receipt(made))
    return People(
        tenant,
        member=add_account(app, member_of={tenant.slug: "member"}),
        admin=admin,
        engineer=add_account(app, "engineer", "auditor"),
        owner=add_account(app, "owner", "auditor"),
        service=add_account(app, "service"),
        rule_id=made.get_json()["id"],
        event_id=event["id"],
        grant_id=str(add_grant(app, tenant.id, admin.id)),
    )


@dataclass(frozen=True)
class Run:
    headers: Callable[[People], dict[str, str]]
    succeeds: frozenset[str]
    """The operations that must succeed at least once, or the run shows little."""
    pins: tuple[str, ...] = ()
    """Path parameters that are always sent with the value of an existing object."""
    edges: bool = False
    """Whether the edges of every schema are tried, which takes long: they are refused alike,
    whoever asks."""
    path: str = ".*"
    """A pattern of the paths that are asked."""


def run(app: Flask, asked: Run, headers: Mapping[str, str], pinned: Mapping[str, str]) -> Seen:
    """Run all phases, with these headers and path parameters in each request."""
    sent = {"headers": dict(headers), "parameters": dict(pinned)}
    phases = {**CONFIG["phases"], "coverage": {"enabled": asked.edges}}
    config = schemathesis.Config.from_dict({**CONFIG, **sent, "phases": phases})
    api = schemathesis.openapi.from_wsgi("/openapi.json", app, config=config)
    seen = Seen()
    for event in from_schema(api.include(path_regex=asked.path)).execute():
        if isinstance(event, events.ScenarioFinished):
            seen.note(event)
        elif isinstance(event, events.NonFatalError):
            seen.problems.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            raise event.exception
    return seen


ANY_VERSION = {"If-Match": "*"}
RUNS = {
    "a member": Run(lambda p: p.member.headers(), RULE_READS | PUBLIC, ("rule_id",)),
    "an admin": Run(lambda p: p.admin.headers(), frozenset()),
    "an admin of any version": Run(
        lambda p: p.admin.headers(f"tenant:{p.tenant.slug}") | ANY_VERSION,
        RULE_READS | RULE_CHANGES | AUDIT_READS | GRANT_READS | OF_MEMBERS,
        ("event_id", "grant_id", "member_id"),  # who changes herself may do nothing afterwards
    ),
    "an engineer in a foreign tenant": Run(
        lambda p: p.engineer.headers(f"tenant:{p.tenant.slug}", INCIDENT) | ANY_VERSION,
        RULE_READS | AUDIT_READS,
        ("rule_id", "event_id"),
    ),
    "an owner everywhere": Run(
        lambda p: p.owner.headers("global", INCIDENT) | ANY_VERSION,
        RULE_READS | RULE_CHANGES | AUDIT_READS,
        ("event_id",),
        edges=True,
    ),
    "a service": Run(lambda p: p.service.headers(), frozenset()),
    "a service about others": Run(
        lambda p: p.service.headers(), ELEVATIONS, edges=True, path="/admin/api/elevations$"
    ),
}


@pytest.mark.parametrize("who", RUNS)
def test_every_answer_is_as_described(app: Flask, people: People, who: str) -> None:
    asked = RUNS[who]
    pinned = {name: getattr(people, name) for name in asked.pins}
    seen = run(app, asked, asked.headers(people), pinned)
    assert not seen.problems, "\n\n".join(seen.problems)
    assert asked.succeeds <= seen.succeeded
