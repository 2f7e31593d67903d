"""Settings: the environment, read once into a frozen value, or refused with all its problems."""

import os
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import ceil, inf
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

from environs import Env, EnvValidationError, ValidationError
from flask import current_app
from marshmallow.validate import And, OneOf, Regexp
from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

Environment = Literal["development", "qa", "production"]
BrokerQueues = Literal["classic", "quorum"]
TrustedProxies = int | tuple[IPv4Network | IPv6Network, ...] | None

Check = Callable[[str], Any]
"""A check of a value. It raises `ValidationError` with a message that continues the variable's name
("is not a URL") and never repeats the value, which may be a secret."""

STACK_FILE = "stack.env"
"""Written under SIGHTLINE_HOME by the development stack; read in development only."""

MIN_SECRET_BYTES = 32
MIN_DISTINCT_CHARACTERS = 12

PUBLIC_URL = "http://127.0.0.1:8000"
WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105 - a public prefix, no secret
WEBHOOK_SECRET_BYTES = range(24, 65)
"""Lengths of a key that Standard Webhooks allows."""

_MAIL_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[a-z0-9.-]+\Z", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"[\w.@+-]{1,64}\Z")
_NOT_A_NAME = "must be 1 to 64 letters, digits and . _ @ + -"
_COUNT = re.compile(r"[0-9]{1,2}")


class SettingsError(Exception):
    """All problems of the environment, so that one start shows them all."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"Sightline cannot start with these settings:{lines}")


@dataclass(frozen=True)
class Settings:
    env: Environment
    home: Path
    secret_key: str
    """Keys cursors, cache envelopes and tasks (each through a derived key)."""
    audit_mac_key: str
    """Keys the MAC that an audit event carries from the web process to the ledger."""
    database_url: str
    """The login of this kind of process: owns nothing, may become the scope roles it needs."""
    database_owner_url: str | None
    """The owner of the tables; only `flask db` uses it."""
    database_timeout: float
    """Seconds that one statement may take."""
    redis_url: str
    celery_broker_url: str
    journal_dir: Path
    """Where each web process keeps its events until they are committed: on a disk that lasts."""
    journal_max_mb: int
    """Megabytes that one process may hold there; beyond them, elevated work is refused."""
    journal_keep: float
    """Seconds that it keeps an event which the ledger has: the ledger may lose it in a failover."""
    audit_timeout: float
    """Seconds that recording may hold a request."""
    rate_limit_address: float
    """Requests a second of one address that one process takes; 0: any number. So are the others."""
    rate_limit_failures: float
    """Bad credentials of one address."""
    rate_limit_principal: float
    """Requests of one principal."""
    rate_limit_tenant: float
    """Requests of one tenant's own people, in its scope."""
    rate_limit_denied: float
    """Refused attempts an hour of one actor that one process records; 0: any number."""
    cache_ttl: int
    """Seconds until a cached value expires, changed or not."""
    cache_timeout: float
    """Seconds that one call to Redis may take before the database answers instead."""
    trusted_proxies: TrustedProxies = None
    """How many proxies stand in front of the web process, or the networks they are in. 0: clients
    connect directly. `None`: not set, and the address that connects is believed."""
    public_url: str = PUBLIC_URL
    """Where people reach the service; messages about grants link there."""
    smtp_url: str | None = None
    """The server that sends mail; without one, no mail is sent."""
    mail_from: str | None = None
    webhook_url: str | None = None
    """Receives a signed request for each notice of a grant; without one, none is sent."""
    webhook_secret: str | None = None
    broker_queues: BrokerQueues = "classic"
    """The kind of queues in RabbitMQ: one node's, or replicated to several."""
    operator: str | None = None
    """The name of whoever runs commands; by default that of the operating system's user."""

    @property
    def deployed(self) -> bool:
        return self.env != "development"

    def __repr__(self) -> str:
        """Name the fields only: most values are secrets or contain one."""
        return f"Settings({', '.join(field.name for field in fields(self))})"


def current_settings() -> Settings:
    """The settings of the application whose context this is."""
    settings: Settings = current_app.extensions["settings"]
    return settings


def read_settings() -> Settings:
    """Read and check the environment.

    Raises `SettingsError`, which names every missing, malformed or weak value.
    """
    env = Env(eager=False)
    env.add_parser("text", _text)
    env.add_parser("database", _database)
    env.add_parser("positive", _positive)
    env.add_parser("rate", _rate)
    env.add_parser("seconds", _rate)
    env.add_parser("proxies", _proxies)
    settings = _read(env)
    if problems := _problems(env):
        raise SettingsError(problems)
    return settings


def _read(env: Env) -> Settings:
    """Read every variable. The field of a variable that is refused holds no usable value."""
    names = get_args(Environment)
    name = env.str(
        "SIGHTLINE_ENV", "development", validate=OneOf(names, error="must be one of {choices}")
    )
    deployed = name != "development"
    home = Path(env.str("SIGHTLINE_HOME", ".sightline")).resolve()
    if not deployed and not env.str("DATABASE_URL", ""):
        env.read_env(str(home / STACK_FILE), recurse=False)
    return Settings(
        env=cast(Environment, name),
        home=home,
        **_read_keys(env, deployed=deployed),
        **_read_servers(env, deployed=deployed),
        journal_dir=Path(env.str("JOURNAL_DIR", "") or home / "journal").resolve(),
        journal_max_mb=ceil(env.positive("JOURNAL_MAX_MB", 256) or 0),
        journal_keep=env.seconds("JOURNAL_KEEP", 900),
        audit_timeout=env.positive("AUDIT_TIMEOUT", 2.0),
        rate_limit_address=env.rate("RATE_LIMIT_ADDRESS", 500),
        rate_limit_failures=env.rate("RATE_LIMIT_FAILURES", 2),
        rate_limit_principal=env.rate("RATE_LIMIT_PRINCIPAL", 200),
        rate_limit_tenant=env.rate("RATE_LIMIT_TENANT", 400),
        rate_limit_denied=env.rate("RATE_LIMIT_DENIED", 100),
        cache_ttl=ceil(env.positive("CACHE_TTL", 300) or 0),
        cache_timeout=env.positive("CACHE_TIMEOUT", 0.25),
        trusted_proxies=env.proxies("TRUSTED_PROXIES", ""),
        operator=env.text("SIGHTLINE_OPERATOR", "", checks=[Regexp(_NAME, error=_NOT_A_NAME)]),
        **_read_channels(env, deployed=deployed),
    )


def _read_keys(env: Env, *, deployed: bool) -> dict[str, Any]:
    missing = _not_set(deployed=deployed)
    mac_key = env.str("AUDIT_MAC_KEY", "")
    same = "and AUDIT_MAC_KEY are the same; each needs a value of its own"
    strong: list[Check] = [_check_strength] if deployed else []
    unlike: list[Check] = [_differs_from(mac_key, same)] if deployed else []
    return {
        "secret_key": env.text("SECRET_KEY", "", missing=missing, checks=strong + unlike),
        "audit_mac_key": env.text("AUDIT_MAC_KEY", "", missing=missing, checks=strong),
    }


def _read_servers(env: Env, *, deployed: bool) -> dict[str, Any]:
    missing = _not_set(deployed=deployed)
    owner_url = env.str("DATABASE_OWNER_URL", "")
    postgresql: list[Check] = [_url("postgresql")]
    if deployed:
        postgresql.append(_check_password)
    unlike: list[Check] = [_other_role_than(owner_url)] if deployed else []
    redis_url = env.text("REDIS_URL", "", missing=missing, checks=[_url("redis", "rediss")])
    broker = _url("redis", "rediss", "amqp", "amqps")
    in_redis = (env.str("CELERY_BROKER_URL", "") or "redis://").startswith("redis")
    return {
        "database_url": env.database(
            "DATABASE_URL", "", missing=missing, checks=postgresql + unlike
        ),
        "database_owner_url": env.database("DATABASE_OWNER_URL", "", checks=postgresql),
        "database_timeout": env.positive("DATABASE_TIMEOUT", 5.0),
        "redis_url": redis_url,
        "celery_broker_url": env.text("CELERY_BROKER_URL", "", checks=[broker]) or redis_url,
        "broker_queues": env.str("BROKER_QUEUES", "classic", validate=_queues(in_redis=in_redis)),
    }


def _read_channels(env: Env, *, deployed: bool) -> dict[str, Any]:
    """Read the settings of mail and webhook, which tell people of grants."""
    smtp_url = env.text("SMTP_URL", "", checks=[_host_url("smtp", "smtps")])
    secure = ("https",) if deployed else ("http", "https")
    webhook_url = env.text("WEBHOOK_URL", "", checks=[_host_url(*secure)])
    by_mail, by_webhook = env.str("SMTP_URL", ""), env.str("WEBHOOK_URL", "")
    linked = deployed and (by_mail or by_webhook)
    public_url = env.text(
        "PUBLIC_URL",
        "",
        missing="is not set, and messages about grants link there" if linked else None,
        checks=[_host_url("http", "https")],
    )
    return {
        "public_url": (public_url or PUBLIC_URL).rstrip("/"),
        "smtp_url": smtp_url,
        "mail_from": env.text(
            "MAIL_FROM",
            "",
            missing="is not set, and SMTP_URL needs it" if by_mail else None,
            checks=[Regexp(_MAIL_ADDRESS, error="must be a mail address and nothing else")],
        ),
        "webhook_url": webhook_url,
        "webhook_secret": env.text(
            "WEBHOOK_SECRET",
            "",
            missing="is not set, and WEBHOOK_URL needs it" if by_webhook else None,
            checks=[_webhook_key(deployed=deployed)],
        ),
    }


def _problems(env: Env) -> list[str]:
    try:
        env.seal()
    except EnvValidationError as error:
        # Sealing reports the messages by variable.
        by_variable = cast(Mapping[str, list[str]], error.error_messages)
        return [f"{name} {message}" for name, said in by_variable.items() for message in said]
    return []


def _not_set(*, deployed: bool) -> str:
    return "is not set" if deployed else "is not set (`make run` starts a private stack)"


def _text(value: str, *, missing: str | None = None, checks: Iterable[Check] = ()) -> str | None:
    """Parse a text. An empty one is `None`, or is refused with the message `missing`."""
    if not value:
        if missing is not None:
            raise ValidationError(missing)
        return None
    And(*checks)(value)
    return value


def _database(value: str, **options: Any) -> str | None:
    """Parse a PostgreSQL URL of any driver into a URL of the installed driver."""
    url = _text(value, **options)
    if url is None:
        return None
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}+psycopg2://{rest}"


def _positive(value: str | float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < inf:
        raise ValidationError("must be a number above 0")
    return number


def _rate(value: str | float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < inf:
        raise ValidationError("must be a number, 0 or above")
    return number


def _proxies(value: str) -> TrustedProxies:
    if not value:
        return None
    if _COUNT.fullmatch(value):
        return int(value)
    try:
        networks = tuple(ip_network(text.strip()) for text in value.split(","))
    except ValueError:
        raise ValidationError(
            "must be a number of proxies (0: clients connect directly)"
            " or networks, as in 10.0.0.0/8,fd00::/8"
        ) from None
    if any(network.prefixlen == 0 for network in networks):
        raise ValidationError("trusts every address, so that every client could choose its own")
    return networks


def _url(*schemes: str) -> Check:
    def check(value: str) -> None:
        try:
            scheme = urlsplit(value).scheme.partition("+")[0]
            known = scheme in schemes
            if known:
                # Parse it as its later users do, whose errors would repeat a part of it.
                _ = make_url(value) if scheme == "postgresql" else urlsplit(value).port
        except (ArgumentError, ValueError):
            raise ValidationError("is not a URL") from None
        if not known:
            raise ValidationError(f"must start with {' or '.join(f'{s}://' for s in schemes)}")

    return check


def _host_url(*schemes: str) -> Check:
    """A URL that names a host, on one line."""
    check_url = _url(*schemes)

    def check(value: str) -> None:
        check_url(value)
        if not (value.isprintable() and " " not in value and urlsplit(value).hostname):
            raise ValidationError("is not a URL")

    return check


def _queues(*, in_redis: bool) -> Check:
    """A kind of queues that the broker has."""
    kinds = get_args(BrokerQueues)

    def check(value: str) -> None:
        OneOf(kinds, error="must be one of {choices}")(value)
        if value == "quorum" and in_redis:
            raise ValidationError("is quorum, which only RabbitMQ has: name it by amqp://")

    return check


def _differs_from(other: str, message: str) -> Check:
    def check(value: str) -> None:
        if value == other:
            raise ValidationError(message)

    return check


def _check_strength(secret: str) -> None:
    if len(os.fsencode(secret)) < MIN_SECRET_BYTES or len(set(secret)) < MIN_DISTINCT_CHARACTERS:
        raise ValidationError(
            f"is weak: give it at least {MIN_SECRET_BYTES} random bytes "
            "(`python -c 'import secrets; print(secrets.token_urlsafe(48))'`)"
        )


def _check_password(url: str) -> None:
    parsed = _parse(url)
    if parsed and parsed.password and parsed.password == parsed.username:
        raise ValidationError("has its user's name as the password")


def _other_role_than(owner_url: str) -> Check:
    owner = _parse(owner_url)

    def check(url: str) -> None:
        parsed = _parse(url)
        if owner and parsed and parsed.username and parsed.username == owner.username:
            raise ValidationError("and DATABASE_OWNER_URL name the same role")

    return check


def _parse(url: str) -> URL | None:
    """The parts of a database's URL; `None` for a text that is no URL, which `_url` refuses."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        return None


def _webhook_key(*, deployed: bool) -> Check:
    def check(secret: str) -> None:
        try:
            key = b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True)
        except ValueError:
            key = b""
        fits = secret.startswith(WEBHOOK_SECRET_PREFIX) and len(key) in WEBHOOK_SECRET_BYTES
        if not fits or (deployed and len(set(key)) < MIN_DISTINCT_CHARACTERS):
            shortest, longest = WEBHOOK_SECRET_BYTES[0], WEBHOOK_SECRET_BYTES[-1]
            raise ValidationError(
                f"must be {WEBHOOK_SECRET_PREFIX} and the base64 of {shortest} to {longest}"
                " random bytes"
            )

    return check
