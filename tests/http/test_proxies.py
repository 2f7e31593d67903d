"""The client's address behind proxies: rules and events see it, and no client can choose it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from werkzeug import Request, Response
from werkzeug.test import Client, TestResponse

from tests.applications import application_of
from tests.audit.receipts import committed, receipt
from tests.elevations.calls import ask, question
from tests.factories import INCIDENT, Account, MadeTenant, add_account
from tests.processes import run_web
from tests.rules.calls import PATH, add_rule
from webapp.http.proxies import behind_proxies

CLIENT, OTHER = "203.0.113.7", "198.51.100.9"
INNER, OUTER, OUTER_6 = "10.1.0.1", "10.2.0.2", "fd00::2"
NETWORKS = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
FORWARDED = "X-Forwarded-For"

Proxies = int | Sequence[Any]


def seen(
    proxies: Proxies, peer: str, forwarded: str | None = None, **headers: str
) -> tuple[str, str]:
    """The address and the scheme of a request that an application behind proxies sees."""

    @Request.application
    def application(request: Request) -> Response:
        said = [request.remote_addr or "unknown", request.scheme]
        return Response(" ".join(said))

    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if forwarded is not None:
        sent[FORWARDED] = forwarded
    client = Client(behind_proxies(application, proxies))
    answer = client.get("/", headers=sent, environ_base={"REMOTE_ADDR": peer})
    address, scheme = answer.text.split(" ")
    return address, scheme


CASES: dict[str, tuple[Proxies, str, str | None, str]] = {
    "one proxy": (1, INNER, CLIENT, CLIENT),
    "one proxy, and the client wrote an address": (1, INNER, f"{OTHER}, {CLIENT}", CLIENT),
    "one proxy that adds nothing": (1, INNER, None, INNER),
    "two proxies": (2, INNER, f"{CLIENT}, {OUTER}", CLIENT),
    "two proxies, and the client wrote two": (
        *(2, INNER, f"{OTHER}, {INNER}, {CLIENT}, {OUTER}"),
        CLIENT,
    ),
    "two proxies, one passed by": (2, INNER, CLIENT, INNER),
    "one proxy that adds no address": (1, INNER, f"{CLIENT}, unknown", "unknown"),
    "one proxy that adds a port": (1, INNER, f"{CLIENT}:4711", "unknown"),
    "one proxy, IPv6": (1, OUTER_6, "2001:db8::7", "2001:db8::7"),
    "one proxy, IPv4 in IPv6": (1, OUTER_6, f"::ffff:{CLIENT}", CLIENT),
    "one proxy, a zone": (1, OUTER_6, "fe80::7%eth0", "fe80::7"),
    "networks, one proxy": (NETWORKS, INNER, CLIENT, CLIENT),
    "networks, and the client wrote an address": (
        *(NETWORKS, INNER, f"{OTHER}, {CLIENT}"),
        CLIENT,
    ),
    "networks, and the client wrote a proxy's address": (
        *(NETWORKS, INNER, f"{OTHER}, {OUTER}, {CLIENT}"),
        CLIENT,
    ),
    "networks, two proxies": (NETWORKS, INNER, f"{CLIENT}, {OUTER}", CLIENT),
    "networks, two proxies, IPv6": (NETWORKS, INNER, f"{OTHER}, {CLIENT}, {OUTER_6}", CLIENT),
    "networks, a proxy that adds nothing": (NETWORKS, INNER, None, INNER),
    "networks, a client of theirs": (NETWORKS, INNER, f"{INNER}, {OUTER}", INNER),
    "networks, a client that connects directly": (NETWORKS, OTHER, CLIENT, OTHER),
    "networks, an empty header": (NETWORKS, INNER, "", INNER),
    "networks, an empty entry": (NETWORKS, INNER, f"{CLIENT}, ,", CLIENT),
    "networks, no address beside a proxy": (
        *(NETWORKS, INNER, f"{CLIENT}, 300.1.2.3, {OUTER}"),
        "unknown",
    ),
    "networks, IPv4 in IPv6": (NETWORKS, f"::ffff:{INNER}", f"{OTHER}, {CLIENT}", CLIENT),
    "networks, no address connects": (NETWORKS, "", CLIENT, "unknown"),
}


@pytest.mark.parametrize("case", CASES)
def test_clients_address_is_what_trusted_proxies_tell(case: str) -> None:
    proxies, peer, forwarded, expected = CASES[case]
    assert seen(proxies, peer, forwarded)[0] == expected


@pytest.mark.parametrize(
    ("proxies", "peer", "scheme"),
    [(1, INNER, "https"), (NETWORKS, INNER, "https"), (NETWORKS, OTHER, "http")],
)
def test_clients_scheme_is_what_a_trusted_proxy_tells(
    proxies: Proxies, peer: str, scheme: str
) -> None:
    assert seen(proxies, peer, CLIENT, X_Forwarded_Proto="https")[1] == scheme
    # The proxy that connects adds its own at the end.
    assert seen(proxies, peer, CLIENT, X_Forwarded_Proto="https, http")[1] == "http"


@contextmanager
def client_behind(app: Flask, proxies: Proxies | None) -> Iterator[FlaskClient]:
    settings = replace(app.extensions["settings"], trusted_proxies=proxies)
    with application_of(settings) as proxied:
        yield proxied.test_client()


def access(
    client: FlaskClient, who: Account, tenant: MadeTenant, peer: str, forwarded: str
) -> TestResponse:
    headers = who.headers(f"tenant:{tenant.slug}", INCIDENT) | {FORWARDED: forwarded}
    return client.get(PATH, headers=headers, environ_base={"REMOTE_ADDR": peer})


def ips(app: Flask, *answers: TestResponse) -> list[str | None]:
    ids = [event_id for answer in answers for event_id in receipt(answer)]
    return [event["request"]["ip"] for event in committed(app, *ids)]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("proxies", [1, NETWORKS], ids=["count", "networks"])
def test_rules_and_events_see_the_clients_address(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    proxies: Proxies,
) -> None:
    closed = {"surfaces": ["admin.rules.*"], "networks": [f"{OTHER}/32", f"{INNER}/32"]}
    add_rule(client, admin.headers(), "not from there", **closed)
    with client_behind(app, proxies) as proxied:
        answers = [
            access(proxied, support, tenant, INNER, forwarded)
            for forwarded in (CLIENT, OTHER, f"{OTHER}, {CLIENT}", f"{CLIENT}, {OTHER}", "garbage")
        ]
    # An unknown address counts as inside every network that a denial names.
    assert [answer.status_code for answer in answers] == [200, 403, 200, 403, 403]
    assert ips(app, *answers) == [CLIENT, OTHER, CLIENT, OTHER, None]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("proxies", [None, 0])
def test_no_header_is_believed_without_proxies(
    app: Flask,
    client: FlaskClient,
    tenant: MadeTenant,
    admin: Account,
    support: Account,
    proxies: int | None,
) -> None:
    closed = {"surfaces": ["admin.rules.*"], "networks": [f"{CLIENT}/32"]}
    add_rule(client, admin.headers(), "not from there", **closed)
    with client_behind(app, proxies) as direct:
        answers = [
            access(direct, support, tenant, CLIENT, OTHER),
            access(direct, support, tenant, OTHER, CLIENT),
        ]
    assert [answer.status_code for answer in answers] == [403, 200]
    assert ips(app, *answers) == [CLIENT, OTHER]


@pytest.mark.usefixtures("worker")
def test_grant_is_asked_for_from_the_clients_address(
    app: Flask, client: FlaskClient, tenant: MadeTenant, admin: Account, support: Account
) -> None:
    closed = {"surfaces": ["admin.rules.*"], "networks": [f"{CLIENT}/32"]}
    add_rule(client, admin.headers(), "not from there", **closed)
    body = {
        "surfaces": ["admin.rules.list"],
        "tenants": [tenant.slug],
        "reason": {"code": "incident", "ticket": "INC-1"},
        "minutes": 10,
    }
    with client_behind(app, 1) as proxied:
        answer = proxied.post(
            "/admin/api/grants",
            headers=support.headers("global", INCIDENT) | {FORWARDED: f"{OTHER}, {CLIENT}"},
            environ_base={"REMOTE_ADDR": INNER},
            json=body,
        )
    assert (answer.status_code, answer.get_json()["code"]) == (403, "elevation_denied")


@pytest.mark.usefixtures("worker")
def test_elevation_is_from_where_the_service_says(app: Flask, support: Account) -> None:
    service = add_account(app, "service")
    body = question(support.email, None, ip="192.0.2.33")
    with client_behind(app, 1) as proxied:
        # The address of the service's own proxy is not the person's.
        proxied.environ_base |= {"REMOTE_ADDR": INNER, "HTTP_X_FORWARDED_FOR": CLIENT}
        answer = ask(proxied, service, body)
    assert answer.status_code == 200, answer.text
    (event,) = committed(app, UUID(answer.get_json()["receipt"]))
    assert event["request"]["ip"] == "192.0.2.33"


@pytest.mark.slow
def test_gunicorn_changes_no_address(
    app: Flask, worker: None, environment: dict[str, str], tmp_path: Path, support: Account
) -> None:
    """Over a socket: gunicorn itself trusts this host, and drops headers with underscores."""
    spoofed = {"X_Forwarded_For": OTHER, "X-Forwarded-Proto": "https", "Forwarded": f"for={OTHER}"}
    headers = support.headers("global", INCIDENT)
    found = []
    for proxies in ("0", "1", "127.0.0.0/8"):
        with run_web(environment | {"TRUSTED_PROXIES": proxies}, tmp_path / "web.log") as web:
            sent = headers | spoofed | {FORWARDED: f"{OTHER}, {CLIENT}"}
            answer = requests.get(f"{web.url}{PATH}", headers=sent, timeout=30)
        assert answer.status_code == 200
        (event,) = committed(app, *receipt(answer))
        found.append(event["request"]["ip"])
    assert found == ["127.0.0.1", CLIENT, CLIENT]
