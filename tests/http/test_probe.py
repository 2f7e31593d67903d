"""Every route, called by everybody who might try: no row leaves its tenant."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, receipt
from tests.factories import INCIDENT, Account, add_account
from tests.http.routes import (
    ALL,
    AUDITS,
    EVERY,
    PERSONAL,
    PUBLIC,
    RULES,
    USES,
    Place,
    Use,
    only,
)
from webapp.audit.recorder import RECEIPT_HEADER
from webapp.identity.principal import PLATFORM_ROLES, TENANT_ROLES, TenantRole
from webapp.observability.request_log import REQUEST_ID_HEADER

pytestmark = pytest.mark.slow(seconds=0.1)

OF_OBJECTS = only(USES, "names")
LISTS = only(USES, "lists")
FILTERED_BY_TENANT = (RULES, AUDITS)
SCOPES = ("tenant", "global")


def problem(response: TestResponse) -> tuple[int, str]:
    assert response.content_type == "application/problem+json"
    body = response.get_json()
    return response.status_code, body["code"]


def but_for_names(response: TestResponse, *ids: UUID) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers, without the ids that were requested and assigned."""
    headers = dict(response.headers)
    names = [headers[REQUEST_ID_HEADER], *map(str, ids), *(id_.hex for id_ in ids)]
    body = response.data
    for name in names:
        body = body.replace(name.encode(), b"-")
    headers[REQUEST_ID_HEADER] = "-"
    if RECEIPT_HEADER in headers:
        headers[RECEIPT_HEADER] = "-"
    headers["Content-Length"] = "-"
    # Of two refused attempts the second leaves one less, whatever they are about.
    headers.pop("RateLimit")
    return response.status_code, body, headers


def test_every_route_is_in_the_probe(app: Flask) -> None:
    """Add a new route to routes.py, with how it is used and by whom."""
    surfaces, public = set(), set()
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            view = app.view_functions[rule.endpoint]
            if hasattr(view, "__surface__"):
                surfaces.add((f"{method} {rule.rule}", view.__surface__.name))
            else:
                assert method == "GET"
                public.add(rule.rule)
    assert surfaces == {(use.id, use.surface) for use in EVERY.values()}
    assert public == PUBLIC.keys()


@pytest.mark.parametrize("path", PUBLIC.values())
def test_public_route_answers_without_credentials(client: FlaskClient, path: str) -> None:
    with client.get(path) as plain, client.get(path, headers={"Authorization": "x"}) as odd:
        assert plain.status_code == odd.status_code
        # Nothing may be sealed yet, and there is no second log.
        assert plain.status_code == 200 or (plain.status_code == 404 and path.startswith("/log/"))


BAD_CREDENTIALS: dict[str, dict[str, str]] = {
    "none": {},
    "empty": {"Authorization": ""},
    "no token": {"Authorization": "Bearer"},
    "a token nobody has": {"Authorization": f"Bearer slt_{'x' * 43}"},
    "another scheme": {"Authorization": "Basic c2x0Xzp4"},
    "not ours": {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."},
    "no text": {"Authorization": "Bearer slt_\xff\xfe"},
    "another header": {"X-Api-Key": "slt_x"},
}


@pytest.mark.parametrize("use", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("credentials", BAD_CREDENTIALS)
def test_request_without_credentials_is_told_nothing(
    client: FlaskClient, here: Place, use: Use, credentials: str
) -> None:
    missing = {name: uuid4() for name in here.ids}
    elevation = {"Sightline-Scope": "global", "Sightline-Reason": INCIDENT}
    answers = [
        use.call(client, ids, BAD_CREDENTIALS[credentials] | more)
        for ids in (here.ids, missing)
        for more in ({}, elevation)
    ]
    for answer in answers:
        assert problem(answer) == (401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert RECEIPT_HEADER not in answer.headers
    seen = [but_for_names(answer, *here.ids.values(), *missing.values()) for answer in answers]
    assert all(one == seen[0] for one in seen)


@pytest.mark.parametrize("use", ALL.values(), ids=ALL)
@pytest.mark.parametrize("role", TENANT_ROLES)
def test_access_in_own_tenant_is_decided_by_role(
    client: FlaskClient, new: Place, use: Use, role: TenantRole
) -> None:
    answer = use.call(client, new.ids, new.person(role).headers(new.scope))
    if role in use.tenant_roles:
        assert answer.status_code in use.successes
    else:
        assert problem(answer) == (403, "forbidden")


@pytest.mark.parametrize("use", PERSONAL, ids=lambda use: use.id)
def test_personal_surface_is_refused_to_other_roles(
    app: Flask, client: FlaskClient, here: Place, use: Use
) -> None:
    """Neither a scope nor a reason makes a difference."""
    platform = [add_account(app, r) for r in PLATFORM_ROLES if r not in use.platform_roles]
    people = [*platform, *(here.person(r) for r in TENANT_ROLES if r not in use.tenant_roles)]
    for person in people:
        for scope in (None, here.scope, "global"):
            answer = use.call(client, here.ids, person.headers(scope, INCIDENT))
            assert problem(answer) == (403, "forbidden")
            assert RECEIPT_HEADER not in answer.headers


@pytest.mark.parametrize("use", OF_OBJECTS.values(), ids=OF_OBJECTS)
@pytest.mark.parametrize("role", TENANT_ROLES)
@pytest.mark.parametrize("named", [False, True], ids=["scope by default", "scope named"])
def test_object_of_another_tenant_is_answered_like_one_that_never_was(
    client: FlaskClient, here: Place, elsewhere: Place, use: Use, role: TenantRole, named: bool
) -> None:
    headers = here.person(role).headers(here.scope if named else None)
    missing = {name: uuid4() for name in here.ids}
    theirs = use.call(client, elsewhere.ids, headers)
    nobodys = use.call(client, missing, headers)
    expected = (404, "not_found") if role in use.tenant_roles else (403, "forbidden")
    assert problem(theirs) == problem(nobodys) == expected
    assert theirs.get_json()["instance"] == use.path(elsewhere.ids)
    ids = (*elsewhere.ids.values(), *missing.values())
    assert but_for_names(theirs, *ids) == but_for_names(nobodys, *ids)
    for access in OF_OBJECTS.values():
        if access.method == "GET":
            answer = access.call(client, elsewhere.ids, elsewhere.admin.headers())
            assert answer.status_code in access.successes


@pytest.mark.parametrize(
    ("use", "role"), [(use, role) for use in LISTS.values() for role in use.tenant_roles]
)
def test_list_shows_rows_of_own_tenant_only(
    client: FlaskClient, here: Place, elsewhere: Place, use: Use, role: TenantRole
) -> None:
    of_other = {"tenant": elsewhere.tenant.slug}
    queries: list[dict[str, Any]] = [{}, {"limit": 200}]
    for query in [*queries, *([of_other] if use.rule in FILTERED_BY_TENANT else [])]:
        page = client.get(
            use.rule, headers=here.person(role).headers(), query_string=query
        ).get_json()
        shown = {item["id"] for item in page["items"]}
        assert str(elsewhere.ids[use.lists]) not in shown
        is_first_page = not query and page["next_cursor"]  # the other tests leave many events
        assert (str(here.ids[use.lists]) in shown) == ("tenant" not in query) or is_first_page
        assert (page["total"] == len(shown)) == (page["next_cursor"] is None)
    theirs = client.get(use.rule, headers=elsewhere.admin.headers()).get_json()
    assert str(elsewhere.ids[use.lists]) in {item["id"] for item in theirs["items"]}


def beyond(scope: str, place: Place) -> str:
    return place.scope if scope == "tenant" else "global"


USELESS_REASONS = {
    "none": None,
    "empty": "",
    "no code": "because",
    "a string": '"incident"',
    "an unknown parameter": "incident;severity=1",
    "an empty ticket": 'incident;ticket=""',
}


@pytest.mark.parametrize("use", ALL.values(), ids=ALL)
@pytest.mark.parametrize("scope", SCOPES)
def test_elevation_without_usable_reason_is_refused(
    app: Flask, client: FlaskClient, here: Place, elsewhere: Place, use: Use, scope: str
) -> None:
    """The refusal is the same for a tenant's admin and an owner of the platform."""
    for person in (here.admin, here.member, add_account(app, *PLATFORM_ROLES)):
        for reason in USELESS_REASONS.values():
            headers = person.headers(beyond(scope, elsewhere), reason)
            answer = use.call(client, elsewhere.ids, headers)
            assert problem(answer) == (400, "reason_required")
            assert RECEIPT_HEADER not in answer.headers


@pytest.mark.parametrize("use", ALL.values(), ids=ALL)
@pytest.mark.parametrize("scope", SCOPES)
def test_elevation_without_role_is_denied_and_recorded(
    app: Flask,
    client: FlaskClient,
    here: Place,
    elsewhere: Place,
    auditor: Account,
    use: Use,
    scope: str,
) -> None:
    others = [role for role in PLATFORM_ROLES if role not in use.platform_roles]
    people = [here.admin, here.member, *(add_account(app, role) for role in others)]
    wanted = beyond(scope, elsewhere)
    for person in people:
        answer = use.call(client, elsewhere.ids, person.headers(wanted, INCIDENT))
        assert problem(answer) == (403, "elevation_denied")
        assert answer.get_json()["rules"] == []
        event = recorded(app, client, auditor, answer)
        assert event["actor"]["id"] == str(person.id)
        assert (event["surface"], event["outcome"]) == (use.surface, "denied")
        assert (event["decision"]["effect"], event["http_status"]) == ("denied", 403)
        assert event["rows"] is None
        assert_is_of(event, scope, elsewhere.tenant.id if scope == "tenant" else None)


@pytest.mark.parametrize("use", ALL.values(), ids=ALL)
@pytest.mark.parametrize("scope", SCOPES)
def test_elevation_with_role_is_served_and_recorded(
    app: Flask, client: FlaskClient, new: Place, auditor: Account, use: Use, scope: str
) -> None:
    person = add_account(app, use.platform_roles[-1])
    answer = use.call(client, new.ids, person.headers(beyond(scope, new), INCIDENT))
    assert answer.status_code in use.statuses_in(scope)
    event = recorded(app, client, auditor, answer)
    outcome = "served" if answer.status_code < 400 else "failed"
    assert (event["surface"], event["outcome"]) == (use.surface, outcome)
    assert event["http_status"] == answer.status_code
    assert event["reason"] == {"code": "incident", "ticket": "INC-1", "note": None}
    # A change of a tenant's object is in the tenant's list, from whatever scope it is made.
    changes_tenants = event["kind"] == "change" and use.names not in (None, "member_id")
    concerned = new.tenant.id if scope == "tenant" or changes_tenants else None
    is_made = (use.surface, answer.status_code) == ("admin.tenants.create", 201)
    assert_is_of(event, scope, UUID(answer.get_json()["id"]) if is_made else concerned)


@pytest.mark.parametrize("use", ALL.values(), ids=ALL)
def test_each_platform_role_of_surface_may_elevate(
    app: Flask, client: FlaskClient, new: Place, use: Use
) -> None:
    """A missing object is answered with 404, which shows that the access is allowed."""
    missing = {name: uuid4() for name in new.ids}
    for role in use.platform_roles:
        answer = use.call(client, missing, add_account(app, role).headers(new.scope, INCIDENT))
        assert answer.status_code in ({404} if use.names else use.statuses_in("tenant"))
        assert receipt(answer)


@pytest.mark.parametrize("use", ALL.values(), ids=ALL)
def test_missing_tenant_is_revealed_only_to_those_who_may_elevate(
    app: Flask, client: FlaskClient, here: Place, elsewhere: Place, use: Use
) -> None:
    owner = add_account(app, "owner").headers("tenant:nobodys", INCIDENT)
    assert problem(use.call(client, elsewhere.ids, owner)) == (404, "not_found")
    nobodys = use.call(client, elsewhere.ids, here.admin.headers("tenant:nobodys", INCIDENT))
    theirs = use.call(client, elsewhere.ids, here.admin.headers(elsewhere.scope, INCIDENT))
    assert but_for_names(nobodys) == but_for_names(theirs)


@pytest.mark.parametrize("use", ALL.values(), ids=ALL)
def test_principal_without_single_tenant_must_name_a_scope(
    app: Flask, client: FlaskClient, here: Place, elsewhere: Place, use: Use
) -> None:
    both = {place.tenant.slug: "admin" for place in (here, elsewhere)}
    member_of: Mapping[str, TenantRole] = both  # type: ignore[assignment]  # the literal is one
    for person in (add_account(app, *PLATFORM_ROLES), add_account(app, member_of=member_of)):
        answer = use.call(client, elsewhere.ids, person.headers(reason=INCIDENT))
        assert problem(answer) == (422, "invalid")
        assert list(answer.get_json()["errors"]) == ["Sightline-Scope"]


def recorded(
    app: Flask, client: FlaskClient, auditor: Account, answer: TestResponse
) -> Mapping[str, Any]:
    """The only event of an answer, read by an auditor once it is committed."""
    (event_id,) = receipt(answer)
    committed(app, event_id)
    read = client.get(f"{AUDITS}/{event_id}", headers=auditor.headers("global", INCIDENT))
    assert read.status_code == 200
    event: Mapping[str, Any] = read.get_json()
    assert event["request"]["id"] == answer.headers[REQUEST_ID_HEADER]
    return event


def assert_is_of(event: Mapping[str, Any], scope: str, tenant_id: UUID | None) -> None:
    named = None if tenant_id is None else str(tenant_id)
    assert (event["scope"]["kind"], event["scope"]["tenant_id"]) == (scope, named)
