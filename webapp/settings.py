"""Settings: the environment, read once into a frozen value, or refused with all its problems."""

import os
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import ceil, inf
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

from environs import Env, EnvValidationError, ValidationError
from flask import current_app
from marshmallow.validate import And, OneOf, Regexp
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from webapp import redis_servers
from webapp.hardening import connections
from webapp.hardening.connections import PlaintextHosts, parse_database, parse_hosts
from webapp.hardening.files import check_directory, is_ours_alone, read_secret
from webapp.hardening.strength import check_random_seed, check_secret, check_seed, is_random
from webapp.key_ring import KeyRing
from webapp.signing_key import SigningKey, signing_key

Environment = Literal["development", "qa", "production"]
BrokerQueues = Literal["classic", "quorum"]
TracesExporter = Literal["otlp", "none"]
Login = Literal["web", "worker", "commands"]
TrustedProxies = int | tuple[IPv4Network | IPv6Network, ...] | None

Check = Callable[[str], Any]
"""A check of a value, as those of `webapp.hardening` are."""

STACK_FILE = "stack.env"
"""Written under SIGHTLINE_HOME by the development stack. It says that this is development."""

SECRET: Mapping[str, Any] = {"secret": True}
"""Marks a setting whose variable may be left out for `NAME_FILE`, which names a file with it."""

PREFIXED = ("env", "home", "operator")
"""Settings whose variables begin with `SIGHTLINE_`."""

PUBLIC_URL = "http://127.0.0.1:8000"
WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105 - a public prefix, no secret
WEBHOOK_SECRET_BYTES = range(24, 65)
"""Lengths of a key that Standard Webhooks allows."""

_MAIL_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[a-z0-9.-]+\Z", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"[\w.@+-]{1,64}\Z")
_NOT_A_NAME = "must be 1 to 64 letters, digits and . _ @ + -"
_COUNT = re.compile(r"[0-9]{1,2}")
_PORT = re.compile(r"[0-9]{1,5}")
_ORIGIN = re.compile(r"[!\"$-*,-~]{1,200}\Z")
_NOT_AN_ORIGIN = "must be 1 to 200 ASCII characters without spaces, + and #"
_VERIFIER_KEY = re.compile(r"[!-*,-~]{1,255}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{40,2000}={0,2}")
_LIMIT = re.compile(r"[1-9][0-9]{0,4}")


class SettingsError(Exception):
    """All problems of the environment, so that one start shows them all."""

    def __init__(self, problems: list[str], note: str = "") -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"Sightline cannot start with these settings:{lines}{note}")


@dataclass(frozen=True)
class WitnessSetting:
    """A witness, who cosigns what continues what it has cosigned before."""

    url: str
    key: str
    """Its public key, as `name+id+key`."""

    @property
    def name(self) -> str:
        return self.key.partition("+")[0]


@dataclass(frozen=True)
class Settings:
    env: Environment
    home: Path
    secret_key: str = field(metadata=SECRET)
    """Keys cursors, cache envelopes and tasks (each through a derived key)."""
    database_url: str = field(metadata=SECRET)
    """The login of this kind of process: owns nothing, may become the scope roles it needs."""
    database_owner_url: str | None = field(metadata=SECRET)
    """The owner of the tables; only `flask db` uses it."""
    database_timeout: float
    """Seconds that one statement may take."""
    redis_url: str = field(metadata=SECRET)
    celery_broker_url: str = field(metadata=SECRET)
    journal_dir: Path
    """Where each web process keeps its events until they are committed: on a disk that lasts."""
    journal_max_mb: int
    """Megabytes that one process may hold there; beyond them, elevated work is refused."""
    journal_keep: float
    """Seconds that it keeps an event which the ledger has: the ledger may lose it in a failover."""
    checkpoint_dir: Path
    """Where a worker's host keeps the log's last checkpoint, off the database."""
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
    journal_signing_key: str | None = field(default=None, metadata=SECRET)
    """The private key that signs the events of this process. Beat needs none, nor does a command
    that records nothing."""
    trusted_proxies: TrustedProxies = None
    """How many proxies stand in front of the web process, or the networks they are in. 0: clients
    connect directly. `None`: not set, and the address that connects is believed."""
    public_url: str = PUBLIC_URL
    """Where people reach the service; messages about grants link there."""
    smtp_url: str | None = field(default=None, metadata=SECRET)
    """The server that sends mail; without one, no mail is sent."""
    mail_from: str | None = None
    webhook_url: str | None = field(default=None, metadata=SECRET)
    """Receives a signed request for each notice of a grant; without one, none is sent."""
    webhook_secret: str | None = field(default=None, metadata=SECRET)
    operations_token: str | None = field(default=None, metadata=SECRET)
    """Opens the metrics and the API's description where it is deployed; without one they are not
    there."""
    secret_key_accepted: str | None = field(default=None, metadata=SECRET)
    """What it has signed is accepted, and it signs nothing."""
    webhook_secret_accepted: str | None = field(default=None, metadata=SECRET)
    """What receivers may still or already go by: it signs each notice too."""
    operations_token_accepted: str | None = field(default=None, metadata=SECRET)
    plaintext_hosts: PlaintextHosts = PlaintextHosts()
    """Other hosts to which connections may be in clear text."""
    broker_queues: BrokerQueues = "classic"
    """The kind of queues in RabbitMQ: one node's, or replicated to several."""
    database_replica_url: str | None = field(default=None, metadata=SECRET)
    """A replica, from which the audit events are listed; without one, everything is the primary's.
    """
    database_replica_lag: float = 10.0
    """Seconds that it may be behind."""
    database_connections: Mapping[Login, int] | None = None
    """How many connections the login of each kind of process may have at once; `None`: a share of
    the server's. Only `flask db` uses it."""
    prometheus_multiproc_dir: Path | None = None
    """Where the processes of this host count together; `None`: each counts for itself."""
    metrics_port: int | None = None
    """Where a worker on a host of its own answers `/metrics`; `None`: a web process does."""
    otel_traces_exporter: TracesExporter | None = None
    """Whether traces are sent; `None`: where an endpoint is named."""
    otel_exporter_otlp_endpoint: str | None = None
    """Where OpenTelemetry sends what it sends; it reads this variable, and others, itself."""
    otel_exporter_otlp_traces_endpoint: str | None = None
    """Where it sends traces."""
    otel_exporter_otlp_protocol: str | None = None
    """How it sends them."""
    log_signing_key: str | None = field(default=None, metadata=SECRET)
    """The private key that signs the log's checkpoints; only workers need it, and what is next."""
    log_signing_key_accepted: str | None = field(default=None, metadata=SECRET)
    """What verifiers may still or already go by: it signs each checkpoint too."""
    log_signing_key_pq: str | None = field(default=None, metadata=SECRET)
    """A second one, of ML-DSA-44, whose signatures a quantum computer would not forge."""
    log_origin: str | None = None
    """The log's name, which its checkpoints begin with."""
    witnesses: tuple[WitnessSetting, ...] = ()
    """Who cosigns checkpoints."""
    operator: str | None = None
    """The name of whoever runs commands; by default that of the operating system's user."""

    @property
    def deployed(self) -> bool:
        return self.env != "development"

    @property
    def secret_keys(self) -> KeyRing:
        return KeyRing.of(self.secret_key, self.secret_key_accepted)

    @property
    def signing_key(self) -> SigningKey:
        """The key of this process's events; raises `SettingsError` where none is set."""
        if self.journal_signing_key is None:
            raise SettingsError([f"JOURNAL_SIGNING_KEY {_not_set(deployed=self.deployed)}"])
        return signing_key(self.journal_signing_key)

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        return _given(self.webhook_secret, self.webhook_secret_accepted)

    @property
    def operations_tokens(self) -> tuple[str, ...]:
        return _given(self.operations_token, self.operations_token_accepted)

    @property
    def sends_traces(self) -> bool:
        """Whether traces are sent, for which packages are needed that nothing else needs."""
        if self.otel_traces_exporter is not None:
            return self.otel_traces_exporter == "otlp"
        named = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        return named is not None

    def __repr__(self) -> str:
        """Name the fields only: most values are secrets or contain one."""
        return f"Settings({', '.join(field.name for field in fields(self))})"


def _given(*secrets: str | None) -> tuple[str, ...]:
    return tuple(secret for secret in secrets if secret)


def current_settings() -> Settings:
    """The settings of the application whose context this is."""
    settings: Settings = current_app.extensions["settings"]
    return settings


def variable_of(setting: Field[Any]) -> str:
    """The environment variable of a setting."""
    prefix = "SIGHTLINE_" if setting.name in PREFIXED else ""
    return f"{prefix}{setting.name.upper()}"


def file_variable(variable: str) -> str:
    """The variable that names a file with the secret."""
    return f"{variable}_FILE"


def accepted_variable(variable: str) -> str:
    """The variable of a second key, which is accepted while keys are rotated."""
    return f"{variable}_ACCEPTED"


SECRETS = tuple(variable_of(setting) for setting in fields(Settings) if setting.metadata)
"""The variables that may be left out for a `NAME_FILE`."""

VARIABLES = (*map(variable_of, fields(Settings)), *map(file_variable, SECRETS))
"""All variables that are read here."""


def secret_files() -> dict[str, str]:
    """The files that secrets are read from, by the variables that name them."""
    named = {name: os.environ.get(name, "") for name in map(file_variable, SECRETS)}
    return {name: path for name, path in named.items() if path}


def is_development() -> bool:
    """Whether the environment says that this is development. Whatever it does not say, is not."""
    return _start(Env())[0] == "development"


def read_settings() -> Settings:
    """Read and check the environment.

    Raises `SettingsError`, which names every missing, malformed or weak value.
    """
    env = Env(eager=False)
    env.add_parser("text", _text)
    env.add_parser("database", _database)
    env.add_parser("contents", _contents)
    env.add_parser("positive", _positive)
    env.add_parser("rate", _rate)
    env.add_parser("seconds", _rate)
    env.add_parser("proxies", _proxies)
    env.add_parser("port", _port)
    env.add_parser("connections", _connections)
    env.add_parser("hosts", parse_hosts)
    env.add_parser("directory", _directory)
    env.add_parser("witnesses", _witnesses)
    name, home = _start(env)
    settings = _read(env, name, home)
    note = _UNSAID if env.str(_ENV, None) is None else ""
    if problems := _problems(env):
        raise SettingsError(problems, note)
    return settings


_ENV = "SIGHTLINE_ENV"
_ANOTHER_KEY = "is also another key; it needs a value of its own"

_UNSAID = (
    "\nSIGHTLINE_ENV is not set, so this is production. On your own machine start `make run`, and"
    "\ncome back to its directory; or set SIGHTLINE_ENV=development."
)


def _start(env: Env) -> tuple[str, Path]:
    """What is asked first: the environment's name, and SIGHTLINE_HOME.

    The file of a development stack there is read where no variable says anything else. It has to
    be this user's: it chooses the database, and says that nothing has to be safe.
    """
    home = Path(env.str("SIGHTLINE_HOME", ".sightline")).resolve()
    file = home / STACK_FILE
    led = any(env.str(name, "") for name in ("DATABASE_URL", file_variable("DATABASE_URL")))
    if env.str(_ENV, "development") == "development" and not led and is_ours_alone(file):
        env.read_env(str(file), recurse=False)
    return env.str(_ENV, "production"), home


def _read(env: Env, name: str, home: Path) -> Settings:
    """Read every variable. The field of a variable that is refused holds no usable value."""
    names = get_args(Environment)
    env.str(_ENV, "production", validate=OneOf(names, error="must be one of {choices}"))
    deployed = name != "development"
    plaintext = env.hosts("PLAINTEXT_HOSTS", "") or PlaintextHosts()
    own: list[Callable[[Path], None]] = [check_directory] if deployed else []
    return Settings(
        env=cast(Environment, name),
        home=home,
        **_read_keys(env, deployed=deployed),
        **_read_servers(env, plaintext, deployed=deployed),
        journal_dir=env.directory("JOURNAL_DIR", "", home=home, checks=own),
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
        plaintext_hosts=plaintext,
        prometheus_multiproc_dir=_path(env.str("PROMETHEUS_MULTIPROC_DIR", "")),
        metrics_port=_read_metrics_port(env),
        **_read_log(env, home, plaintext, deployed=deployed),
        operator=env.text("SIGHTLINE_OPERATOR", "", checks=[Regexp(_NAME, error=_NOT_A_NAME)]),
        **_read_channels(env, deployed=deployed),
        **_read_traces(env, plaintext, deployed=deployed),
    )


def _read_keys(env: Env, *, deployed: bool) -> dict[str, Any]:
    missing = _not_set(deployed=deployed)
    required, signing = "SECRET_KEY", "JOURNAL_SIGNING_KEY"
    rotated = (required, "OPERATIONS_TOKEN")
    names = (*rotated, *map(accepted_variable, rotated), signing)
    found: dict[str, Any] = {}
    for name in names:
        unlike = _unlike(env, names, name)
        if name == signing:
            checks = [check_random_seed, *unlike] if deployed else [check_seed]
        else:
            checks = [check_secret, *unlike] if deployed else []
        options = {"missing": missing} if name == required else {}
        found[name.lower()] = _secret(env, name, checks=checks, **options)
    return found


def _unlike(env: Env, names: Sequence[str], name: str) -> list[Check]:
    """Checks that a key is none of those that are read before it."""
    return [_differs_from(_raw(env, other), _ANOTHER_KEY) for other in names[: names.index(name)]]


def _read_servers(env: Env, plaintext: PlaintextHosts, *, deployed: bool) -> dict[str, Any]:
    missing = _not_set(deployed=deployed)
    owner_url = _raw(env, "DATABASE_OWNER_URL")
    database: list[Check] = [_url("postgresql")]
    cache: list[Check] = [_url("redis", "rediss", *redis_servers.SCHEMES)]
    broker: list[Check] = [_url("redis", "rediss", *redis_servers.SCHEMES, "amqp", "amqps")]
    unlike: list[Check] = []
    if deployed:
        tls = connections.check_database_tls(plaintext)
        database += [connections.check_database_password, tls]
        server = [connections.check_server_password, connections.check_server_tls(plaintext)]
        cache, broker = cache + server, broker + server
        unlike = [_other_role_than(owner_url)]
    redis_url = _secret(env, "REDIS_URL", missing=missing, checks=cache)
    in_redis = (_raw(env, "CELERY_BROKER_URL") or "redis://").startswith(("redis", "sentinel"))
    return {
        "database_url": _secret(
            env, "DATABASE_URL", "database", missing=missing, checks=database + unlike
        ),
        "database_owner_url": _secret(env, "DATABASE_OWNER_URL", "database", checks=database),
        "database_timeout": env.positive("DATABASE_TIMEOUT", 5.0),
        "database_replica_url": _secret(
            env, "DATABASE_REPLICA_URL", "database", checks=database + unlike
        ),
        "database_replica_lag": env.positive("DATABASE_REPLICA_LAG", 10.0),
        "database_connections": env.connections("DATABASE_CONNECTIONS", ""),
        "redis_url": redis_url,
        "celery_broker_url": _secret(env, "CELERY_BROKER_URL", checks=broker) or redis_url,
        "broker_queues": env.str("BROKER_QUEUES", "classic", validate=_queues(in_redis=in_redis)),
    }


def _read_log(env: Env, home: Path, plaintext: PlaintextHosts, *, deployed: bool) -> dict[str, Any]:
    """Read what workers seal with. A worker that lacks any of it says so when it starts."""
    first = "LOG_SIGNING_KEY"
    keys = (first, accepted_variable(first), "LOG_SIGNING_KEY_PQ")
    others = ("SECRET_KEY", "JOURNAL_SIGNING_KEY", *keys)

    def checks_of(name: str) -> list[Check]:
        return [check_seed, *(_unlike(env, others, name) if deployed else ())]

    own: list[Callable[[Path], None]] = [check_directory] if deployed else []
    tls: list[Check] = [connections.check_server_tls(plaintext)] if deployed else []
    return {
        **{name.lower(): _secret(env, name, checks=checks_of(name)) for name in keys},
        "log_origin": env.text("LOG_ORIGIN", "", checks=[Regexp(_ORIGIN, error=_NOT_AN_ORIGIN)]),
        "checkpoint_dir": env.directory(
            "CHECKPOINT_DIR", "", home=home, below="checkpoints", checks=own
        ),
        "witnesses": env.witnesses("WITNESSES", "", checks=[_host_url("http", "https"), *tls]),
    }


def _read_channels(env: Env, *, deployed: bool) -> dict[str, Any]:
    """Read the settings of mail and webhook, which tell people of grants."""
    strong: list[Check] = [connections.check_given_password] if deployed else []
    smtp_url = _secret(env, "SMTP_URL", checks=[_host_url("smtp", "smtps"), *strong])
    secure = ("https",) if deployed else ("http", "https")
    webhook_url = _secret(env, "WEBHOOK_URL", checks=[_host_url(*secure)])
    by_mail, by_webhook = _raw(env, "SMTP_URL"), _raw(env, "WEBHOOK_URL")
    unlike = [_differs_from(_raw(env, "WEBHOOK_SECRET"), _ANOTHER_KEY)] if deployed else []
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
        "webhook_secret": _secret(
            env,
            "WEBHOOK_SECRET",
            missing="is not set, and WEBHOOK_URL needs it" if by_webhook else None,
            checks=[_webhook_key(deployed=deployed)],
        ),
        "webhook_secret_accepted": _secret(
            env,
            accepted_variable("WEBHOOK_SECRET"),
            checks=[_webhook_key(deployed=deployed), *unlike],
        ),
    }


def _read_traces(env: Env, plaintext: PlaintextHosts, *, deployed: bool) -> dict[str, Any]:
    """Read what says whether and where traces are sent.

    The first variable that asks for them is refused where what sends them is not installed.
    """
    exporter, asked = "OTEL_TRACES_EXPORTER", env.str("OTEL_TRACES_EXPORTER", "")
    exporters = OneOf(get_args(TracesExporter), error="must be one of {choices}")
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    given = [name for name in endpoints if env.str(name, "") and asked != "none"]
    asking = exporter if asked == "otlp" else next(iter(given), None)
    tls = [connections.check_server_tls(plaintext)] if deployed else []

    def checks_of(name: str) -> list[Check]:
        return [_check_sender] if name == asking else []

    places = {
        name: env.text(
            name, "", checks=[_host_url("http", "https"), _check_bare, *tls, *checks_of(name)]
        )
        for name in endpoints
    }
    protocol = "OTEL_EXPORTER_OTLP_PROTOCOL"
    protocols = OneOf(["http/protobuf"], error="must be {choices}, or not set")
    return {
        **{name.lower(): place for name, place in places.items()},
        exporter.lower(): env.text(exporter, "", checks=[exporters, *checks_of(exporter)]),
        protocol.lower(): env.text(protocol, "", checks=[protocols]),
    }


def _check_sender(_: str) -> None:
    """Refuse what needs the packages that send traces, where they are not installed."""
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ValidationError(
            "asks for traces, and what sends them is not installed: install"
            " requirements-traces.txt in the place of requirements.txt"
        )


def _check_bare(value: str) -> None:
    """Refuse an endpoint with what may be a secret, since errors of the network repeat it."""
    parts = urlsplit(value)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValidationError(
            "has more than a host and a path: OTEL_EXPORTER_OTLP_HEADERS is for what is secret"
        )


def _path(value: str) -> Path | None:
    return Path(value) if value else None


def _read_metrics_port(env: Env) -> int | None:
    together = env.str("PROMETHEUS_MULTIPROC_DIR", "")
    port: int | None = env.port("METRICS_PORT", "", together=together)
    return port


def _port(value: str, *, together: str) -> int | None:
    if not value:
        return None
    if not _PORT.fullmatch(value) or not 0 < int(value) < 2**16:
        raise ValidationError("must be a port, 1 to 65535")
    if not together:
        raise ValidationError("needs PROMETHEUS_MULTIPROC_DIR, where a worker's processes count")
    return int(value)


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


def _secret(env: Env, name: str, parser: str = "text", **options: Any) -> str | None:
    """Read a secret from its variable, or from the file that `NAME_FILE` names."""
    file = file_variable(name)
    if not env.str(file, ""):
        return cast(str | None, getattr(env, parser)(name, "", **options))
    both = [_refused(f"and {name} are both set")] if env.str(name, "") else []
    options["checks"] = [*options.get("checks", ()), *both]
    return cast(str | None, env.contents(file, "", parse=_PARSERS[parser], **options))


def _raw(env: Env, name: str) -> str:
    """A secret as it is given, to compare it with another one; empty where it is not readable."""
    path = env.str(file_variable(name), "")
    if not path:
        return env.str(name, "")
    try:
        return read_secret(path)
    except ValidationError:
        return ""


def _contents(path: str, *, parse: Callable[..., str | None], **options: Any) -> str | None:
    return parse(read_secret(path), **options)


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
    url = _text(connections.with_hosts_apart(value), **options)
    if url is None:
        return None
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}+psycopg2://{rest}"


_PARSERS: Mapping[str, Callable[..., str | None]] = {"text": _text, "database": _database}


def _directory(
    value: str, *, home: Path, checks: Iterable[Callable[[Path], None]], below: str = "journal"
) -> Path:
    path = Path(value or home / below)
    And(*checks)(path)
    return path.resolve()


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


def _connections(value: str) -> dict[Login, int] | None:
    if not value:
        return None
    parts = [part.strip().partition("=") for part in value.split(",")]
    numbers = {name: int(number) for name, _, number in parts if _LIMIT.fullmatch(number)}
    if len(parts) != len(numbers) or numbers.keys() != set(get_args(Login)):
        raise ValidationError(
            "must say how many connections each login may have, as in web=60,worker=20,commands=15"
        )
    return {login: numbers[login] for login in get_args(Login)}


def _witnesses(value: str, *, checks: Iterable[Check]) -> tuple[WitnessSetting, ...]:
    """Parse witnesses with commas between them, each a URL and its key."""
    found = []
    for item in filter(None, (text.strip() for text in value.split(","))):
        url, _, key = item.partition(" ")
        if not _VERIFIER_KEY.fullmatch(key.strip()):
            raise ValidationError(
                "must be a URL, a space and a key for each witness, as in"
                " https://witness.example/ witness.example+0a1b2c3d+BAUG…"
            )
        And(*checks)(url)
        found.append(WitnessSetting(url.rstrip("/"), key.strip()))
    if len({witness.name for witness in found}) < len(found):
        raise ValidationError("names a witness twice")
    return tuple(found)


def _parse_port(url: str) -> int | None:
    return urlsplit(url).port


_PARSE: Mapping[str, Callable[[str], object]] = {
    "postgresql": make_url,
    **dict.fromkeys(redis_servers.SCHEMES, redis_servers.parse_sentinel),
}


def _url(*schemes: str) -> Check:
    def check(value: str) -> None:
        try:
            scheme = urlsplit(value).scheme
            scheme = "postgresql" if scheme.startswith("postgresql+") else scheme
            known = scheme in schemes
            if known:
                # Parse it as its later users do, whose errors would repeat a part of it.
                _PARSE.get(scheme, _parse_port)(value)
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


def _refused(message: str) -> Check:
    """A check that fails, whatever the value is."""

    def check(_: str) -> None:
        raise ValidationError(message)

    return check


def _differs_from(other: str, message: str) -> Check:
    def check(value: str) -> None:
        if value == other:
            raise ValidationError(message)

    return check


def _other_role_than(owner_url: str) -> Check:
    owner = parse_database(owner_url)

    def check(url: str) -> None:
        parsed = parse_database(url)
        if owner and parsed and parsed.username and parsed.username == owner.username:
            raise ValidationError("and DATABASE_OWNER_URL name the same role")

    return check


def _webhook_key(*, deployed: bool) -> Check:
    def check(secret: str) -> None:
        try:
            key = b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True)
        except ValueError:
            key = b""
        fits = secret.startswith(WEBHOOK_SECRET_PREFIX) and len(key) in WEBHOOK_SECRET_BYTES
        shortest, longest = WEBHOOK_SECRET_BYTES[0], WEBHOOK_SECRET_BYTES[-1]
        if not fits or (deployed and not is_random(key, shortest)):
            raise ValidationError(
                f"must be {WEBHOOK_SECRET_PREFIX} and the base64 of {shortest} to {longest}"
                " random bytes"
            )

    return check
