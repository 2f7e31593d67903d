"""Cache and broker with the least privileges that the documentation gives them, on one server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask

from tests.applications import application
from tests.audit.events import make_event
from tests.audit.ledgers import seal
from tests.audit.receipts import committed, receipt
from tests.caching.servers import RedisServer
from tests.docs.pages import blocks_of
from tests.factories import INCIDENT, add_account
from tests.processes import ROOT, run_worker
from webapp.audit.relay.pipeline import COMMIT_TASK

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "operations" / "broker.md"
CACHE, BROKER = "sightline_cache", "sightline_broker"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis")
    (rules,) = [block.text for block in blocks_of(PAGE.read_text()) if block.kind == "acl"]
    for line in rules.splitlines():
        _, user, *rest = line.split()
        run(made.client, "ACL", "SETUSER", user, *rest)
    yield made
    made.stop()


def run(client: redis.Redis, *command: str) -> Any:
    return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py left it untyped


def url_of(server: RedisServer, user: str) -> str:
    password = user.replace("sightline_", "") + "-password"
    return f"redis://{user}:{password}@127.0.0.1:{server.port}/0"


def test_product_works_with_the_documented_users_and_is_denied_nothing(
    server: RedisServer, environment: dict[str, str], tmp_path: Path
) -> None:
    own = environment | {
        "REDIS_URL": url_of(server, CACHE),
        "CELERY_BROKER_URL": url_of(server, BROKER),
        "JOURNAL_DIR": str(tmp_path / "journal"),
    }
    with application(own) as app, run_worker(own, tmp_path / "worker.log"):
        who = add_account(app, "engineer")
        for _ in range(2):
            answer = app.test_client().get(
                "/admin/api/rules", headers=who.headers("global", INCIDENT)
            )
            assert answer.status_code == 200
            committed(app, *receipt(answer))
        check = app.test_cli_runner().invoke(args=["cache", "stats"])
        assert check.exit_code == 0, check.output
        assert app.test_cli_runner().invoke(args=["cache", "clear"]).exit_code == 0
        restored(app)
        ready = app.test_client().get("/readyz").get_json()
        assert (ready["checks"]["cache"]["ok"], ready["checks"]["broker"]["ok"]) == (True, True)
    denied = [
        (entry[b"username"].decode(), entry[b"object"].decode())
        for entry in map(as_dict, run(server.client, "ACL", "LOG"))
    ]
    assert denied == []


def as_dict(entry: object) -> dict[bytes, bytes]:
    if isinstance(entry, dict):
        return {(k if isinstance(k, bytes) else k.encode()): _bytes(v) for k, v in entry.items()}
    assert isinstance(entry, list)
    return dict(zip(entry[::2], map(_bytes, entry[1::2]), strict=True))


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def restored(app: Flask) -> None:
    """Take a message, put it back as after a worker's end, and have the worker commit it."""
    event = make_event()
    celery = app.extensions["celery"]
    celery.send_task(COMMIT_TASK, args=[seal(app, event)], queue="default-elsewhere")
    with celery.connection_for_read() as broker:
        channel = broker.default_channel
        message = channel.basic_get("default-elsewhere")
        message.reject(requeue=True)
        channel.qos.restore_visible(interval=1)
        again = channel.basic_get("default-elsewhere")
        assert again.headers["redelivered"] is True
        again.ack()


@pytest.mark.parametrize(
    ("user", "command"),
    [
        (BROKER, ("GET", "sightline:production:cache:era")),
        (BROKER, ("SET", "sightline:production:cache:era", "x")),
        (BROKER, ("FLUSHALL",)),
        (BROKER, ("CONFIG", "GET", "*")),
        (BROKER, ("KEYS", "*")),
        (CACHE, ("LPUSH", "audit", "garbage")),
        (CACHE, ("DEL", "audit")),
        (CACHE, ("FLUSHALL",)),
        (CACHE, ("CONFIG", "GET", "*")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_user_of_one_reaches_nothing_of_the_other(
    server: RedisServer, user: str, command: tuple[str, ...]
) -> None:
    with redis.Redis.from_url(url_of(server, user)) as client:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            run(client, *command)
