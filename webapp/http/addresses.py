"""IP addresses and networks, in the one form that makes them comparable."""

import ipaddress

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV6_SITE = 64
"""Bits of an IPv6 address that name a site."""


def address(text: str | None) -> IpAddress | None:
    """Parse an address: without a zone, and as IPv4 where IPv6 only carries it (RFC 4291 §2.5.5.2).

    `None` for a text that is not an address.
    """
    if text is None:
        return None
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def site(client: IpAddress) -> str:
    """What an address counts as where clients are limited: of IPv6 the network of a site, which may
    use all addresses in it."""
    if isinstance(client, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((client, IPV6_SITE), strict=False))
    return str(client)


def network(text: str) -> IpNetwork:
    """Parse the network that such addresses are in; raises `ValueError`."""
    parsed = ipaddress.ip_network(text)
    if isinstance(parsed, ipaddress.IPv4Network):
        return parsed
    if parsed.network_address.scope_id is not None:
        raise ValueError(f"{text} has a zone")
    carried = parsed.network_address.ipv4_mapped
    if carried is None or parsed.prefixlen < 96:
        return parsed
    return ipaddress.IPv4Network((carried, parsed.prefixlen - 96))
