"""The proof of one event over HTTP: who gets it, what it shows, and what it proves."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from tests.applications import application
from tests.audit.events import excluding, make_event
from tests.audit.ledgers import append_events, owner_connection
from tests.audit.receipts import receipt
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.ledger.sealing.made_logs import LOG, open_log, seal
from tests.stacks import copied_stack
from webapp.audit.event import Actor, AuditEvent, EventDecision, EventScope, Reason, dump_event
from webapp.ledger.sealing.leaf import (
    UNITS,
    Unit,
    commitment,
    event_leaf,
    unit_digest,
)
from webapp.ledger.sealing.merkle import ProofError
from webapp.ledger.sealing.proof import InclusionProof, Peer, Policy, parse_proof
from webapp.stack.home import running

AUDITING = 'legal;ticket="AUDIT"'
POLICY = Policy((Peer(LOG.verifier),))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    home = tmp_path_factory.mktemp("proven")
    stack = copied_stack(home)
    with running(stack), application({"SIGHTLINE_HOME": str(home), **stack.environment}) as app:
        open_log(app)
        seal(app, heartbeats=300)
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="module")
def tenant(app: Flask) -> MadeTenant:
    return add_tenant(app)


@pytest.fixture(scope="module")
def admin(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "admin"})


@pytest.fixture(scope="module")
def auditor(app: Flask) -> Account:
    return add_account(app, "auditor")


def at(tenant: MadeTenant, **changes: Any) -> AuditEvent:
    """Make the event of an access to a tenant."""
    return make_event(
        scope=EventScope(kind="tenant", tenant=tenant.slug, tenant_id=tenant.id), **changes
    )


def ask(
    client: FlaskClient, who: Account, event_id: UUID, scope: str | None = None
) -> TestResponse:
    headers = who.headers(scope, AUDITING if scope else None)
    return client.get(f"/admin/api/audits/{event_id}/proof", headers=headers)


def entry_of(proof: InclusionProof) -> bytes:
    """The entry, made from what the proof shows."""
    shown = orjson.loads(proof.extra)
    digests = {
        name: unit["digest"] if "digest" in unit else unit_digest(name, Unit(**unit))
        for name, unit in shown["units"].items()
    }
    assert commitment(digests) == shown["commitment"]
    return event_leaf(shown["commitment"], shown["series"])


def shown_units(proof: InclusionProof) -> Mapping[str, Any]:
    units = orjson.loads(proof.extra)["units"]
    assert units.keys() == set(UNITS)
    return {name: unit["value"] for name, unit in units.items() if "value" in unit}


def test_proof_shows_an_auditor_all_of_the_event_and_proves_it(
    app: Flask, client: FlaskClient, auditor: Account
) -> None:
    event = excluding(frozenset({uuid4(), uuid4()}), rows=41, terms={"q": "x"})
    append_events(app, event)
    size = seal(app, heartbeats=2)
    answer = ask(client, auditor, event.id, "global")
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == f"attachment; filename={event.id}.tlog-proof"
    assert answer.content_type == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    proof = parse_proof(answer.data)
    assert proof.verify(entry_of(proof), POLICY).size == size
    shown = shown_units(proof)
    assert shown.keys() == set(UNITS)
    assert (shown["event"]["id"], shown["event"]["rows"]) == (str(event.id), 41)
    assert shown["excluded"]["count"] == 2
    assert shown["request"]["terms"] == {"q": "x"}
    with pytest.raises(ProofError):
        proof.verify(entry_of(proof) + b" ", POLICY)


def test_access_to_a_proof_is_recorded(client: FlaskClient, app: Flask, auditor: Account) -> None:
    event = make_event()
    append_events(app, event)
    seal(app)
    answer = ask(client, auditor, event.id, "global")
    assert len(receipt(answer)) == 1
    unchanged = client.get(
        f"/admin/api/audits/{event.id}/proof",
        headers={**auditor.headers("global", AUDITING), "If-None-Match": answer.headers["ETag"]},
    )
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert len(receipt(unchanged)) == 1


def test_tenant_gets_the_proof_of_an_access_to_it_and_its_event_checks(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    event = at(tenant)
    append_events(app, event)
    seal(app)
    proof = parse_proof(ask(client, admin, event.id).data)
    proof.verify(entry_of(proof), POLICY)
    assert shown_units(proof).keys() == set(UNITS) - {"excluded"}


def test_tenant_sees_of_an_access_to_all_neither_what_was_looked_for_nor_who_was_left_out(
    app: Flask, client: FlaskClient, admin: Account
) -> None:
    event = excluding(frozenset({uuid4()}), terms={"tenant": "another"})
    append_events(app, event)
    seal(app)
    answer = ask(client, admin, event.id)
    proof = parse_proof(answer.data)
    proof.verify(entry_of(proof), POLICY)
    assert shown_units(proof).keys() == {"event", "actor", "reason", "decision"}
    assert b"another" not in proof.extra


def test_tenant_does_not_see_a_strangers_own_words(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    stranger = Actor(email="x@example.org", id=uuid4(), roles=(), token_id=uuid4())
    event = at(
        tenant,
        actor=stranger,
        decision=EventDecision("denied"),
        outcome="denied",
        reason=Reason(code="incident", note="buy from us", ticket="T"),
    )
    append_events(app, event)
    seal(app)
    proof = parse_proof(ask(client, admin, event.id).data)
    proof.verify(entry_of(proof), POLICY)
    assert shown_units(proof).keys() == {"event", "actor", "decision"}


def test_tenant_gets_no_proof_of_what_it_does_not_see(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account
) -> None:
    other = at(add_tenant(app))
    without = excluding(frozenset({tenant.id}))
    append_events(app, other, without)
    seal(app)
    for event in (other, without):
        assert ask(client, admin, event.id).status_code == 404
    assert ask(client, admin, uuid4()).status_code == 404


def test_member_of_a_tenant_gets_no_proof(
    app: Flask, client: FlaskClient, tenant: MadeTenant
) -> None:
    member = add_account(app, member_of={tenant.slug: "member"})
    assert ask(client, member, uuid4()).status_code == 403


def test_event_that_is_not_sealed_yet_is_a_conflict_that_passes(
    app: Flask, client: FlaskClient, auditor: Account
) -> None:
    event = make_event()
    append_events(app, event)
    early = ask(client, auditor, event.id, "global")
    assert (early.status_code, early.get_json(force=True)["code"]) == (409, "not_sealed")
    assert int(early.headers["Retry-After"]) > 0
    seal(app)
    assert ask(client, auditor, event.id, "global").status_code == 200


def test_proof_of_an_event_that_was_rewritten_does_not_hold(
    app: Flask, client: FlaskClient, auditor: Account
) -> None:
    event = make_event(rows=7)
    append_events(app, event)
    seal(app)
    forged = dump_event(replace(event, rows=1)).decode()
    with owner_connection(app) as owner:
        owner.exec_driver_sql("alter table audit_events disable trigger user")
        owner.exec_driver_sql("alter table audit_events no force row level security")
        rewrite = text("update audit_events set event = cast(:event as json) where id = :id")
        owner.execute(rewrite, {"event": forged, "id": event.id})
        owner.exec_driver_sql("alter table audit_events force row level security")
        owner.exec_driver_sql("alter table audit_events enable trigger user")
    proof = parse_proof(ask(client, auditor, event.id, "global").data)
    shown = orjson.loads(proof.extra)
    assert shown["units"]["event"]["value"]["rows"] == 1
    with pytest.raises(AssertionError):
        entry_of(proof)
