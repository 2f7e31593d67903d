"""A PostgreSQL whose roles and databases a test may make as it likes."""

from collections.abc import Iterator

import pytest

from tests.caching.servers import PostgresServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()
