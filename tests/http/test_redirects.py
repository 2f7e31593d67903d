"""Paths have one form, and no answer leads to the host that a client names."""

import pytest
from flask import Flask, redirect, url_for
from flask.testing import FlaskClient

from webapp.http import redirects

EVIL = {"Host": "evil.example"}


@pytest.mark.parametrize(
    ("path", "status"),
    [("/admin//api/rules", 404), ("/healthz//", 404), ("/docs//x", 404), ("/docs", 200)],
)
def test_no_path_is_answered_with_a_redirect(client: FlaskClient, path: str, status: int) -> None:
    answer = client.get(path, headers=EVIL)
    assert answer.status_code == status
    assert "Location" not in answer.headers


def test_redirect_leads_to_public_url_whatever_host_the_client_names(app: Flask) -> None:
    redirecting = Flask("redirecting")
    redirecting.extensions["settings"] = app.extensions["settings"]
    redirects.init_app(redirecting)
    redirecting.add_url_rule("/new/", "new", lambda: "new")
    redirecting.add_url_rule("/old", "old", lambda: redirect(url_for("new", _external=True)))
    redirecting.add_url_rule("/out", "out", lambda: redirect("https://other.example/"))
    public_url = app.extensions["settings"].public_url
    client = redirecting.test_client()
    for path in ("/old", "/new"):
        assert client.get(path, headers=EVIL).location == f"{public_url}/new/"
    assert client.get("/out", headers=EVIL).location == "https://other.example/"
