"""Tests that many callers in many processes compute a missing value once."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest
from flask import Flask
from sqlalchemy import text

from tests.audit.receipts import wait_for
from tests.caching.conftest import login_url
from tests.caching.sample import Query, list_always_soft, list_titles, probe
from tests.caching.servers import PostgresServer, RedisServer
from tests.caching.test_freshness import write
from tests.caching.unit import caching, inside
from webapp.caching import store
from webapp.caching.keys import value_key
from webapp.db.scopes import TenantScope
from webapp.extensions import db

HANG = 180


def call(app: Flask, scope: TenantScope) -> tuple[str, tuple[str, ...]]:
    with inside(app, scope):
        cached = list_titles(scope, Query())
        return cached.outcome, cached.value.titles


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 4])
def test_64_concurrent_callers_compute_the_value_once(
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    app: Flask,
    scope: TenantScope,
    processes: int,
) -> None:
    write(app, scope, "title")
    arguments = [login_url(postgres_server), redis_server.url, str(scope.tenant_id)]
    callers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.caching.caller", *arguments, str(64 // processes), "0.2"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for caller in callers:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n"
    for caller in callers:
        assert caller.stdin is not None
        caller.stdin.write("go\n")
        caller.stdin.flush()
    reports = [orjson.loads(caller.communicate(timeout=HANG)[0]) for caller in callers]
    assert sum(report["loads"] for report in reports) == 1
    results = [result for report in reports for result in report["results"]]
    assert len(results) == 64
    assert all(titles == ["title"] for _, titles in results)
    assert [outcome for outcome, _ in results].count("miss") == 1


def test_caller_that_waits_for_a_fill_holds_no_connection(app: Flask, scope: TenantScope) -> None:
    entered, may_finish = threading.Event(), threading.Event()

    def pause() -> None:
        entered.set()
        assert may_finish.wait(HANG)

    probe.before_read = pause
    with ThreadPoolExecutor(20) as threads:
        leader = threads.submit(call, app, scope)
        assert entered.wait(HANG)
        waiting = [threads.submit(call, app, scope) for _ in range(10)]
        time.sleep(0.2)
        with app.app_context():
            pool = db.engine.pool
        wait_for(lambda: pool.checkedout() == 0)  # type: ignore[attr-defined]  # a QueuePool's
        may_finish.set()
        assert leader.result(HANG)[0] == "miss"
        assert {result.result(HANG)[0] for result in waiting} == {"hit_local"}
    assert probe.loads == 1


def test_failing_fill_does_not_fail_the_waiting_callers(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    entered, may_fail = threading.Event(), threading.Event()

    def fail() -> None:
        probe.before_read = lambda: None
        entered.set()
        assert may_fail.wait(HANG)
        raise LookupError("raised for the first caller only")

    probe.before_read = fail
    with ThreadPoolExecutor(20) as threads:
        leader = threads.submit(call, app, scope)
        assert entered.wait(HANG)
        waiting = [threads.submit(call, each, scope) for each in (app, other_app) for _ in range(5)]
        time.sleep(0.1)
        may_fail.set()
        with pytest.raises(LookupError):
            leader.result(HANG)
        outcomes = [result.result(HANG)[0] for result in waiting]
    assert outcomes.count("miss") == 1
    assert probe.loads == 2


def test_waiting_callers_see_a_write_that_committed_during_the_fill(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    entered, may_finish = threading.Event(), threading.Event()

    def pause() -> None:
        probe.after_read = lambda: None
        entered.set()
        assert may_finish.wait(HANG)

    probe.after_read = pause
    with ThreadPoolExecutor(20) as threads:
        leader = threads.submit(call, app, scope)
        assert entered.wait(HANG)
        write(other_app, scope, "new")
        late = [threads.submit(call, each, scope) for each in (app, other_app)]
        time.sleep(0.1)
        may_finish.set()
        assert leader.result(HANG)[1] == ()
        assert [result.result(HANG)[1] for result in late] == [("new",), ("new",)]


def test_caller_computes_the_value_itself_when_its_patience_ends(
    app: Flask, scope: TenantScope
) -> None:
    entered, may_finish = threading.Event(), threading.Event()

    def pause() -> None:
        probe.before_read = lambda: None
        entered.set()
        assert may_finish.wait(HANG)

    probe.before_read = pause
    with ThreadPoolExecutor(2) as threads:
        leader = threads.submit(call, app, scope)
        assert entered.wait(HANG)
        assert threads.submit(call, app, scope).result(HANG)[0] == "miss"
        assert not leader.done()
        may_finish.set()
        leader.result(HANG)


def test_fill_lock_of_a_dead_process_expires(
    app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    key = value_key(list_titles.name, scope.visibility, (Query(),))
    assert caching(app).store.acquire_fill(key) is not None
    (lock,) = redis_server.client.keys("*fill:*")
    left = redis_server.client.pttl(lock)
    assert isinstance(left, int)
    assert 0 < left <= store.FILL_SECONDS * 1000
    assert call(app, scope) == ("miss", ())


@pytest.mark.parametrize("lasts", [None, 3600])
def test_garbage_in_place_of_a_fill_lock_blocks_no_caller(
    app: Flask, scope: TenantScope, redis_server: RedisServer, lasts: int | None
) -> None:
    key = value_key(list_titles.name, scope.visibility, (Query(),))
    redis_server.client.set(f"{caching(app).store.prefix}fill:{key}", b"garbage", ex=lasts)
    assert caching(app).store.acquire_fill(key) is not None
    assert caching(app).store.acquire_fill(key) is None


def test_fill_lock_is_released_by_its_holder_only(app: Flask) -> None:
    redis = caching(app).store
    token = redis.acquire_fill("k")
    assert token is not None
    redis.release_fill("k", b"another's")
    assert redis.acquire_fill("k") is None
    redis.release_fill("k", token)
    assert redis.acquire_fill("k") is not None


def test_one_caller_refreshes_a_stale_value_while_others_are_served_it(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    entered, may_finish = threading.Event(), threading.Event()

    def soft(each: Flask) -> str:
        with inside(each, scope):
            return list_always_soft(scope).outcome

    def pause() -> None:
        probe.before_read = lambda: None
        entered.set()
        assert may_finish.wait(HANG)

    assert soft(app) == "miss"
    probe.before_read = pause
    with ThreadPoolExecutor(2) as threads:
        leader = threads.submit(soft, app)
        assert entered.wait(HANG)
        assert soft(app) == "stale"
        assert soft(other_app) == "stale"
        may_finish.set()
        assert leader.result(HANG) == "refreshed"
    assert probe.loads == 2


def test_stale_value_is_not_served_after_a_write(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    with inside(app, scope):
        list_always_soft(scope)
    write(other_app, scope, "new")
    with inside(app, scope):
        assert list_always_soft(scope).value.titles == ("new",)


def test_cached_call_ends_its_own_transaction_and_no_other(app: Flask, scope: TenantScope) -> None:
    with inside(app, scope):
        list_titles(scope, Query())
        assert not db.session.in_transaction()
        db.session.execute(text("select 1"))
        list_titles(scope, Query(text="other"))
        assert db.session.in_transaction()
        assert list_titles(scope, Query(text="other")).outcome == "hit_local"
