"""A small application with the cache: one table, and cached functions of every kind."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from uuid import UUID

import marshmallow as ma
from flask import Flask
from sqlalchemy import text

from webapp.caching import cache_result, init_app
from webapp.caching.cli import group
from webapp.db.scopes import Scope, TenantScope
from webapp.extensions import db
from webapp.http.schema import Schema, TupleOf
from webapp.settings import Settings

TITLES = text("select title from things where visibility = :visibility order by title")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Part:
    name: str
    parent: "Part | None" = None


@dataclass(frozen=True)
class Thing:
    id: UUID
    title: str
    count: int
    colour: Colour
    seen_at: datetime
    note: str | None
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Page:
    titles: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    text: str | None = None
    limit: int = 50


class ThingSchema(Schema):
    """A schema with a field of a schema that is defined later, and that contains itself."""

    model = Thing

    id = ma.fields.UUID(required=True)
    title = ma.fields.String(required=True)
    count = ma.fields.Integer(required=True, strict=True)
    colour = ma.fields.Enum(Colour, required=True)
    seen_at = ma.fields.AwareDateTime(required=True, format="iso")
    note = ma.fields.String(required=True, allow_none=True)
    parts = TupleOf(ma.fields.Nested("PartSchema"), required=True)


class PartSchema(Schema):
    model = Part

    name = ma.fields.String(required=True)
    parent = ma.fields.Nested("PartSchema", required=True, allow_none=True)


class PageSchema(Schema):
    model = Page

    titles = TupleOf(ma.fields.String(), required=True)


class Probe:
    """Counts computations, and runs a test's callbacks during them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.loads = 0
        self.before_read: Callable[[], object] = lambda: None
        self.after_read: Callable[[], object] = lambda: None
        self.thing: Thing | None = None
        self.things: tuple[Thing, ...] = ()


probe = Probe()


def tag(scope: Scope) -> str:
    return f"things:{scope.visibility}"


def tags(scope: Scope, *_: object) -> list[str]:
    return [tag(scope)]


def everything() -> list[tuple[Scope, Query]]:
    return [(TenantScope(UUID(int=1)), Query()), (TenantScope(UUID(int=2)), Query())]


@cache_result(schema=PageSchema, tags=tags, warm=everything)
def list_titles(scope: Scope, query: Query) -> Page:
    probe.loads += 1
    probe.before_read()
    rows = db.session.scalars(TITLES, {"visibility": scope.visibility})
    page = Page(tuple(rows)[: query.limit])
    probe.after_read()
    return page


@cache_result(schema=PageSchema, tags=tags, ttl=60, soft_ttl=0)
def list_always_soft(scope: Scope) -> Page:
    return list_titles.uncached(scope, Query())


@cache_result(schema=PageSchema, tags=tags, ttl=0)
def list_already_expired(scope: Scope) -> Page:
    return list_titles.uncached(scope, Query())


@cache_result(schema=ThingSchema, tags=tags)
def find_thing(_scope: Scope, _name: str) -> Thing | None:
    probe.loads += 1
    return probe.thing


@cache_result(schema=ThingSchema, many=True, tags=tags)
def find_things(_scope: Scope, _name: str) -> tuple[Thing, ...]:
    probe.loads += 1
    return probe.things


def create_app(
    database_url: str,
    redis_url: str,
    secret_key: str = "k" * 40,  # noqa: S107 - a test's
    cache_timeout: float = 0.25,
    secret_key_accepted: str | None = None,
) -> Flask:
    app = Flask("sample")
    app.extensions["settings"] = Settings(
        env="development",
        home=Path(),
        secret_key=secret_key,
        database_url=database_url,
        database_owner_url=None,
        database_timeout=5.0,
        rate_limit_address=0,
        rate_limit_failures=0,
        rate_limit_principal=0,
        rate_limit_tenant=0,
        rate_limit_denied=0,
        redis_url=redis_url,
        celery_broker_url=redis_url,
        journal_dir=Path(),
        journal_max_mb=1,
        journal_keep=0,
        checkpoint_dir=Path(),
        audit_timeout=2,
        cache_ttl=300,
        cache_timeout=cache_timeout,
        secret_key_accepted=secret_key_accepted,
    )
    db.init_app(app)
    init_app(app)
    app.cli.add_command(group)
    return app
