"""An event that is too large for a task is refused where it would first be recorded."""

from uuid import UUID, uuid4

import pytest
from flask import Flask

from tests.audit.events import make_event
from tests.audit.journal.journals import PATIENCE, events_in, journal_in
from tests.audit.receipts import committed_of_request
from webapp.audit import recorder
from webapp.audit.event import Actor, EventDecision, EventScope, ExcludedTenants, Kind, dump_event
from webapp.audit.event import Reason as EventReason
from webapp.audit.journal.service import JournalFailed
from webapp.audit.recorder import Access
from webapp.audit.size import (
    FEW,
    MAX_EVENT,
    MAX_EXCLUDED,
    MAX_STORED,
    NAMED,
    EventTooLarge,
    check_size,
)
from webapp.http.errors import AuditUnavailable
from webapp.http.state import begin_request

MANY = 3000


def an_access(kind: Kind = "access", roles: int = 1, rules: int = 0, excluded: int = 0) -> Access:
    return Access(
        kind=kind,
        actor=Actor(
            email="in-many-tenants@example.org",
            id=uuid4(),
            roles=tuple(f"tenant-{number}:member" for number in range(roles)),
            token_id=None,
        ),
        surface="accesses.things",
        reason=EventReason(code="incident", note=None, ticket=None),
        scope=EventScope(kind="global", tenant=None, tenant_id=None),
        decision=EventDecision(
            "allowed",
            ExcludedTenants(excluded, "0" * 64) if excluded else None,
            rule_ids=tuple(UUID(int=number) for number in range(rules)),
        ),
    )


@pytest.mark.parametrize("kind", ["access", "change"])
@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({"roles": MANY}, f"it would name {MANY} roles, rules and grants"),
        ({"rules": MANY}, f"it would name {MANY + 1} roles, rules and grants"),
        ({"excluded": MAX_EXCLUDED + 1}, f"would leave out {MAX_EXCLUDED + 1} tenants"),
    ],
    ids=str,
)
def test_access_whose_record_would_be_too_large_is_refused_and_recorded_in_short(
    app: Flask, worker: None, kind: Kind, lists: dict[str, int], said: str
) -> None:
    request_id = uuid4().hex
    with app.test_request_context("/things"):
        begin_request(request_id)
        with pytest.raises(AuditUnavailable) as refused:
            recorder.begin(an_access(kind, **lists))
        assert said in str(refused.value)
    (event,) = committed_of_request(app, request_id)
    assert (event["outcome"], event["http_status"]) == ("failed", 503)
    assert len(event["actor"]["roles"]) == min(NAMED, lists.get("roles", 1))
    assert len(event["decision"]["rule_ids"]) == min(NAMED, lists.get("rules", 0))
    assert event["decision"]["excluded"] is None


def test_event_with_few_entries_fits_whatever_they_are() -> None:
    widest = make_event(
        actor=Actor(
            email="\N{GRINNING FACE}" * 320,
            id=uuid4(),
            roles=tuple("t" * 63 + ":member" for _ in range(FEW)),
            token_id=uuid4(),
        ),
        reason=EventReason(code="incident", note="\N{GRINNING FACE}" * 1000, ticket="x" * 128),
        surface="s" * 200,
    )
    assert len(dump_event(widest)) + 4 * (recorder.MAX_PATH + recorder.MAX_USER_AGENT) < MAX_EVENT
    check_size(widest)


def test_largest_event_fits_into_a_journal_with_its_number() -> None:
    roles = tuple(f"tenant-{number}:member" for number in range(MANY))
    while True:
        fitting = make_event(actor=Actor(email="a@b.c", id=uuid4(), roles=roles, token_id=None))
        try:
            check_size(fitting)
            break
        except EventTooLarge:
            roles = roles[:-1]
    assert len(roles) > FEW
    assert len(dump_event(fitting)) <= MAX_STORED


def test_journal_refuses_what_is_too_large_and_goes_on_with_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    large = make_event(actor=an_access(roles=100_000).actor)
    others = [make_event(origin=None) for _ in range(3)]
    with journal_in(tmp_path_factory.mktemp("journal")) as journal:
        journal.finalize(others[:1], PATIENCE)
        with pytest.raises(JournalFailed):
            journal.finalize([large], PATIENCE)
        journal.finalize_later([large])
        journal.finalize(others[1:], PATIENCE)
        held = events_in(journal.directory)
        assert {event.id for event in held} == {event.id for event in others}
        numbers = sorted(event.origin.seq for event in held if event.origin)
        assert numbers == [1, 2, 3]
