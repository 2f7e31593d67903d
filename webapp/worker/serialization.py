"""The serializer of tasks: compressed JSON under a MAC, which is verified before anything is read.

Whoever can write to the broker can put any bytes there. So a task's body is one sequence of bytes:
a MAC, and what it covers. Nothing is unpacked or parsed before the MAC holds, and then within
bounds.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, cast

import orjson
from kombu.serialization import register

from webapp.http.json_bounds import is_too_deep
from webapp.key_ring import KeyRing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAC_BYTES = 32

MAX_UNPACKED = 8 * 2**20
"""Bytes of a task's JSON. The relay keeps its batches far below."""

MAX_PACKED = MAX_UNPACKED // 2
"""Bytes of a task's body as it travels."""


class NotSealed(ValueError):
    """A body that no process of Sightline has sealed, or that exceeds the bounds."""


def register_serializers(keys: KeyRing) -> list[str]:
    """Register a serializer for each key that is derived from `keys`; returns their names.

    The first one's key signs. A content type names the key, so that applications with different
    keys in one process do not take each other's tasks for forged ones.
    """
    return [_register_serializer(key) for key in keys.derive("task")]


def _register_serializer(key: bytes) -> str:
    name = f"sealed-{blake2b(key, digest_size=8, person=b'task-key-id').hexdigest()}"
    # kombu declares texts, and accepts bytes where the encoding is binary.
    encode = cast(Callable[[Any], str], partial(seal, key))
    decode = cast(Callable[[str], Any], partial(unseal, key))
    register(name, encode, decode, content_type=f"application/x-{name}", content_encoding="binary")
    return name


def seal(key: bytes, value: object) -> bytes:
    """Return a value's body; raises `NotSealed` where it exceeds the bounds."""
    _check_depth(value)
    data = _dump(value)
    if len(data) > MAX_UNPACKED:
        raise NotSealed("the task is too large")
    packed = zstd.compress(data)
    if len(packed) > MAX_PACKED:
        raise NotSealed("the task is too large")
    return _mac(key, packed) + packed


def unseal(key: bytes, body: object) -> Any:
    """Return the value of a body; raises `NotSealed` unless this key has sealed it."""
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise NotSealed("the body is no bytes")
    if len(body) > MAC_BYTES + MAX_PACKED:
        raise NotSealed("the body is too large")
    sealed = bytes(body)
    mac, packed = sealed[:MAC_BYTES], sealed[MAC_BYTES:]
    if not compare_digest(mac, _mac(key, packed)):
        raise NotSealed("the MAC does not match")
    value = _load(_unpack(packed))
    _check_depth(value)
    return value


def _mac(key: bytes, packed: bytes) -> bytes:
    return blake2b(packed, key=key, digest_size=MAC_BYTES).digest()


def _unpack(packed: bytes) -> bytes:
    """Decompress within MAX_UNPACKED: some kilobytes may stand for gigabytes."""
    unpacker = zstd.ZstdDecompressor()
    try:
        data: bytes = unpacker.decompress(packed, max_length=MAX_UNPACKED + 1)
    except zstd.ZstdError as error:
        raise NotSealed("the body cannot be unpacked") from error
    if len(data) > MAX_UNPACKED or not unpacker.eof:
        raise NotSealed("the body is too large")
    return data


def _dump(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return json.dumps(value).encode()


def _load(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:  # as above
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotSealed("the body is not JSON") from error


def _check_depth(value: object) -> None:
    """Raise `NotSealed` for a value that functions which call themselves could not walk."""
    if is_too_deep(value):
        raise NotSealed("the task is nested too deeply")
