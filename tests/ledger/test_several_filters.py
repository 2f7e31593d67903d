"""Lists with several filters: the rarest leads, and a page looks at so many of its events only."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests import paging
from tests.audit.events import make_event
from tests.factories import Account, MadeTenant, add_account, add_tenant
from webapp.audit.append import append_own
from webapp.audit.event import Actor, EventScope
from webapp.db.scopes import GlobalScope
from webapp.extensions import db
from webapp.http import pagination
from webapp.ledger import search

PATH = "/admin/api/audits"
BEGIN = datetime(2026, 11, 4, 5, 6, 7, tzinfo=UTC)
WINDOW = {"from": "2026-11-04T05:06:07Z", "to": "2026-11-04T05:06:08Z"}
"""What only the events of these tests are in."""

LOOKED_AT = 20
LIST, READ, RARE = "admin.rules.list", "admin.rules.read", "rarely.used.read"
ANN, BEN = (
    Actor(id=uuid4(), email=f"{name}-{uuid4().hex}@example.org", roles=("support",), token_id=None)
    for name in ("ann", "ben")
)
MADE = [
    *[(ANN, READ), (BEN, RARE)] * 2,
    *[(ANN, LIST), (BEN, READ)] * 30,
    (ANN, RARE),
    *[(ANN, LIST), (BEN, READ)] * 30,
]
"""The actors and surfaces of a tenant's events, a millisecond apart."""


@pytest.fixture(scope="module")
def tenant(app: Flask) -> MadeTenant:
    made = add_tenant(app)
    scope = EventScope(kind="tenant", tenant=made.slug, tenant_id=made.id)
    events = [
        make_event(
            occurred_at=BEGIN + timedelta(milliseconds=number),
            actor=actor,
            surface=surface,
            scope=scope,
        )
        for number, (actor, surface) in enumerate(MADE)
    ]
    with app.app_context(), db.scoped(GlobalScope(access_id=uuid4())):
        append_own(db.session, events)
        db.session.commit()
    return made


@pytest.fixture(scope="module")
def admin(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "admin"})


@pytest.fixture
def _few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagination, "COUNTED", LOOKED_AT)
    monkeypatch.setattr(search, "FEW", 10)


def pages(client: FlaskClient, admin: Account, **query: Any) -> Iterator[dict[str, Any]]:
    return paging.pages(client, PATH, admin.headers(), query | WINDOW)


def places(found: Sequence[dict[str, Any]]) -> list[int]:
    """The places in MADE of the events on pages."""
    items = [item for page in found for item in page["items"]]
    moments = [datetime.fromisoformat(item["occurred_at"]) for item in items]
    return [(moment - BEGIN) // timedelta(milliseconds=1) for moment in moments]


def matching(actor: Actor, surface: str) -> list[int]:
    prefix = surface.removesuffix("*")
    return [
        place
        for place, (who, what) in enumerate(MADE)
        if who is actor and (what == surface or (prefix != surface and what.startswith(prefix)))
    ]


@pytest.mark.parametrize("sort", ["-occurred_at", "occurred_at"])
@pytest.mark.parametrize("limit", [1, 7, 50])
@pytest.mark.parametrize("surface", [LIST, READ, RARE, "admin.*", "rarely.*", "never.used"])
@pytest.mark.usefixtures("_few_are_looked_at")
def test_pages_show_every_match_once_and_in_order(
    client: FlaskClient, admin: Account, surface: str, limit: int, sort: str
) -> None:
    found = list(pages(client, admin, actor=ANN.email, surface=surface, limit=limit, sort=sort))
    expected = matching(ANN, surface)
    assert places(found) == (expected if sort == "occurred_at" else expected[::-1])
    for page in found:
        assert len(page["items"]) <= limit
        total = page["total"]
        assert (total is None) is ("total_is_at_least" in page)
        assert total in (None, len(expected))


@pytest.mark.usefixtures("_few_are_looked_at")
def test_page_without_a_match_leads_on(client: FlaskClient, admin: Account) -> None:
    """Both filters are frequent, and what matches both is old."""
    first, *rest = pages(client, admin, actor=ANN.email, surface=READ)
    assert (first["items"], first["total"], first["total_is_at_least"]) == ([], None, 0)
    assert len(rest) == len(MADE) // 2 // LOOKED_AT
    assert places(rest) == matching(ANN, READ)[::-1]


@pytest.mark.usefixtures("_few_are_looked_at")
def test_rarest_filter_leads_whatever_the_others_are(client: FlaskClient, admin: Account) -> None:
    for surface in (RARE, "rarely.*"):
        (page,) = pages(client, admin, actor=ANN.email, kind="access", surface=surface)
        assert places([page]) == matching(ANN, RARE)
        assert page["total"] == 1
