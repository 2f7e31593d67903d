"""GET /admin/api/rules: who sees what, filters, sorts, pages and conditional answers."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories import INCIDENT, Account, MadeTenant, add_account, add_tenant
from tests.paging import pages
from tests.rules.calls import PATH, add_rule, names, patch, problem
from webapp.db.scopes import TenantScope
from webapp.extensions import db
from webapp.rules.models import RuleRow
from webapp.rules.rule import RuleQuery
from webapp.rules.schemas import RuleQuerySchema

SORTS = ("name", "-name", "created_at", "-created_at", "updated_at", "-updated_at")


def test_tenants_rules_are_listed_for_its_people_only(
    client: FlaskClient, admin: Account, member: Account, outsider: Account
) -> None:
    add_rule(client, admin.headers(), "ours")
    add_rule(client, outsider.headers(), "theirs")
    for account, seen in ((admin, "ours"), (member, "ours"), (outsider, "theirs")):
        assert names(client, account.headers()) == [seen]


def test_foreign_tenants_list_without_role_or_reason_is_refused(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, outsider: Account
) -> None:
    add_rule(client, admin.headers(), "ours")
    support = add_account(app, "support")
    scope = f"tenant:{tenant.slug}"
    assert names(client, support.headers(scope, INCIDENT)) == ["ours"]
    refused = client.get(PATH, headers=support.headers(scope))
    assert problem(refused) == (400, "reason_required", [])
    refused = client.get(PATH, headers=outsider.headers(scope, INCIDENT))
    assert problem(refused) == (403, "elevation_denied", [])


def test_global_list_names_the_tenant_of_each_rule(
    client: FlaskClient, tenant: MadeTenant, admin: Account, owner: Account
) -> None:
    everywhere = owner.headers("global", INCIDENT)
    word = tenant.slug
    add_rule(client, admin.headers(), f"{word} of a tenant")
    add_rule(client, everywhere, f"{word} of the platform")

    page = client.get(PATH, headers=everywhere, query_string={"q": word}).get_json()
    assert [rule["tenant"] for rule in page["items"]] == [tenant.slug, None]
    assert names(client, everywhere, tenant=tenant.slug) == [f"{word} of a tenant"]
    assert names(client, admin.headers()) == [f"{word} of a tenant"]
    assert names(client, everywhere, tenant="no-such-tenant") == []


@pytest.mark.parametrize(
    ("pattern", "surface", "covers"),
    [
        ("admin.rules.list", "admin.rules.list", True),
        ("admin.rules.*", "admin.rules.list", True),
        ("admin.*", "admin.rules.list", True),
        ("*", "admin.rules.list", True),
        ("admin.rules", "admin.rules.list", False),
        ("admin.rules.list.*", "admin.rules.list", False),
        ("admin.rule.*", "admin.rules.list", False),
        ("admin.*", "admin.rules.*", True),
        ("admin.rules.list", "admin.rules.*", False),
    ],
)
def test_surface_filter_finds_the_rules_that_cover_the_surface(
    client: FlaskClient, admin: Account, pattern: str, surface: str, covers: bool
) -> None:
    add_rule(client, admin.headers(), "it", surfaces=["log.read", pattern])
    assert names(client, admin.headers(), surface=surface) == (["it"] if covers else [])


@pytest.mark.parametrize("field", ["name", "description"])
@pytest.mark.parametrize("q", ["100%", "A_B", "a\\b", "/", "%", "_", "\\"])
def test_text_filter_takes_wildcards_literally(
    client: FlaskClient, admin: Account, field: str, q: str
) -> None:
    for number, text in enumerate(["100%", "a_b", "a\\b", "a/b", "100", "ab", "axb"]):
        add_rule(client, admin.headers(), **{"name": str(number), field: text})
    page = client.get(PATH, headers=admin.headers(), query_string={"q": q}).get_json()
    (found,) = [rule[field] for rule in page["items"]]
    assert q.lower() in found


def test_unchanged_list_answers_304(client: FlaskClient, admin: Account) -> None:
    rule = add_rule(client, admin.headers())
    first = client.get(PATH, headers=admin.headers())
    known = admin.headers() | {"If-None-Match": first.headers["ETag"]}

    again = client.get(PATH, headers=known)
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]

    assert patch(client, admin, rule, enabled=False).status_code == 200
    changed = client.get(PATH, headers=known)
    assert (changed.status_code, changed.get_json()["items"][0]["enabled"]) == (200, False)


def test_elevated_304_is_decided_and_recorded(client: FlaskClient, owner: Account) -> None:
    first = client.get(PATH, headers=owner.headers("global", INCIDENT))
    known = {"If-None-Match": first.headers["ETag"]}

    again = client.get(PATH, headers=owner.headers("global", INCIDENT) | known)
    assert again.status_code == 304
    assert UUID(again.headers["Sightline-Audit"])
    assert client.get(PATH, headers=owner.headers("global") | known).status_code == 400


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("sort=id", "sort"),
        ("effect=maybe", "effect"),
        ("enabled=perhaps", "enabled"),
        ("tenant=A", "tenant"),
        ("tenant=a%0A", "tenant"),
        ("surface=..", "surface"),
        ("q=", "q"),
        ("q=%00", "q"),
        ("cursor=", "cursor"),
        ("cursor=" + "x" * 4097, "cursor"),
        ("efect=deny", "efect"),
    ],
)
def test_invalid_query_of_the_list_is_refused(
    client: FlaskClient, admin: Account, query: str, field: str
) -> None:
    for _ in range(2):  # the second time its parsing might come from a cache
        response = client.get(f"{PATH}?{query}", headers=admin.headers())
        assert problem(response) == (422, "invalid", [field])


def test_empty_query_has_the_defaults_of_the_query_value() -> None:
    assert RuleQuerySchema().load({}) == RuleQuery()


def test_invalid_query_without_authentication_answers_401(client: FlaskClient) -> None:
    assert client.get(f"{PATH}?limit=x").status_code == 401


@dataclass(frozen=True)
class ModelRule:
    """A rule as the reference model has it."""

    rank: int
    """Rules are ordered by rank where they are ordered by id."""
    name: str
    description: str
    effect: str
    surface: str
    enabled: bool
    created_at: datetime
    updated_at: datetime
    deleted: bool


INSTANTS = st.sampled_from([datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)])
TEXTS = st.text("abAB%_\\/", max_size=4)
RULES = st.builds(
    ModelRule,
    rank=st.integers(0, 2**16 - 1),
    name=st.text("abc", min_size=1, max_size=3),
    description=TEXTS,
    effect=st.sampled_from(["allow", "deny", "require_approval"]),
    surface=st.sampled_from(["*", "admin.*", "admin.rules.list", "log.read"]),
    enabled=st.booleans(),
    created_at=INSTANTS,
    updated_at=INSTANTS,
    deleted=st.sampled_from([False, False, False, True]),
)
QUERIES = st.fixed_dictionaries(
    {"limit": st.integers(1, 4), "sort": st.sampled_from(SORTS)},
    optional={
        "effect": st.sampled_from(["allow", "deny", "require_approval"]),
        "surface": st.sampled_from(["admin.rules.list", "log.read"]),
        "enabled": st.sampled_from(["true", "false"]),
        "q": st.text("abAB%_\\/", min_size=1, max_size=2),
    },
)


def _expected(rules: list[ModelRule], query: dict[str, Any]) -> list[str]:
    covering = {
        "admin.rules.list": {"admin.rules.list", "admin.*", "*"},
        "log.read": {"log.read", "*"},
    }
    key, descending = query["sort"].lstrip("-"), query["sort"].startswith("-")
    q = query.get("q", "").lower()
    found = [
        rule
        for rule in rules
        if not rule.deleted
        and query.get("effect", rule.effect) == rule.effect
        and ("surface" not in query or rule.surface in covering[query["surface"]])
        and query.get("enabled", str(rule.enabled).lower()) == str(rule.enabled).lower()
        and (q in rule.name.lower() or q in rule.description.lower())
    ]
    found.sort(key=lambda rule: (getattr(rule, key), rule.rank), reverse=descending)
    return [rule.name for rule in found]


def _row(rule: ModelRule, tenant_id: UUID) -> RuleRow:
    return RuleRow(
        id=UUID(int=rule.rank << 112 | uuid4().int >> 16),
        tenant_id=tenant_id,
        name=rule.name,
        description=rule.description,
        effect=rule.effect,
        subjects={"roles": [], "users": []},
        surfaces=[rule.surface],
        reasons=[],
        windows=[],
        networks=[],
        mfa=False,
        min_approvals=1,
        approver_roles=[],
        enabled=rule.enabled,
        version=1,
        created_at=rule.created_at,
        created_by="test",
        updated_at=rule.updated_at,
        updated_by="test",
        deleted_at=datetime.now(UTC) - timedelta(days=1) if rule.deleted else None,
    )


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    rules=st.lists(RULES, max_size=9, unique_by=(lambda rule: rule.name, lambda rule: rule.rank)),
    query=QUERIES,
)
def test_pages_of_the_list_agree_with_a_reference_model(
    app: Flask, rules: list[ModelRule], query: dict[str, Any]
) -> None:
    tenant = add_tenant(app)
    with app.app_context(), db.scoped(TenantScope(tenant.id)):
        db.session.add_all([_row(rule, tenant.id) for rule in rules])
        db.session.commit()
    client, headers = (
        app.test_client(),
        add_account(app, member_of={tenant.slug: "member"}).headers(),
    )
    expected = _expected(rules, query)

    read = list(pages(client, PATH, headers, query))
    assert {page["total"] for page in read} == {len(expected)}
    assert {len(page["items"]) for page in read[:-1]} <= {query["limit"]}
    assert [rule["name"] for page in read for rule in page["items"]] == expected
