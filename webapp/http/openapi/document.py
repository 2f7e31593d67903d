"""The OpenAPI document, and the route that serves it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import flask_smorest
import orjson
from apispec import BasePlugin
from flask import Flask, Response
from flask_smorest import current_api
from werkzeug.exceptions import HTTPException

from webapp.http.errors import ProblemSchema, problem_of_http
from webapp.http.openapi.operations import OperationsPlugin
from webapp.http.openapi.shapes import ShapesPlugin
from webapp.http.operations import for_operators
from webapp.http.parsing import Blueprint
from webapp.http.public import public
from webapp.version import VERSION

DESCRIPTION: Final = (Path(__file__).parent / "description.md").read_text(encoding="utf-8")

SPEC_OPTIONS: Final = {
    "info": {
        "summary": "Decides and records every access across tenants.",
        "description": DESCRIPTION,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "components": {
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "slt_…",
                "description": "An API token, which begins with `slt_`.",
            },
            "operations": {
                "type": "http",
                "scheme": "bearer",
                "description": "`OPERATIONS_TOKEN`, except in development. It may also be the"
                " password of the Basic scheme.",
            },
        }
    },
    "security": [{"token": []}],
    "externalDocs": {
        "description": "The contract: what each word means, and what you may rely on",
        "url": "/docs/contract.md",
    },
}

blueprint = Blueprint(
    "openapi", __name__, description="This description, for programs that read one."
)


class Api(flask_smorest.Api):  # type: ignore[misc]  # flask-smorest ships no types
    """flask-smorest's API with Sightline's configuration and errors."""

    ERROR_SCHEMA = ProblemSchema
    DEFAULT_ERROR_RESPONSE_NAME = None
    """Errors are described by status. A bare `default` would add nothing."""

    def __init__(
        self,
        app: Flask,
        *,
        plugins: Iterable[BasePlugin] = (),
        servers: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        app.config.setdefault("API_TITLE", "Sightline")
        app.config.setdefault("API_VERSION", VERSION)
        app.config.setdefault("OPENAPI_VERSION", "3.1.0")
        super().__init__(
            app,
            spec_kwargs={
                "marshmallow_plugin": ShapesPlugin(),
                "extra_plugins": [*plugins, OperationsPlugin(app)],
                **SPEC_OPTIONS,
                **({"servers": list(servers)} if servers else {}),
            },
        )
        # flask-smorest describes numbered pages, which no list here has.
        self.spec.components.schemas.pop("PaginationMetadata", None)

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Answer as `webapp.http.errors` does: flask-smorest registers this method as a handler."""
        return problem_of_http(error)


@blueprint.route("/openapi.json")
@public("describes routes and shapes")
@for_operators
@blueprint.response(200, {"type": "object"}, description="An OpenAPI 3.1 document")
def get_description() -> Response:
    """Read this description"""
    return Response(orjson.dumps(current_api.spec.to_dict()), mimetype="application/json")
