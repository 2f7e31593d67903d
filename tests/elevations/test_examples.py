"""The examples of docs/elevations.md, run against the product: the guarded view and the client."""

import re
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from guarded_app import create_app
from sightline_client import Reason, Refused, Sightline, Unavailable
from werkzeug.test import TestResponse

from tests.audit.receipts import committed, excluded_by, wait_for
from tests.elevations.calls import answered, question
from tests.elevations.test_idempotency import accesses_of, keys_of
from tests.factories import Account, add_account, tenant_named
from tests.processes import ROOT, Web
from tests.rules.calls import add_rule

SHOPS = ("shop.invoices.list", "shop.invoices.all")
TIMEOUT = 180
NO_PAUSE = 0.01

Proxy = Callable[[Sequence[str]], str]
"""Start a proxy to Sightline and return its URL.

Each treatment is for one request, in order; further requests are passed on unchanged.
"""


@pytest.fixture
def shop(web: Web, service: Account) -> FlaskClient:
    return create_app(Sightline(web.url, service.token)).test_client()


def visit(shop: FlaskClient, path: str, who: Account, **query: str) -> TestResponse:
    return shop.get(path, query_string=query, headers={"X-Signed-In": who.email})


def test_guarded_view_runs_after_its_access_is_recorded(
    app: Flask, shop: FlaskClient, engineer: Account, service: Account
) -> None:
    tenant_named(app, "acme")
    shown = visit(shop, "/invoices/acme", engineer, reason="support_case", ticket="T-1")
    assert (shown.status_code, shown.get_json()["invoices"]) == (200, ["A-1", "A-2"])
    (event,) = committed(app, UUID(shown.get_json()["receipt"]))
    assert event["actor"]["id"] == str(engineer.id)
    assert (event["via"]["email"], event["via"]["token_id"]) == (
        service.email,
        str(service.token_id),
    )
    assert (event["surface"], event["outcome"]) == ("shop.invoices.list", "served")
    assert event["reason"] == {"code": "support_case", "ticket": "T-1", "note": None}
    assert (event["scope"]["tenant"], event["request"]["ip"]) == ("acme", "127.0.0.1")


def test_guarded_view_does_not_run_for_a_denied_person(
    app: Flask, worker: None, shop: FlaskClient, admin: Account
) -> None:
    tenant_named(app, "acme")
    refused = visit(shop, "/invoices/acme", admin, reason="incident")
    assert refused.status_code == 403
    assert refused.get_json()["error"].startswith("No rule of the platform lets admin use")
    assert b"A-1" not in refused.data
    wait_for(lambda: len(accesses_of(app, admin)) == 1)
    (event,) = committed(app, *accesses_of(app, admin))
    assert event["decision"]["effect"] == "denied"


def test_guarded_view_of_all_tenants_leaves_out_excluded_ones(
    app: Flask, shop: FlaskClient, engineer: Account
) -> None:
    for slug in ("acme", "globex", "initech"):
        tenant_named(app, slug)
    says_no = add_account(app, member_of={"globex": "admin"})
    add_rule(app.test_client(), says_no.headers(), f"no {says_no.id}", surfaces=[SHOPS[1]])
    shown = visit(shop, "/invoices", engineer, reason="incident").get_json()
    assert set(shown["invoices"]) == {"acme", "initech"}
    (event,) = committed(app, UUID(shown["receipt"]))
    assert len(excluded_by(app, event)) == shown["left_out"] >= 1


def test_guarded_view_without_a_valid_reason_is_refused(
    shop: FlaskClient, engineer: Account
) -> None:
    assert visit(shop, "/invoices/acme", engineer).status_code == 400
    assert visit(shop, "/invoices/acme", engineer, reason="because").status_code == 400
    assert shop.get("/invoices/acme?reason=incident").status_code == 401


def test_guarded_view_answers_503_while_sightline_is_unreachable(
    service: Account, engineer: Account
) -> None:
    nowhere = Sightline("http://127.0.0.1:1", service.token, attempts=2, pause=NO_PAUSE)
    shown = visit(create_app(nowhere).test_client(), "/invoices/acme", engineer, reason="incident")
    assert shown.status_code == 503
    assert b"A-1" not in shown.data


@pytest.fixture
def proxy(web: Web) -> Iterator[Proxy]:
    servers: list[ThreadingHTTPServer] = []

    def start(treatments: Sequence[str]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(web.url, list(treatments)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _handler(url: str, treatments: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            treatment = treatments.pop(0) if treatments else "well"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if treatment == "refused":
                return
            if treatment == "busy":
                self.send_response(503)
                self.send_header("Retry-After", "0")
                self.end_headers()
                return
            sent = {name: value for name, value in self.headers.items() if name != "Host"}
            answer = requests.post(url + self.path, data=body, headers=sent, timeout=TIMEOUT)
            if treatment == "lost":
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    return Handler


@pytest.mark.parametrize(
    "treatments", [["refused"], ["busy"], ["lost"], ["lost", "busy", "lost"]], ids="-".join
)
def test_client_that_retries_makes_one_access(
    app: Flask, proxy: Proxy, service: Account, engineer: Account, treatments: list[str]
) -> None:
    sightline = Sightline(proxy(treatments), service.token, pause=NO_PAUSE)
    answer = sightline.ask(engineer.email, SHOPS[0], tenant=None, reason=Reason("incident"))
    assert answer.allowed
    assert answer.receipt is not None
    committed(app, UUID(answer.receipt))
    assert accesses_of(app, engineer) == {UUID(answer.receipt)}
    assert len(keys_of(app, service.id)) == 1


def test_client_gives_up_after_its_attempts(
    proxy: Proxy, service: Account, engineer: Account
) -> None:
    sightline = Sightline(proxy(["busy", "lost"]), service.token, attempts=2, pause=NO_PAUSE)
    with pytest.raises(Unavailable):
        sightline.ask(engineer.email, SHOPS[0], tenant=None, reason=Reason("incident"))


def test_client_uses_the_key_that_it_is_given(
    web: Web, service: Account, engineer: Account
) -> None:
    sightline, why = Sightline(web.url, service.token), Reason("fraud", note="\N{SNOWMAN}")
    first, again = (
        sightline.ask(engineer.email, SHOPS[0], tenant=None, reason=why, key="once")
        for _ in range(2)
    )
    assert first == again
    with pytest.raises(Refused) as refused:
        sightline.ask(engineer.email, SHOPS[1], tenant=None, reason=why, key="once")
    assert (refused.value.status, refused.value.code) == (422, "invalid")


def test_client_raises_the_error_code_for_a_refused_token(web: Web, engineer: Account) -> None:
    for token, code in ((engineer.token, "forbidden"), ("slt_nobodys", "unauthenticated")):
        with pytest.raises(Refused) as refused:
            Sightline(web.url, token).ask(
                engineer.email, SHOPS[0], tenant=None, reason=Reason("incident")
            )
        assert refused.value.code == code


def test_client_doubles_its_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("sightline_client.sleep", slept.append)
    with pytest.raises(Unavailable):
        Sightline("http://127.0.0.1:1", "slt_x").ask(
            "jo@example.org", SHOPS[0], tenant=None, reason=Reason("incident")
        )
    assert slept == [0.2, 0.4, 0.8]


def test_every_field_of_an_answer_is_in_the_document(
    app: Flask, client: FlaskClient, service: Account, engineer: Account
) -> None:
    document = (ROOT / "docs" / "elevations.md").read_text()
    answer = answered(client, service, question(engineer.email, tenant_named(app, "acme")))
    assert [name for name in answer if f"| `{name}` |" not in document] == []


def test_guarded_view_of_the_example_is_the_one_in_the_document() -> None:
    document = (ROOT / "docs" / "elevations.md").read_text()
    (shown,) = re.findall(r"^```python\n(.*?)^```", document, re.M | re.S)
    assert textwrap.indent(shown, "    ") in (ROOT / "docs/examples/guarded_app.py").read_text()
