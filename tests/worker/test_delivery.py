"""Tasks arrive as they were sent, compressed on their way."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.compression import compress
from kombu.exceptions import DecodeError
from kombu.serialization import dumps, loads

from tests.audit.events import make_event
from webapp.audit.event import dump_event, event_mac
from webapp.worker.serialization import SERIALIZER

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


def received(body: Any) -> Any:
    content_type, encoding, data = dumps(body, SERIALIZER)
    return loads(data, content_type, encoding, accept={content_type})


@given(JSON)
def test_task_arrives_with_the_arguments_that_were_sent(body: Any) -> None:
    assert received(body) == body


@given(st.binary(max_size=40))
def test_bytes_that_are_not_json_raise_decode_error(data: bytes) -> None:
    content_type, encoding, _ = dumps(None, SERIALIZER)
    try:
        loads(data, content_type, encoding, accept={content_type})
    except DecodeError:
        return
    except UnicodeDecodeError:  # kombu decodes the text before the serializer reads it
        return


def test_message_in_another_serialization_is_not_read() -> None:
    content_type, encoding, data = dumps(["x"], "json")
    with pytest.raises(Exception, match="Refusing to deserialize"):
        loads(data, content_type, encoding, accept={"application/x-orjson"})


def test_batch_of_events_is_compressed_to_a_fraction() -> None:
    sealed = []
    for _ in range(100):
        data = dump_event(make_event())
        sealed.append((data.decode(), event_mac(data, b"key")))
    _, _, body = dumps([[sealed], {}, {}], SERIALIZER)
    assert len(compress(body, "zstd")[0]) < len(body) / 3
