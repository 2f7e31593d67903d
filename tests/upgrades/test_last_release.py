"""Web processes of the last release serve on this version's schema, beside its workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from tests.audit.receipts import PATIENCE, committed, receipt
from tests.factories import INCIDENT, Account
from tests.processes import Web, run_web
from tests.rules.calls import PATH, draft, etag, of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def web(
    last_release: Path,
    worker: None,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Web]:
    """The last release's web processes, once they are ready."""
    own = tmp_path_factory.mktemp("last_web")
    settings = {**environment, "JOURNAL_DIR": str(own / "journal"), "WEB_CONCURRENCY": "1"}
    with run_web(settings, own / "web.log", last_release) as running:
        yield running


def call(web: Web, method: str, path: str, headers: dict[str, str], **sent: Any) -> Any:
    return requests.request(method, web.url + path, headers=headers, timeout=PATIENCE, **sent)


def test_web_of_the_last_release_is_ready_and_its_accesses_are_recorded(
    app: Flask, web: Web, engineer: Account, admin: Account
) -> None:
    checks = call(web, "GET", "/readyz", {}).json()["checks"]
    assert checks["migrations"]["ok"]
    access = call(web, "GET", PATH, engineer.headers("global", INCIDENT))
    assert access.status_code == 200, access.text
    made = call(web, "POST", PATH, admin.headers(), json=draft())
    assert made.status_code == 201, made.text
    rule = made.json()
    changed = call(
        web,
        "PATCH",
        of(rule),
        admin.headers() | {"If-Match": etag(rule)},
        json={"description": "Changed by the last release."},
    )
    assert changed.status_code == 200, changed.text
    events = committed(app, *receipt(access), *receipt(made), *receipt(changed))
    assert [event["surface"] for event in events] == [
        "admin.rules.list",
        "admin.rules.create",
        "admin.rules.update",
    ]
