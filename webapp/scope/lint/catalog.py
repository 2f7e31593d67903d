"""The tables of a database and what secures them, read from PostgreSQL's catalog as values."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from sqlalchemy import Connection, text

PUBLIC = "public"
"""The name of everybody in roles of policies and grants."""


@dataclass(frozen=True)
class Policy:
    name: str
    roles: tuple[str, ...]
    command: str
    """`*` all, `r` select, `a` insert, `w` update, `d` delete, as `pg_policy.polcmd` has it."""
    permissive: bool
    using: str | None
    check: str | None


@dataclass(frozen=True)
class Grant:
    role: str
    privilege: str


@dataclass(frozen=True)
class Index:
    name: str
    columns: tuple[str | None, ...]
    """`None` for an expression."""
    unique: bool
    primary: bool
    partial: bool


@dataclass(frozen=True)
class ForeignKey:
    name: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]


@dataclass(frozen=True)
class Trigger:
    name: str
    before: bool
    delete: bool
    update: bool
    truncate: bool
    raises: bool
    """Whether its function holds a `raise exception`."""


@dataclass(frozen=True)
class View:
    name: str
    materialized: bool
    invoker: bool


@dataclass(frozen=True)
class Table:
    name: str
    owner: str
    partition: bool
    """Whether it is a partition of another table, through which it is read."""
    has_tenant: bool
    tenant_nullable: bool
    secured: bool
    forced: bool
    policies: tuple[Policy, ...]
    grants: tuple[Grant, ...]
    indexes: tuple[Index, ...]
    foreign_keys: tuple[ForeignKey, ...]
    triggers: tuple[Trigger, ...]
    views: tuple[View, ...]
    """The views that read the table, directly or through other views."""


_TABLES = """
select c.relname, pg_get_userbyid(c.relowner), c.relispartition, a.attnum is not null,
  coalesce(not a.attnotnull, false), c.relrowsecurity, c.relforcerowsecurity
from pg_class c
left join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
order by c.relname
"""
_POLICIES = """
select c.relname, p.polname,
  array(select case r when 0 then 'public' else pg_get_userbyid(r)::text end
        from unnest(p.polroles) r order by 1),
  p.polcmd::text, p.polpermissive,
  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
from pg_policy p join pg_class c on c.oid = p.polrelid
where c.relnamespace = 'public'::regnamespace
order by c.relname, p.polname
"""
_GRANTS = """
select distinct c.relname,
  case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee)::text end, a.privilege_type
from pg_class c
cross join lateral (
  select acl from unnest(coalesce(c.relacl, acldefault('r', c.relowner))) acl
  union all
  select acl from pg_attribute t, unnest(t.attacl) acl where t.attrelid = c.oid
) acls
cross join lateral aclexplode(array[acls.acl]) a
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
order by 1, 2, 3
"""
_INDEXES = """
select c.relname, i.relname,
  array(select a.attname::text
        from unnest(x.indkey[0:x.indnkeyatts - 1]) with ordinality k(attnum, n)
        left join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum order by k.n),
  x.indisunique or x.indisexclusion, x.indisprimary, x.indpred is not null
from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class c on c.oid = x.indrelid
where c.relnamespace = 'public'::regnamespace and x.indisvalid
order by c.relname, i.relname
"""
_FOREIGN_KEYS = """
select c.relname, f.conname,
  array(select a.attname::text from unnest(f.conkey) with ordinality k(attnum, n)
        join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.attnum order by k.n),
  t.relname,
  array(select a.attname::text from unnest(f.confkey) with ordinality k(attnum, n)
        join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.attnum order by k.n)
from pg_constraint f join pg_class c on c.oid = f.conrelid join pg_class t on t.oid = f.confrelid
where c.relnamespace = 'public'::regnamespace and f.contype = 'f'
order by c.relname, f.conname
"""
_TRIGGERS = """
select c.relname, t.tgname, (t.tgtype & 2) > 0, (t.tgtype & 8) > 0, (t.tgtype & 16) > 0,
  (t.tgtype & 32) > 0, p.prosrc ~* '\\mraise\\s+(exception|sqlstate)|\\mraise\\s+using'
from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_proc p on p.oid = t.tgfoid
where c.relnamespace = 'public'::regnamespace and not t.tgisinternal
  and t.tgenabled in ('O', 'A') and t.tgqual is null and t.tgattr = ''
order by c.relname, t.tgname
"""
_VIEWS = """
with recursive readers(table_oid, view_oid) as (
  select d.refobjid, r.ev_class
  from pg_depend d join pg_rewrite r on r.oid = d.objid
  where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
    and r.ev_class <> d.refobjid
  union
  select readers.table_oid, r.ev_class
  from readers join pg_depend d on d.refobjid = readers.view_oid
  join pg_rewrite r on r.oid = d.objid
  where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
    and r.ev_class <> d.refobjid
)
select distinct c.relname, v.relname, v.relkind = 'm',
  coalesce((select option_value::boolean from pg_options_to_table(v.reloptions)
            where option_name = 'security_invoker'), false)
from readers join pg_class c on c.oid = table_oid join pg_class v on v.oid = view_oid
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
  and v.relkind in ('v', 'm')
order by 1, 2
"""

Part = TypeVar("Part", Policy, Grant, Index, ForeignKey, Trigger, View)


def read_tables(connection: Connection) -> list[Table]:
    """Read every table of the schema public, whether it has tenants' rows or not."""
    policies = _by_table(connection, _POLICIES, Policy)
    grants = _by_table(connection, _GRANTS, Grant)
    indexes = _by_table(connection, _INDEXES, Index)
    foreign_keys = _by_table(connection, _FOREIGN_KEYS, ForeignKey)
    triggers = _by_table(connection, _TRIGGERS, Trigger)
    views = _by_table(connection, _VIEWS, View)
    return [
        Table(
            name,
            owner,
            partition,
            has_tenant,
            nullable,
            secured,
            forced,
            policies=policies[name],
            grants=grants[name],
            indexes=indexes[name],
            foreign_keys=foreign_keys[name],
            triggers=triggers[name],
            views=views[name],
        )
        for name, owner, partition, has_tenant, nullable, secured, forced in connection.execute(
            text(_TABLES)
        )
    ]


def _by_table(
    connection: Connection, query: str, part: type[Part]
) -> defaultdict[str, tuple[Part, ...]]:
    """Read the parts that a query lists, by the table in its first column."""
    found: defaultdict[str, tuple[Part, ...]] = defaultdict(tuple)
    for table, *values in connection.execute(text(query)):
        found[table] += (_make(part, values),)
    return found


def _make(part: type[Part], values: Iterable[Any]) -> Part:
    """Make a part of a row. Arrays come as lists and become tuples, so that parts are hashable."""
    names = (field.name for field in fields(part))
    frozen = (tuple(value) if isinstance(value, list) else value for value in values)
    given: dict[str, Any] = dict(zip(names, frozen, strict=True))
    return part(**given)
