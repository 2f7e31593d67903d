"""Sightline: every access across tenants decided by rules, served fast, recorded exactly once."""

from flask import Flask

from webapp import caching, cli, observability
from webapp.audit import recorder
from webapp.audit.journal import readiness
from webapp.audit.relay import pipeline
from webapp.decisions import decide as deciding
from webapp.elevations.views import blueprint as elevations_blueprint
from webapp.extensions import init_celery, init_db
from webapp.grants import active as active
from webapp.grants.views import blueprint as grants_blueprint
from webapp.http import errors, openapi, proxies
from webapp.identity import authentication as identity
from webapp.ledger.views import blueprint as audits_blueprint
from webapp.observability.health import blueprint as health_blueprint
from webapp.observability.request_log import Application
from webapp.rules import rule_sets as sets
from webapp.rules.views import blueprint as rules_blueprint
from webapp.scope.openapi import SurfacesPlugin
from webapp.settings import Settings, read_settings


def create_app(settings: Settings | None = None) -> Flask:
    """An application for `settings`, by default the environment's; connects to nothing yet."""
    app = Application("webapp", static_folder=None)
    app.extensions["settings"] = settings or read_settings()
    app.config["MAX_CONTENT_LENGTH"] = 2**20
    errors.init_app(app)
    observability.init_app(app)
    init_db(app)
    init_celery(app)
    caching.init_app(app)
    identity.init_app(app)
    sets.init_app(app)
    active.init_app(app)
    deciding.init_app(app)
    pipeline.init_app(app)
    readiness.init_app(app)
    recorder.init_app(app)
    openapi.init_app(
        app,
        [
            rules_blueprint,
            grants_blueprint,
            audits_blueprint,
            elevations_blueprint,
            health_blueprint,
        ],
        plugins=[SurfacesPlugin(app)],
    )
    cli.init_app(app)
    proxies.init_app(app)
    return app
