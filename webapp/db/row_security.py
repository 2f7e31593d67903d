"""Who may do what in each table: the privileges, and the row level security policies.

`webapp.db.tenant_tables` makes tenant tables that way in migrations, and `make lint-scope` compares
the database with it. Expressions are written as PostgreSQL prints them. A policy that means the
same in other words is refused: what is compared exactly needs one review, here. The `( SELECT …)`
around each setting makes PostgreSQL read the setting once a statement instead of once a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from webapp.db.roles import (
    ADMINISTRATION_ROLE,
    DIRECTORY_ROLE,
    GLOBAL_ROLE,
    IDENTITY_ROLE,
    LEDGER_ROLE,
    LOG_ROLE,
    MAINTENANCE_ROLE,
    POLICY_ROLE,
    PRINCIPAL_ROLE,
    RELAY_ROLE,
    SCOPE_ROLES,
    SEALING_ROLE,
    TENANT_ROLE,
)

OWN_JOURNAL = UUID("5167711e-0000-4000-8000-000000000001")
"""The origin of events that are committed with the change that they record."""

_ACCESSING = (
    "(( SELECT COALESCE(current_setting('sightline.access'::text, true), ''::text) AS \"coalesce\")"
    " <> ''::text)"
)
_EXCLUDED = (
    "( SELECT unnest((string_to_array(current_setting('sightline.excluded'::text, true),"
    " ','::text))::uuid[]) AS unnest)"
)
_TENANT = (
    "( SELECT (NULLIF(current_setting('sightline.tenant_id'::text, true), ''::text))::uuid"
    ' AS "nullif")'
)
_CONCERNED = (
    "(tenant_id IN ( SELECT unnest((string_to_array(current_setting('sightline.administers'::text,"
    " true), ','::text))::uuid[]) AS unnest)) OR (( SELECT"
    " COALESCE(current_setting('sightline.staff'::text, true), ''::text) AS \"coalesce\")"
    " <> ''::text)"
)
_LEAVING_OUT_THE_SAME = (
    f"({_ACCESSING} AND (tenant_id IS NULL) AND (excluded_tenant_ids @> ( SELECT"
    " (string_to_array(current_setting('sightline.excluded'::text, true), ','::text))::uuid[]"
    " AS string_to_array)))"
)
"""Rows made by an access that left out all the tenants that this access leaves out."""


def own(key: str) -> str:
    """The expression for rows of the scope's tenant."""
    return f"({key} = {_TENANT})"


def accessed(key: str, *, platform_rows: bool = False) -> str:
    """The expression for rows of every tenant that an access does not exclude."""
    included = f"(NOT ({key} IN {_EXCLUDED}))"
    if platform_rows:
        included = f"(({key} IS NULL) OR {included})"
    return f"({_ACCESSING} AND {included})"


def _of_principal(key: str) -> str:
    """The expression for rows of the scope's principal."""
    return (
        f"({key} = ( SELECT (NULLIF(current_setting('sightline.principal_id'::text, true),"
        " ''::text))::uuid AS \"nullif\"))"
    )


_NOT_LEFT_OUT = (
    "((excluded_digest IS NULL) OR (NOT (excluded_digest IN ( SELECT excluded_sets.digest\n"
    "   FROM excluded_sets))))"
)
_TENANT_EVENTS = (
    f"({own('tenant_id')} OR (({_TENANT} IS NOT NULL) AND (scope_kind = 'global'::text)"
    " AND (kind = 'access'::text) AND (effect = 'allowed'::text)"
    f" AND {_NOT_LEFT_OUT}))"
)
"""Events of accesses to the scope's tenant: to it alone, or to all tenants without excluding it."""


@dataclass(frozen=True)
class RowPolicy:
    """One policy of one role, as `pg_policy` has it."""

    role: str
    command: str
    """`*` all, `r` select, `a` insert, `w` update, `d` delete."""
    using: str | None
    check: str | None


OWNER = "owner"
"""The role of a policy for the tables' owner, whose name is the installation's. Functions and
triggers that run with its rights need one where row level security is forced on it too."""


@dataclass(frozen=True)
class Permission:
    """What one role may do in a table, and in which rows."""

    role: str
    privileges: tuple[str, ...]
    """Lower-case; on the whole table, or on some of its columns."""
    policies: tuple[RowPolicy, ...]
    needs: str | None = None
    """A function that the policies call. Migrations before the one that makes it leave them out."""


def may(role: str, *privileges: str, rows: str = "true") -> Permission:
    """Let a role use `privileges` in the rows that an expression selects: by default, all rows."""
    return Permission(role, privileges, (RowPolicy(role, "*", rows, rows),))


def may_read(role: str, rows: str = "true") -> Permission:
    """Let a role read the rows that an expression selects: by default, all rows."""
    return Permission(role, ("select",), (RowPolicy(role, "r", rows, None),))


def may_append(role: str, rows: str = "true") -> Permission:
    """Let a role insert rows that an expression accepts: by default, any row."""
    return Permission(role, ("insert",), (RowPolicy(role, "a", None, rows),))


_IN_SCOPE = "( SELECT administers_scope() AS administers_scope)"
"""Whether the credential that is proven is somebody's who administers the scope."""
_ON_PLATFORM = "( SELECT administers_platform() AS administers_platform)"


def may_administer(privileges: Iterable[str], rows: str, changed: str, written: str) -> Permission:
    """Let who has proven a credential change some of the rows that may be read anyway.

    `changed` says which rows may be changed, and `written` what may be written.
    """
    names = tuple(privileges)
    policies = {
        "insert": RowPolicy(ADMINISTRATION_ROLE, "a", None, written),
        "update": RowPolicy(ADMINISTRATION_ROLE, "w", changed, written),
    }
    given = (policies[name] for name in names if name in policies)
    read = RowPolicy(ADMINISTRATION_ROLE, "r", rows, None)
    return Permission(ADMINISTRATION_ROLE, names, (read, *given), needs="administers_scope()")


@dataclass(frozen=True)
class TableShape:
    """How a tenant table is closed."""

    permissions: tuple[Permission, ...]
    key: str = "tenant_id"
    """The column that says whose a row is."""
    platform_rows: bool = False
    """Whether the key may be null, in rows that belong to the platform."""
    append_only: bool = False
    """No role but the owner may change or remove rows, and a trigger refuses the owner too."""
    open_uniques: frozenset[str] = field(default=frozenset())
    """Unique indexes that span tenants on purpose."""
    of_owner: tuple[RowPolicy, ...] = ()
    """What the tables' owner may do, in functions and triggers."""

    @property
    def policies(self) -> frozenset[RowPolicy]:
        given = (policy for permission in self.permissions for policy in permission.policies)
        return frozenset((*given, *self.of_owner))

    @property
    def privileges(self) -> frozenset[tuple[str, str]]:
        """Pairs of a role and a privilege."""
        return frozenset(
            (given.role, name) for given in self.permissions for name in given.privileges
        )


ALL_PRIVILEGES = ("select", "insert", "update", "delete")


def tenant_table(
    *privileges: str,
    key: str = "tenant_id",
    platform_rows: bool = False,
    also: Iterable[Permission] = (),
    open_uniques: Iterable[str] = (),
    of_owner: Iterable[RowPolicy] = (),
) -> TableShape:
    """Describe a table that tenants own: a tenant's scope has its own rows, an access has those of
    the tenants that it does not exclude. Both get `privileges`, or all four if none are named."""
    names = privileges or ALL_PRIVILEGES
    permissions = (
        may(TENANT_ROLE, *names, rows=own(key)),
        may(GLOBAL_ROLE, *names, rows=accessed(key, platform_rows=platform_rows)),
        *also,
    )
    return TableShape(
        permissions,
        key,
        platform_rows=platform_rows,
        open_uniques=frozenset(open_uniques),
        of_owner=tuple(of_owner),
    )


TENANT_TABLES: dict[str, TableShape] = {
    "tenants": tenant_table(
        "select",
        key="id",
        also=[
            may(DIRECTORY_ROLE, "select", "insert", "update"),
            *map(may_read, (IDENTITY_ROLE, POLICY_ROLE, PRINCIPAL_ROLE, MAINTENANCE_ROLE)),
            # Who administers a tenant locks its row, and only an owner changes it.
            may_administer(
                ("select", "insert", "update"),
                rows=f"({own('id')} OR {accessed('id')})",
                changed=f"({own('id')} AND {_IN_SCOPE})",
                written=_ON_PLATFORM,
            ),
        ],
        open_uniques=["uq_tenants_slug"],
        of_owner=[RowPolicy(OWNER, "r", "true", None)],  # events name the tenant
    ),
    "memberships": tenant_table(
        "select",
        also=[
            may(DIRECTORY_ROLE, *ALL_PRIVILEGES),
            *map(may_read, (IDENTITY_ROLE, MAINTENANCE_ROLE)),
            may_administer(
                ("select", "insert", "update"),
                rows=own("tenant_id"),
                changed=f"({own('tenant_id')} AND {_IN_SCOPE})",
                written=f"({own('tenant_id')} AND {_IN_SCOPE})",
            ),
        ],
        of_owner=[
            RowPolicy(OWNER, "r", "true", None),  # whose tenants an event concerns
            RowPolicy(OWNER, "d", "true", None),  # `end_members_in_scope`
        ],
    ),
    "api_tokens": TableShape(
        (
            *map(may_read, (IDENTITY_ROLE, DIRECTORY_ROLE)),
            may_read(
                ADMINISTRATION_ROLE,
                f"({own('tenant_id')} OR {accessed('tenant_id', platform_rows=True)})",
            ),
            may(MAINTENANCE_ROLE, "select", "update"),
        ),
        platform_rows=True,
        open_uniques=frozenset({"uq_api_tokens_token_hash", "uq_api_tokens_sha256"}),
        of_owner=(RowPolicy(OWNER, "*", "true", "true"),),  # `add_token`, `revoke_tokens`
    ),
    "rules": tenant_table(
        "select", "insert", "update", platform_rows=True, also=[may_read(POLICY_ROLE)]
    ),
    "rule_versions": tenant_table("select", "insert", platform_rows=True),
    "simulations": TableShape(
        (
            may(TENANT_ROLE, "select", "insert", "delete", rows=own("tenant_id")),
            may(GLOBAL_ROLE, "select", "insert", "delete", rows=_LEAVING_OUT_THE_SAME),
            may(MAINTENANCE_ROLE, "select", "update", "delete"),
        ),
        platform_rows=True,
        open_uniques=frozenset({"uq_simulations_turn"}),
    ),
    "grants": tenant_table(
        "select",
        platform_rows=True,
        also=[
            may(
                PRINCIPAL_ROLE,
                *("select", "insert", "update"),
                rows=f"({_of_principal('principal_id')} OR {_CONCERNED})",
            ),
            may(MAINTENANCE_ROLE, "select", "insert", "update"),
            may_read(POLICY_ROLE),
        ],
        open_uniques=["uq_grants_unreviewed"],
    ),
    "grant_approvals": tenant_table(
        "select",
        platform_rows=True,
        also=[
            may(PRINCIPAL_ROLE, "select", "insert", rows=f"({_CONCERNED})"),
            may(MAINTENANCE_ROLE, "select"),
            may_read(POLICY_ROLE),
        ],
    ),
    "elevations": TableShape(
        (may(PRINCIPAL_ROLE, "select", "insert", "update", rows=_of_principal("service_id")),),
        key="service_id",
    ),
    "excluded_sets": TableShape(
        (
            # A tenant sees which sets it is in, and not who else is.
            may_read(TENANT_ROLE, f"(tenant_ids @> ARRAY[{_TENANT}])"),
            may_read(GLOBAL_ROLE, _ACCESSING),
            may_append(LEDGER_ROLE),
            may_read(LEDGER_ROLE),
        ),
        key="tenant_ids",
        append_only=True,
        open_uniques=frozenset({"pk_excluded_sets"}),
    ),
    "audit_events": TableShape(
        (
            may_read(TENANT_ROLE, _TENANT_EVENTS),
            may_read(GLOBAL_ROLE, accessed("tenant_id", platform_rows=True)),
            *map(may_read, (LEDGER_ROLE, RELAY_ROLE, SEALING_ROLE)),
        ),
        platform_rows=True,
        append_only=True,
        of_owner=(RowPolicy(OWNER, "a", None, "true"),),  # `append_events`, `record_change`
    ),
    "log_series": TableShape(
        (
            may_read(TENANT_ROLE, own("tenant_id")),
            may_read(GLOBAL_ROLE, accessed("tenant_id", platform_rows=True)),
            may(SEALING_ROLE, "select", "insert", "update"),
        ),
        platform_rows=True,
        open_uniques=frozenset({"pk_log_series"}),
    ),
}
"""The tenant tables that need more or less than `tenant_table()`, which any other gets."""

_OF_GENERATIONS = tuple(
    role
    for role in SCOPE_ROLES
    if role not in (RELAY_ROLE, SEALING_ROLE, LOG_ROLE, ADMINISTRATION_ROLE)
)
"""The roles that read or change what is cached."""

_OF_LOG: dict[str, tuple[str, ...]] = dict.fromkeys(
    (TENANT_ROLE, GLOBAL_ROLE, LOG_ROLE), ("select",)
)
"""What is sealed names no tenant and no person, so that anybody may read it."""

OTHER_TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "alembic_version": {IDENTITY_ROLE: ("select",)},
    "principals": {
        DIRECTORY_ROLE: ("select", "insert", "update"),
        IDENTITY_ROLE: ("select",),
        MAINTENANCE_ROLE: ("select",),
        ADMINISTRATION_ROLE: ("select",),
    },
    "platform_roles": {
        DIRECTORY_ROLE: ("select", "insert", "delete"),
        IDENTITY_ROLE: ("select",),
        MAINTENANCE_ROLE: ("select",),
        ADMINISTRATION_ROLE: ("select",),
    },
    "notices": {MAINTENANCE_ROLE: ALL_PRIVILEGES, PRINCIPAL_ROLE: ("insert",)},
    "cache_generations": dict.fromkeys(_OF_GENERATIONS, ("select",)),
    "audit_contradictions": {LEDGER_ROLE: ("select", "insert"), RELAY_ROLE: ("select",)},
    "audit_quarantine": {LEDGER_ROLE: ("select", "insert")},
    "audit_numbers": {},
    "turns": {},
    "key_uses": {IDENTITY_ROLE: ("select",), MAINTENANCE_ROLE: ("select", "update")},
    "logs": _OF_LOG | {SEALING_ROLE: ("select", "insert", "update")},
    "log_entries": _OF_LOG | {SEALING_ROLE: ("select", "insert")},
    "log_tiles": _OF_LOG | {SEALING_ROLE: ("select", "insert", "update")},
    "log_cosignatures": _OF_LOG | {SEALING_ROLE: ("select", "insert", "delete")},
    "log_keys": _OF_LOG | {SEALING_ROLE: ("select", "insert")},
    "log_queue": {SEALING_ROLE: ("select", "update", "delete"), LOG_ROLE: ("select",)},
    "log_witnesses": {SEALING_ROLE: ALL_PRIVILEGES, LOG_ROLE: ("select",)},
    "log_copies": {SEALING_ROLE: ALL_PRIVILEGES, LOG_ROLE: ("select",)},
    "signing_keys": {
        DIRECTORY_ROLE: ("select", "insert", "update"),
        **dict.fromkeys((IDENTITY_ROLE, LEDGER_ROLE, LOG_ROLE, SEALING_ROLE), ("select",)),
    },
    "signs_of_life": {IDENTITY_ROLE: ("select",), MAINTENANCE_ROLE: ALL_PRIVILEGES},
}
"""The privileges of each role in the tables without tenants' rows. Some are on some columns only,
here and above: directory changes of a signing key whether it is retired; only who seals sees the
secret by which labels of series are made; no role sees the digests of tokens, and maintenance sees
and changes when one was last used, and nothing else."""

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "append_events": (LEDGER_ROLE,),
    "take_turn_to_append": (LEDGER_ROLE,),
    "take_turn_to_quarantine": (LEDGER_ROLE,),
    "take_turn_to_simulate": (MAINTENANCE_ROLE,),
    "raise_generations": _OF_GENERATIONS,
    "ensure_audit_partition": (LEDGER_ROLE,),
    "standbys_behind": (LEDGER_ROLE,),
    "note_key": (IDENTITY_ROLE, MAINTENANCE_ROLE),
    "mint_token": (DIRECTORY_ROLE,),
    "bind_token": (DIRECTORY_ROLE,),
    "revoke_tokens": (DIRECTORY_ROLE,),
    "token_with": (IDENTITY_ROLE,),
    "administers_scope": (ADMINISTRATION_ROLE,),
    "administers_platform": (ADMINISTRATION_ROLE,),
    "add_user_in_scope": (ADMINISTRATION_ROLE,),
    "end_members_in_scope": (ADMINISTRATION_ROLE,),
    "mint_token_in_scope": (ADMINISTRATION_ROLE,),
    "bind_token_in_scope": (ADMINISTRATION_ROLE,),
    "revoke_token_in_scope": (ADMINISTRATION_ROLE,),
}
"""Who may call each function that runs with the rights of the tables' owner. Other functions only
compute, or are triggers."""


def privileges_of(table: str) -> frozenset[tuple[str, str]]:
    """The pairs of a role and a privilege that a table's line declares; no line, no privilege."""
    if table in TENANT_TABLES:
        return TENANT_TABLES[table].privileges
    given = OTHER_TABLES.get(table, {})
    return frozenset((role, name) for role, names in given.items() for name in names)


def shape_of(table: str, *, platform_rows: bool = False) -> TableShape:
    """The shape that a table's line declares, or the default one."""
    return TENANT_TABLES.get(table) or tenant_table(platform_rows=platform_rows)
