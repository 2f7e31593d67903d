"""Rules: list and read them, and change them. Each change stores a version.

Functions here run in the session's scope and do not commit.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Select, or_, select
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from webapp.audit import recorder
from webapp.caching import cache_result, invalidate
from webapp.db.scopes import GlobalScope, Scope, TenantScope
from webapp.db.session import violated_constraint
from webapp.extensions import db
from webapp.http.errors import Conflict, Invalid, NotFound
from webapp.http.pagination import decode_cursor, encode_cursor, listing_of, read_page
from webapp.identity.models import Tenant
from webapp.rules.drafts import refuse_backwards
from webapp.rules.engine import cedar
from webapp.rules.engine.templates import Unreadable
from webapp.rules.lockout import refuse_lockout
from webapp.rules.mapping import rule_of, version_of
from webapp.rules.models import NAME_IS_UNIQUE, RuleRow, RuleVersionRow
from webapp.rules.quotas import within_quotas
from webapp.rules.rule import (
    ALL_RULES_TAG,
    KIND,
    Change,
    HistoryQuery,
    Rule,
    RuleHistory,
    RulePage,
    RuleQuery,
    owner_tag,
    surfaces_covering,
)
from webapp.rules.schemas import RulePageSchema, RuleSchema, WindowSchema


@cache_result(
    schema=RulePageSchema,
    tags=lambda scope, _: [f"{KIND}:{scope.tag}"],
    warm=lambda: [(GlobalScope(access_id=uuid4()), RuleQuery())],
)
def list_rules(scope: Scope, query: RuleQuery) -> RulePage:
    """List one page of the rules in the scope, cached. Raises `Invalid` for a wrong cursor."""
    page = read_page(
        db.session,
        _with_tenant(),
        RuleRow,
        _filters(query),
        sort=query.sort,
        limit=query.limit,
        cursor=query.cursor,
        listing=listing_of(KIND, scope, replace(query, limit=0, cursor=None)),
    )
    return RulePage(
        items=tuple(rule_of(row, tenant) for row, tenant, _ in page.rows),
        next_cursor=page.next_cursor,
        total=page.total,
        total_is_at_least=page.total_is_at_least,
    )


def get_rule(rule_id: UUID) -> Rule:
    return rule_of(*_find(_one(rule_id)))


def list_history(scope: Scope, rule_id: UUID, query: HistoryQuery) -> RuleHistory:
    """List the versions of a rule, the newest first, also if the rule is deleted."""
    rule = db.session.get(RuleRow, rule_id)
    if rule is None:
        raise NotFound("There is no such rule.")
    listing = listing_of(KIND, scope, rule_id)
    page = (
        select(RuleVersionRow)
        .where(RuleVersionRow.rule_id == rule_id)
        .order_by(RuleVersionRow.version.desc())
        .limit(query.limit + 1)
    )
    if query.cursor is not None:
        (last_version,) = decode_cursor(query.cursor, listing)
        page = page.where(RuleVersionRow.version < last_version)
    rows = db.session.scalars(page).all()
    shown = rows[: query.limit]
    return RuleHistory(
        items=tuple(map(version_of, shown)),
        next_cursor=encode_cursor([shown[-1].version], listing) if len(rows) > len(shown) else None,
        total=rule.version,
    )


def create_rule(scope: Scope, draft: Mapping[str, Any], by: str) -> Rule:
    """Add a rule.

    In a tenant's scope it belongs to that tenant. In the global scope it belongs to the tenant that
    the draft names, or to the platform. Raises `Conflict` above a quota.
    """
    tenant_id, tenant = _owner(scope, draft)
    recorder.concern(tenant_id, tenant)
    now = datetime.now(UTC)
    row = RuleRow(id=uuid7(), tenant_id=tenant_id, version=1, created_at=now, created_by=by)
    _write(row, draft)
    with within_quotas(tenant_id):
        db.session.add(row)
        return _record(row, tenant, "created", by, now)


def update_rule(
    rule_id: UUID, check: Callable[[int], None], changes: Mapping[str, Any], by: str
) -> Rule:
    """Change fields of a rule.

    `check` gets the current version, and raises to refuse the change. If nothing changes, no
    version is stored. Raises `Conflict` above a quota.
    """
    row, tenant = _find(_one(rule_id).with_for_update(of=RuleRow))
    recorder.concern(row.tenant_id, tenant)
    check(row.version)
    with within_quotas(row.tenant_id):
        _write(row, changes)
        if not db.session.is_modified(row):
            return rule_of(row, tenant)
        row.version += 1
        return _record(row, tenant, "updated", by, datetime.now(UTC))


def delete_rule(rule_id: UUID, check: Callable[[int], None], by: str) -> None:
    """Mark a rule as deleted; its history stays. `check` works as in `update_rule`."""
    row, tenant = _find(_one(rule_id).with_for_update(of=RuleRow))
    recorder.concern(row.tenant_id, tenant)
    check(row.version)
    now = datetime.now(UTC)
    row.version += 1
    row.deleted_at = now
    _record(row, tenant, "deleted", by, now)


def _filters(query: RuleQuery) -> Iterator[ColumnElement[bool]]:
    yield RuleRow.deleted_at.is_(None)
    if query.tenant is not None:
        of_slug = select(Tenant.id).where(Tenant.slug == query.tenant).scalar_subquery()
        yield RuleRow.tenant_id == of_slug
    if query.effect is not None:
        yield RuleRow.effect == query.effect
    if query.surface is not None:
        yield RuleRow.surfaces.overlap(list(surfaces_covering(query.surface)))
    if query.enabled is not None:
        yield RuleRow.enabled.is_(query.enabled)
    if query.q is not None:
        yield or_(
            RuleRow.name.icontains(query.q, autoescape=True),
            RuleRow.description.icontains(query.q, autoescape=True),
        )


def _with_tenant() -> Select[RuleRow, str | None]:
    return select(RuleRow, Tenant.slug).outerjoin(Tenant, Tenant.id == RuleRow.tenant_id)


def _one(rule_id: UUID) -> Select[RuleRow, str | None]:
    return _with_tenant().where(RuleRow.id == rule_id, RuleRow.deleted_at.is_(None))


def _find(statement: Select[RuleRow, str | None]) -> tuple[RuleRow, str | None]:
    found = db.session.execute(statement.execution_options(populate_existing=True)).one_or_none()
    if found is None:
        raise NotFound("There is no such rule.")
    row, tenant = found
    return row, tenant


def _owner(scope: Scope, draft: Mapping[str, Any]) -> tuple[UUID | None, str | None]:
    """The id and slug of the tenant that owns a new rule; `None` for the platform."""
    match scope:
        case TenantScope(tenant_id):
            own = slug_of(tenant_id)
            if draft.get("tenant", own) != own:
                raise _invalid("tenant", "must be the tenant of the scope")
            return tenant_id, own
        case GlobalScope():
            slug: str | None = draft.get("tenant")
            if slug is None:
                return None, None
            found = find_tenant(slug)
            if found is None:
                raise _invalid("tenant", "is not a tenant that you can see")
            return found, slug
    raise TypeError(scope)


def slug_of(tenant_id: UUID) -> str:
    """The slug of the scope's tenant."""
    return db.session.scalars(select(Tenant.slug).where(Tenant.id == tenant_id)).one()


def find_tenant(slug: str) -> UUID | None:
    """The id of the tenant with this slug, if the scope sees it and it has not ended."""
    return db.session.scalar(
        select(Tenant.id).where(Tenant.slug == slug, Tenant.ended_at.is_(None))
    )


def _write(row: RuleRow, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        match name:
            case "tenant":
                continue
            case "subjects":
                stored: Any = {kind: list(names) for kind, names in asdict(value).items()}
            case "windows":
                stored = WindowSchema(many=True).dump(value)
            case _:
                stored = list(value) if isinstance(value, tuple) else value
        setattr(row, name, stored)
    refuse_backwards(row.starts_at, row.ends_at)


def _invalid(field: str, problem: str) -> Invalid:
    return Invalid(f"The rule's {field} {problem}.", {field: [problem]})


def _record(row: RuleRow, tenant: str | None, change: Change, by: str, at: datetime) -> Rule:
    """Store a version of a changed rule, and invalidate cached lists."""
    row.updated_at, row.updated_by = at, by
    rule = rule_of(row, tenant)
    _refuse_unreadable(rule)
    db.session.add(
        RuleVersionRow(
            rule_id=row.id,
            version=row.version,
            tenant_id=row.tenant_id,
            change=change,
            changed_at=at,
            changed_by=by,
            snapshot=RuleSchema().dump(rule),
        )
    )
    try:
        db.session.flush()
    except IntegrityError as error:
        if violated_constraint(error) != NAME_IS_UNIQUE:
            raise
        problem = "is already the name of another rule"
        raise Conflict(f"This {problem}.", {"name": [problem]}) from error
    refuse_lockout(row)
    invalidate(*_tags(row.tenant_id))
    return rule


def _refuse_unreadable(rule: Rule) -> None:
    """Refuse a rule that the engine cannot read.

    The schemas should refuse it before. If they do not, the author learns of it here, and not
    somebody whose access would be denied.
    """
    try:
        cedar.check(rule)
    except Unreadable as error:
        raise Invalid("The rule cannot be evaluated.") from error


def _tags(tenant_id: UUID | None) -> tuple[str, str]:
    """The cache tags to invalidate when a rule of this owner changes."""
    return ALL_RULES_TAG, owner_tag(tenant_id)
