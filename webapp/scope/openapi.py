"""Headers and errors that every surface adds to the API's description."""

from typing import Any, Final

from apispec import APISpec, BasePlugin
from flask import Flask
from werkzeug.routing import Rule

from webapp.audit.recorder import EXCLUDED_HEADER, RECEIPT_HEADER
from webapp.http.openapi.operations import RATE_HEADERS, Operation, add_conditions, add_errors
from webapp.scope.decision import Surface
from webapp.scope.surface import REASON_HEADER, SCOPE_HEADER

PARAMETERS: Final = {
    "Scope": {
        "name": SCOPE_HEADER,
        "description": "Whose rows: `tenant:<slug>`, or `global` for all tenants. Leave it out for"
        " your own tenant, where you have exactly one. Anything but your own tenant is an"
        " elevation.",
        "schema": {"type": "string"},
        "example": "tenant:acme",
    },
    "Reason": {
        "name": REASON_HEADER,
        "description": "Why, as a structured field (RFC 9651): a code, and where you have them a"
        " ticket and a note. An elevation needs it.",
        "schema": {"type": "string"},
        "example": 'incident;ticket="INC-4711";note="login fails for all"',
    },
}
HEADERS: Final = {
    "Receipt": {
        "description": "The receipt: the ids of the audit events that this answer caused.",
        "schema": {"type": "string"},
        "example": "01890a5d-7c3b-7a6e-9f2b-4c8d1e0f3a5b",
    },
    "Behind": {
        "description": "How many seconds the list may lack at its newer end. Present only where it"
        " was read from a replica of the database.",
        "schema": {"type": "integer"},
    },
    "Excluded": {
        "description": "How many tenants an access to all of them left out, since their rules say"
        " no.",
        "schema": {"type": "integer"},
    },
}


class SurfacesPlugin(BasePlugin):
    """Describes the operations whose views declare a `@surface`."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def init_spec(self, spec: APISpec) -> None:
        super().init_spec(spec)
        for name, parameter in PARAMETERS.items():
            spec.components.parameter(name, "header", parameter, lazy=True)
        for name, header in HEADERS.items():
            spec.components.header(name, header, lazy=True)

    def operation_helper(
        self, path: str | None = None, operations: dict[str, Any] | None = None, **options: Any
    ) -> None:
        rule: Rule = options["rule"]
        view = self._app.view_functions[rule.endpoint]
        declared: Surface | None = getattr(view, "__surface__", None)
        if declared is None:
            return
        for method, operation in (operations or {}).items():
            if not declared.streams:  # a file that is made while it is sent has no entity tag
                add_conditions(method, operation)
            if not declared.personal:
                operation["parameters"] += PARAMETERS
            elif declared.changes and rule.arguments:
                operation["parameters"].append("OptionalIfMatch")
                add_errors(operation, 412, 422)
            _add_headers(operation, declared)
            add_errors(operation, *_errors_of(declared))


def _add_headers(operation: Operation, declared: Surface) -> None:
    headers = {RECEIPT_HEADER: "Receipt", **RATE_HEADERS}
    if not declared.personal:
        headers[EXCLUDED_HEADER] = "Excluded"
    for status, response in operation["responses"].items():
        if isinstance(response, dict):  # a string refers to an error
            located = {"Location": "Location"} if _has_location(status, declared) else {}
            response["headers"] = {**headers, **located, **response.get("headers", {})}


def _has_location(status: int | str, declared: Surface) -> bool:
    """Whether an answer has a Location. A personal surface may create several things at once."""
    return str(status) in ("201", "202") and not declared.personal


def _errors_of(declared: Surface) -> set[int]:
    """The errors of a surface's guard, and of a change that conflicts with an existing row."""
    named = set() if declared.personal else {400, 404, 422}
    return {401, 403, 429, 503} | named | ({409} if declared.changes else set())
