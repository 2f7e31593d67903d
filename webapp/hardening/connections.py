"""Connections to servers: with a password, and encrypted and verified beyond this host."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from marshmallow import ValidationError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from webapp.hardening.strength import check_password
from webapp.redis_servers import ENCRYPTED_SCHEME, is_encrypted, is_sentinel, parse_sentinel

Check = Callable[[str], None]

VERIFYING = frozenset({"verify-ca", "verify-full"})
"""Values of `sslmode` by which PostgreSQL's client verifies the server's certificate."""

PASSWORDLESS = frozenset({"passfile", "service", "sslcert", "krbsrvname"})
"""Parameters of a database's URL that name what stands for a password in it."""

ENCRYPTED = {"redis": "rediss", "amqp": "amqps", "http": "https"}
"""Schemes of connections over TLS, by those of clear text."""

POSTGRESQL_PORT = "5432"

_HOST_LIST = re.compile(r"([\w+]+://(?:[^@/?]*@)?)([^@/?]+,[^@/?]+)(/[^?]*)?(?:\?(.*))?\Z")
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?\Z")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9])?\Z", re.ASCII)
_PORT = re.compile(r"\A([^:]+):[0-9]*\Z")
_ON_PURPOSE = "(or name the host in PLAINTEXT_HOSTS, where clear text is meant)"


@dataclass(frozen=True)
class PlaintextHosts:
    """Hosts to which clear text is meant, as where a service mesh encrypts it."""

    names: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def __contains__(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return host.lower() in self.names
        return any(address in network for network in self.networks)


def parse_hosts(value: str) -> PlaintextHosts:
    """Parse names of hosts and networks, with commas between them."""
    names, networks = set(), []
    for item in filter(None, (text.strip().lower() for text in value.split(","))):
        try:
            networks.append(ip_network(item))
        except ValueError:
            if not _NAME.match(item):
                raise ValidationError(
                    "must be names of hosts or networks, as in redis.internal,10.0.0.0/8"
                ) from None
            names.add(item)
    if any(network.prefixlen == 0 for network in networks):
        raise ValidationError("names every address, so that nothing would have to be encrypted")
    return PlaintextHosts(frozenset(names), tuple(networks))


def is_this_host(host: str) -> bool:
    """Whether a host is this one: a loopback address, or the directory of a Unix socket."""
    if _is_socket(host) or host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_socket(host: str) -> bool:
    return host[:1] in ("", "/", "@")


def with_hosts_apart(url: str) -> str:
    """Write libpq's list of hosts, `host:port,host:port`, as parameters, as SQLAlchemy reads it."""
    found = _HOST_LIST.match(url)
    if found is None:
        return url
    start, listed, path, query = found.groups()
    parts = [_HOST.match(part) for part in listed.split(",")]
    if not all(parts):
        return url  # it is refused as no URL
    hosts = ",".join(part["name"].strip("[]") for part in parts if part)
    ports = ",".join(part["port"] or POSTGRESQL_PORT for part in parts if part)
    return f"{start}{path or '/'}?{f'{query}&' if query else ''}host={hosts}&port={ports}"


def parse_database(url: str) -> URL | None:
    """The parts of a database's URL; `None` for a text that is none."""
    try:
        return make_url(with_hosts_apart(url))
    except (ArgumentError, ValueError):
        return None


def check_database_password(value: str) -> None:
    """Refuse a PostgreSQL URL without a password, or what stands for one."""
    url = parse_database(value)
    if url is None:
        return
    if password := url.password or url.query.get("password"):
        check_password(url.username, str(password))
    elif not PASSWORDLESS & url.query.keys() and not all(map(_is_socket, _database_hosts(url))):
        raise ValidationError(
            "has no password, and names no passfile, service or client's certificate (sslcert)"
        )


def check_database_tls(plaintext: PlaintextHosts) -> Check:
    """A check that another host's PostgreSQL is connected to by TLS, and verified."""

    def check(value: str) -> None:
        url = parse_database(value)
        if url is None or url.query.get("sslmode") in VERIFYING:
            return
        if not _are_safe(_database_hosts(url), plaintext):
            raise ValidationError(
                f"names another host without verifying it: add sslmode=verify-full {_ON_PURPOSE}"
            )

    return check


def _database_hosts(url: URL) -> Sequence[str]:
    """The hosts that libpq may connect to, all of them; an empty one is the default socket."""
    hosts = (url.host,) if url.host else _values(url, "host")
    named = [*hosts, *_values(url, "hostaddr")]
    if not named and _values(url, "service"):
        return ["service"]  # it may name any
    return [_PORT.sub(r"\1", part) for host in named or [""] for part in host.split(",")]


def _values(url: URL, name: str) -> tuple[str, ...]:
    """The values of a parameter, which libpq takes from its variable where the URL has none."""
    value = url.query.get(name) or os.environ.get(f"PG{name.upper()}") or ()
    return (value,) if isinstance(value, str) else value


def check_server_password(value: str) -> None:
    """Refuse a URL of a cache or a broker without a good password."""
    for server in _servers(value):
        if not server.password:
            raise ValidationError("has no password")
        check_password(unquote(server.username or ""), unquote(server.password))


def check_given_password(value: str) -> None:
    """Refuse a weak password; a server that asks for none needs none."""
    for server in _servers(value):
        if server.password:
            check_password(unquote(server.username or ""), unquote(server.password))


def check_server_tls(plaintext: PlaintextHosts) -> Check:
    """A check that another host's server is connected to by TLS, and verified."""

    def check(value: str) -> None:
        for server in _servers(value):
            if _are_safe([server.hostname or ""], plaintext):
                continue
            if is_encrypted(value):
                continue
            if is_sentinel(value):
                raise ValidationError(
                    f"names another host without TLS: begin it with {ENCRYPTED_SCHEME}://"
                    " (or name its hosts, and Redis's, in PLAINTEXT_HOSTS, where clear text is"
                    " meant)"
                )
            if server.scheme not in ENCRYPTED.values():
                encrypted = ENCRYPTED.get(server.scheme, "rediss")
                raise ValidationError(
                    f"names another host without TLS: begin it with {encrypted}:// {_ON_PURPOSE}"
                )
            if _verifies_less(server):
                raise ValidationError(
                    "does not verify the server's certificate: leave out ssl_cert_reqs and"
                    " ssl_check_hostname"
                )

    return check


def _servers(url: str) -> Iterator[SplitResult]:
    """The servers of a URL, of which kombu takes several with a `;` between them."""
    try:
        listed = parse_sentinel(url).kombu_url if is_sentinel(url) else url
    except ValueError:  # it is refused as no URL
        return
    for part in listed.split(";"):
        try:
            yield urlsplit(part)
        except ValueError:
            continue


def _verifies_less(server: SplitResult) -> bool:
    options = {name: values[-1].lower() for name, values in parse_qs(server.query).items()}
    strict = ("required", "cert_required")
    return (
        options.get("ssl_cert_reqs", "required") not in strict
        or options.get("ssl_check_hostname", "true") != "true"
    )


def _are_safe(hosts: Iterable[str], plaintext: PlaintextHosts) -> bool:
    return all(is_this_host(host) or host in plaintext for host in hosts)
