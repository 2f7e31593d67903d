"""Mapping of database rows to rules as values."""

from datetime import UTC

from webapp.db.session import in_utc
from webapp.rules.engine.evaluate import Candidate
from webapp.rules.models import RuleRow, RuleVersionRow
from webapp.rules.rule import Rule, RuleVersion, Subjects, Window


def candidate_of(row: RuleRow, tenant: str | None) -> Candidate:
    """The candidate for a row. Its rule is `None` if the row cannot be read."""
    try:
        return Candidate(row.id, row.tenant_id, rule_of(row, tenant))
    except (TypeError, KeyError, ValueError, AttributeError):  # a row that no schema has checked
        return Candidate(row.id, row.tenant_id, None)


def version_of(row: RuleVersionRow) -> RuleVersion:
    return RuleVersion(
        version=row.version,
        change=row.change,  # type: ignore[arg-type]  # the table's constraint names the Literal's
        changed_at=row.changed_at,
        changed_by=row.changed_by,
        rule=row.snapshot,
    )


def rule_of(row: RuleRow, tenant: str | None) -> Rule:
    return Rule(
        id=row.id,
        tenant=tenant,
        name=row.name,
        description=row.description,
        effect=row.effect,  # type: ignore[arg-type]  # the table's constraint names the Literal's
        subjects=Subjects(tuple(row.subjects["roles"]), tuple(row.subjects["users"])),
        surfaces=tuple(row.surfaces),
        reasons=tuple(row.reasons),
        ticket=row.ticket,
        windows=tuple(
            Window(tuple(window["days"]), window["from"], window["to"], window["tz"])
            for window in row.windows
        ),
        networks=tuple(row.networks),
        mfa=row.mfa,
        max_minutes=row.max_minutes,
        min_approvals=row.min_approvals,
        approver_roles=tuple(row.approver_roles),
        enabled=row.enabled,
        starts_at=in_utc(row.starts_at),
        ends_at=in_utc(row.ends_at),
        version=row.version,
        created_at=row.created_at.astimezone(UTC),
        created_by=row.created_by,
        updated_at=row.updated_at.astimezone(UTC),
        updated_by=row.updated_by,
    )
