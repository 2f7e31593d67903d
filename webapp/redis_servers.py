"""Redis by its URL: one server, or whichever of several Sentinel says is the primary.

    redis+sentinel://user:password@sentinel-1:26379,sentinel-2:26379/0?master_name=sightline

User and password are Redis's. The Sentinels' own are the parameters `sentinel_username` and
`sentinel_password`. `sentinel://` means the same. With `rediss+sentinel://` Redis and Sentinels are
reached by TLS, and have to bear the names that they are reached by.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

ENCRYPTED_SCHEME = "rediss+sentinel"
SCHEMES = ("sentinel", "redis+sentinel", ENCRYPTED_SCHEME)
SENTINEL_PORT = 26379

_PARAMETERS = {"master_name", "sentinel_username", "sentinel_password"}
_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
"""Parameters over TLS: the authorities, and a certificate of the client's own with its key."""


@dataclass(frozen=True)
class SentinelUrl:
    """The parts of the URL of a Redis that Sentinel watches."""

    sentinels: tuple[tuple[str, int], ...]
    master_name: str
    database: int
    login: dict[str, str]
    """`username` and `password` for Redis, where they are given."""
    sentinel_login: dict[str, str]
    tls: dict[str, Any]
    """How certificates are verified, Redis's and the Sentinels'; empty in clear text."""

    def sentinel_options(self, timeout: float) -> dict[str, Any]:
        """How to connect to a Sentinel: redis-py would try one that is gone for seconds."""
        return {
            **_bounded(timeout),
            "retry": Retry(NoBackoff(), 0),
            **self.sentinel_login,
            **self.redis_tls,
        }

    @property
    def redis_tls(self) -> dict[str, Any]:
        """The arguments of redis-py for it."""
        return {"ssl": True, **self.tls} if self.tls else {}

    @property
    def kombu_url(self) -> str:
        """The URL as kombu has it, where each Sentinel is a URL of its own."""
        user, password = (quote(self.login.get(k, ""), safe="") for k in ("username", "password"))
        login = f"{user}:{password}@" if self.login else ""
        return ";".join(
            f"sentinel://{login}{f'[{host}]' if ':' in host else host}:{port}/{self.database}"
            for host, port in self.sentinels
        )


class WatchedRedis(Redis):
    """A client of a primary that closes its connections to the Sentinels with itself."""

    def close(self) -> None:
        super().close()
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()


def is_sentinel(url: str) -> bool:
    return url.partition("://")[0] in SCHEMES


def is_encrypted(url: str) -> bool:
    """Whether Sentinels are reached by TLS."""
    return url.partition("://")[0] == ENCRYPTED_SCHEME


def parse_sentinel(url: str) -> SentinelUrl:
    """Parse a URL whose scheme is Sentinel's; raises `ValueError` where it is malformed."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    given = {"username": unquote(username), "password": unquote(password)}
    query = dict(parse_qsl(parts.query, strict_parsing=True))
    known = _PARAMETERS | _FILES if is_encrypted(url) else _PARAMETERS
    if not query.get("master_name") or not query.keys() <= known:
        raise ValueError("master_name is missing, or a parameter is unknown")
    names = {"username": "sentinel_username", "password": "sentinel_password"}
    return SentinelUrl(
        sentinels=tuple(map(_address, hosts.split(","))),
        master_name=query["master_name"],
        database=int(parts.path.strip("/") or 0),
        login={name: value for name, value in given.items() if value},
        sentinel_login={name: query[of] for name, of in names.items() if of in query},
        tls=_verified(query) if is_encrypted(url) else {},
    )


def _verified(query: dict[str, str]) -> dict[str, Any]:
    files = {name: query[name] for name in _FILES & query.keys()}
    return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **files}


def _address(text: str) -> tuple[str, int]:
    address = urlsplit(f"//{text}")
    if not address.hostname:
        raise ValueError("a Sentinel has no name")
    return address.hostname, address.port or SENTINEL_PORT


def connect(url: str, timeout: float, **options: Any) -> Redis:
    """Make a client that waits for no answer longer than `timeout`; it connects to nothing yet."""
    options = {**_bounded(timeout), **options}
    if not is_sentinel(url):
        return Redis.from_url(url, **options)
    found = parse_sentinel(url)
    watch = Sentinel(  # type: ignore[no-untyped-call]  # redis-py left it untyped
        found.sentinels, sentinel_kwargs=found.sentinel_options(timeout)
    )
    client: Redis = watch.master_for(  # type: ignore[no-untyped-call]  # as above
        found.master_name,
        WatchedRedis,
        **found.login,
        **found.redis_tls,
        db=found.database,
        **options,
    )
    return client


def _bounded(timeout: float) -> dict[str, float]:
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout}
