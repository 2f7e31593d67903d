"""The demo's requests to the running service, as any HTTP client would make them."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import orjson

from webapp.demo.credentials import Credentials

PATIENCE = 10.0
"""Seconds until the worker must have committed the access."""

TIMEOUT = 10.0
REASON = 'incident;ticket="INC-4711";note="flask demo access"'


class NoAnswer(Exception):
    """The service did not answer as the demo expects; the text is for the operator."""


@dataclass(frozen=True)
class Request:
    account: str
    path: str
    method: str = "GET"
    scope: str | None = None
    reason: str | None = None
    body: Mapping[str, Any] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the scope and the reason."""
        said = {"Sightline-Scope": self.scope, "Sightline-Reason": self.reason}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def receipt(self) -> str | None:
        return self.headers.get("Sightline-Audit")


def access(credentials: Credentials, *, limit: int = 5) -> Answer:
    """Read all tenants' rules as the engineer."""
    return send(credentials, _elevated("engineer", f"/admin/api/rules?limit={limit}"))


def find_event(credentials: Credentials, event_id: str) -> dict[str, Any] | None:
    """Read an event as the auditor, once it is committed; `None` if that takes too long."""
    deadline = monotonic() + PATIENCE
    while True:
        answer = send(credentials, _elevated("auditor", f"/admin/api/audits/{event_id}"))
        if answer.status == HTTPStatus.OK:
            event: dict[str, Any] = answer.body
            return event
        if answer.status != HTTPStatus.NOT_FOUND:
            raise NoAnswer(f"The audits answered {answer.status}: {answer.body}")
        if monotonic() >= deadline:
            return None
        sleep(0.2)


def send(credentials: Credentials, request: Request) -> Answer:
    """Make a request; raises `NoAnswer` unless the service answers with JSON."""
    headers = {"Authorization": f"Bearer {credentials.tokens[request.account]}", **request.headers}
    body = None
    if request.body is not None:
        body = orjson.dumps(request.body)
        headers["Content-Type"] = "application/json"
    host = urlsplit(credentials.base_url).netloc
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT)
    try:
        connection.request(request.method, request.path, body=body, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), orjson.loads(response.read()))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"Nothing of ours answers at {credentials.base_url}: {error}") from error
    finally:
        connection.close()


def _elevated(account: str, path: str) -> Request:
    return Request(account, path, scope="global", reason=REASON)
