"""The page at /docs: the document in Swagger UI, from the files of its wheel."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, abort, send_from_directory

from webapp.http.operations import for_operators
from webapp.http.public import public

STATIC: Final = Path(__file__).parent / "static"
SWAGGER_UI: Final = Path(str(files("flask_swagger_ui"))) / "dist"
DOCS: Final = Path(__file__).parents[3] / "docs"

ASSETS: Final[Mapping[str, Path]] = {
    "swagger-ui.css": SWAGGER_UI,
    "swagger-ui-bundle.js": SWAGGER_UI,
    "favicon-32x32.png": SWAGGER_UI,
    "page.css": STATIC,
    "page.js": STATIC,
    "contract.md": DOCS,
}
"""The files that are served, and the folder of each."""

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE: Final = (STATIC / "page.html").read_text(encoding="utf-8")

blueprint = Blueprint("docs", __name__, url_prefix="/docs")


@blueprint.get("/", strict_slashes=False)
@public("shows /openapi.json, for those who may read that")
@for_operators
def page() -> Response:
    response = Response(PAGE, mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@blueprint.get("/<name>")
@public("files of Swagger UI and of this page, and the contract")
@for_operators
def asset(name: str) -> Response:
    if name not in ASSETS:
        abort(404)
    return send_from_directory(ASSETS[name], name)
