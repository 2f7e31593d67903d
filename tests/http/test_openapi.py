import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from webapp.http import openapi as docs


@pytest.fixture
def client() -> FlaskClient:
    app = Flask("docs")
    docs.init_app(app, [])
    return app.test_client()


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_page_allows_nothing_from_elsewhere(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.mimetype == "text/html"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "//" not in docs.PAGE


def test_all_that_the_page_asks_for_is_here(client: FlaskClient) -> None:
    for path in re.findall(r'(?:src|href)="([^"]+)"', docs.PAGE):
        with client.get(path) as response:
            assert response.status_code == 200
            assert path.endswith(".js") == (response.mimetype == "text/javascript")


@pytest.mark.parametrize("name", ["index.html", "swagger-initializer.js", "..%2f__init__.py", "x"])
def test_nothing_else_of_the_wheel_is_served(client: FlaskClient, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404


def test_the_description(client: FlaskClient) -> None:
    description = client.get("/openapi.json").get_json()
    assert description["openapi"] == "3.0.3"
    assert description["info"]["title"] == "Sightline"
    assert description["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert description["security"] == [{"token": []}]


def test_an_application_may_say_otherwise() -> None:
    app = Flask("docs")
    app.config["API_TITLE"] = "Another"
    assert docs.Api(app).spec.title == "Another"


def test_every_route_says_why_it_is_public(client: FlaskClient) -> None:
    views = client.application.view_functions
    for name in ("docs.page", "docs.asset", "docs.start", "api-docs.openapi_json"):
        assert getattr(views[name], "__public__", None)
