"""Tests that a real worker commits each record once, however its request ends."""

import socket
import struct
from collections.abc import Sequence
from threading import Thread
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from uuid_utils.compat import uuid7
from werkzeug.serving import make_server

from tests.audit.receipts import (
    committed,
    committed_of_request,
    events_of_request,
    receipt,
    second_connection,
)
from tests.factories import INCIDENT, Account, add_tenant
from webapp.audit.event import AuditEvent
from webapp.audit.journal.service import Journal
from webapp.audit.recorder import TooLate
from webapp.rules.models import RuleRow


def headers(who: Account, request_id: str = "") -> dict[str, str]:
    return {**who.headers("global", INCIDENT), "X-Request-ID": request_id or uuid4().hex}


def test_record_survives_a_rollback_of_the_request(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    rule_id = uuid7()
    answer = accesses.get(f"/admin/accesses/rolled-back/{rule_id}", headers=headers(engineer))
    assert answer.status_code == 200
    (event,) = committed(app, *receipt(answer))
    assert (event["outcome"], event["http_status"]) == ("served", 200)
    with second_connection(app) as session:
        assert session.get(RuleRow, rule_id) is None


@pytest.mark.parametrize(
    ("path", "status"), [("raises", 500), ("breaks-transaction", 500), ("not-found", 404)]
)
def test_record_survives_a_failure_after_the_access(
    app: Flask, accesses: FlaskClient, engineer: Account, path: str, status: int
) -> None:
    answer = accesses.get(f"/admin/accesses/{path}", headers=headers(engineer))
    assert answer.status_code == status
    (event,) = committed(app, *receipt(answer))
    assert (event["outcome"], event["http_status"]) == ("failed", status)


def test_record_survives_the_end_of_the_thread(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    request_id = uuid4().hex
    with pytest.raises(SystemExit):
        accesses.get("/admin/accesses/exits", headers=headers(engineer, request_id))
    (event,) = committed_of_request(app, request_id)
    assert (event["outcome"], event["http_status"]) == ("interrupted", None)


def test_answered_access_is_finalized_once(
    accesses_app: Flask, accesses: FlaskClient, engineer: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the request does not finalize it again as interrupted."""
    journal: Journal = accesses_app.extensions["sightline.journal"]
    finalized: list[UUID] = []

    def spy(events: Sequence[AuditEvent], within: float) -> None:
        finalized.extend(event.id for event in events)
        Journal.finalize(journal, events, within)

    monkeypatch.setattr(journal, "finalize", spy)
    monkeypatch.setattr(journal, "finalize_later", lambda events: finalized.extend(events))
    ids = [
        event_id
        for path in ("streams", "raises")
        for event_id in receipt(accesses.get(f"/admin/accesses/{path}", headers=headers(engineer)))
    ]
    assert finalized == ids


def test_head_request_is_recorded(app: Flask, accesses: FlaskClient, engineer: Account) -> None:
    answer = accesses.head("/admin/accesses/streams", headers=headers(engineer))
    (event,) = committed(app, *receipt(answer))
    assert (event["outcome"], event["request"]["method"]) == ("served", "HEAD")


def test_record_survives_a_failing_after_request_hook(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    """The answer that leaves is not the one that the hook got."""
    request_id = uuid4().hex
    answer = accesses.get("/admin/accesses/hook", headers=headers(engineer, request_id))
    assert answer.status_code == 500
    assert b"shown" not in answer.data
    (event,) = committed_of_request(app, request_id)
    assert (event["outcome"], event["http_status"]) == ("interrupted", None)


def test_access_after_the_answer_is_refused(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    """The rows of such an access would leave without a record."""
    request_id = uuid4().hex
    with pytest.raises(TooLate, match="accesses.late.again"):
        accesses.get("/admin/accesses/late", headers=headers(engineer, request_id), buffered=True)
    events = committed_of_request(app, request_id)
    assert [event["surface"] for event in events] == ["accesses.late"]


def test_denied_access_is_recorded(app: Flask, accesses: FlaskClient, engineer: Account) -> None:
    answer = accesses.get("/admin/api/audits", headers=headers(engineer))
    assert answer.status_code == 403
    (event,) = committed(app, *receipt(answer))
    assert (event["outcome"], event["http_status"]) == ("denied", 403)
    assert event["decision"]["effect"] == "denied"
    assert event["actor"]["roles"] == ["engineer"]


def test_access_to_a_missing_tenant_is_recorded(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    slug = f"no-{uuid4().hex}"
    answer = accesses.get("/admin/api/rules", headers=engineer.headers(f"tenant:{slug}", INCIDENT))
    assert answer.status_code == 404
    (event,) = committed(app, *receipt(answer))
    assert (event["outcome"], event["http_status"]) == ("failed", 404)
    assert event["scope"] == {"kind": "tenant", "tenant_id": None, "tenant": slug}


def test_request_without_a_principal_leaves_no_record(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    request_id = uuid4().hex
    answer = accesses.get("/admin/accesses/raises", headers={"X-Request-ID": request_id})
    assert answer.status_code == 401
    assert receipt(answer) == []
    committed(app, *receipt(accesses.get("/admin/accesses/raises", headers=headers(engineer))))
    assert events_of_request(app, request_id) == []


def test_record_survives_a_client_that_hangs_up(
    app: Flask, accesses_app: Flask, worker: None, engineer: Account
) -> None:
    """The client hangs up in an answer that is larger than the buffers before it."""
    request_id = uuid4().hex
    server = make_server("127.0.0.1", 0, accesses_app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as client:
            sent = "".join(f"{k}: {v}\r\n" for k, v in headers(engineer, request_id).items())
            client.sendall(
                f"GET /admin/accesses/streams HTTP/1.1\r\nHost: x\r\n{sent}\r\n".encode()
            )
            assert client.recv(12) == b"HTTP/1.1 200"
            # Close with a reset, and do not wait for the rest of the answer.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        (event,) = committed_of_request(app, request_id)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (event["outcome"], event["surface"]) == ("served", "accesses.streams")


def test_record_names_the_slug_of_the_tenant(
    app: Flask, accesses: FlaskClient, engineer: Account
) -> None:
    tenant = add_tenant(app)
    answer = accesses.get(
        "/admin/api/rules", headers=engineer.headers(f"tenant:{tenant.slug}", INCIDENT)
    )
    (event,) = committed(app, *receipt(answer))
    assert event["scope"] == {
        "kind": "tenant",
        "tenant_id": str(tenant.id),
        "tenant": tenant.slug,
    }
