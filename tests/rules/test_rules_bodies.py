"""Invalid bodies of rules: refused by field, and never with a 500."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.factories import Account
from tests.rules.calls import PATH, add_rule, draft, etag, names, of, patch, problem

WINDOW = {"days": ["mon"], "from": "09:00", "to": "17:00", "tz": "UTC"}

FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "x" * 201}, "name"),
    ({"name": "a\x00b"}, "name"),
    ({"name": None}, "name"),
    ({"name": 1}, "name"),
    ({"effect": "maybe"}, "effect"),
    ({"surfaces": []}, "surfaces"),
    ({"surfaces": ["a..b"]}, "surfaces.0"),
    ({"surfaces": ["a\n"]}, "surfaces.0"),
    ({"surfaces": ["a*"]}, "surfaces.0"),
    ({"surfaces": "*"}, "surfaces"),
    ({"surfaces": ["*"] * 21}, "surfaces"),
    ({"subjects": {"roles": ["king"]}}, "subjects.roles.0"),
    ({"subjects": {"users": ["\x00"]}}, "subjects.users.0"),
    ({"subjects": {"teams": []}}, "subjects.teams"),
    ({"subjects": None}, "subjects"),
    ({"reasons": ["boredom"]}, "reasons.0"),
    ({"windows": [{**WINDOW, "from": "24:00"}]}, "windows.0.from"),
    ({"windows": [{**WINDOW, "to": "17:00\n"}]}, "windows.0.to"),
    ({"windows": [{**WINDOW, "tz": "Mars/Base"}]}, "windows.0.tz"),
    ({"windows": [{**WINDOW, "tz": "Europe"}]}, "windows.0.tz"),
    ({"windows": [{**WINDOW, "tz": "../../etc/passwd"}]}, "windows.0.tz"),
    ({"windows": [{**WINDOW, "tz": "\x00"}]}, "windows.0.tz"),
    ({"windows": [{"days": ["mon"]}]}, "windows.0.from"),
    ({"networks": ["10.0.0.1/8"]}, "networks.0"),
    ({"networks": ["fe80::%\x00"]}, "networks.0"),
    ({"networks": ["::1%eth0/128"]}, "networks.0"),
    ({"max_minutes": 0}, "max_minutes"),
    ({"max_minutes": 2**70}, "max_minutes"),
    ({"max_minutes": 1e300}, "max_minutes"),
    ({"min_approvals": 11}, "min_approvals"),
    ({"enabled": "perhaps"}, "enabled"),
    ({"enabled": []}, "enabled"),
    ({"starts_at": "2026-01-01T00:00:00"}, "starts_at"),
    ({"starts_at": "0001-01-01T00:00:00+14:00"}, "starts_at"),
    ({"ends_at": "9999-12-31T23:59:59-14:00"}, "ends_at"),
    ({"version": 7}, "version"),
    ({"id": "x"}, "id"),
]


@pytest.mark.parametrize(("changes", "field"), FIELDS)
def test_invalid_field_of_a_rule_is_refused_by_name(
    client: FlaskClient, admin: Account, changes: dict[str, Any], field: str
) -> None:
    rule = add_rule(client, admin.headers())
    created = client.post(PATH, headers=admin.headers(), json=draft("new") | changes)
    for response in (created, patch(client, admin, rule, **changes)):
        status, code, fields = problem(response)
        assert (status, code) == (422, "invalid")
        assert field in fields
    assert names(client, admin.headers()) == ["nights"]


@pytest.mark.parametrize("field", ["name", "effect", "surfaces"])
def test_rule_without_a_required_field_is_refused(
    client: FlaskClient, admin: Account, field: str
) -> None:
    body = {name: value for name, value in draft().items() if name != field}
    refused = client.post(PATH, headers=admin.headers(), json=body)
    assert problem(refused) == (422, "invalid", [field])


def test_patch_of_a_rules_tenant_is_refused(client: FlaskClient, admin: Account) -> None:
    rule = add_rule(client, admin.headers())
    refused = patch(client, admin, rule, tenant=None)
    assert problem(refused) == (422, "invalid", ["tenant"])


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"\xff", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"max_minutes": NaN}', "application/json"),
        (b'{"name": "\\ud800"}', "application/json"),
        (b'{"max_minutes": 1' + b"0" * 5000 + b"}", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b'"name"', "application/json"),
        (b'{"name": "new"}', "text/plain"),
        (b"name=new", "application/x-www-form-urlencoded"),
    ],
)
def test_body_that_is_no_json_object_is_refused_and_changes_nothing(
    client: FlaskClient, admin: Account, body: bytes, content_type: str
) -> None:
    rule = add_rule(client, admin.headers())
    headers = admin.headers() | {"If-Match": etag(rule), "Content-Type": content_type}
    for response in (
        client.post(PATH, headers=headers, data=body),
        client.patch(of(rule), headers=headers, data=body),
    ):
        assert problem(response)[:2] == (422, "invalid")
    assert client.get(of(rule), headers=admin.headers()).get_json() == rule


def test_body_is_not_checked_before_authentication_and_role(
    client: FlaskClient, admin: Account, member: Account
) -> None:
    rule = add_rule(client, admin.headers())
    assert client.post(PATH, json={}).status_code == 401
    assert client.post(PATH, headers=member.headers(), json={}).status_code == 403
    assert client.patch(of(rule), headers=member.headers(), json={"x": 1}).status_code == 403
