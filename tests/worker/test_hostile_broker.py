"""A stranger who can write to the broker ends no worker, and runs no task."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import dumps
from kombu.utils.json import loads
from sqlalchemy import select, text

from tests.audit.events import make_event
from tests.audit.ledgers import owner_connection, seal
from tests.audit.receipts import committed, second_connection, wait_for
from tests.factories import Account, add_account
from tests.worker.bombs import bomb
from tests.worker.garbage import BRACKETS, GARBAGE, envelope
from webapp.audit.models import AuditEventRow
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.identity.last_use import TOUCH_TASK
from webapp.key_ring import KeyRing
from webapp.worker.consumer import MAX_KEPT
from webapp.worker.redis_transport import MAX_MESSAGE, UNKNOWN, rewrap
from webapp.worker.serialization import register_serializers

ELSEWHERE = "elsewhere"
"""A queue that no worker takes from."""


class Stranger:
    """Writes to the broker, and has no key."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.celery: Celery = app.extensions["celery"]
        self.redis = redis.Redis.from_url(app.extensions["settings"].celery_broker_url)

    def push(self, item: bytes | dict[str, Any], queue: str = "audit") -> None:
        self.redis.lpush(queue, json.dumps(item) if isinstance(item, dict) else item)

    def intercept(self, task: str, *args: Any) -> dict[str, Any]:
        """Return the message of a task that a process of Sightline sends."""
        self.celery.send_task(task, args=args, queue=ELSEWHERE)
        taken: Any = self.redis.rpop(ELSEWHERE)
        message: dict[str, Any] = json.loads(taken)
        return message

    def sees_the_worker_work(self) -> None:
        """Wait until an event that is sent now is in the ledger."""
        for _ in range(2):  # the worker has two processes, and both have to be there still
            event = make_event()
            self.celery.send_task(COMMIT_TASK, args=[seal(self._app, event)])
            committed(self._app, event.id)


@pytest.fixture
def stranger(app: Flask, worker: None) -> Iterator[Stranger]:
    made = Stranger(app)
    yield made
    made.redis.close()


def kept(app: Flask, item: bytes) -> list[tuple[str, int]]:
    """Return the problem and size of what is in quarantine and begins as `item` does."""
    with owner_connection(app) as owner:
        query = text("select problem, size from audit_quarantine where delivery = :item")
        return [tuple(row) for row in owner.execute(query, {"item": item[:MAX_KEPT]})]


@pytest.mark.parametrize("item", GARBAGE, ids=lambda item: item[:20].decode(errors="replace"))
def test_garbage_in_a_queue_is_kept_and_ends_no_worker(
    app: Flask, stranger: Stranger, item: bytes
) -> None:
    stranger.push(item)
    stranger.sees_the_worker_work()
    wait_for(lambda: kept(app, item) != [])


def test_item_beyond_the_largest_message_is_cut_and_ends_no_worker(
    app: Flask, stranger: Stranger
) -> None:
    item = uuid4().bytes + bytes(MAX_MESSAGE)
    stranger.push(item)
    stranger.sees_the_worker_work()
    wait_for(lambda: kept(app, item) != [])


@pytest.mark.parametrize(
    "key",
    [
        *("audit", "default", "audit\x06\x163", "unacked", "unacked_index", "unacked_mutex"),
        *("_kombu.binding.audit", "_kombu.binding_permanent.audit"),
    ],
)
def test_broker_key_of_another_type_ends_no_worker(stranger: Stranger, key: str) -> None:
    stranger.redis.delete(key)
    stranger.redis.set(key, "no list")
    stranger.sees_the_worker_work()
    stranger.redis.delete(key)


@pytest.mark.parametrize(
    "message",
    [
        envelope(BRACKETS),
        envelope("no base64 at all"),
        envelope(json.dumps([[[["{}", "signature"]]], {}, {}]).encode()),
        envelope(
            b"cos\nsystem\n(S'true'\ntR.", **{"content-type": "application/x-python-serialize"}
        ),
        envelope(b"[[], {}, {}]", **{"content-type": "application/data"}),
        envelope(b"[[], {}, {}]", **{"content-type": ["a list"]}),
        envelope(b"[[], {}, {}]", headers=[]),
        envelope(b"[[], {}, {}]", headers={"task": ["nested", {"deep": []}]}),
        envelope(b"[[], {}, {}]", properties=None),
        envelope(b'{"task": "audit.commit", "id": "1", "args": [1], "kwargs": {}}', headers={}),
        envelope(bomb(2**26), headers={"task": "x", "compression": "zstd"}),
        json.loads(b'{"body": "", "headers": ' + BRACKETS + b"}"),
    ],
    ids=range(12),
)
def test_message_without_a_seal_runs_no_task_and_ends_no_worker(
    app: Flask, stranger: Stranger, message: dict[str, Any]
) -> None:
    for queue in ("audit", "default"):
        stranger.push(message, queue)
    stranger.sees_the_worker_work()


def test_event_under_another_key_is_not_committed(app: Flask, stranger: Stranger) -> None:
    event = make_event()
    (serializer,) = register_serializers(KeyRing(b"the stranger's own secret"))
    headers = {"task": COMMIT_TASK, "id": str(uuid4())}
    content_type, _, body = dumps([[seal(app, event)], {}, headers], serializer)
    data = body.encode() if isinstance(body, str) else body
    ours = stranger.intercept(COMMIT_TASK, [])["content-type"]
    for claimed in (content_type, ours):
        stranger.push(envelope(data, **{"content-type": claimed}))
    stranger.sees_the_worker_work()
    wait_for(lambda: len(kept(app, data)) == 1)
    with second_connection(app) as session:
        assert (
            session.scalars(select(AuditEventRow).where(AuditEventRow.id == event.id)).all() == []
        )


@pytest.fixture
def account(app: Flask) -> Account:
    return add_account(app)


def last_use(app: Flask, account: Account) -> datetime | None:
    with owner_connection(app) as owner:
        query = text("select last_used_at from api_tokens where id = :id")
        found: datetime | None = owner.scalar(query, {"id": account.token_id})
        return found


def test_headers_beside_the_body_are_not_believed(
    app: Flask, stranger: Stranger, account: Account
) -> None:
    used_at = datetime.now(UTC)
    message = stranger.intercept(TOUCH_TASK, str(account.token_id), used_at.isoformat())
    message["headers"] |= {
        "task": "audit.make_partitions",
        "id": "chosen",
        "eta": "9999-01-01T00:00:00+00:00",
        "expires": "2000-01-01T00:00:00+00:00",
        "compression": "zstd",
    }
    message["properties"] = {"delivery_info": {}}
    stranger.push(message)
    wait_for(lambda: last_use(app, account) == used_at)


def test_last_use_in_the_year_9999_is_not_believed(
    app: Flask, stranger: Stranger, account: Account
) -> None:
    used_at = datetime.now(UTC)
    arguments = [str(account.token_id), "9999-12-31T23:59:59+00:00"]
    stranger.celery.send_task(TOUCH_TASK, args=arguments)
    stranger.celery.send_task(TOUCH_TASK, args=[str(account.token_id), used_at.isoformat()])
    wait_for(lambda: last_use(app, account) is not None)
    assert last_use(app, account) == used_at


def test_task_with_a_chosen_id_is_put_aside(app: Flask, stranger: Stranger) -> None:
    event = make_event()
    stranger.celery.send_task(COMMIT_TASK, args=[seal(app, event)], task_id="chosen")
    stranger.sees_the_worker_work()
    with owner_connection(app) as owner:
        query = text("select count(*) from audit_quarantine where problem like '%id is no UUID'")
        wait_for(lambda: bool(owner.scalar(query)))
    with second_connection(app) as session:
        assert session.get(AuditEventRow, event.id) is None


@pytest.mark.parametrize("item", [b"garbage", BRACKETS, b"[]", b'[{"headers": []}, 1, {}]'])
def test_garbage_among_unacknowledged_messages_is_dropped(app: Flask, item: bytes) -> None:
    """A worker restores what a dead worker has taken and not acknowledged, and what it rejects."""
    stranger, tag = Stranger(app), str(uuid4())
    stranger.redis.hset("unacked", tag, item)
    stranger.redis.zadd("unacked_index", {tag: 1.0})
    with stranger.celery.connection_for_read() as broker:
        channel: Any = broker.default_channel
        channel.qos.restore_by_tag(tag)
    assert stranger.redis.hget("unacked", tag) is None
    assert stranger.redis.zscore("unacked_index", tag) is None
    stranger.redis.delete("{}")  # the queue that the last one names
    stranger.redis.close()


@given(st.binary(max_size=200) | st.sampled_from(GARBAGE))
def test_envelope_of_any_bytes_is_one_that_kombu_parses(item: bytes) -> None:
    made = loads(json.dumps(rewrap(item, "audit")))
    assert made["headers"] == {}
    assert made["content-type"] == UNKNOWN
    assert made["properties"]["delivery_info"]["routing_key"] == "audit"


def test_envelope_keeps_the_body_and_whether_it_came_before() -> None:
    message = envelope(b"body")
    message["properties"]["delivery_info"]["redelivered"] = True
    made = rewrap(json.dumps(message).encode(), "default")
    assert (made["body"], made["content-type"]) == (message["body"], "application/json")
    assert made["properties"]["delivery_info"] == {
        "exchange": "",
        "routing_key": "default",
        "redelivered": True,
    }
    assert made["properties"]["delivery_tag"] != message["properties"]["delivery_tag"]
