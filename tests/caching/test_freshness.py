"""Tests of guarantee G10: after a change has committed, no caller gets the list from before it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import NullPool, create_engine, text

from tests.audit.receipts import wait_for
from tests.caching.sample import Page, Query, list_titles, probe, tag
from tests.caching.servers import PostgresServer, RedisServer
from tests.caching.unit import caching, inside, outlast_reuse
from webapp.caching import invalidate, read_generations
from webapp.caching.generations import LEASE, now_ms
from webapp.caching.store import Store
from webapp.db.scopes import TenantScope
from webapp.extensions import db

HANG = 180


def add(scope: TenantScope, title: str) -> None:
    db.session.execute(
        text("insert into things values (:visibility, :title)"),
        {"visibility": scope.visibility, "title": title},
    )
    invalidate(tag(scope))


def write(app: Flask, scope: TenantScope, title: str) -> None:
    with inside(app, scope):
        add(scope, title)
        db.session.commit()


def read(app: Flask, scope: TenantScope) -> tuple[str, ...]:
    with inside(app, scope):
        return list_titles(scope, Query()).value.titles


def test_write_ends_the_cached_value_in_every_process(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    for number in range(5):
        assert len(read(app, scope)) == len(read(other_app, scope)) == number
        write(app, scope, f"title {number}")
    assert probe.loads == 5


def test_slow_reader_does_not_bring_back_an_outdated_value(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    has_read, may_finish = threading.Event(), threading.Event()

    def pause() -> None:
        probe.after_read = lambda: None
        has_read.set()
        assert may_finish.wait(HANG)

    probe.after_read = pause
    reader = threading.Thread(target=read, args=(app, scope))
    reader.start()
    assert has_read.wait(HANG)
    write(other_app, scope, "new")
    may_finish.set()
    reader.join(HANG)
    assert read(app, scope) == read(other_app, scope) == ("new",)


def test_rollback_invalidates_nothing(app: Flask, scope: TenantScope) -> None:
    write(app, scope, "old")
    assert read(app, scope) == ("old",)
    with inside(app, scope):
        before = dict(read_generations([tag(scope)]))
        add(scope, "never")
        db.session.rollback()
        db.session.execute(text("select 1"))
        db.session.commit()
        assert read_generations([tag(scope)]) == before
        assert list_titles(scope, Query()).outcome == "hit_local"


def test_closing_the_session_invalidates_nothing(app: Flask, scope: TenantScope) -> None:
    with inside(app, scope):
        before = dict(read_generations([tag(scope)]))
        add(scope, "never")
        db.session.enter(scope)
        db.session.execute(text("select 1"))
        db.session.commit()
        assert read_generations([tag(scope)]) == before


@pytest.mark.parametrize("released_inside", [True, False])
def test_rolled_back_savepoint_cancels_only_its_own_invalidations(
    app: Flask, scope: TenantScope, released_inside: bool
) -> None:
    with inside(app, scope):
        before = dict(read_generations(["outer", "inner", "kept"]))
        invalidate("outer")
        savepoint = db.session.begin_nested()
        invalidate("inner")
        if released_inside:
            with db.session.begin_nested():
                invalidate("inner")
        savepoint.rollback()
        with db.session.begin_nested():
            invalidate("kept")
        assert read_generations(["outer", "inner", "kept"]) == before
        db.session.commit()
        after = read_generations(["outer", "inner", "kept"])
    assert after["inner"] == before["inner"]
    assert after["outer"] > before["outer"]
    assert after["kept"] > before["kept"]


def test_value_is_current_after_concurrent_writers(app: Flask, scope: TenantScope) -> None:
    def write_some(number: int) -> None:
        for step in range(5):
            with inside(app, scope):
                invalidate(*[f"t{(number + step + i) % 4}" for i in range(3)])
                add(scope, f"{number}.{step}")
                db.session.commit()

    writers = [threading.Thread(target=write_some, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(HANG)
    assert len(read(app, scope)) == 30


def test_generations_are_locked_in_order_whatever_the_order_of_the_tags(
    app: Flask, scope: TenantScope, postgres_server: PostgresServer
) -> None:
    """Writers of the same tags could deadlock otherwise."""
    lock = text("select from cache_generations where tag = :tag for update nowait")

    def raise_both() -> None:
        with inside(app, scope):
            db.session.scalar(text("select count(*) from things"))
            invalidate("t2", "t1")
            db.session.commit()

    raise_both()
    engine = create_engine(postgres_server.superuser_url, poolclass=NullPool)
    with engine.connect() as first, engine.connect() as second, ThreadPoolExecutor() as thread:
        first.execute(lock, {"tag": "t1"})
        raised = thread.submit(raise_both)
        wait_for(
            lambda: bool(second.scalar(text("select count(*) from pg_locks where not granted")))
        )
        second.execute(lock, {"tag": "t2"})
        second.rollback()
        first.rollback()
        raised.result(HANG)


def test_uncommitted_rows_are_not_cached_for_others(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    with inside(app, scope):
        db.session.execute(
            text("insert into things values (:visibility, 'mine')"),
            {"visibility": scope.visibility},
        )
        before_note = list_titles(scope, Query())
        assert (before_note.outcome, before_note.value) == ("bypass", Page(("mine",)))
        invalidate(tag(scope))
        assert list_titles(scope, Query()).outcome == "bypass"
        assert read(other_app, scope) == ()
        db.session.rollback()
        assert list_titles(scope, Query()).value.titles == ()


def test_transaction_with_an_older_snapshot_stores_nothing(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    with inside(app, scope):
        db.session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        db.session.execute(text("select count(*) from things"))
        write(other_app, scope, "new")
        caching(app).store.client.flushall()
        assert list_titles(scope, Query()).value.titles == ()
        assert read(other_app, scope) == ("new",)
    assert read(app, scope) == ("new",)


def test_generation_that_was_read_a_moment_ago_is_not_read_again(
    app: Flask, scope: TenantScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.caching.generations.REUSE", LEASE / 2)
    with inside(app, scope):
        first = read_generations([tag(scope)])
        with monkeypatch.context() as unreachable:
            unreachable.setattr(Store, "get_many", None)
            assert read_generations([tag(scope)]) == first


def test_concurrent_readers_of_the_same_generations_ask_redis_once(
    app: Flask, scope: TenantScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.caching.generations.REUSE", LEASE / 2)
    threads, asked = 8, []
    begin, get_many = threading.Barrier(threads), Store.get_many

    def ask(store: Store, *keys: str) -> list[bytes | None]:
        asked.append(keys)
        sleep(0.2)  # the others find the same generations to be unknown meanwhile
        return get_many(store, *keys)

    def read_some(_: int) -> int:
        with inside(app, scope):
            begin.wait(HANG)
            return read_generations([tag(scope)])[tag(scope)]

    write(app, scope, "new")
    monkeypatch.setattr(Store, "get_many", ask)
    with ThreadPoolExecutor(threads) as pool:
        assert len(set(pool.map(read_some, range(threads)))) == 1
    assert len(asked) == 1


def test_write_returns_when_no_process_uses_the_earlier_generation(
    app: Flask, other_app: Flask, scope: TenantScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("generations", "invalidation"):
        monkeypatch.setattr(f"webapp.caching.{module}.REUSE", LEASE / 2)
    assert read(app, scope) == read(other_app, scope) == ()
    write(app, scope, "new")
    assert read(app, scope) == read(other_app, scope) == ("new",)


def test_generations_of_an_older_snapshot_are_used_by_nobody_else(
    app: Flask, other_app: Flask, scope: TenantScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.caching.generations.REUSE", LEASE / 2)
    with inside(app, scope):
        db.session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        db.session.execute(text("select count(*) from things"))
        write(other_app, scope, "new")
        caching(app).store.client.flushall()
        old = read_generations([tag(scope)])[tag(scope)]
    with inside(app, scope):
        assert read_generations([tag(scope)])[tag(scope)] > old


@pytest.mark.slow
def test_write_while_redis_hangs_is_seen_by_all_when_it_returns(
    app: Flask, other_app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    assert read(app, scope) == read(other_app, scope) == ()
    redis_server.pause()
    write(app, scope, "new")
    redis_server.resume()
    assert read(app, scope) == read(other_app, scope) == ("new",)


def test_write_that_waits_for_redis_holds_no_connection(
    make_app: Callable[..., Flask], scope: TenantScope, redis_server: RedisServer
) -> None:
    app = make_app(cache_timeout=HANG)
    read(app, scope)
    redis_server.pause()
    writer = threading.Thread(target=write, args=(app, scope, "new"))
    writer.start()
    with app.app_context():
        pool = db.engine.pool

    def is_written() -> bool:
        with inside(app, scope):
            return bool(db.session.scalar(text("select count(*) from things")))

    wait_for(is_written)
    wait_for(lambda: pool.checkedout() == 0)  # type: ignore[attr-defined]  # a QueuePool's
    assert writer.is_alive()
    redis_server.resume()
    writer.join(HANG)


@pytest.mark.slow
def test_no_outdated_value_is_served_after_redis_was_killed(
    app: Flask, other_app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    assert read(app, scope) == ()
    redis_server.kill()
    write(app, scope, "new")
    assert read(app, scope) == read(other_app, scope) == ("new",)
    redis_server.restart()
    assert read(app, scope) == read(other_app, scope) == ("new",)


def test_leases_that_redis_restored_from_disk_are_ignored(
    make_app: Callable[..., Flask],
    scope: TenantScope,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Long leases: they have not expired by their own times when Redis is up again.
    monkeypatch.setattr("webapp.caching.state.LEASE", HANG)
    monkeypatch.setattr("webapp.caching.generations.LEASE", HANG)
    monkeypatch.setattr("webapp.caching.generations.LONGEST_MS", 2 * HANG * 1000)
    app, other_app = make_app(), make_app()
    assert read(app, scope) == read(other_app, scope) == ()
    redis_server.save()
    write(app, scope, "new")
    redis_server.kill()
    redis_server.restart()
    name = f"{caching(app).store.prefix}gen:{tag(scope)}"
    assert redis_server.client.get(name), "the old lease was not restored in time"
    assert read(app, scope) == read(other_app, scope) == ("new",)


def test_wiped_redis_does_not_bring_back_an_outdated_value(
    app: Flask, other_app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    read(app, scope)
    write(app, scope, "new")
    redis_server.wipe()
    assert read(app, scope) == read(other_app, scope) == ("new",)


def believe_leases(app: Flask) -> None:
    """Let the application believe leases, although this test's Redis has just started."""
    caching(app).store.check()
    caching(app).store._restored_until = 0.0


def test_late_lease_of_a_reader_is_refused_by_a_wiped_redis(
    app: Flask,
    other_app: Flask,
    scope: TenantScope,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(app, scope, "a")
    assert read(app, scope) == read(other_app, scope) == ("a",)
    believe_leases(app)
    redis_server.wipe()
    publish, has_read, may_publish = Store.publish, threading.Event(), threading.Event()

    def publish_late(store: Store, *args: Any, **kwargs: Any) -> None:
        if store is caching(app).store:
            has_read.set()
            assert may_publish.wait(HANG)
        publish(store, *args, **kwargs)

    monkeypatch.setattr(Store, "publish", publish_late)
    outlast_reuse()
    reader = threading.Thread(target=read, args=(app, scope))
    reader.start()
    assert has_read.wait(HANG)
    write(other_app, scope, "b")
    redis_server.wipe()
    may_publish.set()
    reader.join(HANG)
    assert read(app, scope) == ("a", "b")


def test_late_note_of_a_writer_brings_no_outdated_value_into_a_wiped_redis(
    app: Flask, other_app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    write(app, scope, "a")
    assert read(app, scope) == ("a",)
    believe_leases(app)
    with inside(app, scope):
        late = dict(read_generations([tag(scope)]))
    write(other_app, scope, "b")
    redis_server.wipe()
    caching(app).generations.note(late)
    assert read(app, scope) == ("a", "b")


def test_late_lease_does_not_replace_a_newer_generation(
    app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    """Redis may run a command after a write that a client had sent before it."""
    with inside(app, scope):
        old = dict(read_generations([tag(scope)]))
    read_at = now_ms()
    write(app, scope, "new")
    with inside(app, scope):
        new = dict(read_generations([tag(scope)]))
        caching(app).generations.publish(old, read_at)
        outlast_reuse()
        assert read_generations([tag(scope)]) == new
    redis_server.wipe()
    caching(app).generations.publish(old, read_at - int(LEASE * 1000) - 1)
    with inside(app, scope):
        assert read_generations([tag(scope)]) == new


def replace_lease(
    app: Flask, scope: TenantScope, redis_server: RedisServer, damage: Callable[[bytes], bytes]
) -> None:
    name = f"{caching(app).store.prefix}gen:{tag(scope)}"
    lease = redis_server.client.get(name)
    assert isinstance(lease, bytes)
    redis_server.client.set(name, damage(lease))
    outlast_reuse()


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"garbage",
        lambda _: b"9|9",
        lambda _: b"\xff" * 40,
        lambda lease: b"9" + lease,
        lambda lease: lease[:-1],
        lambda lease: lease + b"0",
        lambda lease: b"99999999999999999|" + lease.partition(b"|")[2],
    ],
)
def test_damaged_lease_is_ignored_and_replaced(
    app: Flask,
    other_app: Flask,
    scope: TenantScope,
    redis_server: RedisServer,
    damage: Callable[[bytes], bytes],
) -> None:
    write(app, scope, "new")
    with inside(app, scope):
        right = dict(read_generations([tag(scope)]))
    replace_lease(app, scope, redis_server, damage)
    with inside(app, scope):
        assert read_generations([tag(scope)]) == right
    # The new lease is valid: another process believes it, and does not ask the database.
    lease = redis_server.client.get(f"{caching(app).store.prefix}gen:{tag(scope)}")
    assert isinstance(lease, bytes)
    generations = caching(other_app).generations
    assert generations._read_leases([tag(scope)], [lease]) == {tag(scope): right[tag(scope)]}


def test_lease_of_another_tag_is_ignored(
    app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    write(app, scope, "new")
    prefix = caching(app).store.prefix
    with inside(app, scope):
        right = dict(read_generations([tag(scope), "never raised"]))
        foreign = redis_server.client.get(f"{prefix}gen:never raised")
        assert isinstance(foreign, bytes)
        redis_server.client.set(f"{prefix}gen:{tag(scope)}", foreign)
        outlast_reuse()
        assert read_generations([tag(scope), "never raised"]) == right


@pytest.mark.parametrize("shift", [-LEASE - 0.001, 1.0, 3600.0])
def test_lease_that_is_expired_or_lasts_too_long_is_ignored(
    app: Flask, other_app: Flask, scope: TenantScope, shift: float
) -> None:
    """A machine with a wrong clock would sign such leases."""
    caching(app).store.client.flushall()
    write(app, scope, "new")
    caching(app).store.client.flushall()
    wrong = {tag(scope): 5, "cache": 0}
    caching(app).generations.publish(wrong, now_ms() + int(shift * 1000))
    with inside(other_app, scope):
        assert read_generations([tag(scope)])[tag(scope)] > 5
