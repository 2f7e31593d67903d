"""Caching headers of answers: a surface's answer belongs to one principal in one scope."""

import pytest
from flask.testing import FlaskClient

from tests.factories import INCIDENT, Account, MadeTenant

LIST = "/admin/api/rules"
VARIES = {"authorization", "cookie", "sightline-scope"}


def test_answer_of_surface_is_private_and_varies_by_principal_and_scope(
    client: FlaskClient, admin: Account
) -> None:
    shown = client.get(LIST, headers=admin.headers())
    tag = shown.headers["ETag"]
    unchanged = client.get(LIST, headers={**admin.headers(), "If-None-Match": tag})
    assert [shown.status_code, unchanged.status_code] == [200, 304]
    for answer in (shown, unchanged):
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert {v.lower() for v in answer.vary} >= VARIES


def test_elevated_answer_is_not_stored(
    client: FlaskClient, engineer: Account, tenant: MadeTenant
) -> None:
    for scope in ("global", f"tenant:{tenant.slug}"):
        headers = engineer.headers(scope, INCIDENT)
        shown = client.get(LIST, headers=headers)
        unchanged = client.get(LIST, headers=headers | {"If-None-Match": shown.headers["ETag"]})
        assert [shown.status_code, unchanged.status_code] == [200, 304]
        for answer in (shown, unchanged):
            assert answer.headers["Cache-Control"] == "no-store"
            assert {v.lower() for v in answer.vary} >= VARIES


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer slt_unknown"}])
def test_refusal_of_surface_is_not_stored(client: FlaskClient, headers: dict[str, str]) -> None:
    refused = client.get(LIST, headers=headers)
    assert refused.status_code == 401
    assert refused.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/healthz", "/admin/api/nowhere", "/nowhere"])
def test_answer_of_public_route_does_not_vary_by_principal(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "authorization" not in {v.lower() for v in answer.vary}
