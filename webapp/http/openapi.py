"""The API's description at /openapi.json, and Swagger UI at /docs from the files of its wheel."""

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import flask_smorest
from apispec import APISpec, BasePlugin
from flask import Blueprint, Flask, Response, abort, send_from_directory
from swagger_ui_bundle import swagger_ui_path
from werkzeug.exceptions import HTTPException

from webapp.audit.recorder import EXCLUDED_HEADER, RECEIPT_HEADER
from webapp.http.errors import PROBLEM_TYPE, ProblemSchema, problem_of_http
from webapp.http.public import public
from webapp.scope.decision import Surface
from webapp.scope.surface import REASON_HEADER, SCOPE_HEADER

CONFIG: Final = {
    "API_TITLE": "Sightline",
    "API_VERSION": "v1",
    "API_SPEC_OPTIONS": {
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`slt_…`"}
            }
        },
        "security": [{"token": []}],
    },
    "OPENAPI_VERSION": "3.0.3",
    "OPENAPI_URL_PREFIX": "/",
    "OPENAPI_JSON_PATH": "openapi.json",
}

SCOPE: Final = {
    "description": "`global` for all tenants, or `tenant:<slug>`; needed where it is not your one"
    " and only tenant. Anything but your own tenant is an elevation.",
    "schema": {"type": "string"},
    "example": "tenant:acme",
}
REASON: Final = {
    "description": "Why, as a structured field (RFC 9651); needed for an elevation.",
    "schema": {"type": "string"},
    "example": 'incident;ticket="INC-4711";note="login fails for all"',
}
RECEIPT: Final = {
    "description": "The ids of the audit events that this answer caused.",
    "schema": {"type": "string"},
}
EXCLUDED: Final = {
    "description": "How many tenants an access to all of them left out, since their rules say no.",
    "schema": {"type": "integer"},
}
LOCATION: Final = {
    "description": "The path of what was made.",
    "schema": {"type": "string"},
}

ASSETS: Final = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"})

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE: Final = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Sightline API</title>
    <link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
    <link rel="stylesheet" href="/docs/swagger-ui.css">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/start.js"></script>
  </body>
</html>
"""

START: Final = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""

blueprint = Blueprint("docs", __name__, url_prefix="/docs")


class Surfaces(BasePlugin):
    """Describes the headers of every view with a `@surface`: its scope and its reason, unless it is
    personal, its receipt, and the entity tags by which one reads again and changes."""

    CONDITIONS: ClassVar = {"get": "IF_NONE_MATCH", "patch": "IF_MATCH", "delete": "IF_MATCH"}

    def __init__(self, app: Flask) -> None:
        self._app = app

    def init_spec(self, spec: APISpec) -> None:
        super().init_spec(spec)
        spec.components.parameter("SCOPE", "header", {"name": SCOPE_HEADER, **SCOPE}, lazy=True)
        spec.components.parameter("REASON", "header", {"name": REASON_HEADER, **REASON}, lazy=True)
        spec.components.header("RECEIPT", RECEIPT, lazy=True)
        spec.components.header("EXCLUDED", EXCLUDED, lazy=True)
        spec.components.header("LOCATION", LOCATION, lazy=True)

    def operation_helper(
        self, path: str | None = None, operations: Any = None, **options: Any
    ) -> None:
        view: Any = self._app.view_functions[options["rule"].endpoint]
        declared: Surface | None = getattr(view, "__surface__", None)
        if declared is None:
            return
        asked = [] if declared.personal else ["SCOPE", "REASON"]
        headers = {RECEIPT_HEADER: "RECEIPT"} | (
            {} if declared.personal else {EXCLUDED_HEADER: "EXCLUDED"}
        )
        for method, operation in operations.items():
            condition = [self.CONDITIONS[method]] if method in self.CONDITIONS else []
            operation.setdefault("parameters", []).extend([*asked, *condition])
            responses = operation["responses"]
            for response in responses.values():
                if "content" in response:
                    response["headers"] = {"ETag": "ETAG", **response.get("headers", {})}
            if method == "get":
                unchanged = {"description": "What you have is what there is"}
                responses["304"] = {**unchanged, "headers": {"ETag": "ETAG"}}
            if 201 in responses and asked:  # what concerns oneself may be made by the dozen
                responses[201].setdefault("headers", {})["Location"] = "LOCATION"
            for response in responses.values():
                if isinstance(response, dict):
                    response["headers"] = {**headers, **response.get("headers", {})}


class Api(flask_smorest.Api):  # type: ignore[misc]  # flask-smorest ships no types
    """flask-smorest's, with our configuration, our errors and a description that is public."""

    ERROR_SCHEMA = ProblemSchema

    def init_app(self, app: Flask, **options: Any) -> None:
        app.config.from_mapping({**CONFIG, **app.config})
        super().init_app(app, spec_kwargs={"extra_plugins": [Surfaces(app)]}, **options)

    def handle_http_exception(self, error: HTTPException) -> Response:
        """flask-smorest registers this method; what it answers is ours, whoever registers last."""
        return problem_of_http(error)

    def _register_responses(self) -> None:
        self.DEFAULT_RESPONSE_CONTENT_TYPE = PROBLEM_TYPE  # that of errors, for this call only
        super()._register_responses()
        del self.DEFAULT_RESPONSE_CONTENT_TYPE

    def _register_pagination_header(self) -> None:
        """Our lists have cursors; flask-smorest would describe its numbered pages all the same."""

    @public("describes routes and shapes, which are no secret")
    def _openapi_json(self) -> Response:
        description: Response = super()._openapi_json()
        return description


def init_app(app: Flask, blueprints: Iterable[flask_smorest.Blueprint]) -> None:
    """Register the API's blueprints, and the pages that describe them."""
    api = Api()  # one for each application: flask-smorest keeps the description in it
    api.init_app(app)
    for described in blueprints:
        api.register_blueprint(described)
    app.register_blueprint(blueprint)


@blueprint.get("/", strict_slashes=False)
@public("shows /openapi.json, which is public")
def page() -> Response:
    response = Response(PAGE, mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@blueprint.get("/start.js")
@public("part of the public page")
def start() -> Response:
    return Response(START, mimetype="text/javascript")


@blueprint.get("/<name>")
@public("files of Swagger UI, as anybody may download them")
def asset(name: str) -> Response:
    if name not in ASSETS:
        abort(404)
    return send_from_directory(swagger_ui_path, name)
