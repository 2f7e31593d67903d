"""Rules, their versions, and queries for lists of them, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

Effect = Literal["allow", "deny", "require_approval"]
Change = Literal["created", "updated", "deleted"]
SortKey = Literal["name", "-name", "created_at", "-created_at", "updated_at", "-updated_at"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


@dataclass(frozen=True)
class Subjects:
    roles: tuple[str, ...]
    users: tuple[str, ...]
    """E-mail addresses."""


@dataclass(frozen=True)
class Window:
    """A weekly window in local time. If it ends before it begins, it runs past midnight."""

    days: tuple[Day, ...]
    begins: str
    """`HH:MM`. The wire name is `from`, which is a keyword in Python."""
    ends: str
    tz: str


@dataclass(frozen=True)
class Rule:
    id: UUID
    tenant: str | None
    """The slug of the tenant that owns the rule; `None` for the platform."""
    name: str
    description: str
    effect: Effect
    subjects: Subjects
    surfaces: tuple[str, ...]
    reasons: tuple[str, ...]
    ticket: str | None
    windows: tuple[Window, ...]
    networks: tuple[str, ...]
    mfa: bool
    max_minutes: int | None
    min_approvals: int
    approver_roles: tuple[str, ...]
    enabled: bool
    starts_at: datetime | None
    ends_at: datetime | None
    version: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str


@dataclass(frozen=True)
class RulePage:
    items: tuple[Rule, ...]
    next_cursor: str | None
    total: int | None
    total_is_at_least: int | None = None


@dataclass(frozen=True)
class RuleVersion:
    version: int
    change: Change
    changed_at: datetime
    changed_by: str
    rule: Mapping[str, Any]
    """The rule as the schema of its time dumped it."""


@dataclass(frozen=True)
class RuleHistory:
    items: tuple[RuleVersion, ...]
    next_cursor: str | None
    total: int


@dataclass(frozen=True)
class HistoryQuery:
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True)
class RuleQuery:
    """Filters, order and page of a list of rules.

    `cursor` is opaque until `webapp.http.schema` has checked it.
    """

    limit: int = 50
    cursor: str | None = None
    sort: SortKey = "name"
    tenant: str | None = None
    effect: Effect | None = None
    surface: str | None = None
    enabled: bool | None = None
    q: str | None = None


def surfaces_covering(surface: str) -> tuple[str, ...]:
    """The patterns that cover a surface: its name, each prefix of it with `.*`, and `*`."""
    parts = surface.split(".")
    prefixes = (".".join(parts[:length]) for length in range(1, len(parts)))
    return (surface, *(f"{prefix}.*" for prefix in prefixes), "*")


def count_conditions(rule: Rule) -> int:
    """The number of entries of the rule's lists."""
    subjects = rule.subjects
    lists = (subjects.roles, subjects.users, rule.surfaces, rule.reasons, rule.windows)
    return sum(map(len, lists)) + len(rule.networks)


KIND = "rules"
"""The prefix of the cache tags of rules."""

ALL_RULES_TAG = f"{KIND}:global"
"""The cache tag that every change of a rule invalidates."""


TENANT_TAGS = f"{KIND}:tenant:"
"""The prefix of the cache tags of tenants' rules, before the tenant's id."""


def owner_tag(tenant_id: UUID | None) -> str:
    """The cache tag that every change of this owner's rules invalidates."""
    return f"{TENANT_TAGS}{tenant_id}" if tenant_id else f"{KIND}:platform"
