"""Errors: the exceptions that stand for an answer other than success, and their only handlers.

An answer is RFC 9457 `application/problem+json`, or a page for a browser. It holds the texts of
this product's own errors and nothing else: never another exception's text, a stack or SQL.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import quote

import marshmallow as ma
import orjson
import structlog
from flask import Flask, Response, render_template_string, request
from sqlalchemy import exc as sql
from werkzeug.exceptions import HTTPException, InternalServerError, default_exceptions

from webapp.http.state import current_state
from webapp.text import escaped

PROBLEM_TYPE = "application/problem+json"
PAGE_TYPE = "text/html; charset=utf-8"
PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{{ problem.title }} · Sightline</title>
  </head>
  <body>
    <h1>{{ problem.title }}</h1>
    {% if problem.detail %}<p>{{ problem.detail }}</p>{% endif %}
    <p>Status {{ problem.status }} · request {{ problem.request_id }}</p>
  </body>
</html>
"""
RETRY_AFTER = 5
"""Seconds after which a client may try again, where the real time is unknown."""

MAX_FIELDS = 100
MAX_FIELD_NAME = 200

Errors = Mapping[str, Sequence[str]]
"""Messages by field."""

log = structlog.get_logger()


class AppError(Exception):
    """An answer other than success, to be raised anywhere below a view.

    `detail` is for the client to read; `extra` are further members of the body.
    """

    status = 500
    code = "internal"
    title = "Internal server error"

    def __init__(
        self,
        detail: str | None = None,
        errors: Errors | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def _ruled(
    rules: Sequence[object], named: Sequence[Mapping[str, object]]
) -> dict[str, Sequence[object]]:
    return {"rules": [str(rule) for rule in rules]} | ({"named": named} if named else {})


class Unauthenticated(AppError):
    status = 401
    code = "unauthenticated"
    title = "Authentication required"

    def __init__(self, detail: str | None = None, *, challenge: str = "Bearer") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class ReasonRequired(AppError):
    status = 400
    code = "reason_required"
    title = "Reason required"


class ElevationDenied(AppError):
    status = 403
    code = "elevation_denied"
    title = "Elevation denied by the rules"

    def __init__(
        self,
        detail: str | None = None,
        *,
        rules: Sequence[object] = (),
        named: Sequence[Mapping[str, object]] = (),
    ) -> None:
        """`rules` are the ids of the rules that denied it, `named` those that `detail` names."""
        super().__init__(detail, extra=_ruled(rules, named))


class ApprovalRequired(AppError):
    status = 403
    code = "approval_required"
    title = "Approval required"

    def __init__(
        self,
        detail: str | None = None,
        *,
        rules: Sequence[object] = (),
        named: Sequence[Mapping[str, object]] = (),
        ask: str | None = None,
    ) -> None:
        """`ask` is the path for requests; `rules` are the ids of rules that want an approval."""
        where = {} if ask is None else {"ask": ask}
        super().__init__(detail, extra=_ruled(rules, named) | where)


class Forbidden(AppError):
    status = 403
    code = "forbidden"
    title = "Not permitted for your role"


class NotBound(Forbidden):
    code = "not_bound"
    title = "Not permitted for your token"


class NotFound(AppError):
    status = 404
    code = "not_found"
    title = "Not found"


class Conflict(AppError):
    status = 409
    code = "conflict"
    title = "Conflicts with an existing resource"


class Expired(Conflict):
    code = "expired"
    title = "The answer's time is over"


class NotSealed(Conflict):
    code = "not_sealed"
    title = "Not sealed yet"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": str(RETRY_AFTER)})


class Stale(AppError):
    status = 412
    code = "stale"
    title = "Changed since it was read"


class Invalid(AppError):
    status = 422
    code = "invalid"
    title = "Request not valid"


class PreconditionRequired(AppError):
    status = 428
    code = "precondition_required"
    title = "Version required in If-Match"


class RateLimited(AppError):
    status = 429
    code = "rate_limited"
    title = "Too many requests"

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after: int = RETRY_AFTER,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after), **(headers or {})})


class Unavailable(AppError):
    status = 503
    code = "unavailable"
    title = "Temporarily unavailable"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": str(RETRY_AFTER)})


class AuditUnavailable(Unavailable):
    code = "audit_unavailable"
    title = "The access could not be recorded, so nothing is shown"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    title = "The database does not answer"


class NamedRuleSchema(ma.Schema):
    """A rule that an explanation names."""

    id = ma.fields.UUID(required=True)
    owner = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The slug of its tenant; null for the platform."},
    )
    name = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "As it is stored, so escape it where you show it. `…` where your scope"
            " may not see it; null where the rule cannot be read."
        },
    )


class ProblemSchema(ma.Schema):
    """The body of every error, for the API's description."""

    type = ma.fields.String(required=True, metadata={"example": "urn:sightline:problem:invalid"})
    title = ma.fields.String(required=True)
    status = ma.fields.Integer(required=True)
    detail = ma.fields.String()
    instance = ma.fields.String(required=True, metadata={"description": "The request's path."})
    code = ma.fields.String(required=True, metadata={"example": "invalid"})
    request_id = ma.fields.String(required=True, allow_none=True)
    errors = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.List(ma.fields.String()),
        metadata={"description": "What is wrong, by field."},
    )
    rules = ma.fields.List(
        ma.fields.String(), metadata={"description": "The ids of the rules that decided."}
    )
    named = ma.fields.List(
        ma.fields.Nested(NamedRuleSchema),
        metadata={"description": "The rules that `detail` names."},
    )
    ask = ma.fields.String(metadata={"description": "Where to ask for an approval."})


def init_app(app: Flask) -> None:
    app.register_error_handler(AppError, problem)
    app.register_error_handler(HTTPException, problem_of_http)
    app.register_error_handler(sql.DBAPIError, _database)
    app.register_error_handler(sql.TimeoutError, _database)
    app.register_error_handler(Exception, _unexpected)


def problem(error: AppError) -> Response:
    """The answer that `error` stands for, for code that cannot raise it."""
    body: dict[str, Any] = {
        "type": f"urn:sightline:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "instance": quote(request.path),
        "code": error.code,
        "request_id": current_state().request_id,
    }
    if error.detail is not None:
        body["detail"] = escaped(error.detail)
    if error.errors is not None:
        body["errors"] = {
            escaped(field): [escaped(message) for message in messages]
            for field, messages in islice(error.errors.items(), MAX_FIELDS)
        }
    response = _page(body) if _wants_page() else _json(body | error.extra)
    response.status_code = error.status
    response.headers.update(error.headers)
    response.headers["Cache-Control"] = "no-store"
    response.vary.add("Accept")
    return response


def _wants_page() -> bool:
    offered = (PROBLEM_TYPE, "application/json", "text/html")
    return request.accept_mimetypes.best_match(offered) == "text/html"


def _json(body: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(body), content_type=PROBLEM_TYPE)


def _page(body: Mapping[str, Any]) -> Response:
    response = Response(render_template_string(PAGE, problem=body), content_type=PAGE_TYPE)
    response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
    return response


def problem_of_http(error: HTTPException) -> Response:
    """Answer an error of the web framework. Flask has logged the cause of a 500 already."""
    return problem(AppError() if isinstance(error, InternalServerError) else _of_http(error))


def _of_http(error: HTTPException) -> AppError:
    """Translate an error of werkzeug's, whose own description may repeat an exception's text."""
    standard = default_exceptions.get(error.code or 500, HTTPException)
    data: Mapping[str, Any] = getattr(error, "data", None) or {}
    headers = {k: v for k, v in error.get_headers() if k.lower() != "content-type"}
    messages = data.get("messages")
    translated = AppError(
        standard.description,
        None if messages is None else _flatten(messages),
        headers=headers | (data.get("headers") or {}),
    )
    ours = _OURS.get(error.code or 500)
    translated.status = error.code or 500
    translated.title = ours.title if ours else error.name
    translated.code = ours.code if ours else error.name.lower().replace(" ", "_")
    return translated


_OURS: dict[int, type[AppError]] = {
    kind.status: kind
    for kind in (
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        Stale,
        Invalid,
        PreconditionRequired,
        RateLimited,
        Unavailable,
    )
}


def _database(error: sql.SQLAlchemyError) -> Response:
    lost = isinstance(error, sql.DBAPIError) and error.connection_invalidated
    if not lost and not isinstance(error, (sql.OperationalError, sql.TimeoutError)):
        return _unexpected(error)
    log.error("database_unavailable", problem=_first_line(error))
    return problem(DatabaseUnavailable())


def _first_line(error: Exception) -> str:
    """What went wrong, without a statement: a server that is away is told once for each request."""
    cause = error.orig if isinstance(error, sql.DBAPIError) and error.orig else error
    return f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"


def _unexpected(error: Exception) -> Response:
    log.error("unexpected_error", exc_info=error)
    return problem(AppError())


def _flatten(messages: Mapping[str, Any]) -> dict[str, list[str]]:
    """Flatten webargs' messages: fields become `a.0.b`.

    A message about a whole place in the request, such as its body, comes under the place's name.
    """
    flat: dict[str, list[str]] = {}
    for place, nested in messages.items():
        for path, message in _leaves(nested, ()):
            field = ".".join(path)[:MAX_FIELD_NAME] or place
            flat.setdefault(field, []).append(message)
    return flat


def _leaves(nested: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(nested, Mapping):
        for key, inner in nested.items():
            yield from _leaves(inner, path if key == ma.exceptions.SCHEMA else (*path, str(key)))
    elif isinstance(nested, (list, tuple)):
        for inner in nested:
            yield from _leaves(inner, path)
    else:
        yield path, str(nested)
