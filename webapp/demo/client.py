"""The demo's own access the running server, as any HTTP client would make it."""

import http.client
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from webapp.demo.credentials import Credentials

PATIENCE = 10.0
"""Seconds until the worker must have committed the access."""

TIMEOUT = 10.0
REASON = 'incident;ticket="INC-4711";note="flask demo access"'


class NoAnswer(Exception):
    """The server did not answer, or not as the demo expects; the text is for the operator."""


@dataclass(frozen=True)
class Answer:
    status: int
    receipt: str | None
    body: Any


def access(credentials: Credentials, *, limit: int = 5) -> Answer:
    """The engineer's access all tenants' rules."""
    return _get(credentials, "engineer", "/admin/api/rules", limit=str(limit))


def find_event(credentials: Credentials, event_id: str) -> dict[str, Any] | None:
    """The event as the auditor sees it once it is committed; `None` if that takes too long."""
    deadline = monotonic() + PATIENCE
    while True:
        answer = _get(credentials, "auditor", f"/admin/api/audits/{event_id}")
        if answer.status == http.client.OK:
            event: dict[str, Any] = answer.body
            return event
        if answer.status != http.client.NOT_FOUND:
            raise NoAnswer(f"The audits answered {answer.status}: {answer.body}")
        if monotonic() >= deadline:
            return None
        sleep(0.2)


def _get(credentials: Credentials, account: str, path: str, **query: str) -> Answer:
    host = urlsplit(credentials.base_url).netloc
    headers = {
        "Authorization": f"Bearer {credentials.tokens[account]}",
        "Sightline-Scope": "global",
        "Sightline-Reason": REASON,
    }
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT)
    try:
        connection.request("GET", f"{path}?{urlencode(query)}", headers=headers)
        response = connection.getresponse()
        body = orjson.loads(response.read())
        return Answer(response.status, response.headers.get("Sightline-Audit"), body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"Nothing of ours answers at {credentials.base_url}: {error}") from error
    finally:
        connection.close()
