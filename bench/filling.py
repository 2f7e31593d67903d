"""Rows in bulk, written by SQL around the product: what is measured is how they are read."""

from bench import database

TABLES = ("tenants", "rules", "audit_events")

_INSERT_RULES = (
    "insert into rules (id, tenant_id, name, description, effect, subjects, surfaces, reasons,"
    " windows, networks, mfa, min_approvals, approver_roles, enabled, version, created_by,"
    " updated_by) select gen_random_uuid(), {tenant}, {name}, '', '{effect}',"
    """ '{{"roles": ["engineer"], "users": []}}', array['{surface}'], array['incident'], '[]',"""
    " '{{}}', false, 1, '{{}}', true, 1, 'bench', 'bench' from {source}"
)


def add_tenants(owner: str, first: int, count: int) -> None:
    numbers = _numbers(first, count)
    added = "insert into tenants (id, slug, name) select gen_random_uuid(), 'bench-' || n, 'Bench'"
    _fill(owner, f"{added} from {numbers}")


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


def copy_events(owner: str, columns: tuple[str, ...], first: int, count: int) -> None:
    """Add numbered copies of the ledger's oldest event, a millisecond apart, by 100 people."""
    changed = {
        "id": "gen_random_uuid()",
        "occurred_at": "occurred_at + n * interval '1 ms'",
        "actor_email": "'user-' || n % 100 || '@example.org'",
        "origin_seq": "origin_seq + n",
    }
    chosen = ", ".join(changed.get(column, column) for column in columns)
    oldest = "(select * from audit_events order by occurred_at limit 1) event"
    statement = (
        f"insert into audit_events ({', '.join(columns)})"  # noqa: S608 - constants
        f" select {chosen} from {oldest}, {_numbers(first, count)}"
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
