"""What the administration over HTTP shows and is asked for, as values."""

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar
from uuid import UUID

from webapp.identity.principal import TenantRole

TenantSort = Literal["slug", "-slug", "created_at", "-created_at"]
MemberSort = Literal["role", "-role"]
TokenSort = Literal["-created_at", "created_at"]

T = TypeVar("T")


@dataclass(frozen=True)
class ListedTenant:
    id: UUID
    slug: str
    name: str
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class ListedMember:
    id: UUID
    """The user's."""
    email: str
    tenant: str
    role: TenantRole


@dataclass(frozen=True)
class ListedBindings:
    """What a service may ask with a token."""

    surfaces: tuple[str, ...]
    tenants: tuple[str, ...] | None
    """Slugs; `None` for all tenants."""
    break_glass: bool
    reports_mfa: bool


@dataclass(frozen=True)
class ListedToken:
    """A token without its secret, which is stored nowhere."""

    id: UUID
    user: str
    tenant: str | None
    """The tenant that it was made in, and is good in; `None` for one of the platform."""
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    mfa: bool
    bindings: ListedBindings


@dataclass(frozen=True)
class MintedToken(ListedToken):
    """A new token, with its secret."""

    secret: str
    """The token itself: shown once, kept nowhere."""


@dataclass(frozen=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    next_cursor: str | None
    total: int | None
    total_is_at_least: int | None = None


@dataclass(frozen=True)
class TenantQuery:
    limit: int = 50
    cursor: str | None = None
    sort: TenantSort = "slug"
    ended: bool | None = None


@dataclass(frozen=True)
class MemberQuery:
    limit: int = 50
    cursor: str | None = None
    sort: MemberSort = "role"
    role: TenantRole | None = None
    email: str | None = None


@dataclass(frozen=True)
class TokenQuery:
    limit: int = 50
    cursor: str | None = None
    sort: TokenSort = "-created_at"
    user: str | None = None
    """An e-mail address."""
    revoked: bool | None = None
