"""A rule and the questions asked of a list of rules, as values."""

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
    """A weekly window in local time; one that ends before it begins runs past midnight."""

    days: tuple[Day, ...]
    begins: str
    """`HH:MM`; on the wire `from`, a word that Python keeps for itself."""
    ends: str
    tz: str


@dataclass(frozen=True)
class Rule:
    id: UUID
    tenant: str | None
    """The slug of the tenant it belongs to; `None` for the platform's own."""
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
    total: int


@dataclass(frozen=True)
class RuleVersion:
    version: int
    change: Change
    changed_at: datetime
    changed_by: str
    rule: Mapping[str, Any]
    """As the schema of its time dumped it."""


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
    """What the list is asked for; `cursor` is opaque until `webapp.http.schema` has checked it."""

    limit: int = 50
    cursor: str | None = None
    sort: SortKey = "name"
    tenant: str | None = None
    effect: Effect | None = None
    surface: str | None = None
    enabled: bool | None = None
    q: str | None = None


def surfaces_covering(surface: str) -> tuple[str, ...]:
    """What a rule may say to cover `surface`: its name, a prefix of it and `.*`, or `*`."""
    parts = surface.split(".")
    prefixes = (".".join(parts[:length]) for length in range(1, len(parts)))
    return (surface, *(f"{prefix}.*" for prefix in prefixes), "*")


KIND = "rules"
"""What the cache tags of rules begin with."""

ALL_RULES_TAG = f"{KIND}:global"
"""The tag that every change of a rule raises."""


def owner_tag(tenant_id: UUID | None) -> str:
    """The tag that a change of this tenant's rules raises, or of the platform's."""
    return f"{KIND}:tenant:{tenant_id}" if tenant_id else f"{KIND}:platform"
