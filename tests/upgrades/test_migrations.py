"""Migrations expand: what the last release needs of the database stays, until the next one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg2
import pytest
from flask import Flask

from tests.db.databases import Database
from tests.upgrades.last_release import CONTRACTIONS
from tests.upgrades.offers import Offers, contractions, read_offers
from webapp.db import migrate
from webapp.settings import read_settings

VERSIONS = "migrations/versions"


def migrations_of(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (root / VERSIONS).glob("*.py")}


def ours() -> dict[str, str]:
    return migrations_of(migrate.MIGRATIONS.parent)


def test_migrations_of_the_last_release_stay_as_they_are(last_release: Path) -> None:
    """Who has run them would not run them again."""
    released = migrations_of(last_release)
    assert released
    assert {name: ours().get(name) for name in released} == released


@pytest.mark.slow
def test_migrations_since_the_last_release_take_nothing_from_it(
    request: pytest.FixtureRequest, last_release: Path, environment: dict[str, str]
) -> None:
    taken: list[str] = []
    if ours() != migrations_of(last_release):
        server = request.getfixturevalue("server")
        before, after = both_schemas(last_release, Database(server, "upgraded", others=environment))
        taken = contractions(before, after)
    assert taken == sorted(CONTRACTIONS), "expand now, and contract after the next release"


def both_schemas(last_release: Path, database: Database) -> tuple[Offers, Offers]:
    """What a database offers when the last release has migrated it, and then this version."""
    database.make()
    with mock.patch.dict("os.environ", database.environment):
        settings = read_settings()
    with mock.patch.object(migrate, "MIGRATIONS", last_release / "migrations"):
        migrate.upgrade(settings)
    before = offers_of(database)
    migrate.upgrade(settings)
    return before, offers_of(database)


def offers_of(database: Database) -> Offers:
    with as_owner(database.environment) as cursor:
        return read_offers(cursor)


@contextmanager
def as_owner(environment: Mapping[str, str]) -> Iterator[Any]:
    """A cursor of the tables' owner, in a transaction that is rolled back."""
    connection = psycopg2.connect(environment["DATABASE_OWNER_URL"])
    try:
        yield connection.cursor()
    finally:
        connection.close()


@pytest.fixture
def owner_cursor(app: Flask, environment: dict[str, str]) -> Iterator[Any]:
    assert app  # it has migrated the database
    with as_owner(environment) as cursor:
        yield cursor


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("drop table signs_of_life", "gone: table signs_of_life"),
        ("alter table rules rename column ticket to tickets", "gone: column rules.ticket, "),
        ("alter table tenants alter name type varchar(900)", "gone: column tenants.name, text"),
        (
            "alter function append_events rename to append_more",
            "gone: function append_events(",
        ),
        (
            "revoke select on signs_of_life from sightline_identity",
            "gone: sightline_identity may select signs_of_life",
        ),
        (
            "alter table tenants add column forced text not null default '';"
            " alter table tenants alter column forced drop default",
            "new: column tenants.forced has to be given",
        ),
        (
            "alter table tenants add check (length(name) < 9000)",
            "new: constraint on tenants: CHECK",
        ),
        (
            "create unique index on tenants (name)",
            "new: unique index on tenants: USING btree (name)",
        ),
    ],
)
def test_contraction_is_named(owner_cursor: Any, change: str, named: str) -> None:
    before = read_offers(owner_cursor)
    owner_cursor.execute(change)
    found = contractions(before, read_offers(owner_cursor))
    assert any(each.startswith(named) for each in found), found


def test_expansion_is_no_contraction(owner_cursor: Any) -> None:
    before = read_offers(owner_cursor)
    for change in (
        "create table of_later (id int primary key, name text not null unique)",
        "grant select on of_later to sightline_web",
        "alter table rules add column of_later text",
        "alter table rules add column counted int not null default 0",
        "alter table tenants alter column name drop not null",
        "create index on tenants (name)",
        "create function later() returns int language sql as 'select 1'",
    ):
        owner_cursor.execute(change)
    assert contractions(before, read_offers(owner_cursor)) == []
