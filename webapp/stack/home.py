"""The stack's directory, SIGHTLINE_HOME: the files and the secrets of its servers."""

import fcntl
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from webapp.db.roles import LOGINS, login_role
from webapp.settings import STACK_FILE
from webapp.stack.servers import (
    OWNER_ROLE,
    PostgresServer,
    RedisServer,
    free_port,
    is_free,
)

LOGIN_URLS = {
    "web": "WEB_DATABASE_URL",
    "worker": "WORKER_DATABASE_URL",
    "beat": "WORKER_DATABASE_URL",
}
"""The variables that keep the DATABASE_URL of servers, by their names in the Procfile. Everything
else logs in as commands do."""

LOG_ORIGIN = "sightline.localhost/log"

SIGNING_KEYS = {
    "web": "WEB_JOURNAL_SIGNING_KEY",
    "worker": "WORKER_JOURNAL_SIGNING_KEY",
    "commands": "JOURNAL_SIGNING_KEY",
}
"""The variables that keep the JOURNAL_SIGNING_KEY of each kind of process likewise."""

SECRETS = (
    *("SECRET_KEY", "LOG_SIGNING_KEY", *SIGNING_KEYS.values()),
    *("POSTGRES_PASSWORD", "OWNER_PASSWORD", "REDIS_PASSWORD"),
    *(f"{process.upper()}_PASSWORD" for process in LOGINS),
)
PORTS = ("POSTGRES_PORT", "REDIS_PORT")


class HomeInUse(Exception):
    """Another stack runs from this directory."""


@dataclass(frozen=True)
class Stack:
    """Both servers, not started yet, and the environment variables that lead to them."""

    postgres: PostgresServer
    redis: RedisServer
    owner_password: str
    logins: Mapping[str, str]
    """The passwords of the processes' logins, by their names."""
    environment: Mapping[str, str]


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold a directory for one stack; raises `HomeInUse`."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "stack.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HomeInUse(f"Sightline already runs from {home}") from error
        yield


def open_stack(home: Path, *, durable: bool) -> Stack:
    """Open the stack of a directory. Secrets are made the first time; ports are free ones."""
    kept = _read(home / "stack.secrets")
    kept |= {name: secrets.token_urlsafe(32) for name in SECRETS if name not in kept}
    kept |= {name: str(_usable(kept.get(name))) for name in PORTS}
    _write(home / "stack.secrets", kept)
    redis = RedisServer(
        home / "redis", int(kept["REDIS_PORT"]), kept["REDIS_PASSWORD"], durable=durable
    )
    postgres = PostgresServer(
        home / "postgres", int(kept["POSTGRES_PORT"]), kept["POSTGRES_PASSWORD"], durable=durable
    )
    passwords = {process: kept[f"{process.upper()}_PASSWORD"] for process in LOGINS}
    urls = {process: postgres.url(login_role(process), passwords[process]) for process in LOGINS}
    environment = {
        "SIGHTLINE_ENV": "development",
        "SECRET_KEY": kept["SECRET_KEY"],
        **{name: kept[name] for name in SIGNING_KEYS.values()},
        "LOG_SIGNING_KEY": kept["LOG_SIGNING_KEY"],
        "LOG_ORIGIN": LOG_ORIGIN,
        "DATABASE_URL": urls["commands"],
        **{variable: urls[name] for name, variable in LOGIN_URLS.items() if name in urls},
        "DATABASE_OWNER_URL": postgres.url(OWNER_ROLE, kept["OWNER_PASSWORD"]),
        "REDIS_URL": redis.url,
        "TRUSTED_PROXIES": "0",
    }
    logins = {login_role(process): password for process, password in passwords.items()}
    return Stack(postgres, redis, kept["OWNER_PASSWORD"], logins, environment)


def environment_of(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of one of the Procfile's processes: a server has only its own login's URL and
    its own key."""
    if name not in LOGIN_URLS:
        return dict(environment)
    kept_in = {
        "DATABASE_URL": LOGIN_URLS[name],
        "JOURNAL_SIGNING_KEY": SIGNING_KEYS.get(name, ""),
    }
    own = {variable: environment[kept] for variable, kept in kept_in.items() if kept in environment}
    if not own:
        return dict(environment)  # the caller's own
    others = {"DATABASE_OWNER_URL", *kept_in, *LOGIN_URLS.values(), *SIGNING_KEYS.values()}
    kept = {variable: value for variable, value in environment.items() if variable not in others}
    return {**kept, **own}


@contextmanager
def running(stack: Stack) -> Iterator[None]:
    """Run both servers, with the database created, while the block runs."""
    with running_redis(stack), running_postgres(stack):
        yield


@contextmanager
def running_redis(stack: Stack) -> Iterator[None]:
    try:
        stack.redis.start()
        yield
    finally:
        stack.redis.stop()


@contextmanager
def running_postgres(stack: Stack) -> Iterator[None]:
    try:
        stack.postgres.start()
        stack.postgres.ensure_database(stack.owner_password, logins=stack.logins)
        yield
    finally:
        stack.postgres.stop()


def publish(home: Path, environment: Mapping[str, str]) -> None:
    """Write the file by which settings find the stack in development."""
    _write(home / STACK_FILE, environment)


def _usable(port: str | None) -> int:
    return int(port) if port is not None and is_free(int(port)) else free_port()


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _write(path: Path, values: Mapping[str, str]) -> None:
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
