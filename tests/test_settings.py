"""Settings: a bad environment is refused with all its problems, and no value is repeated."""

import os
import re
import runpy
import string
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from ipaddress import ip_network
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import RATE_LIMITS, ROOT, SETTINGS
from webapp.key_ring import KeyRing
from webapp.settings import (
    SECRETS,
    VARIABLES,
    Settings,
    SettingsError,
    file_variable,
    read_settings,
)

SECRET = "kx3RZ_w0TqP8uVbLhE5nYc7MdSgJ2aFi9OoXtQ4C1DyBvA6W"  # noqa: S105 - of this test only
SEED = "mQ7vXr2LpTs0KzWnHd9YcEuB4jGfAo1iVq8RxNtJ6kI"
OTHER = "9fG-mU2zKpNs6HrXe1JqYtD8bLwVa0Cj4TiRo7ExSvPh5QcB"
VERIFIED = "sslmode=verify-full"
WITNESSES = (
    "https://witness.example/w witness.example+28a0a1a6+"
    "BFAVuOs+2EtFXU2sVpPyfPIzpJJQwMUBdSBiGOfjbfda, "
    "https://other.example:8443 other.example+0a1b2c3d+"
    "BFAVuOs+2EtFXU2sVpPyfPIzpJJQwMUBdSBiGOfjbfda"
)
GOOD = {
    "SIGHTLINE_ENV": "production",
    "SECRET_KEY": SECRET,
    "JOURNAL_SIGNING_KEY": SEED,
    "DATABASE_URL": f"postgresql://app:app-password-1@db.example/sightline?{VERIFIED}",
    "DATABASE_OWNER_URL": f"postgresql://owner:owner-password@db.example/sightline?{VERIFIED}",
    "DATABASE_REPLICA_URL": f"postgresql://reader:read-password@replica.example/sightline?{VERIFIED}",
    "REDIS_URL": "rediss://:redis-password@redis.example/0",
    "CELERY_BROKER_URL": "amqps://broker:broker-password@broker.example//",
    "BROKER_QUEUES": "quorum",
    "JOURNAL_DIR": "/var/lib/journal-of-ours",
    "TRUSTED_PROXIES": "10.1.0.0/16, fd00::/8",
    "PUBLIC_URL": "https://sightline.example/",
    "SMTP_URL": "smtp://mailer:mail-password@mail.example:2525",
    "MAIL_FROM": "sightline@mail.example",
    "WEBHOOK_URL": "https://hooks.example/in?key=hook-secret",
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "PLAINTEXT_HOSTS": "mesh.internal, 10.9.0.0/16",
    "OPERATIONS_TOKEN": "Vt3-kQ8yWc1RzNf6HjLp0XsBg5UoEa7MdYi2TxJr4Kv9CwAq",
    "SECRET_KEY_ACCEPTED": "VwUry9kjIYKHOfoWLnDV7kHlaAe1ixjXht_p1-7Zed1ypRQb",
    "WEBHOOK_SECRET_ACCEPTED": "whsec_rhZ/XD4DuiHrp0rpt11jK6VPWbI+K4hc",
    "OPERATIONS_TOKEN_ACCEPTED": "MOZMCWeE8VXJdpGiQO3wYD1HiGZ3jg_EyMrepZb-SQM89nSQ",
    "LOG_SIGNING_KEY": "8kV1hZ2uQn0cXo5y9bS3tR7wLpDfJgMaEiNqUvCzHdY",
    "LOG_SIGNING_KEY_ACCEPTED": "w2Zp6QmXv9sTn4KcRb8LhUe1YdGjFo0aViHy5NqBxMk",
    "LOG_SIGNING_KEY_PQ": "Tn7c0VxRb3LmQpZs9KhUe2YdGj5oFa8wXiHyWqNvCtE",
    "LOG_ORIGIN": "sightline.example/log",
    "CHECKPOINT_DIR": "/var/lib/checkpoints-of-ours",
    "WITNESSES": WITNESSES,
}
NUMBERS = (
    "DATABASE_TIMEOUT",
    "DATABASE_REPLICA_LAG",
    *RATE_LIMITS,
    "AUDIT_TIMEOUT",
    "JOURNAL_MAX_MB",
    "CACHE_TTL",
    "CACHE_TIMEOUT",
)
REQUIRED = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL")
DEVELOPMENT = {
    "SIGHTLINE_ENV": "development",
    "SECRET_KEY": "s",
    "DATABASE_URL": "postgresql://app:app@localhost/sightline",
    "REDIS_URL": "redis://localhost/0",
}
CANARY = "Zq7Kx9"
"""A text that is in every value of a bad environment, and in no message."""


def read(environment: Mapping[str, str]) -> Settings:
    """Read the settings of this environment, without variables of the caller."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    with mock.patch.dict(os.environ, kept | dict(environment), clear=True):
        return read_settings()


def refused(environment: Mapping[str, str]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read(environment)
    return caught.value


def mentioned(error: SettingsError) -> set[str]:
    """The variables with which the problems begin."""
    return {problem.split()[0] for problem in error.problems}


@pytest.mark.parametrize("env", ["qa", "production"])
def test_good_settings_are_read(env: str) -> None:
    found = read(GOOD | {"SIGHTLINE_ENV": env})
    assert found.env == env
    assert found.deployed
    assert found.secret_key == SECRET
    assert found.journal_signing_key == SEED
    assert found.database_url == GOOD["DATABASE_URL"].replace("postgresql", "postgresql+psycopg2")
    assert found.database_owner_url is not None
    assert (found.celery_broker_url, found.broker_queues) == (GOOD["CELERY_BROKER_URL"], "quorum")
    assert found.journal_dir == Path(GOOD["JOURNAL_DIR"])
    assert found.trusted_proxies == (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    assert found.public_url == "https://sightline.example"
    assert (found.smtp_url, found.mail_from) == (GOOD["SMTP_URL"], GOOD["MAIL_FROM"])
    assert (found.webhook_url, found.webhook_secret) == (
        GOOD["WEBHOOK_URL"],
        GOOD["WEBHOOK_SECRET"],
    )
    assert found.secret_keys == KeyRing.of(SECRET, GOOD["SECRET_KEY_ACCEPTED"])
    assert found.webhook_secrets == (GOOD["WEBHOOK_SECRET"], GOOD["WEBHOOK_SECRET_ACCEPTED"])
    assert found.operations_tokens == (GOOD["OPERATIONS_TOKEN"], GOOD["OPERATIONS_TOKEN_ACCEPTED"])
    assert (found.log_origin, found.checkpoint_dir) == (
        GOOD["LOG_ORIGIN"],
        Path(GOOD["CHECKPOINT_DIR"]),
    )
    assert [(witness.name, witness.url) for witness in found.witnesses] == [
        ("witness.example", "https://witness.example/w"),
        ("other.example", "https://other.example:8443"),
    ]


@pytest.mark.parametrize("env", ["qa", "production"])
def test_missing_settings_are_all_named(env: str) -> None:
    error = refused({"SIGHTLINE_ENV": env})
    assert mentioned(error) == set(REQUIRED)
    assert "SIGHTLINE_ENV is not set" not in str(error)
    assert all("is not set" in problem for problem in error.problems)
    assert len(error.problems) == len(REQUIRED)
    assert all(f"  - {problem}" in str(error).splitlines() for problem in error.problems)


@pytest.mark.parametrize("missing", REQUIRED)
def test_each_required_setting_is_refused_if_missing(missing: str) -> None:
    assert mentioned(refused(GOOD | {missing: ""})) == {missing}


WEAK: dict[str, tuple[str, dict[str, str]]] = {
    "short": ("SECRET_KEY", {"SECRET_KEY": SECRET[:31]}),
    "monotonous": ("JOURNAL_SIGNING_KEY", {"JOURNAL_SIGNING_KEY": "A" * 43}),
    "the same": ("JOURNAL_SIGNING_KEY", {"SECRET_KEY": SEED}),
    "accepted for another": (
        "SECRET_KEY_ACCEPTED",
        {"SECRET_KEY_ACCEPTED": GOOD["OPERATIONS_TOKEN"]},
    ),
    "accepted and signing": ("SECRET_KEY_ACCEPTED", {"SECRET_KEY_ACCEPTED": SECRET}),
    "accepted, short": ("SECRET_KEY_ACCEPTED", {"SECRET_KEY_ACCEPTED": SECRET[:31]}),
    "a token accepted twice": (
        "OPERATIONS_TOKEN_ACCEPTED",
        {"OPERATIONS_TOKEN_ACCEPTED": GOOD["OPERATIONS_TOKEN"]},
    ),
    "a webhook's key twice": (
        "WEBHOOK_SECRET_ACCEPTED",
        {"WEBHOOK_SECRET_ACCEPTED": GOOD["WEBHOOK_SECRET"]},
    ),
    "the user's name": ("DATABASE_URL", {"DATABASE_URL": f"postgresql://app:app@db/x?{VERIFIED}"}),
    "the owner's name": (
        "DATABASE_OWNER_URL",
        {"DATABASE_OWNER_URL": f"postgresql://o:o@db/x?{VERIFIED}"},
    ),
    "a replica in the clear": (
        "DATABASE_REPLICA_URL",
        {"DATABASE_REPLICA_URL": "postgresql://reader:read-password@replica.example/x"},
    ),
    "a replica without a password": (
        "DATABASE_REPLICA_URL",
        {"DATABASE_REPLICA_URL": f"postgresql://reader@replica.example/x?{VERIFIED}"},
    ),
    "a replica read by the owner": (
        "DATABASE_REPLICA_URL",
        {"DATABASE_REPLICA_URL": GOOD["DATABASE_OWNER_URL"]},
    ),
    "a webhook in the clear": ("WEBHOOK_URL", {"WEBHOOK_URL": "http://hooks.example/"}),
    "a monotonous key": ("WEBHOOK_SECRET", {"WEBHOOK_SECRET": f"whsec_{'YWFh' * 10}"}),
    "no address to link to": ("PUBLIC_URL", {"PUBLIC_URL": ""}),
    "one role": ("DATABASE_URL", {"DATABASE_OWNER_URL": GOOD["DATABASE_URL"]}),
    "a token that is a key": ("OPERATIONS_TOKEN", {"OPERATIONS_TOKEN": SECRET}),
    "a key of the log twice": (
        "LOG_SIGNING_KEY_ACCEPTED",
        {"LOG_SIGNING_KEY_ACCEPTED": GOOD["LOG_SIGNING_KEY"]},
    ),
    "a witness in the clear": (
        "WITNESSES",
        {"WITNESSES": WITNESSES.replace("https:", "http:")},
    ),
    "an alphabet": ("SECRET_KEY", {"SECRET_KEY": string.ascii_letters}),
    "a repetition": ("SECRET_KEY", {"SECRET_KEY": SECRET[:16] * 3}),
    "a repeated key": ("WEBHOOK_SECRET", {"WEBHOOK_SECRET": f"whsec_{'MfKQ9r8GKYqr' * 4}"}),
    "a short password": (
        "DATABASE_URL",
        {"DATABASE_URL": f"postgresql://a:12345678901@d/x?{VERIFIED}"},
    ),
    "a short mail password": ("SMTP_URL", {"SMTP_URL": "smtps://mailer:short@mail.example"}),
    "a broker's default": ("CELERY_BROKER_URL", {"CELERY_BROKER_URL": "amqps://guest:guest@mq//"}),
}


@pytest.mark.parametrize("env", ["qa", "production"])
@pytest.mark.parametrize("weakness", WEAK)
def test_weak_setting_is_refused_where_deployed(weakness: str, env: str) -> None:
    variable, changes = WEAK[weakness]
    assert mentioned(refused(GOOD | changes | {"SIGHTLINE_ENV": env})) == {variable}
    assert read(GOOD | changes | {"SIGHTLINE_ENV": "development"}).env == "development"


@pytest.mark.parametrize("env", ["development", "production"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LOG_SIGNING_KEY", "c2hvcnQ"),
        ("LOG_SIGNING_KEY", f"{GOOD['LOG_SIGNING_KEY']}="),
        ("LOG_SIGNING_KEY_PQ", "!" * 43),
        ("LOG_ORIGIN", "two words"),
        ("LOG_ORIGIN", "a+b"),
        ("LOG_ORIGIN", "sightline.example/log#2"),
        ("WITNESSES", "https://alone.example/"),
        ("WITNESSES", "https://witness.example/ witness.example+28a0a1a6"),
        ("WITNESSES", f"{WITNESSES}, {WITNESSES}"),
        ("WITNESSES", WITNESSES.replace("https://witness.example/w", "witness.example")),
    ],
)
def test_malformed_setting_of_the_log_is_refused(env: str, variable: str, value: str) -> None:
    error = refused(GOOD | {"SIGHTLINE_ENV": env, variable: value})
    assert mentioned(error) == {variable}
    assert value not in str(error)


def test_web_listens_on_loopback_in_development_only(home: Path, tmp_path: Path) -> None:
    def listening(environment: Mapping[str, str]) -> str:
        own = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PORT": "81"} | dict(environment)
        with mock.patch.dict(os.environ, own, clear=True):
            bind: str = runpy.run_path(str(ROOT / "gunicorn.conf.py"))["bind"]
            return bind

    assert listening({"SIGHTLINE_ENV": "development"}) == "127.0.0.1:81"
    assert listening({"SIGHTLINE_HOME": str(home)}) == "127.0.0.1:81"
    assert listening({}) == listening(GOOD) == "0.0.0.0:81"
    assert listening({"SIGHTLINE_HOME": str(home), "SIGHTLINE_ENV": "qa"}) == "0.0.0.0:81"


def test_every_variable_that_is_read_belongs_to_a_setting() -> None:
    source = (ROOT / "webapp" / "settings.py").read_text()
    assert set(re.findall(r'"([A-Z][A-Z_]*[A-Z])"', source)) <= set(VARIABLES) <= SETTINGS
    assert "SIGHTLINE_OPERATOR" in VARIABLES


REACHED: dict[str, tuple[dict[str, str], str | None]] = {
    "a database without a password": (
        {"DATABASE_URL": f"postgresql://app@db.example/x?{VERIFIED}"},
        "has no password",
    ),
    "a local database without a password": (
        {"DATABASE_URL": "postgresql://app@127.0.0.1/x"},
        "has no password",
    ),
    "a database by its socket": ({"DATABASE_URL": "postgresql:///x?host=/run/postgresql"}, None),
    "a database by the default socket": ({"DATABASE_OWNER_URL": "postgresql://owner@/x"}, None),
    "a database by a client's certificate": (
        {
            "DATABASE_URL": f"postgresql://app@db.example/x?{VERIFIED}&sslcert=/etc/crt&sslkey=/etc/key"
        },
        None,
    ),
    "a database by a password file": (
        {"DATABASE_URL": "postgresql://app@db.example/x?sslmode=verify-ca&passfile=/etc/pgpass"},
        None,
    ),
    "a database by a service that may be anywhere": (
        {"DATABASE_URL": "postgresql:///x?service=sightline"},
        "without verifying it: add sslmode=verify-full",
    ),
    "a database by TLS that verifies nothing": (
        {"DATABASE_OWNER_URL": "postgresql://owner:owner-password@db.example/x?sslmode=require"},
        "without verifying it: add sslmode=verify-full",
    ),
    "a database on this host": (
        {"DATABASE_URL": "postgresql://app:app-password-1@/x?host=localhost:5433&host=::1"},
        None,
    ),
    "a standby on another host": (
        {"DATABASE_URL": "postgresql://app:app-password-1@/x?host=localhost:1&host=db.example:2"},
        "without verifying it",
    ),
    "a database at another address": (
        {"DATABASE_URL": "postgresql://app:app-password-1@localhost/x?hostaddr=192.0.2.1"},
        "without verifying it",
    ),
    "a database in a mesh": (
        {"DATABASE_URL": "postgresql://app:app-password-1@MESH.internal/x"},
        None,
    ),
    "a cache without a password": ({"REDIS_URL": "rediss://redis.example/0"}, "has no password"),
    "a cache in clear text": (
        {"REDIS_URL": "redis://:redis-password@redis.example/0"},
        "without TLS: begin it with rediss://",
    ),
    "a cache that is not verified": (
        {"REDIS_URL": "rediss://:redis-password@redis.example/0?ssl_cert_reqs=none"},
        "does not verify",
    ),
    "a cache of another name": (
        {"REDIS_URL": "rediss://:redis-password@redis.example/0?ssl_check_hostname=False"},
        "does not verify",
    ),
    "a cache of an own authority": (
        {"REDIS_URL": "rediss://:redis-password@redis.example/0?ssl_ca_certs=/etc/ca.pem"},
        None,
    ),
    "a cache in a network of clear text": (
        {"REDIS_URL": "redis://:redis-password@10.9.1.2/0"},
        None,
    ),
    "a broker in clear text": (
        {"CELERY_BROKER_URL": "amqp://broker:broker-password@broker.example//"},
        "without TLS: begin it with amqps://",
    ),
    "a second broker in clear text": (
        {"CELERY_BROKER_URL": "amqps://b:broker-password@one//;amqp://b:broker-password@two//"},
        "without TLS: begin it with amqps://",
    ),
    "a broker without a password": (
        {"CELERY_BROKER_URL": "amqps://broker.example//"},
        "has no password",
    ),
    "a receiver of traces in clear text": (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel.example:4318"},
        "without TLS: begin it with https://",
    ),
    "a receiver of traces on this host": (
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"},
        None,
    ),
    "a receiver of traces in a mesh": (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://mesh.internal:4318"},
        None,
    ),
    "a broker on this host": (
        {"CELERY_BROKER_URL": "amqp://broker:broker-password@127.0.0.2//"},
        None,
    ),
}
"""What is said of a URL where it is deployed; `None` where it is accepted."""


@pytest.mark.parametrize("case", REACHED)
def test_deployed_server_is_reached_with_a_password_and_verified_beyond_this_host(
    case: str,
) -> None:
    changes, said = REACHED[case]
    if said is None:
        assert read(GOOD | changes).deployed
        return
    (problem,) = refused(GOOD | changes).problems
    assert problem.split()[0] in changes
    assert said in problem


@pytest.mark.parametrize("case", REACHED)
def test_development_reaches_servers_as_it_likes(case: str) -> None:
    changes, _ = REACHED[case]
    assert read(GOOD | changes | {"SIGHTLINE_ENV": "development"})


@pytest.mark.parametrize(
    ("variable", "host"),
    [("PGHOST", "db.example"), ("PGHOSTADDR", "192.0.2.1"), ("PGSERVICE", "sightline")],
)
def test_database_host_of_libpq_counts_where_the_url_has_none(variable: str, host: str) -> None:
    changes = {"DATABASE_URL": "postgresql://app:app-password-1@/x"}
    assert read(GOOD | changes).deployed
    assert mentioned(refused(GOOD | changes | {variable: host})) == {"DATABASE_URL"}


def spoilt_directory(path: Path, spoil: str) -> Path:
    path.mkdir(mode=0o700)
    match spoil:
        case "a symlink":
            link = path.with_name("link")
            link.symlink_to(path)
            return link
        case "no directory":
            path.rmdir()
            path.touch()
        case "of another user":
            os.chown(path, 12345, -1)
        case _:
            path.chmod(int(spoil, 8))
    return path


@pytest.mark.parametrize(
    "spoil",
    [
        *("0720", "0702", "1777", "a symlink", "no directory"),
        pytest.param(
            "of another user",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
    ],
)
def test_journal_directory_that_others_may_write_is_refused_where_deployed(
    tmp_path: Path, spoil: str
) -> None:
    journal = {"JOURNAL_DIR": str(spoilt_directory(tmp_path / "journal", spoil))}
    assert mentioned(refused(GOOD | journal)) == {"JOURNAL_DIR"}
    assert read(GOOD | journal | {"SIGHTLINE_ENV": "development"})


def test_journal_directory_that_anybody_may_make_is_refused_where_deployed(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o1777)
    (problem,) = refused(
        GOOD | {"JOURNAL_DIR": str(open_to_all / "sightline" / "journal")}
    ).problems
    assert problem.startswith("JOURNAL_DIR is not there, and anybody may make it")


def test_journal_directory_of_this_user_alone_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir(mode=0o750)
    assert read(GOOD | {"JOURNAL_DIR": str(tmp_path / "journal")}).deployed


def in_files(secrets: Mapping[str, str], directory: Path) -> dict[str, str]:
    """Write secrets into files; returns the variables that name them."""
    for name, value in secrets.items():
        (directory / name).write_text(f"{value}\n")
    return {file_variable(name): str(directory / name) for name in secrets}


def test_every_secret_may_be_in_a_file(tmp_path: Path) -> None:
    secrets = {name: GOOD[name] for name in SECRETS}
    others = {name: value for name, value in GOOD.items() if name not in SECRETS}
    unset = dict.fromkeys(SECRETS, "")  # as an empty variable of a compose file is
    assert read(others | unset | in_files(secrets, tmp_path)) == read(GOOD)


@pytest.mark.parametrize("name", SECRETS)
def test_secret_in_a_file_is_checked_like_one_in_its_variable(name: str, tmp_path: Path) -> None:
    others = {other: value for other, value in GOOD.items() if other != name}
    files = in_files({name: f"weak:{CANARY}"}, tmp_path)
    error = refused(others | files)
    assert mentioned(error) == {file_variable(name)}
    assert CANARY not in str(error)


@pytest.mark.parametrize("name", SECRETS)
def test_secret_in_both_a_variable_and_a_file_is_refused(name: str, tmp_path: Path) -> None:
    (problem,) = refused(GOOD | in_files({name: GOOD[name]}, tmp_path)).problems
    assert problem == f"{name}_FILE and {name} are both set"


def test_keys_that_are_the_same_are_refused_from_files_too(tmp_path: Path) -> None:
    keys = {"SECRET_KEY": SECRET, "OPERATIONS_TOKEN": SECRET}
    others = {name: value for name, value in GOOD.items() if name not in keys}
    assert mentioned(refused(others | in_files(keys, tmp_path))) == {"OPERATIONS_TOKEN_FILE"}


CONTENTS: dict[str, Callable[[Path], object]] = {
    "that is not there": lambda path: None,
    "that is a directory": lambda path: path.mkdir(),
    "that is empty": lambda path: path.touch(),
    "with an empty line": lambda path: path.write_text("\n"),
    "of two lines": lambda path: path.write_text(f"{SECRET}\n{CANARY}\n"),
    "that is too large": lambda path: path.write_text(SECRET * 400),
    "that is no text": lambda path: path.write_bytes(b"\xff" * 48),
    "with a null character": lambda path: path.write_text(f"{SECRET}\0"),
    "that is a pipe": os.mkfifo,
}


@pytest.mark.parametrize("case", CONTENTS)
def test_unusable_file_of_a_secret_is_refused_without_its_path(case: str, tmp_path: Path) -> None:
    path = tmp_path / CANARY
    CONTENTS[case](path)
    others = {name: value for name, value in GOOD.items() if name != "SECRET_KEY"}
    error = refused(others | {"SECRET_KEY_FILE": str(path)})
    (problem,) = error.problems
    assert problem.startswith("SECRET_KEY_FILE names ")
    assert CANARY not in str(error)


MALFORMED: dict[str, dict[str, str]] = {
    "no URL": {"DATABASE_URL": "postgresql:nothing"},
    "another scheme": {"DATABASE_URL": "mysql://app:secret@db/x"},
    "no scheme": {"DATABASE_OWNER_URL": "owner:secret@db/x"},
    "a port in words": {"DATABASE_URL": "postgresql://app:secret@db:port/x"},
    "a slash in the password": {"REDIS_URL": "redis://:sec/ret@redis/0"},
    "half an address": {"REDIS_URL": "redis://[::1"},
    "Sentinels without a primary": {"REDIS_URL": "redis+sentinel://:secret@one,two/0"},
    "Sentinels whose certificates nobody verifies": {
        "REDIS_URL": "rediss+sentinel://:secret@one/0?master_name=m&ssl_cert_reqs=none"
    },
    "a port out of range": {"CELERY_BROKER_URL": "amqp://broker:70000//"},
    "HTTP": {"CELERY_BROKER_URL": "http://broker/"},
    "no kind of queues": {"BROKER_QUEUES": "both"},
    "no number": {"AUDIT_TIMEOUT": "soon"},
    "zero": {"AUDIT_TIMEOUT": "0"},
    "negative": {"CACHE_TTL": "-1"},
    "no room": {"JOURNAL_MAX_MB": "0"},
    "all the room": {"JOURNAL_MAX_MB": "inf"},
    "endless": {"CACHE_TIMEOUT": "inf"},
    "not a number": {"CACHE_TIMEOUT": "nan"},
    "no scheme at all": {"PUBLIC_URL": "sightline.example"},
    "mail over HTTP": {"SMTP_URL": "http://mail.example/"},
    "mail to nobody": {"SMTP_URL": "smtp://"},
    "a mail server's port in words": {"SMTP_URL": "smtps://mail.example:submission"},
    "a sender with a name": {"MAIL_FROM": "Sightline <sightline@mail.example>"},
    "two senders": {"MAIL_FROM": "one@mail.example,two@mail.example"},
    "a sender of two lines": {"MAIL_FROM": "one@mail.example\nBcc: two@mail.example"},
    "a webhook of two lines": {"WEBHOOK_URL": "https://hooks.example/\nX-Other: 1"},
    "a webhook nowhere": {"WEBHOOK_URL": "https:///in"},
    "a key without its prefix": {"WEBHOOK_SECRET": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
    "a short key": {"WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS="},
    "a key that is no base64": {"WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8I-PZIo2LaLaSw"},
    "traces by another exporter": {"OTEL_TRACES_EXPORTER": "zipkin"},
    "traces by gRPC": {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    "traces to no host": {"OTEL_EXPORTER_OTLP_ENDPOINT": "https:///v1"},
    "traces with a password": {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://me:secret@otel.example"},
    "traces with a key": {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://otel.example/?key=1"},
    "an operator in two lines": {"SIGHTLINE_OPERATOR": "ada\nbob"},
    "proxies in words": {"TRUSTED_PROXIES": "two"},
    "connections of one login": {"DATABASE_CONNECTIONS": "web=60"},
    "connections of a stranger": {"DATABASE_CONNECTIONS": "web=6,worker=2,commands=1,other=1"},
    "no connection": {"DATABASE_CONNECTIONS": "web=6,worker=2,commands=0"},
    "connections said twice": {"DATABASE_CONNECTIONS": "web=6,web=6,worker=2,commands=1"},
    "less than no proxy": {"TRUSTED_PROXIES": "-1"},
    "a proxy and a half": {"TRUSTED_PROXIES": "1.5"},
    "more proxies than there are": {"TRUSTED_PROXIES": "9" * 5000},
    "a count beside a network": {"TRUSTED_PROXIES": "1,10.0.0.0/8"},
    "a network with a host in it": {"TRUSTED_PROXIES": "10.0.0.1/8"},
    "a network and nothing": {"TRUSTED_PROXIES": "10.0.0.0/8,"},
    "a host's name": {"TRUSTED_PROXIES": "proxy.example"},
    "plaintext to a URL": {"PLAINTEXT_HOSTS": "redis://cache"},
    "plaintext to every address": {"PLAINTEXT_HOSTS": "10.0.0.0/8, ::/0"},
    "every IPv4 address": {"TRUSTED_PROXIES": "10.0.0.0/8,0.0.0.0/0"},
    "every IPv6 address": {"TRUSTED_PROXIES": "::/0"},
    "another environment": {"SIGHTLINE_ENV": "staging"},
    "an empty environment": {"SIGHTLINE_ENV": ""},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_setting_is_refused(case: str) -> None:
    changes = MALFORMED[case]
    assert mentioned(refused(GOOD | changes)) == set(changes)


@pytest.mark.parametrize("needed", ["MAIL_FROM", "WEBHOOK_SECRET"])
def test_mail_and_webhook_each_need_both_settings(needed: str) -> None:
    assert mentioned(refused(GOOD | {needed: ""})) == {needed}


def test_all_problems_of_settings_are_reported_at_once() -> None:
    error = refused(
        {
            "SIGHTLINE_ENV": "staging",
            "SECRET_KEY": "weak",
            "JOURNAL_SIGNING_KEY": "weak",
            "DATABASE_URL": "postgresql://same:same@db/x",
            "DATABASE_OWNER_URL": "postgresql://same:same@db/x",
            "DATABASE_REPLICA_URL": f"postgresql://same:same@db/x?{VERIFIED}",
            "CELERY_BROKER_URL": "http://broker/",
            "BROKER_QUEUES": "both",
            "DATABASE_TIMEOUT": "0",
            "DATABASE_REPLICA_LAG": "0",
            **dict.fromkeys(RATE_LIMITS, "-1"),
            "AUDIT_TIMEOUT": "0",
            "TRUSTED_PROXIES": "proxy.example",
            "JOURNAL_MAX_MB": "much",
            "CACHE_TTL": "never",
            "CACHE_TIMEOUT": "-0.1",
            "PUBLIC_URL": "sightline.example",
            "SMTP_URL": "smtp:",
            "MAIL_FROM": "nobody",
            "WEBHOOK_URL": "http://hooks.example/",
            "WEBHOOK_SECRET": "weak",
            "PLAINTEXT_HOSTS": "0.0.0.0/0",
            "OPERATIONS_TOKEN": "weaker",
            "SECRET_KEY_ACCEPTED": "feeble",
            "OPERATIONS_TOKEN_ACCEPTED": "feeblest",
            "WEBHOOK_SECRET_ACCEPTED": "weakest",
            "JOURNAL_DIR": os.devnull,
            "REDIS_URL": "redis://cache",
            "LOG_SIGNING_KEY": "frailer",
            "LOG_SIGNING_KEY_ACCEPTED": "feeble",
            "LOG_SIGNING_KEY_PQ": "frail",
            "LOG_ORIGIN": "two words",
            "CHECKPOINT_DIR": os.devnull,
            "WITNESSES": "nobody",
        }
    )
    expected = {*GOOD, *NUMBERS}
    assert mentioned(error) == expected
    # Both keys are weak and also the same. The URLs of the database have weak passwords and also
    # the same role, and but for the replica's, like those of the cache and the broker, which have
    # no password, they lead to another host in clear text.
    assert len(error.problems) == len(expected) + 8


@pytest.mark.parametrize("broker", [GOOD["REDIS_URL"], ""])
def test_quorum_queues_are_refused_where_the_broker_is_redis(broker: str) -> None:
    error = refused(GOOD | {"CELERY_BROKER_URL": broker})
    assert error.problems == (
        "BROKER_QUEUES is quorum, which only RabbitMQ has: name it by amqp://",
    )


def test_development_needs_only_settings_without_default() -> None:
    found = read(DEVELOPMENT)
    assert found.env == "development"
    assert not found.deployed
    assert found.home == Path.cwd() / ".sightline"
    assert found.database_owner_url is None
    assert found.celery_broker_url == found.redis_url == "redis://localhost/0"
    assert found.broker_queues == "classic"
    assert (found.audit_timeout, found.cache_ttl, found.cache_timeout) == (2.0, 300, 0.25)
    assert (found.journal_dir, found.journal_max_mb) == (found.home / "journal", 256)
    assert found.database_timeout == 5.0
    assert (found.rate_limit_address, found.rate_limit_failures) == (500, 2)
    assert (found.rate_limit_principal, found.rate_limit_tenant) == (200, 400)
    assert found.rate_limit_denied == 100
    assert found.trusted_proxies is None
    assert found.public_url == "http://127.0.0.1:8000"
    assert found.smtp_url is found.mail_from is found.webhook_url is found.webhook_secret is None


def test_numbers_in_settings_are_read() -> None:
    values = ("2.5", "7.5", "0", "1", "2", "3", "50", "1.5", "0.5", "0.2", "1")
    numbers = dict(zip(NUMBERS, values, strict=True))
    found = read(DEVELOPMENT | numbers)
    assert (found.audit_timeout, found.journal_max_mb) == (1.5, 1)
    assert (found.cache_ttl, found.cache_timeout) == (1, 1.0)
    assert (found.database_timeout, found.database_replica_lag) == (2.5, 7.5)
    assert (found.rate_limit_address, found.rate_limit_failures) == (0, 1)
    assert (found.rate_limit_principal, found.rate_limit_tenant) == (2, 3)
    assert found.rate_limit_denied == 50


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", None),
        ("0", 0),
        ("2", 2),
        ("10.0.0.7", (ip_network("10.0.0.7/32"),)),
        ("10.0.0.0/8,fd00::/8", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
    ],
)
def test_trusted_proxies_are_a_count_or_networks(value: str, expected: object) -> None:
    assert read(DEVELOPMENT | {"TRUSTED_PROXIES": value}).trusted_proxies == expected


TRACES_AT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel.example"}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, False),
        (TRACES_AT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://otel.example/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (TRACES_AT | {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_are_sent_where_an_exporter_or_an_endpoint_is_named(
    asked: dict[str, str], sent: bool
) -> None:
    assert read(GOOD | asked).sends_traces is sent


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (TRACES_AT, ["OTEL_EXPORTER_OTLP_ENDPOINT"]),
        (TRACES_AT | {"OTEL_TRACES_EXPORTER": "otlp"}, ["OTEL_TRACES_EXPORTER"]),
        (TRACES_AT | {"OTEL_TRACES_EXPORTER": "none"}, []),
    ],
)
def test_traces_are_refused_in_one_sentence_where_what_sends_them_is_not_installed(
    asked: dict[str, str], named: list[str]
) -> None:
    missing = {"opentelemetry.exporter.otlp.proto.http.trace_exporter": None}
    with mock.patch.dict(sys.modules, missing):
        if not named:
            assert not read(GOOD | asked).sends_traces
            return
        error = refused(GOOD | asked)
    assert [problem.split()[0] for problem in error.problems] == named
    assert "requirements-traces.txt" in str(error)


def test_missing_setting_in_development_names_make_run() -> None:
    error = refused({"SIGHTLINE_ENV": "development", "SIGHTLINE_HOME": os.devnull})
    assert mentioned(error) == set(REQUIRED)
    assert str(error).count("`make run`") == len(REQUIRED)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with the file of a development stack."""
    lines = (f"{name}={value}\n" for name, value in DEVELOPMENT.items())
    (tmp_path / "stack.env").write_text("".join(lines))
    return tmp_path


def test_settings_in_development_come_from_the_stack_file(home: Path) -> None:
    found = read({"SIGHTLINE_HOME": str(home)})
    assert found.home == home
    assert found.redis_url == DEVELOPMENT["REDIS_URL"]


def test_directory_of_metrics_comes_from_the_stack_file(home: Path) -> None:
    """Or `flask cache stats` beside `make run` counts nothing."""
    with (home / "stack.env").open("a") as file:
        file.write(f"PROMETHEUS_MULTIPROC_DIR={home}/metrics\n")
    assert read({"SIGHTLINE_HOME": str(home)}).prometheus_multiproc_dir == home / "metrics"


def test_environment_wins_over_the_stack_file(home: Path) -> None:
    found = read({"SIGHTLINE_HOME": str(home), "REDIS_URL": "redis://elsewhere/1"})
    assert found.redis_url == "redis://elsewhere/1"
    assert found.database_url.endswith("@localhost/sightline")
    own = {
        "SIGHTLINE_ENV": "development",
        "SIGHTLINE_HOME": str(home),
        "DATABASE_URL": DEVELOPMENT["DATABASE_URL"],
    }
    assert mentioned(refused(own)) == set(REQUIRED) - {"DATABASE_URL"}


def test_stack_file_says_that_it_is_development(home: Path) -> None:
    assert read({"SIGHTLINE_HOME": str(home)}).env == "development"


def test_settings_without_the_stack_file_are_production_and_say_how_to_develop(
    tmp_path: Path,
) -> None:
    error = refused({"SIGHTLINE_HOME": str(tmp_path)})
    assert mentioned(error) == set(REQUIRED)
    assert "SIGHTLINE_ENV is not set, so this is production." in str(error)
    assert "`make run`" in str(error)
    assert "SIGHTLINE_ENV=development" in str(error)
    unsaid = {name: value for name, value in GOOD.items() if name != "SIGHTLINE_ENV"}
    assert read(unsaid).env == "production"


def test_stack_file_says_nothing_to_a_process_that_has_a_database(
    home: Path, tmp_path: Path
) -> None:
    own = {"SIGHTLINE_HOME": str(home), "DATABASE_URL": GOOD["DATABASE_URL"]}
    assert "so this is production" in str(refused(own))
    secret = tmp_path / "database-url"
    secret.write_text(GOOD["DATABASE_URL"])
    own = {"SIGHTLINE_HOME": str(home), "DATABASE_URL_FILE": str(secret)}
    assert "so this is production" in str(refused(own))


def make_writable(file: Path) -> None:
    file.chmod(0o620)


def make_a_link(file: Path) -> None:
    file.symlink_to(file.rename(file.with_name("elsewhere.env")))


def give_away(file: Path) -> None:
    os.chown(file, 12345, -1)


@pytest.mark.parametrize(
    "spoil",
    [
        make_writable,
        make_a_link,
        pytest.param(
            give_away,
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
    ],
)
def test_stack_file_that_others_may_have_written_is_not_read(
    home: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(home / "stack.env")
    for said in ({}, {"SIGHTLINE_ENV": "development"}):
        assert mentioned(refused({"SIGHTLINE_HOME": str(home)} | said)) == set(REQUIRED)


@pytest.mark.parametrize("env", ["qa", "production", "staging"])
def test_stack_file_is_not_read_where_deployed(home: Path, env: str) -> None:
    error = refused({"SIGHTLINE_HOME": str(home), "SIGHTLINE_ENV": env})
    assert mentioned(error) >= set(REQUIRED)


def test_repr_of_settings_shows_no_value() -> None:
    found = read(GOOD)
    for shown in (repr(found), str(found), f"{found}", repr([found])):
        assert "secret_key" in shown
        for value in GOOD.values():
            assert value not in shown
        assert "secret@" not in shown


def test_settings_are_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        read(GOOD).secret_key = OTHER  # type: ignore[misc]  # the assignment must be refused


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
canaries = st.builds(lambda before, after: f"{before}{CANARY}{after}", words, words)
SHAPES: tuple[Callable[[str], str], ...] = (
    lambda canary: canary,
    lambda canary: f"postgresql://app:{canary}@db/x",
    lambda canary: f"/run/secrets/{canary}",
    lambda canary: f"postgresql://{canary}:{canary}@db/x",
    lambda canary: f"postgresql://app:secret@db:{canary}/x",
    lambda canary: f"postgresql:{canary}",
    lambda canary: f"redis://:{canary}@redis/0",
    lambda canary: f"redis://redis:{canary}",
    lambda canary: f"amqp://[{canary}",
    lambda canary: f"{canary}://db/x",
    lambda canary: f"smtp://mailer:{canary}@mail:port",
    lambda canary: f"http://hooks/{canary}",
    lambda canary: f"whsec_{canary}",
)
bad_values = st.builds(lambda shape, canary: shape(canary), st.sampled_from(SHAPES), canaries)


@settings(deadline=None)  # servers of other tests share the machine
@given(
    environment=st.dictionaries(
        st.sampled_from(sorted({*GOOD, *NUMBERS, *map(file_variable, SECRETS)})),
        bad_values,
    )
)
def test_refused_settings_repeat_no_value(environment: dict[str, str]) -> None:
    error = refused({"SIGHTLINE_ENV": "production", "CACHE_TTL": "0"} | environment)
    assert CANARY not in f"{error} {error!r} {error.problems}"
    # A traceback would show the causes too.
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "flask", "--app", "wsgi", "tenants", "list"],
        ["-m", "gunicorn", "wsgi:app"],
        ["-m", "celery", "--quiet", "-A", "wsgi.celery", "worker"],
    ],
    ids=["flask", "gunicorn", "celery"],
)
def test_no_process_starts_with_refused_settings(command: list[str]) -> None:
    url = f"postgresql://app:{CANARY}@db:port/x"
    bad = {"SIGHTLINE_ENV": "production", "SECRET_KEY": CANARY, "DATABASE_URL": url}
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | bad,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    said = ended.stdout + ended.stderr
    assert "Sightline cannot start with these settings:" in said
    for variable in REQUIRED:
        assert f"  - {variable} " in said
    assert "Traceback" not in said
    assert CANARY not in said


def test_list_of_database_servers_is_checked_like_one_server() -> None:
    several = "postgresql://app:another-password-1@127.0.0.1:5432,db-2.example:5432/sightline"
    assert mentioned(refused(GOOD | {"DATABASE_URL": several})) == {"DATABASE_URL"}
    verified = f"{several}?{VERIFIED}"
    found = read(GOOD | {"DATABASE_URL": verified})
    assert found.database_url.endswith("&host=127.0.0.1,db-2.example&port=5432,5432")
    error = refused(GOOD | {"DATABASE_URL": verified, "DATABASE_OWNER_URL": verified})
    assert "name the same role" in error.problems[0]


def test_sentinel_beyond_this_host_is_refused_unless_clear_text_is_meant() -> None:
    several = "redis+sentinel://:another-password-1@127.0.0.1,redis-2.example/0?master_name=m"
    error = refused(GOOD | {"REDIS_URL": several})
    assert mentioned(error) == {"REDIS_URL"}
    assert "PLAINTEXT_HOSTS" in error.problems[0]
    found = read(GOOD | {"REDIS_URL": several, "PLAINTEXT_HOSTS": "redis-2.example"})
    assert found.redis_url == several
    encrypted = several.replace("redis+", "rediss+")
    assert read(GOOD | {"REDIS_URL": encrypted}).redis_url == encrypted
