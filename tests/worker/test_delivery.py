"""Tasks arrive as they were sent; what no process of Sightline has sealed is not looked into."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import DecodeError, EncodeError
from kombu.message import Message
from kombu.serialization import dumps, loads

from tests.audit.events import make_event
from tests.worker.bombs import bomb, compress
from webapp.audit.event import dump_event
from webapp.audit.signature import sign_event
from webapp.http.json_bounds import MAX_DEPTH
from webapp.key_ring import KeyRing
from webapp.signing_key import SigningKey
from webapp.worker import serialization
from webapp.worker.messages import headers_of
from webapp.worker.serialization import (
    MAC_BYTES,
    MAX_PACKED,
    MAX_UNPACKED,
    NotSealed,
    register_serializers,
    seal,
    unseal,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # lone surrogates too
    | st.text(st.characters(exclude_categories=()), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)

KEY = b"k" * 64
(SERIALIZER,) = register_serializers(KeyRing(b"a secret"))
(OTHER,) = register_serializers(KeyRing(b"another secret"))
TASK_ID = "01a2280d-f196-70dd-acac-91eafcccd765"


def received(body: Any) -> Any:
    content_type, encoding, data = dumps(body, SERIALIZER)
    return loads(data, content_type, encoding, accept={content_type})


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def peak(do: Callable[[], object]) -> int:
    """Return the most bytes that Python holds at a time while `do` runs, which must raise."""
    tracemalloc.start()
    try:
        with pytest.raises(NotSealed):
            do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(JSON)
def test_task_arrives_with_the_arguments_that_were_sent(body: Any) -> None:
    assert received(body) == body


@given(st.binary(max_size=80))
def test_bytes_that_nobody_sealed_raise_decode_error(data: bytes) -> None:
    content_type, encoding, _ = dumps(None, SERIALIZER)
    if data:
        with pytest.raises(DecodeError):
            loads(data, content_type, encoding, accept={content_type})


@pytest.mark.parametrize("changed", [0, MAC_BYTES, -1])
def test_body_with_one_changed_byte_is_refused(changed: int) -> None:
    body = bytearray(seal(KEY, ["x"]))
    body[changed] ^= 1
    with pytest.raises(NotSealed, match="MAC"):
        unseal(KEY, bytes(body))


def test_body_under_another_key_is_refused() -> None:
    with pytest.raises(NotSealed, match="MAC"):
        unseal(KEY, seal(b"l" * 64, ["x"]))


@pytest.mark.parametrize("serializer", ["json", OTHER])
def test_message_in_another_serialization_is_not_read(serializer: str) -> None:
    ours, _, _ = dumps(None, SERIALIZER)
    content_type, encoding, data = dumps(["x"], serializer)
    with pytest.raises(Exception, match="Refusing to deserialize"):
        loads(data, content_type, encoding, accept={ours})


def test_sealed_body_that_unpacks_to_gigabytes_is_refused_within_bounds() -> None:
    packed = bomb(2**28)
    body = serialization._mac(KEY, packed) + packed
    assert len(body) < 2**16
    assert peak(lambda: unseal(KEY, body)) < 3 * MAX_UNPACKED


def test_body_beyond_its_bound_is_refused_before_its_mac_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(serialization, "_mac")
    with pytest.raises(NotSealed, match="too large"):
        unseal(KEY, bytes(MAX_PACKED + MAC_BYTES + 1))


def test_text_in_a_bodys_place_is_refused() -> None:
    with pytest.raises(NotSealed):
        unseal(KEY, "text")


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 600, 5000])
def test_deeply_nested_task_is_refused_when_sent_and_when_received(depth: int) -> None:
    with pytest.raises(EncodeError):
        dumps([[nested(depth)], {}, {}], SERIALIZER)
    packed = compress(b"[" * depth + b"]" * depth)
    with pytest.raises(NotSealed):
        unseal(KEY, serialization._mac(KEY, packed) + packed)


def test_task_of_the_greatest_depth_arrives() -> None:
    assert received(nested(MAX_DEPTH)) == nested(MAX_DEPTH)


def test_batch_of_events_is_compressed_to_a_fraction() -> None:
    sealed = []
    for _ in range(100):
        data = dump_event(make_event())
        sealed.append((data.decode(), sign_event(SigningKey("k" * 43), data)))
    _, _, body = dumps([[sealed], {}, {}], SERIALIZER)
    assert len(body) < sum(len(text) + len(signature) for text, signature in sealed) / 3


@pytest.mark.parametrize("kind", ["zstd", "gzip", "bzip2", "lzma"])
def test_kombu_decompresses_nothing(app: Flask, kind: str) -> None:
    assert app
    message = Message(body=bomb(2**24), headers={"compression": kind})  # type: ignore[arg-type]  # the stub knows texts only
    assert [error.__class__ for _, error, _ in message.errors or ()] == [NotSealed]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        None,
        [],
        [[], {}],
        [[], {}, {}, {}],
        [{}, {}, {"task": "t", "id": TASK_ID}],
        [[], [], {"task": "t", "id": TASK_ID}],
        [[], {}, None],
        [[], {}, {"task": "t"}],
        [[], {}, {"task": 1, "id": TASK_ID}],
        [[], {}, {"task": "t", "id": "chosen"}],
        [[], {}, {"task": "t", "id": 7}],
    ],
    ids=str,
)
def test_body_that_is_no_task_has_no_headers(body: Any) -> None:
    with pytest.raises(NotSealed):
        headers_of(body)


def test_headers_of_a_task_are_those_in_its_body() -> None:
    headers = {"task": "t", "id": TASK_ID, "eta": None}
    assert headers_of([[1], {"a": 2}, headers]) == headers
