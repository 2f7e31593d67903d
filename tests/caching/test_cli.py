"""Tests of `flask cache`."""

from uuid import UUID

import orjson
import pytest
from click.testing import Result
from flask import Flask

from tests.caching.sample import Query, find_thing, list_titles, probe
from tests.caching.servers import RedisServer
from tests.caching.test_cache_rehydration import call_in_turn
from tests.caching.unit import caching, inside
from webapp.caching.cached_function import registry
from webapp.db.scopes import TenantScope
from webapp.extensions import db


@pytest.fixture(autouse=True)
def _only_the_samples_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the product's cached functions: they are registered, but this app cannot run them."""
    samples = {name: f for name, f in registry.items() if name.startswith("tests.")}
    monkeypatch.setattr("webapp.caching.cli.registry", samples)


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["cache", *arguments])


def test_stats_count_keys_bytes_and_outcomes_by_function(app: Flask, scope: TenantScope) -> None:
    call_in_turn((app, app), scope, find_thing, "x")
    result = run(app, "stats", "--json")
    assert result.exit_code == 0
    functions = {row["function"]: row for row in orjson.loads(result.output)["functions"]}
    found = functions["tests.caching.sample.find_thing"]
    assert found["keys"] == 1
    assert found["bytes"] > 50
    assert found["outcomes"]["hit_local"] >= 1
    assert functions["tests.caching.sample.list_titles"]["keys"] == 0
    table = run(app, "stats")
    assert table.exit_code == 0
    assert "find_thing" in table.output


def test_clear_empties_the_cache_of_every_process_and_nothing_else(
    app: Flask, other_app: Flask, scope: TenantScope, redis_server: RedisServer
) -> None:
    redis_server.client.set("sightline:qa:cache:value:f:0", "another environment's")
    redis_server.client.set("celery", "another program's")
    call_in_turn((app, app, other_app), scope, find_thing, "x")
    result = run(app, "clear", "--json")
    assert result.exit_code == 0
    assert orjson.loads(result.output)["removed"] >= 1
    assert redis_server.client.exists("sightline:qa:cache:value:f:0", "celery") == 2
    for each, outcome in ((other_app, "miss"), (app, "hit")):
        with inside(each, scope):
            assert find_thing(scope, "x").outcome == outcome
    assert probe.loads == 2


def test_clear_of_one_function_leaves_the_others(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    call_in_turn((app, other_app), scope, find_thing, "x")
    with inside(app, scope):
        list_titles(scope, Query())
    result = run(app, "clear", "--function", find_thing.name)
    assert result.exit_code == 0
    assert "1 keys removed" in result.output
    with inside(other_app, scope):
        assert find_thing(scope, "x").outcome == "miss"
        assert list_titles(scope, Query()).outcome == "hit"


def test_clear_refuses_an_unknown_function_and_names_the_known_ones(
    app: Flask, other_app: Flask, scope: TenantScope
) -> None:
    call_in_turn((app, other_app), scope, find_thing, "x")
    result = run(app, "clear", "--function", "find_thing")
    assert (result.exit_code, result.stdout) == (2, "")
    assert find_thing.name in result.stderr
    with inside(other_app, scope):
        assert find_thing(scope, "x").outcome != "miss"


def test_clear_accepts_a_function_that_only_redis_has_results_of(
    app: Flask, other_app: Flask, scope: TenantScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_in_turn((app, other_app), scope, find_thing, "x")
    monkeypatch.setattr("webapp.caching.cli.registry", {})
    assert "1 keys removed" in run(app, "clear", "--function", find_thing.name).output


def test_warm_fills_the_cache_for_other_processes(app: Flask, other_app: Flask) -> None:
    result = run(app, "warm", "--json")
    assert result.exit_code == 0, result.output
    assert orjson.loads(result.output) == {"calls": 2, "outcomes": {"miss": 2}}
    first = TenantScope(UUID(int=1))
    with inside(other_app, first):
        assert list_titles(first, Query()).outcome == "hit"
    with app.app_context():
        assert db.session.scope is None
    assert run(app, "warm").exit_code == 0


def test_warm_fails_if_a_function_raises(app: Flask) -> None:
    def fail() -> None:
        raise LookupError

    probe.before_read = fail
    assert run(app, "warm").exit_code != 0


def test_unreachable_redis_is_reported_and_fails(app: Flask, redis_server: RedisServer) -> None:
    redis_server.kill()
    for command in (("stats",), ("stats", "--json"), ("clear",), ("warm",)):
        result = run(app, *command)
        assert result.exit_code == 1
        assert "Redis does not answer" in result.output
    assert caching(app).store.client is not None
