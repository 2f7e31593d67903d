"""What the rules are asked about an access, as a value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AuthorizationRequest:
    """Of an access: who, at what, why, from where. The moment is told beside them."""

    email: str
    roles: frozenset[str]
    """Platform roles, and those held in any tenant."""
    mfa: bool
    """Whether a second factor has been shown."""
    surface: str
    reason: str
    """Its code."""
    ticket: str | None
    ip: str | None
    """As text; what is not an address counts as unknown."""

    def __hash__(self) -> int:
        return hash((self.email, self.surface, self.reason))
