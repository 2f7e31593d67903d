"""What is signed at one step of a rotation is accepted by processes at the steps beside it."""

from dataclasses import replace

import pytest
from flask import Flask
from kombu.exceptions import ContentDisallowed
from kombu.serialization import dumps, loads, prepare_accept_content

from tests.applications import application_of
from tests.key_rotation.steps import BESIDE, NAMES, STEPS, UNKNOWN, ring
from webapp.http.errors import Invalid
from webapp.http.pagination import decode_cursor, encode_cursor
from webapp.key_ring import KeyRing
from webapp.settings import Settings
from webapp.worker.serialization import register_serializers

STRANGER = KeyRing(UNKNOWN.encode())


def app_with(app: Flask, signing: str, accepted: str | None) -> Flask:
    """An application that has nothing but settings."""
    settings: Settings = app.extensions["settings"]
    made = Flask("keys")
    made.extensions["settings"] = replace(
        settings, secret_key=signing, secret_key_accepted=accepted
    )
    return made


@pytest.mark.parametrize(("signs", "verifies"), BESIDE)
def test_cursor_of_one_step_is_accepted_at_the_step_beside_it(
    app: Flask, signs: str, verifies: str
) -> None:
    with app_with(app, *STEPS[signs]).app_context():
        cursor = encode_cursor(["a", "b"], "list")
    with app_with(app, *STEPS[verifies]).app_context():
        assert decode_cursor(cursor, "list") == ("a", "b")
        with pytest.raises(Invalid):
            decode_cursor(cursor, "another list")


@pytest.mark.parametrize("verifies", NAMES)
def test_cursor_under_an_unknown_key_is_refused_at_each_step(app: Flask, verifies: str) -> None:
    with app_with(app, UNKNOWN, None).app_context():
        cursor = encode_cursor(["a", "b"], "list")
    with app_with(app, *STEPS[verifies]).app_context(), pytest.raises(Invalid):
        decode_cursor(cursor, "list")


@pytest.mark.parametrize(("signs", "verifies"), BESIDE)
def test_task_of_one_step_is_accepted_at_the_step_beside_it(signs: str, verifies: str) -> None:
    assert passed(ring(signs), ring(verifies)) == ["x"]


@pytest.mark.parametrize("verifies", NAMES)
def test_task_under_an_unknown_key_is_refused_at_each_step(verifies: str) -> None:
    with pytest.raises(ContentDisallowed):
        passed(STRANGER, ring(verifies))


def passed(sender: KeyRing, receiver: KeyRing) -> object:
    """Pass a task on, as Celery does with `task_serializer` and `accept_content`."""
    content_type, encoding, body = dumps(["x"], register_serializers(sender)[0])
    accepted = prepare_accept_content(register_serializers(receiver))
    return loads(body, content_type, encoding, accept=accepted)


def test_key_that_is_only_accepted_signs_nothing() -> None:
    both = ring("accepts the new one")
    assert both.mac(b"x") == ring("before").mac(b"x")
    assert both.derive("use").mac(b"x") == ring("before").derive("use").mac(b"x")


def test_keys_for_one_purpose_do_not_serve_another() -> None:
    keys = ring("before")
    assert not keys.derive("one").has_made(keys.derive("other").mac(b"x"), b"x")


def test_key_ring_shows_no_key() -> None:
    both = ring("accepts the new one")
    shown = f"{both!r} {both.fingerprints()}"
    assert not any(key.decode() in shown or key.hex() in shown for key in both)
    assert len(set(both.fingerprints())) == 2


def test_celery_accepts_tasks_under_both_keys_and_signs_with_the_first(app: Flask) -> None:
    settings = replace(app.extensions["settings"], secret_key_accepted="n" * 40)
    with application_of(settings) as made:
        conf = made.extensions["celery"].conf
        names = register_serializers(settings.secret_keys)
        assert (conf.task_serializer, conf.accept_content) == (names[0], names)
