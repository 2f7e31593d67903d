"""The authorization request that rules are evaluated for, as a value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AuthorizationRequest:
    """Who wants to access what, why and from where. The time is passed separately."""

    email: str
    roles: frozenset[str]
    """Platform roles and the roles held in any tenant."""
    mfa: bool
    """Whether the person has shown a second factor."""
    surface: str
    reason: str
    """The reason's code."""
    ticket: str | None
    ip: str | None
    """The IP address as text. Text that is no address counts as unknown."""

    def __hash__(self) -> int:
        return hash((self.email, self.surface, self.reason))
