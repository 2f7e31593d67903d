"""The lint of sources: each fault in a file of its own, and files without faults."""

from pathlib import Path

import pytest

from webapp.scope.lint.allowlist import Exemption, check_allowlist, keep_refused
from webapp.scope.lint.finding import LintFinding
from webapp.scope.lint.source import check_source

TENANT_NAMES = frozenset({"rules", "RuleRow"})


def check(tmp_path: Path, *lines: str) -> list[LintFinding]:
    path = tmp_path / "service.py"
    path.write_text("\n".join(lines))
    return check_source(path, tmp_path, TENANT_NAMES)


FAULTS = [
    ("raw-sql", ["from sqlalchemy import text", "session.execute(text('select 1'))"]),
    ("raw-sql", ["from sqlalchemy import text as t", "session.execute(t('select 1'))"]),
    ("raw-sql", ["import sqlalchemy as sa", "session.execute(sa.text('select 1'))"]),
    ("raw-sql", ["import sqlalchemy", "run = map(sqlalchemy.sql.text, lines)"]),
    ("raw-sql", ["connection.execute('select 1')"]),
    ("raw-sql", ["connection.execute(f'select {n}')"]),
    ("raw-sql", ["connection.execute('select ' + n)"]),
    ("raw-sql", ["connection.execute('select {}'.format(n))"]),
    ("raw-sql", ["connection.exec_driver_sql(query)"]),
    ("tenant-dml", ["from sqlalchemy import update", "session.execute(update(RuleRow))"]),
    ("tenant-dml", ["from sqlalchemy import delete", "session.execute(delete(models.RuleRow))"]),
    ("tenant-dml", ["from sqlalchemy.dialects.postgresql import insert", "x = insert(RuleRow)"]),
    ("tenant-dml", ["import sqlalchemy as sa", "sa.insert(rules)"]),
    ("tenant-dml", ["from sqlalchemy import update", "update(choose())"]),
    ("tenant-dml", ["x = RuleRow.__table__"]),
    ("bulk", ["session.bulk_update_mappings(RuleRow, rows)"]),
    ("bulk", ["session.bulk_save_objects(rows)"]),
    ("bulk", ["session.bulk_insert_mappings(RuleRow, rows)"]),
    ("connection", ["session.connection()"]),
    ("connection", ["session.get_bind()"]),
    ("connection", ["db.engine.connect()"]),
    ("connection", ["db.get_engine('x').begin()"]),
    ("connection", ["engine.raw_connection()"]),
    ("connection", ["connection.cursor()"]),
    ("connection", ["from sqlalchemy import create_engine", "create_engine(url)"]),
    ("connection", ["import psycopg2", "psycopg2.connect(url)"]),
    ("session-set", ["x = 'SET ROLE sightline_tenant'"]),
    ("session-set", ["x = '  set session role x'"]),
    ("session-set", ["x = 'set sightline.tenant_id = 1'"]),
    ("session-set", ["x = 'reset all'"]),
    ("session-set", ["x = 'select 1;\\nset row_security = off'"]),
    ("session-set", ["x = f\"select set_config('role', {role}, false)\""]),
    ("session-set", ["x = \"select set_config('role', :role, false)\""]),
    ("commit", ["session.commit()"]),
    ("commit", ["db.session.commit()"]),
    ("scope-entry", ["db.session.enter(scope)"]),
    ("scope-entry", ["with session.scoped(scope):", "    pass"]),
    ("scope-entry", ["with db.scoped(scope):", "    pass"]),
]

GOOD = [
    ["from sqlalchemy import select", "session.scalars(select(RuleRow))"],
    ["from sqlalchemy import update", "session.execute(update(ApiToken))"],
    ["from sqlalchemy import select", "session.get(RuleRow, id)", "session.add(rule)"],
    ["x = \"select set_config('role', :role, true)\""],
    ["x = 'set the table for two'"],
    ["text = 'a name like any other'", "print(text)"],
    ["from markupsafe import text", "text('x')"],
    ["from dict import update", "update(x)", "rules.update({})", "cache.delete(key)"],
    ["session.flush()"],
    ["with enter_scope(principal, surface, target, reason):", "    pass"],
    ["pool.connect()", "transaction.begin()"],
]


@pytest.mark.parametrize(("rule", "lines"), FAULTS)
def test_fault_in_source_is_found_once_on_its_line(
    tmp_path: Path, rule: str, lines: list[str]
) -> None:
    (finding,) = check(tmp_path, "", *lines)
    assert finding.rule == rule
    last = lines.index("    pass") if "    pass" in lines else len(lines)
    assert finding.where == f"service.py:{1 + last}"


@pytest.mark.parametrize("lines", GOOD)
def test_work_through_the_session_passes(tmp_path: Path, lines: list[str]) -> None:
    assert check(tmp_path, *lines) == []


FINDING = LintFinding("webapp/rules/service.py", 3, "commit", "")


@pytest.mark.parametrize("files", ["webapp/rules/service.py", "webapp/*service.py"])
def test_exemption_admits_its_rule_in_its_files(files: str) -> None:
    exemption = Exemption(files, "commit", "a reason")
    assert keep_refused([FINDING], [exemption]) == ([], {exemption})
    assert check_allowlist([exemption], {exemption}) == []


@pytest.mark.parametrize(
    ("files", "rule"), [("webapp/rules/service.py", "bulk"), ("webapp/grants/service.py", "commit")]
)
def test_exemption_admits_no_other_rule_or_file(files: str, rule: str) -> None:
    assert keep_refused([FINDING], [Exemption(files, rule, "a reason")]) == ([FINDING], set())


def test_unused_exemption_of_one_file_is_found() -> None:
    exemption = Exemption("webapp/rules/service.py", "commit", "a reason")
    assert [finding.rule for finding in check_allowlist([exemption], set())] == ["unused-exemption"]
    pattern = Exemption("webapp/*service.py", "commit", "a reason")
    assert check_allowlist([pattern], set()) == []
