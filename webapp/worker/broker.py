"""How Celery reaches the broker: its address, its timeouts, and the kind of its queues.

Nothing here waits for ever. kombu has no timeout by default: a send to a broker that is gone
without a word would hold its thread for good. What a send did not bring is sent again by the
journals, or by beat.
"""

import ssl
from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import urlsplit

from kombu import Queue

from webapp.redis_servers import is_sentinel, parse_sentinel
from webapp.settings import BrokerQueues, Settings

VISIBILITY_TIMEOUT = 60
"""Seconds after which Redis's transport delivers a task again that nobody has acknowledged."""

HEARTBEAT = 20
"""Seconds without a sign of RabbitMQ's after which a worker connects anew, or twice as many."""

QUEUE_ARGUMENTS: dict[BrokerQueues, dict[str, str]] = {
    "classic": {},
    "quorum": {"x-queue-type": "quorum"},
}
"""What queues are declared with. RabbitMQ refuses a queue that exists with other arguments. All
else that can be said of a queue a policy says, which an operator can change."""


def configuration(settings: Settings, queues: Iterable[Queue]) -> dict[str, Any]:
    """Return the part of Celery's configuration that the broker decides."""
    url = _url_for_kombu(settings.celery_broker_url)
    return {
        # Not `broker_url`: Celery prefers the environment's CELERY_BROKER_URL to that, as it is.
        "broker_read_url": url,
        "broker_write_url": url,
        "broker_use_ssl": _tls(settings.celery_broker_url),
        "broker_connection_timeout": settings.audit_timeout,
        "broker_heartbeat": HEARTBEAT,
        "broker_transport_options": _transport_options(settings),
        "task_queues": [_declared_as(settings.broker_queues, queue) for queue in queues],
    }


def _transport_options(settings: Settings) -> dict[str, Any]:
    if is_rabbitmq(settings.celery_broker_url):
        return {
            # A send returns once RabbitMQ has the task, and not once the kernel has.
            "confirm_publish": True,
            "read_timeout": settings.audit_timeout,
            "write_timeout": settings.audit_timeout,
        }
    return {
        "socket_timeout": settings.audit_timeout,
        "socket_connect_timeout": settings.audit_timeout,
        "retry_on_timeout": False,
        "max_retries": 0,
        "visibility_timeout": VISIBILITY_TIMEOUT,
        **_sentinel_options(settings.celery_broker_url, settings.audit_timeout),
    }


def _sentinel_options(url: str, timeout: float) -> dict[str, Any]:
    if not is_sentinel(url):
        return {}
    found = parse_sentinel(url)
    return {
        "master_name": found.master_name,
        "sentinel_kwargs": found.sentinel_options(timeout),
    }


def _url_for_kombu(url: str) -> str:
    return parse_sentinel(url).kombu_url if is_sentinel(url) else url


def _tls(url: str) -> dict[str, Any] | Literal[False]:
    """Have Redis's certificate verified, which kombu would not; options in the URL come first.

    RabbitMQ's is verified by `webapp.worker.amqp_transport`.
    """
    if is_sentinel(url):
        return parse_sentinel(url).tls or False
    if urlsplit(url).scheme != "rediss":
        return False
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


def is_rabbitmq(url: str) -> bool:
    return urlsplit(url).scheme in ("amqp", "amqps")


def _declared_as(kind: BrokerQueues, queue: Queue) -> Queue:
    return Queue(
        queue.name,
        queue.exchange,
        routing_key=queue.routing_key,
        queue_arguments=QUEUE_ARGUMENTS[kind],
    )
