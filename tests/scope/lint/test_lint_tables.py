"""The lint of tables: each fault in the migrated database, in a transaction that is rolled back."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from webapp.db.row_security import TENANT_TABLES
from webapp.scope.lint.catalog import read_tables
from webapp.scope.lint.tables import check_tables

pytestmark = pytest.mark.slow(seconds=0.3)

FoundAfter = Callable[[str], set[tuple[str, str]]]

OWN = "tenant_id = (select nullif(current_setting('sightline.tenant_id', true), '')::uuid)"
ACCESSED = (
    "(select coalesce(current_setting('sightline.access', true), '')) <> '' and tenant_id not in"
    " (select unnest(string_to_array(current_setting('sightline.excluded', true), ',')::uuid[]))"
)
SCRATCH = f"""
create table scratch (
  id uuid primary key,
  tenant_id uuid not null references tenants (id),
  name text not null,
  unique (tenant_id, id)
);
alter table scratch enable row level security;
alter table scratch force row level security;
create policy own on scratch to sightline_tenant using ({OWN}) with check ({OWN});
create policy accessed on scratch to sightline_global using ({ACCESSED}) with check ({ACCESSED});
grant select, insert, update, delete on scratch to sightline_tenant, sightline_global;
create table plain (id uuid primary key);
"""


@pytest.fixture
def owner(app: Flask) -> Iterator[Connection]:
    """A transaction of the tables' owner, with a tenant table without faults."""
    url = app.extensions["settings"].database_owner_url
    engine = create_engine(
        url, poolclass=NullPool, connect_args={"options": "-c lock_timeout=180s"}
    )
    with engine.connect() as connection:
        connection.execute(text(SCRATCH))
        yield connection


@pytest.fixture
def login_role(app: Flask) -> str:
    return make_url(app.extensions["settings"].database_url).username or ""


@pytest.fixture
def found_after(owner: Connection, login_role: str) -> FoundAfter:
    """Run a statement, and return the new findings: tables and rules."""
    before = found(owner, login_role)

    def change_and_check(statement: str) -> set[tuple[str, str]]:
        owner.execute(text(statement.format(login_role=login_role)))
        return found(owner, login_role) - before

    return change_and_check


def found(owner: Connection, login_role: str) -> set[tuple[str, str]]:
    findings = check_tables(read_tables(owner), login_role)
    return {(finding.subject.removeprefix("table "), finding.rule) for finding in findings}


def test_migrated_tables_pass(owner: Connection, login_role: str) -> None:
    assert check_tables(read_tables(owner), login_role) == []


FAULTS = [
    ("not-secured", "alter table scratch disable row level security"),
    ("not-forced", "alter table scratch no force row level security"),
    ("no-policy", "drop policy own on scratch"),
    ("no-policy", "drop policy accessed on scratch"),
    ("other-policy", "create policy wide on scratch to sightline_tenant using (true)"),
    ("other-policy", "create policy wide on scratch to sightline_global using (true)"),
    ("other-policy", "create policy wide on scratch to sightline_identity using (true)"),
    ("other-policy", "create policy wide on scratch as restrictive to sightline_tenant"),
    ("policy-role", "create policy wide on scratch using (false)"),
    ("policy-role", "create policy wide on scratch to current_user using (false)"),
    ("policy-role", "create policy wide on scratch to {login_role} using (false)"),
    ("grant", "grant select on scratch to public"),
    ("grant", "grant select (name) on scratch to public"),
    ("grant", "grant select on scratch to {login_role}"),
    ("grant", "grant update (name) on scratch to {login_role}"),
    ("grant", "grant truncate on scratch to sightline_tenant"),
    ("grant", "grant references on scratch to sightline_global"),
    ("view", "create view shown as select * from scratch"),
    ("view", "create view shown with (security_invoker = false) as select * from scratch"),
    ("view", "create materialized view shown as select * from scratch"),
    (
        "view",
        "create view inner_view with (security_invoker = true) as select * from scratch;"
        " create view outer_view as select * from inner_view",
    ),
    (
        "view",
        "create view inner_view with (security_invoker = true) as select * from scratch;"
        " create materialized view outer_view as select * from inner_view",
    ),
    ("no-index", "alter table scratch drop constraint scratch_tenant_id_id_key"),
    (
        "no-index",
        "alter table scratch drop constraint scratch_tenant_id_id_key;"
        " create index on scratch (tenant_id) where name <> '';"
        " create index on scratch (name, tenant_id)",
    ),
    ("unique", "alter table scratch add unique (name)"),
    ("unique", "create unique index on scratch (lower(name))"),
    ("unique", "alter table scratch add exclude using btree (name with =)"),
    (
        "unique",
        "alter table scratch drop constraint scratch_pkey;"
        " alter table scratch add primary key (name)",
    ),
    (
        "reference",
        "alter table scratch add column other uuid references scratch (id)",
    ),
    (
        "reference",
        "alter table scratch add column other uuid;"
        " alter table scratch add foreign key (other, id) references scratch (tenant_id, id)",
    ),
    (
        "reference",
        "alter table scratch add column other uuid references tenants (id)",
    ),
]


@pytest.mark.parametrize(("rule", "fault"), FAULTS)
def test_fault_in_tenant_table_is_found_there_only(
    found_after: FoundAfter, rule: str, fault: str
) -> None:
    findings = found_after(fault)
    assert ("scratch", rule) in findings
    assert {table for table, _ in findings} == {"scratch"}


GOOD = [
    "create view shown with (security_invoker = true) as select * from scratch",
    "create view shown as select * from plain",
    "create unique index on scratch (tenant_id, lower(name))",
    "create unique index on scratch (name, tenant_id)",
    "alter table scratch add column other uuid;"
    " alter table scratch add foreign key (tenant_id, other) references scratch (tenant_id, id)",
    "alter table scratch add column plain_id uuid references plain (id)",
    "create index on scratch (tenant_id, name) where name <> ''",
]


@pytest.mark.parametrize("change", GOOD)
def test_change_that_keeps_tenants_apart_passes(found_after: FoundAfter, change: str) -> None:
    assert found_after(change) == set()


OTHER_WORDS = {
    "a bare setting": "nullif(current_setting('sightline.tenant_id', true), '')::uuid = tenant_id",
    "another setting": OWN.replace("sightline.tenant_id", "sightline.tenant"),
    "a way around": f"({OWN}) or name = 'shared'",
    "everything": "true",
}


@pytest.mark.parametrize("words", OTHER_WORDS)
@pytest.mark.parametrize("clause", ["using", "with check"])
def test_policy_that_differs_from_its_shape_is_found(
    found_after: FoundAfter, clause: str, words: str
) -> None:
    expected = {("scratch", "no-policy"), ("scratch", "other-policy")}
    if words == "a bare setting":
        expected.add(("scratch", "bare-setting"))
    assert found_after(f"alter policy own on scratch {clause} ({OTHER_WORDS[words]})") == expected


def test_policy_without_check_is_found(found_after: FoundAfter) -> None:
    policy = f"create policy own on scratch to sightline_tenant using ({OWN})"
    expected = {("scratch", "no-policy"), ("scratch", "other-policy")}
    assert found_after(f"drop policy own on scratch; {policy}") == expected


def test_table_with_nullable_tenant_needs_a_policy_for_platform_rows(
    found_after: FoundAfter,
) -> None:
    nullable = found_after("alter table scratch alter tenant_id drop not null")
    assert nullable == {("scratch", "no-policy"), ("scratch", "other-policy")}
    access, excluded = ACCESSED.split(" and ")
    wider = f"{access} and (tenant_id is null or {excluded})"
    assert (
        found_after(f"alter policy accessed on scratch using ({wider}) with check ({wider})")
        == set()
    )


def test_grant_to_login_role_on_table_without_tenants_is_found(found_after: FoundAfter) -> None:
    assert found_after("grant select on plain to {login_role}") == {("plain", "grant")}


UNDECLARED = [
    "alter table plain enable row level security",
    "create policy wide on plain to sightline_principal using (true)",
]


@pytest.mark.parametrize("fault", UNDECLARED)
def test_policies_of_table_without_shape_are_found(found_after: FoundAfter, fault: str) -> None:
    assert found_after(fault) == {("plain", "no-shape")}


ELEVATIONS_FAULTS = [
    ("not-secured", "alter table elevations disable row level security"),
    ("not-forced", "alter table elevations no force row level security"),
    ("no-policy", "drop policy mine on elevations"),
    ("no-policy", "alter policy mine on elevations using (true)"),
    ("no-policy", "alter policy mine on elevations with check (true)"),
    ("other-policy", "create policy wide on elevations to sightline_tenant using (true)"),
    ("policy-role", "create policy wide on elevations using (false)"),
    ("grant", "grant select on elevations to {login_role}"),
    ("no-index", "alter table elevations drop constraint pk_elevations"),
    ("unique", "create unique index on elevations (key) where key = 'nobody'"),
    ("view", "create view shown as select * from elevations"),
]


@pytest.mark.parametrize(("rule", "fault"), ELEVATIONS_FAULTS)
def test_fault_in_elevations_table_is_found_there_only(
    found_after: FoundAfter, rule: str, fault: str
) -> None:
    findings = found_after(fault)
    assert ("elevations", rule) in findings
    assert {table for table, _ in findings} == {"elevations"}


def test_reference_from_table_without_tenants_is_found(found_after: FoundAfter) -> None:
    added = found_after("alter table plain add column other uuid references scratch (id)")
    assert added == {("plain", "reference")}


def test_table_owned_by_the_login_role_is_found(owner: Connection) -> None:
    whoever = owner.scalar(text("select current_user"))
    assert ("scratch", "owner") in found(owner, str(whoever))


LEDGER_FAULTS = [
    "grant update on audit_events to sightline_ledger",
    "grant update (outcome) on audit_events to sightline_global",
    "grant delete on audit_events to sightline_tenant",
    "grant truncate on audit_events to sightline_ledger",
    "alter table audit_events disable trigger user",
]


@pytest.mark.parametrize("fault", LEDGER_FAULTS)
def test_rewritable_ledger_is_found(found_after: FoundAfter, fault: str) -> None:
    assert ("audit_events", "append-only") in found_after(fault)


PARTITION = "audit_events_203001"

PARTITION_FAULTS = [
    ("not-secured", "alter table {partition} disable row level security"),
    ("not-forced", "alter table {partition} no force row level security"),
    ("other-policy", "create policy wide on {partition} to sightline_global using (true)"),
    ("other-policy", "create policy wide on {partition} for insert with check (true)"),
    ("other-policy", "create policy wide on {partition} as restrictive using (false)"),
    ("grant", "grant select on {partition} to sightline_global"),
    ("grant", "grant insert on {partition} to sightline_ledger"),
    ("grant", "grant select (id) on {partition} to sightline_tenant"),
    ("grant", "grant select on {partition} to public"),
    ("grant", "grant select on {partition} to {login_role}"),
    ("append-only", "grant delete on {partition} to sightline_ledger"),
    ("append-only", "alter table {partition} disable trigger append_only"),
    ("append-only", "drop trigger append_only on {partition}"),
    (
        "append-only",
        "drop trigger append_only on {partition}; create trigger append_only before update or"
        " delete on {partition} for each statement execute function refuse_rewriting()",
    ),
    ("view", "create view shown as select * from {partition}"),
]


@pytest.fixture
def partition(owner: Connection, found_after: FoundAfter) -> str:
    """A partition of the ledger, made as by the first event of a month."""
    made = found_after("select ensure_audit_partition('2030-01-01')")
    assert made == set()
    assert PARTITION in {table.name for table in read_tables(owner) if table.partition}
    return PARTITION


@pytest.mark.parametrize(("rule", "fault"), PARTITION_FAULTS)
def test_fault_in_partition_is_found_there_only(
    found_after: FoundAfter, partition: str, rule: str, fault: str
) -> None:
    findings = found_after(fault.replace("{partition}", partition))
    assert (partition, rule) in findings
    assert {table for table, _ in findings} == {partition}


def test_partition_made_by_hand_is_found(found_after: FoundAfter) -> None:
    findings = found_after(
        f"create table {PARTITION} partition of audit_events"
        " for values from ('2030-01-01Z') to ('2030-02-01Z')"
    )
    expected = {"not-secured", "not-forced", "append-only"}
    assert findings == {(PARTITION, rule) for rule in expected}


def test_detached_partition_is_found(found_after: FoundAfter, partition: str) -> None:
    """A detached partition is a tenant table like any other."""
    findings = found_after(f"alter table audit_events detach partition {partition}")
    assert (partition, "no-policy") in findings


def test_every_table_with_a_line_exists(owner: Connection) -> None:
    assert TENANT_TABLES.keys() <= {table.name for table in read_tables(owner)}
