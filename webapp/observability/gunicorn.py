"""gunicorn's own lines, from the master's first on, and its own answers, to what it takes for no
HTTP: in the same form as all others. And its settings, found at once."""

from socket import socket

import orjson
from gunicorn import util
from gunicorn.config import Config
from gunicorn.glogging import Logger
from uuid_utils.compat import uuid7
from werkzeug.http import HTTP_STATUS_CODES

from webapp.http.errors import PROBLEM_TYPE
from webapp.observability import logs
from webapp.observability.request_log import REQUEST_ID_HEADER
from webapp.settings import SettingsError, read_settings


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """For `logger_class` in gunicorn.conf.py."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        try:
            logs.configure(read_settings().env)
        except SettingsError as error:
            raise SystemExit(str(error)) from None


def keep_settings(cfg: Config) -> None:
    """What a worker's settings are, for good: gunicorn works it out a score of times for each
    request."""
    vars(cfg).update({name: setting.get() for name, setting in cfg.settings.items()})


def answer_with_problems() -> None:
    """Take the place of gunicorn's page of HTML, which repeats what its exception says."""
    util.write_error = _write_problem


def _write_problem(client: socket, status: int, *_: str) -> None:
    title, request_id = HTTP_STATUS_CODES[status], str(uuid7())
    code = "internal" if status == 500 else title.lower().replace(" ", "_")
    body = {
        "type": f"urn:sightline:problem:{code}",
        "title": title,
        "status": status,
        "instance": "*",  # of the server as a whole: what was asked for could not be read
        "code": code,
        "request_id": request_id,
    }
    headers = {
        "Connection": "close",
        "Content-Type": PROBLEM_TYPE,
        "Content-Length": len(orjson.dumps(body)),
        REQUEST_ID_HEADER: request_id,
    }
    lines = [f"HTTP/1.1 {status} {title}", *(f"{name}: {value}" for name, value in headers.items())]
    util.write_nonblock(client, "\r\n".join([*lines, "", ""]).encode() + orjson.dumps(body))
