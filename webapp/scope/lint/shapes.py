"""The shape that each tenant table must have: its policies as PostgreSQL prints them.

A policy that means the same in other words is refused too: what is compared exactly can be
reviewed once, here. The `(select …)` around each setting is what makes PostgreSQL read it once a
statement instead of once a row.
"""

from dataclasses import dataclass, field

TENANT_ROLE = "sightline_tenant"
GLOBAL_ROLE = "sightline_global"
IDENTITY_ROLE = "sightline_identity"
LEDGER_ROLE = "sightline_ledger"
SCOPE_ROLES = frozenset({TENANT_ROLE, GLOBAL_ROLE, IDENTITY_ROLE, LEDGER_ROLE})

_LOOKING = (
    "(( SELECT COALESCE(current_setting('sightline.look'::text, true), ''::text) AS \"coalesce\")"
    " <> ''::text)"
)
_EXCLUDED = (
    "( SELECT unnest((string_to_array(current_setting('sightline.excluded'::text, true),"
    " ','::text))::uuid[]) AS unnest)"
)


def own(key: str) -> str:
    """Rows of the scope's tenant."""
    return (
        f"({key} = ( SELECT (NULLIF(current_setting('sightline.tenant_id'::text, true), ''::text))"
        '::uuid AS "nullif"))'
    )


def looked_at(key: str, *, nullable: bool = False) -> str:
    """Rows of a look, but those of the tenants left out; the platform's own where there are any."""
    included = f"(NOT ({key} IN {_EXCLUDED}))"
    if nullable:
        included = f"(({key} IS NULL) OR {included})"
    return f"({_LOOKING} AND {included})"


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
                all_rows(GLOBAL_ROLE, looked_at("tenant_id", nullable=nullable)),
            }
        )
    )


def _identity_shape(key: str, open_uniques: frozenset[str] = frozenset()) -> TableShape:
    """What a principal belongs to is looked up before there is a scope of a tenant."""
    return TableShape(
        frozenset(
            {
                all_rows(TENANT_ROLE, own(key)),
                all_rows(GLOBAL_ROLE, looked_at(key)),
                all_rows(IDENTITY_ROLE, "true"),
            }
        ),
        key,
        open_uniques=open_uniques,
    )


SHAPES: dict[str, TableShape] = {
    "tenants": _identity_shape("id", frozenset({"uq_tenants_slug"})),
    "memberships": _identity_shape("tenant_id"),
    "audit_events": TableShape(
        frozenset(
            {
                PolicyShape(TENANT_ROLE, "r", own("tenant_id"), None),
                PolicyShape(GLOBAL_ROLE, "r", looked_at("tenant_id", nullable=True), None),
                PolicyShape(LEDGER_ROLE, "a", None, "true"),
                PolicyShape(LEDGER_ROLE, "r", "true", None),
            }
        ),
        append_only=True,
    ),
}
