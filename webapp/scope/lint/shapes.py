"""The shape that each tenant table must have: its policies as PostgreSQL prints them.

A policy that means the same in other words is refused too: what is compared exactly can be
reviewed once, here. The `(select …)` around each setting is what makes PostgreSQL read it once a
statement instead of once a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from webapp.audit.append import OWN_JOURNAL

TENANT_ROLE = "sightline_tenant"
GLOBAL_ROLE = "sightline_global"
IDENTITY_ROLE = "sightline_identity"
LEDGER_ROLE = "sightline_ledger"
POLICY_ROLE = "sightline_policy"
PRINCIPAL_ROLE = "sightline_principal"
CLERK_ROLE = "sightline_maintenance"
SCOPE_ROLES = frozenset(
    {
        TENANT_ROLE,
        GLOBAL_ROLE,
        IDENTITY_ROLE,
        LEDGER_ROLE,
        POLICY_ROLE,
        PRINCIPAL_ROLE,
        CLERK_ROLE,
    }
)

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


def own(key: str) -> str:
    """Rows of the scope's tenant."""
    return f"({key} = {_TENANT})"


def accessed(key: str, *, nullable: bool = False) -> str:
    """Rows of an access, but those of the tenants left out; the platform's own where there are
    any."""
    included = f"(NOT ({key} IN {_EXCLUDED}))"
    if nullable:
        included = f"(({key} IS NULL) OR {included})"
    return f"({_ACCESSING} AND {included})"


ACCESSED = (
    f"({own('tenant_id')} OR (({_TENANT} IS NOT NULL) AND (scope_kind = 'global'::text)"
    " AND (kind = 'access'::text) AND (effect = 'allowed'::text)"
    f" AND (NOT ({_TENANT} = ANY (excluded_tenant_ids)))))"
)
"""Events of accesses to the scope's tenant: at it alone, or at all that did not leave it out."""

_OPERATORS = (IDENTITY_ROLE, GLOBAL_ROLE)
"""What commands run as that change something, which is recorded with the change."""

_OWN_JOURNAL = f"(origin_journal = '{OWN_JOURNAL}'::uuid)"

_CONCERNED = (
    "(tenant_id IN ( SELECT unnest((string_to_array(current_setting('sightline.administers'::text,"
    " true), ','::text))::uuid[]) AS unnest)) OR (( SELECT"
    " COALESCE(current_setting('sightline.staff'::text, true), ''::text) AS \"coalesce\")"
    " <> ''::text)"
)


def _of_principal(key: str) -> str:
    """Rows of the principal that the scope is of."""
    return (
        f"({key} = ( SELECT (NULLIF(current_setting('sightline.principal_id'::text, true),"
        " ''::text))::uuid AS \"nullif\"))"
    )


@dataclass(frozen=True)
class PolicyShape:
    role: str
    command: str
    using: str | None
    check: str | None


def all_rows(role: str, expression: str) -> PolicyShape:
    """One policy for every command, the same for rows read and rows written."""
    return PolicyShape(role, "*", expression, expression)


@dataclass(frozen=True)
class TableShape:
    policies: frozenset[PolicyShape]
    key: str = "tenant_id"
    append_only: bool = False
    """No role but the owner may change or remove rows, and a trigger refuses the owner too."""
    open_uniques: frozenset[str] = field(default=frozenset())
    """Unique keys across tenants on purpose."""


def tenant_shape(*, nullable: bool) -> TableShape:
    """The shape of every table that declares none of its own below."""
    return TableShape(
        frozenset(
            {
                all_rows(TENANT_ROLE, own("tenant_id")),
                all_rows(GLOBAL_ROLE, accessed("tenant_id", nullable=nullable)),
            }
        )
    )


def readable(role: str) -> PolicyShape:
    """Every row, to read."""
    return PolicyShape(role, "r", "true", None)


def _and(shape: TableShape, *policies: PolicyShape, open_uniques: Iterable[str] = ()) -> TableShape:
    return replace(
        shape,
        policies=shape.policies.union(policies),
        open_uniques=shape.open_uniques.union(open_uniques),
    )


def _grants_shape(concerned: str, open_uniques: Iterable[str] = ()) -> TableShape:
    """Whom a grant concerns is not only its tenant: also its holder, and the platform's staff."""
    return _and(
        tenant_shape(nullable=True),
        all_rows(PRINCIPAL_ROLE, concerned),
        all_rows(CLERK_ROLE, "true"),
        readable(POLICY_ROLE),
        open_uniques=open_uniques,
    )


def _identity_shape(key: str, open_uniques: frozenset[str] = frozenset()) -> TableShape:
    """What a principal belongs to is read before there is a scope of a tenant."""
    return TableShape(
        frozenset(
            {
                all_rows(TENANT_ROLE, own(key)),
                all_rows(GLOBAL_ROLE, accessed(key)),
                all_rows(IDENTITY_ROLE, "true"),
            }
        ),
        key,
        open_uniques=open_uniques,
    )


SHAPES: dict[str, TableShape] = {
    "tenants": _and(
        _identity_shape("id", frozenset({"uq_tenants_slug"})),
        *map(readable, (POLICY_ROLE, PRINCIPAL_ROLE, CLERK_ROLE)),
    ),
    "memberships": _and(_identity_shape("tenant_id"), readable(CLERK_ROLE)),
    "rules": _and(tenant_shape(nullable=True), readable(POLICY_ROLE)),
    "grants": _grants_shape(
        f"({_of_principal('principal_id')} OR {_CONCERNED})", ["uq_grants_unreviewed"]
    ),
    "grant_approvals": _grants_shape(f"({_CONCERNED})"),
    "elevations": TableShape(
        frozenset({all_rows(PRINCIPAL_ROLE, _of_principal("service_id"))}), key="service_id"
    ),
    "audit_events": TableShape(
        frozenset(
            {
                PolicyShape(TENANT_ROLE, "r", ACCESSED, None),
                PolicyShape(GLOBAL_ROLE, "r", accessed("tenant_id", nullable=True), None),
                *(PolicyShape(role, "a", None, "true") for role in (LEDGER_ROLE, CLERK_ROLE)),
                *map(readable, (LEDGER_ROLE, CLERK_ROLE)),
                *(PolicyShape(role, "a", None, _OWN_JOURNAL) for role in _OPERATORS),
                PolicyShape(IDENTITY_ROLE, "r", _OWN_JOURNAL, None),
            }
        ),
        append_only=True,
    ),
}
