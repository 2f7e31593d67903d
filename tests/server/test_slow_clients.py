"""Clients that send or read slowly: nobody else waits for them, and they do not stay for ever."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from flask import Flask

from tests.factories import Account
from tests.http.wire import parse, problem
from tests.processes import Web, run_web
from tests.rules.calls import draft
from tests.server.clients import HEAD, PATIENCE, connect, ended, holding, read_all
from webapp.server.waiting import ADDRESS_MAX, HELD_MAX

pytestmark = pytest.mark.slow(seconds=2)

ASSET = b"/docs/swagger-ui-bundle.js"
SIXTEEN, TWO_HUNDRED = 16, 200
"""Twice the threads of a web process, and far more."""


@pytest.fixture(scope="module")
def web(
    app: Flask, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """One web process, which all clients of a test share."""
    log = tmp_path_factory.mktemp("slow") / "web.log"
    with run_web({**environment, "WEB_CONCURRENCY": "1"}, log) as web:
        yield web


def post(admin: Account, rest: bytes) -> bytes:
    token = admin.token.encode()
    line = b"POST /admin/api/rules HTTP/1.1\r\nHost: sightline.example\r\n"
    return line + b"Content-Type: application/json\r\nAuthorization: Bearer " + token + rest


def others_are_answered(web: Web, admin: Account) -> None:
    for _ in range(4):
        assert requests.get(f"{web.url}/healthz", timeout=PATIENCE).status_code == 200
    rules = requests.get(f"{web.url}/admin/api/rules", headers=admin.headers(), timeout=PATIENCE)
    assert rules.status_code == 200


SLOW: dict[str, bytes] = {
    "no byte": b"",
    "one byte": b"G",
    "half a head": HEAD,
    "half a body": HEAD + b"Content-Length: 300\r\n\r\n{",
    "half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
}


@pytest.mark.parametrize("count", [SIXTEEN, TWO_HUNDRED])
@pytest.mark.parametrize("sent", SLOW)
def test_half_requests_make_nobody_wait(web: Web, admin: Account, sent: str, count: int) -> None:
    with holding(web.url, count, SLOW[sent]) as clients:
        others_are_answered(web, admin)
        assert ended(clients) == []


@pytest.mark.parametrize("count", [SIXTEEN, TWO_HUNDRED])
def test_half_bodies_of_known_people_make_nobody_wait(web: Web, admin: Account, count: int) -> None:
    with holding(web.url, count, post(admin, b"\r\nContent-Length: 300\r\n\r\n{")) as clients:
        others_are_answered(web, admin)
        assert ended(clients) == []


@pytest.mark.parametrize("count", [SIXTEEN, TWO_HUNDRED])
def test_idle_kept_connections_make_nobody_wait(web: Web, admin: Account, count: int) -> None:
    with holding(web.url, count, HEAD + b"\r\n") as clients:
        for client in clients:
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        others_are_answered(web, admin)


@pytest.mark.parametrize("count", [SIXTEEN, TWO_HUNDRED])
def test_clients_that_do_not_read_make_nobody_wait(web: Web, admin: Account, count: int) -> None:
    """Each asks for more than the buffers of the kernel hold, and reads none of it."""
    asked = (b"GET " + ASSET + b" HTTP/1.1\r\nHost: sightline.example\r\n\r\n") * 8
    clients = [connect(web.url, receive_buffer=4096) for _ in range(count)]
    for client in clients:
        client.sendall(asked)
    others_are_answered(web, admin)
    for client in clients:
        client.close()


def test_client_that_reads_slowly_gets_all_of_its_answer(web: Web) -> None:
    whole = requests.get(web.url + ASSET.decode(), timeout=PATIENCE).content
    with connect(web.url, receive_buffer=4096) as client:
        client.sendall(
            b"GET " + ASSET + b" HTTP/1.1\r\nHost: sightline.example\r\nConnection: close\r\n\r\n"
        )
        assert parse(read_all(client)).body == whole


def test_half_requests_are_answered_with_a_problem_in_the_end(web: Web, admin: Account) -> None:
    halves = [HEAD, b"G", post(admin, b"\r\nContent-Length: 300\r\n\r\n{")]
    clients = [connect(web.url) for _ in halves]
    for client, half in zip(clients, halves, strict=True):
        client.sendall(half)
    for client in clients:
        answer = parse(read_all(client))
        assert (answer.status, problem(answer)["code"]) == (408, "request_timeout")
        client.close()
    metrics = requests.get(f"{web.url}/metrics", timeout=PATIENCE).text
    assert 'method="other",route="unmatched",status="408"' in metrics


def test_client_that_says_nothing_is_left_in_the_end(web: Web) -> None:
    with connect(web.url) as client:
        assert read_all(client) == b""


def test_head_that_comes_byte_by_byte_is_not_waited_for(web: Web) -> None:
    with connect(web.url) as client:
        client.sendall(HEAD + b"X: ")
        client.settimeout(0.05)
        received = b""
        while not received:
            try:
                client.sendall(b"x")
                received = client.recv(65536)
            except TimeoutError:
                continue
        assert received.startswith(b"HTTP/1.1 408 ")


def test_request_in_pieces_is_answered_like_any_other(web: Web, admin: Account) -> None:
    body = json.dumps(draft()).encode()
    request = post(admin, b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)) + body
    with connect(web.url) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(request), 9):
            client.sendall(request[start : start + 9])
        assert parse(read_all(client)).status == 201


def test_body_is_invited_once_where_the_client_waits_for_that(web: Web, admin: Account) -> None:
    body = json.dumps(draft()).encode()
    rest = b"\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with connect(web.url) as client:
        client.sendall(post(admin, rest % len(body)))
        invited = client.recv(65536)
        client.sendall(body)
        assert invited == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert parse(read_all(client)).status == 201


def test_requests_sent_ahead_are_answered_in_their_order(web: Web) -> None:
    paths = [b"/healthz", b"/none", b"/docs/"] * 5
    with connect(web.url) as client:
        client.sendall(b"".join(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in paths))
        client.shutdown(socket.SHUT_WR)
        received = read_all(client)
        statuses = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [200, 404, 200] * 5


def test_unread_body_is_no_next_request(web: Web) -> None:
    """Bytes behind an answer that did not need them must not be taken for a request."""
    hidden = b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n"
    for length in (len(hidden), 2**21):
        with connect(web.url) as client:
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % length + hidden)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client).count(b"HTTP/1.1 ") == 1


def test_address_with_too_many_connections_loses_its_oldest(web: Web, admin: Account) -> None:
    with holding(web.url, ADDRESS_MAX - 20, HEAD) as clients:
        others_are_answered(web, admin)  # and so the half heads of these have been read
        with holding(web.url, 40, HEAD):
            others_are_answered(web, admin)
            gone = ended(clients)
        assert len(gone) >= 20
        assert gone == list(clients[: len(gone)])
        answer = parse(read_all(gone[0]))
        assert (answer.status, problem(answer)["code"]) == (408, "request_timeout")


def test_bodies_that_are_too_much_together_end_the_largest(web: Web, admin: Account) -> None:
    size = 2**20 - 1
    head = post(admin, b"\r\nContent-Length: %d\r\n\r\n" % (size + 1))
    with holding(web.url, HELD_MAX // size + 8, head + b" " * size) as clients:
        others_are_answered(web, admin)
        assert 0 < len(ended(clients)) < len(clients)


def test_full_process_still_answers(
    app: Flask, admin: Account, environment: dict[str, str], tmp_path: Path
) -> None:
    """More connections than it may have, from addresses that share no limit, make room."""
    few = {"WEB_CONCURRENCY": "1", "GUNICORN_CMD_ARGS": "--worker-connections 20"}
    with (
        run_web({**environment, **few}, tmp_path / "web.log") as web,
        holding(web.url, 60, HEAD) as clients,
    ):
        others_are_answered(web, admin)
        gone = ended(clients)
        assert len(gone) >= 40
        assert gone == list(clients[: len(gone)])


def test_certificate_of_gunicorns_own_is_refused(
    environment: dict[str, str], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.touch()
    key.touch()
    tls = {"GUNICORN_CMD_ARGS": f"--certfile {certificate} --keyfile {key}"}
    with (
        pytest.raises(RuntimeError, match="TLS ends in front of gunicorn"),
        run_web({**environment, **tls}, tmp_path / "web.log"),
    ):
        pass
