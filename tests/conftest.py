"""The product on servers of its own: migrated once a run, and copied for each worker's tests."""

import gc
import os
import secrets
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings

from tests import runs
from tests.applications import application
from tests.caching.servers import PostgresServer
from tests.factories import Account, MadeTenant, add_account, add_tenant
from tests.processes import Web, no_settings_of_the_caller, run_web, run_worker
from tests.stacks import TEMPLATE, copied_stack
from tests.turns import taken
from webapp.stack.home import Stack, running

Run = Callable[..., Result]

HASH_SEED = "PYTHONHASHSEED"

SLOW = 3
"""Seconds that a slow test takes which does not say otherwise."""


# No test fails because the machine is slow.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Make all workers iterate over sets in the same order: they must collect the same tests."""
    if _is_worker(config):
        os.environ.pop(HASH_SEED, None)  # processes that a worker starts have a seed of their own
        return
    runs.begin()
    if config.getoption("dist", "no") != "no":
        os.environ.setdefault(HASH_SEED, str(secrets.randbelow(2**32)))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not _is_worker(config):
        runs.end()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_xdist_auto_num_workers() -> int:
    """Start two workers for each core: tests wait for processes and disks half of the time."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker ends with them alone."""
    seconds: Counter[Path] = Counter()
    for item in items:
        if slow := item.get_closest_marker("slow"):
            seconds[item.path] += slow.kwargs.get("seconds", SLOW)
    items.sort(key=lambda item: -seconds[item.path])


def pytest_collection_finish() -> None:
    """Search no more for garbage in what is there by now, which took a twentieth of a run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give a worker and its processes a temporary directory, in which nothing may be left."""
    directory = tmp_path_factory.mktemp("temporary")
    with (
        mock.patch.dict(os.environ, TMPDIR=str(directory)),
        mock.patch.object(tempfile, "tempdir", str(directory)),
    ):
        yield
    assert list(directory.iterdir()) == []


@pytest.fixture(scope="session", autouse=True)
def _template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Name the template's home, which all workers of a run share."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with mock.patch.dict(os.environ, {TEMPLATE: str(shared / "template")}):
        yield


@pytest.fixture(autouse=True)
def _turn(request: pytest.FixtureRequest, _template: None) -> Iterator[None]:
    """Run a `serial` test alone, and all others side by side."""
    alone = request.node.get_closest_marker("serial") is not None
    with taken(Path(os.environ[TEMPLATE]).with_name("turns"), alone=alone):
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_caller() -> Iterator[None]:
    with no_settings_of_the_caller():
        yield


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Heed interrupts even in a run that was started in the background, where they are ignored: its
    processes would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead a process of the product to this run's servers."""
    home = tmp_path_factory.mktemp("home")
    stack = copied_stack(home)
    with running(stack):
        yield {"SIGHTLINE_HOME": str(home), **stack.environment}


@pytest.fixture(scope="session")
def app(environment: dict[str, str]) -> Iterator[Flask]:
    with application(environment) as app:
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="session")
def worker_log(
    app: Flask, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What a real Celery worker logs."""
    assert app
    log: Path = tmp_path_factory.mktemp("worker") / "worker.log"
    with run_worker(environment, log):
        yield log


@pytest.fixture(scope="session")
def worker(worker_log: Path) -> None:
    """A real Celery worker."""


@pytest.fixture(scope="session")
def web(
    worker: None, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """A real gunicorn, with the worker beside it."""
    log: Path = tmp_path_factory.mktemp("web") / "web.log"
    with run_web(environment, log) as running_web:
        yield running_web


@pytest.fixture
def tenant(app: Flask) -> MadeTenant:
    return add_tenant(app)


@pytest.fixture
def admin(app: Flask, tenant: MadeTenant) -> Account:
    return add_account(app, member_of={tenant.slug: "admin"})


@pytest.fixture
def outsider(app: Flask) -> Account:
    """The admin of another tenant."""
    return add_account(app, member_of={add_tenant(app).slug: "admin"})


@pytest.fixture
def owner(app: Flask) -> Account:
    return add_account(app, "owner")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL on which a test may make any roles and databases."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture
def engineer(app: Flask) -> Account:
    return add_account(app, "engineer")


@pytest.fixture
def support(app: Flask) -> Account:
    return add_account(app, "support")


@pytest.fixture
def run(app: Flask) -> Run:
    """Run a `flask` command."""

    def command(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(args=arguments)

    return command


@pytest.fixture(scope="module")
def filled_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers of one module's own, which fills them with many rows."""
    stack = copied_stack(tmp_path_factory.mktemp("filled"))
    with running(stack):
        yield stack


@pytest.fixture(scope="module")
def filled_app(filled_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    home = str(tmp_path_factory.mktemp("journals"))
    with application({"SIGHTLINE_HOME": home, **filled_stack.environment}) as app:
        yield app
