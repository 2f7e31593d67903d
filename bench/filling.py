"""Rows in bulk, written by SQL around the product: what is measured is how they are read."""

from uuid import UUID

from bench import database

TABLES = ("tenants", "rules", "grants", "audit_events")

_INSERT_RULES = (
    "insert into rules (id, tenant_id, name, description, effect, subjects, surfaces, reasons,"
    " windows, networks, mfa, min_approvals, approver_roles, enabled, version, created_by,"
    " updated_by) select gen_random_uuid(), {tenant}, {name}, '', '{effect}',"
    """ '{{"roles": ["engineer"], "users": []}}', array['{surface}'], array['incident'], '[]',"""
    " '{{}}', false, 1, '{{}}', true, 1, 'bench', 'bench' from {source}"
)


RARE = 60
"""The number of events that are unlike all others, and older."""

COPIES = UUID(int=0)
"""The journal of the copies: one number is one event."""

_INSERT_EVENTS = """
insert into audit_events (id, tenant_id, tenant, occurred_at, kind, actor_id, actor_email, surface,
  reason_code, ticket, scope_kind, effect, outcome, request_id, origin_journal, origin_seq,
  event)
select (lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0') || '70008000'
    || lpad(to_hex(n), 12, '0'))::uuid,
  case whose when 'own' then '{tenant}' when 'other' then md5((n % 1000)::text)::uuid end,
  case whose when 'own' then 'bench-own'
    when 'other' then case when rare then 'bench-rare' else 'bench-' || n % 1000 end end,
  moment,
  case when rare and whose <> 'all' then 'change' else 'access' end,
  oldest.actor_id,
  case when rare then 'rare' else 'user-' || n % 100 end || '@example.org',
  case when rare then 'rarely.used.read'
    else (array['admin.rules.list', 'admin.rules.read', 'admin.audits.list'])[1 + n % 3] end,
  case when rare then 'legal' else 'incident' end,
  case when rare then 'T-rare' else 'T-' || n % 1000 end,
  case whose when 'all' then 'global' else 'tenant' end,
  case when rare and whose <> 'all' then 'denied' else 'allowed' end,
  case when rare then 'interrupted' else 'served' end,
  case when rare then 'rare' else md5(n::text) end,
  '{journal}', n, oldest.event
from {numbers},
  (select * from audit_events order by occurred_at limit 1) oldest,
  lateral (select n < {rare} as rare, oldest.occurred_at + n * interval '1 ms' as moment) one,
  lateral (select case
    when rare then (array['own', 'all', 'other'])[1 + n % 3]
    when n % 100 = 0 then 'own' when n % 100 < 30 then 'all' else 'other' end as whose) two
"""


def add_tenants(owner: str, first: int, count: int) -> None:
    """Add numbered tenants, without an event for each in the ledger."""
    numbers = _numbers(first, count)
    added = "insert into tenants (id, slug, name) select gen_random_uuid(), 'bench-' || n, 'Bench'"
    off, on = (f"alter table tenants {how} trigger recorded" for how in ("disable", "enable"))
    _fill(owner, f"{off}; {added} from {numbers}; {on}")


def add_platform_rules(owner: str, first: int, count: int, surface: str) -> None:
    """Add numbered rules of the platform's; `{n}` in the surface is a rule's number."""
    statement = _INSERT_RULES.format(
        tenant="null",
        name="'rule ' || n",
        effect="allow",
        surface=surface.replace("{n}", "' || n || '"),
        source=_numbers(first, count),
    )
    _fill(owner, statement)


def add_tenant_rules(
    owner: str, effect: str, surface: str, *, each: int = 1, slugs: str = "bench-%"
) -> None:
    """Give each tenant whose slug is like `slugs` more rules."""
    statement = _INSERT_RULES.format(
        tenant="tenants.id",
        name=f"'{effect} ' || gen_random_uuid()",
        effect=effect,
        surface=surface,
        source=f"tenants, generate_series(1, {each}) where slug like '{slugs}'",
    )
    _fill(owner, statement)


def add_events(owner: str, tenant: UUID, first: int, count: int) -> None:
    """Add numbered events, a millisecond apart: of one tenant, of all tenants and of other tenants.

    The first RARE events differ from all others in every column that a list filters by. Their event
    itself is a copy of the ledger's oldest. The table's indexes are made anew afterwards: ten
    million rows one by one into twenty indexes would take an hour.
    """
    indexes = database.run(
        owner,
        "select indexname, replace(indexdef, ' ON ONLY ', ' ON ') from pg_indexes"
        " where tablename = 'audit_events' and indexname <> 'pk_audit_events'",
    )
    inserted = _INSERT_EVENTS.format(
        tenant=tenant, journal=COPIES, rare=RARE, numbers=_numbers(first, count)
    )
    dropped = [f"drop index {name}" for name, _ in indexes]
    made = ["set local maintenance_work_mem = '1GB'", *(definition for _, definition in indexes)]
    _fill(owner, "; ".join([*dropped, inserted, *made]))


def add_grants(owner: str, holder: str, slug: str, state: str, first: int, count: int) -> None:
    """Add numbered requests for a grant at one tenant, a second apart."""
    statement = (
        "insert into grants (id, tenant_id, kind, principal_id, principal_email, surfaces,"  # noqa: S608 - constants
        " reason_code, minutes, rule_ids, bypassed_approvals, state, requested_at, ends_at,"
        " version)"
        " select gen_random_uuid(), tenants.id, 'approval', principals.id, email, '{log.read}',"
        f" 'incident', 30, '{{}}', '{{}}', '{state}',"
        " timestamptz '2026-01-01' + n * interval '1 s',"
        " timestamptz '2026-01-02', 1"
        f" from tenants, principals, {_numbers(first, count)}"
        f" where slug = '{slug}' and email = '{holder}'"
    )
    _fill(owner, statement)


def _numbers(first: int, count: int) -> str:
    return f"generate_series({first}, {first + count - 1}) n"


def _fill(owner: str, statement: str) -> None:
    """Run a statement as the owner of tables whose row level security holds for the owner too."""
    lift = "; ".join(f"alter table {table} no force row level security" for table in TABLES)
    force = "; ".join(f"alter table {table} force row level security" for table in TABLES)
    analyze = "; ".join(f"analyze {table}" for table in TABLES)
    database.run(owner, f"{lift}; {statement}; {force}; {analyze}")
