"""A worker on a host of its own answers `/metrics` for its processes."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import requests
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from tests.audit.receipts import committed, receipt, wait_for
from tests.factories import Account
from tests.processes import run_worker
from tests.test_settings import DEVELOPMENT, mentioned, refused
from webapp.observability.side_port import start
from webapp.stack.servers import free_port

REASON = 'incident;ticket="INC-1"'
COMMITTED = "sightline_audit_committed_total"


@pytest.fixture
def url(environment: dict[str, str], app: Flask, tmp_path: Path) -> Iterator[str]:
    assert app
    port, directory = free_port(), tmp_path / "metrics"
    directory.mkdir()
    own = {"METRICS_PORT": str(port), "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    with run_worker({**environment, **own}, tmp_path / "worker.log"):
        yield f"http://127.0.0.1:{port}"


def value(url: str, name: str) -> float:
    answer = requests.get(f"{url}/metrics", timeout=60)
    assert answer.status_code == 200
    samples = (
        sample
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name
    )
    return sum(sample.value for sample in samples)


@contextmanager
def closing_server(app: Flask) -> Iterator[str]:
    server = start(app, 0)
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_worker_counts_what_its_processes_commit(app: Flask, url: str, owner: Account) -> None:
    answer = app.test_client().get("/admin/api/rules", headers=owner.headers("global", REASON))
    committed(app, *receipt(answer))
    wait_for(lambda: value(url, COMMITTED) >= 1)  # the worker counts after its commit
    assert requests.get(f"{url}/healthz", timeout=60).json() == {"status": "ok"}


def test_port_of_metrics_answers_nothing_else(app: Flask) -> None:
    with closing_server(app) as url:
        assert requests.get(f"{url}/metrics", timeout=60).status_code == 200
        assert requests.get(f"{url}/admin/api/rules", timeout=60).status_code == 404
        assert requests.get(f"{url}/docs", timeout=60).status_code == 404


def test_silent_client_of_the_port_holds_nobody_up(app: Flask) -> None:
    with closing_server(app) as url:
        host, port = url.removeprefix("http://").split(":")
        with closing(socket.create_connection((host, int(port)))):
            assert requests.get(f"{url}/metrics", timeout=60).status_code == 200


@pytest.mark.parametrize("port", ["0", "65536", "a", "-1", "8000.5"])
def test_port_that_is_none_is_refused(port: str) -> None:
    wrong = {"METRICS_PORT": port, "PROMETHEUS_MULTIPROC_DIR": "metrics"}
    assert mentioned(refused({**DEVELOPMENT, **wrong})) == {"METRICS_PORT"}


def test_port_without_a_directory_to_count_in_is_refused() -> None:
    error = refused({**DEVELOPMENT, "METRICS_PORT": "9100"})
    assert "METRICS_PORT needs PROMETHEUS_MULTIPROC_DIR" in str(error)
