"""The API's description: an OpenAPI 3.1 document at /openapi.json, and a page of it at /docs."""

from collections.abc import Iterable

import flask_smorest
from apispec import BasePlugin
from flask import Flask

from webapp.http.openapi import document, page
from webapp.http.openapi.document import Api
from webapp.settings import Settings

__all__ = ["Api", "init_app"]


def init_app(
    app: Flask,
    blueprints: Iterable[flask_smorest.Blueprint],
    plugins: Iterable[BasePlugin] = (),
) -> None:
    """Register the API's blueprints and the pages that describe them.

    Each apispec plugin describes what a room above adds to the operations of its views.
    """
    settings: Settings = app.extensions["settings"]
    server = {"url": settings.public_url, "description": "Where people reach this installation."}
    api = Api(app, plugins=plugins, servers=[server])
    for described in [*blueprints, document.blueprint]:
        api.register_blueprint(described)
    app.register_blueprint(page.blueprint)
