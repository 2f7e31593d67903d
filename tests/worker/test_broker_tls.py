"""The broker's certificate is verified: a server that bears another's name gets no task."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from ssl import SSLCertVerificationError, SSLContext
from urllib.parse import urlsplit

import pytest
from celery import Celery
from flask import Flask
from kombu.exceptions import OperationalError

from tests.applications import application_of
from tests.audit.receipts import wait_for
from tests.worker.encrypted import make_certificate, tls_front
from webapp.settings import Settings

ELSEWHERE = "over-tls"
"""A queue that no worker takes from."""

KINDS = {
    "trusted": "DNS:localhost,IP:127.0.0.1",
    "of another name": "DNS:elsewhere.example",
    "foreign": "DNS:localhost,IP:127.0.0.1",
}
REFUSED = [kind for kind in KINDS if kind != "trusted"]


@dataclass(frozen=True)
class Certificates:
    directory: Path
    contexts: Mapping[str, SSLContext]
    """Of servers, by the kinds of their certificates."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certificates]:
    """Certificates of all kinds. This process trusts all but the foreign one."""
    directory = tmp_path_factory.mktemp("certificates")
    contexts = {kind: make_certificate(directory, kind, names) for kind, names in KINDS.items()}
    known = [(directory / f"{kind}.crt").read_text() for kind in KINDS if kind != "foreign"]
    (directory / "authorities.crt").write_text("".join(known))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(directory / "authorities.crt"))
        yield Certificates(directory, contexts)


@contextmanager
def redis_over_tls(app: Flask, context: SSLContext, query: str = "") -> Iterator[Celery]:
    """Celery of an application whose broker is the run's Redis, behind TLS."""
    settings = app.extensions["settings"]
    plain = urlsplit(settings.redis_url)
    with tls_front(context, plain.port) as front:
        url = f"rediss://:{plain.password}@localhost:{front.port}{plain.path}{query}"
        with application_of(replace(settings, celery_broker_url=url)) as own:
            yield own.extensions["celery"]


def deliver(celery: Celery) -> None:
    """Send a task, and take it from its queue again."""
    celery.send_task("over.tls", queue=ELSEWHERE)
    with celery.connection_for_read() as broker, broker.SimpleQueue(ELSEWHERE) as queue:
        queue.get(timeout=30).ack()


def causes_of(error: BaseException | None) -> Iterator[type[BaseException]]:
    while error is not None:
        yield type(error)
        error = error.__cause__ or error.__context__


def test_redis_with_a_trusted_certificate_is_used(app: Flask, certificates: Certificates) -> None:
    with redis_over_tls(app, certificates.contexts["trusted"]) as celery:
        deliver(celery)


def test_redis_with_the_certificate_that_the_url_names_is_used(
    app: Flask, certificates: Certificates
) -> None:
    own = f"?ssl_ca_certs={certificates.directory}/foreign.crt"
    with redis_over_tls(app, certificates.contexts["foreign"], own) as celery:
        deliver(celery)


@pytest.mark.parametrize("kind", REFUSED)
def test_redis_with_a_certificate_that_is_not_its_own_gets_no_task(
    app: Flask, certificates: Certificates, kind: str
) -> None:
    with redis_over_tls(app, certificates.contexts[kind]) as celery:
        with pytest.raises(OperationalError) as refused:
            celery.send_task("over.tls", queue=ELSEWHERE)
        assert SSLCertVerificationError in causes_of(refused.value)


def amqp_over_tls(app: Flask, port: int) -> Settings:
    url = f"amqps://broker:broker-password@localhost:{port}//"
    settings: Settings = app.extensions["settings"]
    return replace(settings, celery_broker_url=url)


def test_rabbitmq_with_a_trusted_certificate_is_spoken_to(
    app: Flask, certificates: Certificates
) -> None:
    with (
        tls_front(certificates.contexts["trusted"]) as front,
        application_of(amqp_over_tls(app, front.port)) as own,
        own.extensions["celery"].connection_for_write() as broker,
        pytest.raises(OSError),  # noqa: PT011 - it is of no concern how: nobody answers there
    ):
        broker.connect()
    wait_for(lambda: front.first_words[:1] == [b"AMQP"])


@pytest.mark.parametrize("kind", REFUSED)
def test_rabbitmq_with_a_certificate_that_is_not_its_own_is_not_spoken_to(
    app: Flask, certificates: Certificates, kind: str
) -> None:
    with (
        tls_front(certificates.contexts[kind]) as front,
        application_of(amqp_over_tls(app, front.port)) as own,
        own.extensions["celery"].connection_for_write() as broker,
        pytest.raises(SSLCertVerificationError),
    ):
        broker.connect()
    assert front.first_words == []
