"""Request ids, log lines, redaction, metrics and health of a small application."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import structlog
from celery import Celery
from flask import Flask, Response
from flask.testing import FlaskClient

from webapp import observability
from webapp.db.scopes import TenantScope
from webapp.extensions import db
from webapp.http import errors
from webapp.http.state import current_state
from webapp.observability import health
from webapp.observability.health import PROBES
from webapp.observability.metrics import REQUESTS
from webapp.observability.probes import CheckFailed, Probe, ProbeResult, run_probes
from webapp.observability.redaction import redact, scrub
from webapp.settings import Environment, Settings

TOKEN = "slt_Zm9vYmFyYmF6cXV4"  # noqa: S105 - a made-up one
SECRET = "hunter2hunter2"  # noqa: S105 - a made-up one
PRINCIPAL = UUID("01900000-0000-7000-8000-000000000001")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _app(env: Environment = "qa", port: int = 1) -> Flask:
    app = Flask("observed")
    app.extensions["settings"] = Settings(
        env=env,
        home=Path(),
        secret_key=SECRET,
        journal_signing_key=SECRET,
        database_url=f"postgresql+psycopg2://app:{SECRET}@127.0.0.1:{port}/sightline",
        database_owner_url=None,
        database_timeout=5.0,
        rate_limit_address=0,
        rate_limit_failures=0,
        rate_limit_principal=0,
        rate_limit_tenant=0,
        rate_limit_denied=0,
        redis_url=f"redis://:{SECRET}@127.0.0.1:{port}/0",
        celery_broker_url=f"redis://:{SECRET}@127.0.0.1:{port}/0",
        journal_dir=Path(),
        journal_max_mb=1,
        journal_keep=0,
        checkpoint_dir=Path(),
        audit_timeout=2,
        cache_ttl=300,
        cache_timeout=0.25,
    )
    observability.init_app(app)
    errors.init_app(app)
    db.init_app(app)
    app.register_blueprint(health.blueprint)
    broker = app.extensions["settings"].celery_broker_url
    app.extensions["celery"] = Celery("observed", broker=broker)

    @app.get("/admin/api/things/<int:number>")
    def _thing(number: int) -> Response:
        state = current_state()
        state.principal = SimpleNamespace(id=PRINCIPAL)
        state.surface = SimpleNamespace(name="things.list")
        state.surface_scope = TenantScope(PRINCIPAL)
        return Response("thing")

    @app.get("/fails")
    def _fails() -> Response:
        raise ValueError(f"cannot reach postgresql://app:{SECRET}@db with {TOKEN}")

    return app


@pytest.fixture
def client() -> FlaskClient:
    return _app().test_client()


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


class TestRequestId:
    @pytest.mark.parametrize("given", [None, "", "mine", "a b", "x" * 999, "é", "a\x1b[31m", TOKEN])
    def test_request_id_is_always_ours(
        self, client: FlaskClient, capsys: pytest.CaptureFixture[str], given: str | None
    ) -> None:
        headers = {} if given is None else {"X-Request-ID": given}
        first, second = (client.get("/nowhere", headers=headers) for _ in range(2))
        ids = [answer.headers["X-Request-ID"] for answer in (first, second)]
        assert [UUID(request_id).version for request_id in ids] == [7, 7]
        assert ids[0] != ids[1]
        assert first.get_json(force=True)["request_id"] == ids[0]
        for line, request_id in zip(_lines(capsys), ids, strict=True):
            assert line["request_id"] == request_id

    @pytest.mark.parametrize(
        ("given", "noted"),
        [
            ("a-B_1.2", "a-B_1.2"),
            ("a b", "a%20b"),
            ("a\x1b[31m", "a%1B%5B31m"),
            ("é", "%E9"),
            ("x" * 999, "x" * 128),
            (TOKEN, "slt_***"),
            (f"x{TOKEN}", "xslt_***"),
        ],
    )
    def test_request_id_of_the_client_stands_beside_ours(
        self, client: FlaskClient, capsys: pytest.CaptureFixture[str], given: str, noted: str
    ) -> None:
        client.get("/nowhere", headers={"X-Request-ID": given})
        [line] = _lines(capsys)
        assert line["x_request_id"] == noted

    def test_request_id_reaches_a_response_that_was_replaced_last(
        self, client: FlaskClient
    ) -> None:
        @client.application.after_request
        def _replace(_: Response) -> Response:
            return errors.problem(errors.AuditUnavailable())

        response = client.get("/healthz")
        assert response.status_code == 503
        assert response.get_json(force=True)["request_id"] == response.headers["X-Request-ID"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"


class TestHeaders:
    def test_every_answer_has_the_common_headers(self, client: FlaskClient) -> None:
        for path in ("/healthz", "/nowhere", "/fails"):
            headers = client.get(path).headers
            assert headers["X-Content-Type-Options"] == "nosniff"

    def test_public_answers_and_problems_are_not_stored(self, client: FlaskClient) -> None:
        for path in ("/healthz", "/nowhere", "/fails"):
            assert client.get(path).headers["Cache-Control"] == "no-store"


class TestRequestLine:
    def test_request_line_has_the_fields_of_its_request(
        self, client: FlaskClient, capsys: pytest.CaptureFixture[str]
    ) -> None:
        client.get(
            f"/admin/api/things/7?token={TOKEN}&q=private",
            headers={"X-Request-ID": "mine", "Authorization": f"Bearer {TOKEN}"},
        )
        [line] = _lines(capsys)
        assert UUID(line.pop("request_id")).version == 7
        assert line.pop("duration_ms") >= 0
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "event": "request",
            "level": "info",
            "method": "GET",
            "route": "/admin/api/things/<int:number>",
            "status": 200,
            "x_request_id": "mine",
            "principal": str(PRINCIPAL),
            "scope": "tenant",
            "surface": "things.list",
        }

    def test_request_line_in_development_is_readable(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        client = _app("development").test_client()
        client.get("/admin/api/things/7")
        line = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
        assert "route=/admin/api/things/<int:number>" in line

    def test_closed_log_fails_no_request(
        self, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        with (tmp_path / "log").open("w") as closed:
            monkeypatch.setattr(sys, "stderr", closed)
            assert client.get("/healthz").status_code == 200


class TestLogs:
    def test_failure_is_logged_without_secrets(
        self, client: FlaskClient, capsys: pytest.CaptureFixture[str]
    ) -> None:
        client.get("/fails", headers={"X-Request-ID": "mine"})
        failure, request = _lines(capsys)
        assert failure["event"] == "unexpected_error"
        assert failure["request_id"] == request["request_id"]
        assert request["x_request_id"] == "mine"
        assert (
            "ValueError: cannot reach postgresql://app:***@db with slt_***"
            in (failure["exception"])
        )

    @pytest.mark.parametrize("name", ["celery.worker", "gunicorn.error", "sqlalchemy.pool"])
    def test_lines_of_libraries_have_the_same_form(
        self, client: FlaskClient, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        logging.getLogger(name).warning("broker %s", f"redis://:{SECRET}@host/0")
        [line] = _lines(capsys)
        assert line["event"] == "broker redis://:***@host/0"
        assert (line["logger"], line["level"]) == (name, "warning")

    def test_event_is_logged_once_with_a_second_application(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _app()
        _app()
        logging.getLogger("celery").warning("once\nonly")
        [line] = _lines(capsys)
        assert line["event"] == "once\nonly"

    def test_values_that_json_cannot_hold_are_logged(
        self, client: FlaskClient, capsys: pytest.CaptureFixture[str]
    ) -> None:
        structlog.get_logger().info("odd", big=2**80, text="\ud800", thing=object, at={1: (2,)})
        [line] = _lines(capsys)
        assert (line["big"], line["text"], line["at"]) == (2**80, "\ud800", {"1": [2]})

    def test_celery_does_not_replace_logging(self, capsys: pytest.CaptureFixture[str]) -> None:
        app = _app()
        app.extensions["celery"].log.setup(loglevel=logging.ERROR)
        logging.getLogger("celery.task").warning("dropped")
        logging.getLogger("celery.task").error("kept")
        assert [line["event"] for line in _lines(capsys)] == ["kept"]


class TestRedaction:
    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            (f"token {TOKEN}, said he", "token slt_***, said he"),
            ("Authorization: Bearer abcdefghij", "Authorization: Bearer ***"),
            ("redis://:p@ss:word@h:1/0", "redis://:***@h:1/0"),
            ("postgresql://u:pw@h and amqp://v:pw@h", "postgresql://u:***@h and amqp://v:***@h"),
            ("amqp://guest@h/ is fine", "amqp://guest@h/ is fine"),
            ("host=db password=pw user=u", "host=db password=*** user=u"),
            ("{'api_key': 'k', 'n': 1}", "{'api_key': ***, 'n': 1}"),
            ("Cookie: session=abc; other=def", "Cookie: ***"),
            ("/log?access_token=abc&x=1", "/log?access_token=***&x=1"),
            ("(Error) x\n[SQL: select 1]\n[parameters: {'a': 'b'}]\n(Background", None),
            ("password authentication failed for user", "password authentication failed for user"),
            ("https://host:8000/a@b", "https://host:8000/a@b"),
        ],
    )
    def test_secrets_in_text_are_masked(self, text: str, kept: str | None) -> None:
        expected = kept or text.replace("{'a': 'b'}", "***")
        assert scrub(text) == expected

    def test_values_of_secret_names_are_masked_at_any_depth(self) -> None:
        event = {
            "secret_key": SECRET,
            "token_id": "kept",
            "tokens": [SECRET],
            "password": None,
            "request": {"headers": [("Authorization", SECRET), ("Accept", "kept")]},
            "list": [{"Set-Cookie": SECRET, "deep": {"apiToken": SECRET}}, b"slt_abc"],
            "error": ValueError(f"redis://:{SECRET}@h"),
            "id": PRINCIPAL,
        }
        clean = redact(event)
        assert SECRET not in str(clean)
        assert clean["token_id"] == "kept"  # noqa: S105 - an id
        assert clean["password"] is None
        assert clean["request"] == {"headers": [["Authorization", "***"], ["Accept", "kept"]]}
        assert clean["list"][1] == "b'slt_***'"
        assert clean["id"] == PRINCIPAL

    def test_recursive_value_is_masked_at_a_depth(self) -> None:
        loop: dict[str, Any] = {}
        loop["loop"] = loop
        assert "***" in str(redact(loop))


class TestMetrics:
    def _count(self, method: str, route: str, status: str) -> float:
        return float(REQUESTS.labels(method, route, status)._value.get())

    def test_requests_are_counted_by_route(self, client: FlaskClient) -> None:
        before = self._count("GET", "/admin/api/things/<int:number>", "200")
        for number in range(3):
            client.get(f"/admin/api/things/{number}")
        assert self._count("GET", "/admin/api/things/<int:number>", "200") == before + 3

    def test_unknown_methods_share_one_label(self, client: FlaskClient) -> None:
        before = self._count("other", "unmatched", "404")
        client.open("/no/such/place", method="BREW")
        client.open("/other/place", method="STEEP")
        assert self._count("other", "unmatched", "404") == before + 2

    def test_metrics_are_exposed(self) -> None:
        client = _app("development").test_client()
        client.get("/healthz")
        response = client.get("/metrics")
        assert response.content_type.startswith("text/plain")
        for part in (
            'sightline_http_requests_total{method="GET",route="/healthz",status="200"}',
            'sightline_http_request_seconds_bucket{le="0.005",route="/healthz"}',
        ):
            assert part in response.text

    @pytest.mark.slow
    def test_metrics_of_all_processes_are_added_up(self, tmp_path: Path) -> None:
        script = (
            "from flask import Flask\n"
            "from webapp.observability import metrics\n"
            "metrics.count_request('GET', '/a', 200, 0.1)\n"
            "with Flask('x').test_request_context():\n"
            "    print(metrics.expose().get_data(as_text=True))\n"
        )
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        for process in (1, 2):
            shown = subprocess.run(
                [sys.executable, "-c", script],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            labels = 'method="GET",route="/a",status="200"'
            assert f"sightline_http_requests_total{{{labels}}} {process}.0" in shown


class TestHealth:
    def test_healthz_answers_ok(self, client: FlaskClient) -> None:
        response = client.get("/healthz")
        assert (response.status_code, response.get_json()) == (200, {"status": "ok"})

    def test_readyz_of_ready_process_answers_ok(self, client: FlaskClient) -> None:
        client.application.extensions[PROBES] = {"database": Probe("database", lambda: None)}
        response = client.get("/readyz")
        assert response.status_code == 200
        assert response.get_json() == {
            "status": "ok",
            "checks": {"database": {"ok": True, "detail": "ok"}},
        }

    def test_readyz_without_what_may_be_away_is_degraded(self, client: FlaskClient) -> None:
        def fail() -> None:
            raise CheckFailed("away")

        client.application.extensions[PROBES] = {
            "database": Probe("database", lambda: None),
            "cache": Probe("cache", fail, essential=False),
        }
        response = client.get("/readyz")
        assert (response.status_code, response.get_json()["status"]) == (200, "degraded")

    def test_readyz_without_dependencies_is_unavailable(self, client: FlaskClient) -> None:
        """Port 1 refuses connections."""
        response = client.get("/readyz")
        assert response.status_code == 503
        body = response.get_json()
        assert body["status"] == "unavailable"
        assert set(body["checks"]) == {
            *("database", "migrations", "cache", "broker", "worker", "beat")
        }
        assert not any(check["ok"] for check in body["checks"].values())
        self._assert_discreet(response.text)

    def test_readyz_answers_while_dependencies_hang(self, silent: int) -> None:
        """The proof is that the request ends: no dependency ever answers."""
        response = _app(port=silent).test_client().get("/readyz")
        assert response.status_code == 503
        checks = response.get_json()["checks"]
        assert checks["database"]["detail"] == "no answer within 1 s"
        assert not any(check["ok"] for check in checks.values())
        self._assert_discreet(response.text)

    @staticmethod
    def _assert_discreet(text: str) -> None:
        for part in (SECRET, "127.0.0.1", "refused", "Traceback", "app"):
            assert part not in text

    def test_hanging_check_is_not_started_again(self) -> None:
        release, started = Event(), []

        def check() -> None:
            started.append(1)
            assert release.wait(60)

        probe = Probe("slow", check)
        for _ in range(5):
            assert run_probes({"slow": probe}, limit=0.01)["slow"].ok is False
        assert len(started) == 1
        hanging = probe.start()
        release.set()
        assert hanging.result(60) == ProbeResult(True, "ok")
        probe.start().result(60)
        assert len(started) == 2

    def test_check_that_takes_long_counts_by_its_last_answer(self) -> None:
        answered, slow = Event(), Event()

        def check() -> str:
            if answered.is_set():
                assert slow.wait(60)
            return "seen"

        probes = {"database": Probe("database", check)}
        assert run_probes(probes, 60) == {"database": ProbeResult(True, "seen")}
        answered.set()
        found = run_probes(probes, 0.01)["database"]
        assert found.ok
        assert re.fullmatch(r"seen \d+ s ago; no answer within 0.01 s", found.detail)
        slow.set()
        assert run_probes(probes, 60) == {"database": ProbeResult(True, "seen")}

    def test_check_that_hangs_counts_by_no_old_answer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered, slow = Event(), Event()

        def check() -> None:
            if answered.is_set():
                assert slow.wait(60)

        probes = {"database": Probe("database", check)}
        assert run_probes(probes, 60)["database"].ok
        answered.set()
        monkeypatch.setattr("webapp.observability.probes.RECENT", 0)
        hanging = ProbeResult(False, "no answer within 0.01 s")
        assert run_probes(probes, 0.01) == {"database": hanging}
        slow.set()

    def test_check_that_hangs_does_not_count_by_a_bad_answer(self) -> None:
        answered, slow = Event(), Event()

        def check() -> None:
            if answered.is_set():
                assert slow.wait(60)
            raise CheckFailed("away")

        probes = {"database": Probe("database", check)}
        assert run_probes(probes, 60) == {"database": ProbeResult(False, "away")}
        answered.set()
        hanging = ProbeResult(False, "no answer within 0.01 s")
        assert run_probes(probes, 0.01) == {"database": hanging}
        slow.set()

    def test_failed_check_shows_its_own_words_or_its_exception_type(self) -> None:
        def behind() -> None:
            raise CheckFailed("behind")

        def broken() -> None:
            raise OSError(SECRET)

        found = run_probes(
            {"behind": Probe("behind", behind), "broken": Probe("broken", broken)}, 60
        )
        assert found == {
            "behind": ProbeResult(False, "behind"),
            "broken": ProbeResult(False, "OSError"),
        }

    def test_every_public_route_has_a_reason(self, client: FlaskClient) -> None:
        for name, view in client.application.view_functions.items():
            if name.startswith("observability."):
                assert getattr(view, "__public__", None)
