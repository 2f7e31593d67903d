"""What the rules are asked about an access, as a value."""

import ipaddress
from dataclasses import dataclass

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


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


def address(text: str | None) -> IpAddress | None:
    """The address that rules compare: without a zone, and IPv4 where IPv6 only carries it
    (RFC 4291 §2.5.5.2)."""
    if text is None:
        return None
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The network that such addresses are in; raises `ValueError`."""
    parsed = ipaddress.ip_network(text)
    if isinstance(parsed, ipaddress.IPv4Network):
        return parsed
    if parsed.network_address.scope_id is not None:
        raise ValueError(f"{text} has a zone")
    carried = parsed.network_address.ipv4_mapped
    if carried is None or parsed.prefixlen < 96:
        return parsed
    return ipaddress.IPv4Network((carried, parsed.prefixlen - 96))
