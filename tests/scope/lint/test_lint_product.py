"""`flask scope lint` finds nothing in the product, and names each fault added to a copy of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import orjson
import psycopg2
import pytest
from flask import Flask

from tests.processes import ROOT
from webapp.db import migrate
from webapp.scope.lint.exceptions import FILE
from webapp.settings import read_settings
from webapp.stack.home import open_stack, running

pytestmark = pytest.mark.slow(seconds=6)

PARTS = ("webapp", "tasks", "migrations", "wsgi.py", "celeryconfig.py", FILE)


def lint(
    root: Path, environment: Mapping[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "scope", "lint", *options]
    return subprocess.run(
        command,
        cwd=root,
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the product's sources, for adding faults."""
    root = tmp_path / "copy"
    root.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, root / part)
    return root


def add_fault(root: Path, file: str, *lines: str) -> str:
    """Add lines at a file's end; returns the place of the first one."""
    path = root / file
    before = path.read_text()
    path.write_text(before + "\n".join(lines) + "\n")
    return f"{file}:{len(before.splitlines()) + 1}"


def named(linted: subprocess.CompletedProcess[str]) -> set[tuple[str, str]]:
    """The findings in the output: places and rules. The last line is a summary."""
    lines = linted.stdout.splitlines()[:-1]
    return {(place, rule) for place, rule, *_ in (line.split(": ") for line in lines)}


def test_lint_of_the_product_finds_nothing(app: Flask, environment: dict[str, str]) -> None:
    passed = lint(ROOT, environment)
    assert (passed.returncode, named(passed)) == (0, set())
    assert passed.stdout.startswith("Every way to tenants' rows is declared: ")
    report = orjson.loads(lint(ROOT, environment, "--json").stdout)
    assert report["findings"] == []
    assert report["routes"] == len(list(app.url_map.iter_rules()))
    assert report["tables"] >= 5
    assert report["files"] > 50


SOURCE_FAULTS = {
    "raw-sql": ("webapp/rules/service.py", "import sqlalchemy; faulty = sqlalchemy.text('x')"),
    "tenant-dml": (
        "webapp/ledger/search.py",
        "import sqlalchemy; faulty = sqlalchemy.update(AuditEventRow)",
    ),
    "bulk": ("webapp/directory/listing.py", "faulty = lambda: db.session.bulk_save_objects([])"),
    "connection": ("webapp/rules/cli.py", "faulty = lambda session: session.connection()"),
    "session-set": ("tasks/identity.py", "faulty = 'set role sightline_global'"),
    "commit": ("webapp/audit/recorder.py", "faulty = lambda session: session.commit()"),
    "scope-entry": ("webapp/rules/views.py", "faulty = lambda: db.session.enter(None)"),
}


def test_lint_names_each_fault_in_source_with_its_line(
    app: Flask, environment: dict[str, str], copy: Path
) -> None:
    assert app
    clean = lint(copy, environment)
    assert (clean.returncode, named(clean)) == (0, set())
    expected = {(add_fault(copy, *fault), rule) for rule, fault in SOURCE_FAULTS.items()}
    found = lint(copy, environment)
    assert (found.returncode, named(found)) == (1, expected)


def test_lint_refuses_an_exception_added_for_a_fault(
    app: Flask, environment: dict[str, str], copy: Path
) -> None:
    assert app
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", FILE], ["commit", "--quiet", "-m", "as it is"]):
        subprocess.run([*git, *command], cwd=copy, check=True, capture_output=True)
    file, fault = SOURCE_FAULTS["commit"]
    add_fault(copy, file, fault)
    entry = {"file": file, "rule": "commit", "count": 1, "reason": "no time"}
    add_fault(
        copy, FILE, "[[exception]]", *(f"{name} = {value!r}" for name, value in entry.items())
    )
    found = lint(copy, environment)
    assert found.returncode == 1
    assert f"{FILE}: exceptions: {file} commit: 1 where 0 stood" in found.stdout


ROUTES = """
@blueprint.get("/faulty/undeclared")
def undeclared() -> str:
    return ""


@blueprint.get("/faulty/no-reason")
@public("")
def without_reason() -> str:
    return ""


def unguarded() -> str:
    return ""


from webapp.scope.surface import surface

guarded = surface("faulty.twice", tenant_roles=("admin",), platform_roles=("owner",))
unguarded.__surface__ = guarded(undeclared).__surface__
blueprint.add_url_rule("/faulty/unguarded", view_func=unguarded)
other = surface("faulty.twice", tenant_roles=("member",), platform_roles=("owner",))
blueprint.add_url_rule("/faulty/one", "one", guarded(lambda: ""))
blueprint.add_url_rule("/faulty/two", "two", other(lambda: ""))
"""


def test_lint_names_each_fault_in_a_route(
    app: Flask, environment: dict[str, str], copy: Path
) -> None:
    assert app
    add_fault(copy, "webapp/ledger/sealing/views.py", ROUTES)
    recorder = copy / "webapp/audit/recorder.py"
    finalized = "    app.after_request(finalize)\n"
    assert finalized in recorder.read_text()
    recorder.write_text(recorder.read_text().replace(finalized, ""))
    found = lint(copy, environment)
    assert found.returncode == 1
    assert named(found) == {
        ("app", "unrecorded"),
        ("route GET /log/faulty/undeclared", "undeclared"),
        ("route GET /log/faulty/no-reason", "no-reason"),
        ("route GET /log/faulty/unguarded", "unguarded"),
        ("route GET /log/faulty/one", "uncounted"),
        ("route GET /log/faulty/two", "uncounted"),
        ("route GET /log/faulty/two", "surface-twice"),
    }


@pytest.fixture
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead to a migrated database, for adding faults."""
    home = tmp_path_factory.mktemp("spoilt")
    stack = open_stack(home, durable=False)
    with running(stack):
        leading = {"SIGHTLINE_HOME": str(home), **stack.environment}
        with mock.patch.dict(os.environ, leading):
            migrate.upgrade(read_settings())
        yield leading


OWN = "(select nullif(current_setting('sightline.tenant_id', true), '')::uuid)"
TABLE_FAULTS = {
    ("table rules", "not-secured"): "alter table rules disable row level security",
    ("table rule_versions", "not-forced"): "alter table rule_versions no force row level security",
    ("table memberships", "no-policy"): (
        "drop policy tenant_all on memberships;"
        f" create policy tenant_all on memberships to sightline_tenant using (tenant_id = {OWN})"
    ),
    ("table tenants", "other-policy"): "alter policy tenant_all on tenants using (true)",
    ("table audit_events", "append-only"): "grant update on audit_events to sightline_ledger",
    ("table audit_events", "no-index"): ("drop index ix_audit_events_tenant_id_occurred_at_id"),
    ("table faulty", "no-policy"): "create table faulty (id uuid primary key, tenant_id uuid)",
    ("table faulty", "bare-setting"): (
        "create policy own on faulty to sightline_tenant using"
        " (tenant_id = current_setting('sightline.tenant_id')::uuid)"
    ),
    ("table rules", "view"): "create view shown as select * from rules",
}


def test_lint_names_each_fault_in_a_table(spoilt: dict[str, str]) -> None:
    clean = lint(ROOT, spoilt)
    assert clean.returncode == 0, clean.stdout
    connection = psycopg2.connect(spoilt["DATABASE_OWNER_URL"])
    try:
        with connection, connection.cursor() as cursor:
            for fault in TABLE_FAULTS.values():
                cursor.execute(fault)
    finally:
        connection.close()
    found = lint(ROOT, spoilt)
    assert found.returncode == 1
    assert TABLE_FAULTS.keys() <= named(found)
