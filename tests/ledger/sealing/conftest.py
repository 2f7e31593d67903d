"""A ledger of each test's own, in a database that is copied from a migrated one."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest

from tests.ledger.sealing.logs import Ledger, Server, ledger_on
from tests.stacks import copied_stack
from webapp.settings import Settings, read_settings
from webapp.stack.home import running
from webapp.stack.servers import DATABASE


@pytest.fixture(scope="module")
def log_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Servers of a module's own, whose migrated database nobody is connected to."""
    home = tmp_path_factory.mktemp("log")
    stack = copied_stack(home)
    kept = (home / "stack.secrets").read_text().splitlines()
    secrets = dict(line.split("=", 1) for line in kept)
    with running(stack):
        yield Server(stack, secrets["POSTGRES_PASSWORD"])


@pytest.fixture
def log_settings(log_server: Server, tmp_path: Path) -> Settings:
    """The settings of a worker's host."""
    environment = {"SIGHTLINE_HOME": str(tmp_path), **log_server.stack.environment}
    with mock.patch.dict(os.environ, environment):
        return read_settings()


@pytest.fixture
def ledger(log_server: Server, log_settings: Settings) -> Iterator[Ledger]:
    name = f"log_{uuid4().hex}"
    log_server.copy(DATABASE, name)
    with ledger_on(log_server, name, log_settings) as made:
        yield made
