"""Check that policies close each tenant table, and that nothing leads around the policies."""

from collections.abc import Iterable, Iterator, Mapping

from webapp.db.roles import LOGIN_ROLES, SCOPE_ROLES
from webapp.db.row_security import (
    OWNER,
    TENANT_TABLES,
    RowPolicy,
    TableShape,
    privileges_of,
    tenant_table,
)
from webapp.scope.lint.catalog import PUBLIC, Policy, Table
from webapp.scope.lint.finding import LintFinding

_UNRESTRAINED = frozenset({"TRUNCATE", "TRIGGER", "REFERENCES"})
"""Privileges that no policy restrains."""
_REWRITING = frozenset({"UPDATE", "DELETE", "TRUNCATE"})

Problem = tuple[str, str]
"""A rule's name and a message."""


def check_tables(
    tables: Iterable[Table], login_role: str, shapes: Mapping[str, TableShape] = TENANT_TABLES
) -> list[LintFinding]:
    tables = list(tables)
    keys = tenant_keys(tables, shapes)
    findings = []
    for table in tables:
        if table.partition:
            problems = [*_check_partition(table, login_role)]
        elif table.name in keys:
            shape = shapes.get(table.name) or tenant_table(platform_rows=table.tenant_nullable)
            problems = [*_check_secured(table), *_check_policies(table, shape)]
            problems += [
                *_check_access(table, login_role),
                *_check_privileges(table, shape.privileges),
            ]
            problems += [*_check_views(table)]
            problems += [*_check_keys(table, shape), *_check_references(table, keys)]
            if shape.append_only:
                problems += _check_append_only(table)
        else:
            problems = [*_check_other(table), *_check_access(table, login_role)]
            problems += _check_references(table, keys)
        findings += [LintFinding(f"table {table.name}", None, *problem) for problem in problems]
    return findings


def tenant_keys(
    tables: Iterable[Table], shapes: Mapping[str, TableShape] = TENANT_TABLES
) -> dict[str, str]:
    """The key of each tenant table: the column that says whose a row is."""
    return {
        table.name: shapes[table.name].key if table.name in shapes else "tenant_id"
        for table in tables
        if (table.has_tenant or table.name in shapes) and not table.partition
    }


def _check_partition(table: Table, login_role: str) -> Iterator[Problem]:
    """Check a partition: it is read through its parent, and closed to everybody by its own name."""
    yield from _check_secured(table)
    yield from _check_access(table, login_role)
    yield from _check_views(table)
    for policy in table.policies:
        yield "other-policy", f"policy {policy.name} opens a partition"
    for grant in table.grants:
        if grant.role in SCOPE_ROLES:
            yield "grant", f"{grant.privilege} on a partition is granted to {grant.role}"
    yield from _check_append_only(table)


def _check_other(table: Table) -> Iterator[Problem]:
    """Check a table without tenants' rows. It has no policies: nothing would compare them."""
    yield from _check_privileges(table, privileges_of(table.name))
    if table.secured or table.policies:
        yield "no-shape", "it has row level security, and no shape declares its policies"


def _check_secured(table: Table) -> Iterator[Problem]:
    if not table.secured:
        yield "not-secured", "row level security is not enabled"
    if not table.forced:
        yield "not-forced", "row level security is not forced on the owner"


def _check_policies(table: Table, shape: TableShape) -> Iterator[Problem]:
    found: set[RowPolicy] = set()
    for policy in table.policies:
        yield from _check_policy(policy, table.owner)
        for name in policy.roles:
            role = OWNER if name == table.owner else name
            found.add(RowPolicy(role, policy.command, policy.using, policy.check))
    for missing in sorted(shape.policies - found, key=repr):
        yield "no-policy", f"no policy has the declared shape {_describe(missing)}"
    for other in sorted(found - shape.policies, key=repr):
        if other.role == OWNER:
            yield "policy-role", f"a policy for the owner is not declared: {_describe(other)}"
        elif other.role in SCOPE_ROLES:
            yield "other-policy", f"a policy differs from the declared shapes: {_describe(other)}"


def _check_policy(policy: Policy, owner: str) -> Iterator[Problem]:
    if not policy.permissive:
        yield "other-policy", f"policy {policy.name} is restrictive"
    for role in sorted(set(policy.roles).difference(SCOPE_ROLES, [owner])):
        everybody = "everybody" if role == PUBLIC else f"{role}, which is no scope's role"
        yield "policy-role", f"policy {policy.name} is for {everybody}"
    for expression in (policy.using or "", policy.check or ""):
        if _reads_setting_per_row(expression):
            message = f"policy {policy.name} reads a setting for each row: wrap it in (select …)"
            yield "bare-setting", message


def _reads_setting_per_row(expression: str) -> bool:
    """Whether a current_setting() stands outside every sub-select."""
    selects: list[bool] = []
    for position, character in enumerate(expression):
        if character == "(":
            selects.append(expression.startswith("( SELECT ", position))
        elif character == ")":
            selects.pop()
        elif expression.startswith("current_setting(", position) and not any(selects):
            return True
    return False


def _describe(shape: RowPolicy) -> str:
    command = {"*": "all", "r": "select", "a": "insert", "w": "update", "d": "delete"}
    return f"{shape.role} {command[shape.command]} using {shape.using} with check {shape.check}"


def _check_access(table: Table, login_role: str) -> Iterator[Problem]:
    if table.owner == login_role:
        yield "owner", f"the login role {login_role} owns it"
    if table.owner in SCOPE_ROLES:
        yield "owner", f"the scope's role {table.owner} owns it"
    for grant in table.grants:
        if grant.role in (PUBLIC, login_role, *LOGIN_ROLES):
            yield "grant", f"{grant.privilege} is granted to {grant.role}"
        elif grant.role in SCOPE_ROLES and grant.privilege in _UNRESTRAINED:
            yield (
                "grant",
                f"{grant.privilege}, which no policy restrains, is granted to {grant.role}",
            )


def _check_privileges(table: Table, declared: frozenset[tuple[str, str]]) -> Iterator[Problem]:
    granted = {
        (grant.role, grant.privilege.lower())
        for grant in table.grants
        if grant.role in SCOPE_ROLES and grant.privilege not in _UNRESTRAINED
    }
    for role, privilege in sorted(declared - granted):
        yield "no-grant", f"{privilege} is declared for {role} and not granted"
    for role, privilege in sorted(granted - declared):
        yield "grant", f"{privilege} is granted to {role}, for which it is not declared"


def _check_views(table: Table) -> Iterator[Problem]:
    for view in table.views:
        if view.materialized:
            yield "view", f"materialized view {view.name} holds copies of rows without policies"
        elif not view.invoker:
            yield "view", f"view {view.name} reads with its owner's rights: set security_invoker"


def _check_keys(table: Table, shape: TableShape) -> Iterator[Problem]:
    if not any(i.columns[0] == shape.key and not i.partial for i in table.indexes):
        yield "no-index", f"no index over all rows leads with {shape.key}"
    for index in table.indexes:
        # Ids are random: a conflict reveals nothing.
        drawn = index.primary and index.columns[0] == "id"
        allowed = drawn or shape.key in index.columns or index.name in shape.open_uniques
        if index.unique and not allowed:
            yield (
                "unique",
                f"{index.name} reveals that another tenant has the same value: add {shape.key}",
            )


def _check_references(table: Table, keys: Mapping[str, str]) -> Iterator[Problem]:
    for reference in table.foreign_keys:
        key = keys.get(reference.target)
        if key is None:
            continue
        pairs = set(zip(reference.columns, reference.target_columns, strict=True))
        if (keys.get(table.name, "tenant_id"), key) not in pairs:
            yield "reference", f"{reference.name} may point at another tenant's row: add tenant_id"


def _check_append_only(table: Table) -> Iterator[Problem]:
    for grant in table.grants:
        if grant.privilege in _REWRITING and grant.role != table.owner:
            yield "append-only", f"{grant.privilege} is granted to {grant.role}"
    refusing = [trigger for trigger in table.triggers if trigger.before and trigger.raises]
    for privilege in sorted(_REWRITING):
        if not any(getattr(trigger, privilege.lower()) for trigger in refusing):
            yield "append-only", f"no trigger refuses {privilege}"
