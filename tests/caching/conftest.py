"""Fixtures of the sample application, on servers that its tests stop, kill and wipe."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from alembic.script import ScriptDirectory
from flask import Flask
from sqlalchemy import create_engine, text

from tests.caching.sample import create_app, probe
from tests.caching.servers import PostgresServer, RedisServer
from tests.caching.unit import caching
from webapp.caching.models import CacheGeneration
from webapp.caching.result import REQUESTS
from webapp.db import migrate
from webapp.db.base import Base
from webapp.db.scopes import TenantScope
from webapp.extensions import db

ROLES = ("sightline_tenant", "sightline_global", "sightline_identity", "sightline_ledger")

LOGIN = "sample_login"

RAISE_GENERATIONS: str = (
    ScriptDirectory(migrate.MIGRATIONS).get_revision("0005").module.RAISE_GENERATIONS
)

Counted = Callable[[str, str], float]


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    engine = create_engine(server.superuser_url)
    with engine.begin() as connection:
        Base.metadata.create_all(connection, [Base.metadata.tables[CacheGeneration.__tablename__]])
        connection.execute(text(RAISE_GENERATIONS))
        connection.execute(text("create table things (visibility text, title text)"))
        connection.execute(text(f"create role {LOGIN} login password '{LOGIN}'"))
        for role in ROLES:
            connection.execute(text(f"create role {role} nologin"))
            connection.execute(text(f"grant all on all tables in schema public to {role}"))
            connection.execute(text(f"grant {role} to {LOGIN} with inherit false, set true"))
    engine.dispose()
    yield server
    server.stop()


def login_url(server: PostgresServer) -> str:
    """Return the URL for a login role that owns nothing, as the application requires."""
    return server.url(LOGIN, LOGIN, "postgres").replace("postgresql:", "postgresql+psycopg2:")


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.client.close()
    server.resume()
    server.kill()


@pytest.fixture
def make_app(
    postgres_server: PostgresServer, redis_server: RedisServer
) -> Iterator[Callable[..., Flask]]:
    """Makes applications, each with its own memory and connections, as a process has them."""
    apps: list[Flask] = []

    def make(**settings: Any) -> Flask:
        apps.append(create_app(login_url(postgres_server), redis_server.url, **settings))
        return apps[-1]

    engine = create_engine(postgres_server.superuser_url)
    with engine.begin() as connection:
        connection.execute(text("truncate things, cache_generations"))
    engine.dispose()
    probe.reset()
    yield make
    for app in apps:
        caching(app).store.client.close()
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def other_app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def scope() -> TenantScope:
    return TenantScope(uuid4())


@pytest.fixture
def counted() -> Counted:
    """Counts the calls of a function with an outcome, in this test process."""

    def count(function: str, outcome: str) -> float:
        name = f"tests.caching.sample.{function}"
        value: float = REQUESTS.labels(name, outcome)._value.get()
        return value

    return count
