"""Tests of a Redis that is down, hangs or fails: the database answers, after a bounded wait."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from unittest import mock

import pytest
from flask import Flask

from tests.caching.sample import Query, list_titles, probe
from tests.caching.servers import RedisServer
from tests.caching.test_freshness import read, write
from tests.caching.unit import caching, inside, outlast_reuse
from webapp.caching import read_generations, store
from webapp.db.scopes import TenantScope

THREADS = 8
NEVER_AGAIN = 3600.0
"""A value of SKIP that lasts longer than a test which counts commands to Redis."""


def attempts(app: Flask) -> AbstractContextManager[mock.Mock]:
    """Count the commands that are sent to Redis, whether they fail or not."""
    redis = caching(app).store
    return mock.patch.object(redis, "_attempt", wraps=redis._attempt)


def test_database_answers_while_redis_is_down(
    app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    write(app, scope, "old")
    redis_server.kill()
    with inside(app, scope):
        cached = list_titles(scope, Query())
        assert (cached.outcome, cached.value.titles) == ("unavailable", ("old",))
        again = list_titles(scope, Query())
        assert (again.outcome, again.value.titles) == ("hit_local", ("old",))
    redis_server.restart()
    time.sleep(0.6)  # no command is sent for half a second after a failure
    assert read(app, scope) == ("old",)
    with inside(app, scope):
        assert list_titles(scope, Query(text="other")).outcome == "miss"


def test_each_thread_waits_once_at_most_for_a_hanging_redis(
    app: Flask,
    other_app: Flask,
    scope: TenantScope,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(app, scope, "old")
    read(app, scope)
    redis_server.pause()
    monkeypatch.setattr(store, "SKIP", NEVER_AGAIN)
    outlast_reuse()
    with attempts(app) as tried, ThreadPoolExecutor(THREADS) as threads:
        pages = list(threads.map(lambda _: read(app, scope), range(40)))
    assert 0 < tried.call_count <= THREADS
    with attempts(other_app) as tried:
        assert read(other_app, scope) == ("old",)
    assert tried.call_count == 1
    assert set(pages) == {("old",)}
    redis_server.resume()
    assert read(app, scope) == ("old",)


def test_value_is_right_when_redis_hangs_during_a_fill(
    app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    probe.before_read = redis_server.pause
    assert read(app, scope) == ()
    redis_server.resume()
    probe.before_read = lambda: None
    write(app, scope, "new")
    assert read(app, scope) == ("new",)


@pytest.mark.slow
def test_value_is_right_when_redis_refuses_to_store(
    app: Flask, other_app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    redis_server.client.config_set("maxmemory", "1")
    write(app, scope, "new")
    assert read(app, scope) == read(other_app, scope) == ("new",)
    assert redis_server.client.keys("*value:*") == []


def test_request_waits_once_for_a_hanging_redis(
    app: Flask, scope: TenantScope, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(app, scope)
    redis_server.pause()
    monkeypatch.setattr(store, "SKIP", NEVER_AGAIN)
    with attempts(app) as tried, inside(app, scope):
        for number in range(20):
            read_generations([f"b{number}"])
    redis_server.resume()
    assert tried.call_count == 1


def test_redis_client_has_timeouts_and_does_not_retry(app: Flask) -> None:
    client = caching(app).store.client
    arguments = client.connection_pool.connection_kwargs
    assert arguments["socket_timeout"] == arguments["socket_connect_timeout"] == 0.25
    assert arguments["retry"].get_retries() == 0
