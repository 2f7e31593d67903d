"""What is known of a request once its answer leaves."""

from typing import NamedTuple
from uuid import UUID

from webapp.db.scopes import GlobalScope, IdentityScope, PrincipalScope, TenantScope
from webapp.http.state import Recorded

UNMATCHED = "unmatched"
"""The route of a request that no route matches."""

FAILED = 500
"""The lowest status of an answer that is no answer to the question."""

_SCOPE_KINDS: dict[type, str] = {
    TenantScope: "tenant",
    GlobalScope: "global",
    IdentityScope: "identity",
    PrincipalScope: "principal",
}


class Answered(NamedTuple):
    """What is logged, counted and traced of a request. A dataclass would take longer to make."""

    at: float
    """Seconds since 1970."""
    seconds: float
    method: str
    route: str
    status: int
    request_id: str | None
    client_request_id: str | None
    traceparent: str | None
    principal: UUID | None
    scope: type
    surface: str | None
    waited: float
    recorded: Recorded | None
    """What was handed to the journal; `None` where nothing was to be recorded."""

    @property
    def scope_kind(self) -> str | None:
        return _SCOPE_KINDS.get(self.scope)

    @property
    def has_failed(self) -> bool:
        return self.status >= FAILED
