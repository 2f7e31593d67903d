"""Problems (RFC 9457) for requests that are refused before the application sees them."""

from typing import Any

import orjson
from uuid_utils.compat import uuid7
from werkzeug.http import HTTP_STATUS_CODES

from webapp.http.errors import PROBLEM_TYPE
from webapp.http.held import last_message
from webapp.observability.request_log import REQUEST_ID_HEADER


def problem(status: int) -> bytes:
    """A whole answer of this status, after which the connection ends."""
    title, request_id = HTTP_STATUS_CODES[status], str(uuid7())
    code = "internal" if status == 500 else title.lower().replace(" ", "_")
    body = orjson.dumps(
        {
            "type": f"urn:sightline:problem:{code}",
            "title": title,
            "status": status,
            "instance": "*",  # the server as a whole: the path could not be read
            "code": code,
            "request_id": request_id,
        }
    )
    headers = {
        "Connection": "close",
        "Content-Type": PROBLEM_TYPE,
        "Content-Length": str(len(body)),
        REQUEST_ID_HEADER: request_id,
    }
    return last_message(f"{status} {title}", headers.items(), body)


class ErrorPageReplacement:
    """A client's socket on which gunicorn's error page becomes a problem of the same status."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def sendall(self, page: bytes) -> None:
        status = int(page.split(b" ", 2)[1])
        self._client.sendall(problem(status))
