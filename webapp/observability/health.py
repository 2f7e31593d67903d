"""`/healthz`: this process. `/readyz`: what it depends on. `/metrics`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import orjson
import redis
from alembic.script import ScriptDirectory
from celery import Celery
from flask import Blueprint, Flask, Response, current_app
from sqlalchemy import String, column, literal, select, table

from webapp.extensions import current_settings, db
from webapp.observability import metrics
from webapp.observability.probes import LIMIT, CheckFailed, Probe, look
from webapp.scope.declare import public

PROBES = "sightline.probes"
MIGRATIONS = Path(__file__).parents[2] / "migrations"

blueprint = Blueprint("observability", __name__)


def init_app(app: Flask) -> None:
    checks: dict[str, Callable[[], None]] = {
        "database": _check_database,
        "migrations": _check_migrations,
        "cache": _check_cache,
        "broker": _check_broker,
    }
    app.extensions[PROBES] = {
        name: Probe(name, partial(_in_context, app, check)) for name, check in checks.items()
    }
    app.register_blueprint(blueprint)


@blueprint.get("/healthz")
@public("asked by the orchestrator, and tells only that the process answers")
def healthz() -> Response:
    return _json({"status": "ok"}, 200)


@blueprint.get("/readyz")
@public("asked by the load balancer, and tells no more than the kind of a failure")
def readyz() -> Response:
    findings = look(current_app.extensions[PROBES])
    ready = all(finding.ok for finding in findings.values())
    checks = {name: asdict(finding) for name, finding in findings.items()}
    body = {"status": "ok" if ready else "unavailable", "checks": checks}
    return _json(body, 200 if ready else 503)


@blueprint.get("/metrics")
@public("read by Prometheus, and holds numbers by route and function, of no tenant or person")
def exposition() -> Response:
    return metrics.expose()


def _json(body: Mapping[str, object], status: int) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(orjson.dumps(body), status, headers, mimetype="application/json")


def _in_context(app: Flask, check: Callable[[], None]) -> None:
    with app.app_context():
        check()


def _check_database() -> None:
    with db.engine.connect() as connection:
        connection.execute(select(literal(1)))


def _check_migrations() -> None:
    version = select(column("version_num", String)).select_from(table("alembic_version"))
    with db.engine.connect() as connection:
        current = set(connection.scalars(version))
    if current != _heads():
        raise CheckFailed("the database is not at this version's schema")


@cache
def _heads() -> frozenset[str]:
    return frozenset(ScriptDirectory(MIGRATIONS).get_heads())


def _check_cache() -> None:
    client = redis.Redis.from_url(
        current_settings().redis_url, socket_timeout=LIMIT, socket_connect_timeout=LIMIT
    )
    with client:
        client.ping()


def _check_broker() -> None:
    celery: Celery = current_app.extensions["celery"]
    bounded = {"socket_timeout": LIMIT, "socket_connect_timeout": LIMIT}
    with celery.connection_for_write(connect_timeout=LIMIT, transport_options=bounded) as broker:
        broker.ensure_connection(max_retries=0)
