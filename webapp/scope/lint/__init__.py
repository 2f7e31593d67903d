"""`make lint-scope`: proves that no route, command, table or file leads around the scopes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flask import Flask
from sqlalchemy import NullPool, create_engine, make_url

from webapp.db.base import Base
from webapp.db.deadline import Connector
from webapp.scope.lint.allowlist import EXEMPTIONS, check_allowlist, keep_refused
from webapp.scope.lint.catalog import Table, read_tables
from webapp.scope.lint.commands import check_commands, commands_of
from webapp.scope.lint.exceptions import (
    FILE,
    RULE,
    ExceptionsError,
    apply_exceptions,
    check_growth,
    parse_exceptions,
    read_committed,
)
from webapp.scope.lint.finding import LintFinding
from webapp.scope.lint.routes import check_routes
from webapp.scope.lint.source import check_source
from webapp.scope.lint.tables import check_tables, tenant_keys
from webapp.settings import Settings, current_settings

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Report:
    """The findings, and how much was checked."""

    findings: tuple[LintFinding, ...]
    routes: int
    commands: int
    tables: int
    files: int


def lint(app: Flask, root: Path = ROOT) -> Report:
    """Check the application's routes and commands, the tables of its database, and the sources in
    `root`."""
    settings = current_settings()
    tables = _read_tables(settings)
    keys = tenant_keys(tables)
    files = sorted(source_files(root))
    found = [finding for path in files for finding in check_source(path, root, tenant_names(keys))]
    refused, used = keep_refused(found)
    findings = [
        *check_routes(app),
        *check_commands(app),
        *check_tables(tables, _login_role(settings)),
        *check_allowlist(EXEMPTIONS, used),
        *refused,
    ]
    return Report(
        findings=tuple(sorted(_except(findings, root), key=str)),
        routes=sum(1 for _ in app.url_map.iter_rules()),
        commands=sum(1 for _ in commands_of(app)),
        tables=len(keys),
        files=len(files),
    )


def check_database(settings: Settings) -> list[LintFinding]:
    """Check the tables of the database that the settings name."""
    return check_tables(_read_tables(settings), _login_role(settings))


def source_files(root: Path) -> Iterator[Path]:
    for folder in ("webapp", "tasks"):
        yield from (root / folder).rglob("*.py")
    yield root / "wsgi.py"


def tenant_names(tables: Iterable[str]) -> frozenset[str]:
    """The tenant tables' names, and the names of the models mapped to them."""
    names = set(tables)
    models = {
        m.class_.__name__
        for m in Base.registry.mappers
        if m.persist_selectable.description in names
    }
    return frozenset(names | models)


def _read_tables(settings: Settings) -> list[Table]:
    url = settings.database_owner_url or settings.database_url
    connector = Connector(settings.database_timeout)
    arguments = {"connection_factory": connector.connect}
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    with engine.connect() as connection:
        return read_tables(connection)


def _login_role(settings: Settings) -> str:
    return make_url(settings.database_url).username or ""


def _except(findings: list[LintFinding], root: Path) -> list[LintFinding]:
    path = root / FILE
    try:
        listed = parse_exceptions(path.read_text(encoding="utf-8") if path.exists() else "")
        committed = read_committed(root)
        before = parse_exceptions(committed) if committed is not None else listed
    except ExceptionsError as error:
        return [*findings, LintFinding(FILE, None, RULE, str(error))]
    return [*apply_exceptions(findings, listed), *check_growth(listed, before)]
