"""Grants as values: when one is open, and which approvals it gives."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import get_args
from uuid import UUID

import pytest

from tests.clocks import INSTANT
from tests.rules.engine.questions import ACME, GLOBEX, NOON, rule
from webapp.grants.grant import Approval, Grant, GrantState, find_grant
from webapp.rules.engine.request import AuthorizationRequest

HOLDER, APPROVER = UUID(int=51), UUID(int=52)
STARTS_AT, ENDS_AT = NOON, NOON + timedelta(minutes=30)
ACCESS = AuthorizationRequest(
    email="holder@example.org",
    roles=frozenset({"support"}),
    mfa=False,
    surface="admin.rules.list",
    reason="incident",
    ticket="INC-1",
    ip=None,
)
GRANT = Grant(
    id=UUID(int=9),
    kind="approval",
    principal_id=HOLDER,
    email="holder@example.org",
    tenant_id=ACME,
    tenant="acme",
    surfaces=(ACCESS.surface,),
    reason=ACCESS.reason,
    ticket=None,
    note=None,
    minutes=30,
    rule_ids=(),
    state="approved",
    requested_at=STARTS_AT,
    starts_at=STARTS_AT,
    ends_at=ENDS_AT,
    closed_at=None,
    closed_by=None,
    reviewed_at=None,
    reviewed_by=None,
    review=None,
    version=1,
    approvals=(Approval(APPROVER, "admin@example.org", ("admin", "owner"), STARTS_AT),),
)


AROUND = [
    (STARTS_AT - INSTANT, False),
    (STARTS_AT, True),
    (ENDS_AT - INSTANT, True),
    (ENDS_AT, False),
    (ENDS_AT + INSTANT, False),
]
"""Moments around the start and the end of a grant, and whether it is open then."""


@pytest.mark.parametrize(("at", "is_open"), AROUND)
def test_grant_is_open_from_its_start_until_before_its_end(at: datetime, is_open: bool) -> None:
    assert GRANT.is_open(at) is is_open


@pytest.mark.parametrize(("at", "is_open"), AROUND)
def test_grant_covers_approvals_exactly_while_it_is_open(at: datetime, is_open: bool) -> None:
    asking = rule("require_approval", of=ACME)
    found = find_grant([GRANT], asking, ACCESS, ACME, at)
    assert (found is not None) is is_open


@pytest.mark.parametrize("state", sorted(set(get_args(GrantState)) - {"approved"}))
def test_grant_that_is_not_approved_is_never_open(state: GrantState) -> None:
    assert not replace(GRANT, state=state).is_open(STARTS_AT)


def test_request_that_has_not_started_is_not_open() -> None:
    assert not replace(GRANT, starts_at=None).is_open(STARTS_AT)


@pytest.mark.parametrize(
    ("held_at", "asks", "accesses", "is_covered"),
    [
        (ACME, ACME, ACME, True),
        (ACME, None, ACME, True),
        (GLOBEX, ACME, ACME, False),
        (GLOBEX, None, ACME, False),
        (None, ACME, ACME, False),
        (None, None, ACME, False),
        (None, None, None, True),
        (ACME, None, None, False),
        (ACME, ACME, None, True),
        (None, ACME, None, False),
    ],
)
def test_grant_covers_accesses_at_its_own_tenant_only(
    held_at: UUID | None, asks: UUID | None, accesses: UUID | None, is_covered: bool
) -> None:
    """A grant at all tenants covers no access to a single tenant, nor the other way round.

    If a tenant's rule requires an approval of an access to all tenants, a grant at that tenant
    gives it.
    """
    held = replace(GRANT, tenant_id=held_at)
    asking = rule("require_approval", of=asks, approver_roles=("admin",))
    found = find_grant([held], asking, ACCESS, accesses, STARTS_AT)
    assert (found is not None) is is_covered


def test_grant_that_ends_last_is_found_among_several() -> None:
    longer = replace(GRANT, id=UUID(int=3), ends_at=ENDS_AT + INSTANT)
    for held in ([GRANT, longer], [longer, GRANT]):
        found = find_grant(held, rule("require_approval", of=ACME), ACCESS, ACME, STARTS_AT)
        assert found is not None
        assert (found.grant_id, found.ends_at) == (longer.id, longer.ends_at)
