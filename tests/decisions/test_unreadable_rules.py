"""An unreadable rule denies: a tenant's excludes the tenant, the platform's denies every access."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from tests.audit.ledgers import owner_connection
from tests.factories import INCIDENT, add_account, add_tenant
from tests.rules.calls import PATH, add_rule, names
from webapp.caching import invalidate
from webapp.db.scopes import IdentityScope
from webapp.extensions import db
from webapp.rules.rule import ALL_RULES_TAG, owner_tag

SURFACE = "admin.rules.list"
KINDS = {
    "windows": "jsonb",
    "subjects": "jsonb",
    "networks": "text[]",
    "deleted_at": "timestamptz",
}
BROKEN = {
    "an unknown zone": (
        "windows",
        '[{"days": ["mon"], "from": "1:00", "to": "2:00", "tz": "X/Y"}]',
    ),
    "an impossible time": (
        "windows",
        '[{"days": ["mon"], "from": "25:00", "to": "2:00", "tz": "UTC"}]',
    ),
    "no window at all": ("windows", '[{"when": "always"}]'),
    "subjects of another shape": ("subjects", '["engineer"]'),
    "an invalid network": ("networks", "{10.0.0.0/33}"),
}


@contextmanager
def broken(app: Flask, rule: dict[str, Any], column: str, value: str) -> Iterator[None]:
    """Write an invalid value into a stored rule, and delete the rule afterwards."""
    _write(app, UUID(rule["id"]), column, value)
    yield
    _write(app, UUID(rule["id"]), "deleted_at", "2026-01-01T00:00:00Z")


def _write(app: Flask, rule_id: UUID, column: str, value: str) -> None:
    with owner_connection(app) as owner:
        owner.execute(text("alter table rules no force row level security"))
        owner.execute(
            text(f"update rules set {column} = cast(:value as {KINDS[column]}) where id = :id"),  # noqa: S608 - names of this file
            {"value": value, "id": rule_id},
        )
        tenant_id = owner.scalar(
            text("select tenant_id from rules where id = :id"), {"id": rule_id}
        )
        owner.execute(text("alter table rules force row level security"))
    with app.app_context(), db.scoped(IdentityScope()):
        invalidate(ALL_RULES_TAG, owner_tag(tenant_id))
        db.session.commit()


@pytest.mark.parametrize("how", BROKEN)
def test_unreadable_tenant_rule_excludes_only_its_tenant(
    app: Flask, client: FlaskClient, how: str
) -> None:
    engineer = add_account(app, "engineer")
    places = []
    for _ in range(2):
        tenant = add_tenant(app)
        admin = add_account(app, member_of={tenant.slug: "admin"})
        rule = add_rule(
            client,
            admin.headers(),
            effect="deny",
            surfaces=[SURFACE],
            subjects={"users": ["nobody@example.org"]},
        )
        places.append((tenant, rule))
    (theirs, _), (ours, rule) = places
    headers = engineer.headers("global", INCIDENT)
    assert len(names(client, headers, tenant=ours.slug)) == 1
    with broken(app, rule, *BROKEN[how]):
        everywhere = client.get(PATH, headers=headers, query_string={"tenant": theirs.slug})
        alone = client.get(PATH, headers=engineer.headers(f"tenant:{ours.slug}", INCIDENT))
        assert len(everywhere.get_json()["items"]) == 1
        left_out = client.get(PATH, headers=headers, query_string={"tenant": ours.slug})
        assert left_out.get_json()["total"] == 0
    assert alone.status_code == 403
    problem = alone.get_json(force=True)
    assert problem["rules"] == [rule["id"]]
    assert problem["detail"].startswith("Denied, since a rule cannot be evaluated")


@pytest.mark.parametrize("how", BROKEN)
def test_unreadable_platform_rule_denies_every_access_that_it_covers(
    app: Flask, client: FlaskClient, how: str
) -> None:
    owner, auditor = add_account(app, "owner"), add_account(app, "auditor")
    headers = owner.headers("global", INCIDENT)
    rule = add_rule(
        client,
        headers,
        f"broken {uuid4()}",
        effect="allow",
        surfaces=[SURFACE],
        subjects={"users": ["nobody@example.org"]},
    )
    with broken(app, rule, *BROKEN[how]):
        denied = client.get(PATH, headers=headers)
        other_surface = client.get("/admin/api/audits", headers=auditor.headers("global", INCIDENT))
    assert (denied.status_code, other_surface.status_code) == (403, 200)
    assert denied.get_json(force=True)["rules"] == [rule["id"]]
    assert client.get(PATH, headers=headers).status_code == 200
