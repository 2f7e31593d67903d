"""What a database offers to a version that runs on it, and what it demands of it."""

from dataclasses import dataclass
from typing import Any

VIEWS = (
    "create or replace temporary view our_tables as select oid, relname, relacl from pg_class"
    " where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v')"
    " and not relispartition",
    "create or replace temporary view our_columns as select relname, attname, attacl, attnotnull,"
    " atthasdef, attidentity, attgenerated, format_type(atttypid, atttypmod) as kind"
    " from pg_attribute a join our_tables c on c.oid = a.attrelid"
    " where a.attnum > 0 and not a.attisdropped",
    "create or replace temporary view our_functions as select proacl, proowner,"
    " format('%s(%s)', proname, pg_get_function_identity_arguments(oid)) as signature,"
    " format_type(prorettype, null) as kind"
    " from pg_proc where pronamespace = 'public'::regnamespace",
    "create or replace temporary view our_grants as"
    " select relname, relname as object, relacl as acl"
    " from our_tables union all select relname, format('%s.%s', relname, attname), attacl"
    " from our_columns union all select null, signature,"
    " coalesce(proacl, acldefault('f', proowner)) from our_functions",
)
OFFERED = (
    "select relname, 'table ' || relname from our_tables",
    "select relname, format('column %s.%s, %s', relname, attname, kind) from our_columns",
    "select null, format('function %s, %s', signature, kind) from our_functions",
    "select relname, format('%s may %s %s', case grantee when 0 then 'everybody'"
    " else pg_get_userbyid(grantee) end, lower(privilege_type), object)"
    " from our_grants, aclexplode(acl)",
    "select tablename, format('policy on %s for %s of %s: %s, %s', tablename, lower(cmd),"
    " roles, qual, with_check) from pg_policies where schemaname = 'public'",
)
"""Facts of which a version may need each, with the table that each is of."""

DEMANDED = (
    "select relname, format('column %s.%s has to be given', relname, attname) from our_columns"
    " where attnotnull and not atthasdef and attidentity = '' and attgenerated = ''",
    "select relname, format('constraint on %s: %s', relname, pg_get_constraintdef(k.oid))"
    " from pg_constraint k join our_tables c on c.oid = k.conrelid"
    " where contype in ('c', 'f', 'u', 'x')",
    "select relname, format('unique index on %s: %s', relname,"
    " substring(pg_get_indexdef(indexrelid) from 'USING .*'))"
    " from pg_index i join our_tables c on c.oid = i.indrelid where indisunique",
)
"""Facts of which a version has to know each, with the table that each is of."""


@dataclass(frozen=True)
class Offers:
    tables: frozenset[str]
    offered: frozenset[str]
    demanded: frozenset[tuple[str, str]]


def read_offers(cursor: Any) -> Offers:
    for view in VIEWS:
        cursor.execute(view)
    offered = _facts(cursor, OFFERED)
    tables = frozenset(table for table, fact in offered if fact == f"table {table}")
    return Offers(tables, frozenset(fact for _, fact in offered), _facts(cursor, DEMANDED))


def _facts(cursor: Any, statements: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for statement in statements:
        cursor.execute(statement)
        found.update(cursor.fetchall())
    return frozenset(found)


def contractions(before: Offers, after: Offers) -> list[str]:
    """What the later database takes from a version of the earlier one, or asks of it anew."""
    taken = [f"gone: {fact}" for fact in before.offered - after.offered]
    asked = [
        f"new: {fact}" for table, fact in after.demanded - before.demanded if table in before.tables
    ]
    return sorted([*taken, *asked])
