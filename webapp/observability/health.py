"""The routes `/healthz` (this process), `/readyz` (its dependencies) and `/metrics`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, partial
from typing import TYPE_CHECKING

import orjson
from celery import Celery
from flask import Flask, Response, current_app
from kombu import Connection
from prometheus_client.registry import Collector
from sqlalchemy import String, column, select, table
from sqlalchemy.exc import OperationalError

from webapp.db.deadline import DatabaseSilent, UnsupportedServer
from webapp.db.scopes import IdentityScope
from webapp.extensions import db
from webapp.http.operations import for_operators
from webapp.http.parsing import Blueprint
from webapp.http.public import public
from webapp.observability import metrics
from webapp.observability.last_seen import LastSeen
from webapp.observability.probes import LIMIT, CheckFailed, Probe, run_probes
from webapp.observability.schemas import HealthSchema, ReadinessSchema
from webapp.redis_servers import connect
from webapp.settings import current_settings
from webapp.signs_of_life.service import SILENT

if TYPE_CHECKING:
    from webapp.db.migrate import Revisions

PROBES = "sightline.probes"
_COLLECTORS = "sightline.collectors"

blueprint = Blueprint(
    "observability", __name__, description="Health and metrics, for whoever operates Sightline."
)


def init_app(app: Flask) -> None:
    app.extensions[PROBES] = {}
    add_check(app, "database", _check_database)
    add_check(app, "migrations", _check_migrations)
    add_check(app, "cache", _check_cache, essential=False)
    add_check(app, "broker", _check_broker, essential=False)
    last_seen = LastSeen(app)
    app.extensions[_COLLECTORS] = [last_seen]
    for kind in SILENT:
        add_check(app, kind, partial(last_seen.check, kind), essential=False)


def add_check(
    app: Flask, name: str, check: Callable[[], str | None], *, essential: bool = True
) -> None:
    """Add a check of a feature's dependency to `/readyz` and `flask doctor`.

    `check` runs in an application context, raises where the dependency is not well, and may return
    what there is to say of it. Without one that is not `essential` requests are served.
    """
    run = partial(_in_context, app, check)
    app.extensions[PROBES][name] = Probe(name, run, essential=essential)


def add_collector(app: Flask, collector: Collector) -> None:
    """Add what a feature reads from the database to `/metrics`."""
    app.extensions[_COLLECTORS].append(collector)


@blueprint.route("/healthz")
@public("asked by the orchestrator, and tells only that the process answers")
@blueprint.response(200, HealthSchema, description="The process answers")
def get_health() -> Response:
    """Ask whether this process answers"""
    return _json({"status": "ok"}, 200)


@blueprint.route("/readyz")
@public("asked by the load balancer, and tells no more than the kind of a failure")
@blueprint.response(200, ReadinessSchema, description="The process serves requests")
@blueprint.response(
    503, ReadinessSchema, description="Something is not well without which it cannot"
)
def get_readiness() -> Response:
    """Ask whether this process can serve requests

    `checks` has the state of the database, its schema, the cache, the broker, workers, beat and
    this process's journal. `status` is `degraded` where requests are served, and recorded, without
    one of them: cache, broker, workers and beat may be away for a time. The answer comes within a
    second, even if one of them hangs.
    """
    probes: Mapping[str, Probe] = current_app.extensions[PROBES]
    findings = run_probes(probes)
    status = _status({probes[name].essential for name, found in findings.items() if not found.ok})
    checks = {name: asdict(finding) for name, finding in findings.items()}
    return _json({"status": status, "checks": checks}, 503 if status == "unavailable" else 200)


@blueprint.route("/metrics")
@public("read by Prometheus: numbers by route and function, of no tenant or person")
@for_operators
@blueprint.response(
    200, {"type": "string"}, content_type="text/plain", description="Prometheus' text format"
)
def get_metrics() -> Response:
    """Read the metrics of all processes on this host"""
    return metrics.expose(*current_app.extensions[_COLLECTORS])


def _json(body: Mapping[str, object], status: int) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(orjson.dumps(body), status, headers, mimetype="application/json")


def _status(failed: set[bool]) -> str:
    """What failures mean, each of something essential or not."""
    if True in failed:
        return "unavailable"
    return "degraded" if failed else "ok"


def _in_context(app: Flask, check: Callable[[], str | None]) -> str | None:
    with app.app_context():
        return check()


def _check_database() -> None:
    try:
        db.reach()
    except OperationalError as error:
        raise CheckFailed(_cause(error)) from error


def _cause(error: OperationalError) -> str:
    if isinstance(error.orig, UnsupportedServer):
        return str(error.orig)
    if isinstance(error.orig, DatabaseSilent):
        return f"the database does not answer: {error.orig}"
    return "the database cannot be reached"


def _check_migrations() -> str | None:
    """Check that the database has what this version needs.

    It has with the next version's schema, too: migrations leave what the last version needs.
    """
    version = select(column("version_num", String)).select_from(table("alembic_version"))
    with db.scoped(IdentityScope()):
        current = set(db.session.scalars(version))
    ours = _revisions()
    if current - ours.known:
        return "a later version's schema, beside which this version runs"
    if current != ours.heads:
        raise CheckFailed("the database is behind this version's schema")
    return None


@cache
def _revisions() -> "Revisions":
    from webapp.db import migrate  # imports Alembic, for which no start should wait

    return migrate.revisions()


def _check_cache() -> None:
    client = connect(current_settings().redis_url, LIMIT)
    with client:
        client.ping()


def _check_broker() -> None:
    celery: Celery = current_app.extensions["celery"]
    bounded = {"socket_timeout": LIMIT, "socket_connect_timeout": LIMIT}
    with celery.connection_for_write(connect_timeout=LIMIT, transport_options=bounded) as broker:
        broker.ensure_connection(max_retries=max(0, len(broker.alt) - 1))  # each node once
        if broker.transport.driver_type == "amqp":
            _check_queues(celery, broker)


def _check_queues(celery: Celery, broker: Connection) -> None:
    """Declare the queues in RabbitMQ. It refuses one that is there with other arguments."""
    for name, queue in celery.amqp.queues.items():
        try:
            queue(broker.default_channel).declare()
        except broker.channel_errors as error:
            raise CheckFailed(
                f"the queue {name} cannot be used: BROKER_QUEUES names another kind than it has,"
                " or the user may not declare it"
            ) from error
