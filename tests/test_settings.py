"""Settings: a bad environment is refused with all its problems, and no value is repeated."""

import os
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
from webapp.settings import Settings, SettingsError, read_settings

SECRET = string.ascii_letters[:48]
OTHER = string.ascii_letters[-48:]
GOOD = {
    "SIGHTLINE_ENV": "production",
    "SECRET_KEY": SECRET,
    "AUDIT_MAC_KEY": OTHER,
    "DATABASE_URL": "postgresql://app:app-secret@db.example/sightline",
    "DATABASE_OWNER_URL": "postgresql://owner:owner-secret@db.example/sightline",
    "REDIS_URL": "rediss://:redis-secret@redis.example/0",
    "CELERY_BROKER_URL": "amqps://broker:broker-secret@broker.example//",
    "BROKER_QUEUES": "quorum",
    "JOURNAL_DIR": "/var/lib/journal-of-ours",
    "TRUSTED_PROXIES": "10.1.0.0/16, fd00::/8",
    "PUBLIC_URL": "https://sightline.example/",
    "SMTP_URL": "smtp://mailer:mail-secret@mail.example:2525",
    "MAIL_FROM": "sightline@mail.example",
    "WEBHOOK_URL": "https://hooks.example/in?key=hook-secret",
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
NUMBERS = (
    "DATABASE_TIMEOUT",
    *RATE_LIMITS,
    "AUDIT_TIMEOUT",
    "JOURNAL_MAX_MB",
    "CACHE_TTL",
    "CACHE_TIMEOUT",
)
REQUIRED = ("SECRET_KEY", "AUDIT_MAC_KEY", "DATABASE_URL", "REDIS_URL")
DEVELOPMENT = {
    "SECRET_KEY": "s",
    "AUDIT_MAC_KEY": "m",
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
    assert found.audit_mac_key == OTHER
    assert found.database_url == "postgresql+psycopg2://app:app-secret@db.example/sightline"
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


@pytest.mark.parametrize("env", ["qa", "production"])
def test_missing_settings_are_all_named(env: str) -> None:
    error = refused({"SIGHTLINE_ENV": env})
    assert mentioned(error) == set(REQUIRED)
    assert all("is not set" in problem for problem in error.problems)
    assert len(error.problems) == len(REQUIRED)
    assert all(f"  - {problem}" in str(error).splitlines() for problem in error.problems)


@pytest.mark.parametrize("missing", REQUIRED)
def test_each_required_setting_is_refused_if_missing(missing: str) -> None:
    assert mentioned(refused(GOOD | {missing: ""})) == {missing}


WEAK: dict[str, tuple[str, dict[str, str]]] = {
    "short": ("SECRET_KEY", {"SECRET_KEY": SECRET[:31]}),
    "monotonous": ("AUDIT_MAC_KEY", {"AUDIT_MAC_KEY": "abcdefghijk" * 10}),
    "the same": ("SECRET_KEY", {"AUDIT_MAC_KEY": SECRET}),
    "the user's name": ("DATABASE_URL", {"DATABASE_URL": "postgresql://app:app@db/x"}),
    "the owner's name": ("DATABASE_OWNER_URL", {"DATABASE_OWNER_URL": "postgresql://o:o@db/x"}),
    "a webhook in the clear": ("WEBHOOK_URL", {"WEBHOOK_URL": "http://hooks.example/"}),
    "a monotonous key": ("WEBHOOK_SECRET", {"WEBHOOK_SECRET": f"whsec_{'YWFh' * 10}"}),
    "no address to link to": ("PUBLIC_URL", {"PUBLIC_URL": ""}),
    "one role": ("DATABASE_URL", {"DATABASE_OWNER_URL": "postgresql://app:other@db.example/x"}),
}


@pytest.mark.parametrize("env", ["qa", "production"])
@pytest.mark.parametrize("weakness", WEAK)
def test_weak_setting_is_refused_where_deployed(weakness: str, env: str) -> None:
    variable, changes = WEAK[weakness]
    assert mentioned(refused(GOOD | changes | {"SIGHTLINE_ENV": env})) == {variable}
    assert read(GOOD | changes | {"SIGHTLINE_ENV": "development"}).env == "development"


MALFORMED: dict[str, dict[str, str]] = {
    "no URL": {"DATABASE_URL": "postgresql:nothing"},
    "another scheme": {"DATABASE_URL": "mysql://app:secret@db/x"},
    "no scheme": {"DATABASE_OWNER_URL": "owner:secret@db/x"},
    "a port in words": {"DATABASE_URL": "postgresql://app:secret@db:port/x"},
    "a slash in the password": {"REDIS_URL": "redis://:sec/ret@redis/0"},
    "half an address": {"REDIS_URL": "redis://[::1"},
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
    "an operator in two lines": {"SIGHTLINE_OPERATOR": "ada\nbob"},
    "proxies in words": {"TRUSTED_PROXIES": "two"},
    "less than no proxy": {"TRUSTED_PROXIES": "-1"},
    "a proxy and a half": {"TRUSTED_PROXIES": "1.5"},
    "more proxies than there are": {"TRUSTED_PROXIES": "9" * 5000},
    "a count beside a network": {"TRUSTED_PROXIES": "1,10.0.0.0/8"},
    "a network with a host in it": {"TRUSTED_PROXIES": "10.0.0.1/8"},
    "a network and nothing": {"TRUSTED_PROXIES": "10.0.0.0/8,"},
    "a host's name": {"TRUSTED_PROXIES": "proxy.example"},
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
            "AUDIT_MAC_KEY": "weak",
            "DATABASE_URL": "postgresql://same:same@db/x",
            "DATABASE_OWNER_URL": "postgresql://same:same@db/x",
            "CELERY_BROKER_URL": "http://broker/",
            "BROKER_QUEUES": "both",
            "DATABASE_TIMEOUT": "0",
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
        }
    )
    expected = {*GOOD, *NUMBERS} - {"JOURNAL_DIR"}
    assert mentioned(error) == expected
    # Both keys are weak and also the same; both URLs have weak passwords and also the same role.
    assert len(error.problems) == len(expected) + 2


@pytest.mark.parametrize("broker", ["redis://broker.example/0", ""])
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
    values = ("2.5", "0", "1", "2", "3", "50", "1.5", "0.5", "0.2", "1")
    numbers = dict(zip(NUMBERS, values, strict=True))
    found = read(DEVELOPMENT | numbers)
    assert (found.audit_timeout, found.journal_max_mb) == (1.5, 1)
    assert (found.cache_ttl, found.cache_timeout) == (1, 1.0)
    assert found.database_timeout == 2.5
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


def test_missing_setting_in_development_names_make_run() -> None:
    error = refused({"SIGHTLINE_HOME": os.devnull})
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


def test_environment_wins_over_the_stack_file(home: Path) -> None:
    found = read({"SIGHTLINE_HOME": str(home), "REDIS_URL": "redis://elsewhere/1"})
    assert found.redis_url == "redis://elsewhere/1"
    assert found.database_url.endswith("@localhost/sightline")
    own = {"SIGHTLINE_HOME": str(home), "DATABASE_URL": DEVELOPMENT["DATABASE_URL"]}
    assert mentioned(refused(own)) == set(REQUIRED) - {"DATABASE_URL"}


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
        st.sampled_from(sorted({*GOOD, *NUMBERS})),
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
