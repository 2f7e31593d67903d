"""gunicorn's own log lines and error answers, in the same form as all others."""

from socket import socket
from typing import Any

import orjson
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker
from uuid_utils.compat import uuid7
from werkzeug.http import HTTP_STATUS_CODES

from webapp.http.errors import PROBLEM_TYPE
from webapp.observability import logs
from webapp.observability.request_log import REQUEST_ID_HEADER
from webapp.settings import SettingsError, read_settings


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """The `logger_class` of gunicorn.conf.py."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        try:
            logs.configure(read_settings().env)
        except SettingsError as error:
            raise SystemExit(str(error)) from None


class ProblemWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """The `worker_class`, which answers malformed HTTP with a problem.

    gunicorn's own HTML page would repeat the text of its exception.
    """

    def handle_error(self, req: Any, client: socket, addr: Any, exc: BaseException) -> None:
        super().handle_error(req, _ErrorPageReplacement(client), addr, exc)


class _ErrorPageReplacement:
    """A client's socket on which gunicorn's error page becomes a problem of the same status."""

    def __init__(self, client: socket) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def sendall(self, page: bytes) -> None:
        status = int(page.split(b" ", 2)[1])
        self._client.sendall(_problem(status))


def _problem(status: int) -> bytes:
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
        "Content-Length": len(body),
        REQUEST_ID_HEADER: request_id,
    }
    lines = [f"HTTP/1.1 {status} {title}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
