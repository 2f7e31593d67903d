"""The cached list of rules: a hit returns the same typed page as the miss.

The regression: a hit once returned the raw dict from the cache. The list then failed with a 500,
but only on hits, and therefore only under load.
"""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
import redis
import requests
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from tests.factories import INCIDENT, Account, MadeTenant
from tests.processes import Web
from tests.rules.calls import PATH, add_rule, draft
from webapp.caching.state import current_caching
from webapp.db.scopes import TenantScope
from webapp.extensions import db
from webapp.rules.rule import Rule, RulePage, RuleQuery, Subjects, Window
from webapp.rules.service import list_rules

HITS = {"hit", "hit_local", "stale"}
TOGETHER = 64

FULL: dict[str, Any] = {
    "subjects": {"roles": ["support"], "users": ["kim@example.org"]},
    "windows": [{"days": ["mon", "tue"], "from": "09:00", "to": "17:00", "tz": "UTC"}],
    "reasons": ["incident"],
    "networks": ["10.0.0.0/8"],
    "ticket": "INC-*",
    "max_minutes": 30,
    "starts_at": "2026-01-01T00:00:00+01:00",
}


class Boom:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._path,)


CORRUPTIONS: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda _: b"\x00garbage\xff",
    "nothing": lambda _: b"",
    "null": lambda _: b"null",
    "the raw dict": lambda _: b'{"items": [], "next_cursor": null, "total": 0}',
    "a page of another shape": lambda _: b'{"items": [{"id": 1}]}',
    "a pickled dict": lambda _: pickle.dumps({"items": [], "next_cursor": None, "total": 0}),
    "flask-caching's pickle": lambda _: b"!" + pickle.dumps({"items": []}),
    "its first half": lambda stored: stored[: len(stored) // 2],
    "its last byte changed": lambda stored: stored[:-1] + bytes([stored[-1] ^ 1]),
    "its payload exchanged": lambda stored: stored[:60] + b'{"items": [], "total": 0}',
    "another version of the envelope": lambda stored: stored[:4] + b"\xff" + stored[5:],
}


@pytest.fixture
def store(app: Flask) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(app.extensions["settings"].redis_url) as client:
        yield client


def _contents(app: Flask, store: redis.Redis) -> dict[bytes, bytes]:
    """Everything in the cache: values and generations."""
    with app.app_context():
        names = list(store.scan_iter(f"{current_caching().store.prefix}*"))
    return {name: value for name in names if isinstance(value := store.get(name), bytes)}


def _corrupt(app: Flask, store: redis.Redis, change: Callable[[bytes], bytes]) -> None:
    contents = _contents(app, store)
    assert any(list_rules.name.encode() in name for name in contents)
    for name, value in contents.items():
        store.set(name, change(value), keepttl=True)


def _instead(value: bytes, _: bytes) -> bytes:
    return value


def _forget(app: Flask) -> None:
    """Empty the cache in memory, as if the process were new."""
    with app.app_context():
        current_caching().entries.clear()


def _outcomes() -> dict[str, float]:
    return {
        sample.labels["outcome"]: sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "sightline_cache_requests_total"
        and sample.labels["function"] == list_rules.name
    }


def _new_outcomes(before: dict[str, float]) -> set[str]:
    return {name for name, count in _outcomes().items() if count != before.get(name, 0)}


@pytest.fixture
def rules(client: FlaskClient, admin: Account) -> list[dict[str, Any]]:
    headers = admin.headers()
    return [add_rule(client, headers, "a", **FULL), add_rule(client, headers, "b")]


def test_cache_hit_returns_the_same_typed_page_as_the_miss(
    app: Flask, tenant: MadeTenant, rules: list[dict[str, Any]]
) -> None:
    scope, query = TenantScope(tenant.id), RuleQuery(limit=7)
    pages = []
    for outcome in ("miss", "hit_local", "hit"):
        with app.app_context(), db.scoped(scope):
            cached = list_rules(scope, query)
            assert cached.outcome == outcome
            pages.append((cached.value, cached.json, cached.etag))
        if outcome == "hit_local":
            _forget(app)
    with app.app_context(), db.scoped(scope):
        fresh = list_rules.uncached(scope, query)

    assert pages[0] == pages[1] == pages[2]
    assert all(value == fresh and type(value) is RulePage for value, _, _ in pages)
    assert len(fresh.items) == len(rules)


def test_cached_page_is_typed_and_frozen_to_the_last_field(
    app: Flask, tenant: MadeTenant, rules: list[dict[str, Any]]
) -> None:
    scope = TenantScope(tenant.id)
    for _ in range(2):
        with app.app_context(), db.scoped(scope):
            page = list_rules(scope, RuleQuery()).value
        rule, other = page.items
        assert (type(page), type(rule), type(rule.id)) == (RulePage, Rule, UUID)
        assert rule.subjects == Subjects(("support",), ("kim@example.org",))
        assert rule.windows == (Window(("mon", "tue"), "09:00", "17:00", "UTC"),)
        assert isinstance(rule.starts_at, datetime)
        assert rule.starts_at.utcoffset() is not None
        assert (other.starts_at, other.ticket, other.max_minutes) == (None, None, None)
        with pytest.raises(FrozenInstanceError):
            rule.name = "other"  # type: ignore[misc]  # the test is that this fails
        _forget(app)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_corrupt_cache_entry_is_never_served_and_is_overwritten(
    app: Flask,
    client: FlaskClient,
    store: redis.Redis,
    admin: Account,
    rules: list[dict[str, Any]],
    corruption: str,
) -> None:
    first = client.get(PATH, headers=admin.headers())
    _forget(app)
    _corrupt(app, store, CORRUPTIONS[corruption])

    before = _outcomes()
    again = client.get(PATH, headers=admin.headers())
    assert (again.status_code, again.data) == (200, first.data)
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.get_json()["items"] == rules
    (outcome,) = _new_outcomes(before)
    assert outcome in {"corrupt", "forged", "version"}

    _forget(app)
    before = _outcomes()
    assert client.get(PATH, headers=admin.headers()).data == first.data
    assert _new_outcomes(before) == {"hit"}, "the corrupt entry was not overwritten"


def test_pickle_in_the_cache_is_never_unpickled(
    app: Flask,
    client: FlaskClient,
    store: redis.Redis,
    admin: Account,
    rules: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    trace = tmp_path / "unpickled"
    first = client.get(PATH, headers=admin.headers())
    for pickled in (pickle.dumps(Boom(trace)), b"!" + pickle.dumps(Boom(trace))):
        _forget(app)
        _corrupt(app, store, partial(_instead, pickled))
        assert client.get(PATH, headers=admin.headers()).data == first.data
    assert not trace.exists()


def test_cached_page_of_another_tenant_is_never_served(
    app: Flask,
    client: FlaskClient,
    store: redis.Redis,
    admin: Account,
    outsider: Account,
    rules: list[dict[str, Any]],
) -> None:
    add_rule(client, outsider.headers(), "theirs")
    own = client.get(PATH, headers=admin.headers()).data
    known = _contents(app, store)
    theirs = client.get(PATH, headers=outsider.headers()).data
    contents = _contents(app, store)
    (sealed,) = [contents[name] for name in contents.keys() - known if b":value:" in name]
    _corrupt(app, store, partial(_instead, sealed))
    _forget(app)

    assert client.get(PATH, headers=admin.headers()).data == own
    assert client.get(PATH, headers=outsider.headers()).data == theirs


def test_cache_key_with_another_redis_type_is_a_miss(
    app: Flask,
    client: FlaskClient,
    store: redis.Redis,
    admin: Account,
    rules: list[dict[str, Any]],
) -> None:
    first = client.get(PATH, headers=admin.headers())
    _forget(app)
    contents = _contents(app, store)
    for name in contents:
        store.delete(name)
        store.rpush(name, b"an element")
    assert client.get(PATH, headers=admin.headers()).data == first.data
    for name in contents:
        store.delete(name)


def _loads(web: Web) -> float:
    """How often the processes together had to load a page."""
    families = text_string_to_metric_families(requests.get(f"{web.url}/metrics", timeout=180).text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "sightline_cache_requests_total"
        and sample.labels["function"] == list_rules.name
        and sample.labels["outcome"] not in HITS
    )


def _at_once(web: Web, headers: dict[str, str]) -> list[requests.Response]:
    together = Barrier(TOGETHER)

    def get(_: int) -> requests.Response:
        together.wait()
        return requests.get(f"{web.url}{PATH}?limit=200", headers=headers, timeout=180)

    with ThreadPoolExecutor(TOGETHER) as threads:
        return list(threads.map(get, range(TOGETHER)))


@pytest.mark.slow(seconds=3)
def test_concurrent_requests_cause_one_load_and_get_the_same_answer(
    web: Web, tenant: MadeTenant, admin: Account, owner: Account
) -> None:
    for number in range(50):
        body = draft(f"rule {number}", **FULL)
        made = requests.post(f"{web.url}{PATH}", headers=admin.headers(), json=body, timeout=180)
        assert made.status_code == 201
    before = _loads(web)
    responses = _at_once(web, admin.headers())

    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1
    assert len(responses[0].json()["items"]) == 50
    assert _loads(web) - before == 1

    elevated = _at_once(web, owner.headers(f"tenant:{tenant.slug}", INCIDENT))
    assert {response.content for response in elevated} == {responses[0].content}
    assert len({response.headers["Sightline-Audit"] for response in elevated}) == TOGETHER
    assert _loads(web) - before == 1


def test_concurrent_requests_on_a_corrupt_cache_get_the_right_answer(
    app: Flask, web: Web, store: redis.Redis, admin: Account
) -> None:
    body = draft(**FULL)
    made = requests.post(f"{web.url}{PATH}", headers=admin.headers(), json=body, timeout=180)
    first = requests.get(f"{web.url}{PATH}?limit=200", headers=admin.headers(), timeout=180)
    _corrupt(app, store, CORRUPTIONS["the raw dict"])
    responses = _at_once(web, admin.headers())
    assert {(response.status_code, response.content) for response in responses} == {
        (200, first.content)
    }
    assert first.json()["items"] == [made.json()]
