"""Commands that change something leave an audit event, committed with the change."""

from flask import Flask
from sqlalchemy import select

from tests.audit.receipts import second_connection
from tests.conftest import Run
from tests.directory.test_cli import succeed, unique
from webapp.audit.models import AuditEventRow


def test_changing_command_is_recorded_with_its_change(app: Flask, run: Run) -> None:
    slug, email = unique("acme"), f"{unique('ann')}@example.org"
    run("tenants", "create", slug)
    run("users", "create", email)
    run("users", "grant", email, "support")
    run("users", "join", email, slug, "--role", "admin")
    made = succeed(run, "tokens", "create", email, "--name", "x")
    run("tokens", "revoke", made["id"])
    run("users", "leave", email, slug)
    run("users", "revoke", email, "support")
    paths = [
        f"flask tenants create {slug}",
        f"flask users create {email}",
        f"flask users grant {email} support",
        f"flask users join {email} {slug} admin",
        f"flask tokens create {made['id']} for {email}",
        f"flask tokens revoke {made['id']}",
        f"flask users leave {email} {slug}",
        f"flask users revoke {email} support",
    ]
    with second_connection(app) as session:
        path = AuditEventRow.event["request"]["path"].astext
        recorded = session.execute(
            select(path, AuditEventRow.kind, AuditEventRow.actor_email, AuditEventRow.origin_seq)
            .where(path.in_(paths))
            .order_by(AuditEventRow.origin_seq)
        ).all()
    assert [row[0] for row in recorded] == paths
    assert {(row[1], row[2]) for row in recorded} == {("change", "operator")}
    numbers = [row[3] for row in recorded]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_failed_command_is_not_recorded(app: Flask, run: Run) -> None:
    email = f"{unique('ann')}@example.org"
    assert run("users", "grant", email, "support").exit_code != 0
    with second_connection(app) as session:
        path = AuditEventRow.event["request"]["path"].astext
        assert session.scalars(select(path).where(path.contains(email))).all() == []
