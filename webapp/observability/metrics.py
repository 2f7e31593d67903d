"""Metrics for Prometheus, of all processes together where `PROMETHEUS_MULTIPROC_DIR` is set.

Other modules define their counters beside what they count. All of them are exposed here.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final

from flask import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from webapp.observability.ended_processes import added_up

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

REQUESTS = Counter(
    "sightline_http_requests_total",
    "Requests answered, by method, route and status.",
    ("method", "route", "status"),
)
SECONDS = Histogram(
    "sightline_http_request_seconds",
    "Seconds until the answer began, by route.",
    ("route",),
    buckets=BUCKETS,
)


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request. Clients choose the method, so only known methods get their own label."""
    requests, durations = _of(method if method in METHODS else "other", route, status)
    requests.inc()
    durations.observe(seconds)


@lru_cache(1024)
def _of(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, str(status)), SECONDS.labels(route)


def expose(*further: Collector) -> Response:
    """Answer with the metrics of this host, and with those of `further` collectors."""
    shown = b"".join((read(), *map(generate_latest, further)))
    return Response(shown, content_type=CONTENT_TYPE_LATEST)


def read() -> bytes:
    """Read the metrics of all processes that share this one's directory, ended ones included."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    with counted(Path(directory) if directory else None) as registry:
        return generate_latest(registry)


@contextmanager
def counted(directory: Path | None) -> Iterator[CollectorRegistry]:
    """What all processes of a directory have counted, or without one this process alone."""
    if directory is None:
        yield REGISTRY
        return
    registry = CollectorRegistry()
    with added_up(directory):
        MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]  # it ships none for this
        yield registry
