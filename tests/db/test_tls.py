"""The database by TLS: a server that bears the name and is vouched for, and no other.

A pooler ends TLS here: the PostgreSQL that tests start was built without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from psycopg2.extensions import connection
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from tests.applications import application_of
from tests.db.poolers import PROGRAM, WHY_NOT, PgBouncer
from tests.worker.encrypted import make_certificate
from webapp.extensions import db

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason=WHY_NOT),
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    for name in ("server", "other"):
        make_certificate(directory, name, "DNS:localhost")
    return directory


@pytest.fixture(scope="module")
def encrypted(
    app: Flask, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PgBouncer]:
    """A pooler that takes only clients that use TLS."""
    url = make_url(app.extensions["settings"].database_url)
    passwords = {str(url.username): str(url.password)}
    directory = tmp_path_factory.mktemp("pooler")
    made = PgBouncer(
        directory,
        url.render_as_string(hide_password=False),
        passwords,
        2,
        certificates / "server.crt",
    )
    made.start()
    yield made
    made.stop()


@contextmanager
def reached(app: Flask, pooler: PgBouncer, host: str, options: str) -> Iterator[Flask]:
    settings = app.extensions["settings"]
    url = pooler.url(settings.database_url).replace("@127.0.0.1:", f"@{host}:")
    with (
        application_of(replace(settings, database_url=f"{url}?{options}")) as made,
        made.app_context(),
    ):
        yield made


def test_server_that_is_vouched_for_is_used(
    app: Flask, encrypted: PgBouncer, certificates: Path
) -> None:
    verified = f"sslmode=verify-full&sslrootcert={certificates}/server.crt"
    with reached(app, encrypted, "localhost", verified) as made:
        with db.engine.connect() as connected:
            driver = connected.connection.driver_connection
            assert isinstance(driver, connection)
            assert driver.info.ssl_in_use
        assert made.test_client().get("/readyz").get_json()["checks"]["database"]["ok"]


@pytest.mark.parametrize(
    ("host", "authority", "problem"),
    [
        ("127.0.0.1", "server.crt", "server certificate for .* does not match host name"),
        ("localhost", "other.crt", "certificate verify failed"),
    ],
    ids=["another name", "another authority"],
)
def test_server_that_is_not_vouched_for_gets_no_password(
    app: Flask, encrypted: PgBouncer, certificates: Path, host: str, authority: str, problem: str
) -> None:
    verified = f"sslmode=verify-full&sslrootcert={certificates / authority}"
    with (
        reached(app, encrypted, host, verified),
        pytest.raises(OperationalError, match=problem),
    ):
        db.reach()


def test_clear_text_is_refused_by_a_server_that_wants_tls(app: Flask, encrypted: PgBouncer) -> None:
    with (
        reached(app, encrypted, "localhost", "sslmode=disable"),
        pytest.raises(OperationalError, match="SSL required"),
    ):
        db.reach()
