"""An error is JSON, or a page where the client prefers one: a browser does."""

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from webapp.http import errors
from webapp.http.errors import PAGE_TYPE, PROBLEM_TYPE

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.fixture
def failing() -> FlaskClient:
    app = Flask("failing")
    errors.init_app(app)

    @app.get("/fails")
    def fails() -> Response:
        raise errors.Conflict("<script>alert(1)</script> is taken")

    return app.test_client()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (BROWSER, PAGE_TYPE),
        ("text/html", PAGE_TYPE),
        ("*/*", PROBLEM_TYPE),
        ("application/json", PROBLEM_TYPE),
        ("application/problem+json, text/html;q=0.5", PROBLEM_TYPE),
        ("image/png", PROBLEM_TYPE),
        (None, PROBLEM_TYPE),
    ],
)
def test_error_has_the_form_that_the_client_prefers(
    failing: FlaskClient, accept: str | None, content_type: str
) -> None:
    answer = failing.get("/fails", headers={} if accept is None else {"Accept": accept})
    assert answer.status_code == 409
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Accept" in answer.vary


def test_error_page_escapes_what_it_shows_and_runs_nothing(failing: FlaskClient) -> None:
    page = failing.get("/fails", headers={"Accept": BROWSER})
    assert "Conflicts with an existing resource" in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; is taken" in page.text
    assert "<script" not in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_browser_gets_a_page_from_the_product_for_a_path_that_is_not_there(
    client: FlaskClient,
) -> None:
    page = client.get("/nowhere", headers={"Accept": BROWSER})
    assert page.status_code == 404
    assert page.headers["Content-Type"] == PAGE_TYPE
    assert page.headers["X-Request-ID"] in page.text
