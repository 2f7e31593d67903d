"""The application: an ordered list of what it is made of."""

from collections.abc import Callable
from typing import Any

from flask import Flask

from webapp import caching, cli, observability
from webapp.audit import recorder
from webapp.audit.journal import readiness
from webapp.audit.relay import pipeline
from webapp.decisions import decide
from webapp.directory.views import members_blueprint, tenants_blueprint, tokens_blueprint
from webapp.elevations.views import blueprint as elevations
from webapp.extensions import db
from webapp.grants import active
from webapp.grants.views import blueprint as grants
from webapp.http import errors, openapi, proxies, rate_limits, redirects
from webapp.identity import authentication
from webapp.ledger.sealing import following
from webapp.ledger.sealing import state as log_state
from webapp.ledger.sealing.views import blueprint as log
from webapp.ledger.sealing.views import later_logs
from webapp.ledger.views import blueprint as audits
from webapp.observability.health import blueprint as health
from webapp.rules import rule_sets
from webapp.rules.simulation import queue as simulations
from webapp.rules.views import blueprint as rules
from webapp.scope import enter
from webapp.scope.openapi import SurfacesPlugin
from webapp.settings import Settings, read_settings
from webapp.worker import celery_app

MAX_BODY = 2**20
"""Bytes."""


class Application(Flask):
    """Flask without coroutines: no view and no hook here is one.

    Flask asks that of each at each request, eight times for a cached list: 8 % of the calls that
    such an answer makes.
    """

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """Make an application for `settings`, by default the environment's.

    It connects to nothing yet.
    """
    app = Application("webapp", static_folder=None)
    app.extensions["settings"] = settings or read_settings()
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    observability.init_app(app)
    redirects.init_app(app)
    errors.init_app(app)
    rate_limits.init_app(app)
    db.init_app(app)
    celery_app.init_app(app)
    following.init_app(app)
    log_state.init_app(app)
    caching.init_app(app)
    authentication.init_app(app)
    pipeline.init_app(app)
    readiness.init_app(app)
    recorder.init_app(app)
    rule_sets.init_app(app)
    simulations.init_app(app)
    active.init_app(app)
    decide.init_app(app)
    enter.bind_decider(app, decide.RulesDecider())
    directory = [tenants_blueprint, members_blueprint, tokens_blueprint]
    blueprints = [rules, grants, audits, log, elevations, *directory, health]
    openapi.init_app(app, blueprints, plugins=[SurfacesPlugin(app)])
    app.register_blueprint(later_logs)
    cli.init_app(app)
    proxies.init_app(app)
    return app
