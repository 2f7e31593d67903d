"""Settings: the environment, read once into a frozen value and refused when missing or weak."""

import re
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from environs import Env, EnvError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

Environment = Literal["development", "qa", "production"]

STACK_FILE = "stack.env"
"""Written under SIGHTLINE_HOME by the development stack; read in development only."""

MIN_SECRET_BYTES = 32
MIN_DISTINCT_CHARACTERS = 12

PUBLIC_URL = "http://127.0.0.1:8000"
WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105 - what every such secret begins with
WEBHOOK_SECRET_BYTES = range(24, 65)
"""As Standard Webhooks has them."""

_MAIL_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[a-z0-9.-]+", re.ASCII | re.IGNORECASE)


class SettingsError(Exception):
    """Every problem found in the environment, so that one boot shows them all."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"Sightline cannot start with these settings:{lines}")


@dataclass(frozen=True)
class Settings:
    env: Environment
    home: Path
    secret_key: str
    """Keys cursors and cache envelopes (each through a derived key)."""
    audit_mac_key: str
    """Keys the MAC that an audit event carries from the web process to the ledger."""
    database_url: str
    """The application's login role: owns nothing, may assume the scope roles."""
    database_owner_url: str | None
    """The owner of the tables; only `flask db` uses it."""
    redis_url: str
    celery_broker_url: str
    journal_dir: Path
    """Where each web process keeps its events until they are committed: on a disk that lasts."""
    journal_max_mb: int
    """Megabytes that one process may hold there; then elevated work is refused."""
    audit_timeout: float
    """Seconds that recording may hold a request."""
    cache_ttl: int
    """Seconds until a cached value expires, changed or not."""
    cache_timeout: float
    """Seconds that one call to Redis may take before the database answers instead."""
    public_url: str = PUBLIC_URL
    """Where people reach it; what is told of grants links there."""
    smtp_url: str | None = None
    """The server that sends mail; without one nobody is told by mail."""
    mail_from: str | None = None
    webhook_url: str | None = None
    """Who is told of grants by a signed request; `None`: nobody."""
    webhook_secret: str | None = None

    @property
    def deployed(self) -> bool:
        return self.env != "development"

    def __repr__(self) -> str:
        """Name the fields only: most of the values are secrets or carry one."""
        return f"Settings({', '.join(field.name for field in fields(self))})"


def read_settings() -> Settings:
    """Read and check the environment.

    Raises `SettingsError` naming every missing, malformed or weak value at once.
    """
    env = Env()
    problems: list[str] = []
    name = env.str("SIGHTLINE_ENV", "development")
    if name not in get_args(Environment):
        problems.append(f"SIGHTLINE_ENV must be one of {', '.join(get_args(Environment))}")
    home = Path(env.str("SIGHTLINE_HOME", ".sightline")).resolve()
    if name == "development" and not env.str("DATABASE_URL", ""):
        env.read_env(str(home / STACK_FILE), recurse=False)

    values = {
        variable: env.str(variable, "")
        for variable in ("SECRET_KEY", "AUDIT_MAC_KEY", "DATABASE_URL", "REDIS_URL")
    }
    for variable, value in values.items():
        if not value:
            hint = "" if name != "development" else " (`make run` starts a private stack)"
            problems.append(f"{variable} is not set{hint}")
    owner_url = env.str("DATABASE_OWNER_URL", "") or None
    broker_url = env.str("CELERY_BROKER_URL", "")
    numbers = {
        "AUDIT_TIMEOUT": _positive(env, "AUDIT_TIMEOUT", 2.0, problems),
        "JOURNAL_MAX_MB": _positive(env, "JOURNAL_MAX_MB", 256, problems),
        "CACHE_TTL": _positive(env, "CACHE_TTL", 300, problems),
        "CACHE_TIMEOUT": _positive(env, "CACHE_TIMEOUT", 0.25, problems),
    }
    channels = {
        variable: env.str(variable, "")
        for variable in ("PUBLIC_URL", "SMTP_URL", "MAIL_FROM", "WEBHOOK_URL", "WEBHOOK_SECRET")
    }
    problems += _notification_problems(channels, deployed=name != "development")
    problems += _url_problems("DATABASE_URL", values["DATABASE_URL"], ("postgresql",))
    problems += _url_problems("DATABASE_OWNER_URL", owner_url or "", ("postgresql",))
    problems += _url_problems("REDIS_URL", values["REDIS_URL"], ("redis", "rediss"))
    problems += _url_problems("CELERY_BROKER_URL", broker_url, ("redis", "rediss", "amqp", "amqps"))
    if name != "development":
        problems += _weak_secrets(values["SECRET_KEY"], values["AUDIT_MAC_KEY"])
        problems += _weak_passwords(values["DATABASE_URL"], owner_url or "")
    if problems:
        raise SettingsError(problems)
    return Settings(
        env=name,  # type: ignore[arg-type]  # checked against the Literal's values above
        home=home,
        secret_key=values["SECRET_KEY"],
        audit_mac_key=values["AUDIT_MAC_KEY"],
        database_url=_with_driver(values["DATABASE_URL"]),
        database_owner_url=_with_driver(owner_url) if owner_url else None,
        redis_url=values["REDIS_URL"],
        celery_broker_url=broker_url or values["REDIS_URL"],
        journal_dir=Path(env.str("JOURNAL_DIR", "") or home / "journal").resolve(),
        journal_max_mb=ceil(numbers["JOURNAL_MAX_MB"]),
        audit_timeout=numbers["AUDIT_TIMEOUT"],
        cache_ttl=ceil(numbers["CACHE_TTL"]),
        cache_timeout=numbers["CACHE_TIMEOUT"],
        public_url=(channels["PUBLIC_URL"] or PUBLIC_URL).rstrip("/"),
        smtp_url=channels["SMTP_URL"] or None,
        mail_from=channels["MAIL_FROM"] or None,
        webhook_url=channels["WEBHOOK_URL"] or None,
        webhook_secret=channels["WEBHOOK_SECRET"] or None,
    )


def _positive(env: Env, variable: str, default: float, problems: list[str]) -> float:
    try:
        value = env.float(variable, default)
    except EnvError:
        value = 0.0
    if not 0 < value < float("inf"):
        problems.append(f"{variable} must be a number above 0")
    return value


def _url_problems(variable: str, value: str, schemes: tuple[str, ...]) -> list[str]:
    """Say what is wrong with a URL without repeating it: it may carry a password."""
    if not value:
        return []
    try:
        scheme = urlsplit(value).scheme.partition("+")[0]
        if scheme not in schemes:
            return [f"{variable} must start with {' or '.join(f'{s}://' for s in schemes)}"]
        # As those do it who use it later: their errors would repeat a part of it.
        _ = make_url(value) if scheme == "postgresql" else urlsplit(value).port
    except (ArgumentError, ValueError):
        return [f"{variable} is not a URL"]
    return []


def _notification_problems(values: dict[str, str], *, deployed: bool) -> list[str]:
    """What is wrong with the settings by which people are told of grants."""
    problems = _host_problems("PUBLIC_URL", values["PUBLIC_URL"], ("http", "https"))
    problems += _host_problems("SMTP_URL", values["SMTP_URL"], ("smtp", "smtps"))
    secure = ("https",) if deployed else ("http", "https")
    problems += _host_problems("WEBHOOK_URL", values["WEBHOOK_URL"], secure)
    problems += [
        f"{needed} is not set, and {given} needs it"
        for given, needed in (("SMTP_URL", "MAIL_FROM"), ("WEBHOOK_URL", "WEBHOOK_SECRET"))
        if values[given] and not values[needed]
    ]
    if deployed and (values["SMTP_URL"] or values["WEBHOOK_URL"]) and not values["PUBLIC_URL"]:
        problems.append("PUBLIC_URL is not set, and what is told of grants links there")
    if values["MAIL_FROM"] and not _MAIL_ADDRESS.fullmatch(values["MAIL_FROM"]):
        problems.append("MAIL_FROM must be a mail address and nothing else")
    return problems + _webhook_secret_problems(values["WEBHOOK_SECRET"], deployed=deployed)


def _host_problems(variable: str, value: str, schemes: tuple[str, ...]) -> list[str]:
    if problems := _url_problems(variable, value, schemes):
        return problems
    if value and not (value.isprintable() and " " not in value and urlsplit(value).hostname):
        return [f"{variable} is not a URL"]
    return []


def _webhook_secret_problems(secret: str, *, deployed: bool) -> list[str]:
    if not secret:
        return []
    try:
        key = b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    fitting = secret.startswith(WEBHOOK_SECRET_PREFIX) and len(key) in WEBHOOK_SECRET_BYTES
    if not fitting or (deployed and len(set(key)) < MIN_DISTINCT_CHARACTERS):
        shortest, longest = WEBHOOK_SECRET_BYTES[0], WEBHOOK_SECRET_BYTES[-1]
        return [
            f"WEBHOOK_SECRET must be {WEBHOOK_SECRET_PREFIX} and the base64 of {shortest} to"
            f" {longest} random bytes"
        ]
    return []


def _weak_secrets(secret_key: str, audit_mac_key: str) -> list[str]:
    problems = [
        f"{variable} is weak: give it at least {MIN_SECRET_BYTES} random bytes "
        "(`python -c 'import secrets; print(secrets.token_urlsafe(48))'`)"
        for variable, secret in (("SECRET_KEY", secret_key), ("AUDIT_MAC_KEY", audit_mac_key))
        if secret
        and (
            len(secret.encode()) < MIN_SECRET_BYTES
            or len(Counter(secret)) < MIN_DISTINCT_CHARACTERS
        )
    ]
    if secret_key and secret_key == audit_mac_key:
        problems.append("SECRET_KEY and AUDIT_MAC_KEY are the same; each needs a value of its own")
    return problems


def _weak_passwords(database_url: str, owner_url: str) -> list[str]:
    try:
        urls = {
            variable: make_url(value)
            for variable, value in (
                ("DATABASE_URL", database_url),
                ("DATABASE_OWNER_URL", owner_url),
            )
            if value
        }
    except (ArgumentError, ValueError):
        return []  # said above
    problems = [
        f"{variable} has its user's name as the password"
        for variable, url in urls.items()
        if url.password and url.password == url.username
    ]
    users = [url.username for url in urls.values() if url.username]
    if len(users) > len(set(users)):
        problems.append("DATABASE_URL and DATABASE_OWNER_URL name the same role")
    return problems


def _with_driver(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}+psycopg2://{rest}"
