"""The page at /docs, and the files that it needs."""

import re

import pytest
from flask.testing import FlaskClient

from webapp.http.openapi.page import ASSETS, PAGE, STATIC


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_page_allows_nothing_from_elsewhere(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.mimetype == "text/html"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "//" not in PAGE


def test_all_that_the_page_asks_for_is_here(client: FlaskClient) -> None:
    paths = re.findall(r'(?:src|href)="([^"]+)"', PAGE)
    assert paths
    for path in [*paths, "/docs/contract.md"]:
        with client.get(path) as response:
            assert response.status_code == 200
            assert path.endswith(".js") == (response.mimetype == "text/javascript")


def test_page_has_no_script_or_style_of_its_own(client: FlaskClient) -> None:
    """The Content-Security-Policy would not let it run."""
    assert re.findall(r"<script>|<style|style=|\son\w+=", PAGE) == []


@pytest.mark.parametrize("name", ["index.html", "page.html", "..%2f__init__.py", "roadmap.md", "x"])
def test_no_other_file_is_served(client: FlaskClient, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404


def test_every_file_that_is_served_is_there() -> None:
    assert [name for name, folder in ASSETS.items() if not (folder / name).is_file()] == []
    assert {path.name for path in STATIC.iterdir()} - {"page.html"} <= ASSETS.keys()
