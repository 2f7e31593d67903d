"""Tests of guarantee G9: a hit and a miss return equal values of one frozen type."""

import pickletools
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import marshmallow as ma
import orjson
import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.caching.conftest import Counted
from tests.caching.sample import (
    Colour,
    Page,
    PageSchema,
    Part,
    PartSchema,
    Query,
    Thing,
    ThingSchema,
    find_thing,
    find_things,
    list_already_expired,
    list_always_soft,
    list_titles,
    probe,
)
from tests.caching.servers import RedisServer
from tests.caching.unit import caching, inside, outlast_reuse
from tests.key_rotation.steps import BESIDE, STEPS
from webapp.caching import CachedFunction, WrongScope
from webapp.caching.codec import fingerprint
from webapp.caching.envelope import MAGIC, Envelope, seal, unseal
from webapp.caching.store import Verbatim
from webapp.db.scopes import Exclusion, GlobalScope, TenantScope
from webapp.extensions import cache
from webapp.http.schema import Schema, TupleOf
from webapp.key_ring import KeyRing

HANG = 180

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
zones = st.integers(-720, 720).map(lambda minutes: timezone(timedelta(minutes=minutes)))
parts = st.recursive(
    st.builds(Part, texts), lambda inner: st.builds(Part, texts, inner), max_leaves=3
)
things = st.builds(
    Thing,
    id=st.uuids(),
    title=texts,
    count=st.integers(-(2**53), 2**53),
    colour=st.sampled_from(Colour),
    seen_at=st.datetimes(
        datetime(1900, 1, 1),  # noqa: DTZ001 - hypothesis takes naive bounds
        datetime(2200, 1, 1),  # noqa: DTZ001 - the same
        timezones=zones,
    ),
    note=st.none() | texts,
    parts=st.lists(parts, max_size=3).map(tuple),
)
THING = Thing(
    id=UUID(int=7),
    title="title",
    count=3,
    colour=Colour.BLUE,
    seen_at=datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
    note=None,
    parts=(Part("a", Part("b")), Part("c")),
)

shared_servers = settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def call_in_turn(
    apps: tuple[Flask, ...], scope: TenantScope, function: CachedFunction[Any, ..., Any], name: str
) -> list[Any]:
    """Call a cached function in each application in turn."""
    results = []
    for app in apps:
        with inside(app, scope):
            cached = function(scope, name)
            results.append((cached.outcome, cached.value, cached.json, cached.etag))
    return results


def assert_equal_results(results: list[Any], expected: object) -> None:
    assert [result[0] for result in results] == ["miss", "hit_local", "hit"]
    for _, value, json, etag in results:
        assert type(value) is type(expected)
        assert value == expected
        assert (json, etag) == results[0][2:]


@shared_servers
@given(thing=st.none() | things)
def test_hit_and_miss_return_equal_values_of_one_type(
    app: Flask, other_app: Flask, scope: TenantScope, thing: Thing | None
) -> None:
    probe.thing = thing
    results = call_in_turn((app, app, other_app), scope, find_thing, uuid4().hex)
    assert_equal_results(results, thing)
    if thing is not None:
        value = results[-1][1]
        assert type(value.parts) is tuple
        assert type(value.colour) is Colour
        assert type(value.id) is UUID
        assert value.seen_at.utcoffset() == thing.seen_at.utcoffset()
        with pytest.raises(FrozenInstanceError):
            value.title = ""


@shared_servers
@given(many=st.lists(things, max_size=4).map(tuple))
def test_many_values_are_a_tuple_on_hit_and_miss(
    app: Flask, other_app: Flask, scope: TenantScope, many: tuple[Thing, ...]
) -> None:
    probe.things = many
    assert_equal_results(call_in_turn((app, app, other_app), scope, find_things, uuid4().hex), many)


def test_none_is_cached_like_any_value(app: Flask, other_app: Flask, scope: TenantScope) -> None:
    assert_equal_results(call_in_turn((app, app, other_app), scope, find_thing, "none"), None)
    assert probe.loads == 1


def test_hit_gives_one_object_to_many_threads(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    barrier = threading.Barrier(32)
    with inside(other_app, scope):
        cached = find_thing(scope, "x")
    assert cached.outcome == "hit"

    def touch(_: int) -> Thing | None:
        barrier.wait(HANG)
        return cached.value

    with ThreadPoolExecutor(32) as threads:
        values = list(threads.map(touch, range(32)))
    assert all(value is values[0] for value in values)
    assert values[0] == THING


def stored_key(redis_server: RedisServer) -> bytes:
    keys = redis_server.client.keys("*value:*")
    assert isinstance(keys, list)
    (key,) = keys
    assert isinstance(key, bytes)
    return key


def stored_bytes(redis_server: RedisServer) -> bytes:
    stored = redis_server.client.get(stored_key(redis_server))
    assert isinstance(stored, bytes)
    return stored


def name_of(app: Flask, key: bytes) -> str:
    return key.decode().removeprefix(caching(app).store.prefix)


def assert_miss_that_is_overwritten(
    app: Flask,
    scope: TenantScope,
    redis_server: RedisServer,
    counted: Counted,
    bad: bytes,
    outcomes: tuple[str, ...],
) -> None:
    """Store `bad` as the value of `find_thing(scope, "x")`; assert that the call replaces it."""
    key = stored_key(redis_server)
    redis_server.client.set(key, bad)
    caching(app).entries.clear()
    before = {outcome: counted("find_thing", outcome) for outcome in outcomes}
    loads = probe.loads
    with inside(app, scope):
        cached = find_thing(scope, "x")
        assert cached.outcome in outcomes
        assert cached.value == probe.thing
    assert counted("find_thing", cached.outcome) == before[cached.outcome] + 1
    assert probe.loads == loads + 1
    caching(app).entries.clear()
    with inside(app, scope):
        again = find_thing(scope, "x")
    assert (again.outcome, again.value) == ("hit", probe.thing)


@pytest.mark.slow
def test_stored_value_with_a_flipped_byte_is_a_miss(
    app: Flask, scope: TenantScope, redis_server: RedisServer, counted: Counted
) -> None:
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    for position in range(len(stored_bytes(redis_server))):
        good = stored_bytes(redis_server)
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        assert_miss_that_is_overwritten(
            app, scope, redis_server, counted, bytes(bad), ("corrupt", "forged", "version")
        )


@pytest.mark.slow
def test_truncated_stored_value_is_a_miss(
    app: Flask, scope: TenantScope, redis_server: RedisServer, counted: Counted
) -> None:
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    for length in range(len(stored_bytes(redis_server))):
        bad = stored_bytes(redis_server)[:length]
        outcomes = ("corrupt", "forged")
        assert_miss_that_is_overwritten(app, scope, redis_server, counted, bad, outcomes)


@shared_servers
@given(garbage=st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: MAGIC + tail))
def test_garbage_in_redis_is_a_miss(
    app: Flask,
    scope: TenantScope,
    redis_server: RedisServer,
    counted: Counted,
    garbage: bytes,
) -> None:
    probe.thing = THING
    redis_server.wipe()
    caching(app).entries.clear()
    call_in_turn((app,), scope, find_thing, "x")
    assert_miss_that_is_overwritten(
        app, scope, redis_server, counted, garbage, ("corrupt", "forged", "version")
    )


def test_garbage_of_any_type_in_every_key_fails_no_call(
    app: Flask, other_app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    for _ in range(3):
        call_in_turn((app,), scope, find_thing, "x")
        keys = redis_server.client.keys("*")
        assert isinstance(keys, list)
        for number, key in enumerate(keys):
            redis_server.client.delete(key)
            if number % 2:
                redis_server.client.lpush(key, "of the wrong type")
            else:
                redis_server.client.set(key, b"\x80\x04garbage")
        outlast_reuse()
        with inside(other_app, scope):
            assert find_thing(scope, "x").value is None
        caching(other_app).entries.clear()


@pytest.mark.parametrize(
    "forge",
    [
        lambda envelope, _, name: seal(envelope, KeyRing(b"another key"), name),
        lambda envelope, key, _: seal(envelope, key, "value:other:00"),
        lambda envelope, key, name: seal(envelope, key, name)[:-1] + b"?",
    ],
)
def test_forged_envelope_is_a_miss(
    app: Flask,
    scope: TenantScope,
    redis_server: RedisServer,
    counted: Counted,
    forge: Callable[[Envelope, KeyRing, str], bytes],
) -> None:
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    name = name_of(app, stored_key(redis_server))
    key = caching(app).envelope_keys
    envelope = unseal(stored_bytes(redis_server), key, name)
    bad = forge(replace(envelope, payload=b"null"), key, name)
    assert_miss_that_is_overwritten(app, scope, redis_server, counted, bad, ("forged",))


def test_envelope_of_another_tenant_is_refused(
    app: Flask, scope: TenantScope, redis_server: RedisServer, counted: Counted
) -> None:
    probe.thing = replace(THING, title="theirs")
    theirs = TenantScope(uuid4())
    call_in_turn((app,), theirs, find_thing, "x")
    foreign = stored_bytes(redis_server)
    redis_server.wipe()
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    assert_miss_that_is_overwritten(app, scope, redis_server, counted, foreign, ("forged",))


def test_envelope_sealed_with_another_secret_is_refused(
    app: Flask, make_app: Callable[..., Flask], scope: TenantScope
) -> None:
    results = call_in_turn((app, make_app(secret_key="z" * 40)), scope, find_thing, "x")  # noqa: S106 - a test's
    assert [result[0] for result in results] == ["miss", "forged"]


@pytest.mark.parametrize(("signs", "verifies"), BESIDE)
def test_envelope_of_one_step_of_a_rotation_is_a_hit_at_the_step_beside_it(
    make_app: Callable[..., Flask], scope: TenantScope, signs: str, verifies: str
) -> None:
    def at(step: str) -> Flask:
        signing, accepted = STEPS[step]
        return make_app(secret_key=signing, secret_key_accepted=accepted)

    results = call_in_turn((at(signs), at(verifies)), scope, find_thing, "x")
    assert [result[0] for result in results] == ["miss", "hit"]


@pytest.mark.parametrize(("signs", "verifies"), BESIDE)
def test_lease_of_one_step_of_a_rotation_is_believed_at_the_step_beside_it(
    make_app: Callable[..., Flask], scope: TenantScope, signs: str, verifies: str
) -> None:
    ours, beside = (
        caching(make_app(secret_key=STEPS[step][0], secret_key_accepted=STEPS[step][1])).generations
        for step in (signs, verifies)
    )
    lease = ours._lease("tag", 7, 1000)
    assert beside._verify("tag", lease) is not None
    assert beside._verify("another tag", lease) is None


@pytest.mark.parametrize("version", [0, 2, 255])
def test_envelope_of_another_version_is_a_miss(
    app: Flask, scope: TenantScope, redis_server: RedisServer, counted: Counted, version: int
) -> None:
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    bad = bytearray(stored_bytes(redis_server))
    bad[len(MAGIC)] = version
    assert_miss_that_is_overwritten(app, scope, redis_server, counted, bytes(bad), ("version",))


def test_envelope_of_another_schema_is_a_miss(
    app: Flask, scope: TenantScope, redis_server: RedisServer, counted: Counted
) -> None:
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    name, key = name_of(app, stored_key(redis_server)), caching(app).envelope_keys
    envelope = unseal(stored_bytes(redis_server), key, name)
    other = seal(replace(envelope, fingerprint=b"f" * 16), key, name)
    assert_miss_that_is_overwritten(app, scope, redis_server, counted, other, ("fingerprint",))


@pytest.mark.parametrize("payload", [b"[]", b"{}", b"not JSON", b'{"title": 3}', b"7"])
def test_sealed_payload_that_does_not_load_is_computed_anew(
    app: Flask, scope: TenantScope, redis_server: RedisServer, counted: Counted, payload: bytes
) -> None:
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    name, key = name_of(app, stored_key(redis_server)), caching(app).envelope_keys
    envelope = unseal(stored_bytes(redis_server), key, name)
    redis_server.client.set(
        stored_key(redis_server), seal(replace(envelope, payload=payload), key, name)
    )
    caching(app).entries.clear()
    before = counted("find_thing", "unloadable")
    with inside(app, scope):
        cached = find_thing(scope, "x")
        assert cached.value == THING
        assert orjson.loads(cached.json)["title"] == "title"
        assert find_thing(scope, "x").value == THING
    assert counted("find_thing", "unloadable") == before + 1
    assert probe.loads == 2


def test_expired_value_is_computed_and_stale_value_is_refreshed(
    app: Flask, scope: TenantScope
) -> None:
    with inside(app, scope):
        assert [list_already_expired(scope).outcome for _ in range(2)] == ["miss", "expired"]
        assert [list_always_soft(scope).outcome for _ in range(2)] == ["miss", "refreshed"]


def test_large_payload_is_stored_compressed(
    app: Flask, other_app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    probe.thing = replace(THING, title="long " * 10_000)
    assert_equal_results(call_in_turn((app, app, other_app), scope, find_thing, "x"), probe.thing)
    assert len(stored_bytes(redis_server)) < 5_000


def test_value_of_one_scope_is_not_served_in_another(app: Flask, scope: TenantScope) -> None:
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    for other in (
        TenantScope(uuid4()),
        GlobalScope(uuid4()),
        GlobalScope(uuid4(), Exclusion(frozenset({scope.tenant_id}))),
    ):
        with inside(app, other):
            assert find_thing(other, "x").outcome == "miss"
            with pytest.raises(WrongScope):
                find_thing(scope, "x")


def test_two_global_accesses_to_the_same_tenants_share_a_value(app: Flask) -> None:
    for access, outcome in ((GlobalScope(uuid4()), "miss"), (GlobalScope(uuid4()), "hit_local")):
        with inside(app, access):
            assert list_titles(access, Query()).outcome == outcome


def test_cache_stores_nothing_pickled(
    app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    probe.thing = THING
    call_in_turn((app,), scope, find_thing, "x")
    with app.app_context():
        serializer: Any = cache.cache.serializer
    assert type(serializer) is Verbatim
    keys = redis_server.client.keys("*")
    assert isinstance(keys, list)
    assert len(keys) == 4
    for key in keys:
        stored = redis_server.client.get(key)
        assert isinstance(stored, bytes)
        assert b"webapp" not in stored
        assert b"tests.caching" not in stored
        for start in (stored, stored[1:]):
            with pytest.raises(ValueError, match="."):
                list(pickletools.genops(start))


def test_fingerprint_changes_with_every_change_of_the_schema() -> None:
    class Base(Schema):
        model = Page
        titles = TupleOf(ma.fields.String(), required=True)

    def made(**namespace: object) -> type[ma.Schema]:
        return type(Base.__name__, (Base,), {"__qualname__": Base.__qualname__, **namespace})

    variants = [
        made(),
        made(model=Part),
        made(extra=ma.fields.String()),
        made(titles=TupleOf(ma.fields.String())),
        made(titles=TupleOf(ma.fields.Integer(), required=True)),
        made(titles=TupleOf(ma.fields.String(allow_none=True), required=True)),
        made(titles=TupleOf(ma.fields.String(), required=True, allow_none=True)),
        made(titles=TupleOf(ma.fields.String(), required=True, data_key="t")),
        made(titles=ma.fields.List(ma.fields.String(), required=True)),
        made(titles=ma.fields.Nested(PageSchema)),
        made(titles=ma.fields.Nested(PageSchema, many=True)),
        made(titles=ma.fields.Nested(PartSchema)),
        made(titles=ma.fields.Nested("ThingSchema")),
        made(titles=ma.fields.Enum(Colour)),
        made(titles=ma.fields.Enum(Colour, by_value=True)),
    ]
    prints = [fingerprint(variant(), many=False) for variant in variants]
    prints.append(fingerprint(made()(), many=True))
    assert len(set(prints)) == len(prints)
    assert fingerprint(made()(), many=False) == prints[0]


@pytest.mark.slow
def test_fingerprint_is_the_same_in_every_process() -> None:
    program = (
        "from tests.caching.sample import ThingSchema\n"
        "from webapp.caching.codec import fingerprint\n"
        "print(fingerprint(ThingSchema(), many=False).hex())"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert prints == {fingerprint(ThingSchema(), many=False).hex()}
