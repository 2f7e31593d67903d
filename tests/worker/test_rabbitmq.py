"""RabbitMQ as the broker, with quorum queues and the definitions that operators import."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import amqp
import pytest
from celery.result import AsyncResult
from flask import Flask
from kombu.exceptions import OperationalError

from tests.applications import application
from tests.audit.events import make_event
from tests.audit.ledgers import seal
from tests.audit.receipts import committed, wait_for
from tests.processes import command_of, run_worker, started
from tests.rabbit import VHOST, RabbitServer, require_rabbitmq
from webapp.audit.relay.pipeline import COMMIT_TASK
from webapp.stack.home import environment_of
from webapp.stack.servers import free_port

pytestmark = pytest.mark.slow(seconds=15)

DELIVERIES = 20
"""After how many that came back a message is set aside: `delivery-limit` in the definitions."""


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    require_rabbitmq()
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    server.start()
    try:
        server.set_up()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def quorum(
    rabbit: RabbitServer, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The environment of a product whose broker is RabbitMQ."""
    journals = tmp_path_factory.mktemp("journals")
    return {
        **environment,
        "CELERY_BROKER_URL": rabbit.url,
        "BROKER_QUEUES": "quorum",
        "JOURNAL_DIR": str(journals),
    }


@pytest.fixture(scope="module")
def quorum_app(quorum: dict[str, str]) -> Iterator[Flask]:
    with application(quorum) as app:
        yield app


@pytest.fixture(scope="module")
def audit_worker(
    quorum_app: Flask, quorum: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A worker that takes audit events and leaves beat's tasks in their queue; yields its log."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    with run_worker(quorum, log, "--queues", "audit"):
        yield log


def send_until_taken(app: Flask) -> None:
    """Send an event as the relay does, again after each failure, and wait for the ledger."""
    event = make_event()

    def is_taken() -> bool:
        try:
            app.extensions["celery"].send_task(COMMIT_TASK, args=[seal(app, event)])
        except OperationalError:
            return False
        return True

    wait_for(is_taken)
    committed(app, event.id)


def test_worker_commits_events_from_quorum_queues_and_declares_no_others(
    rabbit: RabbitServer, quorum_app: Flask, audit_worker: Path
) -> None:
    send_until_taken(quorum_app)
    listed = rabbit.control("list_queues", "-p", VHOST, "name", "type").splitlines()[1:]
    kinds = dict(line.split("\t") for line in listed)
    assert kinds.keys() <= {"audit", "default", "sightline.dead"}
    assert kinds["audit"] == "quorum"
    said = audit_worker.read_text()
    assert "Global QoS is disabled" in said
    assert "[critical" not in said
    assert "[error" not in said


def test_beat_and_worker_go_on_after_rabbitmq_was_restarted(
    rabbit: RabbitServer,
    quorum: dict[str, str],
    quorum_app: Flask,
    audit_worker: Path,
    tmp_path: Path,
) -> None:
    often = [part.replace("wsgi.", "tests.worker.frequent.") for part in command_of("beat")]
    with started(often, environment_of("worker", quorum), tmp_path / "beat.log"):
        wait_for(lambda: rabbit.waiting("default") > 0)
        rabbit.restart()
        before = rabbit.waiting("default")
        wait_for(lambda: rabbit.waiting("default") > before)
        send_until_taken(quorum_app)


def test_send_to_rabbitmq_that_does_not_answer_fails_and_the_next_one_succeeds(
    rabbit: RabbitServer, quorum_app: Flask, audit_worker: Path
) -> None:
    send_until_taken(quorum_app)  # over the connection that is open when it falls silent
    rabbit.pause()
    try:
        for _ in range(2):  # the second connects anew
            with pytest.raises(OperationalError):
                quorum_app.extensions["celery"].send_task(COMMIT_TASK, args=[[]])
    finally:
        rabbit.resume()
    send_until_taken(quorum_app)


def test_send_goes_to_the_next_node_where_one_is_gone(
    rabbit: RabbitServer, quorum: dict[str, str], audit_worker: Path, tmp_path: Path
) -> None:
    gone = rabbit.url.replace(f":{rabbit.port}/", f":{free_port()}/")
    nodes = {"CELERY_BROKER_URL": f"{gone};{rabbit.url}", "JOURNAL_DIR": str(tmp_path)}
    with application({**quorum, **nodes}) as app:
        send_until_taken(app)
        assert app.test_client().get("/readyz").get_json()["checks"]["broker"]["ok"]


def test_message_that_comes_back_too_often_is_kept_among_dead_letters(
    rabbit: RabbitServer, quorum_app: Flask
) -> None:
    """Workers have the log sealed over the same queue: tasks of theirs may wait there too."""
    quorum_app.extensions["celery"].send_task("grants.expire")
    with closing(rabbit.connect()) as connection:
        channel = connection.channel()
        channel.queue_purge("default")
        sent = quorum_app.extensions["celery"].send_task("grants.expire")
        for _ in range(DELIVERIES + 1):
            (message,) = [each for each in taken_from(channel, "default") if is_of(sent, each)]
            channel.basic_reject(message.delivery_tag or 0, requeue=True)
    wait_for(lambda: rabbit.waiting("sightline.dead") == 1)
    with closing(rabbit.connect()) as connection:
        waiting = taken_from(connection.channel(), "default")
        assert not any(is_of(sent, each) for each in waiting)


def taken_from(channel: amqp.Channel, queue: str) -> Iterator[amqp.Message]:
    """All messages that wait in a queue. Those that are not rejected wait again once it closes."""
    return iter(partial(channel.basic_get, queue), None)


def is_of(sent: AsyncResult[Any], message: amqp.Message) -> bool:
    return (message.headers or {}).get("id") == sent.id


def test_readiness_says_where_queues_are_of_another_kind(
    quorum: dict[str, str], quorum_app: Flask, audit_worker: Path, tmp_path: Path
) -> None:
    send_until_taken(quorum_app)
    other = {**quorum, "BROKER_QUEUES": "classic", "JOURNAL_DIR": str(tmp_path)}
    for environment, ok in [(quorum, True), (other, False)]:
        with application(environment) as app:
            broker = app.test_client().get("/readyz").get_json()["checks"]["broker"]
        assert broker["ok"] is ok
        assert ("BROKER_QUEUES" in broker["detail"]) is not ok
