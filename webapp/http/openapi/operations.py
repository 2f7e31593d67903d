"""The id, the security and the errors of each operation in the document.

They are derived from the operation itself, so that no view can forget them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from apispec import APISpec, BasePlugin
from flask import Flask
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import Rule

from webapp.http import errors
from webapp.http.errors import PROBLEM_TYPE, ProblemSchema
from webapp.http.operations import is_for_operators

Operation = dict[str, Any]

IDEMPOTENCY_KEY: Final = "Idempotency-Key"

PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "IfMatch": {
        "name": "If-Match",
        "description": "The `ETag` of the version that you change, or `*` for any.",
        "schema": {"type": "string"},
        "example": '"01890a5d7c3b7a6e9f2b4c8d1e0f3a5b.3"',
        "required": True,
    },
    "OptionalIfMatch": {
        "name": "If-Match",
        "description": "The `ETag` of the version that you decide about, if only that one counts.",
        "schema": {"type": "string"},
        "example": '"01890a5d7c3b7a6e9f2b4c8d1e0f3a5b.1"',
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "description": "The `ETag` of what you have. The answer is 304 where nothing has changed.",
        "schema": {"type": "string"},
        "example": '"9d1f0b6c2a4e8f7035c1d2e3f4a5b6c7"',
    },
}
HEADERS: Final[dict[str, dict[str, Any]]] = {
    "ETag": {
        "description": "A strong tag of what is shown, for `If-None-Match` and `If-Match`.",
        "schema": {"type": "string"},
    },
    "Location": {"description": "The path of what was made.", "schema": {"type": "string"}},
    "RetryAfter": {
        "description": "After how many seconds to try again.",
        "schema": {"type": "integer"},
    },
    "RateLimit": {
        "description": "Of the limit that is nearest: `r` requests are left, and in `t` seconds all"
        " are there again.",
        "schema": {"type": "string"},
        "example": '"principal";r=1999;t=1',
    },
    "RateLimitPolicy": {
        "description": "That limit: `q` requests at once, which come back in `w` seconds.",
        "schema": {"type": "string"},
        "example": '"principal";q=2000;w=10',
    },
    "WWWAuthenticate": {
        "description": "The scheme of the credentials that are needed: `Bearer`. For operators also"
        " `Basic`.",
        "schema": {"type": "string"},
    },
}
ERRORS: Final[Mapping[int, Sequence[type[errors.AppError]]]] = {
    400: (errors.ReasonRequired,),
    401: (errors.Unauthenticated,),
    403: (errors.ElevationDenied, errors.ApprovalRequired, errors.Forbidden, errors.NotBound),
    404: (errors.NotFound,),
    409: (errors.Conflict, errors.Expired, errors.NotSealed),
    412: (errors.Stale,),
    413: (),
    422: (errors.Invalid,),
    428: (errors.PreconditionRequired,),
    429: (errors.RateLimited,),
    500: (errors.AppError,),
    503: (errors.AuditUnavailable, errors.DatabaseUnavailable),
}
"""The errors of each status; none where only the web framework refuses a request."""
RATE_HEADERS: Final = {"RateLimit": "RateLimit", "RateLimit-Policy": "RateLimitPolicy"}
ERROR_HEADERS: Final = {
    401: {"WWW-Authenticate": "WWWAuthenticate"},
    429: {"Retry-After": "RetryAfter", **RATE_HEADERS},
    503: {"Retry-After": "RetryAfter"},
}


class OperationsPlugin(BasePlugin):
    """Gives each operation its id and the errors that its parts can cause.

    An operation whose view is public needs no credentials, but for operators' where it is deployed.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app

    def init_spec(self, spec: APISpec) -> None:
        super().init_spec(spec)
        for name, parameter in PARAMETERS.items():
            spec.components.parameter(name, "header", parameter, lazy=True)
        for name, header in HEADERS.items():
            spec.components.header(name, header, lazy=True)
        for status in ERRORS:
            spec.components.response(_error_name(status), _error(status), lazy=True)

    def operation_helper(
        self, path: str | None = None, operations: dict[str, Any] | None = None, **options: Any
    ) -> None:
        rule: Rule = options["rule"]
        view = self._app.view_functions[rule.endpoint]
        for operation in (operations or {}).values():
            operation["operationId"] = view.__name__
            if hasattr(view, "__public__"):
                operation["security"] = []
                add_errors(operation, 429)
            if is_for_operators(view) and self._app.extensions["settings"].deployed:
                operation["security"] = [{"operations": []}]
                add_errors(operation, 401, 404)
            add_errors(operation, *_errors_of(rule, operation))


def add_errors(operation: Operation, *statuses: int) -> None:
    """Say that an operation may answer with these errors."""
    responses = operation.setdefault("responses", {})
    for status in statuses:
        responses.pop(str(status), None)  # flask-smorest's own, of another content type
        responses[status] = _error_name(status)


def add_conditions(method: str, operation: Operation) -> None:
    """Describe entity tags: every answer has one, a read may send it, a change must send it."""
    responses = operation.setdefault("responses", {})
    for response in responses.values():
        if isinstance(response, dict) and "content" in response:
            response.setdefault("headers", {})["ETag"] = "ETag"
    parameters = operation.setdefault("parameters", [])
    if method == "get":
        parameters.append("IfNoneMatch")
        unchanged = {"description": "You have what there is.", "headers": {"ETag": "ETag"}}
        responses[304] = unchanged
    elif method in ("patch", "put", "delete"):
        parameters.append("IfMatch")


def _errors_of(rule: Rule, operation: Operation) -> Iterator[int]:
    """The errors that the parts of an operation can cause."""
    parameters = operation.get("parameters", [])
    names = {parameter["name"] for parameter in parameters if isinstance(parameter, dict)}
    if rule.arguments:
        yield 404
    if IDEMPOTENCY_KEY in names:
        yield 409
    if "IfMatch" in parameters:
        yield from (412, 428)
    if "requestBody" in operation:
        yield 413
    if "requestBody" in operation or names:
        yield 422
    yield 500


def _error(status: int) -> dict[str, Any]:
    """The component that describes all errors of a status."""
    titles = {kind.code: kind.title for kind in ERRORS[status]} or _framework_error(status)
    code, title = next(iter(titles.items()))
    example = {
        "type": f"urn:sightline:problem:{code}",
        "title": title,
        "status": status,
        "instance": "/admin/api/rules",
        "code": code,
        "request_id": "01890a5d-7c3b-7a6e-9f2b-4c8d1e0f3a5b",
    }
    return {
        "description": " ".join(f"`{code}`: {title}." for code, title in titles.items()),
        "content": {PROBLEM_TYPE: {"schema": ProblemSchema, "example": example}},
        "headers": ERROR_HEADERS.get(status, {}),
    }


def _framework_error(status: int) -> Mapping[str, str]:
    """The code and title that `webapp.http.errors` gives an error of the web framework."""
    title = HTTP_STATUS_CODES[status]
    return {title.lower().replace(" ", "_"): title}


def _error_name(status: int) -> str:
    return HTTP_STATUS_CODES[status].title().replace(" ", "")
