"""The envelope, which is the form in which a cached value is stored.

    magic | version | codec | fingerprint | created | soft | hard | length of tags
    | MAC | tags | payload

The MAC is keyed. It covers everything else, *and the name that the envelope is stored under*. Bytes
that were changed, made without the key, or copied to another tenant's name are refused before any
part of them is interpreted.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Literal

import orjson

from webapp.key_ring import KeyRing

MAGIC = b"SLCV"
VERSION = 1
MAC_BYTES = 16
COMPRESS_ABOVE = 4096
COMPRESSED_AT_MOST = 0.8
"""Compression is kept only where it saves a fifth, since each process has to decompress it."""

_PREFIX = Struct(">4sB")
_HEADER = Struct(">4sBB16sQQQI")
_RAW, _ZLIB = 0, 1

Defect = Literal["corrupt", "forged", "version"]


class Rejected(Exception):
    """The bytes are not a valid envelope; `defect` says why."""

    def __init__(self, defect: Defect) -> None:
        super().__init__(defect)
        self.defect: Defect = defect


@dataclass(frozen=True)
class Envelope:
    fingerprint: bytes
    """The fingerprint, 16 bytes, of the schema that dumped the payload."""
    created: int
    """The time of the fill; this and the next two are in milliseconds since the Unix epoch."""
    soft: int
    """The time from which one caller should refresh the value."""
    hard: int
    """The time from which the value must not be used."""
    generations: Mapping[str, int]
    """The generations of the value's tags, read before the value was computed."""
    payload: bytes


def seal(envelope: Envelope, keys: KeyRing, name: str) -> bytes:
    """Pack `envelope` for storage under `name`."""
    codec, payload = _pack(envelope.payload)
    tags = orjson.dumps(envelope.generations, option=orjson.OPT_SORT_KEYS)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        codec,
        envelope.fingerprint,
        envelope.created,
        envelope.soft,
        envelope.hard,
        len(tags),
    )
    body = tags + payload
    return header + keys.mac(*_bound(name), header, body) + body


def unseal(stored: bytes, keys: KeyRing, name: str) -> Envelope:
    """Unpack what was stored under `name`; raises `Rejected`."""
    if len(stored) < _PREFIX.size or not stored.startswith(MAGIC):
        raise Rejected("corrupt")
    if stored[_PREFIX.size - 1] != VERSION:
        raise Rejected("version")
    if len(stored) < _HEADER.size + MAC_BYTES:
        raise Rejected("corrupt")
    header, body = stored[: _HEADER.size], stored[_HEADER.size + MAC_BYTES :]
    mac = stored[_HEADER.size : _HEADER.size + MAC_BYTES]
    if not keys.has_made(mac, *_bound(name), header, body):
        raise Rejected("forged")
    _, _, codec, fingerprint, created, soft, hard, length = _HEADER.unpack(header)
    return Envelope(
        fingerprint,
        created,
        soft,
        hard,
        orjson.loads(body[:length]),
        zlib.decompress(body[length:]) if codec == _ZLIB else body[length:],
    )


def _pack(payload: bytes) -> tuple[int, bytes]:
    if len(payload) > COMPRESS_ABOVE:
        packed = zlib.compress(payload, 1)
        if len(packed) <= len(payload) * COMPRESSED_AT_MOST:
            return _ZLIB, packed
    return _RAW, payload


def _bound(name: str) -> tuple[bytes, bytes]:
    bound = name.encode()
    return len(bound).to_bytes(4), bound
